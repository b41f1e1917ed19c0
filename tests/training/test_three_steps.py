"""Every recipe that comes with msrim trains: three steps, found by its name, on made data of its shape.

Networks, optimisers, losses and contrasts are the recipe's; crops and batches are small.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from made import write_lits_scan, write_rim_subject

from msrim.console import Console
from msrim.models import build, load_model, read_card
from msrim.models.rims import INPUTS
from msrim.recipe import TrainingRecipe, packaged_recipes, read_training_recipe
from msrim.training.coactseg_loss import coactseg_loss
from msrim.training.lesions import LesionCrops, Patient
from msrim.training.losses import all_net_loss, slice_loss
from msrim.training.pairs import MarkedPair, PairProtocol, VisitCrops
from msrim.training.slices import LesionSlices
from msrim.workflows.train import Samples, train, train_on

QUIET = Console(quiet=True)
SHAPE = (48, 48, 48)
SMALL = {"steps": 3, "batch_size": 2, "crop": [32, 32, 16], "device": "cpu"}


def patient(contrasts: int) -> Patient:
    """A ball of white matter, noise with one bright lesion in every contrast."""
    rng = np.random.default_rng(0)
    brain = np.linalg.norm(np.indices(SHAPE) - 23.5, axis=0) < 22
    lesions = np.zeros(SHAPE, bool)
    lesions[18:24, 20:26, 20:26] = True
    images = (rng.normal(0, 0.3, (contrasts, *SHAPE)) + 3.0 * lesions) * brain
    images = torch.from_numpy(images.astype(np.float32))
    return Patient("one", images, torch.zeros(6, *SHAPE), lesions, brain, np.full(SHAPE, 5, np.uint8), np.eye(4))


def crops_of_lesions(recipe: TrainingRecipe, data: Path, out: Path) -> Path:
    drawn = {"contrasts": recipe.contrasts, "shape": recipe.crop, "required": recipe.required, "seed": recipe.seed}
    crops = LesionCrops([patient(len(recipe.contrasts))], None, samples=recipe.steps * recipe.batch_size, **drawn)
    loss = partial(all_net_loss, les_loss=recipe.les_loss)
    return train_on(recipe, Samples(crops, loss, "made data"), out=out, console=QUIET)


def slices(recipe: TrainingRecipe, data: Path, out: Path) -> Path:
    if recipe.contrasts == ("CT",):
        return train(recipe, data / "lits", out, console=QUIET)
    visit = patient(len(recipe.contrasts))
    drawn = {"plane": recipe.settings["plane"], "samples": recipe.steps * recipe.batch_size, "seed": recipe.seed}
    chosen = LesionSlices([(visit.images.numpy(), visit.lesions)], **drawn)
    return train_on(recipe, Samples(chosen, slice_loss, "made data"), out=out, console=QUIET)


def pairs(recipe: TrainingRecipe, data: Path, out: Path) -> Path:
    """Marked pairs for the paper's recipe, as MSSEG-2 has them; made ones for the packaged model's."""
    visit = patient(1)
    real = [MarkedPair("pair", visit.images.repeat(2, 1, 1, 1), visit.lesions)] if recipe.version == "msseg2" else []
    protocol = PairProtocol(
        recipe.steps * recipe.batch_size, recipe.seed, kinds=recipe.samples, relation_loss=recipe.relation_loss,
        relation_warmup=recipe.relation_warmup,
    )  # fmt: skip
    crops = VisitCrops([visit], real, None, channel=0, shape=recipe.crop, protocol=protocol)
    return train_on(recipe, Samples(crops, coactseg_loss, "made data"), out=out, console=QUIET)


def head(recipe: TrainingRecipe, data: Path, out: Path) -> Path:
    return train(recipe, data / "heads", out, console=QUIET)


def rims(recipe: TrainingRecipe, data: Path, out: Path) -> Path:
    if INPUTS[recipe.network].features:
        pytest.importorskip("radiomics")
    return train(recipe, data / "rims", out, console=QUIET)


TRAIN = {"lesions": crops_of_lesions, "slices": slices, "longitudinal": pairs, "head": head, "rims": rims}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """LiTS scans, a head's label map and a rim cohort."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for number in (0, 1):
        write_lits_scan(root / "lits", number, rng)
    distance = np.linalg.norm(np.indices(SHAPE) - 23.5, axis=0)
    labels = np.select([distance < 4, distance < 12, distance < 16, distance < 22], [4, 2, 3, 507], 0)
    (root / "heads").mkdir()
    nib.save(nib.Nifti1Image(labels.astype(np.int16), np.eye(4)), root / "heads" / "head.nii.gz")
    for number in range(1, 7):
        write_rim_subject(root / "rims", number, rng)
    return root


@pytest.mark.parametrize("name", sorted(set(packaged_recipes()) - {"segment"}))
def test_three_steps(name, data, tmp_path):
    recipe = read_training_recipe(Path(name), **SMALL)
    # A worker process gets the samples pickled; one of a recipe's eight will do.
    recipe = recipe.model_copy(update={"workers": min(recipe.workers, 1)})
    # On a processor bfloat16 gradients of so small crops are garbage at times (MAX_GRADIENT_NORM in the loop): then
    # the step is left out.
    precise = recipe.optimiser.model_copy(update={"precision": "float32"})
    recipe = recipe.model_copy(update={"optimiser": precise})
    card = read_card(TRAIN[recipe.task](recipe, data, tmp_path / "model"))
    trained = load_model(card)
    assert (card.name, card.network, card.contrasts) == (recipe.name, recipe.network, recipe.contrasts)
    assert all(value.isfinite().all() for value in trained.state_dict().values())
    if recipe.network == "aprl-rf":
        return  # a forest takes no steps
    step, loss, _ = (tmp_path / "model" / "loss.csv").read_text(encoding="utf-8").splitlines()[-1].split(",")
    assert step == "3" and math.isfinite(float(loss))
    torch.manual_seed(recipe.seed)
    fresh = build(recipe.network, **recipe.settings)
    moved = [not torch.equal(a, b) for a, b in zip(trained.parameters(), fresh.parameters(), strict=True)]
    assert np.mean(moved) > 0.5
