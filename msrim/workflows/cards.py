"""The card that a training writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from msrim.files import sha256_of, write_text
from msrim.recipe import TrainingRecipe


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
    """Say what is known of weights, in ``card.toml`` beside them; whoever publishes them adds what was measured.

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
        **more,
        "sha256": sha256_of(weights),
        "licence": "Apache-2.0",
        "training": training,
        "limits": limits,
    }
    # Text, numbers and lists of them are the same in JSON and TOML.
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    inline = ", ".join(f"{name} = {json.dumps(value)}" for name, value in settings.items())
    return write_text("\n".join([*lines, f"settings = {{ {inline} }}"]) + "\n", weights.parent / "card.toml")
