"""Checks before a run writes anything."""

from __future__ import annotations

import itertools
import json
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from msrim.bids import Subject, check_description, contrast_of
from msrim.errors import InputError, OutputError, Remark
from msrim.files import sha256_of
from msrim.image import Volume, equal_neighbours, read_volume, same_grid
from msrim.models.registry import Card
from msrim.preprocess.background import background_of
from msrim.recipe import Recipe
from msrim.transform import apply_transform

# Two images of one head may differ by a neck or by skull stripping, and hardly by more.
MAX_EXTENT_RATIO = 2.0
# The middle one of the three edges of a head's field of view: slabs are thin, and some scans go down to the chest.
MIN_HEAD_MM, MAX_HEAD_MM = 40.0, 600.0
# A brain alone fills a twelfth of a generous field of view; lesions fill a thousandth.
MIN_HEAD_SHARE = 0.02
# Neighbours of the same value: in images hardly any, half of them where voxels were doubled, nearly all in labels.
LABELS_SHARE = 0.75


@contextmanager
def about(*paths: Path) -> Iterator[None]:
    """Put the names of a user's files before an error about what they show that does not name them.

    Examples
    --------
    >>> with about(Path("/data/FLAIR.nii")):
    ...     raise InputError("shows no head")
    Traceback (most recent call last):
    msrim.errors.InputError: /data/FLAIR.nii: shows no head
    """
    try:
        yield
    except InputError as error:
        if any(str(path) in str(error) for path in paths):
            raise
        raise InputError(f"{' and '.join(map(str, paths))}: {error}") from error


def check_visit(subject: Subject, recipe: Recipe, out: Path, *, cards: Iterable[Card]) -> None:
    """Whatever can be known to be wrong with a visit before the first file is written.

    Parameters
    ----------
    subject : Subject
    recipe : Recipe
    out : Path
        Folder of the derivative dataset.
    cards : iterable of Card
        Of the networks that will be run.

    Raises
    ------
    MsrimError
        The folder, the device, a network or an image cannot be used.
    """
    from msrim.models import load_model
    from msrim.models.inference import choose_device
    from msrim.preprocess.backends import find_backend

    check_output_folder(out)
    check_results_folder(subject, out)
    choose_device(recipe.device)
    find_backend(recipe.backend)
    for card in cards:
        load_model(card)
    read_subject(subject)


def read_head(path: Path) -> Volume:
    """Read an image that shows a head or a brain alone.

    Raises
    ------
    InputError
        As :func:`msrim.image.read_volume`; or it is of no head's size, empty but for a few voxels, or a mask.
    """
    volume = read_volume(path)
    edges_mm = np.sort(volume.spacing * volume.shape)
    if not MIN_HEAD_MM <= edges_mm[1] <= MAX_HEAD_MM:
        raise InputError(
            f"{path}: {' x '.join(f'{edge:.3g}' for edge in edges_mm)} mm across, which is no head; "
            "correct the voxel size in the header, in mm"
        )
    background = background_of(volume.data)
    if background is not None:
        share = np.mean(volume.data != background)
        if share < MIN_HEAD_SHARE:
            raise InputError(
                f"{path}: {100 * (1 - share):.1f} % of it is background, which is no head; "
                "give the image that the scanner made, not a mask or a map of lesions"
            )
    outside = np.nan if background is None else background
    if equal_neighbours(volume.data, background=outside) > LABELS_SHARE:
        raise InputError(f"{path}: holds a mask or labels, no image; give the image that the scanner made")
    return volume


def read_subject(subject: Subject) -> dict[str, Volume]:
    """Read every contrast and check that they can be images of one head.

    Remarks on doubtful files come from the step that reads the file for the run.

    Returns
    -------
    dict of str to Volume
        By contrast, as stored.

    Raises
    ------
    InputError
        A file cannot be used, two contrasts are one image, or they differ too much in place or size.
    """
    with without_doubts():
        volumes = {contrast: read_head(path) for contrast, path in subject.contrasts.items()}
    for one, other in itertools.combinations(volumes, 2):
        names = f"{subject.contrasts[one]} and {subject.contrasts[other]}"
        low, high = field_of_view(volumes[one])
        other_low, other_high = field_of_view(volumes[other])
        # Two axes of every scan cover the head; the third, of few thick slices, may not.
        extent, other_extent = (np.sort(high - low)[1], np.sort(other_high - other_low)[1])
        if max(extent, other_extent) > MAX_EXTENT_RATIO * min(extent, other_extent):
            raise InputError(
                f"{names}: {extent:.0f} mm and {other_extent:.0f} mm across, not one head; "
                "give images of the same patient and visit, or correct the voxel size in the header"
            )
        if (low > other_high).any() or (other_low > high).any():
            raise InputError(
                f"{names}: lie beside each other in space; "
                "give images of the same patient and visit, or correct the position in the header"
            )
        if same_grid(volumes[one], volumes[other]) and np.array_equal(volumes[one].data, volumes[other].data):
            raise InputError(f"{names}: the same image as {one} and {other}; give the right one or leave out {other}")
    return volumes


