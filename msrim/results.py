"""Results of the functions of ``import msrim``: files by name, and their content, read on demand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msrim.bids import (
    ANATOMY,
    CORRECTED_FOLDER,
    LESIONS,
    NEW_AT_FOLLOWUP,
    PAIR,
    PATIENT,
    RIM_FOLDER,
    RIMS,
    VANISHED_AT_BASELINE,
    Subject,
    pair_folder,
    patient_file,
    patient_page,
)
from msrim.errors import OutputError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

# Columns that a plain reading of the tables would take for text or for decimals where a row has "n/a".
COLUMN_TYPES = {"rim": "boolean", "matched_id": "Int64", "change": "string", "ids": "string"}


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Files that every run leaves.

    Attributes
    ----------
    folder : Path
        Of the results.
    table : Path
        One row per lesion.
    summary_file : Path
        JSON file that ``summary`` is read from.
    report : Path
        HTML page.
    """

    folder: Path
    table: Path
    summary_file: Path
    report: Path

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Totals of the table, the model and its threshold."""
        return read_json(self.summary_file)

    @property
    def warnings(self) -> list[str]:
        """Remarks and warnings of the run, for example that a step fell back on another method."""
        return warnings_of(self.folder)


@dataclass(frozen=True, kw_only=True)
class Segmentation(RunResult):
    """Lesions of one visit; images lie on the grid of the FLAIR as it was given.

    Attributes
    ----------
    folder, table, summary_file, report : Path
        As in :class:`RunResult`; ``lesions`` is read from the table, the summary has numbers and volumes by region.
    mask, probability_map, instances : Path
        Lesion mask; probability of lesion, 0 to 1; 0 outside lesions and their numbers inside.
    brain, tissue : Path
        Brain mask; 1 CSF, 2 grey matter, 3 white matter.
    """

    mask: Path
    probability_map: Path
    instances: Path
    brain: Path
    tissue: Path

    @cached_property
    def lesions(self) -> pd.DataFrame:
        """One row per lesion, by its number; columns as in the table's JSON file."""
        return read_table(self.table)

    @property
    def probability(self) -> np.ndarray:
        """Probability of lesion: (X, Y, Z) float32, read anew each time."""
        from msrim.image import read_map

        return read_map(self.probability_map).data


@dataclass(frozen=True, kw_only=True)
class RimClassification(RunResult):
    """Rims of one visit; images lie on the grid that the lesions were given on, by default the FLAIR's.

    Attributes
    ----------
    folder, table, summary_file, report : Path
        As in :class:`RunResult`; ``lesions`` is read from the table, the summary counts lesions with a rim as well.
    rims, instances : Path
        Numbers of the lesions with a rim alone, and of all.
    """

    rims: Path
    instances: Path

    @cached_property
    def lesions(self) -> pd.DataFrame:
        """One row per lesion, by its number, with ``rim_probability`` and ``rim``."""
        return read_table(self.table)

    @property
    def probability(self) -> pd.Series:
        """Probability of a rim by the lesion's number, 0 to 1; missing where a lesion could not be judged."""
        return self.lesions["rim_probability"]


@dataclass(frozen=True, kw_only=True)
class Comparison(RunResult):
    """Changes between two visits.

    Attributes
    ----------
    folder, table, summary_file, report : Path
        As in :class:`RunResult`; ``changes`` is read from the table, the summary has numbers of lesions by change,
        volumes, and how well the two visits are registered.
    new, vanished : Path
        Masks: new tissue on the FLAIR of the later visit, vanished tissue on that of the earlier one.
    """

    new: Path
    vanished: Path

    @cached_property
    def changes(self) -> pd.DataFrame:
        """One row per lesion at either visit, with its change and its volumes."""
        return read_table(self.table)


@dataclass(frozen=True)
class Longitudinal:
    """Several visits of one patient.

    Attributes
    ----------
    visits : tuple of Segmentation
        In the order of time; empty where a model compares the images without segmenting each.
    pairs : tuple of Comparison
        From each visit to the next.
    new : Path
        Mask of new lesions and of what has grown, on the last visit's FLAIR.
    table : Path
        All visits in one; for two, that of the pair.
    """

    visits: tuple[Segmentation, ...]
    pairs: tuple[Comparison, ...]
    new: Path
    table: Path

    @cached_property
    def changes(self) -> pd.DataFrame:
        """One row per lesion through all visits."""
        return read_table(self.table)


@dataclass(frozen=True)
class Patient:
    """Everything of one patient.

    Attributes
    ----------
    page : Path
        Leads to all other pages.
    table : Path
        The file of ``lesions``.
    visits : tuple of Segmentation
        In the order of time.
    rims : tuple of RimClassification or None
        Of each visit; None where it has no QSM.
    pairs : tuple of Comparison
        From each visit to the next.
    """

    page: Path
    table: Path
    visits: tuple[Segmentation, ...]
    rims: tuple[RimClassification | None, ...]
    pairs: tuple[Comparison, ...]

    @cached_property
    def lesions(self) -> pd.DataFrame:
        """One row per lesion: region, and for each visit its numbers, volume, rim and change since the one before."""
        return read_table(self.table)


