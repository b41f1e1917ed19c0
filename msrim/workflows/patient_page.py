"""The page and the table of one patient: the results of all visits, their rims and comparisons, by lesion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from os.path import relpath
from pathlib import Path

import numpy as np

from msrim.bids import (
    COMPARED_VISIT,
    CORRECTED_FOLDER,
    PATIENT,
    RIM_FOLDER,
    Subject,
    patient_file,
    patient_page,
    write_dataset_description,
)
from msrim.console import Console
from msrim.errors import MsrimError, OutputError
from msrim.files import read_tsv, write_json
from msrim.image import same_grid
from msrim.lesions.chain import ChainedLesion, chain_lesions
from msrim.lesions.join import find_owners, join_lesions, joined_columns, write_joined_tsv
from msrim.lesions.measure import Lesion
from msrim.lesions.track import TrackedLesion, counts_in_words
from msrim.report.patient import PairOnPage, PatientReport, VisitOnPage, is_own_page, write_patient_page
from msrim.results import (
    Comparison,
    RimClassification,
    Segmentation,
    comparison_of,
    doubts_of,
    read_json,
    rims_of,
    segmentation_of,
)
from msrim.workflows.anatomy import read_own
from msrim.workflows.cohort.tasks import Visit, in_order
from msrim.workflows.correction import is_corrected
from msrim.workflows.rims import rims_text
from msrim.workflows.segment import lesions_text


@dataclass(frozen=True)
class Results:
    """Results of a visit: its files, and the rows of its table, with rims where these are of the same lesions."""

    files: Segmentation
    rows: list[Lesion]
    rims: RimClassification | None = None
    rims_in_rows: bool = False


@dataclass(frozen=True)
class Pair:
    """Two visits that were compared: their files, and the rows of the table."""

    visits: tuple[Visit, Visit]
    files: Comparison
    rows: list[TrackedLesion]


def check_patient_page(visit: Visit, out: Path) -> None:
    """Refuse to write a patient's page over one that msrim has not written."""
    page = patient_page(visit.named(), out)
    if page.exists() and not is_own_page(page):
        raise OutputError(f"{page}: not written by msrim; choose another output folder")


def write_pages(visits: Sequence[Visit], out: Path, *, console: Console) -> None:
    """The page of every patient of whom there are results; what keeps one from being written stops no other."""
    for _, own in groupby(visits, key=lambda visit: visit.participant):
        try:
            summarise_patient(list(own), out)
        except MsrimError as error:
            console.note(str(error))


def summarise_patient(visits: Sequence[Visit], out: Path) -> PatientReport | None:
    """Join the tables of a patient's visits, and write that table and the page that leads to all others.

    Parameters
    ----------
    visits : sequence of Visit
        Of one patient. Those without results are listed with the reason; others of the patient whose results lie in
        ``out`` are taken as well.
    out : Path
        Folder of the derivative dataset.

    Returns
    -------
    PatientReport or None
        Content of the page; None, and nothing is written, where no visit has results.

    Raises
    ------
    MsrimError
        A result is damaged, or the folder cannot be written to.
    """
    patient, given = Subject(visits[0].participant, None, {}), {visit.name for visit in visits}
    every = in_order([*visits, *(visit for visit in _visits_in(patient, out) if visit.name not in given)])
    done = {visit.name: _results_of(visit, out) for visit in every if _is_segmented(visit, out)}
    if not done:
        return None
    pairs = _compared(every, out) if len(done) == len(every) else []
    chain, owners = _chained(list(done.values()), pairs)
    rows = join_lesions(
        [found.rows for found in done.values()], chain=chain, pairs=[pair.rows for pair in pairs], owners=owners
    )
    names, rims, compared = list(done), [found.rims_in_rows for found in done.values()], bool(pairs)
    path = patient_file(patient, out, PATIENT["table"])
    table = write_joined_tsv(rows, path, visits=names, rims=rims, compared=compared)
    write_json(
        joined_columns(names, rims=rims, compared=compared), patient_file(patient, out, PATIENT["table_columns"])
    )
    page = patient_page(patient, out)
    own = [visit.results(out) for visit in every]
    own += [folder / CORRECTED_FOLDER for folder in own]
    folders = [folder for each in own for folder in (each, each / RIM_FOLDER)]
    folders += [pair.files.folder for pair in pairs]
    report = PatientReport(
        subject=f"sub-{patient.label}",
        headline=_headline(done, pairs),
        visits=[_visit_on_page(visit, done.get(visit.name), page.parent) for visit in every],
        pairs=[_pair_on_page(pair, page.parent) for pair in pairs],
        rows=rows,
        table=relpath(table, page.parent),
        page=page,
        doubts=doubts_of(*folders),
        failures=_failures(patient, out),
    )
    write_patient_page(report)
    write_dataset_description(out)
    return report


def _visits_in(patient: Subject, out: Path) -> list[Visit]:
    """Visits of a patient whose lesions are in the results."""
    folder = patient.folder(out)
    names = [path.name.removeprefix("ses-") for path in folder.glob("ses-*") if "_to_" not in path.name]
    visits = [Visit(patient.label, session, folder) for session in (None, *names)]
    return [
        replace(visit, folder=Path(read_json(visit.results(out) / "run.json")["inputs"]["FLAIR"]["path"]).parent)
        for visit in visits
        if _is_segmented(visit, out)
    ]


