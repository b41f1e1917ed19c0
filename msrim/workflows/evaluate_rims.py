"""Evaluation of rim classification: a packaged model on a cohort, or a recipe by cross-validation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from msrim.console import Console
from msrim.errors import InputError
from msrim.evaluation.rims import (
    best_f1_threshold,
    bootstrap_difference,
    bootstrap_intervals,
    majority,
    rim_metrics,
    stratified_folds,
)
from msrim.files import write_json
from msrim.models.inference import choose_device
from msrim.models.registry import read_card
from msrim.models.rims import INPUTS, inputs_of, predict, rim_probabilities
from msrim.recipe import TrainingRecipe
from msrim.training.rims import RimLesions, read_cohort, together
from msrim.workflows.train_rims import fit_network

SEEDS = 3


def evaluate_rims(
    cohorts: Sequence[Path],
    *,
    models: Sequence[str],
    console: Console,
    device: str = "cpu",
    cache: Path | None = None,
) -> dict[str, Any]:
    """How well trained models classify the rims of cohorts that they never saw.

    Parameters
    ----------
    cohorts : sequence of Path
        See :func:`msrim.training.rims.read_cohort`; their subjects count together.
    models : sequence of str
        Of the task "rims"; the threshold of each one's card decides.
    console : Console
    device : str
    cache : Path, optional
        Folder that keeps radiomic features.

    Returns
    -------
    dict
        Ready for JSON. ``models``: for each its ``model``, ``threshold``, the figures of
        :func:`msrim.evaluation.rims.rim_metrics`, under ``intervals`` their 95 % intervals by bootstrap over subjects,
        and under ``kinds`` how many lesions were made as each kind and the share of them that is called rim+.
        ``differences``: the first model less each other one, with ``other``, and for each area the difference and the
        ends of its 95 % interval on the same resampled subjects.

    Raises
    ------
    InputError
        A cohort cannot be used, or a model classifies no rims.
    """
    cards = [read_card(model) for model in models]
    for card in cards:
        if card.task != "rims":
            raise InputError(f"{card.label}: classifies no rims (its task is {card.task}); choose another model")
    choose_device(device)
    judged, probabilities, read = [], [], {}
    for card in cards:
        kind = inputs_of(card)
        if kind not in read:
            parts = [read_cohort(cohort, kind=kind, console=console, cache=cache) for cohort in cohorts]
            # Those of another kind go: a cohort's patches take much memory.
            read = {kind: together(parts)}
        lesions = read[kind]
        probability = rim_probabilities(card, lesions.patches, lesions.features, device=device)
        probabilities.append(probability)
        judged.append({"model": card.label, **rim_figures(lesions, probability, threshold=card.threshold)})
    differences = []
    for card, probability in zip(cards[1:], probabilities[1:], strict=True):
        found = bootstrap_difference(lesions.truth, probabilities[0], probability, subjects=lesions.subjects)
        differences.append({"other": card.label, **found})
    return {"models": judged, "differences": differences}


def rim_figures(lesions: RimLesions, probability: np.ndarray, *, threshold: float) -> dict[str, Any]:
    """One model's part of :func:`evaluate_rims` for lesions whose probability (N,) it gave."""
    rim = probability >= threshold
    figures = rim_metrics(lesions.truth, probability, subjects=lesions.subjects, rim=rim)
    intervals = bootstrap_intervals(lesions.truth, probability, subjects=lesions.subjects, rim=rim)
    kinds = {
        str(kind): {"n": int((lesions.kinds == kind).sum()), "called_rim": float(rim[lesions.kinds == kind].mean())}
        for kind in ([] if lesions.kinds is None else np.unique(lesions.kinds))
        if kind
    }
    return {"threshold": threshold, **figures, "intervals": intervals, "kinds": kinds}


