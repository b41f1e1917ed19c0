"""``msrim rim-classify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from msrim.cli.segment import (
    Backend,
    BrainExtracted,
    Device,
    Flair,
    Out,
    Quiet,
    RecipeFile,
    SubjectFolder,
    results_folder,
)
from msrim.errors import InputError


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
        str, typer.Option("--model", help="datrnet, qsmrimnet, or folder of one of your own.")
    ] = "datrnet",
    threshold: Annotated[
        str, typer.Option("--threshold", help="f1 or sensitive, as the model's card says, or a probability.")
    ] = "f1",
    backend: Backend = None,
    device: Device = None,
    brain_extracted: BrainExtracted = None,
    recipe: RecipeFile = None,
    quiet: Quiet = False,
) -> None:
    """Tell which lesions carry a paramagnetic rim. Prints the path of the table of lesions."""
    from msrim.bids import find_qsm, find_subject, subject_from_files
    from msrim.console import Console
    from msrim.recipe import read_recipe

    if subject is None and (flair is None or qsm is None):
        raise InputError("no subject; give a folder with FLAIR and QSM, or --flair and --qsm")
    patient = find_subject(subject) if flair is None else subject_from_files(flair)
    settings = read_recipe(recipe, backend=backend, device=device, brain_extracted=brain_extracted)
    from msrim.workflows.rims import classify_rims

    table = classify_rims(
        patient,
        find_qsm(subject) if qsm is None else qsm.absolute(),
        settings,
        results_folder(out, patient),
        console=Console(quiet=quiet),
        model=model,
        threshold=threshold,
        lesions=None if lesions is None else lesions.absolute(),
        magnitude=None if magnitude is None else magnitude.absolute(),
    )
    typer.echo(table)
