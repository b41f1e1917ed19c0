"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

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
        help="Manually corrected lesions, a mask or numbered, on the FLAIR's grid: they are measured beside "
        "those that are found.",
    ),
]
Grade = Annotated[
    bool | None,
    typer.Option(
        "--grade",
        help="Paint lesions of known size and contrast into the images, and report how many are found.",
        show_default=False,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show errors only.")]
