"""``msrim run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import msrim
from msrim.cli.options import Backend, BrainExtracted, Device, Grade, Model, Out, Quiet, RecipeFile


def run(
    subjects: Annotated[
        list[Path],
        typer.Argument(
            metavar="SUBJECT",
            help="Folders of patients, with ses-* folders where there are several visits; or of single visits.",
        ),
    ],
    *,
    out: Out = None,
    model: Model = None,
    rim_model: Annotated[str, typer.Option("--rim-model", help="For visits with a *_Chimap.")] = "datrnet",
    backend: Backend = None,
    device: Device = None,
    brain_extracted: BrainExtracted = None,
    recipe: RecipeFile = None,
    grade: Grade = None,
    quiet: Quiet = False,
) -> None:
    """Do all that a patient's images allow. Lesions; rims where a QSM is; changes where there are several visits.

    Prints the path of the patient's page, which leads to all other pages and has one row per lesion.
    """
    patients = msrim.run(
        *subjects,
        out=out,
        model=model,
        rim_model=rim_model,
        backend=backend,
        device=device,
        brain_extracted=brain_extracted,
        recipe=recipe,
        grade=grade,
        quiet=quiet,
    )
    for patient in patients:
        typer.echo(patient.page)
