"""Volumes: what msrim holds of an image, and how it comes from and goes to files.

Geometry inside the package is RAS+ millimetres and arrays are (X, Y, Z) in NIfTI order; ITK's conventions are met only
at the border, in this file.
"""

from __future__ import annotations

import gzip
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from msrim.errors import Fallback, InputError, Remark
from msrim.files import written_atomically
from msrim.transform import LPS_FROM_RAS, apply_transform, itk_from_ras

# Scanners round header fields; further apart than this the two poses of a file would move a lesion by a voxel.
MAX_POSE_DISAGREEMENT_MM = 0.5
MIN_SLICES = 8
# More voxels than any scan of a head has (0.25 mm: 400 million); a header with more is damaged.
MAX_VOXELS = 2**29
# Of what may be read at all; whether it can be a head is asked in :mod:`msrim.workflows.inputs`.
MIN_EXTENT_MM, MAX_EXTENT_MM, MAX_POSITION_MM = 1.0, 1500.0, 10_000.0
# Grids within the first are one; a user's mask may lie off by the last, which moves no voxel's centre into another.
SAME_GRID_VOXELS, TOLD_GRID_GAP_VOXELS, MAX_GRID_GAP_VOXELS = 0.02, 0.1, 0.5
# Masks resampled by splines overshoot 1.
MAX_OVERSHOOT = 1.5
# Of the outermost voxels: the background is there.
MAX_MARKED_FACES = 0.75
# So few labels in a mask may be kinds of tissue, of which not all are lesions.
MOST_KINDS = 4
# Tables of lesions and the arrays that are indexed by their numbers stay small.
MAX_LABEL = 1_000_000
# Whole numbers may be off by this; voxel sizes that a header has twice may differ by this share.
ROUNDING, SIZE_ROUNDING = 1e-3, 0.02
GZIP_MAGIC = b"\x1f\x8b"
# Of bzip2, xz, zip and 7z.
ARCHIVES = (b"BZh", b"\xfd7zXZ", b"PK\x03\x04", b"7z\xbc\xaf")
# Best compression that deflate reaches.
GZIP_MAX_RATIO = 1040
HEADER_BYTES = 544


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3-D image in scanner space.

    Attributes
    ----------
    data : (X, Y, Z) array
    affine : (4, 4) float64
        Voxel index to RAS mm.
    posed : bool
        Whether the file's header has a pose; if not, the affine is the library's guess.
    """

    data: np.ndarray
    affine: np.ndarray
    posed: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along each axis."""
        return self.data.shape

    @property
    def spacing(self) -> np.ndarray:
        """Voxel edge lengths: (3,) float, mm."""
        return _edges_mm(self.affine)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def like(self, data: np.ndarray) -> Volume:
        """Another array on this grid."""
        if data.shape != self.shape:
            raise ValueError(f"array of shape {data.shape} does not lie on a grid of {self.shape}")
        return Volume(data, self.affine, self.posed)


def _edges_mm(affine: np.ndarray) -> np.ndarray:
    return np.linalg.norm(affine[:3, :3], axis=0)


def same_grid(a: Volume, b: Volume, *, tolerance_mm: float | None = None) -> bool:
    """Whether two volumes have the same shape and pose, to the rounding of headers: a fiftieth of a voxel.

    Parameters
    ----------
    a, b : Volume
    tolerance_mm : float, optional
        How far apart corners may lie along any axis; a fiftieth of the smallest voxel edge if not given.
    """
    if a.shape != b.shape:
        return False
    allowed = SAME_GRID_VOXELS * a.spacing.min() if tolerance_mm is None else tolerance_mm
    return bool(np.abs((a.affine - b.affine) @ _corners(a.shape)).max() <= allowed)


