"""Linear registration by mutual information, in scanner space.

Both images are averaged down to about the same voxel size along every axis, which suits 3-5 mm slices better than one
shrink factor for all, and matched from coarse to fine. The coarse steps see the whole head, whose outline catches large
misplacements; the last sees the brain alone, because jaw and neck do not move rigidly with it.

A pair takes about 2 s of one core, so one thread is enough, and the result is the same bits on every run.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from msrim.image import Volume, to_sitk
from msrim.preprocess.masks import blanked
from msrim.preprocess.plausibility import match
from msrim.preprocess.threads import one_itk_thread
from msrim.transform import LPS_FROM_RAS, apply_transform, itk_from_ras, ras_from_itk

HISTOGRAM_BINS = 32
# Every combination of these turns about the three axes is tried at START_SPACING_MM; the best goes on.
START_TURNS_DEG = (-20.0, 0.0, 20.0)
START_SPACING_MM = 8.0
# Spacing, margin around the fixed brain mask, most iterations.
RIGID_STEPS = ((6.0, 20.0, 60), (3.0, 5.0, 40), (1.5, 0.0, 40))
# The outline of the brain carries most of what is known about its size, so the margin stays.
AFFINE_STEPS = ((4.0, 8.0, 80), (2.0, 8.0, 60))
# First step of the optimiser in voxels. With longer ones an affine may run past collapsing the brain, or mirror it.
RIGID_STRIDE, AFFINE_STRIDE = 0.5, 0.1
# How much larger or smaller than the template's a brain is along any axis, with room to spare.
PLAUSIBLE_SCALES = (0.7, 1.45)


def register_rigid(
    moving: Volume,
    fixed: Volume,
    *,
    moving_mask: Volume | None = None,
    fixed_mask: Volume | None = None,
) -> np.ndarray:
    """Rotation and translation from one image of a head to another.

    Give bias-corrected images: a bias field alone can pull the brain by more than 1 mm.

    Parameters
    ----------
    moving, fixed : Volume
        Any contrasts, whole heads or brains.
    moving_mask, fixed_mask : Volume of bool, optional
        Brain masks on the grids of ``moving`` and ``fixed``. Their centres give the start, and the fixed one narrows
        the fine steps to the brain. With both, the start counts where it matches better than what comes of it.

    Returns
    -------
    (4, 4) float
        ``fixed_from_moving``, RAS mm.

    Notes
    -----
    The metric is that of Mattes et al., IEEE TMI 22(1), 2003, doi:10.1109/TMI.2003.809072.

    Examples
    --------
    >>> i, j, k = np.indices((40, 40, 40)) - 19.5
    >>> egg = np.maximum(18 - np.sqrt(i**2 + 2 * (j - i / 4) ** 2 + 3 * k**2), 0).astype(np.float32)
    >>> fixed = Volume(egg, np.diag([4.0, 4.0, 4.0, 1.0]))
    >>> moving = Volume(egg, np.array([[4.0, 0, 0, 12], [0, 4, 0, 0], [0, 0, 4, 0], [0, 0, 0, 1]]))
    >>> masks = {"moving_mask": moving.like(egg > 0), "fixed_mask": fixed.like(egg > 0)}
    >>> register_rigid(moving, fixed, **masks)[0, 3].round()
    np.float64(-12.0)
    """
    with one_itk_thread():
        start = starting_pose(moving, fixed, moving_mask=moving_mask, fixed_mask=fixed_mask)
        refined = _refine(start, moving, fixed, fixed_mask, RIGID_STEPS, sitk.VersorRigid3DTransform())
    if moving_mask is None or fixed_mask is None:
        return refined
    # The steps average down to about the same voxel size, so that slices of 8 mm lose the optimiser: of fifteen pairs
    # of one site it moved three by 5 to 29 mm which their authors had registered already.
    brains = {"moving_brain": moving_mask, "fixed_brain": fixed_mask}
    return max((refined, start), key=lambda pose: match(moving, fixed, **brains, fixed_from_moving=pose))


def register_affine(
    moving: Volume,
    fixed: Volume,
    *,
    moving_mask: Volume | None = None,
    fixed_mask: Volume | None = None,
) -> np.ndarray:
    """Affine from one brain to another, usually to the template.

    Parameters
    ----------
    moving, fixed : Volume
        Any contrasts.
    moving_mask, fixed_mask : Volume of bool, optional
        Brain masks on the grids of ``moving`` and ``fixed``; what lies outside is blanked, so that a whole head can be
        matched to a template that shows the brain alone.

    Returns
    -------
    (4, 4) float
        ``fixed_from_moving``, RAS mm.
    """
    moving, fixed = blanked(moving, moving_mask), blanked(fixed, fixed_mask)
    with one_itk_thread():
        matrix = starting_pose(moving, fixed, moving_mask=moving_mask, fixed_mask=fixed_mask)
        matrix = _refine(matrix, moving, fixed, fixed_mask, RIGID_STEPS[:1], sitk.VersorRigid3DTransform())
        return _refine(matrix, moving, fixed, fixed_mask, AFFINE_STEPS, sitk.AffineTransform(3))


def align_by_volume(moving: Volume, fixed: Volume, *, moving_mask: Volume, fixed_mask: Volume) -> np.ndarray:
    """Rotation and translation to the template, and one scale that makes the brains as large: what cannot run astray.

    Parameters and result as those of :func:`register_affine`.
    """
    masks = {"moving_mask": moving_mask, "fixed_mask": fixed_mask}
    rigid = register_rigid(blanked(moving, moving_mask), blanked(fixed, fixed_mask), **masks)
    volumes = [np.count_nonzero(mask.data) * mask.voxel_volume_mm3 for mask in (fixed_mask, moving_mask)]
    centre = _centre(fixed, fixed_mask)
    scale = np.eye(4)
    scale[:3, :3] *= np.clip(np.cbrt(volumes[0] / volumes[1]), *PLAUSIBLE_SCALES)
    scale[:3, 3] = centre - scale[:3, :3] @ centre
    return scale @ rigid


def refine_affine(
    moving: Volume, fixed: Volume, *, fixed_from_moving: np.ndarray, fixed_mask: Volume | None = None
) -> np.ndarray:
    """Improve a good alignment of two images of one head by an affine, inside the brain alone.

    Scanners' length scales differ by up to a percent between visits, which is 0.7 mm at the brain's surface.

    Parameters
    ----------
    moving, fixed : Volume
    fixed_from_moving : (4, 4) float
        Where to start.
    fixed_mask : Volume of bool, optional

    Returns
    -------
    (4, 4) float
        ``fixed_from_moving``, RAS mm.
    """
    with one_itk_thread():
        return _refine(fixed_from_moving, moving, fixed, fixed_mask, RIGID_STEPS[1:], sitk.AffineTransform(3))


def starting_pose(
    moving: Volume, fixed: Volume, *, moving_mask: Volume | None = None, fixed_mask: Volume | None = None
) -> np.ndarray:
    """The pose that the headers give, or centre on centre at one of a few tilts: whichever matches best.

    Parameters and result as those of :func:`register_rigid`.
    """
    if moving_mask is None or fixed_mask is None:
        moving_mask = fixed_mask = None
    with one_itk_thread():
        match = mutual_information(moving, fixed, fixed_mask=fixed_mask, spacing_mm=START_SPACING_MM)
        moving_centre, fixed_centre = _centre(moving, moving_mask), _centre(fixed, fixed_mask)
        # A mask that took in the neck moves its centre by centimetres; scanners place two images of one session better.
        best = np.eye(4)
        best_value = match(best)
        # The upright start comes first, so that it wins where there is nothing to choose.
        for turns in sorted(product(START_TURNS_DEG, repeat=3), key=np.count_nonzero):
            transform = sitk.VersorRigid3DTransform()
            euler = sitk.Euler3DTransform((0.0, 0.0, 0.0), *np.deg2rad(turns).tolist())
            transform.SetMatrix(euler.GetMatrix())
            transform.SetCenter((LPS_FROM_RAS[:3, :3] @ fixed_centre).tolist())
            transform.SetTranslation((LPS_FROM_RAS[:3, :3] @ (moving_centre - fixed_centre)).tolist())
            pose = ras_from_itk(transform)
            value = match(pose)
            if value > best_value:
                best_value, best = value, pose
    return best


def mutual_information(
    moving: Volume, fixed: Volume, *, fixed_mask: Volume | None = None, spacing_mm: float
) -> Callable[[np.ndarray], float]:
    """How well two images match, as a function of ``fixed_from_moving``.

    Parameters
    ----------
    moving, fixed : Volume
        Averaged down to about ``spacing_mm``.
    fixed_mask : Volume of bool, optional
        Where it is measured, with a margin of START_SPACING_MM.
    spacing_mm : float

    Returns
    -------
    callable
        From a (4, 4) float, RAS mm, to nats; 0 where the images do not meet.
    """
    metric = _metric(_mask_image(fixed_mask, spacing_mm, margin_mm=START_SPACING_MM))
    fixed_image, moving_image = _averaged(fixed, spacing_mm), _averaged(moving, spacing_mm)

    def at(fixed_from_moving: np.ndarray) -> float:
        metric.SetInitialTransform(itk_from_ras(fixed_from_moving))
        try:
            return -metric.MetricEvaluate(fixed_image, moving_image)
        except RuntimeError:
            return 0.0

    return at


def _refine(
    matrix: np.ndarray,
    moving: Volume,
    fixed: Volume,
    fixed_mask: Volume | None,
    steps: tuple[tuple[float, float, int], ...],
    transform: sitk.VersorRigid3DTransform | sitk.AffineTransform,
) -> np.ndarray:
    """Improve ``fixed_from_moving`` step by step, within what ``transform`` can express."""
    pull = LPS_FROM_RAS @ np.linalg.inv(matrix) @ LPS_FROM_RAS
    centre = LPS_FROM_RAS[:3, :3] @ _centre(fixed, fixed_mask)
    # Turning about the brain's centre keeps rotation and translation apart for the optimiser.
    transform.SetCenter(centre.tolist())
    transform.SetMatrix(pull[:3, :3].ravel().tolist())
    transform.SetTranslation((apply_transform(pull, centre) - centre).tolist())
    stride = AFFINE_STRIDE if isinstance(transform, sitk.AffineTransform) else RIGID_STRIDE
    for spacing_mm, margin_mm, iterations in steps:
        method = _metric(_mask_image(fixed_mask, spacing_mm, margin_mm=margin_mm))
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=stride * spacing_mm,
            minStep=0.01,
            numberOfIterations=iterations,
            gradientMagnitudeTolerance=1e-5,
        )
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(transform, inPlace=True)
        method.Execute(_averaged(fixed, spacing_mm), _averaged(moving, spacing_mm))
    return ras_from_itk(transform)


def _metric(mask: sitk.Image | None) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
    method.SetInterpolator(sitk.sitkLinear)
    if mask is not None:
        method.SetMetricFixedMask(mask)
    return method


def _averaged(volume: Volume, spacing_mm: float) -> sitk.Image:
    image = to_sitk(volume.like(volume.data.astype(np.float32)))
    return sitk.BinShrink(image, [max(1, round(spacing_mm / s)) for s in volume.spacing])


def _mask_image(mask: Volume | None, spacing_mm: float, *, margin_mm: float) -> sitk.Image | None:
    if mask is None:
        return None
    image = _averaged(mask, spacing_mm) > 0.5
    return sitk.BinaryDilate(image, [round(margin_mm / s) for s in image.GetSpacing()])


def _centre(volume: Volume, mask: Volume | None) -> np.ndarray:
    """Centre of the brain where it is known, of brightness otherwise: (3,) float, RAS mm."""
    weights = mask.data if mask is not None else np.maximum(volume.data - volume.data.mean(), 0)
    return apply_transform(volume.affine, np.array(ndimage.center_of_mass(weights)))
