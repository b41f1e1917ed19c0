"""From scan to rim in simulated patients: `msrim segment` finds the lesions, `msrim rim-classify` judges them.

    python -m tests.benchmarks.rims_end_to_end --out DIR [--model datrnet] [--threshold sensitive] [--seeds 0 1 2]

A made lesion is found where any found one overlaps it on the QSM's grid, and split where several do. A made rim is
counted once, however many of the found lesions on it are called rim+; rim+ lesions on no made rim are invented.
Patients that DIR holds are not done again. A last line says how far from the middle of a made lesion that of what was
found of it lies, where its patch is cut.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from rich.console import Console as Page
from rich.table import Table
from scipy import ndimage

import msrim
from msrim.image import Volume, bounding_boxes, read_labels, resample
from msrim.transform import read_transform
from tests.benchmarks.phantoms import phantom

# Of 0.72 x 0.72 x 3 mm: a ball of less than 7.6 mm hardly holds a rim and a core.
LEAST_VOXELS = 150
COLUMNS = (
    "lesions made",
    "found",
    "split",
    "invented",
    "rims made",
    "found as lesions",
    "called rim+",
    "invented rim+",
)


def compare(truth: np.ndarray, rims: set[int], found: np.ndarray, positive: set[int]) -> tuple[int, ...]:
    """Counts in the order of COLUMNS.

    Parameters
    ----------
    truth, found : (X, Y, Z) int
        Numbered lesions on one grid.
    rims, positive : set of int
        Numbers of those with a rim, and of those called rim+.
    """
    both = (truth > 0) & (found > 0)
    pairs = set(zip(truth[both].tolist(), found[both].tolist(), strict=True))
    made, seen = ({int(n) for n in np.unique(which)} - {0} for which in (truth, found))
    hits = {number: {other for one, other in pairs if one == number} for number in made}
    on_rims = {other for number, others in hits.items() if number in rims for other in others}
    return (
        len(made),
        sum(bool(others) for others in hits.values()),
        sum(len(others) > 1 for others in hits.values()),
        len(seen - {other for _, other in pairs}),
        len(rims),
        sum(bool(hits[number]) for number in rims),
        sum(bool(hits[number] & positive) for number in rims),
        len(positive - on_rims),
    )


def off_middle(truth: Volume, found: np.ndarray) -> np.ndarray:
    """From the middle of a made lesion to that of each lesion found on it: (L, 3) float, mm along the axes of the grid.

    Parameters
    ----------
    truth : Volume of int
        Numbered lesions; those of less than LEAST_VOXELS are too small for a rim.
    found : (X, Y, Z) int
        Numbered lesions on its grid. Each belongs to the made one that it shares most with.
    """
    off = []
    for number, box in bounding_boxes(found).items():
        inside = found[box] == number
        shared = np.bincount(truth.data[box][inside], minlength=2)
        shared[0] = 0
        if shared.any() and np.count_nonzero(made := truth.data == shared.argmax()) >= LEAST_VOXELS:
            middle = np.array(ndimage.center_of_mass(inside)) + [part.start for part in box]
            off.append((middle - ndimage.center_of_mass(made)) * truth.spacing)
    return np.reshape(off, (-1, 3))


def judge(seed: int, out: Path, model: str, threshold: str) -> tuple[tuple[int, ...], np.ndarray]:
    """One patient through both commands: what :func:`compare` and :func:`off_middle` say."""
    images = phantom(out, seed=seed)
    results = out / f"{seed}-results"
    found = msrim.rim_classify(images.parent, out=results, model=model, threshold=threshold, quiet=True)
    derived = images.parents[1] / "derivatives" / "truth" / "sub-phantom" / "anat"
    truth = read_labels(derived / "sub-phantom_space-Chimap_seg-lesions_dseg.nii.gz")
    with open(derived / "sub-phantom_space-Chimap_desc-lesions.tsv", encoding="utf-8", newline="") as stream:
        rims = {int(row["id"]) for row in csv.DictReader(stream, delimiter="\t") if row["truth"] == "true"}
    # The registration of the run, from the FLAIR that the lesions lie on.
    [to_qsm] = results.rglob("to_qsm.txt")
    to_qsm = read_transform(to_qsm)
    instances = resample(read_labels(found.instances), truth, target_from_source=to_qsm, nearest=True).data
    positive = found.lesions.index[found.lesions["rim"].fillna(False)]
    return compare(truth.data, rims, instances, set(positive)), off_middle(truth, instances)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="datrnet")
    parser.add_argument("--threshold", default="f1", help="as of msrim rim-classify")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    rows = Table(title=f"simulated patients, found by `msrim segment` and judged by {given.model}, {given.threshold}")
    for column in ("seed", *COLUMNS):
        rows.add_column(column, justify="right")
    counts, off = zip(*(judge(seed, given.out, given.model, given.threshold) for seed in given.seeds), strict=True)
    for seed, count in zip(given.seeds, counts, strict=True):
        rows.add_row(str(seed), *map(str, count))
    rows.add_row("all", *map(str, np.sum(counts, axis=0)))
    Page(width=140).print(rows)
    off_mm = np.concatenate(off)
    half, most = np.percentile(np.linalg.norm(off_mm, axis=1), (50, 90))
    along = " ".join(f"{axis:.1f}" for axis in np.sqrt(np.mean(off_mm**2, axis=0)))
    print(
        f"{len(off_mm)} found lesions lie off the middle of made ones: half by {half:.1f} mm at most, nine of ten by "
        f"{most:.1f} mm; root mean square along the axes {along} mm"
    )


if __name__ == "__main__":
    main()