def on_grid_of(volume: Volume, target: Volume, *, name: object, target_name: object) -> Volume:
    """A user's mask or map on the grid that it should share with another file.

    Axes that are stored in another order or direction are reordered. A grid within a tenth of a voxel then is the
    grid; within half a voxel it is taken so with a :class:`msrim.errors.Remark`. Where the header of only one of them
    has a pose, voxels of the same number and size are taken one for one, with a remark.

    Parameters
    ----------
    volume, target : Volume
    name, target_name : object
        Names for the message.

    Returns
    -------
    Volume
        The data of ``volume``, the affine of ``target``.

    Raises
    ------
    InputError
        The grids differ.

    Examples
    --------
    >>> stored = Volume(np.arange(8.0).reshape(2, 2, 2), np.diag([1.0, 1, 1, 1]))
    >>> flipped = Volume(stored.data[::-1], np.array([[-1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    >>> bool((on_grid_of(flipped, stored, name="a.nii", target_name="b.nii").data == stored.data).all())
    True
    """
    same_voxels = volume.shape == target.shape and np.allclose(volume.spacing, target.spacing, rtol=SAME_GRID_VOXELS)
    if same_voxels and volume.posed != target.posed:
        warnings.warn(
            f"{target_name if volume.posed else name}: its header does not say how the head lies; "
            f"voxels of {name} are taken for those of {target_name} one for one",
            Remark,
            stacklevel=2,
        )
        return target.like(volume.data)
    order = nib.orientations.ornt_transform(nib.io_orientation(volume.affine), nib.io_orientation(target.affine))
    data = nib.apply_orientation(volume.data, order)
    affine = volume.affine @ nib.orientations.inv_ornt_aff(order, volume.shape)
    if data.shape != target.shape:
        raise InputError(
            f"{name}: {_size(volume)}, but {target_name} has {_size(target)}: different grids; "
            "resample one onto the other's grid"
        )
    gaps_mm = ((affine - target.affine) @ _corners(target.shape))[:3]
    gap_mm = np.linalg.norm(gaps_mm, axis=0).max()
    gap_voxels = np.abs(np.linalg.inv(target.affine[:3, :3]) @ gaps_mm).max()
    if gap_voxels > MAX_GRID_GAP_VOXELS:
        raise InputError(
            f"{name}: lies up to {gap_mm:.3g} mm from where {target_name} has the same voxels: different grids; "
            "resample one onto the other's grid"
        )
    if gap_voxels > TOLD_GRID_GAP_VOXELS:
        warnings.warn(
            f"{name}: lies up to {gap_mm:.2g} mm from the grid of {target_name}, less than half a voxel; "
            "taken as being on it",
            Remark,
            stacklevel=2,
        )
    return target.like(data)


def read_volume(path: Path, *, mask: bool = False, filling: bool = False) -> Volume:
    """Read a NIfTI file as float32, in the orientation in which it is stored.

    A :class:`msrim.errors.Remark` warns of doubtful input: no pose in the header, a damaged qform or
    sform beside a good one, a mask that is not binary.

    Parameters
    ----------
    path : Path
        ``.nii`` or ``.nii.gz``; NIfTI-1 or NIfTI-2.
    mask : bool
        Read a mask, a label map or a probability map: bool data, true above 0.5. All zeros is a valid answer.
    filling : bool
        A mask of a brain, which may reach the image's edges all around.

    Raises
    ------
    InputError
        Missing, not NIfTI, truncated, damaged, named unlike its content, not 3-D, colours or complex numbers, NaN or
        Inf, of impossible size or position, or its qform and sform disagree. An image: a single slice, constant. A
        mask: values that no mask, label map or probability map has, or none above 0.5 although it is not empty.
    """
    if mask:
        data, affine, posed = _read(Path(path))
        inside = _inside(data, Path(path), filling=filling)
        labels = np.unique(data[inside])
        if not filling and 1 < labels.size <= MOST_KINDS and np.array_equal(labels, labels.round()):
            told = ", ".join(f"{label:g}" for label in labels)
            _doubt(f"{path}: holds the labels {told}, and all of them count; set to 0 what is no lesion")
        return Volume(inside, affine, posed)
    volume = read_map(path)
    data, shape = volume.data, volume.shape
    if min(shape) < MIN_SLICES:
        raise InputError(f"{path}: only {min(shape)} slice(s) along one axis {shape}; a volume of the brain is needed")
    if data.min() == data.max():
        raise InputError(f"{path}: every voxel is {data.min():g}; this file holds no image")
    return volume


def read_map(path: Path) -> Volume:
    """Read a NIfTI file as float32 whatever its finite values are, all zeros too; errors as :func:`read_volume`."""
    return Volume(*_read(Path(path), dtype=np.float32))


