"""One row per lesion of a patient, from the tables of visits, rims and comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from msrim.files import write_tsv
from msrim.image import Volume
from msrim.lesions.chain import ChainedLesion
from msrim.lesions.measure import Lesion
from msrim.lesions.track import TrackedLesion


@dataclass(frozen=True)
class SeenAt:
    """A lesion at one visit.

    Attributes
    ----------
    ids : tuple of int
        Its numbers in the visit's own table; none where the visit's own mask does not have it, several where that
        counts parts of it as lesions.
    volume_mm3 : float or None
        Of all of them.
    rim_probability : float or None
        The highest among them; None where rims were not assessed.
    rim : bool or None
    """

    ids: tuple[int, ...] = ()
    volume_mm3: float | None = None
    rim_probability: float | None = None
    rim: bool | None = None


@dataclass(frozen=True)
class Became:
    """A lesion from one visit to the next: its change, volume afterwards minus before, rows of the pair's table."""

    change: str | None = None
    change_mm3: float | None = None
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class JoinedLesion:
    """One lesion of a patient: where it lies, at each visit, and from each visit to the next."""

    id: int
    region: str | None
    visits: tuple[SeenAt, ...]
    steps: tuple[Became, ...]


def join_lesions(
    tables: Sequence[Sequence[Lesion]],
    *,
    chain: Sequence[ChainedLesion] = (),
    pairs: Sequence[Sequence[TrackedLesion]] = (),
    owners: Sequence[Mapping[int, int]] = (),
) -> list[JoinedLesion]:
    """Join the tables of a patient's visits.

    Every row of a visit's table is in exactly one row, so that the volumes of a visit add up to its total.

    Parameters
    ----------
    tables : sequence of sequences of Lesion
        Of each visit, with rims where they were assessed.
    chain : sequence of ChainedLesion
        Changes of the lesions through all visits; empty where visits were not compared.
    pairs : sequence of sequences of TrackedLesion
        Tables that the chain joins.
    owners : sequence of dict of int to int
        Of each visit, of :func:`find_owners`.

    Returns
    -------
    list of JoinedLesion
        In the order of the chain; then those that no comparison has, by visit.

    Examples
    --------
    >>> found = Lesion(1, 20.0, 0, 0, 0, 3.0, "juxtacortical", 9.0, 0.0, 0.9, rim_probability=0.7, rim=True)
    >>> [row] = join_lesions([[found]])
    >>> row.region, row.visits[0].volume_mm3, row.visits[0].rim
    ('juxtacortical', 20.0, True)
    """
    members: dict[tuple[int, int], list[list[Lesion]]] = {}
    for through in chain:
        members[0, through.id] = [[] for _ in tables]
    for visit, table in enumerate(tables):
        for lesion in table:
            owner = owners[visit].get(lesion.id) if owners else None
            place = (visit + 1, lesion.id) if owner is None else (0, owner)
            members.setdefault(place, [[] for _ in tables])[visit].append(lesion)
    by_row = [{row.id: row for row in pair} for pair in pairs]
    chained = {through.id: through for through in chain}
    joined = []
    for number, ((alone, key), parts) in enumerate(members.items(), start=1):
        steps = tuple(Became() for _ in pairs)
        if not alone and chained:
            own = chained[key]
            steps = tuple(
                Became(change, _total([by_row[step][row].change_mm3 for row in rows]), rows)
                for step, (change, rows) in enumerate(zip(own.changes, own.rows, strict=True))
            )
        joined.append(JoinedLesion(number, _region(parts), tuple(map(_seen, parts)), steps))
    return joined


