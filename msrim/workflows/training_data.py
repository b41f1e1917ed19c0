"""Training data: marked visits and pairs, CT scans, label maps; found below a folder and prepared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from msrim.bids import CONTRASTS, Subject, find_subject, images_in
from msrim.console import Console
from msrim.errors import InputError
from msrim.files import files_below
from msrim.image import Volume, read_volume, resample, same_grid, to_ras
from msrim.preprocess.coordinates import anatomical_coordinates
from msrim.preprocess.ct import halve_in_plane, prepare_ct
from msrim.preprocess.identity import on_template, same_brain, same_brains
from msrim.preprocess.tissue import csf_structures
from msrim.recipe import Recipe, TrainingRecipe
from msrim.training.brains import synthetic_brain
from msrim.training.lesions import LesionBank, Patient, PatientFiles, read_patient, write_patient
from msrim.training.pairs import MarkedPair
from msrim.transform import read_transform
from msrim.workflows.anatomy import Anatomy, prepare, preprocess_visit, read_mask, read_own
from msrim.workflows.changes import match, register_to_midway
from msrim.workflows.run import Run

# Masks of what changed between visits are of another kind.
MASK = re.compile(r"(?!.*desc-change)(.*_)?(label-L.*_mask|lesions?(_mask)?)\.nii(\.gz)?")
# A pair of the MSSEG-2 challenge: both FLAIRs in one space, and the consensus of the experts there.
PAIR_FILES = ("flair_time01_on_middle_space.nii.gz", "flair_time02_on_middle_space.nii.gz", "ground_truth.nii.gz")
# Label of liver tumours in LiTS.
TUMOUR = 2


def marked_patients(
    recipe: TrainingRecipe, data: Path, out: Path, *, leave_out: Sequence[str], console: Console
) -> list[Patient]:
    """Every marked visit below ``data`` but those of ``leave_out``, prepared in ``out``.

    Raises
    ------
    InputError
        A patient to leave out is not there, none is left, a visit lacks a contrast that the recipe requires, or there
        is a contrast that nothing shows.
    """
    if unknown := set(recipe.contrasts) - set(CONTRASTS):
        raise InputError(
            f"recipe {recipe.name}: {', '.join(unknown)}: unknown contrast; known are {', '.join(CONTRASTS)}"
        )
    marked = marked_visits(data)
    check_left_out(leave_out, [subject.label for subject, _ in marked], data=data)
    visits = [visit for visit in marked if visit[0].label not in leave_out]
    if not visits:
        raise InputError(f"{data}: no visit with a FLAIR and a *label-L*_mask.nii.gz beside it is left to train on")
    for subject, mask in visits:
        found = subject.for_network(recipe.contrasts).contrasts
        if missing := [name for name in recipe.required if name not in found]:
            raise InputError(
                f"{mask.parent}: no {' and no '.join(missing)}, which the recipe requires; see --leave-out"
            )
    shown = set(recipe.contrasts if recipe.head_labels else ()).union(*(subject.contrasts for subject, _ in visits))
    if never := [name for name in recipe.contrasts if name not in shown]:
        raise InputError(
            f"{data}: no visit has a {' or a '.join(never)}, so a model would not know what to make of one; take it "
            "out of the recipe's contrasts and settings, or give --head-labels"
        )
    patients = [prepare_visit(subject, mask, recipe=recipe, out=out, console=console) for subject, mask in visits]
    for one, other, alike in same_people(patients, contrasts=recipe.contrasts):
        console.note(
            f"{same_brain(f'sub-{one}', f'sub-{other}', alike)}: name them as visits of one patient, or leave both out "
            "together"
        )
    return patients


def same_people(patients: Iterable[Patient], *, contrasts: Sequence[str]) -> list[tuple[str, str, float]]:
    """Pairs of patients' names whose FLAIRs show the same brain, and how much these are alike."""
    seen: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for patient in patients:
        flair = patient.images[contrasts.index("FLAIR")] if "FLAIR" in contrasts else torch.zeros(1)
        if patient.name not in seen and flair.any():
            image = Volume(flair.float().numpy(), patient.mni_from_voxel)
            seen[patient.name] = on_template(image, patient.brain)
    return same_brains(seen)


