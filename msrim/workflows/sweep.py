"""Sweeps: the rows of a paper's table, each trained and judged on patients that it has not seen."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from msrim.bids import Subject
from msrim.console import Console
from msrim.errors import InputError
from msrim.evaluation.longitudinal import change_metrics
from msrim.evaluation.statistics import bootstrap_interval
from msrim.files import write_json
from msrim.image import Volume, read_volume, write_volume
from msrim.models.cards import join_models
from msrim.models.inference import find_changes
from msrim.models.registry import SEGMENTING_TASKS, Card, read_card
from msrim.preprocess.identity import same_brain
from msrim.recipe import Recipe, Sweep, TrainingRecipe
from msrim.workflows.anatomy import prepare
from msrim.workflows.evaluate import compare_cohort, curve_areas, write_comparison
from msrim.workflows.run import Run
from msrim.workflows.segment import LesionRule, find_lesions, write_lesions
from msrim.workflows.train import train
from msrim.workflows.training_data import marked_pairs, marked_visits, prepare_pair, prepare_visit, same_people

# Of single visits, and of pairs as CoactSeg's paper has them.
FIGURES = ("dice", "l_f1", "ltpr", "lfpr", "pq")
PAIR_FIGURES = ("dice", "jaccard", "hd95_mm", "asd_mm", "f1")


def run_sweep(sweep: Sweep, data: Path, out: Path, *, console: Console, **overrides: Any) -> dict[str, Any]:
    """Train every row on each part of the patients, and judge it on the others.

    Parameters
    ----------
    sweep : Sweep
    data : Path
        Training data of the rows' recipe, see :func:`msrim.workflows.train.train`.
    out : Path
        Keeps the models, masks and figures: what is done is not repeated, and what was interrupted goes on where it
        stopped. Gets ``judged/report.html`` with tables and curves, and ``sweep.json``.
    console : Console
    **overrides
        Fields of every row's recipe.

    Returns
    -------
    dict
        Ready for JSON: name, steps, seeds and folds; under ``rows`` by row ``patients``, the mean and 95 % interval
        (bootstrap over patients) of FIGURES, the areas under both curves and, where there are marked pairs, the same of
        PAIR_FIGURES; under ``differences`` each row's from the first, paired by patient; ``page``.

    Raises
    ------
    InputError
        The recipe trains no network that finds lesions, there are fewer patients than folds, or ``out`` holds another
        sweep.
    """
    recipes = {row: sweep.recipe_of(row, **overrides) for row in sweep.rows}
    for row, recipe in recipes.items():
        if recipe.task not in SEGMENTING_TASKS or recipe.contrasts == ("CT",):
            raise InputError(f"{sweep.name}, row {row}: finds no lesions of the brain; see `msrim evaluate rims`")
        if recipe.task == "longitudinal" and len(sweep.seeds) > 1:
            raise InputError(f"{sweep.name}, row {row}: networks that compare visits do not vote; give --seeds 1")
    visits = marked_visits(data)
    pairs = marked_pairs(data) if any(recipe.task == "longitudinal" for recipe in recipes.values()) else []
    folds = deal_patients([(subject.label, site_of(mask, data)) for subject, mask in visits], sweep.folds, data=data)
    for number, folder in enumerate(pairs):
        folds[number % sweep.folds].append(folder.name)
    if (kept := _kept_folds(out, folds)) is not None:
        folds = kept
    elif not _all_trained(sweep, out):
        recipe = next(iter(recipes.values()))
        folds, _ = undivided(folds, visits, recipe=recipe, prepared=out / "prepared", console=console)
        if not all(folds):
            raise InputError(f"{data}: too few different people for {sweep.folds} folds; see --folds")
    _keep_protocol(sweep, recipes, folds, out)
    for number, left_out in enumerate(folds):
        for row, recipe in recipes.items():
            console.say(f"{sweep.name}: fold {number + 1} of {len(folds)}, {row}")
            folder = out / folder_of(row)
            card = _trained(recipe, sweep, data, folder / f"fold-{number}", left_out=left_out, out=out, console=console)
            for subject, mask in visits:
                if subject.label in left_out:
                    _judge_visit(subject, mask, card=card, recipe=recipe, row=folder, out=out, console=console)
            for pair in pairs:
                if pair.name in left_out:
                    _judge_pair(pair, card=card, recipe=recipe, row=folder, out=out, console=console)
    figures = _figures(sweep, recipes, out, console=console)
    write_json(figures, out / "sweep.json")
    return figures


def deal_patients(patients: Iterable[tuple[str, str]], count: int, *, data: Path) -> list[list[str]]:
    """Patients (label and site) in so many parts, each site's dealt out in turn.

    Raises
    ------
    InputError
        There are fewer patients than parts.

    Examples
    --------
    >>> deal_patients([("c", "x"), ("a", "x"), ("b", "x"), ("a", "x"), ("d", "y")], 2, data=Path("data"))
    [['a', 'c'], ['b', 'd']]
    """
    ordered = [label for _, label in sorted({(site, label) for label, site in patients})]
    if len(ordered) < count:
        raise InputError(f"{data}: {len(ordered)} marked patients are too few for {count} folds; see --folds")
    return [ordered[number::count] for number in range(count)]


def undivided(
    folds: Sequence[Sequence[str]],
    visits: Iterable[tuple[Subject, Path]],
    *,
    recipe: TrainingRecipe,
    prepared: Path,
    console: Console,
    counted: str = "two patients",
) -> tuple[list[list[str]], dict[str, str]]:
    """The same parts, with patients that show one brain in one of them, and of these the first name by the others.

    A note tells who, and as what they are ``counted``. Visits go to ``prepared``.
    """
    parts, first = [list(fold) for fold in folds], dict[str, str]()
    patients = (prepare_visit(*visit, recipe=recipe, out=prepared, console=console) for visit in visits)
    for one, other, alike in same_people(patients, contrasts=recipe.contrasts):
        console.note(
            f"{same_brain(f'sub-{one}', f'sub-{other}', alike)}: no fold divides them, and they count as {counted}"
        )
        parts = together(parts, one, other)
        first[other] = first.get(one, one)
    return parts, first


def together(folds: Sequence[Sequence[str]], one: str, other: str) -> list[list[str]]:
    """The same parts, with a patient moved to where another one is.

    Examples
    --------
    >>> together([["a", "c"], ["b", "d"]], "a", "d")
    [['a', 'c', 'd'], ['b']]
    """
    if any({one, other} <= set(fold) for fold in folds):
        return [list(fold) for fold in folds]
    return [[*(name for name in fold if name != other), *([other] if one in fold else [])] for fold in folds]


def folder_of(row: str) -> str:
    """A row's name as that of a folder.

    Examples
    --------
    >>> folder_of("U-Net + AnaConv")
    'u-net-anaconv'
    """
    return re.sub(r"[^a-z0-9]+", "-", row.lower()).strip("-")


def site_of(mask: Path, data: Path) -> str:
    """The folder of the data that a mask lies in; none where patients lie in no other."""
    parts = mask.relative_to(data).parts
    return "" if parts[0].startswith("sub-") else parts[0]


def _keep_protocol(sweep: Sweep, recipes: dict[str, TrainingRecipe], folds: Sequence[Sequence[str]], out: Path) -> None:
    """Finished work in the folder is reused, so it must be of the same recipes and patients."""
    rows = {row: recipe.model_dump(mode="json", exclude={"device", "workers"}) for row, recipe in recipes.items()}
    protocol = {"rows": rows, "seeds": list(sweep.seeds), "folds": [list(fold) for fold in folds]}
    kept = out / "protocol.json"
    if kept.is_file() and json.loads(kept.read_text(encoding="utf-8")) != protocol:
        raise InputError(f"{out}: holds a sweep of other recipes or patients; choose another folder")
    write_json(protocol, kept)


def _kept_folds(out: Path, dealt: Sequence[Sequence[str]]) -> list[list[str]] | None:
    """The folds of a sweep of the same patients that the folder holds."""
    kept = out / "protocol.json"
    if not kept.is_file():
        return None
    folds = json.loads(kept.read_text(encoding="utf-8"))["folds"]
    names = [sorted(name for fold in parts for name in fold) for parts in (folds, dealt)]
    return folds if len(folds) == len(dealt) and names[0] == names[1] else None


def _all_trained(sweep: Sweep, out: Path) -> bool:
    return all(
        (out / folder_of(row) / f"fold-{number}" / f"seed-{seed}" / "card.toml").is_file()
        for row in sweep.rows
        for number in range(sweep.folds)
        for seed in sweep.seeds
    )


def _trained(
    recipe: TrainingRecipe,
    sweep: Sweep,
    data: Path,
    folder: Path,
    *,
    left_out: Sequence[str],
    out: Path,
    console: Console,
) -> Card:
    """The model of a row and fold, or its seeds' vote, trained where it is not there."""
    models = []
    for seed in sweep.seeds:
        model = folder / f"seed-{seed}"
        if not (model / "card.toml").is_file():
            seeded = recipe.model_copy(update={"seed": seed})
            train(seeded, data, model, leave_out=left_out, console=console, prepared=out / "prepared")
        models.append(str(model.absolute()))
    if len(models) == 1:
        return read_card(models[0])
    vote = folder / "vote"
    if not (vote / "card.toml").is_file():
        join_models(models, vote, name=recipe.name)
    return read_card(str(vote.absolute()))


