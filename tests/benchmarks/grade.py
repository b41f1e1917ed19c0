"""Whether the grade of a scan agrees with the truth: painted lesions beside those that experts marked.

    python -m tests.benchmarks.grade --data DIR --out DIR [--model MODEL | --left-out DIR] [--visits N]

Segments every visit with an expert mask with ``--grade`` and prints, by volume as the FLAIR shows it, how many of the
experts' lesions were found and how many of the painted ones. A lesion counts as found where any voxel of it was; both
are assigned to the painted size that is nearest by its logarithm. Experts' lesions under 5 mm3 are left out, and those
without white matter around them, whose contrast cannot be told.

Then one figure for how much easier or harder painted lesions are: a logistic regression of the painted ones on volume
and contrast tells how many of the experts' lesions would have been found if they were painted; that less those that
were found is the difference between lesions of the same volume and contrast. Its interval is by bootstrap over lesions.

Networks find the lesions of patients that they were trained on more often. With ``--left-out`` each patient has
networks that left it out: those in the folders of ``DIR/sub-<label>`` decide together, and patients without are
passed over.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.special import expit

from msrim.console import Console
from msrim.evaluation.grade import logistic_fits
from msrim.evaluation.statistics import wilson_interval
from msrim.image import read_volume, resample
from msrim.labels import WHITE_MATTER
from msrim.lesions.split import label_lesions
from msrim.recipe import Recipe
from msrim.workflows.anatomy import Anatomy, read_own
from msrim.workflows.grade import SIZES_MM3
from msrim.workflows.painting import lesion_contrasts
from msrim.workflows.segment import segment_visit
from msrim.workflows.training_data import marked_visits

LEAST_MM3, REPEATS = 5.0, 999
# Columns of both kinds of lesions.
VOLUME, CONTRAST, FOUND, LIKE_OWN = range(4)


def main() -> None:
    """Print both tables over all visits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="visits with a *label-L*_mask.nii.gz beside the FLAIR")
    parser.add_argument("--out", type=Path, required=True)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", default=Recipe().model)
    which.add_argument("--left-out", type=Path, help="trained networks, a folder for each patient that they left out")
    parser.add_argument("--visits", type=int, help="no more than so many, the first by name")
    given = parser.parse_args()
    experts, painted = [], []
    for visit, mask in marked_visits(given.data)[: given.visits]:
        model = given.model if given.left_out is None else joined(given.left_out / f"sub-{visit.label}")
        if model is None:
            continue
        anatomy, lesions = segment_visit(visit, Recipe(grade=True, model=model), given.out, console=Console())
        experts.append(of_experts(mask, lesions.files.mask, anatomy))
        painted.append(of_grade(lesions.grade.files.table))
    print(told(experts, painted, seen=given.left_out is None))


def joined(folder: Path) -> str | None:
    """The networks of a folder, to decide together; None where there are none."""
    return "+".join(str(card.parent) for card in sorted(folder.glob("*/card.toml"))) or None


def of_experts(mask: Path, found: Path, anatomy: Anatomy) -> np.ndarray:
    """Volume, contrast on the FLAIR, and whether it was found, of each lesion that experts marked: (N, 3)."""
    truth, seen = read_volume(mask, mask=True), read_volume(found, mask=True).data
    flair = resample(read_own(anatomy.working.images["FLAIR"]), truth)
    labels = resample(read_own(anatomy.working.labels), truth, nearest=True).data
    lesions = truth.like(label_lesions(truth.data).astype(int))
    contrasts = lesion_contrasts(lesions, {"FLAIR": flair}, white=np.isin(labels, WHITE_MATTER) & ~truth.data)
    volumes = np.bincount(lesions.data.ravel()) * truth.voxel_volume_mm3
    hit = np.unique(lesions.data[seen])
    rows = [(volumes[k], contrast["FLAIR"], k in hit) for k, contrast in contrasts.items() if volumes[k] >= LEAST_MM3]
    return np.array(rows, float).reshape(-1, 3)


