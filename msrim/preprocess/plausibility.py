"""Whether brain masks and contrasts are what they are taken for.

Each limit lies between what was measured on the raw and the brain-extracted visits of 17 patients of three sites, and
on the same images after damage: brain masks cut in half or grown by 8 and 14 mm, contrasts exchanged, the T1w of one
patient registered to the FLAIR of another. `python -m tests.benchmarks.plausibility` prints these figures.
"""

from __future__ import annotations

import edt
import numpy as np
from scipy import ndimage

from msrim.image import Volume, resample

# Dice of a brain mask with the template's after the affine alignment: whole brains have 0.94 and more, halves of them
# up to 0.89.
MIN_TEMPLATE_DICE = 0.92
# Volumes of adults' brains with ventricles and the CSF of the sulci, ml, with room on both sides.
BRAIN_ML = (850.0, 2300.0)
# Share of the voxels at a mask's surface that are brighter than nearly all of the brain deep inside: up to 0.03 in
# FLAIRs, from 0.10 on where a mask takes in fat and muscle.
MAX_BRIGHT_SURFACE = 0.07
SURFACE_MM, DEEP_MM, NEARLY_ALL = 5.0, 10.0, 99.5
# Correlation with the template, a T1w, in grey and white matter deep inside: at most 0.14 in FLAIRs (0.06 but for one,
# whose slices were normalised), at least 0.16 in T1w.
MIN_T1W_CORRELATION = 0.15
# Median of deep CSF less that of tissue, in robust standard deviations of tissue: at most -0.5 in FLAIR and T1w, at
# least 1.9 in T2w.
MIN_T2W_CSF = 1.0
# Of the template's intensities in the brain, percent: below is CSF, above is tissue.
TEMPLATE_CSF, TEMPLATE_TISSUE = 4.0, 20.0
# Normalised mutual information of two contrasts inside the brain: from 1.049 on for one head, at most 1.017 for two
# heads, and 1.022 for one that is misplaced by 5 mm.
MIN_MATCH = 1.03
MATCH_BINS = 32


def brain_mask_faults(
    image: Volume, brain: Volume, *, template_brain: Volume, template_from_image: np.ndarray
) -> list[str]:
    """Evidence against a brain mask.

    Parameters
    ----------
    image : Volume
        The FLAIR.
    brain, template_brain : Volume of bool
    template_from_image : (4, 4) float
        Affine, RAS mm.

    Returns
    -------
    list of str
        Each the end of a sentence that begins with "the brain mask".
    """
    faults = []
    volume_ml = np.count_nonzero(brain.data) * brain.voxel_volume_mm3 / 1000
    if not BRAIN_ML[0] <= volume_ml <= BRAIN_ML[1]:
        faults.append(f"has {volume_ml:.0f} ml, an adult's brain {BRAIN_ML[0]:.0f} to {BRAIN_ML[1]:.0f} ml")
    dice = template_dice(brain, template_brain=template_brain, template_from_brain=template_from_image)
    if dice < MIN_TEMPLATE_DICE:
        faults.append(f"has not the shape of a whole brain (Dice {dice:.2f} with the template's)")
    bright = bright_surface(image, brain)
    if bright > MAX_BRIGHT_SURFACE:
        faults.append(f"has bright tissue at {100 * bright:.0f} % of its surface, as fat and muscle are")
    return faults


def template_dice(brain: Volume, *, template_brain: Volume, template_from_brain: np.ndarray) -> float:
    """Dice of a brain mask with the template's, on the mask's grid.

    Examples
    --------
    >>> mask = Volume(np.indices((4, 4, 4))[0] < 2, np.eye(4))
    >>> template_dice(mask, template_brain=mask, template_from_brain=np.eye(4))
    1.0
    """
    expected = _moved_mask(template_brain, brain, np.linalg.inv(template_from_brain))
    total = int(np.count_nonzero(expected) + np.count_nonzero(brain.data))
    return float(2 * np.count_nonzero(expected & brain.data) / max(total, 1))


def bright_surface(image: Volume, brain: Volume) -> float:
    """Share of a mask's surface that is brighter than nearly all of the brain deep inside; 0 where nothing is deep."""
    depth = edt.edt(brain.data, anisotropy=tuple(brain.spacing))
    surface, deep = brain.data & (depth < SURFACE_MM), depth > DEEP_MM
    return float(np.mean(image.data[surface] > np.percentile(image.data[deep], NEARLY_ALL))) if deep.any() else 0.0


