"""The backends side by side on real patients: who registers, finds brain and tissue how well, and what it costs.

python -m tests.benchmarks.backends --data DIR --out DIR

Raw visits have published transforms and a brain mask below `bids/derivatives/expert` of --data. In a visit of `mni` the
authors registered the images and extracted the brain: nothing is to be moved. Every visit is segmented by every backend
that is installed; one that is not is named as absent. A run that is ended goes on with the same command: finished steps
in --out are kept. Seconds and MiB are those of run.json: of msrim's own process, wall clock on this machine as it was.
"""

from __future__ import annotations

import argparse
import json
import re
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
from msrim.workflows.anatomy import Anatomy, read_mask, read_own
from msrim.workflows.segment import Lesions, segment_visit

BACKENDS = ("embedded", "ants", "fsl")
# Steps whose cost differs between backends; the others are the same work.
STEPS = ("extract_brain", "correct", "align", "align_to_template", "classify_tissue")
VISITS = ("bids/sub-12/ses-01", "bids/sub-12/ses-02", "bids/sub-20/ses-02", "bids/sub-04/ses-01", "mni/sub-openms07")


@dataclass(frozen=True)
class Result:
    """One visit by one backend."""

    backend: str
    anatomy: Anatomy
    lesions: Lesions
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


def compare(result: Result, embedded: Result, *, truth: Truth | None) -> list[tuple[str, str]]:
    """What is told of a visit by one backend: name and value."""
    rows = []
    brain = read_mask(result.anatomy.files.brain)
    for contrast, found in result.anatomy.to_flair.items():
        right = np.eye(4) if truth is None else truth.to_flair(contrast)
        away = gap_mm(*(np.linalg.inv(matrix) for matrix in (read_transform(found), right)), brain)
        rows.append((f"{contrast} to FLAIR, from the published place, mm", f"{away:.2f}"))
    to_mni = [read_transform(each.anatomy.to_mni) for each in (result, embedded)]
    rows.append(("FLAIR to MNI, from embedded, mm", f"{gap_mm(*to_mni, brain):.2f}"))
    if truth is not None:
        ml = np.count_nonzero(brain.data) * brain.voxel_volume_mm3 / 1000
        rows.append(
            ("brain, Dice with the published one (ml)", f"{dice(brain.data, truth.brain_on(brain)):.3f} ({ml:.0f})")
        )
    tissue, of_embedded = (read_own(each.anatomy.files.tissue).data for each in (result, embedded))
    agreement = " ".join(f"{dice(tissue == each, of_embedded == each):.3f}" for each in (1, 2, 3))
    rows.append(("tissue, Dice with embedded: CSF GM WM", agreement))
    unclassified = np.count_nonzero(brain.data & (tissue == 0)) * brain.voxel_volume_mm3 / 1000
    rows.append(("brain without a tissue class, ml", f"{unclassified:.1f}"))
    (mine, inside), (other, of_other) = distance_maps(result), distance_maps(embedded)
    flat = inside.like(mine)
    on_mine = resample(of_other.like(other), flat)
    both = inside.data & resample(of_other, flat, nearest=True).data.astype(bool)
    apart = np.abs(mine - on_mine.data)[both]
    most = np.percentile(apart, 95)
    rows.append(("distance to CSF, from embedded, mm: mean, 95 %", f"{apart.mean():.2f}, {most:.2f}"))
    masks = [read_volume(each.lesions.files.mask, mask=True) for each in (result, embedded)]
    ml = np.count_nonzero(masks[0].data) * masks[0].voxel_volume_mm3 / 1000
    rows.append(("lesions, Dice with embedded (ml)", f"{dice(masks[0].data, masks[1].data):.3f} ({ml:.1f})"))
    for name in STEPS:
        steps = [step for step in result.told["steps"] if re.fullmatch(rf"{name}(_(FLAIR|T1w|T2w))?", step["name"])]
        cost = ", ".join(f"{step['seconds']:.1f} s {step['peak_mib'] or 0:.0f} MiB" for step in steps)
        rows.append((f"{name}, each contrast", cost or "-"))
    rows.append(("replaced", "; ".join(result.told["fallbacks"]) or "-"))
    return rows


def run_visit(folder: Path, out: Path) -> tuple[dict[str, Result], dict[str, str]]:
    """One visit by every backend that there is; and why there are others not."""
    found, absent = {}, {}
    for name in BACKENDS:
        try:
            backend = find_backend(name)
        except BackendError as error:
            absent[name] = str(error)
            continue
        subject, results = find_subject(folder), out / name
        recipe = Recipe(backend=name, brain_extracted="mni" in folder.parts)
        anatomy, lesions = segment_visit(subject, recipe, results, console=Console())
        told = json.loads((subject.folder(results) / "run.json").read_text(encoding="utf-8"))
        found[name] = Result(backend, anatomy, lesions, told)
    return found, absent


def main() -> None:
    """Segment by every backend and print a table for each visit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--visits", nargs="+", default=VISITS, help="folders below --data")
    options = parser.parse_args()
    for visit in options.visits:
        found, absent = run_visit(options.data / visit, options.out)
        kind, label, *session = visit.split("/")
        truth = None
        if kind == "bids":
            truth = Truth(options.data / kind / "derivatives" / "expert" / label, f"{label}_{session[0]}", session[0])
        columns = [compare(result, found["embedded"], truth=truth) for result in found.values()]
        print(f"| {visit} | {' | '.join(result.backend for result in found.values())} |")
        print(f"|---{'|---' * len(found)}|")
        for row in zip(*columns, strict=True):
            print(f"| {row[0][0]} | {' | '.join(value for _, value in row)} |")
        for name, why in absent.items():
            print(f"\n{name} absent: {why}")
        print(flush=True)


if __name__ == "__main__":
    main()
