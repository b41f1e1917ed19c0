"""All rim classifiers on a simulated cohort, cross-validated; or one trained model's robustness. Figures are simulated.

    python -m tests.benchmarks.rims table --cohort DIR --out DIR [--methods aprl-rf datrnet] [--seeds 3] [--effort 1]
        [--published] [--test DIR ...]
    python -m tests.benchmarks.rims ablation --cohort DIR --out DIR --network datrnet|qsmrimnet [--rows NAME ...]
        [--test DIR ...]
    python -m tests.benchmarks.rims robustness --model M --out DIR [--lesion-bank NPZ] [--head-labels DIR]
    python -m tests.benchmarks.rims flair --model M --cohort DIR [DIR ...]
    python -m tests.benchmarks.rims place --model M [M ...] --cohort DIR [DIR ...]
    python -m tests.benchmarks.rims step [--networks datrnet qsmrimnet]

``table`` writes the curves and the scatter plot of counts beside the folds. Folds and seeds that are done are kept, so
that it can be stopped. Decisions are by the F1-best threshold of the other folds' lesions, so that no lesion's own
truth has a say; the papers take each fold's own, which flatters. The papers' protocol is three seeds and all of the
recipes' steps; ``--seeds 1 --effort 0.25`` is a reduced one at a twelfth of the time, and the table says so.

``table`` comes twice, of all lesions and of those that are as large as rims are: rim+ lesions are larger than most, so
that a method may live on size. A third table says what each method takes for a rim.

``table --published`` takes the recipes of the papers' sizes, for a GPU; APRL's forest has no other size.

With ``--test`` either trains once on the whole cohort, but for the fifth of its subjects that chooses thresholds, and
judges on other cohorts: a fifth of the time, and no subject of the training's cohort is judged.

``ablation`` adds a row to the papers', which asks what knowing the outline of a lesion is worth: DA-TR-Net inside the
lesion alone, and QSMRim-Net's images of the whole patch.

``robustness`` makes a small cohort for each way of scanning, of patients no model has seen. ``flair`` makes the lesions
of a cohort brighter or darker on the FLAIR: how bright they are depends on the sequence. ``place`` moves them off the
middle of their patches, where lesions lie that were found or separated otherwise than raters draw them.

``step`` prints what a training step costs, what the whole protocol does, and how long a patient with 40 lesions takes
to classify. It needs no trained weights, for none of this depends on what the weights are.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from unittest import mock

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console as Page
from rich.table import Table
from scipy import ndimage

from msrim.console import Console
from msrim.evaluation.rims import (
    GRID,
    MAX_FPR,
    bootstrap_difference,
    bootstrap_intervals,
    curve_areas,
    mean_precision_recall,
    mean_roc,
    rim_metrics,
)
from msrim.image import read_volume
from msrim.lesions.patches import SPACING_MM, cut_patches
from msrim.lesions.radiomics import lesion_features
from msrim.models.registry import Card, read_card
from msrim.models.rims import INPUTS, Inputs, inner, inputs_of, patch_size, rim_probabilities
from msrim.preprocess.normalise import normalise_intensity
from msrim.recipe import TrainingRecipe, read_training_recipe
from msrim.simulation.cohort import CohortSettings, simulate_cohort
from msrim.simulation.rim_patient import Scanner
from msrim.simulation.rims import KINDS
from msrim.simulation.susceptibility import GradientEcho
from msrim.training.rims import MARGIN, RimLesions, read_cohort, together
from msrim.workflows.evaluate_rims import CrossValidated, cross_validate, rim_figures
from msrim.workflows.train_rims import train_rims
from tests.benchmarks.rim_cost import classification, training_step

PIPELINES = Path(__file__).parents[2] / "pipelines"
FLAIR_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
# Deviation along each axis. Of 148 lesions that `msrim segment` found in eight simulated patients (rims_end_to_end),
# half lie within 1.8 mm of the made lesion's middle, nine of ten within 3.9 mm; with it, within 2.0 and 3.3 mm.
FOUND_OFF_MM = 1.3
# Voxels of 0.75 x 0.75 x 3 mm; one is drawn for each lesion.
PLACES = {
    "in the middle": [(0, 0, 0)],
    "3 mm off in the plane": [(4, 0, 0), (-4, 0, 0), (0, 4, 0), (0, -4, 0)],
    "a slice off": [(0, 0, 1), (0, 0, -1)],
}
METHODS = ("aprl-rf", "aprl-nn", "rimnet", "qsmrimnet", "datrnet")
# What the full protocol trains: folds times seeds.
FOLDS, SEEDS = 5, 3
FIGURES = ("accuracy", "f1", "sensitivity", "specificity", "ppv", "roc_auc", "proc_auc", "pr_auc")
RADII = {"15": [15], "11-15": [11, 13, 15], "5-15": [5, 7, 9, 11, 13, 15]}
ABLATIONS = {
    # Table 2 of Zhang et al. 2023, rows 1 to 6.
    "datrnet": {
        "1 ResNet": {"pre_convs": 0, "values": 0, "gradients": 0},
        "2 DA-TR on images": {"pre_convs": 0, "radii": RADII["15"]},
        "3 V_u": {"gradients": 0, "radii": RADII["15"]},
        "4 V_u, V_s": {"radii": RADII["15"]},
        "5 N to 11": {"radii": RADII["11-15"]},
        "6 all N": {"radii": RADII["5-15"]},
        "inside the lesion": {"masked": True},
    },
    # Table 3 of Zhang et al. 2022.
    "qsmrimnet": {
        "RimNet's fusion": {"image_fusion": 0, "radiomics": 0, "smote": 0},
        "images alone": {"radiomics": 0, "smote": 0},
        "no DeepSMOTE": {"smote": 0},
        "all": {},
        "images of the patch": {"radiomics": 0, "smote": 0, "masked": False},
        "all, added": {"fusion": "add", "widths": [16, 32, 64, 512]},
    },
}
SCANNERS = {
    "as trained": Scanner(),
    "1.5 T": Scanner(echoes=GradientEcho(field_t=1.5)),
    "7 T": Scanner(echoes=GradientEcho(field_t=7.0, echo_times_ms=(4.0, 9.0, 14.0, 19.0, 24.0))),
    "twice the noise": Scanner(echoes=GradientEcho(snr=30.0)),
    "1 mm slices": Scanner(slice_mm=1.0),
    "2 mm slices": Scanner(slice_mm=2.0),
    "0.5 mm in plane": Scanner(in_plane_mm=0.5),
    "1 mm in plane": Scanner(in_plane_mm=1.0),
}


def table(given: argparse.Namespace) -> None:
    recipes = {}
    for name in given.methods:
        published = PIPELINES / f"{name}-published.toml"
        recipes[name] = _recipe(published.stem if given.published and published.is_file() else name, given.effort)
    if given.test:
        _judge_once({name: (recipe, INPUTS[name]) for name, recipe in recipes.items()}, given)
        return
    console = Console()
    results = {name: _validated(recipe, given, console) for name, recipe in recipes.items()}
    _print("simulated cohort", results, given)
    large = _as_large_as_rims(given.cohort)
    alike = {name: result.of(large) for name, result in results.items()}
    one = next(iter(results.values()))
    means = {name: result.probability.mean(0) for name, result in results.items()}
    _print_pairs(means, truth=one.truth, subjects=one.subjects, folds=one.folds)
    _print("lesions as large as those with a rim, simulated cohort", alike, given)
    _print_kinds(results, given.cohort)
    _plot(results, given.out)


def ablation(given: argparse.Namespace) -> None:
    # One view of each lesion, as the papers'.
    recipe = _recipe(given.network, given.effort).model_copy(update={"view_shift_mm": 0.0})
    kind = INPUTS[given.network]
    rows = ABLATIONS[given.network]
    if unknown := set(given.rows or ()) - set(rows):
        raise SystemExit(f"no row {', '.join(unknown)}; choose from: {', '.join(rows)}")
    changed = {}
    for row in given.rows or rows:
        name = f"{given.network}-{row.replace(' ', '-').replace(',', '')}"
        switches = dict(rows[row])
        seen = replace(kind, masked=switches.pop("masked", kind.masked))
        changed[row] = recipe.model_copy(update={"name": name, "settings": recipe.settings | switches}), seen
    if given.test:
        _judge_once(changed, given)
        return
    results = {}
    for row, (one, seen) in changed.items():
        # What a network sees is no setting of its recipe.
        with mock.patch.dict(INPUTS, {given.network: seen}):
            results[row] = _validated(one, given, Console())
    _print(f"{given.network}, ablation on the simulated cohort", results, given)


def _judge_once(recipes: dict[str, tuple[TrainingRecipe, Inputs]], given: argparse.Namespace) -> None:
    """Train what is missing on the cohort, and judge all on the others; every row less the one before it."""
    console, cache = Console(), given.out / "radiomics"
    rows = Table(title="trained once, judged on other simulated patients (95 % intervals: bootstrap over subjects)")
    shown = ("proc_auc", "pr_auc", "f1", "sensitivity", "specificity", "ppv")
    others = ("solid", "edge vein", "partial rim")
    for column in ("simulated", *shown, "r of counts", *others):
        rows.add_column(column)
    found = {}
    for row, (recipe, seen) in recipes.items():
        with mock.patch.dict(INPUTS, {recipe.network: seen}):
            folder = given.out / recipe.name
            if not (folder / "card.toml").is_file():
                train_rims(recipe, given.cohort, folder, leave_out=(), console=console, cache=cache)
            card = read_card(folder)
            parts = [read_cohort(cohort, kind=seen, console=Console(quiet=True), cache=cache) for cohort in given.test]
            lesions = together(parts)
            probability = rim_probabilities(card, lesions.patches, lesions.features)
        figures = rim_figures(lesions, probability, threshold=card.threshold)
        called = [f"{100 * figures['kinds'][kind]['called_rim']:.1f} %" for kind in others]
        cells = [_cell(figures, figures["intervals"], key) for key in shown]
        agreement = figures["counts"]["r"]
        rows.add_row(row, *cells, "n/a" if agreement is None else f"{agreement:.2f}", *called)
        found[row] = probability
        n = figures["n"]
    rows.caption = (
        f"judged on {n['subjects']} simulated patients, {n['lesions']} lesions, {n['rim']} with a rim; one seed, "
        f"{100 * given.effort:.3g} % of the recipes' steps"
    )
    Page(width=150).print(rows)
    _print_pairs(found, truth=lesions.truth, subjects=lesions.subjects)


def robustness(given: argparse.Namespace) -> None:
    """Another scanner, or another mask of the lesions, and the same model and threshold."""
    card = read_card(given.model)
    kind = inputs_of(card)
    rows = _rows_of(card)
    for name, scanner in SCANNERS.items():
        folder = given.out / name.replace(" ", "-")
        if not (folder / "done").is_file():
            settings = CohortSettings(
                given.subjects, given.seed, scanner, given.lesion_bank, given.head_labels, part="test"
            )
            simulate_cohort(folder, settings)
            (folder / "done").touch()
        lesions = read_cohort(folder, kind=kind, console=Console(quiet=True), cache=folder / "radiomics")
        probability = rim_probabilities(card, lesions.patches, lesions.features)
        _add(rows, name, lesions.truth, probability, lesions.subjects, card=card)
    for name in ("eroded by a voxel", "dilated by a voxel", "from the FLAIR"):
        _add(rows, name, *_with_masks(given.out / "as-trained", name, card), card=card)
    Page(width=120).print(rows)


def flair(given: argparse.Namespace) -> None:
    """Lesions brighter or darker on the FLAIR, and the same model and threshold."""
    card = read_card(given.model)
    lesions = _read_all(given.cohort, card)
    rows = _rows_of(card)
    for factor in FLAIR_FACTORS:
        images = lesions.patches.astype(np.float32)
        images[:, 1] *= factor
        probability = rim_probabilities(card, images, lesions.features)
        _add(rows, f"FLAIR by {factor:g}", lesions.truth, probability, lesions.subjects, card=card)
    Page(width=130).print(rows)


def place(given: argparse.Namespace) -> None:
    """Lesions off the middle of their patches, in the same places for every model, by each one's threshold."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for card in map(read_card, given.model):
        size = np.array(patch_size(card))
        margin = MARGIN + (size - inputs_of(card).patch) // 2
        lesions = _read_all(given.cohort, card, margin=margin.tolist())
        count, rng = len(lesions.labels), np.random.default_rng(0)
        drawn = np.rint(rng.normal(0, FOUND_OFF_MM, (count, 3)) / SPACING_MM).astype(int)
        places = {"as off as found": np.clip(drawn, np.negative(MARGIN), MARGIN)}
        places |= {name: rng.choice(ways, count) for name, ways in PLACES.items()}
        rows = _rows_of(card)
        for name, offs in places.items():
            cut = [inner(patch[None], size, off=off)[0] for patch, off in zip(lesions.patches, offs, strict=True)]
            probability = rim_probabilities(card, np.stack(cut), lesions.features)
            _add(rows, name, lesions.truth, probability, lesions.subjects, card=card)
            found.setdefault(name, {})[card.label] = probability
        Page(width=130).print(rows)
    for name, probability in found.items() if len(given.model) > 1 else ():
        print(name)
        _print_pairs(probability, truth=lesions.truth, subjects=lesions.subjects)


