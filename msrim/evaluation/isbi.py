"""The score of the ISBI-2015 longitudinal MS lesion challenge (Carass et al. 2017; ALL-Net, Eq. 11)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Disagreement between the challenge's two raters, in the sense of challenge_score. The papers do not print it. Eleven
# methods' scores and metrics are published (ALL-Net, Table 2), and this value, with the volume correlation at half the
# weight of Eq. 11, gives all eleven scores to 0.01.
RATER_DISAGREEMENT = 0.33


def isbi_score(*, dice: float, ppv: float, lfpr: float, ltpr: float, volume_correlation: float) -> float:
    """Weighted mean of five figures, each a mean over scans: Eq. 11 without the inter-rater term, at best 1.

    Examples
    --------
    ALL-Net on the Cornell data (Table 3):

    >>> round(isbi_score(dice=0.755, ppv=0.781, lfpr=0.301, ltpr=0.917, volume_correlation=0.983), 3)
    0.842
    """
    return dice / 8 + ppv / 8 + (1 - lfpr) / 4 + ltpr / 4 + volume_correlation / 4


def challenge_score(
    *,
    dice: float,
    ppv: float,
    lfpr: float,
    ltpr: float,
    volume_correlation: float,
    rater_disagreement: float = RATER_DISAGREEMENT,
) -> float:
    """The challenge's own score, normalised by the raters: 100 for perfection, 90 for a method as far off as a rater.

    Parameters
    ----------
    dice, ppv, lfpr, ltpr, volume_correlation : float
        Means over scans and raters.
    rater_disagreement : float
        Of the challenge's raters with each other, by the same weights.

    Examples
    --------
    ALL-Net on the challenge's data (Table 2):

    >>> round(challenge_score(dice=0.639, ppv=0.914, lfpr=0.122, ltpr=0.533, volume_correlation=0.860), 1)
    93.3
    """
    missed = (1 - dice) / 8 + (1 - ppv) / 8 + lfpr / 4 + (1 - ltpr) / 4 + (1 - volume_correlation) / 8
    return 100 - 10 * missed / rater_disagreement


def volume_correlation(truth_mm3: Sequence[float], prediction_mm3: Sequence[float]) -> float | None:
    """Pearson correlation of lesion volumes over scans; None for fewer than two scans or if all volumes are equal.

    Examples
    --------
    >>> volume_correlation([1, 2, 3], [2, 4, 6])
    1.0
    """
    if len(truth_mm3) < 2 or np.ptp(truth_mm3) == 0 or np.ptp(prediction_mm3) == 0:
        return None
    return float(np.corrcoef(truth_mm3, prediction_mm3)[0, 1])
