"""Lesions cut out for the rim networks: QSM, FLAIR and the lesion itself on the networks' spacing.

Every lesion gets a patch, and remarks name the faults of the patch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from msrim.errors import InputError
from msrim.image import Volume, bounding_boxes, resample, same_grid, to_ras

SPACING_MM = (0.75, 0.75, 3.0)
# A spacing within this of the networks' is taken as it is: resampling would blur more than it corrects.
SPACING_TOLERANCE = 0.1
# The QSM is divided by it, so that rims are of order 1.
QSM_SCALE_PPM = 0.05
# From this share of the lesion on, zeros are a mask's and not the tissue's; with half of it there is nothing to judge.
MASKED_SHARE, HIDDEN_SHARE = 0.05, 0.5
# Nine tenths of a brain's susceptibility lie within 0.05 (simulated) to 0.2 ppm (real, with noise); deep grey matter
# and veins reach further. Phase in radians spreads 5 to 20 times as far, a local field in Hz over less than 20.
PPM_SPREAD, PPB_SPREAD = (0.005, 0.3), (20.0, 300.0)
# Neighbours in a susceptibility map differ by half of its spread (simulated, 0.75 mm), in a total field by a twelfth.
MIN_ROUGHNESS = 0.12
# About half of a brain lies below the mean that marks susceptibility; resampled images have few values below 0.
MIN_DIAMAGNETIC = 0.02
# How much further than the bright end of the values the dark one may reach: artefacts at the edge are dark, too.
MAX_SKEW = 1.25


@dataclass(frozen=True, eq=False)
class Patches:
    """Lesions in the middle of their patches.

    Attributes
    ----------
    numbers : (lesions,) int
        Of the instance map, ascending.
    images : (lesions, 3, X, Y, Z) float32
        QSM (0 is the brain's median, 1 is 0.05 ppm above it), FLAIR, and 1 inside the
        lesion; 0 where a patch leaves the field of view. Z runs across the slices.
    remarks : dict of int to list of str
        By lesion number, what stands in the way of a judgement.
    seen : dict of int to bool
        By lesion number, whether enough of it is there to be judged.
    """

    numbers: np.ndarray
    images: np.ndarray
    remarks: dict[int, list[str]]
    seen: dict[int, bool]


def cut_patches(
    qsm: Volume,
    flair: Volume,
    instances: Volume,
    *,
    size: tuple[int, int, int],
    spacing_mm: tuple[float, float, float] = SPACING_MM,
) -> Patches:
    """Cut a patch around the centre of mass of every lesion.

    Parameters
    ----------
    qsm : Volume of float, ppm
        0 outside the brain.
    flair : Volume of float
        On the same grid, normalised inside the brain (:func:`msrim.preprocess.normalise.normalise_intensity`).
    instances : Volume of int
        On the same grid; 0 outside lesions.
    size : (3,) int
        Of the patches, voxels of ``spacing_mm``.
    spacing_mm : (3,) float
        The third one is across the slices: along the axis closest to superior.

    Raises
    ------
    ValueError
        The grids differ.

    Examples
    --------
    >>> image = Volume(np.random.default_rng(0).random((9, 9, 9), np.float32), np.diag([0.75, 0.75, 3, 1]))
    >>> lesion = image.like(np.pad(np.ones((3, 3, 3), np.uint8), 3))
    >>> cut_patches(image, image, lesion, size=(6, 6, 4)).images.shape
    (1, 3, 6, 6, 4)
    """
    if not (same_grid(qsm, flair) and same_grid(qsm, instances)):
        raise ValueError(f"QSM {qsm.shape}, FLAIR {flair.shape} and lesions {instances.shape} lie on different grids")
    numbers = np.unique(instances.data[instances.data > 0])
    patches = np.zeros((len(numbers), 3, *size), np.float32)
    remarks: dict[int, list[str]] = {int(number): [] for number in numbers}
    seen = {int(number): True for number in numbers}
    if not len(numbers):
        return Patches(numbers, patches, remarks, seen)
    for number, share in zip(numbers, _masked_share(qsm, instances, numbers), strict=True):
        seen[int(number)] = bool(share <= HIDDEN_SHARE)
        if share > MASKED_SHARE:
            remarks[int(number)].append(f"QSM is zero in {100 * share:.0f} % of it")
    brain = qsm.like(qsm.data != 0)
    scaled = qsm.like(np.where(brain.data, (qsm.data - np.median(qsm.data[brain.data])) / QSM_SCALE_PPM, 0))
    channels = [on_spacing(channel, spacing_mm).data for channel in (scaled, flair)]
    labels = on_spacing(instances, spacing_mm, nearest=True).data
    boxes = bounding_boxes(labels)
    half = np.array(size) // 2
    for row, number in enumerate(numbers):
        box = boxes.get(int(number))
        if box is None:
            remarks[int(number)].append("too small for the network's voxels")
            seen[int(number)] = False
            continue
        inside = labels[box] == number
        centre = np.round(ndimage.center_of_mass(inside)).astype(int) + [s.start for s in box]
        if any(s.start == 0 or s.stop == n for s, n in zip(box, labels.shape, strict=True)):
            remarks[int(number)].append("reaches the edge of the field of view")
        if any(s.start < low or s.stop > low + n for s, low, n in zip(box, centre - half, size, strict=True)):
            remarks[int(number)].append("larger than the patch: only its middle was seen")
        for channel, data in enumerate((*channels, labels == number)):
            _copy(data, patches[row, channel], centre - half)
    return Patches(numbers, patches, remarks, seen)


def on_spacing(volume: Volume, spacing_mm: tuple[float, float, float], *, nearest: bool = False) -> Volume:
    """A volume in RAS order with voxels of about a size, resampled only where they differ by more than a tenth."""
    volume = to_ras(volume)
    wanted = np.array(spacing_mm)
    factor = wanted / volume.spacing
    if (np.abs(factor - 1) < SPACING_TOLERANCE).all():
        return volume
    shape = np.maximum(np.ceil(volume.shape / factor), 1).astype(int)
    affine = volume.affine @ np.diag([*factor, 1.0])
    # The first voxels' outer faces meet; where slices get thicker they average those that they cover.
    affine[:3, 3] += volume.affine[:3, :3] @ ((factor - 1) / 2)
    data = volume.data
    if not nearest:
        sigma = np.where(factor > 1, 0.35 * (factor - 1 / factor), 0)
        data = ndimage.gaussian_filter(data.astype(np.float32), sigma)
    return resample(volume.like(data), Volume(np.broadcast_to(np.float32(0), tuple(shape)), affine), nearest=nearest)


def susceptibility_ppm(qsm: Volume, *, name: str) -> tuple[Volume, str]:
    """A QSM in ppm, and the unit ("ppm" or "ppb") that its values show it to have been in.

    Judged by the middle half of the field of view along every axis, where there is brain and little else.

    Parameters
    ----------
    qsm : Volume of float
        0 outside the brain.
    name : str
        For the message.

    Raises
    ------
    InputError
        The values are not those of a brain's susceptibility in ppm or ppb: they spread too little or too far, are
        hardly ever negative, or change as smoothly as a field.

    Examples
    --------
    >>> brain = np.random.default_rng(0).normal(0, 30, (20, 20, 20))
    >>> susceptibility_ppm(Volume(brain, np.eye(4)), name="qsm.nii")[1]
    'ppb'
    """
    middle = qsm.data[tuple(slice(n // 4, n - n // 4) for n in qsm.shape)]
    values = middle[middle != 0]
    spread = float(np.ptp(np.percentile(values, (5, 95)))) if values.size else 0.0
    unit = next(
        (unit for unit, (low, high) in {"ppm": PPM_SPREAD, "ppb": PPB_SPREAD}.items() if low < spread < high), None
    )
    if unit is None:
        raise InputError(
            f"{name}: its values spread over {spread:.3g} within the brain, which is neither ppm nor ppb of a brain "
            f"({PPM_SPREAD[0]:g} to {PPM_SPREAD[1]:g}, or {PPB_SPREAD[0]:g} to {PPB_SPREAD[1]:g}); "
            "give a susceptibility map, not a phase or field map"
        )
    if np.mean(values < 0) < MIN_DIAMAGNETIC:
        raise InputError(f"{name}: has hardly any values below 0, as susceptibility has; give a susceptibility map")
    if _roughness(middle) < MIN_ROUGHNESS:
        raise InputError(f"{name}: changes as smoothly as a field does; give a susceptibility map, not a field map")
    return (qsm, "ppm") if unit == "ppm" else (qsm.like(qsm.data / np.float32(1000)), "ppb")


def _roughness(data: np.ndarray) -> float:
    """How much neighbours inside the brain differ, by the spread of all values, along the smoothest axis."""
    differences = []
    for axis in range(data.ndim):
        one, other = (np.moveaxis(data, axis, 0)[part] for part in (slice(1, None), slice(-1)))
        differences.append(np.std((one - other)[(one != 0) & (other != 0)]))
    return float(min(differences) / np.std(data[data != 0]))


def looks_inverted(qsm: Volume) -> bool:
    """Whether the dark end of a QSM's values reaches further than the bright one, where veins and iron should be.

    Examples
    --------
    >>> veins = np.random.default_rng(0).gamma(2, 0.03, (20, 20, 20))
    >>> looks_inverted(Volume(veins, np.eye(4))), looks_inverted(Volume(-veins, np.eye(4)))
    (False, True)
    """
    low, middle, high = np.percentile(qsm.data[qsm.data != 0], (0.05, 50, 99.95))
    return bool(middle - low > MAX_SKEW * (high - middle))


def _masked_share(qsm: Volume, instances: Volume, numbers: np.ndarray) -> np.ndarray:
    return ndimage.mean(qsm.data == 0, instances.data, numbers)


def _copy(data: np.ndarray, patch: np.ndarray, low: np.ndarray) -> None:
    """Fill a patch from where it begins in the data, as far as the data reach."""
    high = np.minimum(low + patch.shape, data.shape)
    start = np.maximum(low, 0)
    source = tuple(slice(a, b) for a, b in zip(start, high, strict=True))
    target = tuple(slice(a - o, b - o) for a, b, o in zip(start, high, low, strict=True))
    patch[target] = data[source]
