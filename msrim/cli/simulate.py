"""``msrim simulate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make patients whose truth is known.", no_args_is_help=True)


@app.callback()
def simulate() -> None:
    """Make patients whose truth is known."""


@app.command()
def subject(
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder for the patient; made if missing.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed gives another patient.")] = 0,
) -> None:
    """Make a whole-head patient with lesions, as a scanner would give it. Prints the path of its folder."""
    from msrim.workflows.inputs import check_output_folder

    check_output_folder(out)
    from msrim.simulation.phantom import simulate_subject

    typer.echo(simulate_subject(out, seed=seed))
