"""Leave-one-patient-out accuracy of a lesion model, through the same command chain that a user runs.

    python -m tests.benchmarks.leave_one_out --data DIR --lesion-bank FILE --lesion-masks DIR --head-labels DIR
        --out DIR [--recipe pipelines/scp.toml] [--contrasts FLAIR T2w]
    python -m tests.benchmarks.leave_one_out --data DIR --out DIR --models DIR [DIR ...]

For every patient a model is trained on the others (a folder of ``--out`` that holds one is used as it is), and segments
that patient's visits with FLAIR, T1w and T2w, with FLAIR and T1w, and with FLAIR alone: a table each, of the visits
that have them. With ``--models``, what earlier runs trained decides together, and nothing is trained. Visits of one
patient count as one patient: their mean. No truth chooses a checkpoint or a threshold.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console as Page
from rich.table import Table

from msrim.bids import CONTRASTS, Subject
from msrim.console import Console
from msrim.evaluation.metrics import segmentation_metrics
from msrim.evaluation.statistics import bootstrap_interval
from msrim.image import read_volume
from msrim.recipe import Recipe, read_training_recipe
from msrim.workflows.segment import segment_subject
from msrim.workflows.train import train
from msrim.workflows.training_data import marked_visits

RECIPE = Path(__file__).parents[2] / "pipelines" / "allnet.toml"
TABLES = (("FLAIR", "T1w", "T2w"), ("FLAIR", "T1w"), ("FLAIR",))
FIGURES = ("dice", "ltpr", "lfpr", "l_f1")
QUIET = Console(quiet=True)


def main() -> None:
    """Train what is missing, segment, and print a table for each set of contrasts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="visits with a *label-L*_mask.nii.gz beside the FLAIR")
    parser.add_argument("--lesion-bank", type=Path, help="lesion maps to paint into the training images")
    parser.add_argument("--lesion-masks", type=Path, help="whole patients' masks to paint as well")
    parser.add_argument("--head-labels", type=Path, help="head label maps to synthesise brains from")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="of the task lesions or slices")
    parser.add_argument("--contrasts", nargs="+", choices=CONTRASTS, help="one table of these instead of three")
    parser.add_argument(
        "--models", type=Path, nargs="+", help="the --out of earlier runs, whose models decide together"
    )
    parser.add_argument("--out", type=Path, required=True, help="gets the models and results; one folder a recipe")
    given = parser.parse_args()
    visits = marked_visits(given.data)
    if given.models is None:
        _train_missing(visits, given)
    models = given.models or [given.out]
    for contrasts in [tuple(given.contrasts)] if given.contrasts else TABLES:
        Page(width=120).print(table_of(visits, contrasts, models=models, out=given.out))


def _train_missing(visits: list[tuple[Subject, Path]], given: argparse.Namespace) -> None:
    """A model for each patient that has none, on the others."""
    painted = {name: getattr(given, name) for name in ("lesion_bank", "lesion_masks", "head_labels")}
    recipe = read_training_recipe(given.recipe, **painted)
    for patient in sorted({subject.label for subject, _ in visits}):
        if not (given.out / patient / "card.toml").is_file():
            # Visits and synthetic brains are made once for all.
            prepared = given.out / "prepared"
            train(recipe, given.data, given.out / patient, leave_out=[patient], console=Console(), prepared=prepared)


def table_of(
    marked: list[tuple[Subject, Path]], contrasts: tuple[str, ...], *, models: Sequence[Path], out: Path
) -> Table:
    """Accuracy on the visits of each patient by the models that have not seen them, and the means."""
    visits = [(subject, mask) for subject, mask in marked if set(contrasts) <= set(subject.contrasts)]
    patients = sorted({subject.label for subject, _ in visits})
    counted = f"{len(patients)} patients, {len(visits)} visits"
    if left := len(marked) - len(visits):
        lacking = [name for name in contrasts if any(name not in subject.contrasts for subject, _ in marked)]
        counted += f" (not shown: {left} without {' or '.join(lacking)})"
    table = Table(title=f"{' + '.join(contrasts)}, each patient left out: {counted}")
    for column in ("patient", "visits", "truth ml", "found ml", *FIGURES):
        table.add_column(column, justify="right")
    means = []
    for patient in patients:
        rows = [
            measured(subject, mask, contrasts=contrasts, models=models, out=out)
            for subject, mask in visits
            if subject.label == patient
        ]
        mean = {key: np.mean([row[key] for row in rows if row[key] is not None]) for key in rows[0]}
        means.append(mean)
        volumes = [mean[f"{which}_volume_mm3"] / 1000 for which in ("truth", "prediction")]
        table.add_row(patient, str(len(rows)), *(f"{v:.1f}" for v in volumes), *(f"{mean[f]:.3f}" for f in FIGURES))
    table.add_row("mean", "", "", "", *(f"{np.mean([mean[f] for mean in means]):.3f}" for f in FIGURES))
    intervals = [bootstrap_interval([mean[f] for mean in means]) for f in FIGURES]
    told = ("-" if interval is None else "{:.2f}-{:.2f}".format(*interval) for interval in intervals)
    table.add_row("95 % interval", f"n={len(means)}", "", "", *told)
    return table


def measured(subject: Subject, mask: Path, *, contrasts: tuple[str, ...], models: Sequence[Path], out: Path) -> dict:
    """Segment one visit and compare it with its raters' mask."""
    model = "+".join(str((folder / subject.label).absolute()) for folder in models)
    recipe = Recipe(model=model, brain_extracted=True)
    subject = replace(subject, contrasts={name: subject.contrasts[name] for name in contrasts})
    found = segment_subject(subject, recipe, out / "results" / "-".join(contrasts), console=QUIET)
    return segmentation_metrics(read_volume(mask, mask=True), read_volume(found, mask=True))


if __name__ == "__main__":
    main()
