"""``msrim sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from msrim.cli.options import Quiet


def sweep(
    table: Annotated[
        Path, typer.Argument(metavar="SWEEP", help="A TOML file, or a packaged sweep's name, such as allnet-table4.")
    ],
    *,
    data: Annotated[Path, typer.Option("--data", help="Training data of its recipe, see `msrim train`.")],
    out: Annotated[Path, typer.Option("--out", help="Folder that keeps models and masks; what is done stays.")],
    lesion_bank: Annotated[
        Path | None, typer.Option("--lesion-bank", help="Lesion maps (.npz) to paint into the images.")
    ] = None,
    lesion_masks: Annotated[
        Path | None, typer.Option("--lesion-masks", help="Folder of whole lesion masks in MNI space to paint as well.")
    ] = None,
    head_labels: Annotated[
        Path | None, typer.Option("--head-labels", help="Head label maps to synthesise brains from.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Of every training, instead of the recipe's.")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="How many trainings vote; an odd number.")] = None,
    folds: Annotated[int | None, typer.Option("--folds", min=2, help="Parts of the patients.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train and judge the rows of a paper's table.

    Each is judged on patients left out of training. An interrupted sweep goes on.
    """
    import json

    from msrim.console import Console
    from msrim.recipe import read_sweep

    chosen = None if seeds is None else tuple(range(1, seeds + 1))
    settings = read_sweep(table, seeds=chosen, folds=folds)
    painted = {"lesion_bank": lesion_bank, "lesion_masks": lesion_masks, "head_labels": head_labels}
    for row in settings.rows:
        settings.recipe_of(row, steps=steps, device=device, **painted)
    from msrim.workflows.inputs import check_output_folder
    from msrim.workflows.sweep import run_sweep

    check_output_folder(out)
    figures = run_sweep(settings, data, out, console=Console(quiet=quiet), steps=steps, device=device, **painted)
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
        return
    for line in table_lines(figures):
        typer.echo(line)


def table_lines(figures: dict[str, Any]) -> list[str]:
    """The table of :func:`msrim.workflows.sweep.run_sweep` as lines of text."""
    first, *others = figures["rows"]
    steps = sorted(set(figures["steps"].values()))
    lines = [
        f"{figures['sweep']}: n = {figures['rows'][first]['patients']} patients, each judged by networks that have not "
        f"seen it; {figures['folds']} folds, {figures['seeds']} seed(s), {' or '.join(map(str, steps))} steps; mean "
        "(95 % interval over patients)"
    ]
    for row, found in figures["rows"].items():
        parts = [f"{name} {_interval(value)}" for name, value in found.items() if isinstance(value, dict)]
        areas = {"PR area": found["average_precision"], "lesion ROC area": found["lesion_roc_area"]}
        parts += [f"{name} {_number(value)}" for name, value in areas.items()]
        pairs = f" [new lesions of {found['pairs']} pairs]" if "pairs" in found else ""
        lines.append(f"{row}{pairs}: {', '.join(parts)}")
    for row in others:
        for one in figures["differences"].get(row, []):
            if one["figure"] == "dice":
                lines.append(f"{row} less {first}: Dice {_interval(one, 'mean_difference')}, n = {one['patients']}")
    return [*lines, f"page: {figures['page']}"]


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _interval(found: dict[str, Any], key: str = "mean") -> str:
    spread = "" if found["low"] is None else f" ({found['low']:.3f} to {found['high']:.3f})"
    return _number(found[key]) + spread
