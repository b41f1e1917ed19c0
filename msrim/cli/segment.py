"""``msrim segment`` and ``msrim preprocess``."""

from __future__ import annotations

import typer

import msrim
from msrim.cli.options import (
    T1,
    T2,
    Backend,
    BrainExtracted,
    Device,
    Flair,
    Grade,
    Lesions,
    Model,
    Out,
    Quiet,
    RecipeFile,
    SubjectFolder,
)


def segment(
    subject: SubjectFolder = None,
    *,
    out: Out = None,
    flair: Flair = None,
    t1: T1 = None,
    t2: T2 = None,
    lesions: Lesions = None,
    model: Model = None,
    backend: Backend = None,
    device: Device = None,
    brain_extracted: BrainExtracted = None,
    recipe: RecipeFile = None,
    grade: Grade = None,
    quiet: Quiet = False,
) -> None:
    """Find lesions: mask, probability, table and report. Prints the path of the lesion mask."""
    found = msrim.segment(
        subject,
        out=out,
        flair=flair,
        t1=t1,
        t2=t2,
        lesions=lesions,
        model=model,
        backend=backend,
        device=device,
        brain_extracted=brain_extracted,
        recipe=recipe,
        grade=grade,
        quiet=quiet,
    )
    typer.echo(found.mask)


def preprocess(
    subject: SubjectFolder = None,
    *,
    out: Out = None,
    flair: Flair = None,
    t1: T1 = None,
    t2: T2 = None,
    backend: Backend = None,
    device: Device = None,
    brain_extracted: BrainExtracted = None,
    recipe: RecipeFile = None,
    quiet: Quiet = False,
) -> None:
    """Prepare the images and stop before the lesions. Prints the path of the brain mask."""
    from msrim.api import find_visit, results_folder
    from msrim.console import Console
    from msrim.recipe import read_recipe

    visit = find_visit(subject, flair=flair, t1=t1, t2=t2)
    settings = read_recipe(recipe, backend=backend, device=device, brain_extracted=brain_extracted)
    from msrim.workflows.anatomy import preprocess_subject

    typer.echo(preprocess_subject(visit, settings, results_folder(out, visit), console=Console(quiet=quiet)))