def of_grade(table: Path) -> np.ndarray:
    """The same of painted lesions, and whether their contrast is the patient's own: (N, 4)."""
    with table.open(encoding="utf-8") as stream:
        rows = [
            (row["volume_mm3"], row["flair_contrast"], row["found_mm3"] != "n/a", row["contrast"] == "own")
            for row in csv.DictReader(stream, delimiter="\t")
        ]
    return np.array(rows, float).reshape(-1, 4)


def told(experts: Sequence[np.ndarray], painted: Sequence[np.ndarray], *, seen: bool) -> str:
    """The table by size, and how much easier painted lesions are; an array of lesions for each visit.

    ``seen`` tells whether the networks may have been trained on the patients.
    """
    real, made = np.concatenate(experts), np.concatenate(painted)
    like_own = made[made[:, LIKE_OWN] == 1]
    sizes = np.array(list(SIZES_MM3))
    lines = [
        f"{len(experts)} visits; painted lesions are simulated. "
        + (
            "The networks may have been trained on these patients, whose own lesions are then found more often than a "
            "new patient's; painted ones are new to them."
            if seen
            else "No network was trained on the patient that it is tried on."
        ),
        "| mm3 shown | experts' lesions found | painted, like the patient's own | all painted | contrast of experts' "
        "| of those like the patient's own |",
        "|---|---|---|---|---|---|",
    ]
    for k, size in enumerate(sizes):
        groups = [
            rows[np.abs(np.log(rows[:, [VOLUME]] / sizes)).argmin(axis=1) == k] for rows in (real, like_own, made)
        ]
        medians = [f"{np.median(rows[:, CONTRAST]):.1f}" if len(rows) else "-" for rows in groups[:2]]
        lines.append(f"| {size:g} | {' | '.join(map(shown, groups))} | {' | '.join(medians)} |")
    lines.append(f"| all | {' | '.join(map(shown, (real, like_own, made)))} | | |")
    expected, observed, low, high = easier(real, made)
    difference = 100 * (expected - observed)
    word = "easier" if difference > 0 else "harder"
    lines.append(
        f"Of the experts' {len(real)} lesions {100 * observed:.0f} % were found; painted with the same volumes and "
        f"contrasts, {100 * expected:.0f} % would have been: painted lesions are {word} by {abs(difference):.0f} "
        f"points (difference {difference:+.0f}, 95 % interval {100 * low:+.0f} to {100 * high:+.0f})"
    )
    return "\n".join(lines)


def easier(real: np.ndarray, made: np.ndarray, *, seed: int = 0) -> tuple[float, float, float, float]:
    """Share of the experts' lesions found if they were painted, share that was, and the interval of the difference."""
    rng = np.random.default_rng(seed)
    counts, known = [], []
    for rows in (real, made):
        drawn = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), REPEATS)
        counts.append(np.concatenate([np.ones((1, len(rows))), drawn]))
        known.append(np.stack([np.ones(len(rows)), np.log(rows[:, VOLUME]), rows[:, CONTRAST]], axis=1))
    chances = expit(logistic_fits(known[1], made[:, FOUND], counts[1]) @ known[0].T)
    expected = (chances * counts[0]).sum(axis=1) / len(real)
    observed = (real[:, FOUND] * counts[0]).sum(axis=1) / len(real)
    low, high = np.percentile((expected - observed)[1:], [2.5, 97.5])
    return float(expected[0]), float(observed[0]), float(low), float(high)


def shown(rows: np.ndarray) -> str:
    found, count = int(rows[:, FOUND].sum()), len(rows)
    interval = wilson_interval(found, count)
    return "-" if interval is None else f"{found} of {count} ({100 * interval[0]:.0f}-{100 * interval[1]:.0f} %)"


if __name__ == "__main__":
    main()
