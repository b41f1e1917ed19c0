"""Recipes hold the papers' numbers, those of packaged models what made them, and the loop does what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from msrim.errors import InputError
from msrim.models import build
from msrim.recipe import MILESTONES, ONE_CYCLE, Optimiser, TrainingRecipe, packaged_recipes, read_training_recipe
from msrim.training import loop
from msrim.training.loop import Descent, Fitting, fit

ADAM = {"name": "adam", "betas": (0.9, 0.999), "averaging": None, "clipping": None, "precision": "float32"}
FALLING = {**ADAM, "schedule": "milestones", "milestones": (0.5, 0.7, 0.9), "weight_decay": 0.0, "factor": 0.1}
# Zhang et al. 2021 (ALL-Net), section 2.5: Adam at 0.001, milestones at 50, 70 and 90 % of the epochs.
ALL_NET = {"learning_rate": 1e-3, "les_loss": True, "optimiser": FALLING}
# Zhang et al. 2023 (SCP), section 4: Adam at 1e-3, weight decay 1e-6, batches of 14, rate halved.
SCP = {"learning_rate": 1e-3, "batch_size": 14, "optimiser": {**FALLING, "weight_decay": 1e-6, "factor": 0.5}}
# Zhang et al. 2022 (QSMRim-Net), section 2.3: Adam at 1e-4, batches of 64, 40 epochs, milestones; four folds of five
# train, of 177 + 3986 lesions, drawn as the cohort has them.
RIMS = {"learning_rate": 1e-4, "batch_size": 64, "rim_share": 0.0, "max_angle_deg": 5.0, "max_shift_mm": 0.0,
        "view_shift_mm": 0.0, "flair_gain": 1.0, "optimiser": FALLING, "epochs": 40 * 0.8 * 4163}  # fmt: skip
PAPERS = {
    # 119 scans train, batches of 4, 70 epochs, crops of 128 x 128 x 48.
    "allnet-cornell": {**ALL_NET, "batch_size": 4, "crop": (128, 128, 48), "epochs": 70 * 119, "millions": 5.68,
                       "contrasts": ("FLAIR", "T1w", "T2w")},
    # 21 scans of 217 stacks in three planes, batches of 20, 140 epochs; a crop of 96 mm stands for a batch.
    "allnet-isbi2015": {**ALL_NET, "batch_size": 1, "epochs": 140 * 21 * 217 * 3 / 20,
                        "contrasts": ("FLAIR", "T1w", "T2w", "PDw")},
    # 42 subjects of 60 slices, 90 epochs, 160 x 224.
    "scp-wmh": {**SCP, "epochs": 90 * 42 * 60, "settings": {"channels": 256, "in_channels": 2, "plane": [160, 224]},
                "contrasts": ("FLAIR", "T1w")},
    # 91 scans; how often is not printed, a tenth of 90 epochs of 450 slices is the recipe's own.
    "scp-lits": {**SCP, "epochs": 9 * 91 * 450, "settings": {"channels": 256, "in_channels": 1, "plane": [256, 256]},
                 "contrasts": ("CT",)},
    # Wu et al. 2023, implementation details: Adam at 1e-2, 20,000 iterations, batches of 8, crops of 80, seed 1337;
    # 9.48 million parameters, lambda2 from the second half on.
    "coactseg-msseg2": {
        "learning_rate": 1e-2, "batch_size": 8, "crop": (80, 80, 80), "seed": 1337, "epochs": 8 * 20_000,
        "millions": 9.484502, "samples": "both", "relation_loss": True, "relation_warmup": True,
        "contrasts": ("FLAIR",),
        "optimiser": {**ADAM, "schedule": "constant", "weight_decay": 0.0, "milestones": ()},
    },
    # Parameters as counted in networks of the printed sizes.
    "datrnet-published": {**RIMS, "millions": 33.75},
    "qsmrimnet-published": {**RIMS, "millions": 35.0},
    "rimnet-published": RIMS,
    "aprl-nn-published": RIMS,
}  # fmt: skip
SLIM = {"learning_rate": 3e-4, "steps": 1200, "batch_size": 64, "rim_share": 0.3, "optimiser": MILESTONES.model_dump()}
AVERAGED = {"optimiser": ONE_CYCLE.model_dump()}


def cycles(*restarts: float) -> dict:
    return {"optimiser": {**ONE_CYCLE.model_dump(), "restarts": restarts}}


MADE = {
    "allnet": {**cycles(0.3, 0.6), "learning_rate": 3e-3, "steps": 2000, "batch_size": 2},
    "allnet-thick": {**AVERAGED, "learning_rate": 1e-2, "steps": 360, "batch_size": 2},
    "scp": {**cycles(0.667), "learning_rate": 3e-3, "steps": 1500, "batch_size": 2},
    "scp-thick": {**AVERAGED, "learning_rate": 8e-3, "steps": 330, "batch_size": 2},
    "coactseg": {**AVERAGED, "learning_rate": 5e-3, "steps": 1500, "batch_size": 4},
    "head": {**AVERAGED, "learning_rate": 3e-3, "steps": 1400, "batch_size": 2},
    "datrnet": {**SLIM, "learning_rate": 1e-3, "steps": 4200, "batch_size": 16, "max_angle_deg": 180, "flair_gain": 4,
                "view_shift_mm": 1.5},
    "qsmrimnet": SLIM,
    "rimnet": SLIM,
    "aprl-nn": SLIM,
}  # fmt: skip
# A forest has no optimiser; segment.toml trains nothing.
NEITHER = {"aprl-rf", "segment"}


def check(recipe: TrainingRecipe, expected: dict) -> None:
    """Compare a recipe with numbers; ``epochs`` are samples in all, ``millions`` the network's parameters."""
    for name, value in expected.items():
        if name == "epochs":
            assert recipe.steps * recipe.batch_size == pytest.approx(value, rel=0.01), name
        elif name == "millions":
            count = sum(p.numel() for p in build(recipe.network, **recipe.settings).parameters())
            assert count / 1e6 == pytest.approx(value, rel=0.02), name
        elif name == "optimiser":
            assert {part: getattr(recipe.optimiser, part) for part in value} == value
        else:
            assert getattr(recipe, name) == value, name


