"""Ventricles of the head labels against experts' masks.

    python -m tests.benchmarks.ventricles --data DIR --out DIR

For every visit below ``--data`` that has ``*label-ventricles*_mask.nii.gz`` beside its FLAIR: Dice and volumes, from
the FLAIR alone and with all contrasts.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console as Page
from rich.table import Table

from msrim.bids import find_subject
from msrim.console import Console
from msrim.evaluation.metrics import segmentation_metrics
from msrim.evaluation.statistics import bootstrap_interval
from msrim.image import read_volume
from msrim.recipe import Recipe
from msrim.workflows.anatomy import preprocess_visit, read_own

VENTRICLES = 2
SETS = ("FLAIR alone", "all contrasts")


def main() -> None:
    """Prepare every visit and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    table = Table(title="ventricles against the experts'")
    for column in ("patient", "truth ml", *(f"{name}: {what}" for name in SETS for what in ("Dice", "ml"))):
        table.add_column(column, justify="right")
    scores: dict[str, list[float]] = {name: [] for name in SETS}
    for mask in sorted(given.data.rglob("*label-ventricles*_mask.nii*")):
        subject, truth = find_subject(mask.parent), read_volume(mask, mask=True)
        alone = replace(subject, contrasts={"FLAIR": subject.contrasts["FLAIR"]})
        cells = []
        for name, visit in zip(SETS, (alone, subject), strict=True):
            files = preprocess_visit(visit, Recipe(), given.out / name.split()[0], console=Console(quiet=True)).files
            found = truth.like(read_own(files.labels).data == VENTRICLES)
            figures = segmentation_metrics(truth, found)
            scores[name].append(figures["dice"])
            cells += [f"{figures['dice']:.3f}", f"{figures['prediction_volume_mm3'] / 1000:.1f}"]
        table.add_row(subject.label, f"{figures['truth_volume_mm3'] / 1000:.1f}", *cells)
    means = []
    for name in SETS:
        low, high = bootstrap_interval(scores[name])
        means += [f"{np.mean(scores[name]):.3f} ({low:.2f}-{high:.2f})", ""]
    table.add_row(f"mean, n = {len(scores[SETS[0]])}", "", *means)
    Page(width=120).print(table)


if __name__ == "__main__":
    main()
