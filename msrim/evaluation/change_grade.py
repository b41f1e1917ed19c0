"""How well changes between two visits are found, by changes that were painted into a pair made of the baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from msrim.evaluation.grade import share_found
from msrim.lesions.expansion import GROW_PERCENT

# Growth by deformation from which on a lesion should be a candidate for slow expansion, percent a year.
EXPANDING_PERCENT = 20.0
REPEATS = 999

# What is painted; the patient's own lesions are stable by construction as well.
PAINTED_CHANGES = ("new", "vanished", "enlarging", "shrinking", "stable")
# Painted where the expansion is measured, alike at both visits before the image is deformed.
EXPANDING = "expanding"

# What *_desc-grade.json of a pair says about the columns of *_desc-grade.tsv, in their order.
CHANGE_GRADE_COLUMNS = {
    "id": {"Description": "Number of the painted lesion"},
    "change": {"Description": "What was painted: the lesion's change, as in the table of changes"},
    "baseline_mm3": {"Description": "Volume that was painted at baseline", "Units": "mm3"},
    "followup_mm3": {"Description": "Volume that was painted at follow-up", "Units": "mm3"},
    "found_change": {"Description": "What the lesion there was said to do; n/a where none was found"},
    "found_baseline_mm3": {"Description": "Volume of that lesion at baseline", "Units": "mm3"},
    "found_followup_mm3": {"Description": "Volume of that lesion at follow-up", "Units": "mm3"},
    "expansion_percent": {
        "Description": "Growth of the lesion's place by the deformation that was injected; n/a where none was",
        "Units": "percent",
    },
    "found_expansion_percent": {
        "Description": "Growth of that lesion's place by the deformation that was found; n/a where it was not measured",
        "Units": "percent",
    },
    "found_sel_candidate": {"Description": "Whether that lesion was called a candidate for slow expansion"},
}


@dataclass(frozen=True)
class PaintedChange:
    """One painted lesion and what was found of it; its fields are the columns, described in CHANGE_GRADE_COLUMNS."""

    id: int
    change: str
    baseline_mm3: float
    followup_mm3: float
    found_change: str | None = None
    found_baseline_mm3: float | None = None
    found_followup_mm3: float | None = None
    expansion_percent: float | None = None
    found_expansion_percent: float | None = None
    found_sel_candidate: bool | None = None

    @property
    def recovered(self) -> float | None:
        """Of a lesion that grows or shrinks and was found at both visits: found change of volume by painted change."""
        if self.change not in ("enlarging", "shrinking") or not (self.found_baseline_mm3 and self.found_followup_mm3):
            return None
        return (self.found_followup_mm3 - self.found_baseline_mm3) / (self.followup_mm3 - self.baseline_mm3)


def summarise_change_grade(painted: Sequence[PaintedChange], own: Iterable[str], *, seed: int) -> dict[str, Any]:
    """How many painted changes were called what they are, and what was said of lesions that did not change.

    Parameters
    ----------
    painted : sequence of PaintedChange
    own : iterable of str
        What was said of each of the patient's own lesions, which are the same at both made visits.
    seed : int
        Of the painting.

    Returns
    -------
    dict
        Ready for JSON; intervals are 95 %, Wilson's. ``volume_change_ratio`` is over growing and shrinking lesions that
        were found at both visits.

    Examples
    --------
    >>> rows = [PaintedChange(1, "new", 0, 63, "new", 0, 60), PaintedChange(2, "new", 0, 25)]
    >>> grade = summarise_change_grade(rows, ["stable", "vanished"], seed=1)
    >>> grade["changes"]["new"]["found"], grade["own"]
    (1, {'lesions': 2, 'called_changed': {'vanished': 1}})
    >>> grade["statement"]
    'of painted changes 1 of 2 new were found; of 2 lesions that are the same there, 1 was called changed'
    """
    changes = {}
    for change in PAINTED_CHANGES:
        members = [row for row in painted if row.change == change]
        called = Counter(row.found_change for row in members if row.found_change is not None)
        changes[change] = {**share_found(called[change], len(members)), "called": dict(called)}
    ratios = [row.recovered for row in painted if row.recovered is not None]
    quartiles = [round(float(q), 3) for q in np.percentile(ratios, [50, 25, 75])] if ratios else [None] * 3
    said = list(own)
    called_changed = Counter(change for change in said if change != "stable")
    wrong = called_changed.total()
    shown = [
        f"{share['found']} of {share['painted']} {change}"
        for change, share in changes.items()
        if share["painted"] and change != "stable"
    ]
    statement = "no lesion could be painted into this pair"
    if shown:
        statement = (
            f"of painted changes {', '.join(shown)} were found; of {len(said)} lesions that are the same there, "
            f"{wrong} {'was' if wrong == 1 else 'were'} called changed"
        )
    return {
        "seed": seed,
        "changes": changes,
        "own": {"lesions": len(said), "called_changed": dict(called_changed)},
        "volume_change_ratio": dict(zip(("median", "lower_quartile", "upper_quartile"), quartiles, strict=True))
        | {"lesions": len(ratios)},
        "statement": statement,
    }


def summarise_expansion(
    painted: Sequence[PaintedChange],
    own_candidates: Iterable[bool],
    *,
    brain: dict[str, float | None],
    trusted: bool,
    seed: int,
) -> dict[str, Any]:
    """What was recovered of the expansion of lesions and of the loss of tissue that were injected.

    Parameters
    ----------
    painted : sequence of PaintedChange
    own_candidates : iterable of bool
        Of the patient's own lesions that both made visits have, whether they were called candidates.
    brain : dict of str to float or None
        ``injected_percent``, and what each way of measuring it found.
    trusted : bool
        Whether chance leaves room for candidates and a change of volume, which are not sought where it does not.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        Ready for JSON. ``slope`` is that of found by injected growth through the origin, in logarithms of the ratios of
        volumes, over all painted lesions that were found at both visits, with a 95 % interval by bootstrap over them;
        None where fewer than three were. ``candidates`` are those of the lesions that expand by EXPANDING_PERCENT a
        year or more (found by painted), ``false_candidates`` those of all lesions that do not expand by GROW_PERCENT.

    Examples
    --------
    >>> rows = [
    ...     PaintedChange(k, "expanding", 250, 250, "stable", 250, 250, grown, grown + 1, grown > 30)
    ...     for k, grown in enumerate([15.0, 25.0, 40.0])
    ... ]
    >>> told = summarise_expansion(rows, [False, True], brain={"injected_percent": -1.0}, trusted=True, seed=0)
    >>> round(told["slope"]["value"], 2), told["candidates"]["found"], told["candidates"]["painted"]
    (1.03, 1, 2)
    >>> told["false_candidates"]
    {'lesions': 2, 'candidates': 1}
    """
    measured = [
        (float(np.log1p(row.expansion_percent / 100)), float(np.log1p(row.found_expansion_percent / 100)))
        for row in painted
        if row.change == EXPANDING and row.expansion_percent is not None and row.found_expansion_percent is not None
    ]
    slope: dict[str, float | None] = {"value": None, "low": None, "high": None}
    if len(measured) >= 3:
        pairs = np.array(measured)
        drawn = pairs[np.random.default_rng(seed).integers(len(pairs), size=(REPEATS, len(pairs)))]
        slopes = (drawn[..., 0] * drawn[..., 1]).sum(axis=1) / (drawn[..., 0] ** 2).sum(axis=1)
        figures = [np.dot(pairs[:, 0], pairs[:, 1]) / np.dot(pairs[:, 0], pairs[:, 0])]
        figures += np.percentile(slopes, [2.5, 97.5]).tolist()
        slope = dict(zip(slope, (round(float(figure), 3) for figure in figures), strict=True))
    expanding = [
        row for row in painted if row.change == EXPANDING and (row.expansion_percent or 0) >= EXPANDING_PERCENT
    ]
    still = [
        *own_candidates,
        *(
            row.found_sel_candidate
            for row in painted
            if row.change == "stable"
            and row.found_sel_candidate is not None
            and (row.expansion_percent or 0.0) < GROW_PERCENT
        ),
    ]
    return {
        "trusted": trusted,
        "painted": sum(row.change == EXPANDING for row in painted),
        "measured": len(measured),
        "slope": slope,
        "candidates": share_found(sum(bool(row.found_sel_candidate) for row in expanding), len(expanding)),
        "false_candidates": {"lesions": len(still), "candidates": sum(still)},
        "brain_volume": {name: None if value is None else round(value, 3) for name, value in brain.items()},
    }
