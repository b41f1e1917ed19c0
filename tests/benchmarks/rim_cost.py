"""What rims cost: a step of training, and one patient's lesions. Nothing here depends on what the weights are."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from msrim.bids import find_qsm, find_subject
from msrim.console import Console
from msrim.image import Volume, write_volume
from msrim.models import build, write_weights
from msrim.models.rims import INPUTS, network_inputs
from msrim.recipe import Recipe, TrainingRecipe
from msrim.training.rims import MARGIN, augment, draw_batch, rim_loss
from msrim.workflows.anatomy import Anatomy, AnatomyFiles, Working
from msrim.workflows.rims import RimInputs, classify_rims
from msrim.workflows.train_rims import write_rim_card

SHAPE, SPACING_MM = (240, 280, 50), (0.75, 0.75, 3.0)
LESIONS = (4, 5, 2)
RADIUS_MM = (2.0, 7.0)


def training_step(recipe: TrainingRecipe, *, steps: int = 3) -> tuple[int, float]:
    """Parameters of the network, and the processor's seconds for a step on one core, whatever else runs."""
    torch.set_num_threads(1)
    kind, network = INPUTS[recipe.network], build(recipe.network, **recipe.settings).train()
    network.to(memory_format=torch.channels_last_3d)
    optimiser = torch.optim.Adam(network.parameters(), recipe.learning_rate)
    whole = [n + 2 * m for n, m in zip(kind.patch or (-8, -8, -2), MARGIN, strict=True)]
    images, features = torch.randn(200, 3, *whole), torch.randn(200, 527)
    seconds = []
    for number in range(steps):
        rng = np.random.default_rng(number)
        began = time.process_time()
        index, labels = draw_batch(np.arange(200) % 10 == 0, recipe.batch_size, rng=rng)
        rows = network_inputs(kind, augment(images[index], kind.patch, rng=rng), features[index])
        rows += [labels] if getattr(network, "smote", False) else []
        loss = rim_loss(network(*rows), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seconds.append(time.process_time() - began)
    return sum(p.numel() for p in network.parameters()), min(seconds)


def classification(recipe: TrainingRecipe, *, threads: int = 2) -> dict[str, float]:
    """Seconds for 40 lesions from prepared images to table and page, of the slowest steps, and of the processor.

    The weights are fresh ones. FLAIR and QSM share a grid, so that nothing is registered.
    """
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepared = write_patient(root)
        weights = write_weights(build(recipe.network, **recipe.settings), root / "model" / "weights.safetensors")
        write_rim_card(recipe, weights, built=recipe.settings, trained_on="nothing", thresholds=[0.5, 0.1])
        with mock.patch("msrim.workflows.rims.preprocess_visit", lambda *_, **__: prepared):
            began, worked = time.perf_counter(), time.process_time()
            classify_rims(
                find_subject(root / "sub-1"), RimInputs(find_qsm(root / "sub-1"), lesions=root / "lesions.nii.gz"),
                Recipe(), root / "out", console=Console(quiet=True), model=str(root / "model"),
            )  # fmt: skip
            seconds = {"all": time.perf_counter() - began, "processor": time.process_time() - worked}
        run = json.loads((root / "out" / "sub-1" / "rims" / "run.json").read_text(encoding="utf-8"))
    return seconds | {step["name"]: step["seconds"] for step in run["steps"]}


def write_patient(root: Path) -> Anatomy:
    """QSM and FLAIR of noise in a brain's outline, 40 bright balls for lesions; what `msrim preprocess` gives."""
    rng = np.random.default_rng(0)
    axes = [np.linspace(-1, 1, n) for n in SHAPE]
    place = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    brain = (place**2).sum(-1) < 0.9
    affine = np.diag([*SPACING_MM, 1.0])
    lesions = np.zeros(SHAPE, np.uint8)
    reach_mm = np.array(SHAPE) * SPACING_MM / 2
    centres = np.stack(np.meshgrid(*(np.linspace(-0.5, 0.5, n) for n in LESIONS), indexing="ij"), axis=-1)
    for number, centre in enumerate(centres.reshape(-1, 3), start=1):
        lesions[np.linalg.norm((place - centre) * reach_mm, axis=-1) < rng.uniform(*RADIUS_MM)] = number
    anat = root / "sub-1" / "anat"
    for name, middle, spread in (("Chimap", 0.0, 0.02), ("FLAIR", 300.0, 40.0)):
        image = np.where(brain, rng.normal(middle, spread, SHAPE) + 4 * spread * (lesions > 0), 0).astype(np.float32)
        write_volume(Volume(image, affine), anat / f"sub-1_{name}.nii.gz")
    write_volume(Volume(lesions, affine), root / "lesions.nii.gz")
    mask = write_volume(Volume(brain, affine), root / "brain.nii")
    labels = write_volume(Volume(5 * brain.astype(np.uint8), affine), root / "labels.nii.gz")
    flair = anat / "sub-1_FLAIR.nii.gz"
    files = AnatomyFiles(mask, labels, Path(), labels, {})
    return Anatomy({"FLAIR": flair}, mask, {}, Path(), Working({}, mask, labels, labels), files)
