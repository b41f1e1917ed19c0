"""Whether the grade of a scan agrees with the truth: painted lesions beside those that experts marked.

    python -m tests.benchmarks.grade --data DIR --out DIR [--brain-extracted]

Segments every visit with an expert mask with ``--grade`` and prints, by size, how many of the experts' lesions were
found, and how many of the painted ones with the contrast of the patient's own. A lesion counts as found where any voxel
of it was; both are assigned to the painted size that is nearest by its logarithm. Experts' lesions under 5 mm3 are left
out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from msrim.bids import LESIONS
from msrim.console import Console
from msrim.evaluation.statistics import wilson_interval
from msrim.image import read_volume
from msrim.lesions.split import label_lesions
from msrim.recipe import Recipe
from msrim.workflows.grade import SIZES_MM3
from msrim.workflows.segment import segment_subject
from msrim.workflows.training_data import marked_visits

LEAST_MM3 = 5.0


def main() -> None:
    """Print a table over all visits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="visits with a *label-L*_mask.nii.gz beside the FLAIR")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--brain-extracted", action="store_true")
    given = parser.parse_args()
    sizes = np.array(list(SIZES_MM3))
    real, painted = np.zeros((sizes.size, 2), int), np.zeros((sizes.size, 2), int)
    recipe = Recipe(grade=True, brain_extracted=given.brain_extracted)
    visits = marked_visits(given.data)
    for visit, mask in visits:
        found = segment_subject(visit, recipe, given.out, console=Console())
        real += of_experts(mask, found, sizes)
        summary = json.loads(visit.output(given.out, LESIONS["summary"]).read_text(encoding="utf-8"))["grade"]
        own = [size["contrasts"]["own"] for size in summary["sizes"]]
        painted += np.array([(size["found"], size["painted"]) for size in own])
    print(f"| mm3 | experts' lesions found | painted like the patient's own | ({len(visits)} visits)")
    print("|---|---|---|")
    for size, one, other in zip(sizes, real.tolist(), painted.tolist(), strict=True):
        print(f"| {size:g} | {shown(*one)} | {shown(*other)} |")


def of_experts(mask: Path, found: Path, sizes: np.ndarray) -> np.ndarray:
    """Lesions found, and all, by size: (len(sizes), 2)."""
    truth, seen = read_volume(mask, mask=True), read_volume(found, mask=True).data
    lesions = label_lesions(truth.data)
    volumes = np.bincount(lesions.ravel())[1:] * truth.voxel_volume_mm3
    hit = np.isin(np.arange(1, volumes.size + 1), lesions[seen])
    nearest = np.abs(np.log(volumes)[:, None] - np.log(sizes)).argmin(axis=1)
    large = volumes >= LEAST_MM3
    return np.array([(np.sum(hit & large & (nearest == k)), np.sum(large & (nearest == k))) for k in range(sizes.size)])


def shown(found: int, all_: int) -> str:
    interval = wilson_interval(found, all_)
    return "-" if interval is None else f"{found} of {all_} ({100 * interval[0]:.0f}-{100 * interval[1]:.0f} %)"


if __name__ == "__main__":
    main()
