"""The backends side by side on real patients: who registers, finds brain and tissue how well, and what it costs.

python -m tests.benchmarks.backends --data DIR --out DIR [--visits VISIT ...] [--lesions]

Raw visits have published transforms and a brain mask below `bids/derivatives/expert` of --data. In a visit of `mni` the
authors registered the images and extracted the brain: nothing is to be moved. Every visit is prepared by every backend
that is installed; one that is not is named as absent. With --lesions they are found too, which takes as long again.
What two backends do alike (SynthStrip, head labels of one image) is done once and told with the same cost.

A run that is ended goes on with the same command: finished steps in --out are kept. One table for each visit is printed
when its last backend has ended, and one over all of them. What a step costs is the processor's time and the peak memory
of run.json: the time of FSL's programs is in it, their memory is not.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msrim.bids import find_subject
from msrim.console import Console
from msrim.errors import BackendError
from msrim.image import Volume, read_volume, resample
from msrim.preprocess.backends import find_backend
from msrim.preprocess.coordinates import distance_to_boundary
from msrim.preprocess.tissue import csf_structures
from msrim.recipe import Recipe
from msrim.transform import apply_transform, read_transform
from msrim.workflows.anatomy import Anatomy, preprocess_visit, read_mask, read_own
from msrim.workflows.segment import Lesions, segment_visit

BACKENDS = ("embedded", "ants", "fsl")
# Steps whose cost differs between backends; the others are the same work.
STEPS = ("extract_brain", "correct", "align", "align_to_template", "classify_tissue", "find_lesions")
VISITS = ("bids/sub-12/ses-01", "bids/sub-12/ses-02", "bids/sub-20/ses-02", "bids/sub-04/ses-01", "mni/sub-openms07")


# Numbers by what they tell; one row of a table.
Rows = dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Result:
    """One visit by one backend; lesions only where they were asked for."""

    backend: str
    anatomy: Anatomy
    lesions: Lesions | None
    told: dict


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Of two masks; 1 where both are empty."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 1.0


def gap_mm(one: np.ndarray, other: np.ndarray, brain: Volume) -> float:
    """How far apart two transforms put the brain, on average."""
    points = apply_transform(brain.affine, np.argwhere(brain.data)[::50])
    return float(np.linalg.norm(apply_transform(one, points) - apply_transform(other, points), axis=1).mean())


def distance_maps(result: Result) -> tuple[np.ndarray, Volume]:
    """Distance to CSF on the working grid, mm, and the brain there."""
    csf = csf_structures(read_own(result.anatomy.working.tissue))
    return distance_to_boundary(csf), read_mask(result.anatomy.working.brain)


@dataclass(frozen=True)
class Truth:
    """What was published of a raw visit."""

    folder: Path
    prefix: str
    session: str

    def to_flair(self, contrast: str) -> np.ndarray:
        """``flair_from_contrast``, RAS mm."""
        return self._transform(f"from-{contrast}_to-FLAIR")

    def brain_on(self, grid: Volume) -> np.ndarray:
        """The brain mask, which lies in the visits' common space."""
        path = self.folder / "anat" / f"{self.prefix.split('_')[0]}_space-common_desc-brain_mask.nii.gz"
        common = self._transform("from-FLAIR_to-common")
        brain = resample(read_volume(path, mask=True), grid, target_from_source=np.linalg.inv(common), nearest=True)
        return brain.data > 0

    def _transform(self, name: str) -> np.ndarray:
        return read_transform(self.folder / self.session / "xfm" / f"{self.prefix}_{name}_mode-image_xfm.txt")


def compare(result: Result, embedded: Result, *, truth: Truth | None) -> Rows:
    """What is told of a visit by one backend; what was published of it is the identity in a visit without truth."""
    brain = read_mask(result.anatomy.files.brain)
    rows: Rows = {}
    for contrast, found in result.anatomy.to_flair.items():
        right = np.eye(4) if truth is None else truth.to_flair(contrast)
        away = gap_mm(*(np.linalg.inv(matrix) for matrix in (read_transform(found), right)), brain)
        rows[f"{contrast} to FLAIR, from the published place, mm"] = (away,)
    to_mni = [read_transform(each.anatomy.to_mni) for each in (result, embedded)]
    rows["FLAIR to MNI, from embedded, mm"] = (gap_mm(*to_mni, brain),)
    if truth is not None:
        rows["brain, Dice with the published one"] = (dice(brain.data, truth.brain_on(brain)),)
    tissue, of_embedded = (read_own(each.anatomy.files.tissue).data for each in (result, embedded))
    rows["tissue, Dice with embedded: CSF, GM, WM"] = tuple(
        dice(tissue == each, of_embedded == each) for each in (1, 2, 3)
    )
    rows["brain without a tissue class, ml"] = (_ml(brain, brain.data & (tissue == 0)),)
    (mine, inside), (other, of_other) = distance_maps(result), distance_maps(embedded)
    flat = inside.like(mine)
    both = inside.data & resample(of_other, flat, nearest=True).data.astype(bool)
    apart = np.abs(mine - resample(of_other.like(other), flat).data)[both]
    rows["distance to CSF, from embedded, mm: mean, 95 %"] = (float(apart.mean()), float(np.percentile(apart, 95)))
    if result.lesions is not None and embedded.lesions is not None:
        masks = [read_volume(each.lesions.files.mask, mask=True) for each in (result, embedded)]
        rows["lesions, Dice with embedded"] = (dice(masks[0].data, masks[1].data),)
        rows["lesions, ml"] = (_ml(masks[0], masks[0].data),)
    for name in STEPS:
        steps = [step for step in result.told["steps"] if re.fullmatch(rf"{name}(_(FLAIR|T1w|T2w))?", step["name"])]
        if steps:
            seconds = sum(step["processor_seconds"] for step in steps)
            rows[f"{name}, processor s, MiB"] = (seconds, max(step["peak_mib"] or 0 for step in steps))
    rows["replaced by something else"] = (len(result.told["fallbacks"]),)
    return rows


