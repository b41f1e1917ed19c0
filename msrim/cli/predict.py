"""``msrim predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from msrim.cli.options import Quiet


def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A slice model of one contrast: name or folder.")],
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="NIfTI image of that contrast, for example a CT.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder for mask and probability; made if missing.")],
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where the network runs.")
    ] = "auto",
    quiet: Quiet = False,
) -> None:
    """Run a slice model on one image, of any part of the body. Prints the path of the mask."""
    from msrim.console import Console
    from msrim.workflows.predict import predict as predict_one

    typer.echo(predict_one(model, image, out, device=device, console=Console(quiet=quiet)))
