"""What is checked before a run writes anything."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from msrim.bids import Subject
from msrim.errors import InputError, OutputError
from msrim.image import Volume, read_volume
from msrim.models.registry import Card
from msrim.recipe import Recipe
from msrim.transform import apply_transform

# Two images of one head may differ by a neck or by skull stripping, and hardly by more.
MAX_EXTENT_RATIO = 2.0


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
    from msrim.preprocess import fsl

    check_output_folder(out)
    choose_device(recipe.device)
    if recipe.backend == "fsl":
        fsl.find_fsl()
    for card in cards:
        load_model(card)
    read_subject(subject)


def read_subject(subject: Subject) -> dict[str, Volume]:
    """Read every contrast and check that they can be images of one head.

    Returns
    -------
    dict of str to Volume
        By contrast, as stored.

    Raises
    ------
    InputError
        A file cannot be used, or two contrasts differ too much in place or size.
    """
    volumes = {contrast: read_volume(path) for contrast, path in subject.contrasts.items()}
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
    return volumes


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


def check_output_folder(out: Path) -> None:
    """Try, without leaving a trace, whether results can be written to a folder or to the place where it would be made.

    Raises
    ------
    OutputError
        They cannot.
    """
    out = Path(out).absolute()
    existing = next(folder for folder in (out, *out.parents) if folder.exists())
    if not existing.is_dir():
        raise OutputError(f"{existing}: is a file, not a folder; choose another output folder")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OutputError(f"{existing}: cannot be written ({error.strerror}); choose another output folder") from error
