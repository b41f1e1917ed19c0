"""Plausibility of a linear registration by any backend.

Limits from ten pairs of five raw visits with published transforms and brain masks (sub-03, sub-04, sub-12, sub-20),
whose brains shared 99 to 102 % of the smaller one at the published place, and from fifteen pairs of 2-D images with
slices of 6 to 8 mm: in excess of 1, the normalised mutual information of a registration that was 5 mm off or more had
at most 0.38 of that of the coarse start, one that was 1 mm off across slices 0.54 to 0.82, the right one 1 or more.
"""

from __future__ import annotations

import numpy as np

from msrim.image import Volume
from msrim.preprocess.plausibility import match
from msrim.preprocess.register import PLAUSIBLE_SCALES, starting_pose
from msrim.transform import apply_transform

# Programs write rotations with six digits.
RIGID_SCALES = (0.99, 1.01)
# Of the smaller brain.
MIN_OVERLAP = 0.7
# Of the normalised mutual information at the start, both in excess of 1.
MIN_SIMILARITY = 0.9


def why_wrong(
    fixed_from_moving: np.ndarray,
    moving: Volume,
    fixed: Volume,
    *,
    moving_mask: Volume,
    fixed_mask: Volume,
    rigid: bool,
) -> str | None:
    """Faults of a registration of two images of one head, or of a head and the template.

    Parameters
    ----------
    fixed_from_moving : (4, 4) float
        RAS mm.
    moving, fixed : Volume
    moving_mask, fixed_mask : Volume of bool
        Brain masks on their grids.
    rigid : bool
        Whether it must keep all lengths; else they may change as between a brain and the template.

    Returns
    -------
    str or None
        The implausible fact, as the end of a sentence that begins with "it"; None if there is none.

    Examples
    --------
    >>> i, j, k = np.indices((40, 40, 40)) - 19.5
    >>> egg = np.maximum(18 - np.sqrt(i**2 + 2 * (j - i / 4) ** 2 + 3 * k**2), 0).astype(np.float32)
    >>> image = Volume(egg, np.diag([4.0, 4.0, 4.0, 1.0]))
    >>> masks = {"moving_mask": image.like(egg > 0), "fixed_mask": image.like(egg > 0)}
    >>> why_wrong(np.diag([-1.0, 1.0, 1.0, 1.0]), image, image, **masks, rigid=True)
    'mirrors the head'
    >>> why_wrong(np.eye(4), image, image, **masks, rigid=True)
    """
    linear = fixed_from_moving[:3, :3]
    if not np.isfinite(fixed_from_moving).all():
        return "is no transform"
    if np.linalg.det(linear) <= 0:
        return "mirrors the head"
    scales = np.linalg.svd(linear, compute_uv=False)
    low, high = RIGID_SCALES if rigid else PLAUSIBLE_SCALES
    if scales.min() < low or scales.max() > high:
        return f"scales the head by {scales.min():.2f} to {scales.max():.2f}"
    shared = overlap(fixed_from_moving, moving_mask, fixed_mask)
    if shared < MIN_OVERLAP:
        return f"lays {100 * shared:.0f} % of the smaller brain onto the other one"
    start = starting_pose(moving, fixed, moving_mask=moving_mask, fixed_mask=fixed_mask)
    brains = {"moving_brain": moving_mask, "fixed_brain": fixed_mask}
    before, after = (match(moving, fixed, **brains, fixed_from_moving=pose) for pose in (start, fixed_from_moving))
    # Where next to nothing is compared, chance makes a match.
    if after - 1 < MIN_SIMILARITY * (before - 1) and overlap(start, moving_mask, fixed_mask) >= MIN_OVERLAP:
        return (
            f"makes the images match worse (normalised mutual information {after:.3f}) than laying brain on brain does "
            f"({before:.3f})"
        )
    return None


def overlap(fixed_from_moving: np.ndarray, moving_mask: Volume, fixed_mask: Volume) -> float:
    """Share of the smaller mask's volume that lies in the other one.

    Examples
    --------
    >>> mask = Volume(np.indices((4, 4, 4))[0] < 2, np.eye(4))
    >>> shift = np.eye(4)
    >>> shift[0, 3] = 1
    >>> overlap(shift, mask, mask)
    0.5
    """
    voxels = np.argwhere(moving_mask.data)
    moved = apply_transform(np.linalg.inv(fixed_mask.affine) @ fixed_from_moving @ moving_mask.affine, voxels)
    index = np.rint(moved).astype(int)
    index = index[((index >= 0) & (index < fixed_mask.shape)).all(axis=1)]
    scale = abs(np.linalg.det(fixed_from_moving[:3, :3]))
    shared = scale * moving_mask.voxel_volume_mm3 * np.count_nonzero(fixed_mask.data[tuple(index.T)])
    volumes = (
        scale * moving_mask.voxel_volume_mm3 * len(voxels),
        fixed_mask.voxel_volume_mm3 * np.count_nonzero(fixed_mask.data),
    )
    return float(shared / min(volumes)) if min(volumes) > 0 else 0.0
