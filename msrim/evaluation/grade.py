"""How well lesions of one scan are found, by lesions of known size and contrast that were painted into it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from msrim.evaluation.statistics import wilson_interval
from msrim.files import write_tsv

# From the faintest that raters mark to the patient's own; the share of the way.
CONTRASTS = {"faint": 0.0, "medium": 0.5, "own": 1.0}
# Told on the page. Printed by `python -m tests.benchmarks.grade --data DIR --out DIR --left-out DIR`.
AGREEMENT = (
    "Painted lesions like the patient's own beside lesions of that size that experts marked, found in 15 visits of "
    "thirteen patients whom the networks had not seen: about 10 mm3 8 % (n = 26) and 21 % (n = 43); about 25 mm3 32 % "
    "(69) and 29 % (51); about 63 mm3 58 % (131) and 65 % (134); about 160 mm3 73 % (60) and 87 % (90); about 400 mm3 "
    "86 % (29) and 94 % (69). At the same volume and contrast painted lesions are harder: 71 % of the experts' 451 "
    "lesions were found, and 49 % would have been if they were painted (difference 22 points, 95 % interval over "
    "lesions 18 to 26)."
)
WANTED = 0.8
REPEATS = 999
# Of the logistic regression.
PENALTY, NEWTON_STEPS, MOST_STEP = 0.1, 40, 3.0

# What *_desc-grade.json says about the columns of *_desc-grade.tsv, in their order.
GRADE_COLUMNS = {
    "id": {"Description": "Number of the painted lesion"},
    "volume_mm3": {
        "Description": "Volume that the FLAIR shows of it: of the voxels with half of its highest contrast or more",
        "Units": "mm3",
    },
    "drawn_mm3": {"Description": "Volume as it was drawn, before voxels blurred it", "Units": "mm3"},
    "contrast": {
        "Description": "How much the lesion differs from white matter",
        "Levels": {
            "faint": "As the faintest lesions that raters mark",
            "medium": "Half way between the two",
            "own": "As the patient's own lesions of its size; as raters' lesions where the patient has none",
        },
    },
    "flair_contrast": {
        "Description": "This on the FLAIR: upper quartile in those voxels, in robust deviations of the brain's tissue"
    },
    "centre_x_mm": {"Description": "Centre of mass, to the right, in the FLAIR's world coordinates", "Units": "mm"},
    "centre_y_mm": {"Description": "Centre of mass, to the front, in the FLAIR's world coordinates", "Units": "mm"},
    "centre_z_mm": {"Description": "Centre of mass, upwards, in the FLAIR's world coordinates", "Units": "mm"},
    "found_mm3": {"Description": "Volume of what was found of it; n/a where nothing was", "Units": "mm3"},
}


@dataclass(frozen=True)
class PaintedLesion:
    """One painted lesion and what was found of it; its fields are the columns, described in GRADE_COLUMNS."""

    id: int
    volume_mm3: float
    drawn_mm3: float
    contrast: str
    flair_contrast: float
    centre_x_mm: float
    centre_y_mm: float
    centre_z_mm: float
    found_mm3: float | None

    @property
    def found(self) -> bool:
        """Whether anything was found where it lies."""
        return self.found_mm3 is not None


def summarise_grade(
    lesions: Sequence[PaintedLesion],
    *,
    sizes_mm3: Sequence[float],
    false_positives_mm3: Sequence[float],
    lost: int,
    seed: int,
) -> dict[str, Any]:
    """Sensitivity by size and contrast, the smallest lesion found, false positives, and the error of volumes.

    Parameters
    ----------
    lesions : sequence of PaintedLesion
    sizes_mm3 : sequence of float
        Classes of size, ascending; each lesion belongs to the one nearest by its logarithm.
    false_positives_mm3 : sequence of float
        Volumes of what was found elsewhere, and is not found without painting.
    lost : int
        The patient's own lesions that are found without painting alone.
    seed : int
        Of the painting.

    Returns
    -------
    dict
        Ready for JSON. Intervals are 95 %: Wilson's of sensitivities, and of the smallest lesion by bootstrap over the
        lesions. ``smallest_found_mm3`` is the volume from which on 80 % are found by a logistic regression on the
        logarithm of the volume and on the contrast; None where even the largest size is found less often, and the
        smallest volume that the scan showed of any where that is. ``flair_contrast`` is the median by contrast.

    Examples
    --------
    >>> rows = [
    ...     PaintedLesion(k, 10.0 * 2**k, 8.0 * 2**k, "own", 2.5, 0, 0, 0, 10.0 if k > 2 else None)
    ...     for k in range(6)
    ... ]
    >>> grade = summarise_grade(rows, sizes_mm3=[10, 100], false_positives_mm3=[], lost=0, seed=0)
    >>> grade["sensitivity"]["found"], grade["sizes"][0]["painted"], grade["volume_ratio"]["lesions"]
    (3, 2, 3)
    """
    logs = np.log(sizes_mm3)
    size_of = {lesion.id: int(np.argmin(abs(logs - np.log(lesion.volume_mm3)))) for lesion in lesions}
    sizes = []
    for index, size in enumerate(sizes_mm3):
        members = [lesion for lesion in lesions if size_of[lesion.id] == index]
        by_contrast = {
            name: _sensitivity(lesion for lesion in members if lesion.contrast == name) for name in CONTRASTS
        }
        sizes.append({"volume_mm3": size, **_sensitivity(members), "contrasts": by_contrast})
    # Thick slices show no lesion of the smallest sizes.
    limits = max(min(sizes_mm3), min((lesion.volume_mm3 for lesion in lesions), default=0.0)), max(sizes_mm3)
    smallest = smallest_found(lesions, limits_mm3=limits, seed=seed)
    ratios = [lesion.found_mm3 / lesion.volume_mm3 for lesion in lesions if lesion.found_mm3 is not None]
    quartiles = [round(float(q), 3) for q in np.percentile(ratios, [50, 25, 75])] if ratios else [None] * 3
    return {
        "seed": seed,
        "agreement": AGREEMENT,
        "sensitivity": _sensitivity(lesions),
        "sizes": sizes,
        "contrasts": {
            name: _sensitivity(lesion for lesion in lesions if lesion.contrast == name) for name in CONTRASTS
        },
        "flair_contrast": {
            name: round(float(np.median(seen)), 3)
            for name in CONTRASTS
            if (seen := [lesion.flair_contrast for lesion in lesions if lesion.contrast == name])
        },
        "smallest_found_mm3": smallest,
        "false_positives": {
            "lesions": len(false_positives_mm3),
            "volume_mm3": round(float(sum(false_positives_mm3)), 3),
        },
        "lost_lesions": lost,
        "volume_ratio": dict(zip(("median", "lower_quartile", "upper_quartile"), quartiles, strict=True))
        | {"lesions": len(ratios)},
        "statement": _statement(smallest, limits) if lesions else "no lesion could be painted into this scan",
    }


def smallest_found(
    lesions: Sequence[PaintedLesion], *, limits_mm3: tuple[float, float], seed: int
) -> dict[str, dict[str, float | None]]:
    """The volume from which on 80 % are found, by contrast, see :func:`summarise_grade`.

    Returns
    -------
    dict of str to dict
        ``value``, ``low`` and ``high`` in mm3, by contrast.
    """
    count, sizes = len(lesions), {}
    if not count:
        return {name: {"value": None, "low": None, "high": None} for name in CONTRASTS}
    known = np.array([(1.0, np.log(lesion.volume_mm3), CONTRASTS[lesion.contrast]) for lesion in lesions])
    found = np.array([lesion.found for lesion in lesions], float)
    # How often each lesion counts: once, then as it is drawn.
    rng = np.random.default_rng(seed)
    times = np.concatenate([np.ones((1, count)), rng.multinomial(count, np.full(count, 1 / count), REPEATS)])
    fits = logistic_fits(known, found, times)
    for name, share in CONTRASTS.items():
        logs = np.array([_reaches(fit, share) for fit in fits])
        figures = [logs[0], *np.percentile(logs[1:], [2.5, 97.5], method="nearest")]
        sizes[name] = dict(zip(("value", "low", "high"), (_within(log, limits_mm3) for log in figures), strict=True))
    return sizes


def logistic_fits(known: np.ndarray, found: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Several logistic regressions of what was found, each counting the lesions anew.

    Parameters
    ----------
    known : (N, 3) float
        Of each lesion: 1, the logarithm of its volume, and its contrast.
    found : (N,) float
        0 or 1.
    times : (R, N) float
        How often a regression counts each lesion.

    Returns
    -------
    (R, 3) float
        Coefficients. A weak penalty keeps the slopes finite where a size parts the found from the missed.

    Examples
    --------
    >>> known = np.array([(1.0, size, 0.0) for size in range(8)])
    >>> fit = logistic_fits(known, np.array([0, 0, 0, 1, 0, 1, 1, 1.0]), np.ones((1, 8)))
    >>> expit(known @ fit[0]).round(1).tolist()
    [0.0, 0.0, 0.1, 0.4, 0.6, 0.9, 1.0, 1.0]
    """
    penalty = np.diag([1e-6, PENALTY, PENALTY])
    products = (known[:, :, None] * known[:, None, :]).reshape(len(known), -1)
    fits = np.zeros((len(times), known.shape[1]))
    for _ in range(NEWTON_STEPS):
        chance = expit(fits @ known.T)
        gradient = (times * (found - chance)) @ known - fits @ penalty
        curvature = (times * chance * (1 - chance) @ products).reshape(-1, 3, 3) + penalty
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        # Far from the optimum a whole step may overshoot.
        fits += step / np.maximum(1, np.linalg.norm(step, axis=1, keepdims=True) / MOST_STEP)
    return fits