def _read_all(cohorts: list[Path], card: Card, *, margin: Sequence[int] = MARGIN) -> RimLesions:
    how = {"kind": inputs_of(card), "console": Console(quiet=True), "margin": margin}
    return together([read_cohort(cohort, **how) for cohort in cohorts])


def _rows_of(card: Card) -> Table:
    rows = Table(
        title=f"{card.label} on simulated patients that it never saw (95 % intervals: bootstrap over subjects)"
    )
    for column in ("simulated", "subjects", "lesions", "rim+", "pROC", "PR AUC", "F1 at the card's threshold", "found"):
        rows.add_column(column)
    return rows


def _add(
    rows: Table, name: str, truth: np.ndarray, probability: np.ndarray, subjects: np.ndarray, *, card: Card
) -> None:
    given = {"subjects": subjects, "rim": probability >= card.threshold}
    figures = rim_metrics(truth, probability, **given)
    intervals = bootstrap_intervals(truth, probability, **given)
    shown = [_cell(figures, intervals, key, apart=" ") for key in ("proc_auc", "pr_auc", "f1", "sensitivity")]
    rows.add_row(name, *map(str, figures["n"].values()), *shown)


def _with_masks(cohort: Path, how: str, card) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    kind, truth, probability, subjects = inputs_of(card), [], [], []
    for index, folder in enumerate(sorted(cohort.glob("sub-*"))):
        name, derived = folder.name, cohort / "derivatives" / "truth" / folder.name / "anat"
        qsm, flair = (read_volume(folder / "anat" / f"{name}_{image}.nii.gz") for image in ("Chimap", "FLAIR"))
        lesions = read_volume(derived / f"{name}_seg-lesions_dseg.nii.gz")
        instances = lesions.like(lesions.data.astype(np.int32))
        labels = np.array([row["truth"] == "true" for row in _lesion_rows(derived / f"{name}_desc-lesions.tsv")])
        z = normalise_intensity(flair, qsm.like(qsm.data != 0))
        changed = instances.like(_changed(instances.data, z.data, how))
        patches = cut_patches(qsm, z, changed, size=patch_size(card))
        features = lesion_features(qsm, changed, cache=cohort / "radiomics") if kind.features else None
        truth.append(labels[patches.numbers - 1])
        probability.append(rim_probabilities(card, patches.images, features))
        subjects.append(np.full(len(patches.numbers), index))
    return np.concatenate(truth), np.concatenate(probability), np.concatenate(subjects)