def evaluate_recipe(
    recipe: TrainingRecipe,
    cohort: Path,
    out: Path,
    *,
    console: Console,
    folds: int = 5,
    seeds: int = SEEDS,
    cache: Path | None = None,
) -> dict[str, Any]:
    """How well a recipe's networks classify rims of subjects that they did not see, by cross-validation.

    Parameters
    ----------
    recipe : TrainingRecipe
        Of the task "rims".
    cohort : Path
        See :func:`msrim.training.rims.read_cohort`.
    out : Path
        Keeps the folds: what is done is not repeated, and what was interrupted goes on where it stopped.
    console : Console
    folds, seeds : int
        The seeds vote.
    cache : Path, optional
        Folder that keeps radiomic features; ``out/radiomics`` if not given.

    Returns
    -------
    dict
        As of one model of :func:`evaluate_rims`, with ``losses``: the mean training loss of the last tenth of the steps
        of each fold and seed, and ``seen``: lesions drawn in each training.

    Raises
    ------
    InputError
        The recipe trains no rim network, or the cohort cannot be used.
    """
    kind = INPUTS.get(recipe.network)
    if kind is None:
        raise InputError(f"{recipe.network}: not a rim network; choose one of {', '.join(INPUTS)}")
    lesions = read_cohort(cohort, kind=kind, console=console, cache=cache or out / "radiomics")
    result = cross_validate(recipe, lesions, out, console=console, folds=folds, seeds=seeds)
    losses = {}
    for path in sorted(out.glob("fold-*_seed-*/loss.csv")):
        values = [float(line.split(",")[1]) for line in path.read_text(encoding="utf-8").splitlines()]
        losses[path.parent.name] = round(float(np.mean(values[-max(1, len(values) // 10) :])), 4)
    seen = recipe.steps * recipe.batch_size
    return {"model": f"{recipe.name}@{recipe.version}", "seen": seen, "losses": losses, **result.figures()}


@dataclass(frozen=True, eq=False)
class CrossValidated:
    """Predictions of networks for lesions that they had not seen.

    Attributes
    ----------
    probability : (seeds, lesions) float
    folds : (lesions,) int
    truth : (lesions,) bool
    subjects : (lesions,) int
    """

    probability: np.ndarray
    folds: np.ndarray
    truth: np.ndarray
    subjects: np.ndarray

    def of(self, chosen: np.ndarray) -> CrossValidated:
        """Some of the lesions, by (lesions,) bool."""
        return CrossValidated(
            self.probability[:, chosen], self.folds[chosen], self.truth[chosen], self.subjects[chosen]
        )

    @property
    def rim(self) -> np.ndarray:
        """The seeds' majority, each fold by the F1-best threshold of the others: its own truth chooses nothing."""
        decisions = np.zeros(self.probability.shape, bool)
        for decided, probability in zip(decisions, self.probability, strict=True):
            for fold in np.unique(self.folds):
                inside = self.folds == fold
                decided[inside] = probability[inside] >= best_f1_threshold(self.truth[~inside], probability[~inside])
        return majority(decisions)

    def figures(self) -> dict[str, Any]:
        """The papers' figures with intervals; the curves are those of the seeds' mean probability."""
        mean = self.probability.mean(axis=0)
        subjects, folds, rim = self.subjects, self.folds, self.rim
        figures = rim_metrics(self.truth, mean, subjects=subjects, folds=folds, rim=rim)
        intervals = bootstrap_intervals(self.truth, mean, subjects=subjects, folds=folds, rim=rim)
        return {**figures, "intervals": intervals}


def cross_validate(
    recipe: TrainingRecipe, lesions: RimLesions, out: Path, *, console: Console, folds: int = 5, seeds: int = SEEDS
) -> CrossValidated:
    """Train on four fifths of the subjects and judge the rest, five times, with several seeds.

    A fold that ``out`` holds the probabilities of is not trained again.

    Parameters
    ----------
    recipe : TrainingRecipe
    lesions : RimLesions
        Read for the recipe's network.
    out : Path
        Gets a folder for every fold and seed.
    console : Console

    Raises
    ------
    InputError
        ``out`` holds folds of another recipe or cohort, or there are too few subjects with a rim to train on.
    """
    kind = INPUTS[recipe.network]
    counts = np.bincount(lesions.subjects, weights=lesions.labels, minlength=len(lesions.names))
    of_lesion = stratified_folds(counts, folds=folds)[lesions.subjects]
    if not all(lesions.labels[of_lesion != fold].any() for fold in range(folds)):
        raise InputError(f"{counts.astype(bool).sum()} subjects with a rim are too few for {folds} folds; give more")
    _keep_protocol(recipe, lesions, out, folds=folds)
    probability = np.zeros((seeds, len(lesions.labels)))
    for seed in range(seeds):
        for fold in range(folds):
            held_out = of_lesion == fold
            folder = out / f"fold-{fold}_seed-{seed}"
            done = folder / "probability.npy"
            if not done.is_file():
                console.say(f"{recipe.name}: fold {fold + 1} of {folds}, seed {seed + 1} of {seeds}")
                network, _ = fit_network(
                    recipe, lesions.of(~held_out), folder, console=console, seed=recipe.seed + seed
                )
                judged = lesions.of(held_out)
                shift = recipe.view_shift_mm
                found = predict(
                    network, kind, judged.patches, judged.features, view_shift_mm=shift, device=recipe.device
                )
                np.save(done, found, allow_pickle=False)
            probability[seed, held_out] = np.load(done, allow_pickle=False)
    return CrossValidated(probability, of_lesion, lesions.truth, lesions.subjects)


def _keep_protocol(recipe: TrainingRecipe, lesions: RimLesions, out: Path, *, folds: int) -> None:
    """Folds that lie in the folder are taken as they are, so they must be of the same recipe and lesions."""
    protocol = {
        "recipe": recipe.model_dump(mode="json", exclude={"device"}),
        "subjects": list(lesions.names),
        "lesions": len(lesions.labels),
        "folds": folds,
    }
    kept = out / "protocol.json"
    if kept.is_file() and json.loads(kept.read_text(encoding="utf-8")) != protocol:
        raise InputError(f"{out}: holds folds of another recipe or cohort; choose another folder")
    write_json(protocol, kept)