@pytest.mark.parametrize("name", PAPERS)
def test_a_papers_recipe_has_the_papers_numbers(name):
    check(read_training_recipe(Path(name)), PAPERS[name])


@pytest.mark.parametrize("name", MADE)
def test_a_packaged_models_recipe_has_what_made_it(name):
    check(read_training_recipe(Path(name)), MADE[name])


def test_no_recipe_escapes():
    assert set(packaged_recipes()) - NEITHER == set(PAPERS) | set(MADE)


@pytest.mark.parametrize("name", sorted(set(PAPERS) | set(MADE)))
def test_every_recipe_writes_its_optimiser_down(name):
    """Not the default: whoever reads the file sees it."""
    assert "[optimiser]" in packaged_recipes()[name].read_text(encoding="utf-8")


class Thresholded(torch.utils.data.Dataset):
    """Voxels above one half are foreground."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int):
        if index >= self.samples:
            raise IndexError(index)
        image = torch.rand(1, 4, 4, 4, generator=torch.Generator().manual_seed(index))
        return image, (image > 0.5).float()


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1, bias=False), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 1, 1))


LOSS = nn.functional.binary_cross_entropy_with_logits


@pytest.mark.parametrize("instructions", [True, False])
def test_packaged_recipes_train_as_before(instructions, tmp_path, monkeypatch):
    """The steps as they were written out before recipes had an optimiser: the same bits.

    In float32 where the processor would take many times as long for bfloat16, and says so.
    """
    monkeypatch.setattr(loop, "has_bfloat16", lambda device: instructions)
    settings = read_training_recipe(Path("allnet-thick")).optimiser
    samples, said = Thresholded(8), []
    how = Fitting(batch_size=2, learning_rate=0.02, optimiser=settings, workers=0)
    written = load_file(fit(small(), samples, loss=LOSS, out=tmp_path, how=how, report=said.append))
    assert any("float32" in line for line in said) != instructions
    network = small().to(memory_format=torch.channels_last_3d)
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.02, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.02, total_steps=4, pct_start=0.1)
    mean = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995))
    for step in range(4):
        image, truth = (torch.stack(part) for part in zip(samples[2 * step], samples[2 * step + 1], strict=True))
        with torch.autocast("cpu", torch.bfloat16, enabled=instructions):
            logits = network(image.to(memory_format=torch.channels_last_3d))
        optimiser.zero_grad()
        LOSS(logits.float(), truth).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        mean.update_parameters(network)
    for name, value in mean.module.named_parameters():
        assert torch.equal(written[name], value), name


def test_a_papers_training_writes_the_last_weights_and_its_own_statistics(tmp_path):
    """Float32, Adam, no averaging, no clipping: the plain loop of a textbook."""
    settings = read_training_recipe(Path("scp-wmh")).optimiser
    samples = Thresholded(20)
    how = Fitting(batch_size=2, learning_rate=0.02, optimiser=settings, workers=0)
    written = load_file(fit(small(), samples, loss=LOSS, out=tmp_path, how=how))
    network = small()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02, weight_decay=1e-6)
    for step in range(10):
        # Halved after 50, 70 and 90 % of the steps.
        optimiser.param_groups[0]["lr"] = 0.02 * 0.5 ** sum(step >= done for done in (5, 7, 9))
        image, truth = (torch.stack(part) for part in zip(samples[2 * step], samples[2 * step + 1], strict=True))
        optimiser.zero_grad()
        LOSS(network(image), truth).backward()
        optimiser.step()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(written[name], value, atol=1e-5, rtol=1e-4)


def rates(settings: Optimiser, steps: int = 10) -> list[float]:
    network = nn.Linear(1, 1)
    descent = Descent(network, settings, learning_rate=1.0, steps=steps)
    found = []
    for number in range(steps):
        found.append(descent.optimiser.param_groups[0]["lr"])
        descent.step(number, network(torch.ones(1, 1)).sum())
    return found


def test_schedules():
    plain = {"name": "adam", "weight_decay": 0.0}
    assert rates(Optimiser(**plain, schedule="constant")) == [1.0] * 10
    halved = rates(Optimiser(**plain, schedule="milestones", milestones=(0.5, 0.9), factor=0.5))
    assert halved == [1.0] * 5 + [0.5] * 4 + [0.25]
    cycle = rates(Optimiser(**plain, schedule="one-cycle", warm_up=0.3))
    assert cycle[2] == max(cycle) == 1.0 and cycle[0] < 0.1 and cycle[-1] < 1e-3
    # As of `msrim train --recipe allnet --steps 10`.
    assert max(rates(Optimiser(**plain, schedule="one-cycle", warm_up=0.1))) > 0.9
    again = Optimiser(**plain, schedule="one-cycle", warm_up=0.3, restarts=(0.5,))
    assert rates(again, steps=20) == cycle * 2


RESTARTED = ONE_CYCLE.model_copy(update={"restarts": (0.2, 0.6)})


class From(torch.utils.data.Dataset):
    """The samples of another data set from one on."""

    def __init__(self, first: int, samples: int) -> None:
        self.first, self.samples = first, samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int):
        return Thresholded(100)[self.first + index]


def test_a_restart_goes_on_from_the_averaged_weights_and_remembers_nothing_else(tmp_path):
    """One training with restarts is three trainings, each from the weights that the one before wrote."""
    how = Fitting(batch_size=2, learning_rate=0.02, optimiser=RESTARTED, workers=0)
    written = load_file(fit(small(), Thresholded(40), loss=LOSS, out=tmp_path / "one", how=how))
    network = small()
    how = replace(how, optimiser=ONE_CYCLE)
    for number, (first, samples) in enumerate(((0, 8), (8, 16), (24, 16))):
        weights = fit(network, From(first, samples), loss=LOSS, out=tmp_path / f"{number}", how=how)
        network.load_state_dict(load_file(weights))
    for name, value in network.named_parameters():
        assert torch.equal(written[name], value), name


@pytest.mark.parametrize("restarts", [(0.2, 0.6), (0.5,), (0.2, 0.4)], ids=["within", "at-once", "last"])
def test_a_training_with_restarts_goes_on_where_it_was_interrupted(tmp_path, restarts):
    """The checkpoint is that of the tenth of twenty steps."""
    settings = ONE_CYCLE.model_copy(update={"restarts": restarts})
    how = Fitting(batch_size=2, learning_rate=0.02, optimiser=settings, workers=0, report_every=1)
    whole = load_file(fit(small(), Thresholded(40), loss=LOSS, out=tmp_path / "whole", how=how))

    def end(line: str) -> None:
        if line.startswith("step 12/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(small(), Thresholded(40), loss=LOSS, out=tmp_path / "part", how=how, report=end)
    assert torch.load(tmp_path / "part" / "checkpoint.pt", weights_only=True)["step"] == 10
    rest = load_file(fit(small(), Thresholded(40), loss=LOSS, out=tmp_path / "part", how=how))
    for name, value in whole.items():
        assert torch.equal(rest[name], value), name


def test_a_slow_training_is_kept_by_the_clock_and_its_curve_has_every_step_once(tmp_path, monkeypatch):
    """Ended in step 7 of 20, before the tenth: it goes on from the checkpoint of step 6, and tells step 7 once."""
    monkeypatch.setattr(loop, "CHECKPOINT_S", 0.0)
    how = Fitting(batch_size=2, learning_rate=0.02, optimiser=ONE_CYCLE, workers=0, report_every=1)

    def end(line: str) -> None:
        if line.startswith("step 7/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(small(), Thresholded(40), loss=LOSS, out=tmp_path, how=how, report=end)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 6
    fit(small(), Thresholded(40), loss=LOSS, out=tmp_path, how=how)
    curve = (tmp_path / "loss.csv").read_text().splitlines()
    assert [int(point.partition(",")[0]) for point in curve] == list(range(1, 21))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"schedule": "cosine"}, "optimiser.schedule: Input should be 'constant', 'milestones' or 'one-cycle'"),
        ({"schedule": "constant"}, 'optimiser: Value error, the schedule "constant" has no factor and no milestones'),
        ({"factor": None}, 'optimiser: Value error, the schedule "milestones" needs factor'),
        ({"milestones": (0.9, 0.5)}, "optimiser: Value error, milestones ascend"),
        ({"momentum": 0.9}, "optimiser.momentum: unknown field; known are name, betas, weight_decay, "),
        ({"restarts": (0.5,)}, 'optimiser: Value error, the schedule "milestones" has no restarts'),
        ({"clipping": 0}, "optimiser.clipping: Input should be greater than 0"),
        ({"weight_decay": float("nan")}, "optimiser.weight_decay: Input should be "),
    ],
)
def test_an_impossible_optimiser_is_refused(changed, message):
    given = MILESTONES.model_dump(exclude_none=True) | changed
    given = {name: value for name, value in given.items() if value is not None}
    with pytest.raises(InputError) as caught:
        read_training_recipe(Path("scp-wmh"), optimiser=given)
    assert message in str(caught.value)


def test_rim_networks_are_not_rounded():
    with pytest.raises(InputError, match="rim networks are trained in float32 and without averaging"):
        read_training_recipe(Path("datrnet"), optimiser=ONE_CYCLE.model_dump())
