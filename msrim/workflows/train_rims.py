"""Training rim networks: a cohort in, weights and a card out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from msrim.console import Console
from msrim.errors import InputError
from msrim.evaluation.rims import best_f1_threshold, curve_areas, sensitive_threshold, stratified_folds
from msrim.lesions.patches import SPACING_MM
from msrim.models import build, write_weights
from msrim.models.cards import write_card
from msrim.models.inference import choose_device
from msrim.models.rims import INPUTS, predict
from msrim.recipe import TrainingRecipe
from msrim.training.rims import RimFitting, RimLesions, fit_forest, fit_rims, read_cohort
from msrim.workflows.training_data import check_left_out

# One subject in five is kept out of training and chooses the thresholds.
FOLDS = 5


def train_rims(
    recipe: TrainingRecipe,
    data: Path,
    out: Path,
    *,
    leave_out: Sequence[str],
    console: Console,
    cache: Path | None = None,
) -> Path:
    """Train a rim network on a cohort.

    Parameters
    ----------
    recipe : TrainingRecipe
        Of the task "rims".
    data : Path
        See :func:`msrim.training.rims.read_cohort`.
    out : Path
        Gets ``weights.safetensors``, ``card.toml`` and the loss curve.
    leave_out : sequence of str
        Subjects (labels without ``sub-``) that must not be seen.
    cache : Path, optional
        Folder that keeps radiomic features, so that several trainings may share them; one in ``out`` if not given.

    Returns
    -------
    Path
        The folder, which ``msrim rim-classify --model`` takes.
    """
    kind = INPUTS.get(recipe.network)
    if kind is None:
        raise InputError(f"{recipe.network}: not a rim network; choose one of {', '.join(INPUTS)}")
    lesions = read_cohort(data, kind=kind, cache=cache or out / "prepared", console=console)
    check_left_out(leave_out, [name.removeprefix("sub-") for name in lesions.names], data=data)
    lesions = lesions.of(~np.isin(lesions.subjects, [lesions.names.index(f"sub-{name}") for name in leave_out]))
    counts = np.bincount(lesions.subjects, weights=lesions.labels, minlength=len(lesions.names))
    held_out = (stratified_folds(counts, folds=FOLDS, seed=recipe.seed) == 0)[lesions.subjects]
    if not (lesions.labels[held_out].any() and lesions.labels[~held_out].any()):
        raise InputError(f"{data}: too few lesions with a rim to train on; make a larger cohort")
    network, built = fit_network(recipe, lesions.of(~held_out), out, console=console, seed=recipe.seed)
    judged = lesions.of(held_out)
    shift = recipe.view_shift_mm
    probability = predict(network, kind, judged.patches, judged.features, view_shift_mm=shift, device=recipe.device)
    truth = judged.labels
    thresholds = [round(choose(truth, probability), 4) for choose in (best_f1_threshold, sensitive_threshold)]
    subjects = len(np.unique(lesions.subjects))
    trained_on = f"{subjects} simulated patients, {len(lesions.labels)} lesions, {lesions.labels.sum()} with a rim"
    write_rim_card(recipe, out / "weights.safetensors", built=built, trained_on=trained_on, thresholds=thresholds)
    areas = {name: round(area, 3) for name, area in curve_areas(truth, probability).items() if area is not None}
    console.say(f"on the fifth of the subjects that chose the thresholds: {areas}")
    return out


def fit_network(
    recipe: TrainingRecipe, lesions: RimLesions, out: Path, *, console: Console, seed: int
) -> tuple[nn.Module, dict[str, Any]]:
    """Train on lesions and write the weights: the network, and the settings that build it."""
    torch.manual_seed(seed)
    if recipe.network == "aprl-rf":
        forest = fit_forest(lesions, seed=seed)
        write_weights(forest, out / "weights.safetensors")
        trees, nodes = forest.share.shape
        return forest, {"trees": trees, "nodes": nodes, "columns": forest.columns}
    network = build(recipe.network, **recipe.settings).to(choose_device(recipe.device))
    how = RimFitting(
        recipe.steps,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        optimiser=recipe.optimiser,
        rim_share=recipe.rim_share,
        max_angle_deg=recipe.max_angle_deg,
        max_shift_mm=recipe.max_shift_mm,
        flair_gain=recipe.flair_gain,
        seed=seed,
    )
    fit_rims(network, lesions, kind=INPUTS[recipe.network], out=out, how=how, report=console.say)
    return network, recipe.settings


def write_rim_card(
    recipe: TrainingRecipe, weights: Path, *, built: dict[str, Any], trained_on: str, thresholds: list[float]
) -> Path:
    """A card without measurements, which are added at publication."""
    how = f"{recipe.steps} steps of {recipe.batch_size} lesions, seed {recipe.seed}"
    return write_card(
        recipe,
        weights,
        settings=built,
        spacing_mm=list(SPACING_MM),
        threshold=thresholds[0],
        sensitive_threshold=thresholds[1],
        view_shift_mm=recipe.view_shift_mm,
        training=f"{how}; {trained_on}; a fifth of the subjects chose the thresholds and was not trained on",
        limits="Trained on simulated susceptibility; validate before use. Measured on no real patient. Research use "
        "only.",
    )
