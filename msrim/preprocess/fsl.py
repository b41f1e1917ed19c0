"""The FSL twins: BET, FLIRT and FAST, with the meanings of the embedded functions.

Nipype writes the command lines. They are run here, because Nipype's own runner takes results of programs that failed,
loses the output of FLIRT and FAST, and leaves a program running when msrim is ended.

FSL is licensed for non-commercial use and is never bundled: it is taken from FSLDIR.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from msrim.errors import BackendError, InputError
from msrim.image import Volume, read_volume, write_volume
from msrim.preprocess.masks import blanked
from msrim.preprocess.signals import signals_kept

PROGRAMS = ("bet", "flirt", "fast")
# So much of a program's output is shown; the cause comes first.
SHOWN_CHARACTERS = 400


@dataclass(frozen=True)
class Installation:
    """An FSL that can be used: its folder, and its version as etc/fslversion has it."""

    folder: Path
    version: str


def find_fsl() -> Installation:
    """The FSL in FSLDIR.

    Raises
    ------
    BackendError
        There is none, or it cannot be used.
    """
    name = os.environ.get("FSLDIR")
    if not name:
        raise BackendError("FSLDIR is not set; install FSL and set it, or use --backend embedded")
    folder = Path(name)
    if not folder.is_absolute():
        raise BackendError(f"FSLDIR is {name}, which is no absolute path; set it to one")
    if len(name.split()) != 1:
        raise BackendError(f"FSLDIR is {name}: BET does not work in a folder with a space in its name; move FSL")
    if lacking := [program for program in PROGRAMS if not os.access(folder / "bin" / program, os.X_OK)]:
        raise BackendError(f"{folder}/bin has no {', '.join(lacking)} to run; FSLDIR must name a complete FSL")
    version = folder / "etc" / "fslversion"
    try:
        return Installation(folder, version.read_text(encoding="utf-8").split()[0])
    except (OSError, UnicodeDecodeError, IndexError) as error:
        raise BackendError(f"{version}: cannot be read; FSLDIR must name a complete FSL") from error


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
        said = _run("BET", folder, in_file="head.nii.gz", out_file="brain.nii.gz", mask=True, robust=True)
        return volume.like(_result("BET", folder / "brain_mask.nii.gz", said).data > 0)


def register_rigid(
    moving: Volume,
    fixed: Volume,
    *,
    moving_mask: Volume | None = None,
    fixed_mask: Volume | None = None,
) -> np.ndarray:
    """``fixed_from_moving`` by FLIRT with 6 degrees of freedom; parameters as of the embedded twin.

    Tissue outside the masks is blanked. Given as weights (``-inweight``, ``-refweight``) they make FLIRT end
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
        said = _run("FAST", folder, in_files=["brain.nii.gz"], out_basename="tissue", img_type=1, number_classes=3)
        # FAST numbers its classes from dark to bright: CSF, grey, white on T1w.
        labels = _result("FAST", folder / "tissue_pveseg.nii.gz", said).data
    return t1w.like(np.where(brain.data, labels.round(), 0).astype(np.uint8))


def fixed_from_flirt(matrix: np.ndarray, *, moving: Volume, fixed: Volume) -> np.ndarray:
    """A FLIRT matrix in RAS millimetres.

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
        said = _run(
            "FLIRT",
            folder,
            in_file="moving.nii.gz",
            reference="fixed.nii.gz",
            out_file="moved.nii.gz",
            out_matrix_file="matrix.txt",
            dof=degrees_of_freedom,
            cost="normmi",
            cost_func="normmi",
        )
        try:
            rows = (folder / "matrix.txt").read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise BackendError(f"FLIRT of FSL ended without an error but wrote no matrix.txt; {said}") from error
    try:
        matrix = np.array([[float(number) for number in row.split()] for row in rows if row.strip()])
        # Not finite or not invertible, it is no transform.
        np.linalg.inv(matrix)
        usable = matrix.shape == (4, 4) and np.isfinite(matrix).all() and np.array_equal(matrix[3], (0, 0, 0, 1))
    except (ValueError, np.linalg.LinAlgError):
        usable = False
    if not usable:
        raise BackendError(f"FLIRT of FSL wrote a matrix that is no transform ({' / '.join(rows)[:200]}); {said}")
    return fixed_from_flirt(matrix, moving=moving, fixed=fixed)


@contextmanager
def _folder_with(**volumes: Volume) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="msrim-fsl-") as name:
        for stem, volume in volumes.items():
            write_volume(volume, Path(name) / f"{stem}.nii.gz")
        yield Path(name)


def _run(interface: str, folder: Path, **inputs: Any) -> str:
    """Run a program in a folder, files by names relative to it; returns its output, as a clause."""
    from nipype.interfaces import fsl

    installed = find_fsl()
    # Both are needed: without the default Nipype warns that FSLOUTPUTTYPE is unset, and the default alone is overruled.
    fsl.FSLCommand.set_default_output_type("NIFTI_GZ")
    # Relative names, because BET and FAST break at a space in the path of a temporary folder.
    with chdir(folder):
        program, *arguments = shlex.split(getattr(fsl, interface)(output_type="NIFTI_GZ", **inputs).cmdline)
    binaries = installed.folder / "bin"
    path = os.pathsep.join([str(binaries), os.environ.get("PATH", os.defpath)])
    process = None
    try:
        with signals_kept():
            process = subprocess.Popen(
                [binaries / program, *arguments],
                cwd=folder,
                env={**os.environ, "FSLDIR": str(installed.folder), "FSLOUTPUTTYPE": "NIFTI_GZ", "PATH": path},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        said, complaint = process.communicate()
    except OSError as error:
        raise BackendError(f"{interface} of FSL cannot be run: {error}; check the FSL installation") from error
    except BaseException:
        if process is not None:
            # BET and others are scripts: what they started must end with them.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise
    words = " ".join((complaint.strip() or said).split())
    words = f"it said: {words[:SHOWN_CHARACTERS]}" if words else "it said nothing"
    # BET's script ends with status 0 whatever happens inside it; what went wrong stands on its stderr alone.
    if process.returncode or (interface == "BET" and complaint.strip()):
        code = process.returncode
        how = f"exit code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
        raise BackendError(f"{interface} of FSL {installed.version} failed, {how}; {words}")
    return words


def _result(interface: str, path: Path, said: str) -> Volume:
    if not path.is_file():
        raise BackendError(f"{interface} of FSL ended without an error but wrote no {path.name}; {said}")
    try:
        return read_volume(path)
    except InputError as error:
        # Without the name of a file that the user never had, and without what to do about one.
        what = str(error).split(": ", 1)[-1].rsplit("; ", 1)[0]
        raise BackendError(
            f"{interface} of FSL wrote a {path.name} that cannot be used ({what}); "
            f"if the disk of {tempfile.gettempdir()} is full, make room or set TMPDIR; {said}"
        ) from error
