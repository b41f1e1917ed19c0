"""The last steps of a subject's graph: from probabilities to the files that the user gets, on the FLAIR's own grid."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from msrim.errors import Fallback
from msrim.files import write_text
from msrim.image import Volume, read_volume, resample, write_volume
from msrim.lesions.measure import LESION_COLUMNS, Lesion, measure_lesions, summarise, write_lesions_tsv
from msrim.lesions.regions import INFRATENTORIAL
from msrim.lesions.split import split_confluent
from msrim.transform import read_transform, write_transform
from msrim.workflows.steps import TISSUE_OF_LABEL, read_mask, read_own

# Cerebellum and brainstem of an adult make up 150 ml and more; with less than half, lesions there are missed.
MIN_INFRATENTORIAL_ML = 75.0
TISSUES = {1: "CSF", 2: "GM", 3: "WM"}


def write_anatomy(
    flair: Path,
    *,
    brain: Path,
    labels: Path,
    to_mni: Path,
    folder: Path,
    names: dict[str, str],
    tissue: Path | None = None,
    t1w_to_flair: Path | None = None,
    t2w_to_flair: Path | None = None,
    pdw_to_flair: Path | None = None,
) -> dict[str, Path]:
    """Brain mask, tissue classes, head labels and transforms on the grid of the user's FLAIR.

    Parameters
    ----------
    flair : Path
        The user's own file, whose affine is copied.
    labels : Path
        On a grid in the FLAIR's world, none missing inside the brain.
    folder : Path
    names : dict of str to str
        What the results are called, below ``folder``: a path that exists would be taken for an input.
    tissue : Path, optional
        Classes of the T1w by another program; those of the head labels if not given.
    """
    files = {key: folder / name for key, name in names.items()}
    target = read_volume(flair)
    inside = _on(target, read_mask(brain))
    parsed = resample(read_own(labels), target, nearest=True)
    parsed = target.like(np.where(inside.data, parsed.data, 0).astype(np.uint8))
    below_ml = np.isin(parsed.data, INFRATENTORIAL).sum() * target.voxel_volume_mm3 / 1000
    if below_ml < MIN_INFRATENTORIAL_ML:
        warnings.warn(
            f"only {below_ml:.0f} ml of cerebellum and brainstem lie in the brain mask: lesions there may be missed",
            Fallback,
            stacklevel=2,
        )
    write_volume(inside, files["brain"])
    write_volume(parsed, files["labels"])
    if tissue is None:
        classes = TISSUE_OF_LABEL[parsed.data]
    else:
        of_t1w = resample(read_own(tissue), target, target_from_source=read_transform(t1w_to_flair), nearest=True)
        classes = np.where(inside.data, of_t1w.data, 0)
    write_volume(target.like(classes.astype(np.uint8)), files["tissue"])
    write_text(
        "\n".join(["index\tname", *(f"{index}\t{name}" for index, name in TISSUES.items())]) + "\n",
        files["tissue_table"],
    )
    transforms = {"FLAIR": to_mni, "T1w": t1w_to_flair, "T2w": t2w_to_flair, "PDw": pdw_to_flair}
    for name, transform in transforms.items():
        if transform is not None:
            write_transform(read_transform(transform), files[name])
    return files


def write_lesions(
    flair: Path,
    *,
    lesion: Path,
    sphere: Path,
    anatomy: dict[str, Path],
    threshold: float,
    min_lesion_mm3: float,
    model: str,
    folder: Path,
    names: dict[str, str],
) -> tuple[dict[str, Path], list[dict[str, Any]]]:
    """Mask, probability, instances, table and summary on the user's FLAIR: the files, and the table's rows."""
    files = {key: folder / name for key, name in names.items()}
    target = read_volume(flair)
    inside = read_mask(anatomy["brain"]).data
    probability = resample(read_own(lesion), target)
    probability = target.like(np.where(inside, np.clip(probability.data, 0, 1), 0).astype(np.float32))
    peaks = resample(read_own(sphere), target)
    mask = target.like(probability.data >= threshold)
    instances = split_confluent(mask, sphere_probability=peaks)
    lesions = measure_lesions(instances, probability=probability, labels=read_own(anatomy["labels"]))
    instances, lesions = without_small(instances, lesions, min_mm3=min_lesion_mm3)
    mask = target.like(instances.data > 0)
    write_volume(mask, files["mask"])
    write_volume(probability, files["probability"])
    write_volume(instances, files["instances"])
    write_text(
        "\n".join(["index\tname", *(f"{row.id}\tlesion {row.id}" for row in lesions)]) + "\n", files["instance_table"]
    )
    write_lesions_tsv(lesions, files["table"])
    _write_json(LESION_COLUMNS, files["table_columns"])
    _write_json({**summarise(lesions), "model": model, "threshold": threshold}, files["summary"])
    how = {"Model": model, "Threshold": threshold, "MinimumLesionVolume": f"{min_lesion_mm3:g} mm3"}
    _write_json({"Type": "Lesion", "Manual": False, **how}, files["mask_sidecar"])
    _write_json({"Description": "Probability of lesion", "Model": model}, files["probability_sidecar"])
    return files, [asdict(row) for row in lesions]


def without_small(instances: Volume, lesions: list[Lesion], *, min_mm3: float) -> tuple[Volume, list[Lesion]]:
    """Leave out lesions below a volume; numbers stay without gaps because they descend by volume.

    Examples
    --------
    >>> without_small(Volume(np.zeros((1, 1, 1), np.int32), np.eye(4)), [], min_mm3=3.0)[1]
    []
    """
    kept = [lesion for lesion in lesions if lesion.volume_mm3 >= min_mm3]
    return instances.like(np.where(instances.data <= len(kept), instances.data, 0)), kept


def _on(target: Volume, mask: Volume) -> Volume:
    """A mask on the grid of the user's file: the same voxels in another order."""
    moved = resample(mask.like(mask.data.astype(np.uint8)), target, nearest=True)
    return moved.like(moved.data > 0)


def _write_json(content: dict, path: Path) -> Path:
    return write_text(json.dumps(content, indent=2) + "\n", path)
