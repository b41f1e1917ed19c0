"""How many lesions lie about each place: the table of `msrim.lesions.places`.

    python -m tests.benchmarks.lesion_places --lesion-bank FILE

Places of the lesions of a bank are those of the head labels that the head network gives the template. A lesion's place
is the voxel of it that is nearest to its centre of mass.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cc3d
import numpy as np
from scipy import ndimage

from msrim.image import Volume, bounding_box, resample
from msrim.labels import HeadLabel
from msrim.lesions.bank import read_bank
from msrim.lesions.places import DISTANCES_MM, LARGE_MM3
from msrim.models.inference import parse_head
from msrim.models.registry import read_card
from msrim.preprocess.template import load_template, load_template_brain_mask


def main() -> None:
    """Print lesions per millilitre, and how long lesions are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lesion-bank", type=Path, required=True, help="lesion maps (.npz)")
    bank = read_bank(parser.parse_args().lesion_bank)
    template, brain = load_template(), load_template_brain_mask()
    found = parse_head(template, brain, contrast="T1w", card=read_card("head"), device="cpu")
    grid = Volume(np.broadcast_to(np.int8(0), bank.shape), bank.affine)
    labels = resample(found, grid, nearest=True).data
    distance = ndimage.distance_transform_edt(labels != HeadLabel.VENTRICLES, sampling=grid.spacing)
    unit = grid.voxel_volume_mm3
    lesions = [lesion for voxels in bank.maps for lesion in _lesions(voxels, bank.shape)]
    places = tuple(np.array([place for place, _, _ in lesions]).T)
    volumes = np.array([voxels for _, voxels, _ in lesions]) * unit
    rings = np.searchsorted(DISTANCES_MM, distance, side="right") - 1
    white = labels == HeadLabel.CEREBRAL_WHITE
    print(f"{len(bank.maps)} maps, {volumes.size} lesions, {np.mean(white[places]):.1%} with their middle in the "
          "cerebrum's white matter; lesions per ml:")  # fmt: skip
    for name, sizes in (("smaller", volumes < LARGE_MM3), ("larger", volumes >= LARGE_MM3)):
        per_ml = [
            1000 * np.sum(sizes & white[places] & (rings[places] == k)) / (np.sum(white & (rings == k)) * unit)
            for k in range(len(DISTANCES_MM))
        ]
        below = [
            1000 * np.sum(sizes & (labels == label)[places]) / (np.sum(labels == label) * unit)
            for label in (HeadLabel.CEREBELLAR_WHITE, HeadLabel.BRAINSTEM)
        ]
        print(f"{name} than {LARGE_MM3:g} mm3, from {DISTANCES_MM} mm on: {', '.join(f'{n:.2f}' for n in per_ml)}; "
              f"cerebellum {below[0]:.2f}, brainstem {below[1]:.2f}")  # fmt: skip
    ratios = np.array([ratio for _, _, ratio in lesions])
    for name, column in (("longest by shortest axis", 0), ("middle by shortest axis", 1)):
        print(f"{name}: median {np.median(ratios[:, column]):.2f}, "
              f"5th to 95th percentile {np.percentile(ratios[:, column], 5):.2f} to "
              f"{np.percentile(ratios[:, column], 95):.2f}")  # fmt: skip


def _lesions(voxels: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[np.ndarray, int, tuple[float, float]]]:
    """Place, number of voxels, and the ratios of the axes of each lesion of a map."""
    mask = np.zeros(shape, np.uint8)
    mask.ravel()[voxels] = 1
    box = bounding_box(mask)
    parts = cc3d.connected_components(mask[box], connectivity=26)
    corner = [side.start for side in box]
    for number in range(1, int(parts.max()) + 1):
        points = np.argwhere(parts == number)
        if len(points) < 10:
            continue
        nearest = np.argmin(np.linalg.norm(points - points.mean(axis=0), axis=1))
        # A voxel's own variance along an axis is a twelfth.
        axes = np.sqrt(np.linalg.eigvalsh(np.cov(points.T) + np.eye(3) / 12))
        yield points[nearest] + corner, len(points), (axes[2] / axes[0], axes[1] / axes[0])


if __name__ == "__main__":
    main()
