"""Training slice networks (SCP): visits of patients or CT scans in, weights and a card out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from msrim.console import Console
from msrim.errors import InputError
from msrim.image import read_volume, same_grid, to_ras
from msrim.models import build
from msrim.preprocess.ct import halve_in_plane, prepare_ct
from msrim.recipe import TrainingRecipe
from msrim.training.losses import soft_dice
from msrim.training.slices import LesionSlabs, LesionSlices, cut_images
from msrim.workflows.train import (
    check_left_out,
    marked_patients,
    painted_from,
    seen_patients,
    synthetic_brains,
    train_on,
)

# Label of liver tumours in LiTS.
TUMOUR = 2


def train_slices(
    recipe: TrainingRecipe,
    data: Path,
    out: Path,
    *,
    leave_out: list[str],
    console: Console,
    prepared: Path | None = None,
) -> Path:
    """Train a slice network.

    Parameters
    ----------
    recipe : TrainingRecipe
        Of the task "slices". With "CT" for its only contrast it learns liver tumours, else lesions of the brain; with a
        lesion bank or head labels on slices that are varied and painted, else on the slices as they are.
    data : Path
        Subjects with a lesion mask beside each FLAIR, prepared as `msrim segment` does it; for CT, ``volume-N.nii`` and
        ``segmentation-N.nii`` of the LiTS challenge, anywhere below.
    out : Path
        Gets ``weights.safetensors``, ``card.toml`` and the loss curve.
    leave_out : list of str
        Patients (labels without ``sub-``; numbers of CT scans) that must not be seen.
    prepared : Path, optional
        As :func:`msrim.workflows.train.train_lesions` takes it.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        Nothing is left to train on, or a CT scan and its labels do not fit each other.
    """
    plane = build(recipe.network, **recipe.settings).plane
    drawn = {"plane": plane, "samples": recipe.steps * recipe.batch_size, "seed": recipe.seed}
    if recipe.contrasts == ("CT",):
        scans = list(_ct_scans(data, leave_out=leave_out))
        slices, seen = LesionSlices(scans, **drawn), f"axial slices of {len(scans)} scans"
    else:
        bank = painted_from(recipe, leave_out=leave_out)
        patients = marked_patients(recipe, data, prepared or out / "prepared", leave_out=leave_out, console=console)
        seen = f"axial slices of {seen_patients(patients)}"
        if bank is None and recipe.head_labels is None:
            images = (cut_images(patient, recipe.intensity_range).float().numpy() for patient in patients)
            scans = [(image, patient.lesions) for image, patient in zip(images, patients, strict=True)]
            slices = LesionSlices(scans, **drawn)
        else:
            synthetic = synthetic_brains(recipe, console=console)
            slices = LesionSlabs(
                patients,
                bank,
                contrasts=recipe.contrasts,
                required=recipe.required,
                intensity_range=recipe.intensity_range,
                synthetic=synthetic,
                **drawn,
            )
    return train_on(recipe, slices, loss=slice_loss, out=out, trained_on=seen, console=console)


def slice_loss(logits: Tensor, lesions: Tensor) -> Tensor:
    """Binary cross entropy and soft Dice, equal weights; the paper does not name its loss, this is its baseline's."""
    return F.binary_cross_entropy_with_logits(logits, lesions) + soft_dice(torch.sigmoid(logits), lesions)


def _ct_scans(data: Path, *, leave_out: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """CT scans and their tumours as :func:`msrim.preprocess.ct.prepare_ct` gives them."""
    numbered = {path.name.split(".")[0].removeprefix("volume-"): path for path in sorted(data.rglob("volume-*.nii*"))}
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
