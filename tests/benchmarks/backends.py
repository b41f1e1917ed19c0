"""The backends side by side on raw patients: who registers, finds brain and tissue how well, and what it costs.

python -m tests.benchmarks.backends --data DIR --out DIR

DIR of --data has `bids/sub-*` with published transforms and brain masks below `bids/derivatives/expert`; every visit
named by --visits is segmented by every backend that is installed, whatever of it is in --out already is kept. Seconds
and MiB are those of run.json: of msrim's own process, wall clock on this machine as it was.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console as RichConsole
from rich.table import Table

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


def compare(result: Result, embedded: Result, *, published: Path, visit: str) -> list[tuple[str, str]]:
    """What is told of a visit by one backend: name and value."""
    label, session = visit.split("/")
    rows = []
    brain = read_mask(result.anatomy.files.brain)
    for contrast, found in result.anatomy.to_flair.items():
        truth = published / session / "xfm" / f"{label}_{session}_from-{contrast}_to-FLAIR_mode-image_xfm.txt"
        away = gap_mm(*(np.linalg.inv(read_transform(path)) for path in (found, truth)), brain)
        rows.append((f"{contrast} to FLAIR, from the published transform, mm", f"{away:.2f}"))
    to_mni = [read_transform(each.anatomy.to_mni) for each in (result, embedded)]
    rows.append(("FLAIR to MNI, from embedded, mm", f"{gap_mm(*to_mni, brain):.2f}"))
    common = read_transform(published / session / "xfm" / f"{label}_{session}_from-FLAIR_to-common_mode-image_xfm.txt")
    expert = read_volume(published / "anat" / f"{label}_space-common_desc-brain_mask.nii.gz", mask=True)
    expert = resample(expert, brain, target_from_source=np.linalg.inv(common), nearest=True)
    ml = np.count_nonzero(brain.data) * brain.voxel_volume_mm3 / 1000
    rows.append(("brain, Dice with the published one (ml)", f"{dice(brain.data, expert.data > 0):.3f} ({ml:.0f})"))
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


def main() -> None:
    """Segment by every backend and print a table for each visit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--visits", nargs="+", default=["sub-12/ses-01"])
    options = parser.parse_args()
    screen = RichConsole(width=150)
    for visit in options.visits:
        results: dict[str, Result | str] = {}
        for name in BACKENDS:
            try:
                backend = find_backend(name)
            except BackendError as error:
                results[name] = f"absent: {error}"
                continue
            subject, out = find_subject(options.data / "bids" / visit), options.out / name
            anatomy, lesions = segment_visit(subject, Recipe(backend=name), out, console=Console())
            told = json.loads((subject.folder(out) / "run.json").read_text(encoding="utf-8"))
            results[name] = Result(backend, anatomy, lesions, told)
        published = options.data / "bids" / "derivatives" / "expert" / visit.split("/")[0]
        there = {name: result for name, result in results.items() if isinstance(result, Result)}
        columns = [compare(result, there["embedded"], published=published, visit=visit) for result in there.values()]
        table = Table(visit, *(result.backend for result in there.values()))
        for row in zip(*columns, strict=True):
            table.add_row(row[0][0], *(value for _, value in row))
        screen.print(table)
        for name, result in results.items():
            if isinstance(result, str):
                screen.print(f"{name} {result}")


if __name__ == "__main__":
    main()
