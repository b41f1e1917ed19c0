"""``msrim evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from msrim.cli.options import Quiet
from msrim.errors import InputError

# The areas that count where few lesions have a rim.
AREAS = ("pr_auc", "proc_auc")

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
        float, typer.Option("--min-volume-mm3", min=0, help="Leave smaller lesions out of the figures by lesion.")
    ] = 0.0,
) -> None:
    """Compare two lesion masks, lesions connected over 26 neighbours. Prints JSON."""
    import json

    from msrim.workflows.evaluate import evaluate_segmentation

    typer.echo(json.dumps(evaluate_segmentation(truth, prediction, min_volume_mm3=min_volume_mm3), indent=2))


@app.command()
def longitudinal(
    *,
    truth: Annotated[Path, typer.Option("--truth", help="Mask of new lesions, or of all changes, taken as true.")],
    prediction: Annotated[Path, typer.Option("--prediction", help="Mask of new lesions to be judged.")],
    truth_from_followup: Annotated[
        Path | None,
        typer.Option("--truth-from-followup", help="ITK transform to the truth's space, if the prediction needs one."),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline", help="Baseline FLAIR, where the truth marks shrinking too: with --followup and --brain."
        ),
    ] = None,
    truth_from_baseline: Annotated[
        Path | None, typer.Option("--truth-from-baseline", help="ITK transform of the baseline.")
    ] = None,
    followup: Annotated[Path | None, typer.Option("--followup", help="Follow-up FLAIR, with --baseline.")] = None,
    brain: Annotated[
        Path | None, typer.Option("--brain", help="Brain mask on the truth's grid, with --baseline.")
    ] = None,
) -> None:
    """Compare masks of new lesions on the truth's grid. Prints JSON.

    With both FLAIRs only those parts of the truth are taken that are brighter at follow-up.
    """
    import json

    from msrim.workflows.evaluate import evaluate_changes

    if baseline is not None and followup is not None and brain is not None:
        flairs = (baseline, followup, brain)
    elif baseline is followup is brain is None:
        flairs = None
    else:
        raise InputError("to tell growing from shrinking give all of --baseline, --followup and --brain")
    transforms = (truth_from_baseline, truth_from_followup)
    typer.echo(json.dumps(evaluate_changes(truth, prediction, transforms=transforms, flairs=flairs), indent=2))


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
        float, typer.Option("--min-volume-mm3", min=0, help="Leave smaller lesions out of the figures by lesion.")
    ] = 0.0,
    quiet: Quiet = False,
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


@app.command()
def rims(
    *,
    cohort: Annotated[
        list[Path],
        typer.Option("--cohort", help="Folder as `msrim simulate rim-cohort` makes it; several count together."),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="Rim model that never saw it: its name, or folder of one of your own; give it again to compare.",
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", help="Instead: train by this recipe, file or packaged name, and cross-validate."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder that keeps the folds of --recipe; what is done is not repeated."),
    ] = None,
    folds: Annotated[int, typer.Option("--folds", min=2, help="Of the subjects, for --recipe.")] = 5,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings of each fold, which vote.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda: where the network runs.")] = "auto",
    cache: Annotated[Path | None, typer.Option("--cache", help="Folder that keeps radiomic features.")] = None,
    quiet: Quiet = False,
) -> None:
    """Judge rim models, or a recipe, on a cohort: areas, F1 and counts with 95 % intervals over subjects."""
    import json

    from msrim.console import Console

    choose = "give --model to judge a trained model, or --recipe to train and judge by cross-validation"
    if model and recipe is not None:
        raise InputError(choose)
    console = Console(quiet=quiet)
    differences = []
    if model:
        from msrim.workflows.evaluate_rims import evaluate_rims

        found = evaluate_rims(cohort, models=model, console=console, device=device, cache=cache)
        models, differences = found["models"], found["differences"]
    elif recipe is None:
        raise InputError(choose)
    else:
        if out is None:
            raise InputError("--recipe needs --out, a folder that keeps the folds")
        if len(cohort) > 1:
            raise InputError("--recipe takes one --cohort, whose subjects are its folds")
        from msrim.recipe import read_training_recipe
        from msrim.workflows.evaluate_rims import evaluate_recipe
        from msrim.workflows.inputs import check_output_folder

        check_output_folder(out)
        read = read_training_recipe(recipe, device=device)
        found = evaluate_recipe(read, cohort[0], out, console=console, folds=folds, seeds=seeds, cache=cache)
        models = [found]
    if as_json:
        typer.echo(json.dumps(found if len(models) > 1 else models[0], indent=2))
        return
    for figures in models:
        _tell_rims(figures)
    for row in differences:
        areas = ("{} {:+.3f} ({:+.3f} to {:+.3f})".format(name, *row[name]) for name in AREAS if name in row)
        typer.echo(f"{models[0]['model']} less {row['other']}: {', '.join(areas)}")


def _tell_rims(figures: dict[str, Any]) -> None:
    """A model's figures, a line each."""
    n = figures["n"]
    typer.echo(f"{figures['model']} on {n['lesions']} lesions ({n['rim']} rim+) of {n['subjects']} subjects")
    for name in (*AREAS, "roc_auc", "accuracy", "f1", "sensitivity", "specificity", "ppv"):
        interval = figures["intervals"].get(name)
        spread = "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"
        typer.echo(f"{name:<12} {'n/a' if figures[name] is None else format(figures[name], '.3f')}{spread}")
    counts = figures["counts"]
    typer.echo(
        f"counts       r {'n/a' if counts['r'] is None else format(counts['r'], '.2f')}, MSE {counts['mse']:.2f}"
    )
    for kind, called in figures.get("kinds", {}).items():
        typer.echo(f"{kind:<12} {100 * called['called_rim']:.1f} % of {called['n']} called rim+")
