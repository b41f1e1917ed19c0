"""``msrim train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from msrim.cli.options import Quiet


def train(
    *,
    recipe: Annotated[
        Path, typer.Option("--recipe", help="Settings: a TOML file, or the name of a packaged recipe, such as allnet.")
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data", help="Subjects with a *label-L*_mask.nii.gz beside each FLAIR, head label maps, or a rim cohort."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Folder for weights, card and loss curve; a run there is continued.")
    ],
    leave_out: Annotated[
        list[str] | None, typer.Option("--leave-out", help="Patient that must not be seen; may be given again.")
    ] = None,
    lesion_bank: Annotated[
        Path | None, typer.Option("--lesion-bank", help="Lesion maps (.npz) to paint into the images.")
    ] = None,
    lesion_masks: Annotated[
        Path | None, typer.Option("--lesion-masks", help="Folder of whole lesion masks in MNI space to paint as well.")
    ] = None,
    head_labels: Annotated[
        Path | None, typer.Option("--head-labels", help="Head label maps to synthesise brains from.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--start", help="Fine-tune: the model whose weights are the first ones.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Instead of the recipe's number.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Instead of the recipe's; see `msrim join`.")] = None,
    quiet: Quiet = False,
) -> None:
    """Train a network. Prints the folder, which `msrim segment --model` takes."""
    from msrim.console import Console
    from msrim.recipe import read_training_recipe

    settings = read_training_recipe(
        recipe,
        lesion_bank=lesion_bank,
        lesion_masks=lesion_masks,
        head_labels=head_labels,
        start=start,
        steps=steps,
        seed=seed,
    )
    from msrim.workflows.train import train as train_network

    typer.echo(train_network(settings, data, out, leave_out=leave_out or [], console=Console(quiet=quiet)))
