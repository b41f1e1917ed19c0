"""``msrim models``."""

from __future__ import annotations

import typer


def models() -> None:
    """List the networks that come with msrim."""
    from msrim.models.registry import MODELS, read_card

    for name in MODELS:
        card = read_card(name)
        typer.echo(f"{card.name} {card.version}\t{', '.join(card.contrasts)}\t{card.summary}")