def _lesion_rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def _changed(instances: np.ndarray, flair: np.ndarray, how: str) -> np.ndarray:
    # In the plane alone: across 3 mm slices a voxel is most of a lesion.
    cross = ndimage.generate_binary_structure(3, 1) & (np.arange(3) == 1)
    if how == "eroded by a voxel":
        kept = ndimage.minimum_filter(instances, footprint=cross) == instances
        # A lesion that would vanish stays as it is.
        left = np.isin(instances, np.unique(instances[kept]))
        return np.where(kept | ~left, instances, 0)
    grown = np.where(instances > 0, instances, ndimage.maximum_filter(instances, footprint=cross))
    if how == "dilated by a voxel":
        return grown
    # What is bright on FLAIR within two voxels of the lesion, as a FLAIR segmentation would have it.
    grown = np.where(grown > 0, grown, ndimage.maximum_filter(grown, footprint=cross))
    bright = flair > np.percentile(flair[instances > 0], 10)
    return np.where(bright | (ndimage.minimum_filter(instances, footprint=cross) > 0), grown, 0)


def step(given: argparse.Namespace) -> None:
    for name in given.networks:
        recipe = read_training_recipe(PIPELINES / f"{name}.toml")
        printed = {"settings": {}, "batch_size": 64, "steps": 2080, "view_shift_mm": 0.0}
        published = recipe.model_copy(update=printed)
        for what, kind in (("as in the recipe", recipe), ("as published", published)):
            parameters, seconds = training_step(kind)
            hours = seconds * kind.steps * FOLDS * SEEDS / 3600
            print(
                f"{name} {what}: {parameters:,} parameters; a step of {kind.batch_size} lesions {seconds:.2f} s of one "
                f"core; {kind.steps} steps, {FOLDS} folds, {SEEDS} seeds {hours:.1f} h",
                flush=True,
            )
            spent = classification(kind)
            radiomics = spent.get("measure_radiomics", 0.0)
            features = f", {radiomics:.1f} s their radiomic features" if radiomics else ""
            print(
                f"{name} {what}: 40 lesions, from prepared images to table and page, {spent['all']:.1f} s on two cores "
                f"({spent['processor']:.1f} s of the processor); {spent['classify']:.1f} s of it the network{features}",
                flush=True,
            )