def _judge_visit(
    subject: Subject, mask: Path, *, card: Card, recipe: TrainingRecipe, row: Path, out: Path, console: Console
) -> None:
    """Segment a visit by `msrim segment`'s own steps, and lay its truth beside."""
    results, truth = row / "results", subject.output(out / "truth", "space-orig_label-L_mask.nii.gz")
    write_volume(read_volume(mask, mask=True), truth)
    if subject.output(results, "desc-summary.json").is_file():
        return
    subject = subject.for_network(recipe.contrasts)
    settings = Recipe(backend=recipe.backend, brain_extracted=recipe.brain_extracted, device=recipe.device)
    prepared = out / "prepared"
    with Run(subject.folder(prepared), console, recipe=settings.model_dump(), inputs=subject.contrasts) as run:
        anatomy = prepare(subject, settings, run, out=prepared)
        found = run(find_lesions, anatomy.working, to_mni=anatomy.to_mni, card=card, device=recipe.device)
    # One threshold for everybody, the card's: a table compares networks.
    rule, flair = LesionRule(card.label, card.threshold, settings.min_lesion_mm3), anatomy.working.images["FLAIR"]
    write_lesions(subject, out=results, probabilities=found, anatomy=anatomy.files, flair=flair, rule=rule)


def _judge_pair(folder: Path, *, card: Card, recipe: TrainingRecipe, row: Path, out: Path, console: Console) -> None:
    """New lesions of a marked pair by the network alone, without any rule."""
    kept = row / "pairs" / f"{folder.name}.json"
    if kept.is_file():
        return
    pair = prepare_pair(folder, recipe=recipe, out=out / "prepared", console=console)
    baseline, followup = pair.images.numpy()
    _, (_, new) = find_changes(baseline, followup, card=card, device=recipe.device, both_ways=False)
    found = change_metrics(Volume(pair.new, np.eye(4)), Volume(new >= card.threshold, np.eye(4)))
    write_json({**found, "f1": found["paper"]["f1"]}, kept)


