"""The ANTs twins, through antspyx: N4, rigid and affine registration, Atropos, and SyN.

ANTs runs on one thread and with one seed, so that the bits are the same on every run. Its files go to a temporary
folder of their own.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from msrim.errors import BackendError
from msrim.image import Volume
from msrim.preprocess import bias
from msrim.preprocess.masks import blanked
from msrim.transform import LPS_FROM_RAS, apply_transform, ras_from_itk

SEED = 1
THREADS = "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"
# Percentiles of a brain between which its tissues' intensities lie.
USUAL = (1.0, 99.0)
# Most iterations at 6, 4, 2 and 1 times the voxel size. The finest level takes most of the time and moves a brain in
# 3 mm slices by less than 0.1 mm.
RIGID_ITERATIONS, AFFINE_ITERATIONS = (100, 100, 20, 0), (200, 200, 20, 0)


@dataclass(frozen=True, eq=False)
class Warp:
    """A deformation of an image onto another one's grid.

    Attributes
    ----------
    grid : Volume
        Of the fixed image; only its shape and affine mean something.
    displacement : (X, Y, Z, 3) float32, RAS mm
        From each voxel's centre to the point of the moving image that belongs there.
    """

    grid: Volume
    displacement: np.ndarray

    def apply(self, moving: Volume, *, nearest: bool = False) -> Volume:
        """The moving image on the grid: float32, or labels of their own type where ``nearest``; 0 outside its field."""
        index = np.moveaxis(np.indices(self.grid.shape), 0, -1)
        points = apply_transform(self.grid.affine, index) + self.displacement
        where = np.moveaxis(apply_transform(np.linalg.inv(moving.affine), points), -1, 0)
        data = moving.data if nearest else moving.data.astype(np.float32)
        return self.grid.like(ndimage.map_coordinates(data, where, order=0 if nearest else 1))


def correct_bias(volume: Volume, mask: Volume) -> Volume:
    """Divide an image by the field that N4 of ANTs finds inside a mask; parameters as of the embedded twin.

    Raises
    ------
    BackendError
        antspyx is missing or failed.
    """
    return bias.correct_bias(volume, mask, fit=_log_bias)


def _log_bias(volume: Volume, mask: Volume) -> np.ndarray:
    image, inside = bias.averaged(volume, mask)
    factors = np.round(np.array(image.GetSpacing()) / volume.spacing)
    coarse = Volume(sitk.GetArrayFromImage(image).T, np.diag([*image.GetSpacing(), 1.0]))
    with _ants("N4") as ants:
        found = ants.n4_bias_field_correction(
            _to_ants(coarse),
            mask=_to_ants(coarse.like(sitk.GetArrayFromImage(inside).T)),
            shrink_factor=1,
            convergence={"iters": list(bias.ITERATIONS), "tol": 1e-7},
            return_bias_field=True,
        )
        log_field = np.log(found.numpy())
    # A block's value lies in its middle. The field bends little within one, so lines between them are enough.
    return ndimage.affine_transform(
        log_field, np.diag(1 / factors), (1 / factors - 1) / 2, output_shape=volume.shape, order=1, mode="nearest"
    )


def register_rigid(
    moving: Volume,
    fixed: Volume,
    *,
    moving_mask: Volume | None = None,
    fixed_mask: Volume | None = None,
) -> np.ndarray:
    """``fixed_from_moving`` by ANTs' rigid stage, mutual information; parameters as of the embedded twin.

    Tissue outside the masks is blanked. Raises BackendError if antspyx is missing or failed.

    Notes
    -----
    Avants et al., NeuroImage 54(3), 2011, doi:10.1016/j.neuroimage.2010.09.025.
    """
    return _linear("Rigid", blanked(moving, moving_mask), blanked(fixed, fixed_mask), iterations=RIGID_ITERATIONS)


def register_affine(
    moving: Volume,
    fixed: Volume,
    *,
    moving_mask: Volume | None = None,
    fixed_mask: Volume | None = None,
) -> np.ndarray:
    """``fixed_from_moving`` by ANTs' affine stage; all else as :func:`register_rigid`."""
    return _linear("Affine", blanked(moving, moving_mask), blanked(fixed, fixed_mask), iterations=AFFINE_ITERATIONS)


