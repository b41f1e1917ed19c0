"""Training: prepared visits in, weights and a card out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from msrim.bids import CONTRASTS, Subject, find_subject, images_in
from msrim.console import Console
from msrim.errors import InputError, ModelError
from msrim.image import read_volume, resample
from msrim.models import Card, build, load_model, read_card
from msrim.models.inference import choose_device
from msrim.models.networks.allnet import COORDINATES
from msrim.preprocess.coordinates import anatomical_coordinates
from msrim.preprocess.tissue import csf_structures
from msrim.recipe import Recipe, TrainingRecipe
from msrim.training.brains import synthetic_brain
from msrim.training.heads import SyntheticHeads
from msrim.training.lesions import LesionBank, LesionCrops, Patient
from msrim.training.loop import fit
from msrim.training.losses import all_net_loss, cross_entropy_and_dice
from msrim.transform import read_transform
from msrim.workflows.anatomy import prepare, read_mask, read_own
from msrim.workflows.cards import write_card
from msrim.workflows.run import Run

# Share of a recipe's learning rate with which a trained model goes on.
FINE_TUNING = 0.1
# Masks of what changed between visits are of another kind.
MASK = re.compile(r"(?!.*desc-change)(.*_)?(label-L.*_mask|lesions?(_mask)?)\.nii(\.gz)?")


def train_lesions(
    recipe: TrainingRecipe,
    data: Path,
    out: Path,
    *,
    leave_out: list[str],
    console: Console,
    prepared: Path | None = None,
) -> Path:
    """Train a lesion network on every marked visit below ``data``.

    Parameters
    ----------
    recipe : TrainingRecipe
    data : Path
        Subjects in BIDS order; beside each FLAIR its lesion mask (``*label-L*_mask.nii.gz``).
    out : Path
        Gets ``weights.safetensors``, ``card.toml`` and the loss curve.
    leave_out : list of str
        Patients (labels without ``sub-``) that must not be seen.
    prepared : Path, optional
        Gets the prepared visits, so that several trainings may share them; a folder in ``out`` if not given.

    Returns
    -------
    Path
        The folder, ready for ``msrim segment --model``.

    Raises
    ------
    InputError
        The recipe's crops do not fit its network, or see :func:`marked_patients`.
    """
    _check_crop(recipe)
    bank = painted_from(recipe, leave_out=leave_out)
    patients = marked_patients(recipe, data, prepared or out / "prepared", leave_out=leave_out, console=console)
    crops = LesionCrops(
        patients,
        bank,
        contrasts=recipe.contrasts,
        shape=recipe.crop,
        samples=recipe.steps * recipe.batch_size,
        seed=recipe.seed,
        synthetic=synthetic_brains(recipe, console=console),
        required=recipe.required,
        intensity_range=recipe.intensity_range,
    )
    loss = partial(all_net_loss, les_loss=recipe.les_loss)
    seen = seen_patients(patients)
    return train_on(recipe, crops, loss=loss, out=out, trained_on=seen, console=console)


def _check_crop(recipe: TrainingRecipe) -> None:
    """Refuse crops that the network cannot halve as often as it wants to."""
    # What is left over decides, not the size.
    small = torch.zeros(1, len(recipe.contrasts) + COORDINATES, *(16 + side % 16 for side in recipe.crop))
    try:
        with torch.inference_mode():
            build(recipe.network, **recipe.settings).eval()(small)
    except RuntimeError as error:
        sides = " x ".join(map(str, recipe.crop))
        raise InputError(
            f"recipe {recipe.name}: {recipe.network} with these settings takes no crops of {sides} voxels in "
            f"{len(recipe.contrasts)} contrasts; make the sides multiples of 16, and settings and contrasts fit"
        ) from error


def train_head(recipe: TrainingRecipe, data: Path, out: Path, *, console: Console) -> Path:
    """Train the head network on label maps of whole heads with FreeSurfer values, one NIfTI file each, in ``data``."""
    paths = _label_maps(data)
    heads = SyntheticHeads(paths, shape=recipe.crop, samples=recipe.steps * recipe.batch_size, seed=recipe.seed)
    seen = f"synthetic scans of {len(paths)} label maps"
    return train_on(recipe, heads, loss=cross_entropy_and_dice, out=out, trained_on=seen, console=console)


def train_on(
    recipe: TrainingRecipe,
    samples: Dataset,
    *,
    loss: Callable[..., Tensor],
    out: Path,
    trained_on: str,
    console: Console,
) -> Path:
    """Make or load the recipe's network, fit it to the samples, and write weights and card."""
    torch.manual_seed(recipe.seed)
    network = build(recipe.network, **recipe.settings)
    if recipe.start is not None:
        card = read_card(recipe.start)
        if card.network != recipe.network or not set(recipe.contrasts) <= set(card.contrasts):
            raise ModelError(
                f"{recipe.start}: a {card.network} of {', '.join(card.contrasts)} cannot start this training"
            )
        start_from(network, card, contrasts=recipe.contrasts)
        trained_on += f"; started from {card.label}"
    weights = fit(
        network.to(choose_device(recipe.device)),
        samples,
        loss=loss,
        out=out,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate * (1 if recipe.start is None else FINE_TUNING),
        optimiser=recipe.optimiser,
        fine_tuning=recipe.start is not None,
        workers=recipe.workers,
        report=console.say,
    )
    pieces = "slabs or slices" if recipe.task == "slices" else f"crops of {' x '.join(map(str, recipe.crop))} mm"
    how = f"{recipe.steps} steps of {recipe.batch_size} {pieces}, seed {recipe.seed}"
    limits = "Not measured on patients outside the training data; research use only."
    threshold = 0.5 if recipe.threshold_range is None else recipe.threshold_range[0]
    write_card(
        recipe, weights, settings=recipe.settings, training=f"{how}; {trained_on}", limits=limits, threshold=threshold
    )
    return out