def contrast_of(image: Volume, brain: Volume, *, template: Volume, template_from_image: np.ndarray) -> str | None:
    """Contrast of an image by what is bright in it.

    Parameters
    ----------
    image : Volume
        Without bias field.
    brain : Volume of bool
        On its grid.
    template : Volume
        A T1w of a brain, zero outside.
    template_from_image : (4, 4) float
        Affine, RAS mm.

    Returns
    -------
    str or None
        ``T2w`` where CSF is brighter than tissue, ``T1w`` where white matter is brighter than grey, else ``FLAIR``.
        None where too little of the brain lies deep enough.
    """
    correlation, csf = contrast_features(image, brain, template=template, template_from_image=template_from_image)
    if np.isnan(csf):
        return None
    if csf > MIN_T2W_CSF:
        return "T2w"
    return "T1w" if correlation > MIN_T1W_CORRELATION else "FLAIR"


def contrast_features(
    image: Volume, brain: Volume, *, template: Volume, template_from_image: np.ndarray
) -> tuple[float, float]:
    """Features that separate T1w, T2w and FLAIR; parameters as those of :func:`contrast_of`.

    Returns
    -------
    correlation : float
        With the template, in grey and white matter.
    csf : float
        Median of CSF less that of tissue, in robust standard deviations of tissue. Both are nan where too little of the
        brain lies deep enough.
    """
    expected = resample(template, image, target_from_source=np.linalg.inv(template_from_image)).data
    deep = edt.edt(brain.data, anisotropy=tuple(brain.spacing)) > DEEP_MM
    csf, tissue = np.percentile(template.data[template.data > 0], (TEMPLATE_CSF, TEMPLATE_TISSUE))
    deep_csf, deep_tissue = deep & (expected < csf), deep & (expected > tissue)
    if min(np.count_nonzero(deep_csf), np.count_nonzero(deep_tissue)) < MATCH_BINS:
        return np.nan, np.nan
    values, like = image.data[deep_tissue].astype(float), expected[deep_tissue]
    median = np.median(values)
    deviation = max(1.4826 * np.median(np.abs(values - median)), 1e-6)
    low, high = np.percentile(values, (1, 99))
    usual = (values >= low) & (values <= high)
    correlation = np.corrcoef(values[usual], like[usual])[0, 1]
    return float(correlation), float((np.median(image.data[deep_csf]) - median) / deviation)


def match(
    moving: Volume, fixed: Volume, *, moving_brain: Volume, fixed_brain: Volume, fixed_from_moving: np.ndarray
) -> float:
    """Normalised mutual information of two contrasts where both show brain.

    Parameters
    ----------
    moving, fixed : Volume
    moving_brain, fixed_brain : Volume of bool
    fixed_from_moving : (4, 4) float
        RAS mm.

    Returns
    -------
    float
        1 where the images are independent, or do not overlap; 2 where either determines the other.

    Notes
    -----
    Studholme, Hill and Hawkes, Pattern Recognition 32(1), 1999, doi:10.1016/S0031-3203(98)00091-0.

    Examples
    --------
    >>> image = Volume(np.random.default_rng(0).random((9, 9, 9)), np.eye(4))
    >>> everywhere = image.like(image.data >= 0)
    >>> masks = {"moving_brain": everywhere, "fixed_brain": everywhere}
    >>> round(match(image, image.like(1 - image.data), **masks, fixed_from_moving=np.eye(4)), 1)
    2.0
    """
    # Nothing outside the fixed brain's box counts.
    (box,) = ndimage.find_objects(fixed_brain.data.astype(np.uint8)) or [(slice(0, 1),) * 3]
    # Between the voxels of the fixed image, so that both are interpolated: else the identity matches too well.
    between = np.eye(4)
    first = [max(side.start - 1, 0) for side in box]
    between[:3, 3] = np.array(first) + 0.5
    size = [side.stop - start for side, start in zip(box, first, strict=True)]
    grid = Volume(np.empty(size, np.uint8), fixed.affine @ between)
    both = _moved_mask(fixed_brain, grid, np.eye(4)) & _moved_mask(moving_brain, grid, fixed_from_moving)
    if np.count_nonzero(both) < MATCH_BINS // 2:
        return 1.0
    moved = resample(moving, grid, target_from_source=fixed_from_moving).data
    rows, columns = (_binned(values[both]) for values in (moved, resample(fixed, grid).data))
    joint = np.bincount(MATCH_BINS * rows + columns, minlength=MATCH_BINS**2).reshape(MATCH_BINS, MATCH_BINS)
    total = _entropy(joint)
    return float((_entropy(joint.sum(0)) + _entropy(joint.sum(1))) / total) if total > 0 else 1.0


def _moved_mask(mask: Volume, target: Volume, target_from_mask: np.ndarray) -> np.ndarray:
    return resample(mask.like(mask.data.astype(np.float32)), target, target_from_source=target_from_mask).data > 0.5


def _binned(values: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values, (1, 99))
    return np.clip((values - low) / max(high - low, 1e-6) * MATCH_BINS, 0, MATCH_BINS - 1).astype(int)


def _entropy(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
