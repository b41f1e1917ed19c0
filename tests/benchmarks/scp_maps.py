"""What SCP has learned of places (Zhang et al. 2023, Fig. 7), and where lesions lie (Fig. 2).

    python -m tests.benchmarks.scp_maps --out FILE.png [--model scp] [--lesion-bank FILE]

First row: the classifier's weights W at every pixel of the plane, over channels: maximum, mean, minimum, L2 norm and
standard deviation, each from 0 to 1 over the plane. With ``--lesion-bank`` second row: how many of its people have a
lesion, the largest number along each axis of MNI space. Prints how much of the weights' variance is between places.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from msrim.models import load_model, read_card
from msrim.models.networks.scp import CovariantHead, four_distances

STATISTICS = ("maximum", "mean", "minimum", "L2 norm", "standard deviation")


def main() -> None:
    """Draw both figures into one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scp", help="packaged model, or folder of one")
    parser.add_argument("--lesion-bank", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    card = read_card(given.model)
    network = load_model(card)
    weights = covariant_weights(network.head, network.plane)
    print(f"{card.label}: {share_between_places(weights):.0%} of the variance of {len(weights)} weights is by place")
    people = None if given.lesion_bank is None else people_with_lesion(given.lesion_bank)
    figure, axes = plt.subplots(1 if people is None else 2, len(STATISTICS), figsize=(15, 4 if people is None else 8))
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, image) in zip(np.atleast_2d(axes)[0], statistics_of(weights).items(), strict=True):
        axis.imshow(image.T, origin="lower", cmap="viridis")
        axis.set_title(name)
    if people is not None:
        for direction, name in enumerate(("from the side", "from the front", "from above")):
            axes[1][direction].imshow(people.max(axis=direction).T, origin="lower", cmap="hot")
            axes[1][direction].set_title(f"lesions {name}")
    figure.savefig(given.out, dpi=100, bbox_inches="tight")


def covariant_weights(head: CovariantHead, plane: tuple[int, int]) -> np.ndarray:
    """W(S) + w_r of Eq. 13: (C, X, Y) float32."""
    with torch.inference_mode():
        weights = head.weights_of(four_distances(torch.zeros(1, 1, *plane, 1))) + head.shared.weight
    return weights[0, ..., 0].numpy()


def statistics_of(weights: np.ndarray) -> dict[str, np.ndarray]:
    """STATISTICS over channels, each scaled to 0..1: (X, Y); all 0 where it is the same at every place."""
    found = (weights.max(0), weights.mean(0), weights.min(0), np.linalg.norm(weights, axis=0), weights.std(0))
    scaled = [(image - image.min()) / max(float(np.ptp(image)), 1e-12) for image in found]
    return dict(zip(STATISTICS, scaled, strict=True))


def share_between_places(weights: np.ndarray) -> float:
    """Of the weights' variance, the part that a classifier without places could not have: 0 to 1."""
    return float(weights.var(axis=(1, 2)).mean() / weights.var())


def people_with_lesion(bank: Path) -> np.ndarray:
    """How many maps of a lesion bank have a lesion at each voxel: (X, Y, Z) int."""
    with np.load(bank) as held:
        shape = tuple(int(n) for n in held["shape"])
        return np.bincount(held["voxels"].astype(np.int64), minlength=int(np.prod(shape))).reshape(shape)


if __name__ == "__main__":
    main()
