"""``msrim models`` and ``msrim join``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def models() -> None:
    """List the models that come with msrim. Name and version, what for, contrasts (optional ones in brackets)."""
    from msrim.models.registry import packaged_cards

    for card in packaged_cards():
        contrasts = " ".join(name if name in card.required else f"[{name}]" for name in card.contrasts)
        typer.echo(f"{card.label:<16} {card.task:<12} {contrasts:<20} {card.summary}")


def join(
    members: Annotated[list[str], typer.Argument(metavar="MODEL", help="Three or more models trained alike.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder for the combined weights and their card.")],
    name: Annotated[str, typer.Option("--name", help="Name on the card.")] = "vote",
) -> None:
    """Join models that differ in their seed. They decide by majority. Prints the folder, which `--model` takes."""
    from msrim.models.cards import join_models

    typer.echo(join_models(members, out, name=name))