@contextmanager
def without_doubts() -> Iterator[None]:
    """Suppress remarks on files: in a check before a run, whose steps make them when they read the files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Remark)
        yield


def field_of_view(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner of the box around a volume: (3,) float, RAS mm each.

    Examples
    --------
    >>> low, high = field_of_view(Volume(np.zeros((10, 20, 30)), np.diag([-1.0, 1.0, 2.0, 1.0])))
    >>> low.tolist(), high.tolist()
    ([-9.5, -0.5, -1.0], [0.5, 19.5, 59.0])
    """
    edges = [(-0.5, size - 0.5) for size in volume.shape]
    corners = apply_transform(volume.affine, np.array(list(itertools.product(*edges))))
    return corners.min(axis=0), corners.max(axis=0)


def check_output_folder(out: Path, *, kind: str = "derivative") -> None:
    """Try, without leaving a trace, whether results can be written to a folder or to the place where it would be made.

    Parameters
    ----------
    out : Path
    kind : str
        Of the dataset that is to be written: "derivative" or "raw".

    Raises
    ------
    OutputError
        They cannot, or a dataset lies there that msrim has not written.
    """
    out = Path(out).absolute()
    try:
        existing = next(folder for folder in (out, *out.parents) if folder.exists())
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror}); choose another output folder") from error
    for folder in (out, *out.parents):
        if folder.is_symlink() and not folder.exists():
            raise OutputError(f"{folder}: is a link to a folder that is not there; choose another output folder")
    if not existing.is_dir():
        raise OutputError(f"{existing}: is a file, not a folder; choose another output folder")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OutputError(f"{existing}: cannot be written ({error.strerror}); choose another output folder") from error
    described = check_description(out, kind=kind)
    if described:
        return
    for patient in out.glob("sub-*"):
        if kind == "raw" or _holds_scans(patient):
            raise OutputError(f"{out}: holds patients that msrim has not made ({patient.name}); choose another folder")


def _holds_scans(patient: Path) -> bool:
    """Whether images of a scanner lie in a patient's folder, as in a raw dataset."""
    visits = [patient, *(visit for visit in patient.glob("ses-*") if "_to_" not in visit.name)]
    images = (image.name for visit in visits for image in visit.glob("anat/*.nii*"))
    return any(contrast_of(name) is not None for name in images)


def check_results_folder(subject: Subject, out: Path) -> None:
    """Refuse to write a visit's results over what is not this visit's.

    Results of the same FLAIR may be replaced: the same path, or another with the same content.

    Raises
    ------
    OutputError
        The images themselves lie there, or files that msrim has not written, or results of another FLAIR.
    """
    folder, flair = subject.folder(Path(out).absolute()), subject.contrasts["FLAIR"]
    patient = Path(out).absolute() / f"sub-{subject.label}"
    for image in subject.contrasts.values():
        if image.resolve().is_relative_to(patient.resolve()):
            raise OutputError(f"{image}: lies in {patient}, where its results would go; choose another output folder")
        own = next((parent for parent in image.parents if re.fullmatch(r"sub-[A-Za-z0-9]+", parent.name)), None)
        if own is not None and patient.resolve().is_relative_to(own.resolve()):
            raise OutputError(f"{out}: lies among the images of {own}; choose another output folder")
    run = folder / "run.json"
    if not run.is_file():
        written = any((folder / name).exists() for name in ("anat", "xfm", "report.html"))
        if written and not (folder / "work").is_dir():
            raise OutputError(f"{folder}: holds files that msrim has not written; choose another output folder")
        return
    try:
        before = json.loads(run.read_text(encoding="utf-8"))["inputs"]["FLAIR"]
        path, digest = Path(before["path"]), before["sha256"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise OutputError(f"{run}: not written by msrim; choose another output folder") from error
    if path.resolve() != flair.resolve() and digest != sha256_of(flair):
        raise OutputError(
            f"{folder}: holds results of another FLAIR, {path}, and {flair} would replace them; "
            "choose another output folder, or remove those results"
        )