def _ml(grid: Volume, mask: np.ndarray) -> float:
    return np.count_nonzero(mask) * grid.voxel_volume_mm3 / 1000


def run_visit(folder: Path, out: Path, *, lesions: bool, model: str) -> tuple[dict[str, Result], dict[str, str]]:
    """One visit by every backend that there is; and why there are others not."""
    found, absent = {}, {}
    for name in BACKENDS:
        try:
            backend = find_backend(name)
        except BackendError as error:
            absent[name] = str(error)
            continue
        subject, results = find_subject(folder), out / name
        share_steps(subject.folder(out / BACKENDS[0]) / "work", subject.folder(results) / "work")
        recipe = Recipe(backend=name, model=model, brain_extracted="mni" in folder.parts)
        if lesions:
            anatomy, of_lesions = segment_visit(subject, recipe, results, console=Console())
        else:
            anatomy, of_lesions = preprocess_visit(subject, recipe, results, console=Console()), None
        told = json.loads((subject.folder(results) / "run.json").read_text(encoding="utf-8"))
        found[name] = Result(backend, anatomy, of_lesions, told)
    return found, absent


def share_steps(done: Path, work: Path) -> None:
    """Start from what the first backend's run has done, so that a step that is the same work is done once."""
    for folder in done.iterdir() if done.is_dir() and not work.exists() else ():
        if folder.is_dir():
            shutil.copytree(folder, work / folder.name)


def print_table(title: str, backends: dict[str, str], columns: dict[str, list[Rows]]) -> None:
    """By backend: the numbers of one visit, or median and range where there are several."""
    print(f"| {title} | {' | '.join(backends.values())} |")
    print(f"|---{'|---' * len(backends)}|")
    for name in dict.fromkeys(name for rows in columns.values() for each in rows for name in each):
        cells = [_cell([each[name] for each in columns[backend] if name in each]) for backend in backends]
        print(f"| {name} | {' | '.join(cells)} |")


def _cell(values: list[tuple[float, ...]]) -> str:
    def of_one(numbers: tuple[float, ...]) -> str:
        if len(numbers) == 1:
            return _number(numbers[0])
        median, low, high = (_number(each) for each in (float(np.median(numbers)), min(numbers), max(numbers)))
        return f"{median} ({low}-{high}, n = {len(numbers)})"

    return ", ".join(of_one(numbers) for numbers in zip(*values, strict=True)) or "-"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.2f}"


def main() -> None:
    """Prepare every visit by every backend, and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--visits", nargs="+", default=VISITS, help="folders below --data")
    parser.add_argument("--lesions", action="store_true", help="find the lesions too")
    parser.add_argument("--model", default="allnet", help="for the lesions")
    options = parser.parse_args()
    backends: dict[str, str] = {}
    columns: dict[str, list[Rows]] = {name: [] for name in BACKENDS}
    for visit in options.visits:
        found, absent = run_visit(options.data / visit, options.out, lesions=options.lesions, model=options.model)
        backends = {name: result.backend for name, result in found.items()}
        kind, label, *session = visit.split("/")
        truth = None
        if kind == "bids":
            truth = Truth(options.data / kind / "derivatives" / "expert" / label, f"{label}_{session[0]}", session[0])
        told = {name: compare(result, found["embedded"], truth=truth) for name, result in found.items()}
        print_table(visit, backends, {name: [rows] for name, rows in told.items()})
        for name, rows in told.items():
            columns[name].append(rows)
            for text in found[name].told["fallbacks"]:
                print(f"\n{name}: {text}")
        for name, why in absent.items():
            print(f"\n{name} absent: {why}")
        print(flush=True)
    print_table(f"{len(options.visits)} visits: median (range, n)", backends, columns)


if __name__ == "__main__":
    main()
