"""Tasks of a BIDS dataset: its visits, the tasks of each, and why a task has no result."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from msrim.bids import Subject, contrast_of, find_subject, image_folder, images_beside_sessions, images_in, is_qsm
from msrim.errors import InputError, Remark
from msrim.files import sha256_of, write_json
from msrim.results import read_json

# Why a folder of a cohort is left out.
MISNAMED = "no name of BIDS, which has letters and digits behind sub- and ses-; rename the folder"


@dataclass(frozen=True)
class Visit:
    """One visit as the dataset's folders name it.

    Attributes
    ----------
    participant : str
        Without ``sub-``.
    session : str or None
        Without ``ses-``.
    folder : Path
    """

    participant: str
    session: str | None
    folder: Path

    @property
    def name(self) -> str:
        """Such as "ses-01"; empty for a visit without a session."""
        return f"ses-{self.session}" if self.session else ""

    def subject(self) -> Subject:
        """Its images; errors as :func:`msrim.bids.find_subject`."""
        return replace(find_subject(self.folder), label=self.participant, session=self.session)

    def named(self) -> Subject:
        """Its name alone, without looking for images."""
        return Subject(self.participant, self.session, {})

    def results(self, out: Path) -> Path:
        """Folder of its results."""
        return self.named().folder(out)

    def has_qsm(self) -> bool:
        """Whether a susceptibility map belongs to it."""
        return any(is_qsm(image.name) for image in images_in(image_folder(self.folder)))


@dataclass(frozen=True)
class Task:
    """One workflow of one visit, or of all visits of a patient ("longitudinal", where session is None)."""

    step: str
    participant: str
    session: str | None

    @property
    def name(self) -> str:
        """As nodes and files are called.

        Examples
        --------
        >>> Task("segment", "12", "01").name
        'sub-12_ses-01_segment'
        """
        session = f"_ses-{self.session}" if self.session else ""
        return f"sub-{self.participant}{session}_{self.step}"

    def reason_file(self, out: Path) -> Path:
        """Holds the reason why this task has no result; absent where it has one."""
        return out / "logs" / f"{self.name}.json"


def find_cohort(
    bids: Path, *, participants: Sequence[str] = (), sessions: Sequence[str] = (), validate: bool = True
) -> list[Visit]:
    """Every visit of a BIDS dataset, by participant and in the order of time.

    Parameters
    ----------
    bids : Path
    participants, sessions : sequence of str
        Labels to take, with or without ``sub-`` and ``ses-``; all if empty.
    validate : bool
        Ask for ``dataset_description.json``; whether the images can be used is each visit's own matter.

    Returns
    -------
    list of Visit
        Also of folders whose names are no labels, see :func:`by_names`.

    Raises
    ------
    InputError
        Not a BIDS dataset, an empty one, or a label that it has not.
    """
    bids = Path(bids).absolute()
    if not bids.is_dir():
        raise InputError(f"{bids}: no such folder; give a BIDS dataset")
    if validate and not (bids / "dataset_description.json").is_file():
        raise InputError(
            f"{bids}: no dataset_description.json, so no BIDS dataset; add one or give --skip-bids-validation"
        )
    visits = []
    for folder in sorted(path for path in bids.glob("sub-*") if path.is_dir()):
        below = sorted(path for path in folder.glob("ses-*") if path.is_dir())
        label = folder.name.removeprefix("sub-")
        if below:
            _tell_beside(folder)
        visits += [Visit(label, path.name.removeprefix("ses-"), path) for path in below] or [Visit(label, None, folder)]
    if not visits:
        raise InputError(f"{bids}: no folder sub-*; give a BIDS dataset")
    for prefix, wanted, field in (("sub-", participants, "participant"), ("ses-", sessions, "session")):
        labels = [label.removeprefix(prefix) for label in wanted]
        for label in labels:
            if label not in {getattr(visit, field) for visit in visits}:
                raise InputError(f"{bids}: no {prefix}{label} among those chosen; correct the label or leave it out")
        visits = [visit for visit in visits if not labels or getattr(visit, field) in labels]
    by_patient = groupby(visits, key=lambda visit: visit.participant)
    return [visit for _, own in by_patient for visit in in_order(list(own))]


def by_names(visits: Sequence[Visit]) -> tuple[list[Visit], list[Visit]]:
    """Visits that can be processed, and those of folders such as ``sub-01_old``, by which no result can be called.

    Raises
    ------
    InputError
        None can.
    """
    label = re.compile("[A-Za-z0-9]+")
    misnamed = [visit for visit in visits if not label.fullmatch(visit.participant + (visit.session or ""))]
    if misnamed and len(misnamed) == len(visits):
        raise InputError(f"{misnamed[0].folder}: {MISNAMED}")
    return [visit for visit in visits if visit not in misnamed], misnamed


def tasks_of(visits: Sequence[Visit]) -> list[tuple[Task, list[Visit]]]:
    """Tasks of every patient in turn, each with its visits."""
    tasks = []
    for participant, group in groupby(visits, key=lambda visit: visit.participant):
        own = list(group)
        tasks += [(Task("segment", participant, visit.session), [visit]) for visit in own]
        tasks += [(Task("rims", participant, visit.session), [visit]) for visit in own if visit.has_qsm()]
        if len(own) > 1:
            tasks.append((Task("longitudinal", participant, None), own))
    return tasks


def copies_among(visits: Sequence[Visit]) -> list[str]:
    """Of visits whose FLAIRs are the same byte for byte, a sentence each: one patient under two names, or a mistake."""
    digests: dict[str, Path] = {}
    told = []
    for visit in visits:
        try:
            flair = visit.subject().contrasts["FLAIR"]
            first = digests.setdefault(sha256_of(flair), flair)
        except (InputError, OSError):
            # Told by whoever runs it.
            continue
        if first is not flair:
            told.append(f"{flair} is a copy of {first}, byte for byte")
    return told


def failure_reason(task: Task, out: Path) -> str | None:
    """Why there is no result of a task, on one line; None if there is one."""
    path = task.reason_file(out)
    return str(read_json(path).get("reason")) if path.is_file() else None


def record_failure(task: Task, out: Path, reason: str) -> None:
    """Leave the reason for :func:`failure_reason`."""
    write_json({"reason": " ".join(reason.split())}, task.reason_file(out))


def visits_below(path: Path) -> list[Visit]:
    """Visits of a patient's folder with ``ses-*`` folders, by name; or the one visit of any other folder.

    Sessions without a FLAIR are left out, with a :class:`msrim.errors.Remark`.

    Raises
    ------
    InputError
        No such folder, or no FLAIR in it.
    """
    try:
        if path.is_file():
            raise InputError(f"{path}: is a file, not a folder; give the patient's folder, or `msrim segment --flair`")
        sessions = sorted(child for child in path.glob("ses-*") if child.is_dir())
        patients = any(child.is_dir() for child in path.glob("sub-*"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path and its rights") from error
    if patients and not sessions:
        raise InputError(f"{path}: holds patients; give folders of some, or run `msrim cohort` over all")
    shown = [session for session in sessions if _shows_flair(session)]
    for session in sessions if shown else ():
        if session not in shown:
            warnings.warn(f"{session}: no FLAIR, so this visit is left out", Remark, stacklevel=2)
    if shown:
        _tell_beside(path)
    found = {folder: find_subject(folder) for folder in shown or sessions[:1] or [path]}
    return [Visit(subject.label, subject.session, folder) for folder, subject in found.items()]


def _tell_beside(patient: Path) -> None:
    for image in images_beside_sessions(patient):
        warnings.warn(f"{image}: in no session, so it is left out; move it into one", Remark, stacklevel=3)


def _shows_flair(folder: Path) -> bool:
    return any(contrast_of(image.name) == "FLAIR" for image in images_in(image_folder(folder)))


def in_order(visits: Sequence[Visit]) -> list[Visit]:
    """Visits of one patient by their dates where all are known, else by the names of the sessions.

    Examples
    --------
    >>> [visit.session for visit in in_order([Visit("1", name, Path()) for name in ("m12", "m0", "m6")])]
    ['m0', 'm6', 'm12']
    """
    by_name = sorted(visits, key=lambda visit: _natural(visit.session or ""))
    dates = [_date(visit) for visit in by_name]
    if not all(dates):
        return by_name
    return [visit for _, visit in sorted(zip(dates, by_name, strict=True), key=lambda dated: dated[0])]


def _natural(name: str) -> list[tuple[int, str]]:
    """Numbers in a name count as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _date(visit: Visit) -> str:
    from msrim.workflows.inputs import without_doubts
    from msrim.workflows.longitudinal import visit_date

    try:
        with without_doubts():
            return visit_date(visit.subject().contrasts["FLAIR"])
    except InputError:
        # Faults of a visit are reported by its own run.
        return ""
