"""``msrim evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
