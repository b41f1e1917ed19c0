"""Volumes: what msrim holds of an image, and how it comes from and goes to files.

Geometry inside the package is RAS+ millimetres and arrays are (X, Y, Z) in NIfTI order; ITK's conventions are met only
at the border, in this file.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from msrim.errors import InputError
from msrim.files import written_atomically
from msrim.transform import LPS_FROM_RAS, itk_from_ras

# Scanners round header fields; further apart than this the two poses of a file would move a lesion by a voxel.
MAX_POSE_DISAGREEMENT_MM = 0.5
MIN_SLICES = 8


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3-D image in scanner space.

    Attributes
    ----------
    data : (X, Y, Z) array
    affine : (4, 4) float64
        Voxel index to RAS mm.
    """

    data: np.ndarray
    affine: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along each axis."""
        return self.data.shape

    @property
    def spacing(self) -> np.ndarray:
        """Voxel edge lengths: (3,) float, mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def like(self, data: np.ndarray) -> Volume:
        """Another array on this grid."""
        if data.shape != self.shape:
            raise ValueError(f"array of shape {data.shape} does not lie on a grid of {self.shape}")
        return Volume(data, self.affine)


def same_grid(a: Volume, b: Volume, *, tolerance_mm: float = 1e-3) -> bool:
    """Whether two volumes have the same shape and pose."""
    return a.shape == b.shape and bool(np.allclose(a.affine, b.affine, atol=tolerance_mm))


def read_volume(path: Path, *, mask: bool = False) -> Volume:
    """Read a NIfTI file as float32, in the orientation in which it is stored.

    Parameters
    ----------
    path : Path
        ``.nii`` or ``.nii.gz``.
    mask : bool
        Read a mask: bool data, and all zeros is a valid answer.

    Raises
    ------
    InputError
        Missing, not NIfTI, truncated, not 3-D, a single slice, NaN or Inf, constant, or its qform and sform disagree.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            raise InputError(f"{path}: not a NIfTI image; convert it to .nii or .nii.gz, for example with dcm2niix")
        shape = image.shape
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) != 3:
            raise InputError(f"{path}: has {len(shape)} dimensions {shape}, 3 are needed; extract one volume")
        data = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
    except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError) as error:
        raise InputError(
            f"{path}: not a NIfTI image; convert it to .nii or .nii.gz, for example with dcm2niix"
        ) from error
    except (EOFError, zlib.error, OSError, ValueError) as error:
        raise InputError(f"{path}: damaged or truncated ({error}); copy it again from its source") from error
    _check_pose(image, path)
    if not np.isfinite(data).all():
        raise InputError(f"{path}: {np.count_nonzero(~np.isfinite(data))} voxels are NaN or infinite; export it again")
    affine = np.array(image.affine, dtype=np.float64)
    if mask:
        return Volume(data > 0.5, affine)
    if min(shape) < MIN_SLICES:
        raise InputError(f"{path}: only {min(shape)} slice(s) along one axis {shape}; a volume of the brain is needed")
    if data.min() == data.max():
        raise InputError(f"{path}: every voxel is {data.min():g}; this file holds no image")
    return Volume(data, affine)


def _check_pose(image: nib.Nifti1Image, path: Path) -> None:
    header = image.header
    qform_code, sform_code = int(header["qform_code"]), int(header["sform_code"])
    if abs(np.linalg.det(image.affine[:3, :3])) < 1e-6:
        raise InputError(f"{path}: its affine is singular; the voxel size or orientation in the header is broken")
    if not (qform_code and sform_code):
        return
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in image.shape[:3]], indexing="ij")).reshape(3, -1)
    corners = np.vstack([corners, np.ones(corners.shape[1])])
    gap_mm = np.abs((image.get_qform() - image.get_sform()) @ corners).max()
    if gap_mm > MAX_POSE_DISAGREEMENT_MM:
        raise InputError(
            f"{path}: its qform and sform place the image {gap_mm:.1f} mm apart; "
            "keep the right one (for example fslorient -copysform2qform) and run again"
        )


def write_volume(volume: Volume, path: Path) -> Path:
    """Write a NIfTI file: masks and labels as uint8 or int16, uint16 as it is, else float32; sform and qform both set.

    Raises
    ------
    OutputError
        The folder cannot be written to or the disk is full.
    """
    data = volume.data
    if data.dtype == bool:
        data = data.astype(np.uint8)
    elif data.dtype == np.uint16:
        pass  # intensities as scanners store them
    elif np.issubdtype(data.dtype, np.integer):
        data = data.astype(np.int16 if data.size and data.max() > 255 else np.uint8)
    else:
        data = data.astype(np.float32)
    image = nib.Nifti1Image(data, volume.affine)
    image.set_qform(volume.affine, code=1, strip_shears=True)
    image.set_sform(volume.affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    with written_atomically(path) as temporary:
        image.to_filename(temporary)
    return path


def to_ras(volume: Volume) -> Volume:
    """The same voxels with axes permuted and flipped so that they run closest to right, anterior and superior."""
    orientation = nib.io_orientation(volume.affine)
    data = nib.apply_orientation(volume.data, orientation)
    return Volume(data, volume.affine @ nib.orientations.inv_ornt_aff(orientation, volume.shape))


def to_sitk(volume: Volume) -> sitk.Image:
    """The same image as SimpleITK holds it (LPS, arrays transposed)."""
    data = volume.data.astype(np.uint8) if volume.data.dtype == bool else volume.data
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    affine = LPS_FROM_RAS @ volume.affine
    image.SetSpacing(volume.spacing.tolist())
    image.SetDirection((affine[:3, :3] / volume.spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def from_sitk(image: sitk.Image) -> Volume:
    """The inverse of :func:`to_sitk`."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image).T, LPS_FROM_RAS @ affine)


