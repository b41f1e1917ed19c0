"""The FSL twins: BET, FLIRT and FAST through Nipype, with the meanings of the embedded functions.

FSL is licensed for non-commercial use and is never bundled: it is taken from FSLDIR.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from msrim.errors import BackendError
from msrim.image import Volume, read_volume, write_volume
from msrim.preprocess.masks import blanked

CSF, GREY_MATTER, WHITE_MATTER = 1, 2, 3


def is_available() -> bool:
    """Whether FSLDIR names a folder with BET, FLIRT and FAST."""
    folder = os.environ.get("FSLDIR")
    return bool(folder) and all((Path(folder) / "bin" / tool).is_file() for tool in ("bet", "flirt", "fast"))


def fsl_version() -> str:
    """Version of the FSL in FSLDIR.

    Raises
    ------
    BackendError
        There is none.
    """
    try:
        return (_fsl_folder() / "etc" / "fslversion").read_text(encoding="utf-8").strip()
    except OSError as error:
        raise BackendError(f"{error.filename}: cannot be read; FSLDIR must name a complete FSL installation") from error


def extract_brain(volume: Volume) -> Volume:
    """Brain mask of a whole head by BET, with its centre and neck clean-up made robust (``-R``).

    Parameters
    ----------
    volume : Volume

    Returns
    -------
    Volume of bool

    Raises
    ------
    BackendError
        FSL is missing or BET failed.

    Notes
    -----
    Smith, Human Brain Mapping 17(3), 2002, doi:10.1002/hbm.10062.
    """
    with _folder_with(head=volume) as folder:
        _run("BET", folder, in_file=folder / "head.nii.gz", out_file="brain.nii.gz", mask=True, robust=True)
        return volume.like(_result(folder / "brain_mask.nii.gz", "BET").data)


def register_rigid(
    moving: Volume,
    fixed: Volume,
    *,
    moving_mask: Volume | None = None,
    fixed_mask: Volume | None = None,
) -> np.ndarray:
    """``fixed_from_moving`` by FLIRT with 6 degrees of freedom; parameters as of the embedded twin.

    What lies outside the masks is blanked. Given as weights (``-inweight``, ``-refweight``) they make FLIRT end
    where the brains do not meet: with FSL 5.0.9 in 5 of 9 pairs, 120 to 170 mm away.

    Raises
    ------
    BackendError
        FSL is missing or FLIRT failed.

    Notes
    -----
    Jenkinson et al., NeuroImage 17(2), 2002, doi:10.1006/nimg.2002.1132.
    """
    return _flirt(blanked(moving, moving_mask), blanked(fixed, fixed_mask), degrees_of_freedom=6)


def register_affine(
    moving: Volume,
    fixed: Volume,
    *,
    moving_mask: Volume | None = None,
    fixed_mask: Volume | None = None,
) -> np.ndarray:
    """``fixed_from_moving`` by FLIRT with 12 degrees of freedom; all else as :func:`register_rigid`."""
    return _flirt(blanked(moving, moving_mask), blanked(fixed, fixed_mask), degrees_of_freedom=12)


def classify_tissue(t1w: Volume, brain: Volume) -> Volume:
    """CSF, grey and white matter of a T1w image by FAST.

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
        FSL is missing or FAST failed.

    Notes
    -----
    Zhang et al., IEEE TMI 20(1), 2001, doi:10.1109/42.906424.
    """
    with _folder_with(brain=blanked(t1w, brain)) as folder:
        image = folder / "brain.nii.gz"
        _run("FAST", folder, in_files=[image], out_basename="tissue", img_type=1, number_classes=3)
        # FAST numbers its classes from dark to bright: CSF, grey, white on T1w. Nipype lists a mixel-type file that
        # FAST 6 no longer writes; the label map is the only one that is needed.
        labels = _result(folder / "tissue_pveseg.nii.gz", "FAST").data
    return t1w.like(np.where(brain.data, labels.round(), 0).astype(np.uint8))


def fixed_from_flirt(matrix: np.ndarray, *, moving: Volume, fixed: Volume) -> np.ndarray:
    """What a FLIRT matrix says, in RAS millimetres.

    FLIRT's own coordinates are voxel indices times voxel sizes, with the first axis reversed where the image is stored
    neurologically (an affine of positive determinant), so the matrix means nothing without both images.

    Parameters
    ----------
    matrix : (4, 4) float
        As FLIRT writes it with ``-omat``.
    moving, fixed : Volume
        The images given to ``-in`` and ``-ref``; only their shapes and affines are used.

    Returns
    -------
    (4, 4) float
        ``fixed_from_moving``, RAS mm.

    Examples
    --------
    >>> image = Volume(np.zeros((10, 10, 10), np.float32), np.diag([-1.0, 1.0, 1.0, 1.0]))
    >>> shift = np.eye(4)
    >>> shift[0, 3] = 3
    >>> fixed_from_flirt(shift, moving=image, fixed=image)[:3, 3].tolist()
    [-3.0, 0.0, 0.0]
    """
    from fsl.data.image import Nifti
    from fsl.transform.flirt import fromFlirt
    from nibabel import Nifti1Image

    def header_of(volume: Volume) -> Nifti:
        return Nifti(Nifti1Image(np.empty(volume.shape, np.uint8), volume.affine).header)

    return fromFlirt(matrix, header_of(moving), header_of(fixed), "world", "world")


def _flirt(moving: Volume, fixed: Volume, *, degrees_of_freedom: int) -> np.ndarray:
    with _folder_with(moving=moving, fixed=fixed) as folder:
        _run(
            "FLIRT",
            folder,
            in_file=folder / "moving.nii.gz",
            reference=folder / "fixed.nii.gz",
            out_file="moved.nii.gz",
            out_matrix_file="matrix.txt",
            dof=degrees_of_freedom,
            cost="normmi",
            cost_func="normmi",
        )
        try:
            matrix = np.loadtxt(folder / "matrix.txt")
        except (OSError, ValueError) as error:
            raise BackendError("FLIRT wrote no matrix; check the FSL installation and the images") from error
    return fixed_from_flirt(matrix, moving=moving, fixed=fixed)


@contextmanager
def _folder_with(**volumes: Volume) -> Iterator[Path]:
    with TemporaryDirectory(prefix="msrim-fsl-") as name:
        for stem, volume in volumes.items():
            write_volume(volume, Path(name) / f"{stem}.nii.gz")
        yield Path(name)


def _run(interface: str, folder: Path, **inputs: Any) -> None:
    from nipype.interfaces import fsl

    home = _fsl_folder()
    # Both are needed: without the default Nipype warns that FSLOUTPUTTYPE is unset, and the default alone is overruled.
    fsl.FSLCommand.set_default_output_type("NIFTI_GZ")
    command = getattr(fsl, interface)(output_type="NIFTI_GZ", terminal_output="allatonce", **inputs)
    command.inputs.environ.update({"FSLDIR": str(home), "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"})
    try:
        command.run(cwd=str(folder))
    except (OSError, RuntimeError, ValueError) as error:
        raise BackendError(f"{interface} of FSL failed: {' '.join(str(error).split())[:500]}") from error


def _result(path: Path, interface: str) -> Volume:
    # BET can end with status 0 and write nothing.
    if not path.is_file():
        raise BackendError(f"{interface} of FSL wrote no {path.name}; check the FSL installation and the image")
    return read_volume(path, mask=interface == "BET")


def _fsl_folder() -> Path:
    folder = os.environ.get("FSLDIR")
    if not folder:
        raise BackendError("FSLDIR is not set; install FSL and set it, or use --backend embedded")
    return Path(folder)