def seen_patients(patients: Sequence[Patient]) -> str:
    """How a card names who was trained on."""
    names = sorted({patient.name for patient in patients})
    return f"{len(patients)} visits of {len(names)} patients ({', '.join(names)})"


def marked_visits(data: Path) -> list[tuple[Subject, Path]]:
    """Every visit below a folder that has a FLAIR and a lesion mask beside it."""
    visits = []
    for mask in files_below(data, "*.nii*"):
        if MASK.fullmatch(mask.name) and not mask.name.startswith("."):
            visits.append((find_subject(mask.parent), mask))
    return visits


def check_left_out(leave_out: Iterable[str], known: Iterable[str], *, data: Path) -> None:
    """Refuse a patient to leave out that isn't there: a misspelt one would be trained on."""
    unknown = sorted(set(leave_out) - set(known))
    if unknown:
        raise InputError(f"{data}: no marked subject {', '.join(unknown)} to leave out; give labels without sub-")


def prepare_visit(subject: Subject, mask: Path, *, recipe: TrainingRecipe, out: Path, console: Console) -> Patient:
    """One visit on its working grid, by the same steps that `msrim segment` takes."""
    settings = Recipe(backend=recipe.backend, brain_extracted=recipe.brain_extracted, device=recipe.device)
    subject = subject.for_network(recipe.contrasts)
    with Run(subject.folder(out), console, recipe=settings.model_dump(), inputs=subject.contrasts) as run:
        anatomy = prepare(subject, settings, run, out=out)
        arrays = run(make_arrays, anatomy, name=subject.label, mask=mask, contrasts=recipe.contrasts)
    return read_patient(subject.label, arrays)


def make_arrays(anatomy: Anatomy, *, name: str, mask: Path, contrasts: Sequence[str]) -> PatientFiles:
    """Write what training takes of a marked visit, on its working grid.

    Parameters
    ----------
    name : str
        The patient's.
    mask : Path
        The user's mask of lesions.
    contrasts : sequence of str
        Order of the image channels; zeros where the visit has none.
    """
    working, mni_from_flair = anatomy.working, read_transform(anatomy.to_mni)
    brain, labels = read_mask(working.brain), read_own(working.labels)
    csf = csf_structures(read_own(working.tissue))
    coordinates = anatomical_coordinates(brain, mni_from_world=mni_from_flair, csf=csf, brain=brain)
    images = np.zeros((len(contrasts), *brain.shape), np.float16)
    for index, contrast in enumerate(contrasts):
        if contrast in working.images:
            images[index] = read_own(working.images[contrast]).data
    marked = read_volume(mask, mask=True)
    lesions = resample(marked.like(marked.data.astype(np.float32)), brain).data > 0.5
    return write_patient(
        Patient(
            name=name,
            images=torch.from_numpy(images),
            coordinates=torch.from_numpy(coordinates).half(),
            lesions=lesions,
            brain=brain.data,
            labels=labels.data,
            mni_from_voxel=mni_from_flair @ brain.affine,
        )
    )


def marked_pairs(data: Path) -> list[Path]:
    """Folders of MSSEG-2 below a folder, whole ones."""
    folders = [path.parent for path in files_below(data, PAIR_FILES[0])]
    return [folder for folder in folders if all((folder / name).is_file() for name in PAIR_FILES)]


