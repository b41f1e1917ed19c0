"""The space half way between two visits, so that neither is favoured.

Resampling one visit onto the other blurs that one alone, and blur looks like change (Reuter et al. 2012,
doi:10.1016/j.neuroimage.2012.02.084). Here each visit moves half of the way, and every function gives exactly swapped
results for swapped visits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.linalg import expm, logm

from msrim.errors import InputError
from msrim.image import Volume, grid_around, resample
from msrim.preprocess.plausibility import match
from msrim.preprocess.register import refine_affine, register_rigid
from msrim.preprocess.scan import extents_mm
from msrim.preprocess.sharpness import equally_sharp
from msrim.preprocess.verify import why_wrong
from msrim.transform import apply_transform, rigid_part

SPACING_MM = 1.0
# Room around the brains, for the edge of the brain to be seen whole.
MARGIN_MM = 4.0
# Scanners' length scales differ by up to a percent. An affine that goes beyond makes another brain of it.
LENGTH_SCALES = (0.95, 1.05)


@dataclass(frozen=True, eq=False)
class Midway:
    """The midway space of two visits.

    Attributes
    ----------
    grid : Volume
        1 mm, around both brains; only its shape and affine mean something.
    from_baseline, from_followup : (4, 4) float
        Affine transforms from each visit's world, RAS mm: rigid, and half of the small difference in length scale.
    disagreement_mm : float
        How far apart, on average over the brain, the registrations of either visit to the other put a point.
    """

    grid: Volume
    from_baseline: np.ndarray
    from_followup: np.ndarray
    disagreement_mm: float


def find_midway(
    baseline: Volume, followup: Volume, *, baseline_brain: Volume, followup_brain: Volume, upright: np.ndarray
) -> Midway:
    """Register two visits both ways, and find the space half way between them.

    Either way alone is drawn by up to a percent of size towards the fixed image, and the mean of both is not.

    Parameters
    ----------
    baseline, followup : Volume
        FLAIRs, bias-corrected.
    baseline_brain, followup_brain : Volume of bool
        Brain masks on their grids.
    upright : (2, 4, 4) float
        MNI from the world of each visit; the grid is upright by the mean of both.

    Raises
    ------
    InputError
        The registration is implausible, see :mod:`msrim.preprocess.verify`.

    Examples
    --------
    >>> i, j, k = np.indices((40, 40, 40)) - 19.5
    >>> egg = np.maximum(18 - np.sqrt(i**2 + 2 * (j - i / 4) ** 2 + 3 * k**2), 0).astype(np.float32)
    >>> one = Volume(egg, np.diag([4.0, 4.0, 4.0, 1.0]))
    >>> other = Volume(egg, np.array([[4.0, 0, 0, 12], [0, 4, 0, 0], [0, 0, 4, 0], [0, 0, 0, 1]]))
    >>> masks = {"baseline_brain": one.like(egg > 0), "followup_brain": other.like(egg > 0)}
    >>> midway = find_midway(one, other, **masks, upright=np.stack([np.eye(4), np.eye(4)]))
    >>> (midway.from_baseline[0, 3] - midway.from_followup[0, 3]).round()
    np.float64(12.0)
    """
    forth = _register(baseline, followup, moving_brain=baseline_brain, fixed_brain=followup_brain)
    back = _register(followup, baseline, moving_brain=followup_brain, fixed_brain=baseline_brain)
    from_baseline, from_followup = halfway_transform(forth, back), halfway_transform(back, forth)
    brains = [apply_transform(brain.affine, np.argwhere(brain.data)) for brain in (baseline_brain, followup_brain)]
    halves = (from_baseline, from_followup)
    turns = [rigid_part(mni @ np.linalg.inv(half)) for mni, half in zip(upright, halves, strict=True)]
    turn = rigid_part(turns[0] + turns[1])
    turn[:3, 3] = 0
    points = [apply_transform(turn @ half, brain) for half, brain in zip(halves, brains, strict=True)]
    low = np.minimum(points[0].min(axis=0), points[1].min(axis=0)) - MARGIN_MM
    high = np.maximum(points[0].max(axis=0), points[1].max(axis=0)) + MARGIN_MM
    box = grid_around(high - low, low, spacing_mm=SPACING_MM, multiple=16)
    grid = Volume(box.data, np.linalg.inv(turn) @ box.affine)
    gaps = [_gap_mm(forth, np.linalg.inv(back), brains[0]), _gap_mm(back, np.linalg.inv(forth), brains[1])]
    return Midway(grid, from_baseline, from_followup, (gaps[0] + gaps[1]) / 2)


def halfway_transform(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Half of the mean of a transform and of another one's inverse, both close to rigid.

    Parameters
    ----------
    forward, backward : (4, 4) float
        From here to there, and from there to here.

    Returns
    -------
    (4, 4) float
        From here to the middle. With the arguments exchanged, exactly what leads there from the other side.

    Examples
    --------
    >>> there, here = np.eye(4), np.eye(4)
    >>> there[0, 3], here[0, 3] = 10.0, -12.0
    >>> halfway_transform(there, here)[0, 3]
    np.float64(5.5)
    """
    return expm((np.real(logm(forward)) - np.real(logm(backward))) / 4)