def _figures(sweep: Sweep, recipes: dict[str, TrainingRecipe], out: Path, *, console: Console) -> dict[str, Any]:
    """The table, and the page of :func:`msrim.workflows.evaluate.write_comparison`."""
    folders = {row: out / folder_of(row) / "results" for row in recipes}
    methods, differences = compare_cohort(out / "truth", folders, min_volume_mm3=0.0, console=console)
    rows = {}
    for method in methods:
        summary = {found["figure"]: found for found in method.summary}
        rows[method.name] = {
            "patients": summary["dice"]["patients"],
            **{figure: {key: summary[figure][key] for key in ("mean", "low", "high")} for figure in FIGURES},
            **curve_areas(method),
            **_pair_figures(sorted((out / folder_of(method.name) / "pairs").glob("*.json"))),
        }
    page = write_comparison(methods, differences, out / "judged", min_volume_mm3=0.0)
    return {
        "sweep": sweep.name,
        "steps": {row: recipe.steps for row, recipe in recipes.items()},
        "seeds": len(sweep.seeds),
        "folds": sweep.folds,
        "rows": rows,
        "differences": {row: [one for one in found if one["figure"] in FIGURES] for row, found in differences.items()},
        "page": str(page),
    }


def _pair_figures(paths: Sequence[Path]) -> dict[str, Any]:
    """Mean and interval of new lesions' figures over marked pairs; nothing where there are none."""
    if not paths:
        return {}
    cases = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    figures: dict[str, Any] = {"pairs": len(cases)}
    for figure in PAIR_FIGURES:
        values = [case[figure] for case in cases if case[figure] is not None]
        low, high = bootstrap_interval(values) or (None, None)
        figures[f"new_{figure}"] = {"mean": float(np.mean(values)) if values else None, "low": low, "high": high}
    return figures
