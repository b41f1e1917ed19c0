"""Accuracy on patients left out of training, five folds over every labelled patient, beside other tools.

    python -m tests.benchmarks.cross_validation --data DIR --out DIR --recipe pipelines/allnet.toml
        [--recipe pipelines/scp.toml] [--start allnet] [--seen openms07 openms19 mslesseg14]
        [--model scp] [--lesion-bank FILE --lesion-masks DIR --head-labels DIR] [--steps N] [--threshold T ...]

``--data`` holds labelled visits (``*label-L*_mask.nii.gz`` beside a FLAIR), each site in a folder of its own. For every
fold and recipe a model is trained on the other folds' patients, in ``--out``; a training that was broken off goes on,
and a folder that holds a model is used as it is. The models of all recipes decide together, with the packaged models of
``--model`` if they have seen none of the patients. Patients of ``--seen``, on which ``--start`` or ``--model`` were
trained, are in no fold and always trained on: nothing can be measured on them. Every other patient is segmented by
``msrim segment``'s own steps with all contrasts and with FLAIR alone, and compared with the experts' mask. Visits of
one person count as one, their mean; names that show one brain are one person. Thresholds are the cards' own. Each of
``--threshold`` gets a table as well, and a last one has in each fold that which is best on the others, by the sum of
Dice and lesion F1.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console as Page
from rich.table import Table

from msrim.bids import Subject
from msrim.console import Console
from msrim.evaluation.metrics import segmentation_metrics
from msrim.evaluation.statistics import bootstrap_interval
from msrim.image import read_volume
from msrim.recipe import Recipe, read_training_recipe
from msrim.workflows.segment import segment_subject
from msrim.workflows.sweep import deal_patients, site_of, undivided
from msrim.workflows.train import train
from msrim.workflows.training_data import marked_visits

QUIET = Console(quiet=True)
FIGURES = ("dice", "l_f1", "ltpr", "lfpr")
# Dice and lesion F1 of other tools' published outputs for three patients of MS3SEG (their authors' repositories),
# against the experts' masks.
PEERS = {
    "LST-LPA": {"105074": (0.60, 0.51), "105465": (0.59, 0.30), "105911": (0.33, 0.29)},
    "LST-LGA": {"105074": (0.13, 0.33), "105465": (0.31, 0.43), "105911": (0.15, 0.35)},
    "WMH-SynthSeg": {"105074": (0.48, 0.60), "105465": (0.42, 0.65), "105911": (0.27, 0.47)},
    "BIANCA": {"105074": (0.45, 0.35), "105465": (0.43, 0.24), "105911": (0.15, 0.13)},
    "MS3SEG's authors, trained there": {"105074": (0.59, 0.70), "105465": (0.59, 0.73), "105911": (0.27, 0.48)},
}


def main() -> None:
    """Train what is missing, segment, and print a table for each set of contrasts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, action="append", default=[], help="may be given again")
    parser.add_argument("--start", action="append", default=[], help="model to start from, one for each recipe")
    parser.add_argument("--model", action="append", default=[], help="packaged model that decides as well")
    parser.add_argument("--seen", nargs="*", default=[], help="patients that --start or --model have seen")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threshold", type=float, nargs="*", default=[], help="fixed, beside the cards'")
    for name in ("lesion-bank", "lesion-masks", "head-labels"):
        parser.add_argument(f"--{name}", type=Path)
    given = parser.parse_args()
    visits = [(subject, mask) for subject, mask in marked_visits(given.data) if subject.label not in given.seen]
    sites = [(subject.label, site_of(mask, given.data)) for subject, mask in visits]
    folds, people = undivided(
        deal_patients(sites, given.folds, data=given.data),
        visits,
        recipe=read_training_recipe(given.recipe[0]),
        prepared=given.out / "prepared",
        console=Console(),
        counted="one person",
    )
    for number, left_out in enumerate(folds):
        for index, recipe in enumerate(given.recipe):
            _train(recipe, number, left_out, start=given.start[index] if given.start else None, given=given)
    page = Page(width=130)
    for alone in (False, True):
        rows = [
            {"fold": number, "person": people.get(subject.label, subject.label), **row}
            for number, fold in enumerate(folds)
            for subject, mask in visits
            if subject.label in fold
            for row in measured(subject, mask, number=number, alone=alone, given=given)
        ]
        contrasts = "FLAIR alone" if alone else "all contrasts"
        for threshold in (None, *given.threshold):
            own = [row for row in rows if row["threshold"] == threshold]
            page.print(table_of(own, title=f"{contrasts}, threshold {threshold or 'of the card'}"))
        if given.threshold:
            page.print(table_of(nested(rows), title=f"{contrasts}, threshold chosen on the other folds"))
    page.print(peers_table())


