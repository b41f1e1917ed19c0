"""How well confluent lesions are told apart: lesions merged on purpose, so that their parts are known.

    python -m tests.benchmarks.split --lesion-bank FILE [--model NAME --data DIR]

Each case is a chain of one to four lesions of the bank, of 0.1 to 4 ml, slid together until they hardly overlap.
Ways to tell them apart: connected components; waists of the mask, where no model knows centres; centres by the Hessian
of the lesion probability; peaks of the sphere head. Without a model both maps are simulated: the sphere map from the
true centres and the lesion probability from the true parts, blurred and with noise, which is more than a network can
know, and the probability from the merged mask, which is what it knows at least. With a model the merged lesions are
painted into white matter of real patients and the network's own maps are taken; the mask that is split is the true one
in all rows.

Columns: mean number of parts found too many or too few, and without sign; panoptic quality; F1 of parts (found if they
share more than half of their union with a true one) over all cases, over merged ones, and over merged ones whose
centres are 8 mm apart; seconds a case.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import process_time

import cc3d
import numpy as np
import torch
from rich.console import Console as Page
from rich.table import Table
from scipy import ndimage
from scipy.spatial.distance import pdist

from msrim.console import Console
from msrim.evaluation.instances import panoptic_quality
from msrim.image import Volume
from msrim.labels import WHITE_MATTER
from msrim.lesions.spheres import lesion_spheres
from msrim.lesions.split import label_lesions, split_confluent
from msrim.models import load_model, read_card
from msrim.recipe import read_training_recipe
from msrim.training.lesions import Patient
from msrim.workflows.training_data import marked_visits, prepare_visit
from tests.benchmarks.centres import split_at_centres

RECIPE = Path(__file__).parents[2] / "pipelines" / "allnet.toml"
SIDE = 64
VOLUME_MM3 = (100, 4000)
# Of the smaller lesion, how much may lie in the others.
MAX_OVERLAP = 0.1
# The sphere head's spheres are 10 mm wide: closer centres than this are hard to see in their union.
APART_MM = 8.0
# What a painted lesion adds to its contrasts, in standard deviations of the brain; FLAIR, T1w, T2w as packaged cards.
PAINTED = {"FLAIR": 1.6, "T1w": -1.0, "T2w": 1.2}


def bank_lesions(path: Path, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Endless single lesions, tight boxes of bool, turned and mirrored at random."""
    with np.load(path) as bank:
        voxels, offsets, shape = bank["voxels"].astype(np.int64), bank["offsets"], tuple(bank["shape"])
    while True:
        index = rng.integers(len(offsets) - 1)
        mask = np.zeros(shape, dtype=np.uint8)
        mask.flat[voxels[offsets[index] : offsets[index + 1]]] = 1
        labels = cc3d.connected_components(mask, connectivity=26)
        sizes = np.bincount(labels.ravel())[1:]
        fitting = 1 + np.flatnonzero((sizes >= VOLUME_MM3[0]) & (sizes <= VOLUME_MM3[1]))
        if not fitting.size:
            continue
        # Small lesions are many; a size is drawn first, so that large ones are as frequent.
        wanted = rng.uniform(*np.log(VOLUME_MM3))
        number = fitting[abs(np.log(sizes[fitting - 1]) - wanted).argmin()]
        box = ndimage.find_objects(labels)[number - 1]
        lesion = (labels[box] == number).transpose(rng.permutation(3))
        yield lesion[tuple(slice(None, None, step) for step in rng.choice([-1, 1], 3))]


def merged_lesions(lesions: Iterator[np.ndarray], parts: int, rng: np.random.Generator) -> np.ndarray | None:
    """One component of so many lesions, numbered 1..parts, in a cube of SIDE voxels; None if they do not fit."""
    merged = np.zeros((SIDE,) * 3, dtype=np.int32)
    if not place(merged, next(lesions), np.full(3, SIDE / 2), 1):
        return None
    for number in range(2, parts + 1):
        lesion, direction = next(lesions), rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        start = np.argwhere(merged == number - 1).mean(axis=0)
        # From inside outwards, until little enough of either lies in the other.
        for distance in np.arange(0, SIDE / 2, 0.5):
            trial = np.zeros_like(merged)
            if not place(trial, lesion, start + distance * direction, 1):
                return None  # the cube is full
            common = np.count_nonzero((merged > 0) & (trial > 0))
            if common <= MAX_OVERLAP * min(lesion.sum(), np.bincount(merged[merged > 0])[1:].min()):
                merged[(trial > 0) & (merged == 0)] = number
                break
        else:
            return None
    return merged if label_lesions(merged > 0).max() == 1 else None


def place(cube: np.ndarray, lesion: np.ndarray, centre: np.ndarray, number: int) -> bool:
    low = np.round(centre - np.array(lesion.shape) / 2).astype(int)
    if (low < 4).any() or (low + lesion.shape > SIDE - 4).any():
        return False
    cube[tuple(slice(a, a + n) for a, n in zip(low, lesion.shape, strict=True))][lesion] = number
    return True


def simulated_maps(parts: Volume, rng: np.random.Generator) -> dict[str, Volume]:
    """Maps in 0..1 as an ideal network would give them, with noise of 0.05 that is smooth over 2 mm."""

    def noisy(image: np.ndarray) -> Volume:
        noise = ndimage.gaussian_filter(rng.normal(size=image.shape), 2.0)
        return parts.like(np.clip(image + 0.05 * noise / noise.std(), 0, 1).astype(np.float32))

    own = [parts.data == number for number in range(1, parts.data.max() + 1)]
    spheres = np.any([lesion_spheres(mask, parts.spacing) for mask in own], axis=0)
    return {
        "sphere": noisy(ndimage.gaussian_filter(spheres.astype(np.float32), 1.0)),
        "parts": noisy(np.max([ndimage.gaussian_filter(mask.astype(np.float32), 1.5) for mask in own], axis=0)),
        "mask": noisy(ndimage.gaussian_filter((parts.data > 0).astype(np.float32), 1.5)),
    }


