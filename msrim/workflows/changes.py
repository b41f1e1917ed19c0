"""What each step between two visits does: read files, call one room, write files, as :mod:`msrim.workflows.steps` does.

Arguments named ``baseline_*`` and ``followup_*`` come in pairs; exchanged, they give exchanged results.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from msrim.errors import Fallback
from msrim.files import write_text
from msrim.image import Volume, read_volume, resample, write_volume
from msrim.lesions.change import ChangedTissue, changed_tissue, clear_change, decide_change, difference_z
from msrim.lesions.measure import LESION_COLUMNS, measure_lesions, write_lesions_tsv
from msrim.lesions.split import split_confluent
from msrim.lesions.track import (
    CHANGE_COLUMNS,
    TrackedLesion,
    lesions_of_visit,
    summarise_changes,
    track_lesions,
    write_changes_tsv,
)
from msrim.models.registry import read_card
from msrim.preprocess.masks import without_shallow
from msrim.preprocess.match import match_intensities
from msrim.preprocess.midway import Midway, brain_overlap, find_midway, to_midway
from msrim.transform import read_transform, write_transform
from msrim.workflows.steps import read_mask, read_own

VISITS = ("baseline", "followup")
# Two visits of one patient overlap at 0.97 and more, the brains of two patients at 0.92 and less.
MIN_OVERLAP = 0.95
# A T2w that covers less of the brain tells too little of its own noise.
MIN_T2W_SHARE = 0.5
FULLY_SHOWN = 0.99
# What counts as the grown part of a lesion: new tissue of lesions that are called new, or larger than they were.
GROWING = ("new", "enlarging", "merged", "split")


def meet(
    baseline: Path,
    followup: Path,
    *,
    baseline_brain: Path,
    followup_brain: Path,
    baseline_to_mni: Path,
    followup_to_mni: Path,
) -> tuple[dict[str, Path], dict[str, float]]:
    """Find the midway space: the brain at both visits, and the FLAIRs on its grid; how well the two agree."""
    images = [read_own(path) for path in (baseline, followup)]
    brains = [read_mask(path) for path in (baseline_brain, followup_brain)]
    upright = np.stack([read_transform(path) for path in (baseline_to_mni, followup_to_mni)])
    midway = find_midway(*images, baseline_brain=brains[0], followup_brain=brains[1], upright=upright)
    transforms = (midway.from_baseline, midway.from_followup)
    inside = [_fraction(brain, midway, matrix) for brain, matrix in zip(brains, transforms, strict=True)]
    inside = [fraction.like(fraction.data > 0.5) for fraction in inside]
    overlap = brain_overlap(*inside)
    if overlap < MIN_OVERLAP:
        warnings.warn(
            f"the two brains overlap at Dice {overlap:.2f} only, where visits of one patient reach {MIN_OVERLAP:g}: "
            "make sure that both are of the same patient, and look at the pictures",
            Fallback,
            stacklevel=2,
        )
    both = inside[0].data & inside[1].data
    sampled = to_midway(tuple(images), midway.grid, transforms=transforms)
    files = {"brain": write_volume(midway.grid.like(both), Path("brain.nii"))}
    for name, image, matrix in zip(VISITS, sampled, transforms, strict=True):
        files[name] = write_volume(image, Path(f"{name}.nii"))
        files[f"from_{name}"] = write_transform(matrix, Path(f"from_{name}.txt"))
    return files, {
        "brain_overlap": round(overlap, 4),
        "flair_correlation": round(float(np.corrcoef(*(image.data[both] for image in sampled))[0, 1]), 4),
        "registration_disagreement_mm": round(midway.disagreement_mm, 3),
    }


def meeting_inputs(visits: list[tuple[str, dict[str, dict[str, Any]]]]) -> dict[str, Path]:
    """Arguments of :func:`meet` from what the steps of the two visits, by the names of VISITS, gave."""
    taken = {"": ("correct_FLAIR", "image"), "_brain": ("extract_brain_FLAIR", "brain")}
    taken["_to_mni"] = ("align_to_template", "transform")
    return {
        f"{name}{suffix}": given[node][output] for name, given in visits for suffix, (node, output) in taken.items()
    }


def match(
    met: dict[str, Path],
    *,
    baseline_lesion: Path | None = None,
    followup_lesion: Path | None = None,
    baseline_t2w: Path | None = None,
    followup_t2w: Path | None = None,
    baseline_t2w_to_flair: Path | None = None,
    followup_t2w_to_flair: Path | None = None,
) -> dict[str, Path]:
    """Both FLAIRs with matched intensities, and both T2w where both are given.

    The lesions of the visits, where they are known, have no say in it. A T2w is 0 where either visit does not show it;
    it is left out, with a warning, if that is half of the brain.
    """
    brain = read_mask(met["brain"])
    lesions = np.zeros(brain.shape, bool)
    for name, lesion in zip(VISITS, (baseline_lesion, followup_lesion), strict=True):
        if lesion is not None:
            lesions |= _on_midway(lesion, met, name).data > 0.2
    images = (read_own(met[name]) for name in VISITS)
    matched = match_intensities(*images, brain=brain, lesions=brain.like(lesions))
    files = {name: write_volume(image, Path(f"{name}.nii")) for name, image in zip(VISITS, matched, strict=True)}
    if baseline_t2w is not None and followup_t2w is not None:
        t2w = read_own(baseline_t2w), read_own(followup_t2w)
        to_flair = (baseline_t2w_to_flair, followup_t2w_to_flair)
        transforms = tuple(
            read_transform(met[f"from_{name}"]) @ read_transform(path)
            for name, path in zip(VISITS, to_flair, strict=True)
        )
        sampled = to_midway(t2w, brain, transforms=transforms)
        # Where its field of view or its brain ends, an image fades, and would look changed.
        shown = [image.like((image.data > 0).astype(np.float32)) for image in t2w]
        shares = [share.data for share in to_midway(tuple(shown), brain, transforms=transforms)]
        seen = brain.data & (np.minimum(*shares) > FULLY_SHOWN)
        if np.count_nonzero(seen) < MIN_T2W_SHARE * np.count_nonzero(brain.data):
            warnings.warn(
                "the T2w of both visits show less than half of the brain together; changes were decided without them",
                Fallback,
                stacklevel=2,
            )
            return files
        matched = match_intensities(*sampled, brain=brain.like(seen), lesions=brain.like(lesions))
        for name, image in zip(VISITS, matched, strict=True):
            files[f"{name}_t2w"] = write_volume(image, Path(f"{name}_t2w.nii"))
    return files


def compare(
    met: dict[str, Path], *, matched: dict[str, Path], model: str, sha256: str, device: str, threshold: float
) -> dict[str, Path]:
    """What CoactSeg, run both ways round, says: lesions at either visit (probabilities), new and gone tissue (masks).

    The sum makes other weights another step. What keeps to the brain's surface is neither lesion nor change, as in
    :func:`msrim.models.inference.find_lesions`.
    """
    from msrim.models.coactseg import find_changes
    from msrim.models.inference import SURFACE_MM

    brain = read_mask(met["brain"])
    images = (read_own(matched[name]).data.astype(np.float32) for name in VISITS)
    lesions, changes = find_changes(*images, card=read_card(model), device=device)
    # Lesions and changes together: the grown part of a lesion may lie at the surface, if the lesion reaches deeper.
    anything = np.maximum(lesions.max(axis=0), changes.max(axis=0)) * brain.data
    kept = without_shallow(brain.like(anything), brain, deeper_than_mm=SURFACE_MM).data
    gone, new = (np.minimum(change, kept) >= threshold for change in changes)
    # Where both ways claim a change the two claims contradict each other, and nothing is said.
    files = {
        name: write_volume(brain.like(claim & ~(gone & new)), Path(f"{name}.nii"))
        for name, claim in (("new", new), ("gone", gone))
    }
    for name, probability in zip(VISITS, lesions, strict=True):
        files[name] = write_volume(brain.like(np.minimum(probability, kept)), Path(f"{name}.nii"))
    return files


def decide_by_rule(
    met: dict[str, Path],
    *,
    matched: dict[str, Path],
    compared: dict[str, Path],
    baseline_lesion: Path,
    followup_lesion: Path,
    baseline_sphere: Path,
    followup_sphere: Path,
    threshold: float,
) -> dict[str, Path]:
    """Lesions of both visits and changed tissue, see :mod:`msrim.lesions.change`."""
    brain = read_mask(met["brain"])
    lesions = [
        _on_midway(path, met, name) for name, path in zip(VISITS, (baseline_lesion, followup_lesion), strict=True)
    ]
    spheres = [
        _on_midway(path, met, name) for name, path in zip(VISITS, (baseline_sphere, followup_sphere), strict=True)
    ]
    tissue = decide_change(
        *(read_own(matched[name]) for name in VISITS),
        brain=brain,
        probabilities=tuple(lesions),
        threshold=threshold,
        claims=(read_mask(compared["gone"]), read_mask(compared["new"])),
        t2w=_t2w(matched),
    )
    files = _write_tissue(tissue, dict(zip(VISITS, lesions, strict=True)))
    files["sphere"] = write_volume(spheres[0].like((spheres[0].data + spheres[1].data) / 2), Path("sphere.nii"))
    return files


def decide_by_network(
    met: dict[str, Path], *, matched: dict[str, Path], compared: dict[str, Path], threshold: float
) -> dict[str, Path]:
    """The same from what CoactSeg says alone; what the images do not show clearly is no change."""
    brain = read_mask(met["brain"])
    z = difference_z(*(read_own(matched[name]) for name in VISITS), brain=brain)
    lesions = {name: read_own(compared[name]) for name in VISITS}
    lesion = brain.like((lesions["baseline"].data + lesions["followup"].data) / 2 >= threshold)
    new = clear_change(read_mask(compared["new"]), z)
    gone = clear_change(read_mask(compared["gone"]), z.like(-z.data))
    return _write_tissue(changed_tissue(lesion, new=new, gone=gone), lesions)


def _t2w(matched: dict[str, Path]) -> tuple[Volume, Volume] | None:
    """What :func:`match` wrote of the T2w, if it did."""
    names = [f"{name}_t2w" for name in VISITS]
    return tuple(read_own(matched[name]) for name in names) if names[0] in matched else None


def _write_tissue(tissue: ChangedTissue, probabilities: dict[str, Volume]) -> dict[str, Path]:
    files = {name: write_volume(getattr(tissue, name), Path(f"{name}.nii")) for name in ("new", "gone", *VISITS)}
    for name, probability in probabilities.items():
        files[f"{name}_probability"] = write_volume(probability, Path(f"{name}_probability.nii"))
    return files


def write_changes(
    met: dict[str, Path],
    *,
    matched: dict[str, Path],
    tissue: dict[str, Path],
    agreement: dict[str, float],
    baseline_flair: Path,
    followup_flair: Path,
    baseline_anatomy: dict[str, Path],
    followup_anatomy: dict[str, Path],
    min_lesion_mm3: float,
    method: str,
    folder: Path,
    names: dict[str, str],
) -> tuple[dict[str, Path], list[dict[str, Any]], dict[str, Any]]:
    """Track every lesion and write what the user gets: the files, the rows of the change table, and the summary."""
    files = {key: folder / name for key, name in names.items()}
    brain = read_mask(met["brain"])
    masks = {name: read_mask(tissue[name]) for name in ("new", "gone", *VISITS)}
    sphere = read_own(tissue["sphere"]) if "sphere" in tissue else None
    parts = split_confluent(brain.like(masks["baseline"].data | masks["followup"].data), sphere_probability=sphere)
    instances = {name: lesions_of_visit(parts, masks[name], min_mm3=min_lesion_mm3) for name in VISITS}
    rows = track_lesions(instances["baseline"], instances["followup"])
    growing = {number for row in rows if row.change in GROWING for number in row.followup_ids}
    shrinking = {number for row in rows if _turned(row.change) in GROWING for number in row.baseline_ids}
    changed = {
        "followup": masks["new"].data & np.isin(instances["followup"].data, list(growing)),
        "baseline": masks["gone"].data & np.isin(instances["baseline"].data, list(shrinking)),
    }
    anatomies = {"baseline": baseline_anatomy, "followup": followup_anatomy}
    for name, flair in zip(VISITS, (baseline_flair, followup_flair), strict=True):
        target = read_volume(flair)
        matrix = np.linalg.inv(read_transform(met[f"from_{name}"]))
        own = labels_on_grid(instances[name], target, target_from_source=matrix)
        # New and gone tissue keep their lesion's number until they lie on the visit's grid, so that none is lost.
        part = brain.like(np.where(changed[name], instances[name].data, 0))
        write_volume(own, files[f"{name}_instances"])
        write_volume(
            target.like(labels_on_grid(part, target, target_from_source=matrix).data > 0), files[f"{name}_changed"]
        )
        probability = resample(read_own(tissue[f"{name}_probability"]), target, target_from_source=matrix)
        measured = measure_lesions(own, probability=probability, labels=read_own(anatomies[name]["labels"]))
        write_lesions_tsv([_with_change(lesion, rows, name) for lesion in measured], files[f"{name}_table"])
        write_transform(read_transform(met[f"from_{name}"]), files[f"{name}_transform"])
        write_volume(read_own(matched[name]), files[f"{name}_midway"])
    write_volume(_tracked(rows, instances), files["tracked"])
    images = [read_own(matched[name]) for name in VISITS]
    write_volume(difference_z(*images, brain=brain), files["difference"])
    if t2w := _t2w(matched):
        seen = brain.like((t2w[0].data != 0) & (t2w[1].data != 0))
        write_volume(difference_z(*t2w, brain=seen), files["difference_t2w"])
    else:
        del files["difference_t2w"]
    write_changes_tsv(rows, files["changes"])
    summary = {**summarise_changes(rows), **agreement, "method": method}
    for key, content in (
        ("changes_columns", CHANGE_COLUMNS),
        ("table_columns", LESION_COLUMNS),
        ("summary", summary),
        (
            "followup_changed_sidecar",
            {"Type": "Lesion", "Manual": False, "Description": "New tissue", "Method": method},
        ),
        (
            "baseline_changed_sidecar",
            {"Type": "Lesion", "Manual": False, "Description": "Gone tissue", "Method": method},
        ),
    ):
        write_text(json.dumps(content, indent=2) + "\n", files[key])
    return files, [asdict(row) for row in rows], summary


def labels_on_grid(labels: Volume, target: Volume, *, target_from_source: np.ndarray) -> Volume:
    """A label map on a visit's own grid: a voxel belongs to a lesion that fills half of it.

    Thick slices are sampled at several depths and averaged. A lesion too small to fill half of any voxel keeps the
    voxels that it lies in, so that no row of the table is without a place.

    Returns
    -------
    Volume of int32
        Of two lesions in one voxel, the one of the higher number, which is the smaller.
    """
    depths = np.maximum(np.ceil(target.spacing / labels.spacing.min() - 1e-3), 1).astype(int)
    affine = target.affine @ np.diag([*(1 / depths), 1.0])
    # The first fine voxel's centre lies this far from the coarse one's.
    affine[:3, 3] += target.affine[:3, :3] @ ((1 / depths - 1) / 2)
    shape = tuple(int(n * d) for n, d in zip(target.shape, depths, strict=True))
    fine = resample(
        labels, Volume(np.broadcast_to(np.int32(0), shape), affine), target_from_source=target_from_source, nearest=True
    )
    (x, y, z), (a, b, c) = target.shape, depths
    blocks = fine.data.reshape(x, a, y, b, z, c)
    highest = blocks.max(axis=(1, 3, 5)).astype(np.int32)
    whole = np.where((blocks > 0).mean(axis=(1, 3, 5)) >= 0.5, highest, 0)
    lost = np.setdiff1d(np.unique(highest), np.unique(whole))
    return target.like(np.where((whole == 0) & np.isin(highest, lost), highest, whole))


def _with_change(lesion: Any, rows: list[TrackedLesion], visit: str) -> Any:
    """A row of a visit's own table with what the tracking says; of several matches the largest, which comes first."""
    own, other = ("baseline_ids", "followup_ids") if visit == "baseline" else ("followup_ids", "baseline_ids")
    row = next(row for row in rows if lesion.id in getattr(row, own))
    return replace(lesion, change=row.change, matched_id=min(getattr(row, other), default=None))


def _tracked(rows: list[TrackedLesion], instances: dict[str, Volume]) -> Volume:
    """The lesions of both visits, numbered as the rows are."""
    tracked = np.zeros(instances["baseline"].shape, np.int32)
    for name, volume in instances.items():
        row_of = np.zeros(int(volume.data.max()) + 1, np.int32)
        for row in rows:
            row_of[list(getattr(row, f"{name}_ids"))] = row.id
        tracked = np.maximum(tracked, row_of[volume.data])
    return instances["baseline"].like(tracked)


def _turned(change: str) -> str:
    """What a change is called with the visits exchanged."""
    pairs = {"new": "vanished", "enlarging": "shrinking", "merged": "split"}
    return (pairs | {value: key for key, value in pairs.items()}).get(change, change)


def _fraction(mask: Volume, midway: Midway, matrix: np.ndarray) -> Volume:
    return resample(mask.like(mask.data.astype(np.float32)), midway.grid, target_from_source=matrix)


def _on_midway(path: Path, met: dict[str, Path], visit: str) -> Volume:
    return resample(read_own(path), read_own(met[visit]), target_from_source=read_transform(met[f"from_{visit}"]))
