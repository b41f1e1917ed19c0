"""``msrim rim-classify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import msrim
from msrim.cli.options import Backend, BrainExtracted, Device, Flair, Out, Quiet, RecipeFile, SubjectFolder


def rim_classify(
    subject: SubjectFolder = None,
    *,
    out: Out = None,
    flair: Flair = None,
    qsm: Annotated[
        Path | None, typer.Option("--qsm", help="Susceptibility map, ppm or ppb; SUBJECT's *_Chimap if not given.")
    ] = None,
    magnitude: Annotated[
        Path | None, typer.Option("--magnitude", help="Gradient-echo magnitude in the QSM's space, to register to.")
    ] = None,
    lesions: Annotated[
        Path | None,
        typer.Option("--lesions", help="Mask or instance map on the FLAIR's or the QSM's grid; else they are found."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", help="datrnet, or folder of one of your own (`msrim train`).")
    ] = "datrnet",
    threshold: Annotated[
        str, typer.Option("--threshold", help="f1 or sensitive (of the model's card), or a probability.")
    ] = "f1",
    backend: Backend = None,
    device: Device = None,
    brain_extracted: BrainExtracted = None,
    recipe: RecipeFile = None,
    quiet: Quiet = False,
) -> None:
    """Classify which lesions carry a paramagnetic rim. Prints the path of the table of lesions."""
    found = msrim.rim_classify(
        subject,
        out=out,
        flair=flair,
        qsm=qsm,
        magnitude=magnitude,
        lesions=lesions,
        model=model,
        threshold=threshold,
        backend=backend,
        device=device,
        brain_extracted=brain_extracted,
        recipe=recipe,
        quiet=quiet,
    )
    typer.echo(found.table)
