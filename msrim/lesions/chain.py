"""One table from those of consecutive pairs of visits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from msrim.files import write_tsv
from msrim.image import Volume
from msrim.lesions.expansion import constancy
from msrim.lesions.track import TrackedLesion, change_of


@dataclass(frozen=True)
class ChainedLesion:
    """One lesion through a chain of visits.

    Attributes
    ----------
    id : int
    volumes_mm3 : tuple of float
        At each visit; at one in the middle the mean of the pairs before and after it.
    changes : tuple of str
        From each visit to the next, one of CHANGES, or "absent" where neither of the two has the lesion.
    rows : tuple of tuple of int
        From each visit to the next, its rows in the pair's table.
    expansions : tuple of float or None
        Percent per year from each visit to the next; of several parts the mean, by their volumes.
    errors : tuple of float or None
        Of each expansion, percent per year: the deviation of what chance gives.
    """

    id: int
    volumes_mm3: tuple[float, ...]
    changes: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    expansions: tuple[float | None, ...] = ()
    errors: tuple[float | None, ...] = ()


def chain_lesions(
    pairs: Sequence[Sequence[TrackedLesion]],
    between: Sequence[tuple[Volume, Volume]],
    *,
    years: Sequence[float | None] | None = None,
) -> list[ChainedLesion]:
    """Join the tables of consecutive pairs of visits.

    Lesions are joined through the visit that both pairs share; one that vanished and comes back is two.

    Parameters
    ----------
    pairs : sequence of sequences of TrackedLesion
        Visits 1 and 2, 2 and 3, and so on.
    between : sequence of (Volume of int, Volume of int)
        For each visit in the middle, its lesions as numbered in the pair before and in the pair after, on its grid.
    years : sequence of float or None, optional
        Between the visits of each pair, for the errors of expansions.

    Returns
    -------
    list of ChainedLesion
        By descending volume over all visits.

    Examples
    --------
    >>> alone = Volume(np.ones((1, 1, 1), int), np.eye(4))
    >>> new = TrackedLesion(1, "new", (), (1,), 0.0, 20.0, 20.0, 20.0, 0.0)
    >>> grown = TrackedLesion(1, "enlarging", (1,), (1,), 20.0, 40.0, 20.0, 20.0, 0.0)
    >>> chain_lesions([[new], [grown]], [(alone, alone)])[0].changes
    ('new', 'enlarging')
    """
    offsets = np.cumsum([0, *map(len, pairs)])
    edges = []
    for k, (before, after) in enumerate(between):
        shared = (before.data > 0) & (after.data > 0)
        row_of_before = {number: row for row, lesion in enumerate(pairs[k]) for number in lesion.followup_ids}
        row_of_after = {number: row for row, lesion in enumerate(pairs[k + 1]) for number in lesion.baseline_ids}
        for one, other in np.unique(np.stack([before.data[shared], after.data[shared]]), axis=1).T.astype(int).tolist():
            edges.append((offsets[k] + row_of_before[one], offsets[k + 1] + row_of_after[other]))
    ends, size = np.array(edges, int).reshape(-1, 2).T, int(offsets[-1])
    count, chain = connected_components(coo_array((np.ones(len(edges)), ends), shape=(size, size)), directed=False)
    chains = []
    for index in range(count):
        members = [
            [lesion for lesion, at in zip(pair, chain[start:], strict=False) if at == index]
            for pair, start in zip(pairs, offsets, strict=False)
        ]
        first_mm3 = [sum(lesion.baseline_mm3 for lesion in pair) for pair in members]
        second_mm3 = [sum(lesion.followup_mm3 for lesion in pair) for pair in members]
        middle = [(one + other) / 2 for one, other in zip(second_mm3[:-1], first_mm3[1:], strict=True)]
        volumes = tuple(round(volume, 3) for volume in (first_mm3[0], *middle, second_mm3[-1]))
        changes = tuple(_joint_change(pair) for pair in members)
        ids = tuple(tuple(lesion.id for lesion in pair) for pair in members)
        rates = tuple(_mean_by_volume(pair, "expansion_percent_per_year") for pair in members)
        errors = tuple(
            None if rate is None else _error_per_year(pair, span)
            for pair, rate, span in zip(members, rates, years or [None] * len(pairs), strict=True)
        )
        chains.append((volumes, changes, ids, rates, errors))
    chains.sort(key=lambda row: -sum(row[0]))
    return [ChainedLesion(number, *row) for number, row in enumerate(chains, start=1)]


def write_chain_tsv(lesions: Sequence[ChainedLesion], path: Path, *, visits: Sequence[str]) -> Path:
    """Write one table for all visits: each one's volume; each step's change, expansion and its error; the constancy."""
    steps = [f"{one}_to_{other}" for one, other in pairwise(visits)]
    rows = [
        (
            row.id,
            *(f"{v:.3f}" for v in row.volumes_mm3),
            *row.changes,
            *(None if value is None else f"{value:.2f}" for value in (*row.expansions, *row.errors)),
            constancy(row.expansions),
        )
        for row in lesions
    ]
    measured = ("expansion_percent_per_year", "expansion_error_percent_per_year")
    expansions = [f"{step}_{name}" for name in measured for step in steps]
    columns = ["id", *(f"{visit}_mm3" for visit in visits), *steps, *expansions, "expansion_constancy"]
    return write_tsv(rows, path, columns=columns)


def _error_per_year(lesions: Sequence[TrackedLesion], years: float | None) -> float | None:
    """As if one chance moved all parts: at most so much."""
    error = _mean_by_volume(lesions, "expansion_error_percent")
    return None if error is None or years is None else round(error / years, 2)


def _mean_by_volume(lesions: Sequence[TrackedLesion], column: str) -> float | None:
    values = [(getattr(lesion, column), lesion.baseline_mm3 + lesion.followup_mm3) for lesion in lesions]
    known = [(value, weight) for value, weight in values if value is not None]
    if not known:
        return None
    return round(sum(value * weight for value, weight in known) / sum(weight for _, weight in known), 2)


def _joint_change(lesions: Sequence[TrackedLesion]) -> str:
    if not lesions:
        return "absent"
    if len(lesions) == 1:
        return lesions[0].change
    counts = [sum(len(getattr(lesion, name)) for lesion in lesions) for name in ("baseline_ids", "followup_ids")]
    volumes = [sum(getattr(lesion, name) for lesion in lesions) for name in ("baseline_mm3", "followup_mm3")]
    return change_of(*counts, *volumes)