def prepare_pair(folder: Path, *, recipe: TrainingRecipe, out: Path, console: Console) -> MarkedPair:
    """A marked pair on its midway grid, by the same steps that ``msrim longitudinal`` takes."""
    settings = Recipe(backend=recipe.backend, brain_extracted=recipe.brain_extracted, device=recipe.device)
    visits = [
        Subject(folder.name, session, {"FLAIR": folder / name})
        for session, name in zip(("01", "02"), PAIR_FILES, strict=False)
    ]
    baseline, followup = (preprocess_visit(visit, settings, out, console=console) for visit in visits)
    with Run(out / f"sub-{folder.name}", console, recipe=settings.model_dump(), inputs={}) as run:
        midway = run(
            register_to_midway,
            (baseline.corrected["FLAIR"], followup.corrected["FLAIR"]),
            brains=(baseline.brain, followup.brain),
            to_mni=(baseline.to_mni, followup.to_mni),
        )
        matched = run(match, midway)
    images = [read_own(path) for path in matched.flairs]
    truth = read_volume(folder / PAIR_FILES[2], mask=True)
    # The truth lies in the space of both files; the follow-up is where new lesions are seen.
    new = resample(
        truth.like(truth.data.astype(np.float32)),
        images[1],
        target_from_source=read_transform(midway.transforms[1]),
    )
    stack = torch.from_numpy(np.stack([image.data for image in images]).astype(np.float32))
    return MarkedPair(folder.name, stack, new.data > 0.5)


def ct_scans(data: Path, *, leave_out: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """CT scans and their tumours, prepared by :func:`msrim.preprocess.ct.prepare_ct`."""
    numbered = {path.name.split(".")[0].removeprefix("volume-"): path for path in files_below(data, "volume-*.nii*")}
    check_left_out(leave_out, numbered, data=data)
    if not set(numbered) - set(leave_out):
        raise InputError(f"{data}: no volume-N.nii with its segmentation-N.nii is left to train on")
    for number, path in numbered.items():
        if number in leave_out:
            continue
        labels = path.with_name(path.name.replace("volume-", "segmentation-"))
        volume, marked = read_volume(path), read_volume(labels)
        if not same_grid(volume, marked):
            raise InputError(f"{labels}: not on the grid of {path.name}; take the two files of one download")
        tumours = halve_in_plane(to_ras(marked.like(marked.data == TUMOUR)))
        yield prepare_ct(volume).data[None], tumours.data >= 0.5


def label_maps(folder: Path) -> list[Path]:
    """Head label maps in a folder, one NIfTI file each."""
    paths = images_in(folder) if folder.is_dir() else []
    if not paths:
        raise InputError(f"{folder}: no label maps (*.nii.gz)")
    return paths


def painted_from(recipe: TrainingRecipe, *, leave_out: Sequence[str]) -> LesionBank | None:
    """The recipe's bank of lesions, where it names one, and its masks but those of patients to leave out.

    Raises
    ------
    InputError
        There are masks without a bank, or none in their folder.
    """
    if recipe.lesion_bank is None:
        if recipe.lesion_masks is not None:
            raise InputError(f"{recipe.lesion_masks}: lesion masks are painted beside a lesion bank; give that as well")
        return None
    folder = recipe.lesion_masks
    masks = images_in(folder) if folder is not None and folder.is_dir() else []
    if recipe.lesion_masks is not None and not masks:
        raise InputError(f"{recipe.lesion_masks}: no lesion masks (*.nii.gz)")
    painted = [path for path in masks if path.name.removeprefix("sub-").split("_")[0] not in leave_out]
    return LesionBank(recipe.lesion_bank, [read_volume(path, mask=True) for path in painted])


def synthetic_brains(recipe: TrainingRecipe, out: Path, *, console: Console) -> list[Patient]:
    """A brain from each of the recipe's label maps, kept in ``out`` for the next training; none where it names none."""
    if recipe.head_labels is None:
        return []
    paths, files = label_maps(recipe.head_labels), []
    with Run(out / "synthetic", console, recipe={}, inputs={}) as run:
        for seed, path in enumerate(paths):
            step = f"synthesise_brain_{seed + 1}"
            files.append(run.step(step, synthesise, path, contrasts=recipe.contrasts, seed=seed))
    return [read_patient(path.name.split(".")[0], arrays) for arrays, path in zip(files, paths, strict=True)]


def synthesise(label_map: Path, *, contrasts: Sequence[str], seed: int) -> PatientFiles:
    """Write the arrays of :func:`msrim.training.brains.synthetic_brain`."""
    return write_patient(synthetic_brain(label_map, contrasts=contrasts, seed=seed))
