"""From the complex echoes of a gradient echo to susceptibility, as reconstructions do it.

The field is fitted over the echoes and unwrapped, what comes from outside the brain is removed, and the rest inverted.

Field and susceptibility are in ppm throughout.
"""

from __future__ import annotations

from collections.abc import Callable

import cc3d
import numpy as np
import scipy.fft
from edt import edt
from scipy.ndimage import binary_opening
from skimage.restoration import unwrap_phase

from msrim.simulation.susceptibility import GradientEcho, dipole_response, filtered, fit_field, invert_dipole

# Radii of V-SHARP's spheres, mm; the smallest is how much of the brain's rim is lost.
SPHERES_MM = (12.0, 9.0, 6.0, 4.5, 3.0)
SHARP_THRESHOLD = 0.1
LEAST_COHERENCE = 0.75
INVERSIONS = ("thresholded", "gradient")
# Each scan's own regularisation, between these.
THRESHOLDS, GRADIENT_WEIGHTS = (0.10, 0.20), (0.002, 0.006)


def total_field(echoes: np.ndarray, brain: np.ndarray, *, protocol: GradientEcho) -> tuple[np.ndarray, np.ndarray]:
    """The field in the brain: fitted over the echoes, then unwrapped in space.

    Parameters
    ----------
    echoes : (echoes, X, Y, Z) complex64
        At equal steps of time.
    brain : (X, Y, Z) bool
    protocol : GradientEcho

    Returns
    -------
    (X, Y, Z) float32, ppm
        0 where it is not known; up to a constant.
    (X, Y, Z) bool
        Where it is known: the brain without what has lost its signal, as above the sinuses.
    """
    signal = echoes[:, brain]
    # First how far the phase turns from one echo to the next, which is known up to whole turns; then what is left.
    turn = np.diff(protocol.phase_per_ppm[:2])[0]
    rough = np.angle((signal[1:] * signal[:-1].conj()).sum(axis=0)) / np.float32(turn)
    found = np.zeros(brain.shape, np.float32)
    found[brain] = rough + fit_field(_turned_back(signal, rough, protocol), protocol=protocol)
    known = np.zeros(brain.shape, bool)
    known[brain] = _coherence(signal, found[brain], protocol) > LEAST_COHERENCE
    known = _largest(binary_opening(known, iterations=2))
    wrapped = np.angle(np.exp(1j * turn * found))
    unwrapped = unwrap_phase(np.ma.array(wrapped, mask=~known), rng=0)
    turns = np.round((np.asarray(unwrapped) - turn * found) / (2 * np.pi))
    return np.where(known, found + turns * 2 * np.pi / turn, 0).astype(np.float32), known


def _coherence(signal: np.ndarray, field: np.ndarray, protocol: GradientEcho) -> np.ndarray:
    """How well the phases of the echoes agree with a field, between 0 and 1: (echoes, N) and (N,) to (N,)."""
    turned = _turned_back(signal, field, protocol)
    return np.abs(turned.sum(axis=0)) / np.abs(turned).sum(axis=0) * np.minimum(1, 4 * np.abs(turned).mean(axis=0))


def _turned_back(signal: np.ndarray, field: np.ndarray, protocol: GradientEcho) -> np.ndarray:
    """The signal without the phase of a field."""
    return signal * np.exp(-1j * protocol.phase_per_ppm.astype(np.float32)[:, None] * field)


def _largest(mask: np.ndarray) -> np.ndarray:
    parts = cc3d.connected_components(mask, connectivity=6)
    return parts == np.bincount(parts[parts > 0]).argmax() if parts.any() else mask


