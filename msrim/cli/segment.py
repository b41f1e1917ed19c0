"""``msrim segment`` and ``msrim preprocess``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

import msrim

SubjectFolder = Annotated[
    Path | None,
    typer.Argument(
        metavar="SUBJECT",
        help="A BIDS subject or session folder, or a folder with FLAIR.nii.gz and perhaps T1w.nii.gz, T2w.nii.gz.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder for the results; derivatives/msrim of a BIDS dataset or msrim-results beside a plain folder "
        "if not given.",
        show_default=False,
    ),
]
Flair = Annotated[Path | None, typer.Option("--flair", help="FLAIR image, instead of SUBJECT.")]
T1 = Annotated[Path | None, typer.Option("--t1", help="T1w image, with --flair.")]
T2 = Annotated[Path | None, typer.Option("--t2", help="T2w image, with --flair.")]
Model = Annotated[
    str | None,
    typer.Option("--model", help="Names from `msrim models` or folders of your own; + lets several decide together."),
]
Backend = Annotated[
    Literal["auto", "embedded", "fsl", "ants"] | None,
    typer.Option("--backend", help="Who prepares the images: msrim itself (embedded, auto), FSL in $FSLDIR, or ANTs."),
]
Device = Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option("--device", help="Where the networks run.")]
BrainExtracted = Annotated[
    bool | None, typer.Option("--brain-extracted", help="The images show the brain alone.", show_default=False)
]
RecipeFile = Annotated[
    Path | None,
    typer.Option("--recipe", help="Settings: a TOML file, or the name of a packaged recipe; options win over it."),
]
Lesions = Annotated[
    Path | None,
    typer.Option(
        "--lesions",
        help="Lesions that somebody has corrected, a mask or numbered, on the FLAIR's grid: they are measured beside "
        "those that are found.",
    ),
]
Grade = Annotated[
    bool | None,
    typer.Option(
        "--grade",
        help="Paint lesions of known size and contrast into the images, and tell how many are found.",
        show_default=False,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")]


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