def write_grade_tsv(rows: Iterable[Any], path: Path, *, columns: Collection[str] = tuple(GRADE_COLUMNS)) -> Path:
    """Write the table of what was painted, by the columns' names: tab-separated, "n/a" where nothing was found.

    Raises
    ------
    OutputError
        The file can't be written.
    """
    cells = [[getattr(row, column) for column in columns] for row in rows]
    return write_tsv(
        [[f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row] for row in cells], path, columns=columns
    )


def share_found(found: int, painted: int) -> dict[str, Any]:
    """A count, its share, and the share's 95 % interval (Wilson), ready for JSON.

    Examples
    --------
    >>> share_found(3, 4)["value"], share_found(0, 0)["value"]
    (0.75, None)
    """
    interval = wilson_interval(found, painted)
    low, high = (None, None) if interval is None else (round(bound, 4) for bound in interval)
    value = round(found / painted, 4) if painted else None
    return {"painted": painted, "found": found, "value": value, "low": low, "high": high}


def _sensitivity(lesions: Iterable[PaintedLesion]) -> dict[str, Any]:
    members = list(lesions)
    return share_found(sum(lesion.found for lesion in members), len(members))


def _reaches(fit: np.ndarray, share: float) -> float:
    """Log volume at which the wanted sensitivity is reached; infinite where it never is, or always."""
    constant, slope, by_share = fit
    missing = np.log(WANTED / (1 - WANTED)) - constant - by_share * share
    if slope <= 0:
        return -np.inf if missing <= 0 else np.inf
    return float(missing / slope)


def _within(log_volume: float, limits_mm3: tuple[float, float]) -> float | None:
    lowest, highest = np.log(limits_mm3)
    return None if log_volume > highest else round(float(np.exp(max(log_volume, lowest))), 1)


def _statement(smallest: dict[str, dict[str, float | None]], limits_mm3: tuple[float, float]) -> str:
    own, faint = smallest["own"]["value"], smallest["faint"]["value"]
    largest = f"{limits_mm3[1]:,.0f} mm3"
    if own is None:
        return f"of lesions like the patient's own, fewer than 80 % are found even at {largest}"
    least = " (the smallest painted)" if own <= round(limits_mm3[0], 1) else ""
    told = f"this scan shows lesions like the patient's own from {own:.0f} mm3 on{least}"
    if faint is None:
        return f"{told}; of the faintest that raters mark, fewer than 80 % are found even at {largest}"
    return f"{told}, and the faintest that raters mark from {faint:.0f} mm3 on"
