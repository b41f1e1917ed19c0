"""Follow every lesion from one visit to the next.

Everything here is fair to both visits: swapping them turns new into vanished, enlarging into shrinking and merged into
split, lesion by lesion, and changes neither the rows' order nor their numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from msrim.files import write_tsv
from msrim.image import Volume, same_grid
from msrim.lesions.measure import Lesion
from msrim.lesions.split import largest_first

CHANGES = ("new", "enlarging", "stable", "shrinking", "vanished", "merged", "split")
# A lesion of 3 mm, the smallest that counts, is 14 mm3; less than that is not called a change.
MIN_CHANGE_MM3 = 10.0
MIN_CHANGE_SHARE = 0.15
# Changes whose new tissue counts as new lesion: that of lesions that are called new, or larger than they were.
GROWING = ("new", "enlarging", "merged", "split")

# Descriptions of the columns of *_desc-changes.tsv, in their order, for *_desc-changes.json.
CHANGE_COLUMNS = {
    "id": {"Description": "Number of the lesion through both visits, by its volume at both"},
    "change": {
        "Description": "Change of the lesion",
        "Levels": {
            "new": "At follow-up only",
            "enlarging": f"Grown by {MIN_CHANGE_MM3:g} mm3 and {MIN_CHANGE_SHARE:.0%} of its mean volume or more",
            "stable": "Neither grown nor shrunk so much",
            "shrinking": "Shrunk by so much",
            "vanished": "At baseline only",
            "merged": "More lesions at baseline than at follow-up, fragments below that size not counted",
            "split": "More lesions at follow-up than at baseline, fragments below that size not counted",
        },
    },
    "baseline_ids": {
        "Description": "Numbers in the baseline's instance map, comma-separated; n/a where there are none"
    },
    "followup_ids": {"Description": "The same at follow-up"},
    "baseline_mm3": {"Description": "Volume at baseline on the midway grid, comparable", "Units": "mm3"},
    "followup_mm3": {"Description": "Volume at follow-up on the midway grid, comparable", "Units": "mm3"},
    "change_mm3": {"Description": "Volume at follow-up minus volume at baseline", "Units": "mm3"},
    "new_mm3": {"Description": "Tissue that is lesion at follow-up alone", "Units": "mm3"},
    "vanished_mm3": {"Description": "Tissue that was lesion at baseline alone", "Units": "mm3"},
    "expansion_percent": {
        "Description": "Growth of the lesion's place by the deformation between the visits; n/a where not measured",
        "Units": "percent",
    },
    "expansion_error_percent": {
        "Description": "Standard deviation of what chance gives as large a ball of white matter without lesions",
        "Units": "percent",
    },
    "expansion_percent_per_year": {
        "Description": "The same in a year; n/a where the time between the visits is not known",
        "Units": "percent per year",
    },
    "sel_candidate": {
        "Description": "Whether a part of the lesion expands as slowly expanding lesions do (Elliott et al. 2019)"
    },
    "concentricity": {
        "Description": "Rank correlation of expansion with depth in the lesion; n/a where it is no candidate"
    },
    "rim_probability": {
        "Description": "Probability of a paramagnetic rim, the higher of both visits; n/a where rims were not assessed"
    },
}
# Of them, what only `--expansion` measures.
EXPANSION_COLUMNS = (
    "expansion_percent",
    "expansion_error_percent",
    "expansion_percent_per_year",
    "sel_candidate",
    "concentricity",
)


@dataclass(frozen=True)
class TrackedLesion:
    """One lesion through two visits; its fields are the columns, described in CHANGE_COLUMNS."""

    id: int
    change: str
    baseline_ids: tuple[int, ...]
    followup_ids: tuple[int, ...]
    baseline_mm3: float
    followup_mm3: float
    change_mm3: float
    new_mm3: float
    vanished_mm3: float
    expansion_percent: float | None = None
    expansion_error_percent: float | None = None
    expansion_percent_per_year: float | None = None
    sel_candidate: bool | None = None
    concentricity: float | None = None
    rim_probability: float | None = None


def track_lesions(baseline: Volume, followup: Volume) -> list[TrackedLesion]:
    """Match the lesions of two visits by overlap.

    Lesions that share a voxel are one, together with whatever else shares a voxel with either.

    Parameters
    ----------
    baseline, followup : Volume of int
        0 outside lesions, their numbers inside, on one grid.

    Returns
    -------
    list of TrackedLesion
        By descending volume, baseline's and follow-up's added up.

    Raises
    ------
    ValueError
        The grids differ.

    Examples
    --------
    >>> before = Volume(np.array([[[1, 1, 0, 0, 0, 2]]]), np.diag([3.0, 3.0, 3.0, 1.0]))
    >>> after = before.like(np.array([[[1, 1, 1, 0, 0, 0]]]))
    >>> [(lesion.change, lesion.change_mm3) for lesion in track_lesions(before, after)]
    [('enlarging', 27.0), ('vanished', -27.0)]
    """
    if not same_grid(baseline, followup):
        raise ValueError(
            f"lesions on different grids, {baseline.shape} and {followup.shape}; resample one to the other"
        )
    voxels = np.flatnonzero((baseline.data > 0) | (followup.data > 0))
    before, after = baseline.data.ravel()[voxels].astype(int), followup.data.ravel()[voxels].astype(int)
    group_before, group_after, count = _groups(before, after)
    # A voxel belongs to one group, whichever visit it is asked of.
    group = np.where(before > 0, group_before[before], group_after[after])
    unit = baseline.voxel_volume_mm3
    parts = {"before": before > 0, "after": after > 0, "new": before == 0, "vanished": after == 0}
    mm3 = {name: np.bincount(group[where], minlength=count) * unit for name, where in parts.items()}
    first_voxel = np.full(count, voxels.size)
    np.minimum.at(first_voxel, group, np.arange(voxels.size))
    order = np.lexsort((first_voxel, -(mm3["before"] + mm3["after"])))
    before_mm3, after_mm3 = np.bincount(before) * unit, np.bincount(after) * unit
    numbers_before, numbers_after = np.unique(before[before > 0]), np.unique(after[after > 0])
    rows = []
    for number, index in enumerate(order, start=1):
        before_ids = tuple(numbers_before[group_before[numbers_before] == index].tolist())
        after_ids = tuple(numbers_after[group_after[numbers_after] == index].tolist())
        volumes = (round(float(mm3["before"][index]), 3), round(float(mm3["after"][index]), 3))
        counts = (_substantial(before_mm3[list(before_ids)]), _substantial(after_mm3[list(after_ids)]))
        rows.append(
            TrackedLesion(
                number,
                change_of(*counts, *volumes),
                before_ids,
                after_ids,
                *volumes,
                round(volumes[1] - volumes[0], 3),
                round(float(mm3["new"][index]), 3),
                round(float(mm3["vanished"][index]), 3),
            )
        )
    return rows


def lesions_of_visit(parts: Volume, mask: Volume, *, min_mm3: float) -> Volume:
    """Number the lesions of one visit.

    Parameters
    ----------
    parts : Volume of int
        The lesions of both visits together, those grown into one another apart: two visits cut in one way, so that a
        cut never looks like a change.
    mask : Volume of bool
        The lesions of this visit.
    min_mm3 : float
        Smaller pieces are left out.

    Returns
    -------
    Volume of int32
        1..n by descending volume: the pieces that each part is in at this visit.

    Examples
    --------
    >>> parts = Volume(np.array([[[1, 1, 1, 2, 2]]]), np.eye(4))
    >>> lesions_of_visit(parts, parts.like(np.array([[[True, False, True, True, True]]])), min_mm3=1).data.tolist()
    [[[2, 0, 3, 1, 1]]]
    """
    pieces = cc3d.connected_components(np.where(mask.data, parts.data, 0), connectivity=26)
    # The product of edges in a header's float32 may put a lesion of just the minimum below it.
    return parts.like(largest_first(pieces, min_voxels=(min_mm3 - 1e-3) / parts.voxel_volume_mm3))


def change_of(baseline_count: int, followup_count: int, baseline_mm3: float, followup_mm3: float) -> str:
    """One of CHANGES, from the number of lesions at each visit that are the same, and their volume.

    Examples
    --------
    >>> change_of(1, 1, 100.0, 120.0), change_of(1, 1, 100.0, 110.0), change_of(2, 1, 100.0, 110.0)
    ('enlarging', 'stable', 'merged')
    """
    if not baseline_count:
        return "new"
    if not followup_count:
        return "vanished"
    if baseline_count != followup_count:
        return "merged" if baseline_count > followup_count else "split"
    change = followup_mm3 - baseline_mm3
    if abs(change) < max(MIN_CHANGE_MM3, MIN_CHANGE_SHARE * (baseline_mm3 + followup_mm3) / 2):
        return "stable"
    return "enlarging" if change > 0 else "shrinking"


def swapped_change(change: str) -> str:
    """Name of a change with the visits exchanged.

    Examples
    --------
    >>> swapped_change("new"), swapped_change("merged"), swapped_change("stable")
    ('vanished', 'split', 'stable')
    """
    pairs = {"new": "vanished", "enlarging": "shrinking", "merged": "split"}
    return (pairs | {value: key for key, value in pairs.items()}).get(change, change)


def changed_parts(
    rows: Sequence[TrackedLesion], instances: tuple[Volume, Volume], *, new: Volume, vanished: Volume
) -> tuple[Volume, Volume]:
    """The changed parts of each visit's lesions: vanished tissue of those that shrink, new tissue of those that grow.

    Parameters
    ----------
    rows : sequence of TrackedLesion
    instances : (Volume, Volume) of int
        Lesions of baseline and follow-up on one grid.
    new, vanished : Volume of bool
        Changed tissue.

    Returns
    -------
    (Volume, Volume) of int
        Of baseline and follow-up: the number of the lesion that a changed voxel is part of, 0 elsewhere.
    """
    baseline, followup = instances
    shrinking = [number for row in rows if swapped_change(row.change) in GROWING for number in row.baseline_ids]
    growing = [number for row in rows if row.change in GROWING for number in row.followup_ids]
    return (
        baseline.like(np.where(vanished.data & np.isin(baseline.data, shrinking), baseline.data, 0)),
        followup.like(np.where(new.data & np.isin(followup.data, growing), followup.data, 0)),
    )


def numbered_as_rows(rows: Sequence[TrackedLesion], instances: tuple[Volume, Volume]) -> Volume:
    """The lesions of both visits in one map, numbered as the rows are; parameters as :func:`changed_parts`."""
    tracked = np.zeros(instances[0].shape, np.int32)
    for volume, ids in zip(instances, ("baseline_ids", "followup_ids"), strict=True):
        row_of = np.zeros(int(volume.data.max()) + 1, np.int32)
        for row in rows:
            row_of[list(getattr(row, ids))] = row.id
        tracked = np.maximum(tracked, row_of[volume.data])
    return instances[0].like(tracked)


def with_change(lesion: Lesion, rows: Sequence[TrackedLesion], visit: str) -> Lesion:
    """A row of a visit's own table with its change and the number of its match.

    Parameters
    ----------
    lesion : Lesion
    rows : sequence of TrackedLesion
    visit : str
        "baseline" or "followup". Of several matches at the other visit the largest is named; it has the lowest number.
    """
    own, other = ("baseline_ids", "followup_ids") if visit == "baseline" else ("followup_ids", "baseline_ids")
    row = next(row for row in rows if lesion.id in getattr(row, own))
    return replace(lesion, change=row.change, matched_id=min(getattr(row, other), default=None))


def summarise_changes(lesions: Sequence[TrackedLesion]) -> dict[str, Any]:
    """Count and total the rows of a change table.

    Returns
    -------
    dict
        Ready for JSON: ``lesions`` by change, volumes in mm3 at both visits, their difference, tissue new and vanished.

    Examples
    --------
    >>> summarise_changes([])["lesions"]["new"]
    0
    """
    totals = {
        name: round(float(sum(getattr(lesion, name) for lesion in lesions)), 3)
        for name in ("baseline_mm3", "followup_mm3", "change_mm3", "new_mm3", "vanished_mm3")
    }
    counts = {change: sum(lesion.change == change for lesion in lesions) for change in CHANGES}
    return {"lesions": counts, **totals, "use": "research use only"}


def counts_in_words(counts: Mapping[str, int]) -> str:
    """How many lesions became what, in one line.

    Examples
    --------
    >>> counts_in_words({"new": 2, "enlarging": 0, "stable": 1}), counts_in_words({"new": 0})
    ('2 new, 1 stable', 'no lesion at either visit')
    """
    return ", ".join(f"{count} {change}" for change, count in counts.items() if count) or "no lesion at either visit"


def write_changes_tsv(lesions: Sequence[TrackedLesion], path: Path) -> Path:
    """Write the table: tab-separated, "n/a" where a visit has no lesion, a header alone for no lesion at all."""
    rows = [[f"{value:.3f}" if isinstance(value, float) else value for value in astuple(row)] for row in lesions]
    return write_tsv(rows, path, columns=CHANGE_COLUMNS)


def _substantial(volumes_mm3: np.ndarray) -> int:
    """How many of the pieces of a lesion count: a fragment below the size limit doesn't make it two."""
    least = max(MIN_CHANGE_MM3, MIN_CHANGE_SHARE * volumes_mm3.sum())
    return max(int(np.count_nonzero(volumes_mm3 >= least)), min(volumes_mm3.size, 1))


def _groups(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Group of every number at each visit, and how many groups there are."""
    split = int(before.max(initial=0)) + 1
    both = (before > 0) & (after > 0)
    present = np.unique(np.concatenate([before[before > 0], split + after[after > 0]]))
    edges = np.stack([before[both], split + after[both]], axis=1)
    count, component = _components(np.searchsorted(present, edges), size=present.size)
    group = np.zeros(split + int(after.max(initial=0)) + 1, int)
    group[present] = component
    return group[:split], group[split:], count


def _components(edges: np.ndarray, *, size: int) -> tuple[int, np.ndarray]:
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(size, size))
    return connected_components(graph, directed=False)