def resample(
    volume: Volume,
    target: Volume,
    *,
    target_from_source: np.ndarray | None = None,
    nearest: bool = False,
) -> Volume:
    """Sample ``volume`` on the grid of ``target``; zero outside its field of view.

    Parameters
    ----------
    volume : Volume
    target : Volume
        Only its shape and affine are used.
    target_from_source : (4, 4) float, optional
        Transform in RAS mm from the space of ``volume`` to that of ``target``; identity if not given.
    nearest : bool
        Nearest neighbour, for labels; linear otherwise.
    """
    matrix = np.eye(4) if target_from_source is None else target_from_source
    if target_from_source is None and same_grid(volume, target):
        return Volume(volume.data, target.affine)
    # Through voxel indices, not physical space: ITK refuses directions that are not orthonormal, and sheared affines
    # exist.
    source_voxel_from_target_voxel = np.linalg.inv(volume.affine) @ np.linalg.inv(matrix) @ target.affine
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.data.astype(np.float32).T))
    flip = LPS_FROM_RAS
    pull = itk_from_ras(flip @ np.linalg.inv(source_voxel_from_target_voxel) @ flip)
    sampled = sitk.Resample(
        image,
        [int(n) for n in target.shape],
        pull,
        sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear,
        (0.0, 0.0, 0.0),
        (1.0, 1.0, 1.0),
        tuple(np.eye(3).ravel()),
        0.0,
        sitk.sitkFloat32,
    )
    data = sitk.GetArrayFromImage(sampled).T
    if nearest:
        data = data.astype(volume.data.dtype)
    return Volume(data, target.affine)


def labels_on_grid(labels: Volume, target: Volume, *, target_from_source: np.ndarray) -> Volume:
    """A label map on a visit's own grid: a voxel belongs to a lesion that fills half of it.

    Thick slices are sampled at several depths and averaged. A lesion too small to fill half of any voxel keeps the
    voxels that it lies in, so that no row of the table is without a place.

    Returns
    -------
    Volume of int32
        Of two lesions in one voxel, the one of the higher number, which is the smaller.
    """
    depths = np.maximum(np.ceil(target.spacing / labels.spacing.min() - 1e-3), 1).astype(int)
    affine = target.affine @ np.diag([*(1 / depths), 1.0])
    # The first fine voxel's centre lies this far from the coarse one's.
    affine[:3, 3] += target.affine[:3, :3] @ ((1 / depths - 1) / 2)
    shape = tuple(int(n * d) for n, d in zip(target.shape, depths, strict=True))
    fine = resample(
        labels, Volume(np.broadcast_to(np.int32(0), shape), affine), target_from_source=target_from_source, nearest=True
    )
    (x, y, z), (a, b, c) = target.shape, depths
    blocks = fine.data.reshape(x, a, y, b, z, c)
    highest = blocks.max(axis=(1, 3, 5)).astype(np.int32)
    whole = np.where((blocks > 0).mean(axis=(1, 3, 5)) >= 0.5, highest, 0)
    lost = np.setdiff1d(np.unique(highest), np.unique(whole))
    return target.like(np.where((whole == 0) & np.isin(highest, lost), highest, whole))


def grid_around(shape_mm: np.ndarray, lowest_mm: np.ndarray, *, spacing_mm: float, multiple: int = 1) -> Volume:
    """An empty isotropic RAS grid that covers a box of ``shape_mm`` from ``lowest_mm`` on.

    Parameters
    ----------
    shape_mm, lowest_mm : (3,) float, mm
    spacing_mm : float
    multiple : int
        Every axis is rounded up to a multiple of this many voxels, as networks need it.
    """
    size = np.ceil(shape_mm / spacing_mm / multiple).astype(int) * multiple
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = lowest_mm
    return Volume(np.broadcast_to(np.float32(0), tuple(size)), affine)
