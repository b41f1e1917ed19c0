"""``msrim evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from msrim.errors import InputError

app = typer.Typer(help="Compare results with the truth.", no_args_is_help=True)


@app.callback()
def evaluate() -> None:
    """Compare results with the truth."""


@app.command()
def segmentation(
    *,
    truth: Annotated[Path, typer.Option("--truth", help="Lesion mask taken as true.")],
    prediction: Annotated[Path, typer.Option("--prediction", help="Lesion mask to be judged, on the same grid.")],
    min_volume_mm3: Annotated[
        float, typer.Option("--min-volume-mm3", min=0, help="Leave out smaller lesions of both masks.")
    ] = 0.0,
) -> None:
    """Compare two lesion masks, lesions connected over 26 neighbours. Prints JSON."""
    import json

    from msrim.evaluation.metrics import segmentation_metrics
    from msrim.image import read_volume

    metrics = segmentation_metrics(
        read_volume(truth, mask=True), read_volume(prediction, mask=True), min_volume_mm3=min_volume_mm3
    )
    typer.echo(json.dumps(metrics, indent=2))


@app.command()
def cohort(
    *,
    truth: Annotated[Path, typer.Option("--truth", help="Folder with a sub-*_label-L_*mask.nii.gz for each visit.")],
    prediction: Annotated[
        list[str],
        typer.Option(
            "--prediction",
            help="NAME=FOLDER of a method's masks (and *_probseg) for those visits; give it again to compare methods.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the tables and the page; made if missing.")],
    min_volume_mm3: Annotated[
        float, typer.Option("--min-volume-mm3", min=0, help="Leave out smaller lesions of all masks.")
    ] = 0.0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
) -> None:
    """Compare methods with the truth and with each other: tables, tests, curves. Prints the path of the page."""
    folders = {}
    for given in prediction:
        name, _, folder = given.partition("=")
        if not name or not folder:
            raise InputError(f"{given}: give a method as NAME=FOLDER")
        folders[name] = Path(folder)
    from msrim.console import Console
    from msrim.workflows.evaluate import evaluate_cohort
    from msrim.workflows.inputs import check_output_folder

    check_output_folder(out)
    console = Console(quiet=quiet)
    typer.echo(evaluate_cohort(truth, folders, out, min_volume_mm3=min_volume_mm3, console=console))
