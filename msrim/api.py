"""msrim from Python: a function for each command, with its options as arguments.

Paths may be text. Progress messages are shown only with ``quiet=False``; what the user should know is
in ``warnings`` of the result. Whatever is wrong with an input is raised as :class:`msrim.errors.MsrimError`, with a
message of one line. Nothing heavy is imported before a function is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from msrim.results import (
    Longitudinal,
    Patient,
    RimClassification,
    Segmentation,
    comparison_of,
    patient_of,
    rims_of,
    segmentation_of,
)

if TYPE_CHECKING:
    from msrim.bids import Subject
    from msrim.recipe import Recipe

AnyPath = str | PathLike[str]
RIM_MODEL = "datrnet"
Backend = Literal["auto", "embedded", "fsl", "ants"]
Device = Literal["auto", "cpu", "cuda"]


def segment(
    subject: AnyPath | None = None,
    *,
    out: AnyPath | None = None,
    flair: AnyPath | None = None,
    t1: AnyPath | None = None,
    t2: AnyPath | None = None,
    lesions: AnyPath | None = None,
    model: str | None = None,
    backend: Backend | None = None,
    device: Device | None = None,
    brain_extracted: bool | None = None,
    recipe: AnyPath | None = None,
    grade: bool | None = None,
    quiet: bool = True,
) -> Segmentation:
    """Find the lesions of one visit.

    Parameters
    ----------
    subject : path, optional
        A BIDS subject or session folder, or a folder with FLAIR.nii.gz and perhaps T1w.nii.gz, T2w.nii.gz.
    out : path, optional
        Folder for the results; derivatives/msrim of a BIDS dataset or msrim-results beside a plain folder if not given.
    flair, t1, t2 : path, optional
        Images, instead of ``subject``.
    lesions : path, optional
        Manually corrected lesions, a mask or numbered, on the FLAIR's grid: they are measured beside those
        that are found, and the result is of them.
    model : str, optional
        Names from ``msrim models`` or folders of your own; + lets several decide together.
    backend, device : str, optional
        Who prepares the images, and where the networks run.
    brain_extracted : bool, optional
        The images show the brain alone.
    recipe : path, optional
        Settings: a TOML file, or the name of a packaged recipe; arguments win over it.
    grade : bool, optional
        Paint lesions of known size and contrast into the images, and report how many are found.
    quiet : bool
        No messages on stderr.

    Returns
    -------
    Segmentation

    Raises
    ------
    MsrimError
        An input cannot be used; nothing has been written then.

    Examples
    --------
    With a phantom, as ``msrim simulate subject`` makes it, and a folder for the results:

    >>> import msrim
    >>> found = msrim.segment(phantom, out=results)
    >>> found.mask.name
    'sub-phantom_space-orig_label-L_mask.nii.gz'
    >>> found.lesions.loc[1, "region"]
    'periventricular'
    >>> len(found.lesions) == found.summary["lesions"]
    True
    >>> bool(found.probability.max() > found.summary["threshold"])
    True
    """
    visit = find_visit(subject, flair=flair, t1=t1, t2=t2)
    settings = _settings(
        recipe, model=model, backend=backend, device=device, brain_extracted=brain_extracted, grade=grade
    )
    from msrim.console import Console
    from msrim.workflows.segment import segment_subject

    folder, console = results_folder(out, visit), Console(quiet=quiet)
    if lesions is not None:
        from msrim.workflows.corrected import measure_corrected

        mask = measure_corrected(visit, settings, folder, _path(lesions), console=console)
        return segmentation_of(visit, folder, mask=mask, corrected=True)
    return segmentation_of(visit, folder, mask=segment_subject(visit, settings, folder, console=console))


def rim_classify(
    subject: AnyPath | None = None,
    *,
    out: AnyPath | None = None,
    flair: AnyPath | None = None,
    qsm: AnyPath | None = None,
    magnitude: AnyPath | None = None,
    lesions: AnyPath | None = None,
    model: str | None = None,
    threshold: str | float = "f1",
    backend: Backend | None = None,
    device: Device | None = None,
    brain_extracted: bool | None = None,
    recipe: AnyPath | None = None,
    quiet: bool = True,
) -> RimClassification:
    """Classify which lesions of one visit carry a paramagnetic rim.

    Parameters
    ----------
    subject : path, optional
        As for :func:`segment`, with a ``*_Chimap.nii.gz`` beside the FLAIR.
    out, flair : path, optional
        As for :func:`segment`.
    qsm : path, optional
        Susceptibility map in ppm or ppb; that of ``subject`` if not given.
    magnitude : path, optional
        Gradient-echo magnitude in the QSM's space, to register to.
    lesions : path, optional
        Mask or instance map on the FLAIR's or the QSM's grid; else those of :func:`segment`, which is run if need be.
    model : str, optional
        datrnet if not given, or folder of one of your own (`msrim train`).
    threshold : str or float
        "f1" or "sensitive" (of the model's card), or a probability.
    backend, device, brain_extracted, recipe, quiet
        As for :func:`segment`.

    Returns
    -------
    RimClassification

    Raises
    ------
    MsrimError
        An input cannot be used; nothing has been written then.

    Examples
    --------
    >>> import msrim
    >>> rims = msrim.rim_classify(phantom, out=results)
    >>> rims.table.name
    'sub-phantom_desc-lesions.tsv'
    >>> bool(rims.probability.between(0, 1).any())
    True
    """
    from msrim.bids import find_qsm, find_subject, subject_from_files
    from msrim.console import Console
    from msrim.errors import InputError

    if subject is not None:
        visit = find_subject(_path(subject)) if flair is None else subject_from_files(_path(flair))
        susceptibility = find_qsm(_path(subject)) if qsm is None else _path(qsm).absolute()
    elif flair is not None and qsm is not None:
        visit, susceptibility = subject_from_files(_path(flair)), _path(qsm).absolute()
    else:
        raise InputError("no subject; give a folder with FLAIR and QSM, or --flair and --qsm")
    settings = _settings(recipe, backend=backend, device=device, brain_extracted=brain_extracted)
    from msrim.workflows.rims import RimInputs, classify_rims

    folder = results_folder(out, visit)
    given = RimInputs(
        susceptibility,
        lesions=None if lesions is None else _path(lesions).absolute(),
        magnitude=None if magnitude is None else _path(magnitude).absolute(),
    )
    console, rim_model = Console(quiet=quiet), RIM_MODEL if model is None else model
    table = classify_rims(visit, given, settings, folder, console=console, model=rim_model, threshold=str(threshold))
    found = rims_of(visit, folder)
    return found if found.table == table.absolute() else rims_of(visit, folder, corrected=True)


def longitudinal(
    visits: Sequence[AnyPath],
    *,
    out: AnyPath | None = None,
    model: str | None = None,
    backend: Backend | None = None,
    device: Device | None = None,
    brain_extracted: bool | None = None,
    recipe: AnyPath | None = None,
    expansion: bool | None = None,
    years: Sequence[float] = (),
    grade: bool | None = None,
    quiet: bool = True,
) -> Longitudinal:
    """Find what changed between visits of one patient.

    Parameters
    ----------
    visits : sequence of path
        Two or more in the order of time: folders as for :func:`segment`, or FLAIR files.
    out, model, backend, device, brain_extracted, recipe, quiet
        As for :func:`segment`.
    expansion : bool, optional
        Measure how much each lesion and the brain expand or shrink, and find slowly expanding lesions.
    years : sequence of float
        From each visit to the next; from the dates beside the images if empty.
    grade : bool, optional
        Paint lesions into each visit, and changes into a pair made of the baseline; report how many are found.

    Returns
    -------
    Longitudinal

    Raises
    ------
    MsrimError
        An input cannot be used; nothing has been written then.

    Examples
    --------
    A phantom has one visit:

    >>> import msrim
    >>> msrim.longitudinal([phantom])
    Traceback (most recent call last):
    msrim.errors.InputError: one visit is not enough; give a baseline and a follow-up, folders or FLAIR files
    """
    from msrim.bids import PATIENT, patient_file
    from msrim.console import Console
    from msrim.workflows.correction import find_correction, is_corrected
    from msrim.workflows.longitudinal import find_visits, follow_visits

    found = find_visits(_in_order(visits))
    settings = _settings(
        recipe,
        model=model,
        backend=backend,
        device=device,
        brain_extracted=brain_extracted,
        expansion=expansion,
        grade=grade,
    )
    folder = results_folder(out, found[0])
    new = follow_visits(found, settings, folder, console=Console(quiet=quiet), years=_numbers(years))
    visits_found = [segmentation_of(visit, folder, corrected=is_corrected(visit, folder)) for visit in found]
    corrected = any(find_correction(visit, folder) for visit in found)
    pairs = tuple(comparison_of(one, other, folder, corrected=corrected) for one, other in pairwise(found))
    return Longitudinal(
        visits=tuple(visit for visit in visits_found if visit.mask.is_file()),
        pairs=pairs,
        new=new,
        table=pairs[0].table
        if len(pairs) == 1
        else patient_file(found[0], folder.absolute(), PATIENT["changes"], corrected=corrected),
    )


def run(
    *subjects: AnyPath,
    out: AnyPath | None = None,
    model: str | None = None,
    rim_model: str | None = None,
    backend: Backend | None = None,
    device: Device | None = None,
    brain_extracted: bool | None = None,
    recipe: AnyPath | None = None,
    grade: bool | None = None,
    quiet: bool = True,
) -> tuple[Patient, ...]:
    """Do everything that the images of patients allow, and write one page for each patient.

    Every visit is segmented, its rims are classified where there is a QSM, and visits are compared where there are
    several.

    Parameters
    ----------
    *subjects : path
        Folders of patients, with ``ses-*`` folders where there are several visits; or of single visits.
    rim_model : str, optional
        For visits with a QSM: datrnet if not given, or folder of one of your own (`msrim train`).
    out, model, backend, device, brain_extracted, recipe, grade, quiet
        As for :func:`segment`.

    Returns
    -------
    tuple of Patient
        By name.

    Raises
    ------
    MsrimError
        An input cannot be used, and nothing has been written; or a step failed after the others were done.

    Examples
    --------
    >>> import msrim
    >>> [patient] = msrim.run(phantom, out=results)
    >>> patient.page.name
    'patient.html'
    >>> list(patient.lesions.columns)
    ['region', 'ids', 'volume_mm3', 'rim_probability', 'rim']
    """
    from msrim.console import Console
    from msrim.errors import InputError
    from msrim.workflows.correction import is_corrected
    from msrim.workflows.patient import find_patients, run_patients

    if not subjects:
        raise InputError("no subject; give the folder of a patient")
    patients = find_patients([_path(subject) for subject in subjects])
    settings = _settings(
        recipe, model=model, backend=backend, device=device, brain_extracted=brain_extracted, grade=grade
    )
    folder = results_folder(out, patients[0][0].subject())
    run_patients(
        patients,
        settings,
        folder,
        console=Console(quiet=quiet),
        rim_model=RIM_MODEL if rim_model is None else rim_model,
    )
    found = []
    for visits in patients:
        named = [visit.named() for visit in visits]
        found.append(patient_of(named, folder, corrected=[is_corrected(visit, folder) for visit in named]))
    return tuple(found)


def find_visit(
    folder: AnyPath | None,
    *,
    flair: AnyPath | None = None,
    t1: AnyPath | None = None,
    t2: AnyPath | None = None,
) -> Subject:
    """The images of one visit, from a folder or named one by one."""
    from msrim.bids import find_subject, subject_from_files
    from msrim.errors import InputError

    if folder is not None and (flair or t1 or t2):
        raise InputError(f"{folder}: give either a subject folder or --flair, --t1, --t2, not both")
    if folder is not None:
        return find_subject(_path(folder))
    if flair is None:
        raise InputError("no FLAIR; give a subject folder or --flair")
    given = {name: None if path is None else _path(path) for name, path in (("t1", t1), ("t2", t2))}
    return subject_from_files(_path(flair), **given)


def _path(path: AnyPath) -> Path:
    """A path as a shell would have it: ``~`` is the user's folder.

    Raises
    ------
    InputError
        Something else than a path.
    """
    from msrim.errors import InputError

    if not isinstance(path, str | PathLike):
        raise InputError(f"a {type(path).__name__} where a path is needed; give text or a pathlib.Path")
    # An empty text would be the folder that one happens to be in.
    if not str(path):
        raise InputError("an empty text where a path is needed; give the path")
    try:
        return Path(path).expanduser()
    except (TypeError, RuntimeError) as error:
        raise InputError(f"{path!r}: not a path ({error}); give text or a pathlib.Path") from error


def _in_order(visits: Iterable[AnyPath]) -> list[Path]:
    """Visits in the order of time, as they are given."""
    from msrim.errors import InputError

    if isinstance(visits, str | PathLike):
        raise InputError(f"{visits}: one visit is not enough; give a list of a baseline and a follow-up")
    if isinstance(visits, Set) or not isinstance(visits, Iterable):
        raise InputError(f"a {type(visits).__name__} of visits has no order; give a list, the earliest first")
    return [_path(visit) for visit in visits]


def _numbers(years: Iterable[float]) -> list[float]:
    from msrim.errors import InputError

    try:
        return [float(each) for each in years]
    except (TypeError, ValueError) as error:
        raise InputError(f"years {years!r}: give a list of numbers, one for each step from visit to visit") from error


def _settings(recipe: AnyPath | None, **overrides: Any) -> Recipe:
    """Settings of a run, with a model of the user's own named so that run.json names it for any other folder too."""
    from msrim.models.registry import located
    from msrim.recipe import read_recipe

    settings = read_recipe(None if recipe is None else _path(recipe), **overrides)
    return settings.model_copy(update={"model": located(settings.model)})


def results_folder(out: AnyPath | None, visit: Subject) -> Path:
    """The user's folder, or the default place for results of such a patient."""
    from msrim.bids import default_results_folder

    return default_results_folder(visit) if out is None else _path(out)
