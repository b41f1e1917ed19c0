"""The deformation between two visits that meet half way, by Greedy, and how much each place has grown by it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from msrim.errors import BackendError
from msrim.image import Volume
from msrim.preprocess.signals import signals_kept

# Local cross-correlation, so that a brightness that drifts between visits deforms nothing; steps and their smoothing as
# Elliott et al. 2019 have them, doi:10.1177/1352458518814117; the window is the best of 2 to 4 voxels in simulated
# heads. Without noise of its own, which differs from run to run, and without rounding to a tenth of a voxel.
SETTINGS = "-m NCC 3x3x3 -n 100x60x30 -e 0.7 -s 2vox 0.5vox -sv -noise 0 -wp 0 -threads 1 -V 0"
# Greedy lives in a library, which holds Python's lock while it runs: each way has a process of its own.
PROGRAM = "import sys, picsl_greedy; picsl_greedy.Greedy3D().execute(sys.argv[1])"
# Voxels around the brain that are deformed with it, the window's and one more.
MARGIN = 4


def halfway_deformation(pairs: Sequence[tuple[Volume, Volume]], *, brain: Volume) -> np.ndarray:
    """Displacement that brings two visits together, half of it applied to either.

    Parameters
    ----------
    pairs : sequence of (Volume, Volume)
        Baseline and follow-up of each contrast, on one grid of cubic voxels.
    brain : Volume of bool
        On the grid; nothing outside moves the rest.

    Returns
    -------
    (3, X, Y, Z) float32, voxels
        ``u``, for which ``baseline(x - u / 2)`` looks like ``followup(x + u / 2)``. With the visits exchanged it is the
        same with the other sign, bit for bit.

    Raises
    ------
    BackendError
        Greedy is missing or failed.

    Notes
    -----
    Greedy (Yushkevich et al. 2016, doi:10.1016/j.jalz.2016.06.205) registers one way. Here it registers both, and the
    mean of one displacement and of the opposite of the other counts: no visit is preferred, and chance is less.
    """
    moved = np.zeros((3, *brain.shape), np.float32)
    found = ndimage.find_objects(brain.data.astype(np.uint8))
    if not found:
        return moved
    box = tuple(slice(max(side.start - MARGIN, 0), side.stop + MARGIN) for side in found[0])
    with tempfile.TemporaryDirectory(prefix="msrim-greedy-") as name:
        folder = Path(name)
        _write(brain.data[box], folder / "brain.nii")
        for number, pair in enumerate(pairs):
            for visit, image in enumerate(pair):
                _write(image.data[box], folder / f"{number}-{visit}.nii")
        _run([_command(len(pairs), fixed=0, moving=1), _command(len(pairs), fixed=1, moving=0)], folder)
        forth, back = (_read(folder / f"from-{fixed}.nii") for fixed in (0, 1))
    moved[:, *box] = (forth - back) / 2
    return moved


def _command(contrasts: int, *, fixed: int, moving: int) -> str:
    images = " ".join(f"-i {number}-{fixed}.nii {number}-{moving}.nii" for number in range(contrasts))
    return f"-d 3 {images} -gm brain.nii {SETTINGS} -o from-{fixed}.nii"


def _run(commands: Sequence[str], folder: Path) -> None:
    """Run Greedy on files of a folder, all commands at once."""
    processes: list[subprocess.Popen[str]] = []
    try:
        with signals_kept():
            for command in commands:
                process = subprocess.Popen(
                    [sys.executable, "-c", PROGRAM, command],
                    cwd=folder,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                )
                processes.append(process)
        for process in processes:
            _, complaint = process.communicate()
            if process.returncode:
                words = " ".join(complaint.split())[-400:]
                raise BackendError(f"Greedy failed: {words}; check that picsl-greedy is installed and memory is free")
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def _write(data: np.ndarray, path: Path) -> None:
    """With ITK's axes along those of the array, so that its millimetres are voxels."""
    sitk.WriteImage(sitk.GetImageFromArray(data.astype(np.float32).T), path)


def _read(path: Path) -> np.ndarray:
    """A displacement: (3, X, Y, Z), voxels."""
    if not path.is_file():
        raise BackendError("Greedy ended without an error but wrote no deformation; report this")
    return sitk.GetArrayFromImage(sitk.ReadImage(path)).T


def log_jacobian(displacement: np.ndarray) -> np.ndarray:
    """Logarithm of the volume at follow-up by that at baseline, on the grid half way: (X, Y, Z) float32.

    Parameters
    ----------
    displacement : (3, X, Y, Z) float, voxels
        Of :func:`halfway_deformation`.

    Examples
    --------
    >>> growth = log_jacobian(0.1 * np.indices((20, 20, 20)))
    >>> bool(abs(growth[10, 10, 10] - 3 * np.log(1.05 / 0.95)) < 1e-4)
    True
    """
    # Of the cubic spline through the voxels: differences of neighbours two voxels apart blur the edge of a lesion, and
    # take a tenth of its growth for that of its surroundings.
    gradient = np.stack(
        [np.stack([_slope(part / 2, axis) for axis in range(3)], axis=-1) for part in displacement.astype(np.float32)],
        axis=-2,
    )
    unity = np.eye(3, dtype=gradient.dtype)
    grown, shrunk = (np.maximum(np.linalg.det(unity + sign * gradient), 0.05) for sign in (1, -1))
    return (np.log(grown) - np.log(shrunk)).astype(np.float32)


def _slope(values: np.ndarray, axis: int) -> np.ndarray:
    """Derivative along an axis of the cubic spline through the voxels: (X, Y, Z) float32."""
    spline = ndimage.spline_filter1d(values, order=3, axis=axis, output=np.float32, mode="nearest")
    return ndimage.correlate1d(spline, [-0.5, 0.0, 0.5], axis=axis, mode="nearest")