def register_deformable(
    moving: Volume,
    fixed: Volume,
    *,
    moving_mask: Volume | None = None,
    fixed_mask: Volume | None = None,
    iterations: tuple[int, ...] = (40, 20, 0),
) -> Warp:
    """Affine and SyN from one brain to another.

    Parameters
    ----------
    moving, fixed : Volume
        Any contrasts.
    moving_mask, fixed_mask : Volume of bool, optional
        Brain masks on their grids; what lies outside is blanked.
    iterations : tuple of int
        Most iterations of SyN from coarse to fine.

    Raises
    ------
    BackendError
        antspyx is missing or failed.

    Notes
    -----
    Avants et al., Medical Image Analysis 12(1), 2008, doi:10.1016/j.media.2007.06.004.
    """
    with _ants("SyN") as ants:
        found = ants.registration(
            _to_ants(blanked(fixed, fixed_mask)),
            _to_ants(blanked(moving, moving_mask)),
            type_of_transform="SyN",
            reg_iterations=iterations,
            aff_iterations=AFFINE_ITERATIONS,
        )
        warp, affine = found["fwdtransforms"]
        field = sitk.ReadImage(warp, sitk.sitkVectorFloat64)
        moving_from_fixed = np.linalg.inv(ras_from_itk(sitk.ReadTransform(affine)))
    # A point of the fixed image goes first by the field, which is in LPS mm, and then by the affine.
    shift = np.moveaxis(sitk.GetArrayFromImage(field), (0, 1, 2), (2, 1, 0)) * np.diag(LPS_FROM_RAS)[:3]
    points = apply_transform(fixed.affine, np.moveaxis(np.indices(fixed.shape), 0, -1))
    return Warp(fixed, (apply_transform(moving_from_fixed, points + shift) - points).astype(np.float32))


def classify_tissue(t1w: Volume, brain: Volume) -> Volume:
    """CSF, grey and white matter of a T1w image by Atropos: k-means of the brightness, then a Markov random field.

    Parameters
    ----------
    t1w : Volume
    brain : Volume of bool
        On the same grid.

    Returns
    -------
    Volume of uint8
        0 outside the brain, 1 CSF, 2 grey matter, 3 white matter.

    Raises
    ------
    BackendError
        antspyx is missing or failed.

    Notes
    -----
    Avants et al., Neuroinformatics 9(4), 2011, doi:10.1007/s12021-011-9109-y.
    """
    # Atropos starts from means that are spread between darkest and brightest: a few vessels as bright as five times
    # white matter would be a class of their own, and grey and white matter another.
    darkest, brightest = np.percentile(t1w.data[brain.data], USUAL) if brain.data.any() else (0.0, 0.0)
    usual = t1w.like(np.clip(t1w.data, darkest, brightest))
    with _ants("Atropos") as ants:
        image, inside = _to_ants(blanked(usual, brain)), _to_ants(brain)
        found = ants.atropos(image, inside, i="Kmeans[3]", m="[0.2,1x1x1]", c="[5,0]", r=0)
    # Atropos numbers its classes from dark to bright: CSF, grey, white on T1w.
    labels = found["segmentation"].numpy().round().astype(np.uint8)
    return t1w.like(np.where(brain.data, labels, 0).astype(np.uint8))


def _linear(kind: str, moving: Volume, fixed: Volume, *, iterations: tuple[int, ...]) -> np.ndarray:
    with _ants("registration") as ants:
        found = ants.registration(_to_ants(fixed), _to_ants(moving), type_of_transform=kind, aff_iterations=iterations)
        return ras_from_itk(sitk.ReadTransform(found["fwdtransforms"][0]))


def _to_ants(volume: Volume) -> Any:
    affine = LPS_FROM_RAS @ volume.affine
    return _library().from_numpy(
        np.ascontiguousarray(volume.data.astype(np.float32)),
        origin=affine[:3, 3].tolist(),
        spacing=volume.spacing.tolist(),
        direction=affine[:3, :3] / volume.spacing,
    )


@contextmanager
def _ants(what: str) -> Iterator[ModuleType]:
    """The library, its temporary files in a folder that goes with the block, its errors as ours."""
    library, before = _library(), tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="msrim-ants-") as folder:
        # Most of ANTs' functions name their files themselves, and leave them.
        tempfile.tempdir = folder
        try:
            yield library
        except Exception as error:  # Atropos raises nothing narrower.
            words = " ".join(str(error).split())[:400]
            raise BackendError(f"{what} of ANTs failed: {words}; check the image, or use --backend embedded") from error
        finally:
            tempfile.tempdir = before


@cache
def _library() -> ModuleType:
    before = os.environ.get(THREADS)
    # Read by ITK once, when the first filter runs; the embedded backend and other programs keep their own number.
    os.environ[THREADS] = "1"
    try:
        import ants

        ants.config.set_ants_deterministic(on=False, seed_value=SEED)
        ants.smooth_image(ants.from_numpy(np.zeros((4, 4, 4), np.float32)), 1)
    except ImportError as error:
        raise BackendError(f"antspyx cannot be used: {error}; install it, or use --backend embedded") from error
    finally:
        if before is None:
            del os.environ[THREADS]
        else:
            os.environ[THREADS] = before
    return ants
