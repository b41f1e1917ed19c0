"""``msrim models``."""

from __future__ import annotations

import typer


def models() -> None:
    """List the models that come with msrim: name and version, what for, contrasts (optional ones in brackets)."""
    from msrim.models.registry import packaged_cards

    for card in packaged_cards():
        contrasts = " ".join(name if name in card.required else f"[{name}]" for name in card.contrasts)
        typer.echo(f"{card.label:<16} {card.task:<8} {contrasts:<20} {card.summary}")
