"""Overlapping windows: time, memory and masks at several strides, against the paper's stride of 20.

    python -m tests.benchmarks.overlap [--model FOLDER] [--baseline FILE --followup FILE] [--crop 140]

The FLAIRs are a pair's ``*_space-midway_desc-matched_FLAIR.nii.gz``. Without a model the network has the packaged width
and weights that were never trained, and its masks are the brightest tenth of a percent of its answers: they say how
windows agree, not how good anything is. Without FLAIRs it sees smooth noise.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console as Page
from rich.table import Table
from scipy import ndimage

from msrim.image import read_volume
from msrim.models import build, load_model, read_card
from msrim.models.inference import prepare_network
from msrim.models.networks.coactseg import lesion_probabilities
from msrim.models.sliding import STRIDE, WINDOW, slide

STRIDES = (20, 40, STRIDE, 80)


def main() -> None:
    """Run the network at every stride and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of a trained model; one that was never trained without it")
    parser.add_argument("--baseline", type=Path)
    parser.add_argument("--followup", type=Path)
    parser.add_argument(
        "--crop", type=int, default=140, help="side of the part of the volume that is looked at, voxels"
    )
    parser.add_argument("--width", type=int, default=8, help="of the network that was never trained")
    given = parser.parse_args()
    if given.baseline and given.followup:
        pair = [read_volume(path).data for path in (given.baseline, given.followup)]
    else:
        rng = np.random.default_rng(0)
        pair = [ndimage.gaussian_filter(rng.normal(size=(given.crop,) * 3), 2).astype(np.float32) for _ in range(2)]
        pair = [image / image.std() for image in pair]
    pair = [middle(image, given.crop) for image in pair]
    channels = np.stack([*pair, pair[1] - pair[0]])
    network = load_model(read_card(given.model)) if given.model else untrained(channels, width=given.width)
    table = Table(title=f"{channels.shape[1:]} voxels, windows of {WINDOW}, {torch.get_num_threads()} threads")
    for column in (
        "stride",
        "overlap",
        "windows",
        "seconds",
        "faster",
        "process peak MiB",
        *("Dice " + h for h in "12n"),
    ):
        table.add_column(column, justify="right")
    reference, slowest = None, None
    for stride in STRIDES:
        seen = []
        handle = network.register_forward_hook(lambda *_, seen=seen: seen.append(None))
        start = time.perf_counter()
        logits = slide(prepare_network(network, device="cpu"), channels, stride=stride)
        found = lesion_probabilities(logits[None])[0].numpy()
        seconds = time.perf_counter() - start
        handle.remove()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        # A network that was never trained has no threshold of its own: the one of the first stride serves all.
        if reference is None:
            levels = [0.5] * 3 if given.model else [float(np.quantile(head, 0.999)) for head in found]
            reference, slowest = [head >= level for head, level in zip(found, levels, strict=True)], seconds
        masks = [head >= level for head, level in zip(found, levels, strict=True)]
        agreement = (f"{dice(a, b):.4f}" for a, b in zip(reference, masks, strict=True))
        table.add_row(
            str(stride),
            f"{1 - stride / WINDOW:.0%}",
            str(len(seen)),
            f"{seconds:.1f}",
            f"{slowest / seconds:.1f}x",
            f"{peak:.0f}",
            *agreement,
        )
    Page(width=110).print(table)


def untrained(channels: np.ndarray, *, width: int) -> torch.nn.Module:
    """A network whose batch norms have seen the images, so that its answers are in a sensible range."""
    torch.manual_seed(0)
    network = build("coactseg", width=width)
    with torch.no_grad():
        for corner in range(3):
            start = corner * 16
            network(torch.from_numpy(channels[None, :, start : start + 64, start : start + 64, start : start + 64]))
    return network.eval()


def middle(image: np.ndarray, side: int) -> np.ndarray:
    """The central cube of a volume."""
    starts = [max(0, (n - side) // 2) for n in image.shape]
    return image[tuple(slice(start, start + side) for start in starts)]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Overlap of two masks, 1 where both are empty."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 1.0


if __name__ == "__main__":
    main()
