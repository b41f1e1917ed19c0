"""How sure a mean over patients can be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import bootstrap


def bootstrap_interval(
    values: Sequence[float | None], *, seed: int = 0, repeats: int = 9999
) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of a mean over patients.

    Parameters
    ----------
    values : sequence of float or None
        One value a patient; None is left out, as in the mean.
    seed : int
    repeats : int
        Number of resamples.

    Returns
    -------
    (low, high), or None
        None for fewer than two values: nothing can be said about the spread.

    Examples
    --------
    >>> bootstrap_interval([0.5, 0.5, None, 0.5])
    (0.5, 0.5)
    """
    defined = np.array([value for value in values if value is not None], dtype=float)
    if defined.size < 2:
        return None
    # Not BCa: its acceleration is undefined where all patients are alike, and it gains nothing on a handful of them.
    interval = bootstrap((defined,), np.mean, n_resamples=repeats, method="percentile", rng=seed).confidence_interval
    return float(interval.low), float(interval.high)