def to_midway(
    images: tuple[Volume, Volume], grid: Volume, *, transforms: tuple[np.ndarray, np.ndarray]
) -> tuple[Volume, Volume]:
    """An image of either visit on the midway grid, each as sharp along each axis as the blunter of the two.

    A visit with 1 mm slices beside one of 5 mm would show an edge at every gyrus; the sharper one is blurred by what
    the other one's voxels are wider.

    Parameters
    ----------
    images : (Volume, Volume)
        Of baseline and follow-up, of one contrast.
    grid : Volume
        Of :class:`Midway`.
    transforms : two (4, 4) float
        From each image's world to the midway space.
    """
    axes = grid.affine[:3, :3] / SPACING_MM
    extents = [extents_mm(axes, matrix @ image.affine) for image, matrix in zip(images, transforms, strict=True)]
    one, other = (
        _blurred(resample(image, grid, target_from_source=matrix), own, blunter)
        for image, matrix, own, blunter in zip(images, transforms, extents, extents[::-1], strict=True)
    )
    return one, other


def sharp_on_midway(
    images: tuple[Volume, Volume], brain: Volume, *, transforms: tuple[np.ndarray, np.ndarray]
) -> tuple[Volume, Volume]:
    """An image of either visit on the midway grid, equally sharp by what they show, no blunter than that takes.

    Linear interpolation, by :func:`to_midway`, blurs most half way between two slices and not at all on one: for a
    deformation this is a change. A cubic spline blurs alike everywhere.

    Parameters
    ----------
    images : (Volume, Volume)
        Of baseline and follow-up, of one contrast.
    brain : Volume of bool
        On the midway grid, where they are compared.
    transforms : two (4, 4) float
        From each image's world to the midway space.
    """
    one, other = (
        resample(image, brain, target_from_source=matrix, cubic=True)
        for image, matrix in zip(images, transforms, strict=True)
    )
    return equally_sharp(one, other, brain=brain)


def brain_overlap(baseline: Volume, followup: Volume) -> float:
    """Dice overlap of two brain masks on one grid.

    Examples
    --------
    >>> brain = Volume(np.array([[[True, True, False]]]), np.eye(4))
    >>> brain_overlap(brain, brain), round(brain_overlap(brain, brain.like(~brain.data)), 3)
    (1.0, 0.0)
    """
    both = np.count_nonzero(baseline.data & followup.data)
    return float(2 * both / (np.count_nonzero(baseline.data) + np.count_nonzero(followup.data)))


def _register(moving: Volume, fixed: Volume, *, moving_brain: Volume, fixed_brain: Volume) -> np.ndarray:
    masks = {"moving_mask": moving_brain, "fixed_mask": fixed_brain}
    rigid = register_rigid(moving, fixed, **masks)
    affine = refine_affine(moving, fixed, fixed_from_moving=rigid, fixed_mask=fixed_brain)
    brains = {"moving_brain": moving_brain, "fixed_brain": fixed_brain}
    matrix = max((affine, rigid), key=lambda pose: match(moving, fixed, **brains, fixed_from_moving=pose))
    scales = np.linalg.svd(matrix[:3, :3], compute_uv=False)
    if scales.min() < LENGTH_SCALES[0] or scales.max() > LENGTH_SCALES[1]:
        matrix = rigid
    if why := why_wrong(matrix, moving, fixed, **masks, rigid=False):
        raise InputError(
            f"the FLAIRs of the two visits cannot be registered: what was found {why}; make sure that both show the "
            "brain of one patient"
        )
    return matrix


def _gap_mm(one: np.ndarray, other: np.ndarray, points: np.ndarray) -> float:
    return float(np.linalg.norm(apply_transform(one, points) - apply_transform(other, points), axis=1).mean())


def _blurred(image: Volume, own: np.ndarray, other: np.ndarray) -> Volume:
    """As by voxels of another width, (3,) mm each, where that is wider."""
    # A voxel averages over its width like a box, whose variance is a twelfth of the width's square.
    sigma = np.sqrt(np.maximum(other**2 - own**2, 0) / 12) / SPACING_MM
    return image.like(ndimage.gaussian_filter(image.data, sigma, truncate=3.0)) if sigma.max() > 0.2 else image
