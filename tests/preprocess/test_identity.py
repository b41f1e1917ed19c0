"""Brains told apart by their sulci: made ones, with sulci of their own."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from msrim.console import Console
from msrim.errors import Doubt
from msrim.image import Volume, write_volume
from msrim.preprocess.identity import SAME_BRAIN, likeness, on_template, same_brains
from msrim.recipe import read_training_recipe
from msrim.training.lesions import Patient
from msrim.transform import write_transform
from msrim.workflows import sweep
from msrim.workflows.changes import register_to_midway
from msrim.workflows.training_data import same_people

SIDE = 90
POINTS = np.moveaxis(np.indices((SIDE,) * 3), 0, -1) - (SIDE - 1) / 2
BRAIN = np.linalg.norm(POINTS / (33, 42, 36), axis=-1) < 1
# All have them, at one place.
VENTRICLES = np.linalg.norm((POINTS - (0, -6, 4)) / (12, 18, 8), axis=-1) < 1


def person(seed: int) -> np.ndarray:
    """Dark sulci of 2 to 4 mm in brighter tissue, at places of the person's own."""
    folds = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=BRAIN.shape), 3)
    tissue = 1 - 0.7 * (np.abs(folds) < 0.2 * folds.std())
    return np.where(VENTRICLES, 0.5, np.where(BRAIN, tissue, 0))


def scanned(image: np.ndarray, seed: int, *, slice_mm: int = 1) -> np.ndarray:
    """With thick slices, noise, a contrast of its own, and what correction leaves of a coil's field."""
    rng = np.random.default_rng(seed)
    thick = ndimage.uniform_filter1d(image, slice_mm, axis=2)
    field = np.exp(ndimage.zoom(rng.normal(0, 0.05, (4, 4, 4)), SIDE / 4, order=3))
    return 300 * np.maximum(thick, 0) ** 0.8 * field + rng.normal(0, 15, image.shape)


@pytest.mark.parametrize("slice_mm", [1, 3, 6])
def test_scans_of_one_person_are_alike_and_those_of_two_are_not(slice_mm):
    spacing = np.ones(3)
    one, again = scanned(person(1), 10, slice_mm=slice_mm), scanned(person(1), 11)
    assert likeness(one, again, BRAIN, spacing=spacing) > SAME_BRAIN
    assert likeness(one, scanned(person(2), 12), BRAIN, spacing=spacing) < 0.5


def test_nothing_to_compare():
    empty = np.zeros((9, 9, 9))
    assert likeness(empty, empty, np.zeros(empty.shape, bool), spacing=np.ones(3)) == 0
    assert likeness(empty, empty, np.ones(empty.shape, bool), spacing=np.ones(3)) == 0


def test_pairs_are_found_on_the_template_however_they_are_sampled():
    """Voxels in another order: the matrix says where they lie."""
    middle = np.array([0.0, -16.0, 18.0])
    straight = np.eye(4)
    straight[:3, 3] = middle - (SIDE - 1) / 2
    turned = straight @ np.array([[0, -1, 0, SIDE - 1], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    seen = {
        "a": on_template(Volume(scanned(person(1), 10), straight), BRAIN),
        "b": on_template(Volume(scanned(person(2), 11), straight), BRAIN),
        "c": on_template(Volume(np.rot90(scanned(person(1), 12), k=-1), turned), np.rot90(BRAIN, k=-1)),
    }
    [(one, other, alike)] = same_brains(seen)
    assert (one, other) == ("a", "c")
    # As comparing the two by themselves does.
    core = ndimage.binary_erosion(seen["a"][1] & seen["c"][1], iterations=2)
    assert alike == pytest.approx(np.corrcoef(seen["a"][0][core], seen["c"][0][core])[0, 1], abs=1e-4)
    assert same_brains({"a": seen["a"]}) == []


def patient(name: str, image: np.ndarray) -> Patient:
    grid = np.eye(4)
    grid[:3, 3] = (-(SIDE - 1) / 2, -16 - (SIDE - 1) / 2, 18 - (SIDE - 1) / 2)
    nothing = np.zeros(BRAIN.shape, bool)
    images = torch.from_numpy(np.stack([np.zeros_like(image), image / 300])).half()
    return Patient(name, images, torch.zeros(6, *BRAIN.shape), nothing, BRAIN, nothing.astype(np.uint8), grid)


def test_one_person_under_two_names_is_found_and_two_visits_are_none():
    scans = [("a", 1), ("a", 1), ("b", 2), ("c", 1)]
    patients = [patient(name, scanned(person(who), seed)) for seed, (name, who) in enumerate(scans)]
    assert [pair[:2] for pair in same_people(patients, contrasts=("T1w", "FLAIR"))] == [("a", "c")]
    assert same_people(patients[:3], contrasts=("T1w", "FLAIR")) == []
    # Without a FLAIR nobody is compared.
    assert same_people(patients, contrasts=("T1w",)) == []


def test_no_fold_divides_one_person(tmp_path, monkeypatch, capsys):
    """Preparing real visits takes minutes: here they are made ready."""
    people = {"a": 1, "b": 2, "c": 1}
    made = {name: patient(name, scanned(person(who), seed)) for seed, (name, who) in enumerate(people.items())}
    monkeypatch.setattr(sweep, "prepare_visit", lambda subject, mask, **_: made[subject])
    recipe = read_training_recipe(Path("allnet")).model_copy(update={"contrasts": ("T1w", "FLAIR")})
    visits = [(name, tmp_path) for name in made]
    dealt = [["a"], ["b"], ["c"]]
    folds, first = sweep.undivided(dealt, visits, recipe=recipe, prepared=tmp_path, console=Console())
    assert folds == [["a", "c"], ["b"], []] and first == {"c": "a"}
    assert "sub-a and sub-c show the same brain" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("who", [1, 2])
def test_two_visits_of_two_people_are_doubted(tmp_path, monkeypatch, who):
    """Brains of one shape: their overlap tells nothing."""
    monkeypatch.chdir(tmp_path)
    flairs, brains = [], []
    for number, image in enumerate((scanned(person(1), 10), scanned(person(who), 11))):
        scan = Volume(np.where(BRAIN, image, 0).astype(np.float32), np.eye(4))
        flairs.append(write_volume(scan, Path(f"flair{number}.nii")))
        brains.append(write_volume(scan.like(BRAIN), Path(f"brain{number}.nii")))
    upright = write_transform(np.eye(4), Path("to_mni.txt"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        midway = register_to_midway(tuple(flairs), brains=tuple(brains), to_mni=(upright, upright))
    doubts = [str(one.message) for one in caught if issubclass(one.category, Doubt)]
    assert midway.quality["brain_overlap"] > 0.95
    if who == 1:
        assert doubts == [] and midway.quality["sulci_correlation"] > 0.9
    else:
        assert len(doubts) == 1 and "make sure that both are of one patient" in doubts[0]