def read_table(path: Path) -> pd.DataFrame:
    r"""A table that msrim has written, with the first column, the lesion's number, as its index.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "table.tsv"
    ...     _ = path.write_text("id\tvolume_mm3\trim\n1\t20.5\ttrue\n2\t3.0\tn/a\n")
    ...     read_table(path)["rim"].fillna(False).tolist()
    [True, False]
    """
    import pandas as pd

    settings = {"sep": "\t", "na_values": ["n/a"], "keep_default_na": False}
    columns = pd.read_csv(path, nrows=0, **settings)
    # The joined table of a patient has columns for each visit: "ses-01_rim" is one of truth values as "rim" is.
    kinds = {name: COLUMN_TYPES.get(name, COLUMN_TYPES.get(name.rpartition("_")[2])) for name in columns}
    return pd.read_csv(path, index_col=0, dtype={name: kind for name, kind in kinds.items() if kind}, **settings)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that msrim has written.

    Raises
    ------
    OutputError
        It is gone or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: not as msrim has written it ({error}); remove it and run again") from error
    if not isinstance(content, dict):
        raise OutputError(f"{path}: not as msrim has written it; remove it and run again")
    return content


def warnings_of(folder: Path) -> list[str]:
    """Remarks and warnings of the run whose results a folder holds."""
    run = read_json(folder / "run.json")
    return [*run.get("warnings", []), *run["fallbacks"]]


def doubts_of(*folders: Path) -> list[str]:
    """Reasons to inspect the results in some folders before they are trusted; each reason once."""
    runs = [read_json(folder / "run.json") for folder in folders if (folder / "run.json").is_file()]
    found = [run.get("doubts", []) for run in runs]
    return list(dict.fromkeys(doubt for doubts in found for doubt in doubts))


def segmentation_of(visit: Subject, out: Path, *, mask: Path | None = None, corrected: bool = False) -> Segmentation:
    """Results of ``msrim segment`` for a visit in the dataset ``out``, found or corrected by hand."""
    out = out.absolute()
    found, anatomy = visit.outputs(out, LESIONS), visit.outputs(out, ANATOMY)
    folder = visit.folder(out) / CORRECTED_FOLDER if corrected else visit.folder(out)
    names = {key: visit.below(folder, suffix) for key, suffix in LESIONS.items()}
    return Segmentation(
        folder=folder,
        mask=mask or names["mask"],
        probability_map=found["probability"],
        instances=names["instances"],
        table=names["table"],
        summary_file=names["summary"],
        brain=anatomy["brain"],
        tissue=anatomy["tissue"],
        report=folder / "report.html",
    )


def rims_of(visit: Subject, out: Path, *, corrected: bool = False) -> RimClassification:
    """Results of ``msrim rim-classify`` for a visit in ``out``, of lesions found or corrected by hand."""
    folder = visit.folder(out.absolute())
    folder = (folder / CORRECTED_FOLDER if corrected else folder) / RIM_FOLDER
    names = {key: visit.below(folder, suffix) for key, suffix in RIMS.items()}
    return RimClassification(
        folder=folder,
        table=names["table"],
        summary_file=names["summary"],
        rims=names["rims"],
        instances=names["instances"],
        report=folder / "report.html",
    )


def patient_of(visits: Sequence[Subject], out: Path, *, corrected: Sequence[bool] = ()) -> Patient:
    """Results of ``msrim run`` for a patient's visits in the dataset ``out``.

    Parameters
    ----------
    visits : sequence of Subject
    out : Path
    corrected : sequence of bool, optional
        For each visit whether its lesions were corrected by hand; no visit's if not given.
    """
    out = out.absolute()
    by_hand = list(corrected) or [False] * len(visits)
    rims = [rims_of(visit, out, corrected=own) for visit, own in zip(visits, by_hand, strict=True)]
    return Patient(
        page=patient_page(visits[0], out),
        table=patient_file(visits[0], out, PATIENT["table"]),
        visits=tuple(segmentation_of(visit, out, corrected=own) for visit, own in zip(visits, by_hand, strict=True)),
        rims=tuple(each if each.table.is_file() else None for each in rims),
        pairs=tuple(comparison_of(one, other, out, corrected=any(by_hand)) for one, other in pairwise(visits)),
    )


def comparison_of(baseline: Subject, followup: Subject, out: Path, *, corrected: bool = False) -> Comparison:
    """Results of ``msrim longitudinal`` for two visits in ``out``, of lesions found or corrected by hand."""
    folder = pair_folder(baseline, followup, out.absolute(), corrected=corrected)
    patient = Subject(baseline.label, None, {})
    return Comparison(
        folder=folder,
        new=followup.below(folder, NEW_AT_FOLLOWUP["changed"]),
        vanished=baseline.below(folder, VANISHED_AT_BASELINE["changed"]),
        table=patient.below(folder, PAIR["changes"]),
        summary_file=patient.below(folder, PAIR["summary"]),
        report=folder / "report.html",
    )