def _recipe(name: str, effort: float) -> TrainingRecipe:
    recipe = read_training_recipe(PIPELINES / f"{name}.toml")
    return recipe.model_copy(update={"steps": max(1, round(effort * recipe.steps))})


def _print_kinds(results: dict[str, CrossValidated], cohort: Path) -> None:
    """What each method takes for a rim."""
    kinds = []
    for path in sorted((cohort / "derivatives" / "truth").glob("sub-*/anat/*_desc-lesions.tsv")):
        kinds += [row["kind"] for row in _lesion_rows(path)]
    kinds = np.array(kinds)
    rows = Table(title="share of the lesions of each kind that is called rim+, simulated cohort")
    rows.add_column("")
    shown = ["rim", *KINDS]
    for kind in shown:
        rows.add_column(f"{kind}\n{np.count_nonzero(kinds == kind)}", justify="right")
    for name, result in results.items():
        rows.add_row(name, *(f"{100 * result.rim[kinds == kind].mean():.1f} %" for kind in shown))
    Page(width=120).print(rows)


def _as_large_as_rims(cohort: Path) -> np.ndarray:
    """Which lesions are no smaller than nineteen of twenty rim+ ones: where size tells next to nothing."""
    lesions = read_cohort(cohort, kind=INPUTS["datrnet"], console=Console(quiet=True))
    voxels = np.count_nonzero(lesions.patches[:, 2] > 0.5, axis=(1, 2, 3))
    return voxels >= np.percentile(voxels[lesions.truth], 5)