def read_labels(path: Path) -> Volume:
    """Read a mask or label map with its numbers: int32; errors and doubts as those of a mask by :func:`read_volume`.

    A map of values that are not whole numbers, such as probabilities, is one of 0 and 1, as its mask is.

    Raises
    ------
    InputError
        As a mask, or a number above MAX_LABEL.
    """
    data, affine, posed = _read(Path(path))
    inside = _inside(data, Path(path))
    if not np.array_equal(data, data.round()):
        return Volume(inside.astype(np.int32), affine, posed)
    if data.max(initial=0) > MAX_LABEL:
        raise InputError(
            f"{path}: holds the label {int(data.max())}; numbers up to {MAX_LABEL} can be kept: number the lesions anew"
        )
    return Volume(np.where(inside, data, 0).astype(np.int32), affine, posed)


def read_spacing(path: Path) -> np.ndarray:
    """Voxel edge lengths by a NIfTI file's header: (3,) float, mm. Its voxels are not read, and may be damaged.

    Raises
    ------
    InputError
        As :func:`read_volume`, for what the header shows.
    """
    with _guarded(path), _opened(path) as (_, header):
        return _edges_mm(header.affine)


def _read(path: Path, *, dtype: type[np.floating] | None = None) -> tuple[np.ndarray, np.ndarray, bool]:
    """Finite data of a user's file in its own type or another, 0 where it is NaN around the head; affine and posed.

    Numbers that are whole but for rounding, as scaling and interpolation leave labels, are whole in its own type.
    """
    image, affine, posed = _open(path)
    with _guarded(path):
        data = np.asarray(image.dataobj, dtype=dtype).reshape(_shape(image.header, path))
    if data.dtype.kind != "f":
        return data, affine, posed
    unknown = ~np.isfinite(data)
    if unknown.any() and not unknown.all() and (around := unknown & _reaches_face(np.isnan(data))).any():
        data = np.where(around, 0, data)
        unknown &= ~around
        _doubt(f"{path}: {np.count_nonzero(around)} voxels around the head are NaN and count as background")
    if unknown.any():
        raise InputError(f"{path}: {np.count_nonzero(unknown)} voxels are NaN or infinite; export it again")
    if dtype is not None:
        return data, affine, posed
    whole = data.round()
    # What rounding would make an empty mask was none.
    is_rounded = np.abs(data - whole).max(initial=0) < ROUNDING and whole.any() == (data > 0).any()
    return whole if is_rounded else data, affine, posed


def _reaches_face(mask: np.ndarray) -> np.ndarray:
    """Connected parts of a mask that reach a face of the image: (X, Y, Z) bool."""
    parts, _ = ndimage.label(mask)
    faces = [np.unique(np.moveaxis(parts, axis, 0)[edge]) for axis in range(parts.ndim) for edge in (0, -1)]
    return mask & np.isin(parts, np.concatenate(faces))


class _Header(NamedTuple):
    """What the first bytes of a user's file say, once judged; ``size`` is that of header and voxels together, bytes."""

    kind: type[nib.Nifti1Image]
    start: bytes
    size: int
    affine: np.ndarray
    posed: bool


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BufferedIOBase, _Header]]:
    """A user's file behind its header, which is judged."""
    if not path.is_file():
        if path.is_symlink():
            raise InputError(f"{path}: is a link to a file that is not there; fetch it (for example datalad get)")
        raise InputError(f"{path}: no such file{', but a folder' if path.is_dir() else ''}; check the path")
    with open(path, "rb") as stream:
        zipped = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    with (gzip.open if zipped else open)(path, "rb") as stream:
        yield stream, _judged(stream.read(HEADER_BYTES), path, zipped=zipped)


