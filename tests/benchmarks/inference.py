"""What each way of running a lesion model on a whole brain costs, and what it changes.

    python -m tests.benchmarks.inference [--data DIR] [--models allnet scp] [--threads 2]

The input is noise, or with ``--data`` the first brain-extracted scan in MNI space below a folder, cut or padded around
its middle. A network without packaged weights runs with fresh ones. msrim itself takes bfloat16 where the processor has
instructions for it and float32 elsewhere, channels last, batch norms folded into the convolutions.

Every way runs in a process of its own. First: until the first answer, with compiling and converting. Then: the best of
three more. MiB: the most that the whole process holds meanwhile, Python and its libraries included; "loaded" is what it
holds before. Dice: with eager float32, of the masks at the card's threshold; none where there is no scan or no card.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from msrim.bids import find_subject
from msrim.image import Volume, read_volume, resample, to_ras
from msrim.labels import Tissue
from msrim.manifest import measured
from msrim.models import MODELS, build, load_model, read_card
from msrim.models.inference import fit_to_plane, parse_head, run_network, z_scored
from msrim.models.networks.allnet import COORDINATES
from msrim.models.registry import Card, packaged_cards
from msrim.preprocess.coordinates import anatomical_coordinates
from msrim.preprocess.normalise import normalise_intensity
from msrim.preprocess.tissue import csf_structures, tissue_of

CONTRASTS = ("FLAIR", "T1w", "T2w")
WAYS = (
    "float32",
    "float32, channels last",
    "bfloat16",
    "bfloat16, channels last",
    "torch.compile float32",
    "torch.compile bfloat16, channels last",
    "OpenVINO float32",
    "OpenVINO bfloat16",
    "msrim",
)


def main() -> None:
    """Print one table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="brain-extracted scans in MNI space, of which the first is taken")
    parser.add_argument("--models", nargs="+", default=["allnet", "scp"])
    parser.add_argument("--size", type=int, nargs=3, default=[192, 224, 192], help="voxels of 1 mm, multiples of 16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", nargs=4, metavar=("WAY", "MODEL", "STACK", "MASK"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.measure:
        measure(*given.measure)
        return
    for model in given.models:
        with tempfile.TemporaryDirectory() as folder:
            stack = whole_brain(model, given.data, given.size)
            np.save(Path(folder) / "stack.npy", stack)
            table = table_of(model, stack.shape, Path(folder), threads=given.threads, compare=given.data is not None)
        Console(width=110).print(table)


def table_of(model: str, shape: tuple[int, ...], folder: Path, *, threads: int, compare: bool) -> Table:
    """Every way in a process of its own."""
    card = card_of(model)
    size = " x ".join(map(str, shape[2:]))
    table = Table(title=f"{card.label if card else f'{model}, fresh weights'}: {size} voxels, {threads} threads")
    for column in ("way", "loaded MiB", "first s", "first MiB", "then s", "then MiB", "Dice"):
        table.add_column(column, justify="left" if column == "way" else "right")
    reference = None
    for way in WAYS:
        command = [sys.executable, "-m", "tests.benchmarks.inference", "--threads", str(threads)]
        command += ["--measure", way, model, str(folder / "stack.npy"), str(folder / "mask.npy")]
        # Large pages, as the command line has them.
        environment = {"THP_MEM_ALLOC_ENABLE": "1", **os.environ}
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
        if run.returncode:
            why = run.stderr.strip().splitlines()[-1:] or [f"ended by signal {-run.returncode}"]
            table.add_row(way, "failed:", why[0][:60])
            continue
        mask = np.load(folder / "mask.npy")
        reference = mask if way == WAYS[0] else reference
        dice = ""
        if compare and card and reference is not None:
            dice = f"{2 * np.count_nonzero(mask & reference) / max(1, mask.sum() + reference.sum()):.4f}"
        table.add_row(way, *json.loads(run.stdout.splitlines()[-1]), dice)
    return table


def measure(way: str, model: str, stack: str, mask: str) -> None:
    """Run one way; writes its mask and prints its figures as JSON."""
    card = card_of(model)
    network = load_model(card) if card else build(model).eval()
    channels = torch.from_numpy(np.load(stack))
    with measured() as loaded:
        pass
    with measured() as first:
        forward = prepared(way, network, channels)
        logits = forward()
    runs = []
    for _ in range(3):
        with measured() as then:
            forward()
        runs.append(then)
    threshold = card.threshold if card else 0.5
    np.save(mask, logits[0, 0] > np.log(threshold / (1 - threshold)))
    best, most = min(run.seconds for run in runs), max(run.peak_mib for run in runs)
    figures = (f"{first.seconds:.1f}", f"{first.peak_mib:.0f}", f"{best:.2f}", f"{most:.0f}")
    print(json.dumps([f"{loaded.peak_mib:.0f}", *figures]))


def prepared(way: str, network: nn.Module, stack: Tensor) -> Callable[[], np.ndarray]:
    """The way as a function that gives logits."""
    if way == "msrim":
        return lambda: run_network(network, stack.numpy(), device="cpu").numpy()
    if way.startswith("OpenVINO"):
        import openvino

        model = openvino.convert_model(network, example_input=stack, input=[list(stack.shape)])
        hints = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        if "bfloat16" in way:
            hints["INFERENCE_PRECISION_HINT"] = "bf16"
        compiled = openvino.compile_model(model, "CPU", hints)
        return lambda: compiled(stack.numpy())[0]
    if "channels last" in way:
        network = network.to(memory_format=torch.channels_last_3d)
        stack = stack.contiguous(memory_format=torch.channels_last_3d)
    run = torch.compile(network) if "compile" in way else network

    def forward() -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in way):
            return run(stack).float().numpy()

    return forward


def card_of(model: str) -> Card | None:
    """None for a network that has no packaged weights."""
    packaged = {card.name for card in packaged_cards()}
    return None if model in MODELS and model not in packaged else read_card(model)


def whole_brain(model: str, data: Path | None, size: list[int]) -> np.ndarray:
    """Input of a network, (1, C, X, Y, Z) float32, as `msrim segment` makes it."""
    card = card_of(model)
    network = load_model(card) if card else build(model)
    contrasts = card.contrasts if card else CONTRASTS
    if data is None:
        shape = (len(contrasts) + COORDINATES, *size)
        stack = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    else:
        stack = real_brain(data, size, contrasts=contrasts)
    if hasattr(network, "plane"):
        # A slice network sees no coordinates but its own.
        stack = z_scored(fit_to_plane(stack[: len(contrasts)], network.plane))
    return stack[None]


def real_brain(data: Path, size: list[int], *, contrasts: tuple[str, ...]) -> np.ndarray:
    """Normalised contrasts and coordinates of the first scan below a folder, (C + 6, X, Y, Z) float32."""
    files = find_subject(sorted(data.rglob("*FLAIR*.nii*"))[0].parent).contrasts
    flair = to_ras(read_volume(files["FLAIR"]))
    inside = np.argwhere(flair.data > 0)
    affine = flair.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ ((inside.min(axis=0) + inside.max(axis=0)) // 2 - np.array(size) // 2)
    grid = Volume(np.zeros(size, np.float32), affine)
    images = {name: resample(read_volume(path), grid) for name, path in files.items() if name in contrasts}
    brain = grid.like(images["FLAIR"].data > 0)
    labels = parse_head(flair, flair.like(flair.data > 0), contrast="FLAIR", card=read_card("head"))
    tissue = tissue_of(resample(labels, grid, nearest=True))
    solid = grid.like(tissue.data > Tissue.CSF)
    channels = [
        normalise_intensity(images[name], brain, tissue=solid).data if name in images else grid.data
        for name in contrasts
    ]
    coordinates = anatomical_coordinates(brain, mni_from_world=np.eye(4), csf=csf_structures(tissue), brain=brain)
    return np.concatenate([np.stack(channels), coordinates]).astype(np.float32)


if __name__ == "__main__":
    main()