def start_from(network: nn.Module, card: Card, *, contrasts: Sequence[str]) -> None:
    """Give a network the weights of a card's model, which may know more contrasts: their channels are left out.

    Raises
    ------
    ModelError
        The card's model is built with other settings.
    """
    known, taken = len(card.contrasts), [card.contrasts.index(contrast) for contrast in contrasts]
    weights, fresh = load_model(card).state_dict(), network.state_dict()
    for name, value in weights.items():
        if name in fresh and value.shape[1:2] == (known,) and fresh[name].shape[1:2] == (len(taken),):
            weights[name] = value[:, taken]
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(f"{card.label}: its settings are not the recipe's ({error}); make them the same") from error


def _label_maps(folder: Path) -> list[Path]:
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


def synthetic_brains(recipe: TrainingRecipe, *, console: Console) -> list[Patient]:
    """A brain from each of the recipe's label maps; none where it names none."""
    if recipe.head_labels is None:
        return []
    paths = _label_maps(recipe.head_labels)
    brains = []
    for seed, path in enumerate(paths):
        brains.append(synthetic_brain(path, contrasts=recipe.contrasts, seed=seed))
        console.say(f"brain {seed + 1} of {len(paths)} synthesised")
    return brains


def marked_patients(
    recipe: TrainingRecipe, data: Path, out: Path, *, leave_out: list[str], console: Console
) -> list[Patient]:
    """Every marked visit below ``data`` but those of ``leave_out``, prepared in ``out``.

    Raises
    ------
    InputError
        A patient to leave out is not there, nobody is left, a visit lacks a contrast that the recipe requires, or there
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
    return [prepare_visit(subject, mask, recipe=recipe, out=out, console=console) for subject, mask in visits]


def seen_patients(patients: Sequence[Patient]) -> str:
    """How a card names who was trained on."""
    names = sorted({patient.name for patient in patients})
    return f"{len(patients)} visits of {len(names)} patients ({', '.join(names)})"


def marked_visits(data: Path) -> list[tuple[Subject, Path]]:
    """Every visit below a folder that has a FLAIR and a lesion mask beside it."""
    visits = []
    for mask in sorted(data.rglob("*.nii*")):
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
    settings = Recipe(brain_extracted=recipe.brain_extracted, device=recipe.device)
    subject = subject.for_network(recipe.contrasts)
    with Run(subject.folder(out), console, recipe=settings.model_dump(), inputs=subject.contrasts) as run:
        anatomy = prepare(subject, settings, run, out=out)
    working = anatomy.working
    brain, labels = read_mask(working.brain), read_own(working.labels)
    mni_from_flair = read_transform(anatomy.to_mni)
    csf = csf_structures(read_own(working.tissue))
    coordinates = anatomical_coordinates(brain, mni_from_world=mni_from_flair, csf=csf, brain=brain)
    images = np.zeros((len(recipe.contrasts), *brain.shape), np.float32)
    for index, contrast in enumerate(recipe.contrasts):
        if contrast in working.images:
            images[index] = read_own(working.images[contrast]).data
    marked = read_volume(mask, mask=True)
    lesions = resample(marked.like(marked.data.astype(np.float32)), brain).data > 0.5
    return Patient(
        name=subject.label,
        images=torch.from_numpy(images).half(),
        coordinates=torch.from_numpy(coordinates).half(),
        lesions=lesions,
        brain=brain.data,
        labels=labels.data,
        mni_from_voxel=mni_from_flair @ brain.affine,
    )
