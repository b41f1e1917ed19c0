"""Training: marked images in, weights and a card out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from msrim.console import Console
from msrim.errors import InputError, ModelError
from msrim.models import Card, build, load_model, plane_of, read_card
from msrim.models.cards import write_card
from msrim.models.inference import choose_device
from msrim.models.networks.allnet import COORDINATES
from msrim.recipe import TrainingRecipe
from msrim.training.coactseg_loss import coactseg_loss
from msrim.training.heads import SyntheticHeads
from msrim.training.lesions import LesionCrops
from msrim.training.loop import Fitting, fit
from msrim.training.losses import all_net_loss, cross_entropy_and_dice, slice_loss
from msrim.training.pairs import PairProtocol, VisitCrops
from msrim.training.slices import LesionSlabs, LesionSlices, cut_images
from msrim.workflows.train_rims import train_rims
from msrim.workflows.training_data import (
    check_left_out,
    ct_scans,
    label_maps,
    marked_pairs,
    marked_patients,
    marked_visits,
    painted_from,
    prepare_pair,
    prepare_visit,
    seen_patients,
    synthetic_brains,
)

# Share of a recipe's learning rate with which a trained model goes on.
FINE_TUNING = 0.1


@dataclass(frozen=True)
class Samples:
    """Training data of a network.

    Attributes
    ----------
    dataset : Dataset
        Gives (input, *targets).
    loss : callable
        ``loss(logits, *targets)``.
    source : str
        Description of the samples, for the card.
    """

    dataset: Dataset[tuple[Tensor, ...]]
    loss: Callable[..., Tensor]
    source: str


@dataclass(frozen=True)
class Source:
    """Where the samples of a training come from.

    Attributes
    ----------
    data : Path
    prepared : Path
        Gets the prepared visits and synthetic brains.
    leave_out : tuple of str
        Patients that must not be seen.
    console : Console
    """

    data: Path
    prepared: Path
    leave_out: tuple[str, ...]
    console: Console


def train(
    recipe: TrainingRecipe,
    data: Path,
    out: Path,
    *,
    leave_out: Sequence[str] = (),
    console: Console,
    prepared: Path | None = None,
) -> Path:
    """Train the network of a recipe on what lies below ``data``.

    Parameters
    ----------
    recipe : TrainingRecipe
        Its task decides what ``data`` must hold, see TASKS and :func:`msrim.workflows.train_rims.train_rims`.
    data : Path
    out : Path
        Gets ``weights.safetensors``, ``card.toml``, the loss curve and a checkpoint, from which a later call goes on.
    leave_out : sequence of str
        Patients that must not be seen: labels without ``sub-``, names of pairs' folders, numbers of CT scans.
    prepared : Path, optional
        Gets the prepared visits and synthetic brains, so that several trainings may share them; a folder in ``out`` if
        not given.

    Returns
    -------
    Path
        The folder ``out``, which a command's ``--model`` takes.

    Raises
    ------
    InputError
        Nothing is left to train on, a patient to leave out is not there, or the data do not fit the recipe.
    ModelError
        The recipe's ``start`` is no model of this kind.
    """
    if recipe.task == "rims":
        return train_rims(recipe, data, out, leave_out=leave_out, console=console)
    samples = TASKS[recipe.task](recipe, Source(data, prepared or out / "prepared", tuple(leave_out), console))
    return train_on(recipe, samples, out=out, console=console)


def lesion_samples(recipe: TrainingRecipe, source: Source) -> Samples:
    """Crops of every marked visit: subjects in BIDS order with a lesion mask (``*label-L*_mask``) beside each FLAIR."""
    _check_crop(recipe)
    bank = painted_from(recipe, leave_out=source.leave_out)
    patients = marked_patients(recipe, source.data, source.prepared, leave_out=source.leave_out, console=source.console)
    crops = LesionCrops(
        patients,
        bank,
        contrasts=recipe.contrasts,
        shape=recipe.crop,
        samples=recipe.steps * recipe.batch_size,
        seed=recipe.seed,
        synthetic=synthetic_brains(recipe, source.prepared, console=source.console),
        required=recipe.required,
        intensity_range=recipe.intensity_range,
        caps=recipe.caps,
    )
    return Samples(crops, partial(all_net_loss, les_loss=recipe.les_loss), seen_patients(patients))


def head_samples(recipe: TrainingRecipe, source: Source) -> Samples:
    """Synthetic scans of label maps of whole heads with FreeSurfer values, one NIfTI file each."""
    paths = label_maps(source.data)
    check_left_out(source.leave_out, (), data=source.data)
    heads = SyntheticHeads(paths, shape=recipe.crop, samples=recipe.steps * recipe.batch_size, seed=recipe.seed)
    return Samples(heads, cross_entropy_and_dice, f"synthetic scans of {len(paths)} label maps")


def pair_samples(recipe: TrainingRecipe, source: Source) -> Samples:
    """Crops of marked visits, and of marked pairs (PAIR_FILES) or, without any, of pairs made from the visits."""
    data, leave_out = source.data, source.leave_out
    marked, folders = marked_visits(data), marked_pairs(data)
    known = [*(subject.label for subject, _ in marked), *(folder.name for folder in folders)]
    check_left_out(leave_out, known, data=data)
    singles = [visit for visit in marked if visit[0].label not in leave_out]
    folders = [folder for folder in folders if folder.name not in leave_out]
    if not singles and (recipe.samples != "pairs" or not folders):
        raise InputError(f"{data}: no visit with a FLAIR and a *label-L*_mask.nii.gz beside it is left to train on")
    bank, out, console = painted_from(recipe, leave_out=leave_out), source.prepared, source.console
    patients = [prepare_visit(subject, mask, recipe=recipe, out=out, console=console) for subject, mask in singles]
    pairs = [prepare_pair(folder, recipe=recipe, out=out, console=console) for folder in folders]
    crops = VisitCrops(
        patients,
        pairs,
        bank,
        channel=recipe.contrasts.index("FLAIR"),
        shape=recipe.crop,
        protocol=PairProtocol(
            recipe.steps * recipe.batch_size,
            recipe.seed,
            kinds=recipe.samples,
            relation_loss=recipe.relation_loss,
            relation_warmup=recipe.relation_warmup,
        ),
    )
    names = sorted({patient.name for patient in patients} | {pair.name for pair in pairs})
    made = f"{len(pairs)} marked pairs" if pairs else "pairs made from them"
    seen = f"{len(patients)} visits and {made}, {len(names)} patients ({', '.join(names)})"
    return Samples(crops, coactseg_loss, seen)


def slice_samples(recipe: TrainingRecipe, source: Source) -> Samples:
    """Axial slices.

    With "CT" for the recipe's only contrast: slices of ``volume-N.nii`` with their ``segmentation-N.nii`` of the LiTS
    challenge. Else of marked visits as :func:`lesion_samples` takes them; varied and painted where the recipe names a
    lesion bank or head labels, otherwise as they are.
    """
    plane = plane_of(build(recipe.network, **recipe.settings))
    count, seed = recipe.steps * recipe.batch_size, recipe.seed
    if recipe.contrasts == ("CT",):
        scans = list(ct_scans(source.data, leave_out=source.leave_out))
        slices = LesionSlices(scans, plane=plane, samples=count, seed=seed)
        return Samples(slices, slice_loss, f"axial slices of {len(scans)} scans")
    bank = painted_from(recipe, leave_out=source.leave_out)
    patients = marked_patients(recipe, source.data, source.prepared, leave_out=source.leave_out, console=source.console)
    seen = f"axial slices of {seen_patients(patients)}"
    if bank is None and recipe.head_labels is None:
        images = (cut_images(patient, recipe.intensity_range).float().numpy() for patient in patients)
        scans = [(image, patient.lesions) for image, patient in zip(images, patients, strict=True)]
        return Samples(LesionSlices(scans, plane=plane, samples=count, seed=seed), slice_loss, seen)
    slabs = LesionSlabs(
        patients,
        bank,
        contrasts=recipe.contrasts,
        required=recipe.required,
        intensity_range=recipe.intensity_range,
        caps=recipe.caps,
        synthetic=synthetic_brains(recipe, source.prepared, console=source.console),
        plane=plane,
        samples=count,
        seed=seed,
    )
    return Samples(slabs, slice_loss, seen)


# A task of recipes, and what its networks learn from; rim networks have a protocol of their own.
TASKS: dict[str, Callable[[TrainingRecipe, Source], Samples]] = {
    "lesions": lesion_samples,
    "head": head_samples,
    "longitudinal": pair_samples,
    "slices": slice_samples,
}


def train_on(recipe: TrainingRecipe, samples: Samples, *, out: Path, console: Console) -> Path:
    """Make or load the recipe's network, fit it to the samples, and write weights and card: the folder."""
    torch.manual_seed(recipe.seed)
    network, source = build(recipe.network, **recipe.settings), samples.source
    if recipe.start is not None:
        card = read_card(recipe.start)
        if card.network != recipe.network or not set(recipe.contrasts) <= set(card.contrasts):
            raise ModelError(
                f"{recipe.start}: a {card.network} of {', '.join(card.contrasts)} cannot start this training"
            )
        start_from(network, card, contrasts=recipe.contrasts)
        source += f"; started from {card.label}"
    how = Fitting(
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate * (1 if recipe.start is None else FINE_TUNING),
        optimiser=recipe.optimiser,
        fine_tuning=recipe.start is not None,
        workers=recipe.workers,
    )
    network = network.to(choose_device(recipe.device))
    weights = fit(network, samples.dataset, loss=samples.loss, out=out, how=how, report=console.say)
    pieces = "slabs or slices" if recipe.task == "slices" else f"crops of {' x '.join(map(str, recipe.crop))} mm"
    training = f"{recipe.steps} steps of {recipe.batch_size} {pieces}, seed {recipe.seed}; {source}"
    limits = "Not measured on patients outside the training data; research use only."
    threshold = 0.5 if recipe.threshold_range is None else recipe.threshold_range[0]
    write_card(recipe, weights, settings=recipe.settings, training=training, limits=limits, threshold=threshold)
    return out


def start_from(network: nn.Module, card: Card, *, contrasts: Sequence[str]) -> None:
    """Load the weights of a card's model into a network; channels of contrasts that the network lacks are left out.

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


def _check_crop(recipe: TrainingRecipe) -> None:
    """Refuse crops that the network cannot halve as often as it wants to."""
    # The remainder decides, not the size.
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