def _judged(start: bytes, path: Path, *, zipped: bool) -> _Header:
    kind = _kind(start)
    if kind is None:
        raise InputError(f"{path}: not a NIfTI image{_what_else(start, path)}")
    if not zipped and _is_called_zipped(path):
        raise InputError(f"{path}: its name says compressed, but it is not; rename it to .nii")
    if zipped and not _is_called_zipped(path):
        raise InputError(f"{path}: is compressed, but its name does not say so; rename it to .nii.gz")
    block = start[: kind.header_class.template_dtype.itemsize]
    header = kind.header_class(block)
    shape = _shape(header, path)
    affine, posed = _affine(header, shape, path)
    # What nibabel has mended to 1.
    if not posed and not kind.header_class(block, check=False)["pixdim"][1:4].all():
        raise InputError(f"{path}: a voxel size of 0 in its header; export it again")
    if 0 <= (begin := float(header["vox_offset"])) < kind.header_class.single_vox_offset:
        raise InputError(
            f"{path}: damaged: its header says that the data begin at byte {begin:.0f}, within the header; "
            "export it again"
        )
    # Asked for before it is read: the size in a damaged header may exceed any memory.
    size = int(header.get_data_offset()) + math.prod(shape) * header.get_data_dtype().itemsize
    if size > path.stat().st_size * (GZIP_MAX_RATIO if zipped else 1):
        raise InputError(f"{path}: damaged or truncated (its header asks for more data); copy it again")
    return _Header(kind, start, size, affine, posed)


def _open(path: Path) -> tuple[nib.Nifti1Image, np.ndarray, bool]:
    """A user's file, whole in memory with its header judged, its affine, and whether that is the header's."""
    with _guarded(path):
        with _opened(path) as (stream, header):
            content = header.start + stream.read(header.size - len(header.start))
            # Beyond the data lies the checksum, which gzip verifies when it gets there.
            stream.read(1)
        if len(content) < header.size:
            raise InputError(f"{path}: damaged or truncated ({len(content)} of {header.size} bytes); copy it again")
        return header.kind.from_bytes(content), header.affine, header.posed


def _what_else(start: bytes, path: Path) -> str:
    """What a file is that is no NIfTI image, by its first bytes, and what to do: the end of a sentence."""
    known = {
        "an empty file; copy or export it again": not start,
        "a file of DICOM; convert its series with dcm2niix": start[128:132] == b"DICM",
        "one of FreeSurfer; convert it with mri_convert": start[:4] == b"\0\0\0\1",
        "one of 3D Slicer (NRRD); save it as .nii.gz": start.startswith(b"NRRD"),
        "a MetaImage; save it as .nii.gz": start.startswith((b"ObjectType", b"NDims")),
        "one of a pair of .hdr and .img; join them, for example with fslchfiletype NIFTI_GZ": (
            path.suffix.lower() == ".img" or start[:4] in (b"\x5c\1\0\0", b"\0\0\1\x5c")
        ),
        "compressed twice; unpack it once": start.startswith(GZIP_MAGIC),
        "an archive, or compressed by another program than gzip; unpack it": start.startswith(ARCHIVES),
        "a pointer of Git LFS to one; fetch it (git lfs pull)": start.startswith(b"version https://git-lfs"),
        "a pointer of git-annex to one; fetch it (datalad get)": b"/annex/objects/" in start[:100],
    }
    what = next((what for what, so in known.items() if so), None)
    return f", but {what}" if what else "; convert it to .nii or .nii.gz, for example with dcm2niix"


def _is_called_zipped(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _kind(start: bytes) -> type[nib.Nifti1Image] | None:
    """NIfTI-1 or NIfTI-2 in one file, by its first bytes; None for anything else."""
    size = {int.from_bytes(start[:4], order) for order in ("little", "big")}
    if 348 in size and start[344:347] == b"n+1":
        return nib.Nifti1Image
    return nib.Nifti2Image if 540 in size and start[4:7] == b"n+2" else None


@contextmanager
def _guarded(path: Path) -> Iterator[None]:
    """Whatever nibabel makes of a damaged file, in one line; nothing of it on stderr."""
    logger = nib.imageglobals.logger
    handlers, propagate = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [logging.NullHandler()], False
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=RuntimeWarning)
            yield
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check the path and its rights") from error
        raise InputError(f"{path}: damaged or truncated ({error}); copy it again from its source") from error
    finally:
        logger.handlers, logger.propagate = handlers, propagate


def _shape(header: nib.Nifti1Header, path: Path) -> tuple[int, int, int]:
    shape = header.get_data_shape()
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    dtype = header.get_data_dtype()
    if dtype.fields is not None:
        raise InputError(f"{path}: a colour image (RGB), as screenshots are; give the image that the scanner made")
    if dtype.kind == "c":
        raise InputError(f"{path}: holds complex numbers; give the magnitude (or the map that is meant)")
    if len(shape) != 3:
        raise InputError(f"{path}: has {len(shape)} dimensions {shape}, 3 are needed; extract one volume")
    if min(shape) < 1 or math.prod(shape) > MAX_VOXELS:
        raise InputError(f"{path}: its header says {shape} voxels, which no head scan has; export it again")
    return shape


