"""From tissue to image: signal equations, slice profile, coil bias and receiver noise."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, exp, log, radians, sin

import numpy as np

from msrim.image import Volume, resample
from msrim.simulation.shapes import gaussian_field

WHITE_MATTER_LEVEL = 400.0  # mean of white matter in the stored integers, as scanners scale it
COIL_SCALE_MM = 60.0
SUB_SLICE_MM = 1.0


@dataclass(frozen=True)
class Tissue:
    """Parameters of a tissue's signal: relaxation times and proton density relative to water."""

    t1_ms: float
    t2_ms: float
    density: float
    fat: bool = False


# At 3 T. White and grey matter, muscle: Stanisz et al., Magn Reson Med 54:507 (2005). Fat: Gold et al., AJR 183:343
# (2004). Densities of grey and white matter: Neeb et al., NeuroImage 31:1156 (2006). CSF is close to water at body
# temperature, with a T1 as in Rooney et al., Magn Reson Med 57:308 (2007). The last five have no such source: lesions
# lie between white matter and CSF, set so that their FLAIR contrast is a clinical one; the others merely look right.
TISSUE_PARAMETERS = {
    "air": Tissue(1000.0, 10.0, 0.0),
    "white matter": Tissue(1084.0, 69.0, 0.70),
    "grey matter": Tissue(1820.0, 99.0, 0.82),
    "csf": Tissue(4300.0, 2000.0, 1.0),
    "muscle": Tissue(1412.0, 50.0, 0.80),
    "fat": Tissue(371.0, 133.0, 0.90, fat=True),
    "bone": Tissue(1000.0, 10.0, 0.05),
    "marrow": Tissue(500.0, 60.0, 0.35, fat=True),
    "skin": Tissue(900.0, 40.0, 0.60),
    "dura": Tissue(1300.0, 45.0, 0.50),
    "lesion": Tissue(1750.0, 135.0, 0.86),
}


def turbo_spin_echo(tissue: Tissue, *, tr_ms: float, te_ms: float) -> float:
    """Signal of a (turbo) spin echo with effective echo time ``te_ms``.

    ``density (1 - exp(-TR/T1)) exp(-TE/T2)``; Bernstein et al., Handbook of MRI Pulse Sequences (2004).

    Examples
    --------
    >>> round(turbo_spin_echo(Tissue(1000.0, 100.0, 1.0), tr_ms=1000.0, te_ms=100.0), 4)
    0.2325
    """
    return tissue.density * (1 - exp(-tr_ms / tissue.t1_ms)) * exp(-te_ms / tissue.t2_ms)


def flair(tissue: Tissue, *, tr_ms: float, te_ms: float, ti_ms: float) -> float:
    """Signal of an inversion-recovery turbo spin echo, negative before the null.

    ``density (1 - 2 exp(-TI/T1) + exp(-TR/T1)) exp(-TE/T2)``; Hajnal et al., J Comput Assist Tomogr 16:841 (1992).
    """
    recovery = 1 - 2 * exp(-ti_ms / tissue.t1_ms) + exp(-tr_ms / tissue.t1_ms)
    return tissue.density * recovery * exp(-te_ms / tissue.t2_ms)


def null_time_ms(tissue: Tissue, *, tr_ms: float) -> float:
    """Inversion time at which :func:`flair` of a tissue vanishes.

    Examples
    --------
    >>> round(null_time_ms(Tissue(1000.0, 100.0, 1.0), tr_ms=1e9), 2)
    693.15
    """
    return tissue.t1_ms * log(2 / (1 + exp(-tr_ms / tissue.t1_ms)))


def mprage(
    tissue: Tissue, *, tr_ms: float, ti_ms: float, echo_spacing_ms: float, excitations: int, flip_deg: float
) -> float:
    """Signal of MPRAGE at the middle of its train of excitations, negative before the null; T2* is left out.

    The longitudinal magnetisation goes through inversion, recovery, the train and recovery again; each is a linear map
    ``m -> a m + b``, and the steady state is the fixed point of their chain (Marques et al., NeuroImage 49:1271, 2010).

    Parameters
    ----------
    tissue : Tissue
    tr_ms : float
        From one inversion to the next.
    ti_ms : float
        From the inversion to the middle of the train.
    echo_spacing_ms : float
        From one excitation to the next.
    excitations : int
    flip_deg : float
    """

    def recover(time_ms: float) -> tuple[float, float]:
        return exp(-time_ms / tissue.t1_ms), tissue.density * (1 - exp(-time_ms / tissue.t1_ms))

    def excite(times: int) -> tuple[float, float]:
        decay, growth = recover(echo_spacing_ms)
        one = cos(radians(flip_deg)) * decay
        return one**times, growth * (1 - one**times) / (1 - one)

    half_train_ms = echo_spacing_ms * excitations / 2
    before = [(-1.0, 0.0), recover(ti_ms - half_train_ms), excite(excitations // 2)]
    after = [excite(excitations - excitations // 2), recover(tr_ms - ti_ms - half_train_ms)]
    factor, offset = _chain(before + after)
    start = offset / (1 - factor)
    factor, offset = _chain(before)
    return sin(radians(flip_deg)) * (factor * start + offset)


def _chain(maps: list[tuple[float, float]]) -> tuple[float, float]:
    factor, offset = 1.0, 0.0
    for a, b in maps:
        factor, offset = a * factor, a * offset + b
    return factor, offset


def sample_slices(volume: Volume, grid: Volume, *, grid_from_volume: np.ndarray) -> Volume:
    """Sample a fine image as thick slices see it: averaged over the slice's thickness, its third axis.

    Parameters
    ----------
    volume : Volume
    grid : Volume
        Only its shape and affine are used.
    grid_from_volume : (4, 4) float
        Transform in RAS mm from the space of ``volume`` to that of ``grid``.
    """
    parts = int(np.ceil(grid.spacing[2] / SUB_SLICE_MM))
    total = np.zeros(grid.shape, np.float32)
    for part in range(parts):
        affine = grid.affine.copy()
        affine[:3, 3] += affine[:3, 2] * ((part + 0.5) / parts - 0.5)
        total += resample(volume, Volume(grid.data, affine), target_from_source=grid_from_volume).data
    return Volume(total / parts, grid.affine)


def receive(signal: Volume, *, white_matter: float, snr: float, bias: float, rng: np.random.Generator) -> Volume:
    """Acquisition of a signal: coil bias, Rician noise, unsigned integers.

    Parameters
    ----------
    signal : Volume
    white_matter : float
        Its signal, in the units of ``signal``: stored as about ``WHITE_MATTER_LEVEL``.
    snr : float
        White matter's mean over the noise's standard deviation in each channel.
    bias : float
        Standard deviation of the logarithm of the coil's smooth sensitivity.
    rng : numpy.random.Generator

    Returns
    -------
    Volume of uint16
    """
    sensitivity = np.exp(bias * gaussian_field(signal.shape, COIL_SCALE_MM / signal.spacing, rng))
    real = signal.data * sensitivity * np.float32(WHITE_MATTER_LEVEL / white_matter)
    noise = np.float32(WHITE_MATTER_LEVEL / snr)
    real += noise * rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary = noise * rng.standard_normal(signal.shape, dtype=np.float32)
    return signal.like(np.hypot(real, imaginary).round().astype(np.uint16))
