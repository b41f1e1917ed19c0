"""Rim cohorts from disk to weights and a card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made import write_rim_subject as write_subject
from safetensors.torch import load_file
from typer.testing import CliRunner

from msrim.cli.main import app
from msrim.console import Console
from msrim.errors import InputError
from msrim.files import write_text
from msrim.models import build, load_model, read_card
from msrim.models.rims import INPUTS, Inputs, inner, patch_size
from msrim.recipe import TrainingRecipe
from msrim.training.rims import RimFitting, RimLesions, augment, draw_batch, fit_forest, fit_rims, read_cohort, rim_loss
from msrim.workflows.evaluate_rims import cross_validate, evaluate_recipe, evaluate_rims
from msrim.workflows.train_rims import train_rims

QUIET = Console(quiet=True)
SMALL = {"features": 4, "radii": [5], "pre_convs": 1, "widths": [4, 4, 8, 8]}
RECIPE = TrainingRecipe(
    name="tiny", version="0", task="rims", summary="of a test", normalisation="none", network="datrnet",
    settings=SMALL, contrasts=("Chimap", "FLAIR"), steps=4, batch_size=8, learning_rate=1e-3,
)  # fmt: skip


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cohort")
    for number in range(1, 11):
        write_subject(root, number, np.random.default_rng(number))
    return root


@pytest.fixture(scope="module")
def lesions(cohort) -> RimLesions:
    return read_cohort(cohort, kind=INPUTS["datrnet"], console=QUIET)


def test_lesions_come_with_their_labels_and_subjects(lesions):
    assert lesions.names == tuple(sorted(f"sub-{n}" for n in range(1, 11)))
    assert lesions.patches.shape == (20, 3, 40, 40, 10) and inner(lesions.patches, (32, 32, 8)).shape == (
        20,
        3,
        32,
        32,
        8,
    )
    assert lesions.truth.sum() == 10 and lesions.labels.sum() == 9
    assert not lesions.labels[lesions.subjects == lesions.names.index("sub-3")].any()
    ring, disc = inner(lesions.patches[:2], (32, 32, 8))
    assert ring[0, 16, 16, 4] < 0.8 < ring[0, 16, 22, 4]
    assert disc[0, 16, 16, 4] > 0.8


def test_incomplete_cohorts_are_refused(cohort, tmp_path):
    with pytest.raises(InputError, match="no sub-"):
        read_cohort(tmp_path, kind=INPUTS["datrnet"], console=QUIET)
    write_subject(tmp_path, 1, np.random.default_rng(0))
    table = tmp_path / "derivatives/truth/sub-1/anat/sub-1_desc-lesions.tsv"
    write_text("id\trim\n1\ttrue\n", table)
    with pytest.raises(InputError, match="1 rows in the table"):
        read_cohort(tmp_path, kind=INPUTS["datrnet"], console=QUIET)
    table.unlink()
    with pytest.raises(InputError, match="every subject needs a table of rims"):
        read_cohort(tmp_path, kind=INPUTS["datrnet"], console=QUIET)


def test_batches_are_not_all_without_a_rim():
    labels = np.arange(500) % 50 == 0
    index, drawn = draw_batch(labels, 40, rng=np.random.default_rng(0), rim_share=0.3)
    assert drawn.sum() == 0.3 * 40
    assert torch.equal(drawn.bool(), torch.from_numpy(labels)[index])


def test_batches_are_as_the_cohort_is_if_nothing_else_is_asked_for():
    labels = np.arange(500) % 25 == 0
    rims = [draw_batch(labels, 64, rng=np.random.default_rng(seed))[1].sum() for seed in range(200)]
    assert np.mean(rims) == pytest.approx(64 / 25, rel=0.1)
    index, _ = draw_batch(labels, 500, rng=np.random.default_rng(0))
    assert len(set(index.tolist())) == 500


def test_augmented_lesions_stay_in_the_middle_and_are_as_large_as_their_scale_says(lesions, monkeypatch):
    patches = torch.from_numpy(lesions.patches).float()
    monkeypatch.setattr("msrim.training.rims.SCALE", (1.05, 1.05))
    scaled = augment(patches, (32, 32, 8), rng=np.random.default_rng(0))
    ratio = scaled[:, 2].sum() / patches[:, 2].sum()
    assert ratio == pytest.approx(1.05**-3, abs=0.03)
    monkeypatch.setattr("msrim.training.rims.SCALE", (1, 1))
    moved = augment(patches, (32, 32, 8), rng=np.random.default_rng(0))
    assert moved.shape == (20, 3, 32, 32, 8)
    volume = moved[:, 2].sum((1, 2, 3)) / patches[:, 2].sum((1, 2, 3))
    assert (volume - 1).abs().max() < 0.15
    where = torch.stack([(lesion > 0.5).nonzero().float().mean(0) for lesion in moved[:, 2]])
    assert (where[:, :2] - 15.5).abs().max() < 1.5
    assert not torch.allclose(moved, patches[:, :, 4:36, 4:36, 1:9])


def test_batches_without_augmentation_would_be_the_seen_patches(lesions, monkeypatch):
    """The margin is exactly what augmentation needs: with nothing turned or moved the patch is the inner one."""
    for name, value in (
        ("SCALE", (1, 1)),
        ("BLUR_PLANE", (0.1, 0.1)),
        ("BLUR_ACROSS", (0.1, 0.1)),
    ):
        monkeypatch.setattr(f"msrim.training.rims.{name}", value)

    class Upright:
        def uniform(self, low, high, size=None):
            return np.random.default_rng(0).uniform(low, high, size)

        def integers(self, high, size):
            return np.zeros(size, int)

        def choice(self, _, size):
            return np.ones(size)

    plain = augment(torch.from_numpy(lesions.patches).float(), (32, 32, 8), max_angle_deg=0, rng=Upright())
    # The middle of an even patch lies between voxels on both sides of the margin alike.
    assert np.abs(plain.numpy() - inner(lesions.patches, (32, 32, 8))).max() < 1e-3


def test_every_lesion_is_blurred_by_its_own_amount_and_keeps_its_mean(monkeypatch):
    """A point in the middle, by hand: a Gaussian of 0.95 voxels in the plane leaves 0.176 of it, one of 0.1 all."""
    for name, value in (("SCALE", (1, 1)), ("BLUR_ACROSS", (0.03, 0.03))):
        monkeypatch.setattr(f"msrim.training.rims.{name}", value)
    patches = torch.zeros(400, 3, 41, 41, 11)
    patches[:, :, 20, 20, 5] = 1
    moved = augment(patches, (33, 33, 9), max_angle_deg=0, rng=np.random.default_rng(0))
    peaks = moved[:, 0].amax((1, 2, 3))
    assert peaks.max() > 0.99 and peaks.min() == pytest.approx(0.176, abs=0.01)
    assert moved[:, 0].sum((1, 2, 3)) == pytest.approx(np.ones(400), abs=1e-4)
    # The outline is not blurred.
    assert torch.equal(moved[:, 2].amax((1, 2, 3)), torch.ones(400))


def test_patches_are_turned_by_any_angle_that_a_recipe_allows():
    """A point five voxels from the middle lands anywhere on its circle; what lies beyond the margin is its border."""
    patches = torch.ones(300, 3, 41, 41, 11)
    patches[:, 2] = 0
    patches[:, 2, 25, 20, 5] = 1
    for angle, least, most in ((5.0, 0, 6), (180.0, 170, 181)):
        moved = augment(patches, (33, 33, 9), max_angle_deg=angle, rng=np.random.default_rng(0))
        x, y = np.unravel_index(moved[:, 2].amax(3).flatten(1).argmax(1).numpy(), (33, 33))
        turned = np.degrees(np.abs(np.arctan2(y - 16, np.abs(x - 16) if angle < 90 else x - 16)))
        assert least <= turned.max() <= most
        assert moved[:, 0, 8:-8, 8:-8, 2:-2].min() > 0.99 and moved[:, :2, 0].min() > 0.5


def test_lesions_lie_off_the_middle_by_what_a_recipe_allows():
    """A point in the middle lands anywhere within 3 mm along each axis: four voxels in the plane, one slice."""
    patches = torch.zeros(400, 3, 41, 41, 11)
    patches[:, 2, 20, 20, 5] = 1
    moved = augment(patches, (33, 33, 9), max_angle_deg=0, max_shift_mm=3, rng=np.random.default_rng(0))[:, 2]
    for axis, most in ((1, 4), (2, 4), (3, 1)):
        along = moved.sum([other for other in (1, 2, 3) if other != axis])
        steps = torch.arange(along.shape[1], dtype=torch.float32) - (along.shape[1] - 1) / 2
        away = (along * steps).sum(1) / along.sum(1)
        # Scaled by a twentieth at most, and interpolated.
        assert -1.1 * most <= away.min() < -0.9 * most and 0.9 * most < away.max() <= 1.1 * most
        assert abs(float(away.mean())) < 0.1 * most


def test_the_flair_of_each_lesion_gets_brighter_or_darker(lesions):
    """By a factor of its own; QSM and outline stay."""
    patches = torch.from_numpy(lesions.patches).float()
    plain, changed = (
        augment(patches, (32, 32, 8), flair_gain=gain, rng=np.random.default_rng(0)) for gain in (1.0, 4.0)
    )
    assert torch.equal(plain[:, [0, 2]], changed[:, [0, 2]])
    factors = []
    for before, after in zip(plain[:, 1], changed[:, 1], strict=True):
        factor = float((before * after).sum() / (before * before).sum())
        assert torch.allclose(after, factor * before, atol=1e-4)
        factors.append(factor)
    assert 0.25 <= min(factors) < 0.5 and 2 < max(factors) <= 4


def test_synthetic_rows_count_as_rims():
    logits = torch.tensor([2.0, -1.0, 3.0, 3.0])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor([1.0, 0, 1, 1]))
    assert torch.allclose(rim_loss(logits, torch.tensor([1.0, 0.0])), expected)


def test_training_learns_a_ring_and_goes_on_where_it_stopped(lesions, tmp_path):
    def train(out: Path, steps: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        network = build("datrnet", **SMALL)
        return load_file(
            fit_rims(
                network,
                lesions,
                kind=INPUTS["datrnet"],
                out=out,
                how=RimFitting(steps, batch_size=16, learning_rate=3e-3, rim_share=0.3, report_every=1),
            )
        )

    whole = train(tmp_path / "whole", 20)
    losses = [float(line.split(",")[1]) for line in (tmp_path / "whole" / "loss.csv").read_text().splitlines()]
    assert len(losses) == 20 and np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    # A run that is done trains nothing more.
    again = train(tmp_path / "whole", 20)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_weights_that_see_only_padding_stay_as_they_are(lesions, tmp_path):
    """Eight slices come down to one, so what lies above and below in a kernel must get no gradient, not garbage."""
    torch.manual_seed(0)
    network = build("datrnet", features=4, radii=[5], pre_convs=1, widths=[16, 32, 64, 128])
    before = network.backbone.stages[7].convs[0].weight.detach().clone()
    how = RimFitting(steps=3, batch_size=8, learning_rate=1e-3)
    fit_rims(network, lesions, kind=INPUTS["datrnet"], out=tmp_path, how=how)
    after = network.backbone.stages[7].convs[0].weight.detach()
    assert torch.equal(before[..., ::2], after[..., ::2]) and not torch.equal(before[..., 1], after[..., 1])


def test_a_trained_network_has_a_card_that_loads_and_evaluates(cohort, tmp_path):
    recipe = RECIPE.model_copy(update={"view_shift_mm": 1.5})
    folder = train_rims(recipe, cohort, tmp_path / "model", leave_out=["3"], console=QUIET)
    card = read_card(folder)
    assert card.view_shift_mm == 1.5 and patch_size(card) == (36, 36, 8)
    assert (card.task, card.network, card.spacing_mm) == ("rims", "datrnet", [0.75, 0.75, 3.0])
    assert "Trained on simulated susceptibility; validate before use" in card.limits
    assert 0 <= card.sensitive_threshold <= 1 and 0 <= card.threshold <= 1
    assert "9 simulated patients" in card.training
    load_model(card)
    figures = evaluate_rims([cohort], models=[str(folder)], console=QUIET)["models"][0]
    assert figures["n"] == {"subjects": 10, "lesions": 20, "rim": 10}
    assert set(figures["intervals"]) >= {"pr_auc", "proc_auc", "roc_auc", "accuracy"}


def test_models_are_compared_on_the_subjects_of_several_cohorts(cohort, tmp_path):
    folders = []
    for name, seed in (("one", 1), ("other", 2)):
        recipe = RECIPE.model_copy(update={"name": name, "seed": seed})
        folders.append(str(train_rims(recipe, cohort, tmp_path / name, leave_out=[], console=QUIET)))
    alone = evaluate_rims([cohort], models=folders, console=QUIET)
    given = ["--cohort", str(cohort), "--cohort", str(cohort)]
    for folder in folders:
        given += ["--model", folder]
    shown = CliRunner().invoke(app, ["evaluate", "rims", *given, "--json", "--quiet"])
    both = json.loads(shown.stdout)
    assert [row["n"] for row in both["models"]] == [{"subjects": 20, "lesions": 40, "rim": 20}] * 2
    # The same lesions twice: the areas are the same, and their difference is that of the areas.
    one, other = (row["pr_auc"] for row in both["models"])
    assert (one, other) == pytest.approx([row["pr_auc"] for row in alone["models"]])
    [difference] = both["differences"]
    assert difference["other"] == "other@0" and difference["pr_auc"][0] == pytest.approx(one - other)
    assert difference["pr_auc"][1] <= one - other <= difference["pr_auc"][2]
    lines = CliRunner().invoke(app, ["evaluate", "rims", *given, "--quiet"]).stdout.splitlines()
    assert lines[0] == "one@0 on 40 lesions (20 rim+) of 20 subjects"
    assert lines[-1].startswith(f"one@0 less other@0: pr_auc {one - other:+.3f} (")


def test_a_misspelt_patient_to_leave_out_is_refused(cohort, tmp_path):
    with pytest.raises(InputError, match="no marked subject sub-3 to leave out"):
        train_rims(RECIPE, cohort, tmp_path / "rims", leave_out=["sub-3"], console=QUIET)


def test_cross_validation_judges_every_lesion_by_networks_that_did_not_see_it(cohort, lesions, tmp_path):
    result = cross_validate(RECIPE, lesions, tmp_path, console=QUIET, folds=2, seeds=2)
    assert result.probability.shape == (2, 20) and (result.probability > 0).all()
    # Both lesions of a subject are in one fold.
    assert all(len(set(result.folds[lesions.subjects == subject])) == 1 for subject in range(10))
    assert result.rim.shape == (20,)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("probability.npy")}
    assert len(kept) == 4
    cross_validate(RECIPE, lesions, tmp_path, console=QUIET, folds=2, seeds=2)
    assert kept == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("probability.npy")}


def test_a_recipe_is_judged_by_one_command_that_goes_on_where_it_stopped(cohort, tmp_path):
    console = QUIET
    first = evaluate_recipe(RECIPE, cohort, tmp_path, console=console, folds=2, seeds=1)
    assert first["n"] == {"subjects": 10, "lesions": 20, "rim": 10} and first["seen"] == 4 * 8
    assert set(first["losses"]) == {"fold-0_seed-0", "fold-1_seed-0"} and min(first["losses"].values()) > 0
    assert set(first["intervals"]) >= {"pr_auc", "proc_auc"}
    (tmp_path / "fold-1_seed-0" / "probability.npy").unlink()
    kept = (tmp_path / "fold-0_seed-0" / "probability.npy").stat().st_mtime_ns
    assert evaluate_recipe(RECIPE, cohort, tmp_path, console=console, folds=2, seeds=1)["losses"] == first["losses"]
    assert (tmp_path / "fold-0_seed-0" / "probability.npy").stat().st_mtime_ns == kept
    with pytest.raises(InputError, match="not a rim network"):
        evaluate_recipe(RECIPE.model_copy(update={"network": "head"}), cohort, tmp_path, console=console)


def test_aprl_oversamples_and_knows_first_order_features_alone():
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 12 == 0
    features = rng.normal(size=(120, 527))
    features[:, 14 + 8] += 4 * labels  # the mean
    features[5, 14] = np.nan
    empty = np.zeros((120, 3, 0, 0, 0), np.float16)
    forest = fit_forest(RimLesions(empty, features, labels, labels, np.zeros(120, int), ("sub-1",)), trees=30)
    assert len(forest.columns) == 18 and forest.share.shape[0] == 30
    logits = forest(torch.from_numpy(features))
    assert logits[torch.from_numpy(labels)].min() > logits[~torch.from_numpy(labels)].median()


def test_a_network_of_another_task_is_refused(cohort, tmp_path):
    recipe = RECIPE.model_copy(update={"network": "head"})
    with pytest.raises(InputError, match="not a rim network"):
        train_rims(recipe, cohort, tmp_path, leave_out=[], console=QUIET)
    with pytest.raises(InputError, match="classifies no rims"):
        evaluate_rims([cohort], models=["head"], console=QUIET)


def test_inputs_without_an_image_read_no_flair(cohort):
    found = read_cohort(cohort, kind=Inputs(None), console=QUIET)
    assert found.patches.shape == (20, 3, 0, 0, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_lesions_are_augmented_alike_on_a_gpu():
    patches = torch.randn(4, 3, 40, 40, 10, generator=torch.Generator().manual_seed(0))
    how = {"max_angle_deg": 180.0, "max_shift_mm": 3.0, "flair_gain": 4.0}
    found = [augment(p, (32, 32, 8), **how, rng=np.random.default_rng(0)).cpu() for p in (patches, patches.cuda())]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