class PaintedMaps:
    """A network's own maps of merged lesions painted into white matter of real patients."""

    def __init__(self, model: str, data: Path) -> None:
        self.card = read_card(model)
        self.network = load_model(self.card)
        recipe = read_training_recipe(RECIPE).model_copy(update={"contrasts": self.card.contrasts})
        with tempfile.TemporaryDirectory() as folder:
            self.patients = [
                prepare_visit(subject, mask, recipe=recipe, out=Path(folder), console=Console())
                for subject, mask in marked_visits(data)
            ]

    def __call__(self, parts: Volume, rng: np.random.Generator) -> dict[str, Volume]:
        patient = self.patients[rng.integers(len(self.patients))]
        box = self.place(patient, parts.data > 0, rng)
        images, coordinates = patient.images[:, *box].clone(), patient.coordinates[:, *box]
        soft = torch.from_numpy(ndimage.gaussian_filter((parts.data > 0).astype(np.float32), 0.7))
        for image, contrast in zip(images, self.card.contrasts, strict=True):
            image += PAINTED[contrast] * soft * image.any()
        with torch.inference_mode():
            lesion, sphere = torch.sigmoid(self.network(torch.cat([images, coordinates])[None]))[0].float().numpy()
        return {"sphere": parts.like(sphere), "network": parts.like(lesion)}

    def place(self, patient: Patient, mask: np.ndarray, rng: np.random.Generator) -> tuple[slice, ...]:
        """Of twenty random boxes the one in which most of the lesion lies in healthy white matter."""
        white = np.isin(patient.labels, WHITE_MATTER) & ~ndimage.binary_dilation(patient.lesions, iterations=2)
        inside = np.argwhere(white)
        boxes = []
        for _ in range(20):
            low = np.clip(inside[rng.integers(len(inside))] - SIDE // 2, 0, np.array(white.shape) - SIDE)
            box = tuple(slice(a, a + SIDE) for a in low)
            boxes.append((np.count_nonzero(white[box] & mask), box))
        return max(boxes, key=lambda pair: pair[0])[1]


def ways_of(simulated: bool) -> dict[str, Callable[[Volume, dict[str, Volume]], Volume]]:
    """Ways to tell the lesions of a mask apart, given the maps."""
    ways = {
        "connected components": lambda mask, maps: mask.like(label_lesions(mask.data)),
        "waists of the mask": lambda mask, maps: split_confluent(mask, sphere_probability=None),
    }
    if simulated:
        ways |= {
            "Hessian centres, probability of the mask, simulated": lambda mask, maps: split_at_centres(
                mask, probability=maps["mask"]
            ),
            "Hessian centres, probability of the parts, simulated": lambda mask, maps: split_at_centres(
                mask, probability=maps["parts"]
            ),
            "sphere peaks, ideal sphere map, simulated": lambda mask, maps: split_confluent(
                mask, sphere_probability=maps["sphere"]
            ),
        }
    else:
        ways |= {
            "Hessian centres, network": lambda mask, maps: split_at_centres(mask, probability=maps["network"]),
            "sphere peaks, network": lambda mask, maps: split_confluent(mask, sphere_probability=maps["sphere"]),
        }
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lesion-bank", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="take this model's maps instead of simulated ones; needs --data")
    parser.add_argument("--data", type=Path, help="visits with a lesion mask beside each FLAIR, to paint into")
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    maps_of = PaintedMaps(given.model, given.data) if given.model else simulated_maps
    ways = ways_of(simulated=given.model is None)
    lesions, rows = bank_lesions(given.lesion_bank, rng), {way: [] for way in ways}
    for case in range(given.cases):
        merged = None
        while merged is None:
            merged = merged_lesions(lesions, 1 + case % 4, rng)
        parts = Volume(merged, np.eye(4))
        centres = ndimage.center_of_mass(merged > 0, merged, np.arange(1, merged.max() + 1))
        apart = merged.max() > 1 and pdist(np.array(centres)).min() >= APART_MM
        maps = maps_of(parts, rng)
        for way, split in ways.items():
            start = process_time()
            found = split(parts.like(merged > 0), maps)
            rows[way].append(panoptic_quality(parts, found) | {"seconds": process_time() - start, "apart": apart})
    table = Table("way", "too many", "count error", "PQ", "F1", "F1 merged", "F1 apart", "seconds")
    for way, results in rows.items():
        errors, merged_only = [row["count_error"] for row in results], [r for r in results if r["truth_lesions"] > 1]
        values = [np.mean(errors), np.mean(np.abs(errors)), np.mean([row["pq"] for row in results])]
        values += [f1(results), f1(merged_only), f1([row for row in results if row["apart"]])]
        values.append(np.mean([row["seconds"] for row in results]))
        table.add_row(way, f"{values[0]:+.2f}", *(f"{value:.3f}" for value in values[1:]))
    page = Page(width=120)
    apart = sum(row["apart"] for row in results)
    page.print(f"{given.cases} cases of one to four lesions, seed {given.seed}; {apart} merged with centres 8 mm apart")
    page.print(table)


def f1(rows: list[dict]) -> float:
    """Over all parts of all cases."""
    return 2 * sum(r["matched_lesions"] for r in rows) / sum(r["truth_lesions"] + r["prediction_lesions"] for r in rows)


if __name__ == "__main__":
    main()