def _affine(header: nib.Nifti1Header, shape: tuple[int, int, int], path: Path) -> tuple[np.ndarray, bool]:
    """Voxel index to RAS mm by what is sound in the header, (4, 4) float64; and whether it is there at all."""
    found: dict[str, np.ndarray] = {}
    damaged = []
    for name, get in (("sform", header.get_sform), ("qform", header.get_qform)):
        if int(header[f"{name}_code"]) <= 0:
            continue
        try:
            affine = get()
        except Exception:  # nibabel raises what it likes for a quaternion that is none.
            affine = np.full((4, 4), np.nan)
        if _is_sound(affine):
            found[name] = affine
        else:
            damaged.append(name)
    if damaged and not found:
        what = "is singular" if damaged == ["sform"] else f"({' and '.join(damaged)}) is damaged"
        raise InputError(f"{path}: its affine {what}; the voxel size or orientation in the header is broken")
    if damaged:
        _doubt(f"{path}: its {damaged[0]} is damaged; its {next(iter(found))} is used", Fallback)
    posed = bool(found)
    if not posed:
        affine = header.get_base_affine()
        if not _is_sound(affine):
            raise InputError(f"{path}: its affine is singular; the voxel size in the header is broken")
        _doubt(
            f"{path}: its header does not say how the head lies (qform and sform codes are 0): left and right are not "
            f"known and are taken as stored {''.join(nib.aff2axcodes(affine))}; a mirrored image would stay mirrored"
        )
        found["sform"] = affine
    affine = next(iter(found.values())).astype(np.float64)
    _check_place(affine, shape, header, path)
    if len(found) == 2:
        gap_mm = min(_gap_mm(found["qform"], other, shape) for other in (affine, _without_shear(affine)))
        if gap_mm > MAX_POSE_DISAGREEMENT_MM:
            raise InputError(
                f"{path}: its qform and sform place the image {gap_mm:.1f} mm apart; "
                "keep the right one (for example fslorient -copysform2qform) and run again"
            )
    elif posed and not damaged and "sform" in found:
        _check_size(affine, header, path)
    return affine, posed


def _check_size(affine: np.ndarray, header: nib.Nifti1Header, path: Path) -> None:
    """Warn of a sform, which stands alone, with another size of voxels than the rest of the header."""
    edges, others = np.linalg.norm(affine[:3, :3], axis=0), np.abs(header["pixdim"][1:4])
    if not np.allclose(edges, others, rtol=SIZE_ROUNDING):
        said, also = (" x ".join(f"{edge:.3g}" for edge in sizes) for sizes in (edges, others))
        _doubt(f"{path}: its voxels measure {said} mm by its sform, which is used, and {also} by its pixdim")


def _check_place(affine: np.ndarray, shape: tuple[int, int, int], header: nib.Nifti1Header, path: Path) -> None:
    """Refuse what is no part of a body on a scanner's bed: lengths in other units than mm, and broken headers."""
    edges_mm = np.sort(np.linalg.norm(affine[:3, :3], axis=0) * shape)
    if not MIN_EXTENT_MM <= edges_mm[1] <= MAX_EXTENT_MM or edges_mm[2] > 2 * MAX_EXTENT_MM:
        unit = header.get_xyzt_units()[0]
        said = f" and its unit is the {unit}" if unit in ("meter", "micron") else ""
        raise InputError(
            f"{path}: {' x '.join(f'{edge:.3g}' for edge in edges_mm)} mm across by its header{said}; "
            "correct the voxel size, in mm"
        )
    far_mm = np.abs((affine @ _corners(shape))[:3]).max()
    if far_mm > MAX_POSITION_MM:
        raise InputError(f"{path}: its header places it {far_mm:.3g} mm from the scanner's centre; correct the header")


def _is_sound(affine: np.ndarray) -> bool:
    with np.errstate(all="ignore"):
        edges = np.linalg.norm(affine[:3, :3], axis=0)
        return bool(np.isfinite(affine).all() and edges.all() and abs(np.linalg.det(affine[:3, :3] / edges)) > 1e-3)


