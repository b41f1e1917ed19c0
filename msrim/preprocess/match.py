"""Make the intensities of two visits comparable, without favouring either and without hiding what has changed."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from msrim.image import Volume

# Between these the two histograms are made alike; beyond, where lesions and vessels are, the last slope goes on.
PERCENTILES = np.linspace(2, 98, 49)
# A receive coil's sensitivity varies over centimetres, a lesion over millimetres.
FIELD_MM = 15.0
# Differences beyond so many deviations are no field: they count as if they were just that large.
CLIP_DEVIATIONS = 2.0


def match_intensities(baseline: Volume, followup: Volume, *, brain: Volume, lesions: Volume) -> tuple[Volume, Volume]:
    """Bring two FLAIRs on one grid to a common contrast; neither visit's is taken for the right one.

    Each is mapped to the mean of both histograms, then half of the smooth difference that remains is taken from each.
    Both are estimated outside lesions, so that a lesion's appearance isn't matched away.

    Parameters
    ----------
    baseline, followup : Volume
    brain : Volume of bool
        The brain at both visits.
    lesions : Volume of bool
        Lesions of either visit; they may be incomplete.

    Returns
    -------
    (Volume, Volume) of float32
        In standard deviations of the mean image inside the brain, about its mean; 0 outside.

    Notes
    -----
    The histograms meet as in Delon, J. Math. Imaging Vis. 21(2), 2004, doi:10.1023/B:JMIV.0000035178.72139.2d.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> one = Volume(rng.normal(5, 1, (20, 20, 20)).astype(np.float32), np.eye(4))
    >>> brain, none = one.like(np.ones(one.shape, bool)), one.like(np.zeros(one.shape, bool))
    >>> a, b = match_intensities(one, one.like(300 * one.data + 70), brain=brain, lesions=none)
    >>> float(np.abs(a.data - b.data).max()) < 1e-3
    True
    """
    inside = brain.data.astype(bool)
    tissue = inside & ~lesions.data.astype(bool)
    scaled = [_robustly_scaled(image.data, tissue) for image in (baseline, followup)]
    knots = [np.percentile(image[tissue], PERCENTILES) for image in scaled]
    mean_knots = (knots[0] + knots[1]) / 2
    matched = [_mapped(image, own, mean_knots) for image, own in zip(scaled, knots, strict=True)]
    field = _smooth_difference(matched[1] - matched[0], tissue, spacing=baseline.spacing) / 2
    matched = [matched[0] + field, matched[1] - field]
    values = (matched[0][inside] + matched[1][inside]) / 2
    mean, deviation = values.mean(dtype=np.float64), values.std(dtype=np.float64)
    one, other = (np.where(inside, (image - mean) / deviation, 0).astype(np.float32) for image in matched)
    return baseline.like(one), followup.like(other)


def _robustly_scaled(image: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """Median 0 and interquartile range 1, so that the unit of neither scanner outweighs the other's in the mean."""
    low, middle, high = np.percentile(image[tissue], (25, 50, 75))
    return ((image - middle) / max(high - low, 1e-6)).astype(np.float64)


def _mapped(image: np.ndarray, own: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Piecewise linear through the knots; beyond them with the mean slope of the outermost quarter of each side."""
    own = np.maximum.accumulate(own + np.arange(own.size) * 1e-9)  # values may repeat
    mapped = np.interp(image, own, target)
    quarter = own.size // 4
    for beyond, edge, inner in ((image < own[0], 0, quarter), (image > own[-1], -1, -1 - quarter)):
        slope = (target[edge] - target[inner]) / (own[edge] - own[inner])
        mapped[beyond] = target[edge] + slope * (image[beyond] - own[edge])
    return mapped


def _smooth_difference(difference: np.ndarray, tissue: np.ndarray, *, spacing: np.ndarray) -> np.ndarray:
    spread = 1.4826 * np.median(np.abs(difference[tissue]))
    clipped = np.where(tissue, np.clip(difference, -CLIP_DEVIATIONS * spread, CLIP_DEVIATIONS * spread), 0)
    # Smoothing at a third of the resolution is the same field at a twentieth of the cost.
    step = tuple(slice(None, None, max(1, int(3 / s))) for s in spacing)
    sigma = FIELD_MM / np.array([s * (part.step or 1) for s, part in zip(spacing, step, strict=True)])
    weight = ndimage.gaussian_filter(tissue[step].astype(np.float64), sigma, mode="constant")
    coarse = ndimage.gaussian_filter(clipped[step], sigma, mode="constant") / np.maximum(weight, 1e-3)
    at = np.meshgrid(
        *(np.arange(n) / part.step for n, part in zip(tissue.shape, step, strict=True)), indexing="ij", sparse=True
    )
    return ndimage.map_coordinates(coarse, np.broadcast_arrays(*at), order=1, mode="nearest")