def nested(rows: Sequence[dict]) -> list[dict]:
    """Rows of each fold at the fixed threshold that has the highest sum of Dice and lesion F1 on the other folds."""

    def value(threshold: float, fold: int) -> float:
        others = [row for row in rows if row["threshold"] == threshold and row["fold"] != fold]
        return float(np.mean([mean["dice"] + mean["l_f1"] for mean in means_of(others)]))

    thresholds = sorted({row["threshold"] for row in rows} - {None})
    best = {fold: max(thresholds, key=lambda t: value(t, fold)) for fold in {row["fold"] for row in rows}}
    return [row for row in rows if row["threshold"] == best[row["fold"]]]


def _train(path: Path, number: int, left_out: list[str], *, start: str | None, given: argparse.Namespace) -> None:
    painted = {name: getattr(given, name) for name in ("lesion_bank", "lesion_masks", "head_labels")}
    recipe = read_training_recipe(path, start=start, steps=given.steps, **painted)
    out = given.out / recipe.name / f"fold{number}"
    if not (out / "card.toml").is_file():
        prepared = given.out / "prepared"
        train(recipe, given.data, out, leave_out=left_out, console=Console(), prepared=prepared)


def measured(subject: Subject, mask: Path, *, number: int, alone: bool, given: argparse.Namespace) -> list[dict]:
    """Segment one visit by the models that have not seen its patient, and compare it with the experts' mask."""
    folders = [given.out / read_training_recipe(recipe).name / f"fold{number}" for recipe in given.recipe]
    model = "+".join([*(str(folder.absolute()) for folder in folders), *given.model])
    if alone:
        subject = replace(subject, contrasts={"FLAIR": subject.contrasts["FLAIR"]})
    out = given.out / "results" / ("FLAIR" if alone else "all")
    truth, rows = read_volume(mask, mask=True), []
    for threshold in (None, *given.threshold):
        found = segment_subject(subject, Recipe(model=model, threshold=threshold), out, console=QUIET)
        figures = segmentation_metrics(truth, read_volume(found, mask=True))
        rows.append({"site": site_of(mask, given.data), "threshold": threshold, **figures})
    return rows


def means_of(rows: Sequence[dict]) -> list[dict]:
    """The mean of each person's visits."""
    keys = (*FIGURES, "truth_volume_mm3", "prediction_volume_mm3")
    means = []
    for person in dict.fromkeys(row["person"] for row in rows):
        own = [row for row in rows if row["person"] == person]
        means.append({**own[0], **{key: np.mean([row[key] or 0 for row in own]) for key in keys}})
    return means


def table_of(rows: Sequence[dict], *, title: str) -> Table:
    """A row for each person, and the mean of each site and of all."""
    table = Table(title=f"{title}, patients left out of training")
    for column in ("site", "patient", "truth ml", "found ml", *FIGURES):
        table.add_column(column, justify="right")
    means = means_of(rows)
    for mean in means:
        volumes = [mean[f"{which}_volume_mm3"] / 1000 for which in ("truth", "prediction")]
        figures = [f"{mean[figure]:.3f}" for figure in FIGURES]
        table.add_row(mean["site"], mean["person"], *(f"{volume:.1f}" for volume in volumes), *figures)
    for site in (*dict.fromkeys(mean["site"] for mean in means), "all sites"):
        own = [mean for mean in means if site in (mean["site"], "all sites")]
        figures = []
        for figure in FIGURES:
            values = [mean[figure] for mean in own]
            low, high = bootstrap_interval(values) if len(values) > 1 else (values[0], values[0])
            figures.append(f"{np.mean(values):.3f} ({low:.2f}-{high:.2f})")
        table.add_row(site, f"mean, n = {len(own)}", "", "", *figures)
    return table


def peers_table() -> Table:
    """What other tools' published outputs reach on three of the patients, Dice and lesion F1."""
    patients = list(PEERS["LST-LPA"])
    table = Table(title="other tools on three of these patients, all contrasts: Dice / lesion F1")
    for column in ("tool", *patients, "mean"):
        table.add_column(column, justify="right")
    for tool, figures in PEERS.items():
        pairs = [figures[patient] for patient in patients]
        table.add_row(tool, *(f"{dice:.2f} / {f1:.2f}" for dice, f1 in [*pairs, np.mean(pairs, axis=0)]))
    return table


if __name__ == "__main__":
    main()
