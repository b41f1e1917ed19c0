"""``msrim longitudinal``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import msrim
from msrim.cli.options import Backend, BrainExtracted, Device, Model, Out, Quiet, RecipeFile


def longitudinal(
    visits: Annotated[
        list[Path],
        typer.Argument(
            metavar="BASELINE FOLLOWUP",
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
    expansion: Annotated[
        bool | None,
        typer.Option(
            "--expansion",
            help="Measure how much each lesion and the brain expand or shrink, and find slowly expanding lesions.",
            show_default=False,
        ),
    ] = None,
    years: Annotated[
        list[float] | None,
        typer.Option(
            "--years",
            help="Years from each visit to the next, once for each; from dates beside the images if not given.",
        ),
    ] = None,
    grade: Annotated[
        bool | None,
        typer.Option(
            "--grade",
            help="Paint lesions into each visit and changes into a pair made of the baseline, and count those found.",
            show_default=False,
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Find what changed between visits. Prints the path of the mask of new lesions on the last visit's FLAIR."""
    found = msrim.longitudinal(
        visits,
        out=out,
        model=model,
        backend=backend,
        device=device,
        brain_extracted=brain_extracted,
        recipe=recipe,
        expansion=expansion,
        years=years or (),
        grade=grade,
        quiet=quiet,
    )
    typer.echo(found.new)