def _without_shear(affine: np.ndarray) -> np.ndarray:
    """The nearest affine that a qform can hold."""
    header = nib.Nifti1Header()
    header.set_qform(affine, code=1, strip_shears=True)
    return header.get_qform()


def _corners(shape: tuple[int, int, int]) -> np.ndarray:
    """Indices of the outermost voxels, homogeneous: (4, 8)."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1)
    return np.vstack([corners, np.ones(corners.shape[1])])


def _gap_mm(a: np.ndarray, b: np.ndarray, shape: tuple[int, int, int]) -> float:
    return float(np.abs((a - b) @ _corners(shape)).max())


def _inside(data: np.ndarray, path: Path, *, filling: bool = False) -> np.ndarray:
    """Where a mask, label map or probability map is above 0.5: (X, Y, Z) bool."""
    inside = data > 0.5
    low, high = float(data.min(initial=0)), float(data.max(initial=0))
    if low <= -0.5:
        raise InputError(f"{path}: holds values down to {low:g}; no mask, label map or probability map has those")
    whole = np.array_equal(data, np.round(data))
    if (not whole and high > MAX_OVERSHOOT) or (whole and high > 1 and is_uneven(data)):
        raise InputError(
            f"{path}: holds an image with values up to {high:g}, no mask; give a mask, a label map or probabilities"
        )
    faces = [np.moveaxis(inside, axis, 0)[edge].ravel() for axis in range(inside.ndim) for edge in (0, -1)]
    if not filling and (outside := np.concatenate(faces)).size and outside.mean() > MAX_MARKED_FACES:
        raise InputError(
            f"{path}: marks {100 * outside.mean():.0f} % of the image's outermost voxels, where 0 must be; "
            "give a mask whose background is 0"
        )
    positive = np.count_nonzero(data > 0)
    if positive and not inside.any():
        raise InputError(
            f"{path}: {positive} voxels are above 0, but none above 0.5 (the highest is {high:.3g}); "
            "choose a threshold and make a mask of 0 and 1"
        )
    if not whole:
        _doubt(
            f"{path}: not a mask of 0 and 1; what is above 0.5 counts, "
            f"{np.count_nonzero(inside)} of {positive} voxels above 0"
        )
    return inside


def is_uneven(data: np.ndarray) -> bool:
    """Whether neighbours outside the background hardly ever have the same value, as in an image and not in labels.

    Examples
    --------
    >>> noise = np.random.default_rng(0).integers(0, 1000, (9, 9, 9))
    >>> is_uneven(noise), is_uneven(np.repeat(noise, 3, axis=0).repeat(3, axis=1).repeat(3, axis=2))
    (True, False)
    """
    return equal_neighbours(data, background=0) < 0.3


def equal_neighbours(data: np.ndarray, *, background: float) -> float:
    """Share of neighbours outside the background that have the same value, along the axis of fewest; 1 without any."""
    shares = []
    for axis in range(data.ndim):
        one, other = (np.moveaxis(data, axis, 0)[part] for part in (slice(1, None), slice(-1)))
        pairs = (one != background) & (other != background)
        if pairs.any():
            shares.append(float((one == other)[pairs].mean()))
    return min(shares, default=1.0)


def _size(volume: Volume) -> str:
    spacing = " x ".join(f"{edge:g}" for edge in volume.spacing.round(3))
    return f"{volume.shape} voxels of {spacing} mm"


def _doubt(text: str, kind: type[Remark] = Remark) -> None:
    warnings.warn(text, kind, stacklevel=4)


def write_volume(volume: Volume, path: Path) -> Path:
    """Write a NIfTI file: labels in the smallest of uint8, int16 and int32, uint16 as it is, all else as float32.

    The sform is always set, the qform wherever it can hold the same: it has no shear.

    Raises
    ------
    ValueError
        A label beyond int32.
    OutputError
        The folder cannot be written to or the disk is full.
    """
    data = volume.data
    if data.dtype == bool:
        data = data.astype(np.uint8)
    elif np.issubdtype(data.dtype, np.integer):
        if data.dtype != np.uint16:  # intensities as scanners store them
            data = data.astype(_label_type(int(data.min(initial=0)), int(data.max(initial=0))))
    else:
        data = data.astype(np.float32)
    image = nib.Nifti1Image(data, volume.affine)
    sheared = _gap_mm(_without_shear(volume.affine), volume.affine, volume.shape) > MAX_POSE_DISAGREEMENT_MM / 2
    image.set_qform(volume.affine, code=0 if sheared else 1, strip_shears=True)
    image.set_sform(volume.affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    with written_atomically(path) as temporary:
        image.to_filename(temporary)
    return path


def _label_type(low: int, high: int) -> type[np.integer]:
    for kind in (np.uint8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return kind
    raise ValueError(f"labels from {low} to {high} fit no type that is written")


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
    cubic: bool = False,
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
    cubic : bool
        A cubic B-spline through the voxels, which blurs less than linear interpolation, and goes beyond their values.
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
        sitk.sitkNearestNeighbor if nearest else sitk.sitkBSpline if cubic else sitk.sitkLinear,
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


def grid_along(volume: Volume, mask: np.ndarray, *, margin_mm: float, multiple: int = 1) -> Volume:
    """An empty grid of 1 mm along an image's own axes that covers a mask.

    Parameters
    ----------
    volume : Volume
    mask : (X, Y, Z) bool array
        On the volume's grid.
    margin_mm : float
        Room around the mask.
    multiple : int
        Every axis is rounded up to a multiple of this many voxels, as networks need it; both sides share that room.

    Examples
    --------
    >>> slices = Volume(np.zeros((5, 5, 5)), np.diag([1.0, 1.0, 6.0, 1.0]))
    >>> grid = grid_along(slices, np.indices((5, 5, 5))[2] == 2, margin_mm=2)
    >>> grid.shape, grid.affine[:3, 3].tolist()
    ((9, 9, 5), [-2.0, -2.0, 10.0])
    """
    box = bounding_box(mask)
    low = np.array([side.start for side in box]) * volume.spacing - margin_mm
    high = np.array([side.stop - 1 for side in box]) * volume.spacing + margin_mm
    size = np.ceil((high - low + 1) / multiple).astype(int) * multiple
    affine = volume.affine @ np.diag([*(1 / volume.spacing), 1.0])
    affine[:3, 3] = apply_transform(affine, (low + high + 1 - size) / 2)
    return Volume(np.broadcast_to(np.float32(0), tuple(size)), affine)


def bounding_box(mask: np.ndarray, *, margin: int | np.ndarray = 0) -> tuple[slice, ...]:
    """The smallest box that holds a mask, and some voxels more on every side.

    Parameters
    ----------
    mask : (X, Y, Z) bool array
        Where it is empty, the box is the whole array.
    margin : int, or (3,) int
        The box ends where the array ends.

    Examples
    --------
    >>> mask = np.array([0, 0, 0, 1, 0, 1, 0]).reshape(7, 1, 1) > 0
    >>> bounding_box(mask)[0], bounding_box(mask, margin=2)[0]
    (slice(3, 6, None), slice(1, 7, None))
    """
    axes = range(mask.ndim)
    occupied = [np.flatnonzero(mask.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    margins = np.broadcast_to(margin, mask.ndim)
    return tuple(
        slice(max(0, int(o[0] - m)), min(n, int(o[-1] + 1 + m))) if len(o) else slice(0, n)
        for o, m, n in zip(occupied, margins, mask.shape, strict=True)
    )


def bounding_boxes(labels: np.ndarray, *, margin: int | Sequence[int] | np.ndarray = 0) -> dict[int, tuple[slice, ...]]:
    """The box of each number of a label map, as :func:`bounding_box`; without numbers that do not occur.

    Parameters
    ----------
    labels : (X, Y, Z) int array
    margin : int, or (3,) int

    Examples
    --------
    >>> boxes = bounding_boxes(np.array([0, 1, 0, 3, 3, 0]).reshape(6, 1, 1), margin=(2, 0, 0))
    >>> {number: box[0] for number, box in boxes.items()}
    {1: slice(0, 4, None), 3: slice(1, 6, None)}
    """
    margins = np.broadcast_to(margin, labels.ndim).tolist()
    return {
        number: tuple(
            slice(max(0, side.start - m), min(n, side.stop + m))
            for side, m, n in zip(box, margins, labels.shape, strict=True)
        )
        for number, box in enumerate(ndimage.find_objects(labels), start=1)
        if box is not None
    }
