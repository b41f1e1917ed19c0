"""What each step of rim classification does; see :mod:`msrim.workflows.steps` for what passes between steps."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cc3d
import nibabel as nib
import numpy as np
from scipy.ndimage import find_objects

from msrim.errors import Fallback
from msrim.files import write_text
from msrim.image import Volume, read_volume, resample, same_grid, write_volume
from msrim.lesions.measure import LESION_COLUMNS, Lesion, measure_lesions, summarise, write_lesions_tsv
from msrim.lesions.patches import cut_patches, looks_inverted, susceptibility_ppm
from msrim.lesions.split import label_lesions
from msrim.models.registry import read_card
from msrim.preprocess import fsl
from msrim.preprocess.masks import grown_mask
from msrim.preprocess.normalise import normalise_intensity
from msrim.preprocess.register import register_rigid
from msrim.transform import read_transform, write_transform
from msrim.workflows.steps import read_mask, read_own

# What is seen of the background around the brain in registration.
OUTLINE_MM = 8.0
# A field of view holds at least this share of what is not brain.
LEAST_OUTSIDE = 0.05
# Patients from so many rim+ lesions on fared worse (Absinta et al. 2019, doi:10.1001/jamaneurol.2019.2399).
MANY_RIMS = 4


def read_qsm(path: Path) -> tuple[Path, str]:
    """Read and check a user's QSM; write it in ppm, and say which unit it was in."""
    qsm, unit = susceptibility_ppm(read_volume(path), name=str(path))
    if looks_inverted(qsm):
        warnings.warn(
            "the QSM's sign looks inverted: dark values reach further than bright ones. Rims are told by being bright; "
            "multiply the map by -1 and run again if its veins are dark",
            Fallback,
            stacklevel=2,
        )
    if np.mean(qsm.data == 0) < LEAST_OUTSIDE:
        warnings.warn(
            "the QSM is not zero outside the brain, so its noise there counts as brain; mask it and run again",
            Fallback,
            stacklevel=2,
        )
    return write_volume(qsm, Path("qsm.nii")), unit


def align_to_qsm(
    flair: Path, *, corrected: Path, brain: Path, qsm: Path, backend: str, magnitude: Path | None = None
) -> Path:
    """Rigid transform from the FLAIR to the QSM, by way of its magnitude image where there is one.

    Images on one grid are taken as aligned. A QSM alone says little of where it lies: grey and white matter differ by
    less than its noise. The brain's outline does, so it is made visible and kept in view to the last step.
    """
    target, moving, mask = read_volume(qsm), read_volume(corrected), read_mask(brain)
    if same_grid(read_volume(flair), target):
        return write_transform(np.eye(4), Path("to_qsm.txt"))
    inside = target.like(target.data != 0)
    if magnitude is None:
        low, high = np.percentile(target.data[inside.data], (1, 99))
        grey = 1 + np.clip((target.data - low) / (high - low), 0, 1)
        fixed, region = target.like((grey * inside.data).astype(np.float32)), grown_mask(inside, by_mm=OUTLINE_MM)
        moving = moving.like(moving.data * mask.data)
    else:
        fixed, region = resample(read_volume(magnitude), target), inside
    register = fsl.register_rigid if backend == "fsl" else register_rigid
    matrix = register(moving, fixed, moving_mask=mask, fixed_mask=region)
    return write_transform(matrix, Path("to_qsm.txt"))


def bring_to_qsm(
    flair: Path, *, qsm: Path, to_qsm: Path, labels: Path, found: Path | None = None, lesions: Path | None = None
) -> tuple[Path, Path, Path, Path]:
    """FLAIR and lesions on the QSM's grid; the lesions on their own grid, and the head labels there.

    Parameters
    ----------
    flair : Path
        The user's own file.
    labels : Path
        Head labels on its grid.
    found : Path, optional
        Instances that `msrim segment` found, on the FLAIR's grid.
    lesions : Path, optional
        The user's mask or instance map, on the FLAIR's grid or on the QSM's.
    """
    target, image, matrix = read_volume(qsm), read_volume(flair), read_transform(to_qsm)
    instances = read_own(found) if lesions is None else _read_lesions(lesions)
    moved, anatomy = instances, read_own(labels)
    if not same_grid(instances, target):
        moved = resample(instances, target, target_from_source=matrix, nearest=True)
    elif not same_grid(instances, image):
        anatomy = resample(anatomy, target, target_from_source=matrix, nearest=True)
    return (
        write_volume(resample(image, target, target_from_source=matrix), Path("flair.nii")),
        write_volume(moved, Path("instances.nii")),
        write_volume(instances, Path("lesions.nii")),
        write_volume(anatomy, Path("labels.nii")),
    )


def measure_radiomics(qsm: Path, *, instances: Path) -> Path:
    """The radiomic features of every lesion."""
    from msrim.lesions.radiomics import lesion_features

    np.save("features.npy", lesion_features(read_volume(qsm), read_own(instances)), allow_pickle=False)
    return Path("features.npy")


