"""Evaluation: masks in, figures out; of a cohort's folders also tables and a page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from msrim.console import Console
from msrim.errors import InputError, OutputError
from msrim.evaluation.cohort import Scan, compare_methods, scan_figures, summarise_cohort
from msrim.evaluation.curves import lesion_roc_curve, precision_recall_curve
from msrim.evaluation.longitudinal import change_metrics, split_change
from msrim.evaluation.metrics import segmentation_metrics
from msrim.files import files_below, write_tsv
from msrim.image import Volume, on_grid_of, read_map, read_volume, resample
from msrim.report.evaluation import Method, is_evaluation_page, write_cohort_page
from msrim.transform import read_transform

NAME = re.compile(r"sub-([A-Za-z0-9]+)(?:_ses-([A-Za-z0-9]+))?_(?:.*_)?label-L_(?:.*_)?(mask|probseg)\.nii(?:\.gz)?")
Visit = tuple[str, str | None]


def evaluate_segmentation(truth: Path, prediction: Path, *, min_volume_mm3: float = 0.0) -> dict[str, Any]:
    """Compare two lesion masks on one grid.

    Parameters
    ----------
    truth, prediction : Path
    min_volume_mm3 : float
        Lesion-wise figures ignore smaller components.

    Returns
    -------
    dict
        See :func:`msrim.evaluation.metrics.segmentation_metrics`.

    Raises
    ------
    InputError
        A mask cannot be read, or the grids differ.
    """
    marked = read_volume(truth, mask=True)
    found = on_grid_of(read_volume(prediction, mask=True), marked, name=prediction, target_name=truth)
    return segmentation_metrics(marked, found, min_volume_mm3=min_volume_mm3)


def evaluate_changes(
    truth: Path,
    prediction: Path,
    *,
    transforms: tuple[Path | None, Path | None] = (None, None),
    flairs: tuple[Path, Path, Path] | None = None,
) -> dict[str, Any]:
    """Compare two masks of new lesions on the truth's grid.

    Parameters
    ----------
    truth, prediction : Path
    transforms : (Path or None, Path or None)
        ITK transforms from the baseline and from the follow-up to the truth's space; the prediction lies on the
        follow-up.
    flairs : (Path, Path, Path), optional
        FLAIR of baseline and of follow-up, and the brain on the truth's grid: where the truth marks all changes, only
        those parts of it are taken that are brighter at follow-up.

    Returns
    -------
    dict
        See :func:`msrim.evaluation.longitudinal.change_metrics`.

    Raises
    ------
    InputError
        A file cannot be read, or the brain lies on another grid than the truth.
    """
    matrices = [None if path is None else read_transform(path) for path in transforms]
    marked = read_volume(truth, mask=True)
    if flairs is not None:
        *visits, brain = flairs
        images = [
            resample(read_volume(path), marked, target_from_source=matrix)
            for path, matrix in zip(visits, matrices, strict=True)
        ]
        inside = on_grid_of(read_volume(brain, mask=True, filling=True), marked, name=brain, target_name=truth)
        marked, _ = split_change(marked, *images, brain=inside)
    found = read_volume(prediction, mask=True)
    found = resample(found.like(found.data.astype(np.float32)), marked, target_from_source=matrices[1])
    return change_metrics(marked, found.like(found.data > 0.5))


def evaluate_cohort(
    truth: Path, predictions: dict[str, Path], out: Path, *, min_volume_mm3: float, console: Console
) -> Path:
    """Compare methods with the truth, and with each other, on all visits of a cohort.

    Parameters
    ----------
    truth : Path
        Folder with one ``sub-X[_ses-Y]_*label-L_*mask.nii.gz`` for each visit, anywhere below it.
    predictions : dict of str to Path
        By method's name, folders with a mask for each of those visits on the grid of the true one, as `msrim segment`
        writes them, and perhaps ``*label-L_probseg.nii.gz`` beside it for the curves; ``*label-L_desc-network_probseg``
        goes first, which no rule has changed. The first method is what the others are compared with.
    out : Path
        Gets ``scans.tsv``, ``summary.tsv``, ``curves.tsv``, ``comparisons.tsv`` and ``report.html``.
    min_volume_mm3 : float
        Lesion-wise figures ignore smaller components.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        There is no truth, a method lacks a visit, a visit has two masks, or grids differ.
    """
    check_comparison_folder(out)
    methods, comparisons = compare_cohort(truth, predictions, min_volume_mm3=min_volume_mm3, console=console)
    return write_comparison(methods, comparisons, out, min_volume_mm3=min_volume_mm3)


def write_comparison(
    methods: Sequence[Method], comparisons: dict[str, list[dict[str, Any]]], out: Path, *, min_volume_mm3: float
) -> Path:
    """Tables and page of what :func:`compare_cohort` found; as :func:`evaluate_cohort`."""
    _write_rows(
        [
            {"method": method.name, "patient": scan.patient, "session": scan.session} | scan.figures
            for method in methods
            for scan in method.scans
        ],
        out / "scans.tsv",
    )
    _write_rows([{"method": method.name} | row for method in methods for row in method.summary], out / "summary.tsv")
    if areas := [{"method": method.name} | curve_areas(method) for method in methods if method.precision_recall]:
        _write_rows(areas, out / "curves.tsv")
    if comparisons:
        first = methods[0].name
        rows = [{"method": name, "against": first} | row for name, found in comparisons.items() for row in found]
        _write_rows(rows, out / "comparisons.tsv")
    return write_cohort_page(methods, comparisons, out / "report.html", min_volume_mm3=min_volume_mm3)


def check_comparison_folder(out: Path) -> None:
    """Refuse to write over tables and a page that no earlier evaluation has written.

    Raises
    ------
    OutputError
    """
    names = ("report.html", "scans.tsv", "summary.tsv", "curves.tsv", "comparisons.tsv")
    there = [out / name for name in names if (out / name).exists()]
    if there and not is_evaluation_page(out / "report.html"):
        raise OutputError(f"{there[0]}: no evaluation by msrim has written it; choose another folder")


def curve_areas(method: Method) -> dict[str, float | None]:
    """Areas under a method's curves: average precision of voxels, and of lesions' rates."""
    curves = {"average_precision": method.precision_recall, "lesion_roc_area": method.lesion_roc}
    return {name: None if curve is None else curve.area for name, curve in curves.items()}


def compare_cohort(
    truth: Path, predictions: dict[str, Path], *, min_volume_mm3: float, console: Console
) -> tuple[list[Method], dict[str, list[dict[str, Any]]]]:
    """The methods' figures, and by method's name how it differs from the first; as :func:`evaluate_cohort`."""
    true_masks = _by_visit(truth, "mask")
    if not true_masks:
        raise InputError(f"{truth}: no lesion masks; they must be called sub-X[_ses-Y]_*label-L_*mask.nii.gz")
    methods = []
    for name, folder in predictions.items():
        masks, probabilities = _by_visit(folder, "mask"), _by_visit(folder, "probseg")
        if missing := true_masks.keys() - masks.keys():
            raise InputError(f"{folder}: no lesion mask for {', '.join(sorted(map(_label, missing)))}")
        scans = []
        for visit, path in true_masks.items():
            console.say(f"{name}: {_label(visit)}")
            marked = read_volume(path, mask=True)
            found = on_grid_of(read_volume(masks[visit], mask=True), marked, name=masks[visit], target_name=path)
            figures = scan_figures(marked, found, min_volume_mm3=min_volume_mm3)
            scans.append(Scan(*visit, figures))
        precision_recall = lesion_roc = None
        if true_masks.keys() <= probabilities.keys():
            precision_recall = precision_recall_curve(_pairs(true_masks, probabilities))
            lesion_roc = lesion_roc_curve(_pairs(true_masks, probabilities), min_volume_mm3=min_volume_mm3)
        methods.append(Method(name, scans, summarise_cohort(scans), precision_recall, lesion_roc))
    first, *others = methods
    return methods, {method.name: compare_methods(first.scans, method.scans) for method in others}


def _by_visit(folder: Path, suffix: str) -> dict[Visit, Path]:
    """Files of lesions below a folder by patient and session, in order."""
    found: dict[Visit, Path] = {}
    for path in files_below(folder, "sub-*.nii*"):
        name = NAME.fullmatch(path.name)
        if not name or name[3] != suffix:
            continue
        visit = (name[1], name[2])
        if visit in found and ("_desc-network_" in path.name) != ("_desc-network_" in found[visit].name):
            found[visit] = path if "_desc-network_" in path.name else found[visit]
            continue
        if visit in found:
            raise InputError(f"{folder}: two files for {_label(visit)}, {found[visit].name} and {path.name}; keep one")
        found[visit] = path
    return found


def _pairs(truth: dict[Visit, Path], probabilities: dict[Visit, Path]) -> Iterator[tuple[Volume, Volume]]:
    for visit, path in truth.items():
        mask = read_volume(path, mask=True)
        yield mask, on_grid_of(read_map(probabilities[visit]), mask, name=probabilities[visit], target_name=path)


def _label(visit: Visit) -> str:
    patient, session = visit
    return f"sub-{patient}" + (f" ses-{session}" if session else "")


def _write_rows(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    return write_tsv((row.values() for row in rows), path, columns=rows[0])
