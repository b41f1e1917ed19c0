"""The cards of trained and of combined models."""

from __future__ import annotations

import json
from math import log
from pathlib import Path
from typing import Any

from msrim.errors import ModelError
from msrim.files import sha256_of, write_text
from msrim.models import load_model, read_card, write_weights
from msrim.models.registry import LESION_TASKS
from msrim.recipe import TrainingRecipe

# Models that vote must have these in common; rim models, which choose their own, also the threshold.
ALIKE = (
    "network",
    "settings",
    "task",
    "contrasts",
    "spacing_mm",
    "normalisation",
    "intensity_range",
    "threshold_range",
    "thick_slice_threshold",
    "view_shift_mm",
)


def write_card(
    recipe: TrainingRecipe,
    weights: Path,
    *,
    settings: dict[str, Any],
    training: str,
    limits: str,
    spacing_mm: float | list[float] = 1.0,
    threshold: float = 0.5,
    **more: float,
) -> Path:
    """Write ``card.toml`` beside weights, without the measurements, which are added at publication.

    Parameters
    ----------
    recipe : TrainingRecipe
    weights : Path
    settings : dict
        Arguments that build the network.
    training, limits, spacing_mm, threshold, **more
        Fields of :class:`msrim.models.registry.Card`.
    """
    values = {
        "name": recipe.name,
        "version": recipe.version,
        "network": recipe.network,
        "task": recipe.task,
        "summary": recipe.summary,
        "contrasts": list(recipe.contrasts),
        "required": list(recipe.required),
        "spacing_mm": spacing_mm,
        "normalisation": recipe.normalisation,
        "threshold": threshold,
        "intensity_range": recipe.intensity_range,
        "threshold_range": recipe.threshold_range,
        "thick_slice_threshold": recipe.thick_slice_threshold,
        **more,
        "sha256": sha256_of(weights),
        "licence": "Apache-2.0",
        "training": training,
        "limits": limits,
    }
    return _write(values, settings, weights)


def join_models(models: list[str], out: Path, *, name: str) -> Path:
    """Make one model of several that were trained alike, with other seeds: a majority vote.

    Parameters
    ----------
    models : list of str
        Names or folders as in ``msrim segment --model``; an odd number.
    out : Path
        Gets ``weights.safetensors`` and ``card.toml``.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    ModelError
        The number is even or 1, or the models are not of one kind.
    """
    from msrim.models.networks.ensemble import Ensemble

    cards = [read_card(model) for model in models]
    first = cards[0]
    if first.task not in (*LESION_TASKS, "rims"):
        raise ModelError(f"{first.label}: a model for {first.task}; models for lesions or rims can vote")
    if len({card.sha256 for card in cards}) < 3:
        raise ModelError("a vote takes three different models or more")
    for card in cards[1:]:
        alike = ALIKE if first.task == "rims" else (*ALIKE, "threshold")
        if other := [part for part in alike if getattr(card, part) != getattr(first, part)]:
            raise ModelError(f"{card.label} and {first.label} differ in {', '.join(other)}; join models trained alike")
    settings = {"network": first.network, "members": len(cards), **first.settings}
    # Each member's own threshold moves to that of the first, so that one threshold counts every member's vote.
    shifts = [_log_odds(first.threshold) - _log_odds(card.threshold) for card in cards]
    if any(shifts):
        settings["shifts"] = shifts
    vote = Ensemble(**settings)
    for member, card in zip(vote.members, cards, strict=True):
        member.load_state_dict(load_model(card).state_dict())
    weights = write_weights(vote, out / "weights.safetensors")
    values = {
        "name": name,
        "version": first.version,
        "network": "ensemble",
        **{part: getattr(first, part) for part in ALIKE if part not in ("network", "settings")},
        "threshold": first.threshold,
        "summary": f"{first.summary}; majority of {len(cards)}",
        "required": list(first.required),
        "sha256": sha256_of(weights),
        "licence": first.licence,
        "training": "; ".join(f"{card.label}: {card.training}" for card in cards),
        "limits": first.limits,
    }
    _write(values, settings, weights)
    return out


def _log_odds(probability: float) -> float:
    return log(probability / (1 - probability))


def _write(values: dict[str, Any], settings: dict[str, Any], weights: Path) -> Path:
    # Text, numbers and lists of them are the same in JSON and TOML.
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None]
    inline = ", ".join(f"{name} = {json.dumps(value)}" for name, value in settings.items())
    return write_text("\n".join([*lines, f"settings = {{ {inline} }}"]) + "\n", weights.parent / "card.toml")
