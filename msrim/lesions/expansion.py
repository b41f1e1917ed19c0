"""Which lesions expand slowly, and how the brain's volume changes, from the deformation between two visits.

Slowly expanding lesions (SELs) mark chronic active inflammation, as paramagnetic rims do: Elliott et al. 2019,
doi:10.1177/1352458518814117. As there, a candidate has a part that expands by SEED_PERCENT a year or more, grown to
where the expansion falls below GROW_PERCENT, and is reported with its concentricity (expansion greatest inside) and,
over three visits and more, its constancy. One difference: a part must also stand out of what the deformation does by
chance in white matter without lesions, and every lesion's expansion has that chance beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
from scipy import ndimage
from scipy.stats import spearmanr

from msrim.image import Volume, bounding_boxes

SEED_PERCENT, GROW_PERCENT = 12.5, 4.0
# A smaller part is no candidate; ten voxels of 1 mm.
MIN_PART_MM3 = 10.0
# The expansion is smoothed by so much before parts are sought.
SMOOTHING_MM = 1.5
# The seed of a candidate is this many deviations of white matter without lesions.
NOISE_LEVELS = 4.0
# A deformation that does more than this by chance, as between scanners of unlike contrast, finds no slow expansion: its
# deviation is what a seed expands by in a year.
MAX_NOISE = float(np.log1p(SEED_PERCENT / 100))
# White matter nearer to a lesion than this may be pushed by it.
CLEAR_MM = 6.0


@dataclass(frozen=True)
class Expansion:
    """How one lesion has grown by the deformation.

    Attributes
    ----------
    percent : float
        Of the volume at baseline, from visit to visit.
    error_percent : float
        Deviation of what chance gives as large a ball of white matter without lesions.
    percent_per_year : float or None
        None where the time between the visits is not known; so are the next two.
    candidate : bool or None
        Whether the lesion has a part that expands as slowly expanding lesions do; None where it was not sought.
    concentricity : float or None
        Rank correlation of expansion with depth, -1 to 1, in that part; None where there is none.
    """

    percent: float
    error_percent: float
    percent_per_year: float | None = None
    candidate: bool | None = None
    concentricity: float | None = None


def lesion_expansions(
    tracked: Volume, log_jacobian: Volume, *, brain: Volume, white: Volume, years: float | None
) -> tuple[dict[int, Expansion], float]:
    """The expansion of every lesion, and the deviation of what the deformation does by chance in white matter.

    Parameters
    ----------
    tracked : Volume of int
        Lesions of both visits on the midway grid, numbered as the rows of the change table.
    log_jacobian : Volume of float
        On the same grid, see :func:`msrim.preprocess.deform.log_jacobian`.
    brain, white : Volume of bool
        White matter shows what chance does.
    years : float or None
        Between the visits.

    Returns
    -------
    dict of int to Expansion
        By number; empty where no white matter shows what chance does. No candidate is sought where it does more than
        MAX_NOISE.
    float
        Of :func:`expansion_noise`.
    """
    where = _away(tracked, white)
    noise = expansion_noise(log_jacobian, white=white, away=where)
    if np.isinf(noise):
        return {}, noise
    smooth = _smoothed(log_jacobian, brain, SMOOTHING_MM)
    reach = np.ceil(2 * SMOOTHING_MM / tracked.spacing).astype(int)
    found, chance = {}, {}
    for number, box in bounding_boxes(tracked.data, margin=reach).items():
        lesion = tracked.data[box] == number
        sigma = ball_sigma(np.count_nonzero(lesion) * tracked.voxel_volume_mm3)
        if sigma not in chance:
            chance[sigma] = expansion_noise(log_jacobian, white=white, away=where, sigma_mm=sigma)
        # The mean of volumes' ratios is dearer to large ones than that of their logarithms, and does not mirror.
        total = float(log_jacobian.data[box][lesion].mean(dtype=np.float64))
        percent, error = (round(100 * float(np.expm1(growth)), 2) for growth in (total, chance[sigma]))
        if years is None:
            found[number] = Expansion(percent, error)
            continue
        per_year = round(100 * float(np.expm1(total / years)), 2)
        if noise > MAX_NOISE:
            found[number] = Expansion(percent, error, per_year)
            continue
        part = expanding_part(lesion, smooth[box], years=years, noise=noise, voxel_mm3=tracked.voxel_volume_mm3)
        concentricity = _concentricity(lesion, smooth[box], tracked.spacing) if part.any() else None
        found[number] = Expansion(percent, error, per_year, bool(part.any()), concentricity)
    return found, noise


def expanding_part(
    lesion: np.ndarray, smooth: np.ndarray, *, years: float, noise: float, voxel_mm3: float
) -> np.ndarray:
    """The parts of a lesion that expand like an SEL: (X, Y, Z) bool.

    Parameters
    ----------
    lesion : (X, Y, Z) bool
    smooth : (X, Y, Z) float
        Log Jacobian, smoothed.
    years, noise, voxel_mm3 : float
        ``noise`` is a deviation of ``smooth``.
    """
    seed = max(np.log1p(SEED_PERCENT / 100) * years, NOISE_LEVELS * noise)
    parts = cc3d.connected_components(lesion & (smooth >= np.log1p(GROW_PERCENT / 100) * years), connectivity=26)
    sizes = np.bincount(parts.ravel()) * voxel_mm3
    seeds = np.bincount(parts[smooth >= seed].ravel(), minlength=sizes.size) * voxel_mm3
    kept = (sizes >= MIN_PART_MM3) & (seeds >= MIN_PART_MM3)
    kept[0] = False
    return kept[parts]


def expansion_noise(log_jacobian: Volume, *, white: Volume, away: np.ndarray, sigma_mm: float = SMOOTHING_MM) -> float:
    """Deviation of the smoothed log Jacobian in white matter; infinite where there is none.

    Parameters
    ----------
    log_jacobian : Volume of float
    white : Volume of bool
        Values outside do not count.
    away : (X, Y, Z) bool
        Where it is measured.
    sigma_mm : float
        Of the smoothing.
    """
    if not away.any():
        return np.inf
    values = _smoothed(log_jacobian, white, sigma_mm)[away]
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def ball_sigma(volume_mm3: float) -> float:
    """The deviation in mm of a Gaussian that averages as a ball of that volume does, to a quarter of a mm.

    Examples
    --------
    >>> ball_sigma(33.5), ball_sigma(1000.0)
    (1.0, 2.75)
    """
    radius = (3 * volume_mm3 / (4 * np.pi)) ** (1 / 3)
    # A ball's variance along an axis is a fifth of its squared radius.
    return max(round(4 * radius / np.sqrt(5)) / 4, 0.25)


def _away(tracked: Volume, white: Volume) -> np.ndarray:
    """White matter that no lesion pushes."""
    far = ndimage.distance_transform_edt(tracked.data == 0, sampling=tracked.spacing) > CLEAR_MM
    return white.data & far


def brain_volume_change(
    log_jacobian: Volume, tissue: Sequence[Volume], *, scalings: tuple[float, float]
) -> float | None:
    """Change of the volume of grey and white matter, percent of the baseline's.

    Parameters
    ----------
    log_jacobian : Volume of float
        On the midway grid.
    tissue : two Volumes of float
        Share of tissue in each voxel, of either visit, on the midway grid.
    scalings : (float, float)
        Volume on the midway grid by that at baseline, and by that at follow-up: determinants of the transforms.

    Returns
    -------
    float or None
        None where there is no tissue. With the visits exchanged, the inverse ratio.
    """
    share = (tissue[0].data + tissue[1].data) / 2
    if not share.any():
        return None
    half = log_jacobian.data.astype(np.float64) / 2
    followup = float((share * np.exp(half)).sum()) / scalings[1]
    baseline = float((share * np.exp(-half)).sum()) / scalings[0]
    return 100 * (followup / baseline - 1)


def constancy(percents_per_year: Sequence[float | None]) -> float | None:
    """How evenly a lesion expands over its intervals: its slowest by its fastest, 0 where it does not always expand.

    Examples
    --------
    >>> constancy([10.0, 8.0]), constancy([10.0, -3.0]), constancy([10.0]), constancy([10.0, None])
    (0.8, 0.0, None, None)
    """
    known = [rate for rate in percents_per_year if rate is not None]
    if len(known) < 2 or len(known) < len(percents_per_year):
        return None
    return 0.0 if min(known) <= 0 else round(min(known) / max(known), 3)


def _smoothed(log_jacobian: Volume, mask: Volume, sigma_mm: float) -> np.ndarray:
    """Within a mask: values outside do not count."""
    sigma, inside = sigma_mm / log_jacobian.spacing, mask.data.astype(np.float32)
    weights = ndimage.gaussian_filter(inside, sigma)
    values = ndimage.gaussian_filter(log_jacobian.data * inside, sigma)
    return np.where(inside > 0, values / np.maximum(weights, 1e-6), 0)


def _concentricity(lesion: np.ndarray, smooth: np.ndarray, spacing: np.ndarray) -> float | None:
    """Rank correlation of expansion with depth."""
    depth = ndimage.distance_transform_edt(np.pad(lesion, 1), sampling=spacing)[1:-1, 1:-1, 1:-1][lesion]
    if depth.size < 3 or np.ptp(depth) == 0:
        return None
    return round(float(spearmanr(depth, smooth[lesion]).statistic), 3)
