"""``msrim cohort``, a BIDS App."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from msrim.cli.options import Backend, BrainExtracted, Device, Grade, Model, Quiet, RecipeFile
from msrim.errors import InputError


class BidsAppCommand(TyperCommand):
    """Takes several labels after one option, as BIDS Apps do: ``--participant-label 01 02``."""

    # Patients who are processed side by side share the machine's memory.
    keeps_freed_memory = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread: list[str] = []
        option = None
        for argument in args:
            if argument.startswith("-"):
                option = argument if argument in ("--participant-label", "--session-label") else None
            elif option is not None and spread[-1] != option:
                spread.append(option)
            spread.append(argument)
        return super().parse_args(ctx, spread)


def cohort(
    bids_dir: Annotated[Path, typer.Argument(help="The dataset.")],
    out_dir: Annotated[Path, typer.Argument(help="Folder for the results; made if missing.")],
    level: Annotated[
        Literal["participant", "group"], typer.Argument(help="Every visit by itself; then tables and a page over all.")
    ],
    *,
    participant_label: Annotated[
        list[str] | None,
        typer.Option("--participant-label", help="Only these, with or without sub-; after the folders and the level."),
    ] = None,
    session_label: Annotated[
        list[str] | None, typer.Option("--session-label", help="Only these, with or without ses-.")
    ] = None,
    skip_bids_validation: Annotated[
        bool, typer.Option("--skip-bids-validation", help="Do not ask for dataset_description.json.")
    ] = False,
    work: Annotated[
        Path | None,
        typer.Option("-w", "--work-dir", help="For the graph's own files; a visit's steps stay beside its results."),
    ] = None,
    plugin: Annotated[
        str, typer.Option("--plugin", help="Of Nipype: Linear, MultiProc, SLURM, SLURMGraph, PBS, SGE, ...")
    ] = "Linear",
    plugin_args: Annotated[
        str | None, typer.Option("--plugin-args", help='JSON, or a file of it, as {"n_procs": 4} for MultiProc.')
    ] = None,
    model: Model = None,
    rim_model: Annotated[str, typer.Option("--rim-model", help="For visits with a *_Chimap.")] = "datrnet",
    backend: Backend = None,
    device: Device = None,
    brain_extracted: BrainExtracted = None,
    recipe: RecipeFile = None,
    grade: Grade = None,
    quiet: Quiet = False,
) -> None:
    """Run a whole BIDS dataset: lesions, rims, changes over time. Prints the results' folder, or the group's page."""
    from msrim.console import Console
    from msrim.recipe import read_recipe
    from msrim.workflows.cohort.tasks import find_cohort

    visits = find_cohort(
        bids_dir,
        participants=participant_label or (),
        sessions=session_label or (),
        validate=not skip_bids_validation,
    )
    console = Console(quiet=quiet)
    if level == "group":
        from msrim.workflows.cohort.group import summarise_group

        typer.echo(summarise_group(visits, out_dir, console=console))
        return
    settings = read_recipe(
        recipe, model=model, backend=backend, device=device, brain_extracted=brain_extracted, grade=grade
    )
    arguments = _plugin_args(plugin_args)
    from msrim.workflows.cohort.participants import Plugin, run_cohort

    typer.echo(
        run_cohort(
            visits,
            settings,
            out_dir,
            console=console,
            rim_model=rim_model,
            plugin=Plugin(plugin, arguments),
            work=work,
        )
    )


def _plugin_args(given: str | None) -> dict[str, Any]:
    if given is None:
        return {}
    try:
        text = given if given.lstrip().startswith("{") else Path(given).read_text(encoding="utf-8")
        arguments = json.loads(text)
    except (OSError, ValueError) as error:
        raise InputError(f"--plugin-args {given}: neither JSON nor a file of it ({error})") from error
    if not isinstance(arguments, dict):
        raise InputError(f'--plugin-args {given}: give a JSON object, as {{"n_procs": 4}}')
    for name in ("n_procs", "memory_gb"):
        value = arguments.get(name, 1)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
            raise InputError(f"--plugin-args {given}: {name} is {value!r}; give a number above 0")
    return arguments