def local_field(field: np.ndarray, brain: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tissue's own part of the field, and where it is known: V-SHARP.

    Parameters
    ----------
    field : (X, Y, Z) float, ppm
        0 outside the brain.
    brain : (X, Y, Z) bool
    spacing : (3,) float, mm

    Returns
    -------
    (X, Y, Z) float32, ppm
        0 where it is not known.
    (X, Y, Z) bool
        The brain without its outermost SPHERES_MM[-1].

    Notes
    -----
    Fields from outside are harmonic and have their mean over a sphere at its middle. Spheres get smaller towards the
    brain's edge (Wu et al. 2012, doi:10.1002/mrm.23000; Schweser et al. 2011, doi:10.1016/j.neuroimage.2010.10.070).
    """
    depth = edt(np.pad(brain, 1), anisotropy=tuple(spacing), parallel=1)[1:-1, 1:-1, 1:-1]
    known = depth >= SPHERES_MM[-1]
    rest = np.zeros(field.shape, np.float32)
    done = np.zeros(field.shape, bool)
    for radius in SPHERES_MM:
        there = (depth >= radius) & ~done
        if there.any():
            rest[there] = (field - filtered(field, spacing, _ball(radius, spacing)))[there]
            done |= there
    widest = _ball(SPHERES_MM[0], spacing)

    def undo(shape: tuple[int, int, int]) -> np.ndarray:
        response = 1 - widest(shape)
        return np.where(np.abs(response) > SHARP_THRESHOLD, 1 / np.where(response == 0, 1, response), 0)

    return np.where(known, filtered(rest, spacing, undo), 0).astype(np.float32), known


def invert(
    field: np.ndarray, spacing: np.ndarray, *, b0_direction: tuple[float, float, float], kind: str, weight: float
) -> np.ndarray:
    """Susceptibility from a field: by thresholded division, or with the smallest gradients that explain it.

    Parameters
    ----------
    field : (X, Y, Z) float, ppm
        0 where it is not known.
    spacing : (3,) float, mm
    b0_direction : (3,) float
    kind : str
        One of INVERSIONS.
    weight : float
        The threshold, or the weight of the gradients per 0.75 mm.

    Returns
    -------
    (X, Y, Z) float32, ppm
        Up to an additive constant.

    Notes
    -----
    "gradient" is the closed form of Bilgic et al. 2014 (doi:10.1002/jmri.24365).
    """
    if kind == "thresholded":
        return invert_dipole(field, spacing, b0_direction=b0_direction, threshold=weight)

    def inverse(shape: tuple[int, int, int]) -> np.ndarray:
        response = dipole_response(shape, spacing, b0_direction=b0_direction)
        along = [scipy.fft.fftfreq(n) for n in shape[:2]] + [scipy.fft.rfftfreq(shape[2])]
        x, y, z = ((2 * np.sin(np.pi * k) / s * 0.75) ** 2 for k, s in zip(along, spacing, strict=True))
        gradients = (x[:, None, None] + y[:, None] + z).astype(np.float32)
        return response / np.maximum(response**2 + np.float32(weight) * gradients, np.float32(1e-6))

    return filtered(field, spacing, inverse)


def draw_inversion(rng: np.random.Generator) -> tuple[str, float]:
    """A kind of inversion and its weight, as one site or another would choose them."""
    kind = str(rng.choice(INVERSIONS))
    return kind, float(rng.uniform(*(THRESHOLDS if kind == "thresholded" else GRADIENT_WEIGHTS)))


def _ball(radius_mm: float, spacing: np.ndarray) -> Callable[[tuple[int, int, int]], np.ndarray]:
    """The mean over a ball of voxels, as a response in k-space.

    Voxels count by the share of them that is inside, those with their centre outside not at all: what lies beyond the
    brain must not be touched.
    """
    half = np.floor(radius_mm / spacing + 1e-6).astype(int)
    index = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in half], indexing="ij"), axis=-1)
    inner = (np.stack(np.meshgrid(*[np.arange(5)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) - 2) / 5
    share = (np.linalg.norm((index[..., None, :] + inner) * spacing, axis=-1) <= radius_mm).mean(axis=-1)
    share *= np.linalg.norm(index * spacing, axis=-1) <= radius_mm + 1e-6
    kernel = (share / share.sum()).astype(np.float32)

    def response(shape: tuple[int, int, int]) -> np.ndarray:
        whole = np.zeros(shape, np.float32)
        whole[tuple(slice(n) for n in kernel.shape)] = kernel
        return scipy.fft.rfftn(np.roll(whole, -half, axis=(0, 1, 2))).real

    return response
