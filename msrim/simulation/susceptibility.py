"""From susceptibility to QSM: the field that a map makes, the gradient echoes that it dephases, and the way back.

Susceptibility and field are in ppm throughout, the field relative to the main field.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.fft

GYROMAGNETIC_RATIO_MHZ_PER_T = 42.577478518
PADDING_MM = 20.0


@dataclass(frozen=True)
class GradientEcho:
    """How the complex images are acquired.

    Attributes
    ----------
    field_t : float, T
    echo_times_ms : tuple of float
    snr : float
        Signal of white matter right after excitation over the noise's standard deviation in each of the two channels.
    """

    field_t: float = 3.0
    echo_times_ms: tuple[float, ...] = (6.3, 10.4, 14.5, 18.6, 22.7, 26.8, 30.9, 35.0, 39.1, 43.2)
    snr: float = 45.0

    @property
    def phase_per_ppm(self) -> np.ndarray:
        """Phase that 1 ppm has gathered at each echo: (echoes,) float, rad."""
        return 2e-3 * np.pi * GYROMAGNETIC_RATIO_MHZ_PER_T * self.field_t * np.array(self.echo_times_ms)


def dipole_response(
    shape: tuple[int, int, int], spacing: np.ndarray, *, b0_direction: tuple[float, float, float] = (0.0, 0.0, 1.0)
) -> np.ndarray:
    """The dipole kernel: field of a unit of susceptibility, per spatial frequency: ``1/3 - (k.b)^2 / k^2``.

    Parameters
    ----------
    shape : (3,) int
    spacing : (3,) float, mm
    b0_direction : (3,) float
        Unit vector of the main field along the array's axes.

    Returns
    -------
    (X, Y, Z // 2 + 1) float32
        The half that :func:`scipy.fft.rfftn` gives; 0 at zero frequency, where the map's mean is undefined.

    Notes
    -----
    Salomir et al. 2003 (doi:10.1002/cmr.b.10083), with the sphere of Lorentz.

    Examples
    --------
    >>> dipole_response((1, 1, 4), (1.0, 1.0, 1.0)).round(3).ravel()
    array([ 0.   , -0.667, -0.667], dtype=float32)
    """
    x, y = (scipy.fft.fftfreq(n, s).astype(np.float32) for n, s in zip(shape[:2], spacing[:2], strict=True))
    z = scipy.fft.rfftfreq(shape[2], spacing[2]).astype(np.float32)
    x, y = x[:, None, None], y[:, None]
    squared = x**2 + y**2 + z**2
    squared[0, 0, 0] = 1
    along = x * np.float32(b0_direction[0]) + y * np.float32(b0_direction[1]) + z * np.float32(b0_direction[2])
    response = 1 / 3 - along**2 / squared
    response[0, 0, 0] = 0
    return response


def field_of(
    susceptibility: np.ndarray, spacing: np.ndarray, *, b0_direction: tuple[float, float, float] = (0.0, 0.0, 1.0)
) -> np.ndarray:
    """The field of a susceptibility map, by convolution with the unit dipole.

    Parameters
    ----------
    susceptibility : (X, Y, Z) float, ppm
        Zero, that is like the reference, beyond the array.
    spacing : (3,) float, mm
    b0_direction : (3,) float

    Returns
    -------
    (X, Y, Z) float32, ppm
    """
    return filtered(susceptibility, spacing, lambda shape: dipole_response(shape, spacing, b0_direction=b0_direction))


def acquire(
    field: np.ndarray, density: np.ndarray, r2star: np.ndarray, *, protocol: GradientEcho, rng: np.random.Generator
) -> np.ndarray:
    """Complex signal of a multi-echo gradient echo, whose voxels average what lies across them.

    Parameters
    ----------
    field : (..., parts) float, ppm
        Of the parts of each voxel; between them the phase disperses.
    density : (..., parts) float
        Signal right after excitation; 1 in white matter.
    r2star : (..., parts) float, 1/s
    protocol : GradientEcho
    rng : numpy.random.Generator

    Returns
    -------
    (echoes, ...) complex64

    Examples
    --------
    >>> silent = GradientEcho(echo_times_ms=(10.0,), snr=1e9)
    >>> one = np.ones((1, 1))
    >>> round(float(abs(acquire(0 * one, one, 50 * one, protocol=silent, rng=np.random.default_rng(0)))[0, 0]), 4)
    0.6065
    """
    field, r2star = field.astype(np.float32, copy=False), r2star.astype(np.float32, copy=False)
    signal = np.empty((len(protocol.echo_times_ms), *field.shape[:-1]), np.complex64)
    for echo, (time_ms, phase) in enumerate(zip(protocol.echo_times_ms, protocol.phase_per_ppm, strict=True)):
        magnitude = density * np.exp(np.float32(-1e-3 * time_ms) * r2star)
        angle = np.float32(phase) * field
        signal[echo].real = (magnitude * np.cos(angle)).mean(axis=-1)
        signal[echo].imag = (magnitude * np.sin(angle)).mean(axis=-1)
    noise = rng.standard_normal((*signal.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
    return signal + noise / np.float32(protocol.snr)


def fit_field(echoes: np.ndarray, *, protocol: GradientEcho) -> np.ndarray:
    """The field from the phase's growth over the echoes, weighted by the squared magnitude.

    The phase is unwrapped over time alone, so the field may not turn it by more than pi from one echo to the next.

    Parameters
    ----------
    echoes : (echoes, ...) complex64
    protocol : GradientEcho

    Returns
    -------
    (...) float32, ppm

    Notes
    -----
    Weighted least squares on the phase, de Rochefort et al. 2008 (doi:10.1002/mrm.21710). The phase is that of the
    susceptibility alone: fields from outside the brain and the coil's phase are taken as removed.
    """
    phase = np.unwrap(np.angle(echoes), axis=0)
    weight = np.abs(echoes) ** 2
    time = protocol.phase_per_ppm.astype(np.float32).reshape(-1, *[1] * (echoes.ndim - 1))
    total = weight.sum(axis=0)
    away = weight * (time - (weight * time).sum(axis=0) / total)
    mean_phase = (weight * phase).sum(axis=0) / total
    return (away * (phase - mean_phase)).sum(axis=0) / (away * time).sum(axis=0)


def invert_dipole(
    field: np.ndarray,
    spacing: np.ndarray,
    *,
    b0_direction: tuple[float, float, float] = (0.0, 0.0, 1.0),
    threshold: float = 0.12,
) -> np.ndarray:
    """Susceptibility from a field by thresholded division in k-space.

    Parameters
    ----------
    field : (X, Y, Z) float, ppm
        0 outside the brain.
    spacing : (3,) float, mm
    b0_direction : (3,) float
    threshold : float
        Where the dipole's response is weaker than this, division takes this instead: larger means fewer streaks and
        more blur.

    Returns
    -------
    (X, Y, Z) float32, ppm
        Up to an additive constant.

    Notes
    -----
    Shmueli et al. 2009 (doi:10.1002/mrm.22135), with the correction of the mean underestimation by Schweser et al. 2013
    (doi:10.1002/mrm.24405).
    """

    def inverse(shape: tuple[int, int, int]) -> np.ndarray:
        response = dipole_response(shape, spacing, b0_direction=b0_direction)
        bounded = np.where(np.abs(response) < threshold, np.copysign(np.float32(threshold), response), response)
        return 1 / (bounded * (response / bounded).mean())

    return filtered(field, spacing, inverse)


def filtered(
    data: np.ndarray, spacing: np.ndarray, response: Callable[[tuple[int, int, int]], np.ndarray]
) -> np.ndarray:
    """Multiply by a response in k-space, in an array with enough zeros added that its far sides hardly meet.

    Parameters
    ----------
    data : (X, Y, Z) float
    spacing : (3,) float, mm
    response : callable
        From the padded array's shape to the half of k-space that :func:`scipy.fft.rfftn` gives.

    Returns
    -------
    (X, Y, Z) float32
    """
    padding = [int(np.ceil(PADDING_MM / s)) for s in spacing]
    shape = tuple(scipy.fft.next_fast_len(n + 2 * p, real=True) for n, p in zip(data.shape, padding, strict=True))
    spectrum = scipy.fft.rfftn(data.astype(np.float32, copy=False), shape)
    spectrum *= response(shape)
    filtered = scipy.fft.irfftn(spectrum, shape)
    return np.ascontiguousarray(filtered[tuple(slice(n) for n in data.shape)])