def _validated(recipe: TrainingRecipe, given: argparse.Namespace, console: Console) -> CrossValidated:
    lesions = read_cohort(
        given.cohort, kind=INPUTS[recipe.network], console=Console(quiet=True), cache=given.out / "radiomics"
    )
    return cross_validate(recipe, lesions, given.out / recipe.name, console=console, folds=FOLDS, seeds=given.seeds)


def _print(title: str, results: dict[str, CrossValidated], given: argparse.Namespace) -> None:
    rows = Table(title=f"{title}, {FOLDS} folds by subject (95 % intervals: bootstrap over subjects)")
    for column in ("", *FIGURES, "r of counts", "MSE"):
        rows.add_column(column, justify="right")
    for name, result in results.items():
        figures = result.figures()
        cells = [_cell(figures, figures["intervals"], key) for key in FIGURES]
        counts = figures["counts"]
        agreement = "n/a" if counts["r"] is None else f"{counts['r']:.2f}\n{counts['r_low']:.2f}-{counts['r_high']:.2f}"
        rows.add_row(name, *cells, agreement, f"{counts['mse']:.2f}")
        alone = [curve_areas(result.truth, row, folds=result.folds)["proc_auc"] for row in result.probability]
        print(f"{name}: pROC of each seed alone {[round(value, 3) for value in alone]}")
        n = figures["n"]
    rows.caption = (
        f"{n['subjects']} simulated patients, {n['lesions']} lesions, {n['rim']} with a rim; "
        f"{given.seeds} of {SEEDS} seeds, {100 * given.effort:.3g} % of the recipes' steps"
    )
    Page(width=170).print(rows)


