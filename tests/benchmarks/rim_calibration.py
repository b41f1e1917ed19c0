"""The rim cohort beside figures that others published, none of them of DA-TR-Net or QSMRim-Net: how to set its dials.

    python -m tests.benchmarks.rim_calibration --lesion-bank NPZ --head-labels DIR --out DIR
        [--subjects 8] [--lesions 7 70] [--seed 100] [--methods mean aprl-rf aprl-nn rimnet] [--effort 1]
        [--rim-ppm P] [--unevenness U] [--outline-mm O]

Makes a cohort of whole brains (its heads and lesions are those to train with; each patient has more lesions than
patients have, for rims are few and a brain takes as long with as without them), judges the methods on it by
cross-validation over five folds, and prints each figure beside the published one. With no dial given it measures those
of :class:`msrim.simulation.rims.Dials`. Cohort, features and folds are kept in DIR, so it can be stopped.

Published, on real data: APRL (random forest) pROC 0.63, F1 0.57; APRL (network) F1 0.61; RimNet pROC 0.73, F1 0.64
(Zhang et al. 2022, Table 1). Besides, one number must not do: the mean in the outline less its surroundings has a pROC
below 0.5. ``--effort`` is the share of the recipes' steps.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from rich.console import Console as Page
from rich.table import Table

from msrim.console import Console
from msrim.evaluation.rim_cohort import lesion_looks
from msrim.evaluation.rims import bootstrap_intervals, curve_areas
from msrim.image import Volume, read_volume
from msrim.models.rims import INPUTS, Inputs
from msrim.recipe import read_training_recipe
from msrim.simulation.cohort import CohortSettings
from msrim.simulation.rims import Dials
from msrim.training.rims import read_cohort
from msrim.workflows.evaluate_rims import cross_validate
from msrim.workflows.rim_cohort import FACTS, make_rim_cohort

PIPELINES = Path(__file__).parents[2] / "pipelines"
PUBLISHED = {
    "mean": {"proc_auc": "< 0.5"},
    "aprl-rf": {"proc_auc": "0.63", "f1": "0.57"},
    "aprl-nn": {"f1": "0.61"},
    "rimnet": {"proc_auc": "0.73", "f1": "0.64"},
}


def measure(given: argparse.Namespace) -> None:
    dials = Dials()
    named = {name: getattr(given, name) for name in ("rim_ppm", "unevenness", "outline_mm")}
    dials = Dials(**{name: getattr(dials, name) if value is None else value for name, value in named.items()})
    cohort = given.out / "cohort"
    settings = CohortSettings(
        given.subjects, given.seed, lesion_bank=given.lesion_bank, head_labels=given.head_labels, part="train",
        label_noise=True, lesions=tuple(given.lesions), dials=dials,
    )  # fmt: skip
    make_rim_cohort(cohort, settings, console=Console())
    facts = json.loads((cohort / FACTS).read_text(encoding="utf-8"))
    rows = Table(title=f"simulated cohort, {dials} (95 % intervals: bootstrap over subjects)")
    for column in ("", "pROC AUC", "published", "F1", "published"):
        rows.add_column(column)
    for name in given.methods:
        cells = _mean(cohort) if name == "mean" else _validated(name, cohort, given)
        published = PUBLISHED[name]
        rows.add_row(name, cells["proc_auc"], published.get("proc_auc", ""), cells["f1"], published.get("f1", ""))
    rows.caption = (
        f"{given.subjects} simulated patients, {facts['rims']} lesions with a rim, {facts['others']} without; "
        f"{100 * given.effort:.3g} % of the recipes' steps; a rim is seen in {100 * facts['rims_seen']:.0f} %, "
        f"rim+ lesions are {facts['difference_ppb']:.1f} ppb above others"
    )
    Page(width=120).print(rows)


def _mean(cohort: Path) -> dict[str, str]:
    """What the contrast of a lesion's mean tells, no method at all."""
    contrast, subjects = [], []
    lesions = read_cohort(cohort, kind=Inputs(None), console=Console(quiet=True))
    for index, name in enumerate(lesions.names):
        qsm = read_volume(cohort / name / "anat" / f"{name}_Chimap.nii.gz")
        kept = cohort / "derivatives" / "truth" / name / "anat" / f"{name}_seg-lesions_dseg.nii.gz"
        instances = read_volume(kept)
        looks = lesion_looks(qsm, Volume(instances.data.astype(np.int32), instances.affine))
        contrast.append(looks.contrast_ppb)
        subjects.append(np.full(len(looks.contrast_ppb), index))
    contrast, subjects, truth = np.nan_to_num(np.concatenate(contrast)), np.concatenate(subjects), lesions.truth
    low, high = bootstrap_intervals(truth, contrast, subjects=subjects)["proc_auc"]
    return {"proc_auc": f"{curve_areas(truth, contrast)['proc_auc']:.2f} ({low:.2f}-{high:.2f})", "f1": ""}


def _validated(name: str, cohort: Path, given: argparse.Namespace) -> dict[str, str]:
    recipe = read_training_recipe(PIPELINES / f"{name}.toml")
    recipe = recipe.model_copy(update={"steps": max(1, round(given.effort * recipe.steps))})
    lesions = read_cohort(
        cohort, kind=INPUTS[recipe.network], console=Console(quiet=True), cache=given.out / "radiomics"
    )
    figures = cross_validate(recipe, lesions, given.out / name, console=Console(), seeds=1).figures()
    return {
        key: "{:.2f} ({:.2f}-{:.2f})".format(figures[key], *figures["intervals"][key]) for key in ("proc_auc", "f1")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lesion-bank", type=Path, required=True)
    parser.add_argument("--head-labels", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--lesions", type=int, nargs=2, default=(7, 70), help="of each, with and without a rim")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--methods", nargs="+", default=list(PUBLISHED), choices=list(PUBLISHED))
    parser.add_argument("--effort", type=float, default=1.0)
    parser.add_argument("--rim-ppm", type=float)
    parser.add_argument("--unevenness", type=float)
    parser.add_argument("--outline-mm", type=float)
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