def classify(
    qsm: Path, *, flair: Path, instances: Path, model: str, sha256: str, device: str, features: Path | None = None
) -> tuple[Path, Path, list[int], dict[str, float], dict[str, list[str]]]:
    """Patches of all lesions, the lesions around them, their numbers; by number, the probabilities and remarks.

    The sum makes other weights another step.
    """
    from msrim.models.rims import INPUTS, SHOWN_PATCH, rim_probabilities

    card = read_card(model)
    map_ppm, labels = read_volume(qsm), read_own(instances)
    flair_z = normalise_intensity(read_own(flair), map_ppm.like(map_ppm.data != 0))
    size = INPUTS[card.network].patch or SHOWN_PATCH
    spacing_mm = tuple(card.spacing_mm)
    patches = cut_patches(map_ppm, flair_z, labels, size=size, spacing_mm=spacing_mm)
    known = None if features is None else np.load(features, allow_pickle=False)
    probability = rim_probabilities(card, patches.images, known, device=device)
    numbers = [int(number) for number in patches.numbers]
    judged = {str(n): round(float(p), 4) for n, p in zip(numbers, probability, strict=True) if patches.seen[n]}
    others = cut_patches(map_ppm, labels.like(np.float32(labels.data > 0)), labels, size=size, spacing_mm=spacing_mm)
    np.save("patches.npy", patches.images, allow_pickle=False)
    np.save("around.npy", others.images[:, 1] > 0.5, allow_pickle=False)
    return (
        Path("patches.npy"),
        Path("around.npy"),
        numbers,
        judged,
        {str(n): texts for n, texts in patches.remarks.items() if texts},
    )


def write_rims(
    lesions: Path,
    *,
    labels: Path,
    probability: dict[str, float],
    remarks: dict[str, list[str]],
    rows: list[dict[str, Any]] | None,
    threshold: float,
    model: str,
    unit: str,
    folder: Path,
    names: dict[str, str],
) -> tuple[dict[str, Path], list[dict[str, Any]], dict[str, Any]]:
    """Table, map of rim+ lesions and summary: the files, the table's rows, and the summary.

    Parameters
    ----------
    rows : list of dict or None
        The table of `msrim segment`; lesions of the user's own mask are measured here.
    """
    files = {key: folder / name for key, name in names.items()}
    instances = read_own(lesions)
    if rows is None:
        measured = measure_lesions(
            instances, probability=instances.like((instances.data > 0).astype(np.float32)), labels=read_own(labels)
        )
    else:
        measured = [Lesion(**row) for row in rows]
    table = []
    for lesion in measured:
        p = probability.get(str(lesion.id))
        why = remarks.get(str(lesion.id), [] if p is not None else ["outside the QSM's field of view"])
        if why:
            judged = "" if p is not None else ", not judged"
            warnings.warn(f"lesion {lesion.id}: {'; '.join(why)}{judged}", Fallback, stacklevel=2)
        table.append(replace(lesion, rim_probability=p, rim=None if p is None else p >= threshold))
    positive = [lesion.id for lesion in table if lesion.rim]
    for numbers in _touching(instances.data, positive):
        warnings.warn(
            f"lesions {' and '.join(map(str, numbers))}: touch, and each is called rim+; "
            "where they are parts of one lesion, the count of rim+ is too high",
            Fallback,
            stacklevel=2,
        )
    summary = {
        **summarise(table),
        "rim_lesions": len(positive),
        "rim_lesions_at_least_1": len(positive) >= 1,
        f"rim_lesions_at_least_{MANY_RIMS}": len(positive) >= MANY_RIMS,
        "rim_not_judged": sum(lesion.rim is None for lesion in table),
        "rim_model": model,
        "rim_threshold": threshold,
        "qsm_unit": unit,
    }
    write_volume(instances.like(np.where(np.isin(instances.data, positive), instances.data, 0)), files["rims"])
    write_volume(instances, files["instances"])
    write_lesions_tsv(table, files["table"])
    write_text(json.dumps(LESION_COLUMNS, indent=2) + "\n", files["table_columns"])
    write_text(json.dumps(summary, indent=2) + "\n", files["summary"])
    return files, [asdict(lesion) for lesion in table], summary


def _touching(instances: np.ndarray, numbers: list[int]) -> list[list[int]]:
    """Those of the numbered lesions that touch one another, group by group."""
    parts = cc3d.connected_components(np.isin(instances, numbers), connectivity=26)
    groups = [np.unique(instances[box][parts[box] == part]) for part, box in enumerate(find_objects(parts), start=1)]
    return [group.tolist() for group in groups if len(group) > 1]


def _read_lesions(path: Path) -> Volume:
    """A user's mask, its connected lesions numbered, or instance map as it is; all zeros is a valid answer."""
    mask = read_mask(path)
    data = np.asarray(nib.load(path).dataobj).reshape(mask.shape)
    numbered = len(np.unique(data[mask.data])) > 1 and np.array_equal(data, data.round())
    return mask.like(data.astype(np.int32) if numbered else label_lesions(mask.data))