def _is_segmented(visit: Visit, out: Path) -> bool:
    files = _lesions_of(visit, out)
    return files.table.is_file() and (files.folder / "run.json").is_file()


def _lesions_of(visit: Visit, out: Path) -> Segmentation:
    """The corrected lesions, where they were measured, or else those that were found."""
    return segmentation_of(visit.named(), out, corrected=is_corrected(visit.named(), out))


def _results_of(visit: Visit, out: Path) -> Results:
    files, rims = _lesions_of(visit, out), rims_of(visit.named(), out, corrected=is_corrected(visit.named(), out))
    rows = read_tsv(files.table, Lesion)
    if not (rims.folder / "run.json").is_file():
        return Results(files, rows)
    # `rim-classify --lesions` judges lesions of the user's own.
    judged = {row.id: row for row in read_tsv(rims.table, Lesion)}
    same = _same_image(files.instances, rims.instances)
    if same:
        rows = [replace(row, rim_probability=judged[row.id].rim_probability, rim=judged[row.id].rim) for row in rows]
    return Results(files, rows, rims, same)


def _same_image(one: Path, other: Path) -> bool:
    volumes = read_own(one), read_own(other)
    return same_grid(*volumes) and np.array_equal(volumes[0].data, volumes[1].data)


def _compared(visits: Sequence[Visit], out: Path) -> list[Pair]:
    """Every visit with the next; none unless all of them were compared."""
    pairs = []
    corrected = any(is_corrected(visit.named(), out) for visit in visits)
    for one, other in pairwise(visits):
        files = comparison_of(one.named(), other.named(), out, corrected=corrected)
        if not (files.folder / "run.json").is_file():
            return []
        pairs.append(Pair((one, other), files, read_tsv(files.table, TrackedLesion)))
    return pairs


def _chained(results: Sequence[Results], pairs: Sequence[Pair]) -> tuple[list[ChainedLesion], list[dict[int, int]]]:
    """The lesions through all visits, and which of them each lesion of each visit belongs to."""
    if not pairs:
        return [], []
    maps = [
        tuple(read_own(visit.named().below(pair.files.folder, COMPARED_VISIT["instances"])) for visit in pair.visits)
        for pair in pairs
    ]
    chain = chain_lesions([pair.rows for pair in pairs], [(one[1], other[0]) for one, other in pairwise(maps)])
    owners = []
    for index, each in enumerate(results):
        compared = []
        for step, side in ((index - 1, 1), (index, 0)):
            if 0 <= step < len(pairs):
                numbers = {row.id: (row.baseline_ids, row.followup_ids)[side] for row in pairs[step].rows}
                compared.append(
                    (maps[step][side], [[n for row in lesion.rows[step] for n in numbers[row]] for lesion in chain])
                )
        owners.append(find_owners(read_own(each.files.instances), compared, chain=chain))
    return chain, owners


def _headline(done: Mapping[str, Results], pairs: Sequence[Pair]) -> str:
    """The last visit's lesions, what became of them, and rims, in one line."""
    name, last = list(done.items())[-1]
    text = lesions_text(last.files.summary) + (f" at {name}" if name else "")
    if by_hand := [name for name, found in done.items() if "corrected" in found.files.summary]:
        text += f" (corrected by hand: {', '.join(by_hand)})" if name else " (corrected by hand)"
    if pairs:
        text += f"; {_changes_text(pairs[-1], last.files.summary['lesions'])}"
    for name, found in done.items():
        if found.rims is not None:
            text += f"; {rims_text(found.rims.summary)}" + (f" at {name}" if name else "")
    return text


def _changes_text(pair: Pair, found: int) -> str:
    """What became of lesions since the visit before; where the comparison counts others than the visit, how many."""
    before, summary = pair.visits[0].name, pair.files.summary
    compared = {"lesions": sum(bool(row.followup_ids) for row in pair.rows), "volume_mm3": summary["followup_mm3"]}
    became = counts_in_words(summary["lesions"])
    if compared["lesions"] == found:
        return f"since {before}: {became}"
    return f"compared with {before} as {lesions_text(compared)} (one grid, overlapping lesions as one): {became}"


def _visit_on_page(visit: Visit, found: Results | None, folder: Path) -> VisitOnPage:
    if found is None:
        return VisitOnPage(visit.name)
    summary, rims = found.files.summary, found.rims
    return VisitOnPage(
        visit.name,
        report=relpath(found.files.report, folder),
        lesions=summary["lesions"],
        volume_mm3=summary["volume_mm3"],
        regions_met=len(summary["regions_met"]),
        rim_report=None if rims is None else relpath(rims.report, folder),
        rims=None if rims is None else rims.summary["rim_lesions"],
        not_judged=None if rims is None else rims.summary["rim_not_judged"],
        rims_in_rows=found.rims_in_rows,
    )


def _pair_on_page(pair: Pair, folder: Path) -> PairOnPage:
    one, other = pair.visits
    return PairOnPage(one.name, other.name, pair.files.summary, relpath(pair.files.report, folder))


def _failures(patient: Subject, out: Path) -> list[str]:
    """Failed tasks, with the reason that each has left."""
    reasons = sorted((out / "logs").glob(f"sub-{patient.label}_*.json"))
    return [f"{path.stem}: {read_json(path)['reason']}" for path in reasons]
