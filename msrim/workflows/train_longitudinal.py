"""Training of networks that compare two visits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from msrim.bids import Subject
from msrim.console import Console
from msrim.errors import InputError
from msrim.image import read_volume, resample
from msrim.recipe import Recipe, TrainingRecipe
from msrim.training.coactseg_loss import coactseg_loss
from msrim.training.pairs import MarkedPair, VisitCrops
from msrim.transform import read_transform
from msrim.workflows.anatomy import preprocess_visit, read_own
from msrim.workflows.changes import match, register_to_midway
from msrim.workflows.run import Run
from msrim.workflows.train import check_left_out, marked_visits, painted_from, prepare_visit, train_on

# A pair of the MSSEG-2 challenge: both FLAIRs in one space, and the consensus of the experts there.
PAIR_FILES = ("flair_time01_on_middle_space.nii.gz", "flair_time02_on_middle_space.nii.gz", "ground_truth.nii.gz")


def train_longitudinal(
    recipe: TrainingRecipe, data: Path, out: Path, *, leave_out: list[str], console: Console
) -> Path:
    """Train CoactSeg on the marked visits and the marked pairs below ``data``.

    Parameters
    ----------
    recipe : TrainingRecipe
    data : Path
        Visits as for a lesion network, and folders of MSSEG-2 (PAIR_FILES). Without such folders, pairs are made from
        the visits.
    out : Path
        Gets ``weights.safetensors``, ``card.toml``, the loss curve and the prepared visits.
    leave_out : list of str
        Patients that must not be seen: labels without ``sub-``, names of pairs' folders.

    Returns
    -------
    Path
        The folder, ready for ``msrim longitudinal --model``.
    """
    marked, folders = marked_visits(data), marked_pairs(data)
    known = [*(subject.label for subject, _ in marked), *(folder.name for folder in folders)]
    check_left_out(leave_out, known, data=data)
    singles = [visit for visit in marked if visit[0].label not in leave_out]
    folders = [folder for folder in folders if folder.name not in leave_out]
    if not singles and (recipe.samples != "pairs" or not folders):
        raise InputError(f"{data}: no visit with a FLAIR and a *label-L*_mask.nii.gz beside it is left to train on")
    bank, prepared = painted_from(recipe, leave_out=leave_out), out / "prepared"
    patients = [prepare_visit(subject, mask, recipe=recipe, out=prepared, console=console) for subject, mask in singles]
    pairs = [prepare_pair(folder, recipe=recipe, out=prepared, console=console) for folder in folders]
    crops = VisitCrops(
        patients,
        pairs,
        bank,
        channel=recipe.contrasts.index("FLAIR"),
        shape=recipe.crop,
        samples=recipe.steps * recipe.batch_size,
        seed=recipe.seed,
        kinds=recipe.samples,
        relations=recipe.relations,
        staged=recipe.staged,
    )
    names = sorted({patient.name for patient in patients} | {pair.name for pair in pairs})
    made = f"{len(pairs)} marked pairs" if pairs else "pairs made from them"
    seen = f"{len(patients)} visits and {made}, {len(names)} patients ({', '.join(names)})"
    return train_on(recipe, crops, loss=coactseg_loss, out=out, trained_on=seen, console=console)


def marked_pairs(data: Path) -> list[Path]:
    """Folders of MSSEG-2 below a folder, whole ones."""
    folders = sorted(path.parent for path in data.rglob(PAIR_FILES[0]))
    return [folder for folder in folders if all((folder / name).is_file() for name in PAIR_FILES)]


def prepare_pair(folder: Path, *, recipe: TrainingRecipe, out: Path, console: Console) -> MarkedPair:
    """A marked pair on its midway grid, by the same steps that ``msrim longitudinal`` takes."""
    settings = Recipe(brain_extracted=recipe.brain_extracted, device=recipe.device)
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