def find_owners(
    instances: Volume, compared: Sequence[tuple[Volume, Sequence[Sequence[int]]]], *, chain: Sequence[ChainedLesion]
) -> dict[int, int]:
    """Which lesion of the chain each lesion of a visit belongs to: the one that it shares most voxels with.

    Parameters
    ----------
    instances : Volume of int
        The visit's own lesions.
    compared : sequence of (Volume of int, sequence of sequences of int)
        The visit's lesions as a comparison numbers them, on the same grid, and for each lesion of the chain its
        numbers there.
    chain : sequence of ChainedLesion

    Returns
    -------
    dict of int to int
        Number of the chain's lesion by the visit's number; without those that share no voxel with any.
    """
    inside = instances.data > 0
    own = instances.data[inside].astype(int)
    votes = np.zeros((own.max(initial=0) + 1, len(chain)), int)
    for other, numbers in compared:
        row_of = np.full(int(other.data.max(initial=0)) + 1, -1)
        for row, of_lesion in enumerate(numbers):
            row_of[list(of_lesion)] = row
        row = row_of[other.data[inside].astype(int)]
        np.add.at(votes, (own[row >= 0], row[row >= 0]), 1)
    return {int(number): chain[votes[number].argmax()].id for number in np.unique(own) if votes[number].any()}


def joined_columns(visits: Sequence[str], *, rims: Sequence[bool], compared: bool) -> dict[str, dict[str, Any]]:
    """Columns of the patient's table, with their descriptions for its JSON file.

    Parameters
    ----------
    visits : sequence of str
        Names such as "ses-01"; one without a name is empty.
    rims : sequence of bool
        Whether the visit's rims were assessed.
    compared : bool
        Whether each visit was compared with the next.

    Examples
    --------
    >>> list(joined_columns([""], rims=[True], compared=False))
    ['id', 'region', 'ids', 'volume_mm3', 'rim_probability', 'rim']
    """
    columns: dict[str, dict[str, Any]] = {
        "id": {"Description": "Number of the lesion through all visits"},
        "region": {"Description": "Where it lies, at the last visit that has it; of several parts the largest"},
    }
    for visit, assessed in zip(visits, rims, strict=True):
        start = f"{visit}_" if visit else ""
        columns[f"{start}ids"] = {"Description": "Its numbers in that visit's own table and instance map"}
        columns[f"{start}volume_mm3"] = {"Description": "Volume in that visit's own table", "Units": "mm3"}
        if assessed:
            columns[f"{start}rim_probability"] = {"Description": "Probability of a rim, of parts the highest"}
            columns[f"{start}rim"] = {"Description": "Whether it has a paramagnetic rim"}
    for one, other in pairwise(visits) if compared else ():
        columns[f"{one}_to_{other}"] = {"Description": "Its change; see the table of that comparison"}
        columns[f"{one}_to_{other}_mm3"] = {
            "Description": "Volume afterwards minus before, both as the comparison has them on one grid",
            "Units": "mm3",
        }
    return columns


def write_joined_tsv(
    lesions: Sequence[JoinedLesion], path: Path, *, visits: Sequence[str], rims: Sequence[bool], compared: bool
) -> Path:
    """Write the table; parameters as those of :func:`joined_columns`."""
    rows = []
    for lesion in lesions:
        row: list[object] = [lesion.id, lesion.region]
        for seen, assessed in zip(lesion.visits, rims, strict=True):
            row += [seen.ids, _fixed(seen.volume_mm3, 3)]
            row += [_fixed(seen.rim_probability, 4), seen.rim] if assessed else []
        for step in lesion.steps:
            row += [step.change, _fixed(step.change_mm3, 3)]
        rows.append(row)
    return write_tsv(rows, path, columns=joined_columns(visits, rims=rims, compared=compared))


def _seen(parts: Sequence[Lesion]) -> SeenAt:
    if not parts:
        return SeenAt()
    judged = [part.rim_probability for part in parts if part.rim_probability is not None]
    rims = [part.rim for part in parts if part.rim is not None]
    return SeenAt(
        ids=tuple(part.id for part in parts),
        volume_mm3=_total([part.volume_mm3 for part in parts]),
        rim_probability=max(judged, default=None),
        rim=any(rims) if rims else None,
    )


def _region(parts: Sequence[Sequence[Lesion]]) -> str | None:
    seen = [visit for visit in parts if visit]
    return max(seen[-1], key=lambda lesion: lesion.volume_mm3).region if seen else None


def _total(volumes_mm3: Sequence[float]) -> float | None:
    return round(float(sum(volumes_mm3)), 3) if volumes_mm3 else None


def _fixed(value: float | None, decimals: int) -> str | None:
    return None if value is None else f"{value:.{decimals}f}"
