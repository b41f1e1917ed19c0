"""How much blunter one of two registered scans is than the other, and both made equally blunt.

A blunter scan shows wider sulci. A deformation follows them, and tells a loss of brain where none is: 2 % between
slices of 1 and 3 mm. What headers say of the voxels is not enough: scanners interpolate, and so does resampling.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from scipy import ndimage

from msrim.image import Volume

# Spatial frequencies by which two scans are compared, per mm: below, coils shade; above, thick slices show nothing.
BAND_PER_MM = (0.03, 0.17)
# Spectra are averaged over so many neighbouring frequencies along each axis.
AVERAGED = 3
# Each time a smaller rest is found; the third is below a twentieth of a mm2.
TIMES = 3
# The brain's edge fades over so much, that it is no edge of the image.
FADING_MM = 2.0


def equally_sharp(one: Volume, other: Volume, *, brain: Volume) -> tuple[Volume, Volume]:
    """Blur either scan where the other one is blunter, in each direction by itself.

    Parameters
    ----------
    one, other : Volume of float
        Registered, of one contrast, on one grid of cubic voxels.
    brain : Volume of bool
        Where they are compared.

    Returns
    -------
    (Volume, Volume) of float32
        With the scans exchanged they are the same, exchanged.

    Examples
    --------
    >>> scan = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(64, 64, 64)), 1.0, mode="wrap")
    >>> blunt = ndimage.gaussian_filter(scan, (0.8, 0.8, 1.5), mode="wrap")
    >>> brain = Volume(np.ones(scan.shape, bool), np.eye(4))
    >>> one, other = equally_sharp(brain.like(scan), brain.like(blunt), brain=brain)
    >>> bool(np.std(one.data - other.data) < 0.02 * np.std(scan - blunt))
    True
    """
    for _ in range(TIMES):
        wider = relative_blur(one, other, brain=brain)
        one, other = _blurred(one, wider), _blurred(other, -wider)
    return one, other


def relative_blur(one: Volume, other: Volume, *, brain: Volume) -> np.ndarray:
    """By how much the blur of ``other`` exceeds that of ``one``, as the variance of a Gaussian: (3, 3) float, mm2.

    Negative along directions in which ``one`` is the blunter. The ratio of the two power spectra is that of a
    Gaussian's, fitted where the scans are coherent; noise, which either has for itself, is not.

    Examples
    --------
    >>> scan = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(64, 64, 64)), 1.0, mode="wrap")
    >>> blunt = ndimage.gaussian_filter(scan, (0.8, 0.8, 1.5), mode="wrap")
    >>> brain = Volume(np.ones(scan.shape, bool), np.eye(4))
    >>> np.diag(relative_blur(brain.like(scan), brain.like(blunt), brain=brain)).round(1).tolist()
    [0.6, 0.6, 2.1]
    """
    spacing = float(one.spacing[0])
    window = ndimage.gaussian_filter(brain.data.astype(np.float32), FADING_MM / spacing) * brain.data
    (spectrum, frequency), (other_spectrum, _) = (_spectrum(image.data, window, spacing) for image in (one, other))
    power, other_power = (_averaged(np.abs(values) ** 2) for values in (spectrum, other_spectrum))
    # Part by part: a product of complex numbers may round otherwise where its factors are exchanged.
    real = spectrum.real * other_spectrum.real + spectrum.imag * other_spectrum.imag
    imaginary = spectrum.imag * other_spectrum.real - spectrum.real * other_spectrum.imag
    common = _averaged(real) ** 2 + _averaged(imaginary) ** 2
    coherence = common / np.maximum(power * other_power, 1e-30)
    distance = np.linalg.norm(frequency, axis=-1)
    within = (distance > BAND_PER_MM[0]) & (distance < BAND_PER_MM[1])
    x, y, z = frequency[within].T
    # Weighted as a logarithm of two coherent spectra varies.
    weight = np.sqrt(coherence[within] / np.maximum(1 - coherence[within], 1e-3))
    terms = np.stack([np.ones_like(x), x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], axis=1)
    # A difference of logarithms changes its sign exactly where the scans are exchanged.
    ratio = np.log(np.maximum(other_power[within], 1e-30)) - np.log(np.maximum(power[within], 1e-30))
    solution = np.linalg.lstsq(terms * weight[:, None], ratio * weight, rcond=None)[0]
    xx, yy, zz, xy, xz, yz = -solution[1:] / (4 * np.pi**2)
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def _spectrum(image: np.ndarray, window: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Fourier transform up to the band's end and a little further, and its frequencies (..., 3) per mm."""
    weighted = (image - np.average(image, weights=window)) * window
    whole = scipy.fft.fftn(weighted.astype(np.float32))
    axes = [np.fft.fftshift(np.fft.fftfreq(n, spacing)) for n in image.shape]
    kept = [np.flatnonzero(np.abs(axis) < 1.3 * BAND_PER_MM[1]) for axis in axes]
    low = np.fft.fftshift(whole)[np.ix_(*kept)]
    frequency = np.meshgrid(*(axis[inside] for axis, inside in zip(axes, kept, strict=True)), indexing="ij")
    return low, np.stack(frequency, axis=-1)


def _averaged(values: np.ndarray) -> np.ndarray:
    return ndimage.uniform_filter(values.astype(np.float64), AVERAGED)


def _blurred(image: Volume, variance: np.ndarray) -> Volume:
    """By a Gaussian of the positive part of a (3, 3) variance in mm2."""
    widths, directions = np.linalg.eigh(variance)
    positive = (directions * np.maximum(widths, 0)) @ directions.T
    if not positive.any():
        return image
    spacing, shape = float(image.spacing[0]), image.shape
    x, y, z = np.meshgrid(
        *(np.fft.fftfreq(n, spacing).astype(np.float32) for n in shape[:2]),
        np.fft.rfftfreq(shape[2], spacing).astype(np.float32),
        indexing="ij",
        sparse=True,
    )
    (xx, xy, xz), (_, yy, yz), (_, _, zz) = positive
    exponent = xx * x * x + yy * y * y + zz * z * z + 2 * (xy * x * y + xz * x * z + yz * y * z)
    gain = np.exp(-2 * np.pi**2 * exponent.astype(np.float32))
    spectrum = scipy.fft.rfftn(image.data.astype(np.float32)) * gain
    return image.like(scipy.fft.irfftn(spectrum, s=shape).astype(np.float32))
