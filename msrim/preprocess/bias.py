"""Bias field correction.

N4 in SimpleITK, not antspyx: the same algorithm, whose field can be evaluated on the full grid. The fit sees a coarse
crop around the brain. `python -m tests.benchmarks.preprocess` compares them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import SimpleITK as sitk

from msrim.image import Volume, bounding_box, to_sitk
from msrim.preprocess.threads import one_itk_thread

# At 5 mm the fit takes 2 s of one core; 4 mm takes twice as long for a residual that is a fifth smaller.
FIT_SPACING_MM = 5.0
# Four levels: the last has 11 control points along each axis of the brain, about one every 20 mm.
ITERATIONS = (20, 20, 20, 20)
MARGIN_MM = 10.0


def correct_bias(volume: Volume, mask: Volume, *, fit: Callable[[Volume, Volume], np.ndarray] | None = None) -> Volume:
    """Divide an image by the smooth field that N4 finds inside a mask.

    Parameters
    ----------
    volume : Volume
        Any contrast.
    mask : Volume of bool
        Brain, on the same grid. The field is fitted inside; around its box it goes on as at the box's border, so that
        the whole head is corrected.
    fit : callable, optional
        Another program's N4: the logarithm of the field, (X, Y, Z) float32, from an image and the mask on its grid.

    Returns
    -------
    Volume of float32
        On the same grid. Unchanged if no voxel in the mask is positive.

    Notes
    -----
    Tustison et al., IEEE TMI 29(6), 2010, doi:10.1109/TMI.2010.2046908.

    Examples
    --------
    >>> flat = Volume(np.full((20, 20, 20), 100.0, np.float32), np.diag([5.0, 5.0, 5.0, 1.0]))
    >>> correct_bias(flat, flat.like(flat.data > 0)).data.std() < 0.01
    np.True_
    """
    image = volume.like(volume.data.astype(np.float32))
    usable = mask.data.astype(bool) & (image.data > 0)
    if not usable.any():
        return image
    margin = np.ceil(MARGIN_MM / volume.spacing).astype(int)
    box = bounding_box(usable, margin=margin)
    with one_itk_thread():
        log_field = (fit or _fit)(_cropped(image, box), _cropped(mask.like(usable), box))
    around = [(s.start, n - s.start - m) for s, n, m in zip(box, volume.shape, log_field.shape, strict=True)]
    return image.like(image.data / np.exp(np.pad(log_field, around, mode="edge")))


def averaged(volume: Volume, mask: Volume) -> tuple[sitk.Image, sitk.Image]:
    """Image and mask at about FIT_SPACING_MM, by averages over blocks of whole voxels."""
    image, usable = to_sitk(volume), sitk.Cast(to_sitk(mask), sitk.sitkFloat32)
    factors = [max(1, round(FIT_SPACING_MM / s)) for s in volume.spacing]
    # Averages over usable voxels alone: a block at the brain's edge keeps the brain's brightness.
    weight = sitk.BinShrink(usable, factors)
    return sitk.BinShrink(image * usable, factors) / sitk.Maximum(weight, 1e-3), weight > 0.5


def _fit(volume: Volume, mask: Volume) -> np.ndarray:
    """Logarithm of the field on the grid of ``volume``: (X, Y, Z) float32."""
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(ITERATIONS)
    n4.Execute(*averaged(volume, mask))
    return sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(to_sitk(volume))).T


def _cropped(volume: Volume, box: tuple[slice, ...]) -> Volume:
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [s.start for s in box]
    return Volume(volume.data[box], affine)
