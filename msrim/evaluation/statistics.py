"""How sure a mean over patients, a proportion, and a difference between two methods can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest, bootstrap, rankdata, ttest_rel, wilcoxon


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
        None for fewer than two values, which have no spread.

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


def bootstrap_statistic(
    patients: Sequence[Any], statistic: Callable[[list[Any]], float | None], *, seed: int = 0, repeats: int = 999
) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of anything that is computed from all patients at once, as a correlation is.

    Parameters
    ----------
    patients : sequence
        One item a patient, whatever ``statistic`` takes a list of.
    statistic : callable
        Resamples in which it is None are left out.

    Examples
    --------
    >>> bootstrap_statistic([1, 1, 1], sum)
    (3.0, 3.0)
    """
    if len(patients) < 2:
        return None
    rng = np.random.default_rng(seed)
    drawn = (statistic([patients[i] for i in rng.integers(len(patients), size=len(patients))]) for _ in range(repeats))
    defined = [value for value in drawn if value is not None]
    if not defined:
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def compare_paired(first: Sequence[float | None], second: Sequence[float | None]) -> dict[str, Any] | None:
    """Two-sided paired tests of one figure of two methods on the same patients.

    Parameters
    ----------
    first, second : sequence of float or None
        One value a patient in the same order; patients for whom either is None are left out.

    Returns
    -------
    dict or None
        ``patients``; ``mean_difference``, second less first, with its bootstrap interval ``low``, ``high``; ``t_p``, p
        of the paired t-test, and Cohen's ``d_z``, the mean difference in its own standard deviations; ``wilcoxon_p`` of
        the signed-rank test (zero differences left out, exact for up to 50 without ties), and
        ``rank_biserial``, the sum of ranks in favour of the second less that in favour of the first, by their total.
        Without any difference p is 1 and effects are 0; ``t_p`` is 0 and ``d_z`` infinite if all differences are equal.
        None for fewer than two patients. P-values are of one comparison each, not adjusted for their number.

    Examples
    --------
    >>> compare_paired([0.5, 0.6, 0.7, 0.4], [0.6, 0.8, 0.7, 0.5])["rank_biserial"]
    1.0
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    a, b = np.array(pairs, dtype=float).reshape(-1, 2).T
    difference = b - a
    interval = bootstrap_interval(difference.tolist())
    if interval is None:
        return None
    low, high = interval
    found = {"patients": len(pairs), "mean_difference": float(difference.mean()), "low": low, "high": high}
    changed = difference[difference != 0]
    if not changed.size:
        return found | {"t_p": 1.0, "d_z": 0.0, "wilcoxon_p": 1.0, "rank_biserial": 0.0}
    ranks = rankdata(abs(changed))
    with np.errstate(divide="ignore"):
        d_z = difference.mean() / difference.std(ddof=1)
    return found | {
        "t_p": float(ttest_rel(b, a).pvalue) if np.isfinite(d_z) else 0.0,
        "d_z": float(d_z),
        "wilcoxon_p": float(wilcoxon(changed).pvalue),
        "rank_biserial": float((ranks * np.sign(changed)).sum() / ranks.sum()),
    }


def wilson_interval(successes: int, trials: int) -> tuple[float, float] | None:
    """95 % interval of a proportion by Wilson's score; None without trials.

    Notes
    -----
    Wilson, J. Am. Stat. Assoc. 22, 1927, doi:10.1080/01621459.1927.10502953. It keeps its coverage for few trials, and
    for none or all successes.

    Examples
    --------
    >>> [round(bound, 3) for bound in wilson_interval(8, 10)], wilson_interval(0, 0)
    ([0.49, 0.943], None)
    """
    if not trials:
        return None
    interval = binomtest(successes, trials).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
