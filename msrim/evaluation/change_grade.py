"""How well changes between two visits are found, by changes that were painted into a pair made of the baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from msrim.evaluation.grade import share_found

# What is painted; the patient's own lesions are stable by construction as well.
PAINTED_CHANGES = ("new", "vanished", "enlarging", "shrinking", "stable")

# What *_desc-grade.json of a pair says about the columns of *_desc-grade.tsv, in their order.
CHANGE_GRADE_COLUMNS = {
    "id": {"Description": "Number of the painted lesion"},
    "change": {"Description": "What was painted: the lesion's change, as in the table of changes"},
    "baseline_mm3": {"Description": "Volume that was painted at baseline", "Units": "mm3"},
    "followup_mm3": {"Description": "Volume that was painted at follow-up", "Units": "mm3"},
    "found_change": {"Description": "What the lesion there was said to do; n/a where none was found"},
    "found_baseline_mm3": {"Description": "Volume of that lesion at baseline", "Units": "mm3"},
    "found_followup_mm3": {"Description": "Volume of that lesion at follow-up", "Units": "mm3"},
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
