"""Pairs made from single visits: what is called new is what the images show as new."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import ROOT

from msrim.models import build
from msrim.recipe import read_training_recipe
from msrim.training.coactseg_loss import coactseg_loss
from msrim.training.lesions import LesionBank, Patient
from msrim.training.loop import Fitting, fit
from msrim.training.pairs import MarkedPair, PairProtocol, VisitCrops

SHAPE = (56, 56, 56)


@pytest.fixture(scope="module")
def patient() -> Patient:
    """Noise with six bright lesions, all of the brain white matter."""
    rng = np.random.default_rng(0)
    brain = np.linalg.norm(np.indices(SHAPE) - 27.5, axis=0) < 26
    lesions = np.zeros(SHAPE, bool)
    for x, y, z in ((14, 28, 28), (28, 14, 28), (28, 28, 14), (40, 28, 28), (28, 40, 28), (28, 28, 40)):
        lesions[x - 2 : x + 2, y - 2 : y + 2, z - 2 : z + 2] = True
    image = (rng.normal(0, 0.2, SHAPE) + 4.0 * lesions) * brain
    images = torch.from_numpy(image[None].astype(np.float32))
    return Patient("one", images, torch.zeros(6, *SHAPE), lesions, brain, np.full(SHAPE, 5, np.uint8), np.eye(4))


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> LesionBank:
    blocks = np.zeros(SHAPE, bool)
    blocks[18:22, 18:22, 18:22] = blocks[34:38, 34:38, 34:38] = True
    path = tmp_path_factory.mktemp("bank") / "bank.npz"
    voxels = np.flatnonzero(blocks)
    np.savez(path, voxels=voxels, offsets=[0, len(voxels)], names=["100-500/0"], shape=SHAPE, affine=np.eye(4))
    return LesionBank(path)


def crops(patient, bank, *, shape=(32, 32, 32), **protocol) -> VisitCrops:
    drawn = PairProtocol(**({"samples": 24, "seed": 3} | protocol))
    return VisitCrops([patient], [], bank, channel=0, shape=shape, protocol=drawn)


def test_batches_of_even_size_hold_as_many_singles_as_pairs(patient, bank):
    known = [crops(patient, bank)[i][3].tolist() for i in range(8)]
    assert known == [[True, False], [True, True]] * 4
    assert [crops(patient, bank, kinds="singles")[i][3].tolist() for i in (0, 1)] == [[True, False]] * 2
    assert [crops(patient, bank, kinds="pairs")[i][3].tolist() for i in (0, 1)] == [[True, True]] * 2


def test_a_sample_is_a_function_of_its_number(patient, bank):
    one, same = (crops(patient, bank)[3] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], crops(patient, bank)[5][0])


def test_crops_need_not_be_cubes(patient, bank):
    for image, lesions, new, *_ in (crops(patient, bank, shape=(32, 16, 48))[i] for i in (0, 1)):
        assert (image.shape[1:], lesions.shape[1:], new.shape[1:]) == ((32, 16, 48),) * 3


def test_a_single_visit_is_compared_with_itself(patient, bank):
    image, lesions, new, *_ = crops(patient, bank)[0]
    assert torch.equal(image[0], image[1]) and not image[2].any()
    assert torch.equal(lesions[0], lesions[1]) and not new.any()
    assert lesions.any()


def test_new_tissue_is_brighter_and_gone_tissue_darker_at_follow_up(patient, bank):
    differences = {"new": [], "gone": [], "same": []}
    for index in range(1, 24, 2):
        image, (before, after), new, *_ = crops(patient, bank)[index]
        assert torch.equal(image[2], image[1] - image[0])
        assert torch.equal(new[0] > 0, (after > 0) & (before == 0))
        for name, where in {
            "new": new[0] > 0,
            "gone": (before > 0) & (after == 0),
            "same": (before == 0) & (after == 0) & (image[0] != 0),
        }.items():
            differences[name] += image[2][where].tolist()
    mean = {name: np.mean(values) for name, values in differences.items()}
    assert mean["new"] > 0.5 and mean["gone"] < -0.5 and abs(mean["same"]) < 0.1
    assert min(map(len, differences.values())) > 200


def test_some_pairs_have_no_change_and_visits_differ_all_the_same(patient, bank):
    pairs = [crops(patient, bank, samples=80)[i] for i in range(1, 80, 2)]
    unchanged = [image for image, (before, after), *_ in pairs if torch.equal(before, after)]
    assert 2 <= len(unchanged) <= 24
    assert all(image[2].std() > 0.01 for image in unchanged)


def test_relations_are_staged(patient, bank):
    weights = [float(crops(patient, bank)[i][4]) for i in (0, 11, 12, 23)]
    assert weights == [0, 0, 1, 1]
    assert float(crops(patient, bank, relation_warmup=False)[0][4]) == 1
    assert float(crops(patient, bank, relation_loss=False)[23][4]) == 0


def test_marked_pairs_are_cropped_at_their_new_lesions():
    new = np.zeros(SHAPE, bool)
    new[28, 28, 28] = True
    images = torch.stack([torch.ones(SHAPE), torch.ones(SHAPE)])
    images[1, 28, 28, 28] = 5
    protocol = PairProtocol(samples=8, kinds="pairs")
    samples = VisitCrops([], [MarkedPair("p", images, new)], None, channel=0, shape=(32, 32, 32), protocol=protocol)
    for image, lesions, truth, known, _ in samples:
        assert truth.sum() == 1 and not lesions.any()
        assert image[2][truth[0] > 0] == pytest.approx(4, abs=1e-4)
        assert known.tolist() == [False, True]


def test_a_few_steps_of_training_lower_the_loss(patient, bank, tmp_path):
    torch.manual_seed(0)
    weights = fit(
        build("coactseg", width=4),
        crops(patient, bank, samples=32, shape=(16, 16, 16)),
        loss=coactseg_loss,
        out=tmp_path,
        how=Fitting(batch_size=4, learning_rate=2e-2, workers=0, report_every=2),
    )
    values = [float(line.split(",")[1]) for line in (tmp_path / "loss.csv").read_text().splitlines()]
    assert weights.is_file() and values[1] < values[0]  # both before the relations join


@pytest.mark.parametrize("name", ["coactseg", "coactseg-msseg2"])
def test_recipes(name):
    recipe = read_training_recipe(ROOT / "pipelines" / f"{name}.toml")
    assert recipe.task == "longitudinal" and recipe.batch_size % 2 == 0
    assert build(recipe.network, **recipe.settings)
    if name == "coactseg-msseg2":
        assert (recipe.crop, recipe.learning_rate, recipe.steps, recipe.seed) == ((80, 80, 80), 1e-2, 20_000, 1337)