def _print_pairs(
    probability: dict[str, np.ndarray], *, truth: np.ndarray, subjects: np.ndarray, folds: np.ndarray | None = None
) -> None:
    """Every row less the one before it, on the same resampled subjects."""
    rows = Table(title="differences, simulated patients (95 % intervals: paired bootstrap over subjects)")
    for column in ("", "pROC AUC", "PR AUC"):
        rows.add_column(column)
    for (before, one), (name, other) in pairwise(probability.items()):
        found = bootstrap_difference(truth, other, one, subjects=subjects, folds=folds)
        cells = ["{:+.3f} ({:+.3f} to {:+.3f})".format(*found[key]) for key in ("proc_auc", "pr_auc")]
        rows.add_row(f"{name} - {before}", *cells)
    Page(width=120).print(rows)


def _cell(figures: dict, intervals: dict, key: str, *, apart: str = "\n") -> str:
    if figures[key] is None:
        return "n/a"
    low, high = intervals[key]
    return f"{figures[key]:.3f}{apart}{low:.3f}-{high:.3f}"


def _plot(results: dict[str, CrossValidated], out: Path) -> None:
    """pROC, precision and recall, and counts of the last method, as in the papers' figures."""
    figure, (roc, pr, counts) = plt.subplots(1, 3, figsize=(15, 5))
    for name, result in results.items():
        mean = result.probability.mean(axis=0)
        roc.step(GRID, mean_roc(result.truth, mean, folds=result.folds), where="post", label=name)
        pr.step(GRID, mean_precision_recall(result.truth, mean, folds=result.folds), where="pre", label=name)
    roc.set(xlim=(0, MAX_FPR), xlabel="false positive rate", ylabel="sensitivity", ylim=(0, 1))
    figure.suptitle("simulated patients")
    pr.set(xlabel="recall", ylabel="precision", ylim=(0, 1))
    roc.legend()
    name, result = list(results.items())[-1]
    truth, found = (np.bincount(result.subjects, weights=which) for which in (result.truth, result.rim))
    jitter = np.random.default_rng(0).uniform(-0.2, 0.2, (2, len(truth)))
    counts.plot(truth + jitter[0], found + jitter[1], ".")
    counts.axline((0, 0), slope=1, ls="--")
    counts.set(xlabel="rim+ lesions of a subject", ylabel=f"found by {name}")
    figure.savefig(out / "rims.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for run in (table, ablation, robustness, flair, place, step):
        command = commands.add_parser(run.__name__)
        command.set_defaults(run=run)
        if run is step:
            command.add_argument("--networks", nargs="+", default=["datrnet", "qsmrimnet"])
            continue
        if run in (flair, place):
            command.add_argument("--model", nargs="+" if run is place else None, required=True)
            command.add_argument("--cohort", type=Path, nargs="+", required=True)
            continue
        command.add_argument("--out", type=Path, required=True)
        if run is robustness:
            command.add_argument("--model", required=True)
            command.add_argument("--subjects", type=int, default=30)
            command.add_argument("--seed", type=int, default=1000)
            command.add_argument("--lesion-bank", type=Path, help="what the cohort of the training had")
            command.add_argument("--head-labels", type=Path, help="likewise; a quarter of the heads is for tests")
            continue
        command.add_argument("--cohort", type=Path, required=True)
        command.add_argument("--seeds", type=int, default=SEEDS)
        command.add_argument("--effort", type=float, default=1.0, help="share of the recipes' steps")
        command.add_argument("--test", type=Path, nargs="+", help="cohorts to judge on, instead of folds")
        if run is table:
            command.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
            command.add_argument("--published", action="store_true", help="the recipes of the papers' sizes")
        else:
            command.add_argument("--network", required=True, choices=list(ABLATIONS))
            command.add_argument("--rows", nargs="+", help="some of the ablation's rows; all without")
    given = parser.parse_args()
    given.run(given)


if __name__ == "__main__":
    main()
