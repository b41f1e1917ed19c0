"""``msrim longitudinal``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from msrim.cli.segment import Backend, BrainExtracted, Device, Model, Out, Quiet, RecipeFile, results_folder


def longitudinal(
    visits: Annotated[
        list[Path],
        typer.Argument(
            metavar="BASELINE FOLLOWUP...",
            help="Two or more visits of one patient in the order of time: folders as for `segment`, or FLAIR files.",
        ),
    ],
    *,
    out: Out = None,
    model: Model = None,
    backend: Backend = None,
    device: Device = None,
    brain_extracted: BrainExtracted = None,
    recipe: RecipeFile = None,
    quiet: Quiet = False,
) -> None:
    """Find what changed between visits. Prints the path of the mask of new lesions on the last visit's FLAIR."""
    from msrim.console import Console
    from msrim.recipe import read_recipe
    from msrim.workflows.longitudinal import find_visits, follow_visits

    found = find_visits(visits)
    settings = read_recipe(recipe, model=model, backend=backend, device=device, brain_extracted=brain_extracted)
    typer.echo(follow_visits(found, settings, results_folder(out, found[0]), console=Console(quiet=quiet)))
