"""Changes painted into a pair that is made of a small head, and what is found of them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from heads import BRIGHT, OWN, SHAPE, THRESHOLD, head
from scipy import ndimage
from volumes import pose, rotation

from msrim.bids import Subject
from msrim.evaluation.change_grade import EXPANDING, PAINTED_CHANGES
from msrim.image import Volume, read_volume, resample, write_volume
from msrim.labels import HeadLabel
from msrim.lesions.change import changed_tissue
from msrim.preprocess.deform import log_jacobian
from msrim.simulation.deformation import Pull, tissue_share
from msrim.transform import read_transform, write_transform
from msrim.workflows import change_grade
from msrim.workflows.anatomy import Anatomy
from msrim.workflows.change_grade import (
    LOSS_PERCENT,
    PLAN,
    RATIOS,
    ChangeGrade,
    PaintedChanges,
    grade_changes,
    make_baseline,
    make_followup,
    paint_changes,
)
from msrim.workflows.changes import Comparison, Deformation, Matched, Midway, Tissue

# Where the head lies at follow-up, and where half way; the follow-up has slices of 3 mm.
MOVED = pose(rotation(z_deg=6), (1, 1, 1), origin_mm=(4.0, -3.0, 2.0))
SLICE_MM = 3.0


@pytest.fixture(scope="module")
def painted(tmp_path_factory) -> tuple[Anatomy, PaintedChanges, Path]:
    """A head, its painted lesions, and the probability of its own."""
    folder = tmp_path_factory.mktemp("head")
    anatomy, lesion = head(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        drawn = paint_changes(anatomy, lesion=lesion, threshold=THRESHOLD, seed=1)
    excess = {name: tuple(folder / path for path in pair) for name, pair in drawn.excess.items()}
    lesions = tuple(folder / path for path in drawn.lesions)
    # The scan is what normalisation made of it, in other units.
    corrected = {
        name: write_volume(_scaled(read_volume(path)), folder / f"scan_{name}.nii")
        for name, path in anatomy.working.images.items()
    }
    return replace(anatomy, corrected=corrected), replace(drawn, excess=excess, lesions=lesions), lesion


def _scaled(image: Volume) -> Volume:
    return image.like((50 * image.data + 400).astype(np.float32))


def data_of(path: Path) -> np.ndarray:
    return read_volume(path).data


def test_each_change_is_painted_with_its_volumes(painted):
    _, drawn, lesion = painted
    baseline, followup = map(data_of, drawn.lesions)
    wanted = Counter({change: sum(pairs.values()) for change, pairs in PLAN.items()})
    assert tuple(wanted) == PAINTED_CHANGES
    found = Counter(row.change for row in drawn.rows)
    assert all(wanted[change] - 2 <= found[change] <= wanted[change] for change in wanted)
    for row in drawn.rows:
        volumes = np.count_nonzero(baseline == row.id), np.count_nonzero(followup == row.id)
        assert volumes == (row.baseline_mm3, row.followup_mm3)
        assert volumes in PLAN[row.change]
        # What grows keeps what it was.
        smaller, larger = sorted((baseline == row.id, followup == row.id), key=np.count_nonzero)
        assert not (smaller & ~larger).any()
    assert not ((baseline > 0) & (data_of(lesion) >= THRESHOLD)).any()


def test_the_baseline_shows_its_lesions_in_its_own_units(painted, tmp_path, monkeypatch):
    anatomy, drawn, _ = painted
    monkeypatch.chdir(tmp_path)
    made = make_baseline(anatomy, painted=drawn)
    lesions = data_of(drawn.lesions[0]) > 0
    for name, excess in drawn.excess.items():
        added = data_of(made.working.images[name]) - data_of(anatomy.working.images[name])
        np.testing.assert_allclose(added, data_of(excess[0]) * (data_of(anatomy.working.brain) > 0), atol=1e-3)
        scan = data_of(made.corrected[name]) - data_of(anatomy.corrected[name])
        np.testing.assert_allclose(scan, 50 * data_of(excess[0]), atol=0.1)
        assert abs(added[lesions].mean()) > 0.5 and np.sign(added[lesions].mean()) == (1 if name == "FLAIR" else -1)


def test_the_followup_lies_where_the_patient_lay_and_shows_its_own_lesions(painted, tmp_path, monkeypatch):
    anatomy, drawn, _ = painted
    monkeypatch.chdir(tmp_path)
    flair = read_volume(anatomy.corrected["FLAIR"])
    slices = Volume(np.ones((*SHAPE[:2], round(SHAPE[2] / SLICE_MM)), np.float32), np.diag([1, 1, SLICE_MM, 1.0]))
    identity = write_transform(np.eye(4), tmp_path / "identity.txt")
    later = replace(
        anatomy,
        corrected={"FLAIR": write_volume(slices, tmp_path / "later.nii")},
        to_flair={},
    )
    images = (anatomy.corrected["FLAIR"], anatomy.corrected["FLAIR"])
    midway = Midway(anatomy.brain, images, (write_transform(MOVED, tmp_path / "moved.txt"), identity), {})
    made = make_followup((anatomy, later), painted=drawn, midway=midway, matched=Matched(images), seed=1)
    assert set(made.corrected) == {"FLAIR"}
    image = read_volume(made.corrected["FLAIR"])
    assert image.shape == slices.shape
    brain = read_volume(made.brain, mask=True)
    expected = resample(read_volume(anatomy.brain), slices, target_from_source=MOVED).data > 0.5
    assert np.count_nonzero(brain.data ^ expected) < 0.01 * np.count_nonzero(expected)
    lesions = resample(
        flair.like((data_of(drawn.lesions[1]) > 0).astype(np.float32)), image, target_from_source=MOVED
    ).data
    # 50 units for each deviation.
    bright = image.data[lesions > 0.8].mean() - np.median(image.data[brain.data & (lesions == 0)])
    assert 0.3 * 50 * BRIGHT < bright < 1.1 * 50 * BRIGHT
    np.testing.assert_allclose(
        read_transform(made.to_mni), read_transform(anatomy.to_mni) @ np.linalg.inv(MOVED), atol=1e-6
    )
    labels = read_volume(made.labels)
    np.testing.assert_allclose(labels.affine, MOVED @ read_volume(anatomy.working.labels).affine, atol=1e-4)


@pytest.mark.parametrize("seen", [True, False])
def test_what_is_found_is_counted(painted, tmp_path, monkeypatch, seen):
    """All of it, and one of the patient's own lesions called vanished; or the patient's own alone."""
    anatomy, drawn, lesion = painted
    monkeypatch.chdir(tmp_path)
    grid = read_volume(anatomy.working.brain, mask=True)
    own = data_of(lesion) >= THRESHOLD
    lost = own & (np.linalg.norm(np.moveaxis(np.indices(SHAPE), 0, -1) - OWN[0], axis=-1) < 6)
    visits = [own | ((data_of(path) > 0) & seen) for path in drawn.lesions]
    visits[1] &= ~lost
    tissue = changed_tissue(
        grid.like(visits[0] & visits[1]),
        new=grid.like(visits[1] & ~visits[0]),
        vanished=grid.like(visits[0] & ~visits[1]),
    )
    identity = write_transform(np.eye(4), tmp_path / "identity.txt")
    midway = Midway(anatomy.working.brain, (anatomy.working.brain,) * 2, (identity, identity), {})
    decided = Tissue(
        new=write_volume(tissue.new, tmp_path / "new.nii"),
        vanished=write_volume(tissue.vanished, tmp_path / "vanished.nii"),
        lesions=(
            write_volume(tissue.baseline, tmp_path / "before.nii"),
            write_volume(tissue.followup, tmp_path / "after.nii"),
        ),
        probabilities=(lesion, lesion),
    )
    grade = grade_changes(
        Subject("ball", "02", {}),
        drawn,
        found=Comparison(midway, Matched(midway.flairs), decided),
        labels=(anatomy.working.labels, anatomy.working.labels),
        min_lesion_mm3=3.0,
        folder=tmp_path / "out",
        seed=1,
    )
    check(grade, drawn, seen=seen)


def check(grade: ChangeGrade, drawn: PaintedChanges, *, seen: bool) -> None:
    """Against what was painted."""
    assert grade.summary["own"] == {"lesions": len(OWN), "called_changed": {"vanished": 1}}
    shares = grade.summary["changes"]
    assert sum(share["painted"] for share in shares.values()) == len(drawn.rows)
    rows = [line.split("\t") for line in grade.table.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == len(drawn.rows) + 1
    if seen:
        assert all(share["found"] == share["painted"] for share in shares.values())
        assert grade.summary["volume_change_ratio"]["median"] == 1.0
    else:
        assert not any(share["found"] for share in shares.values())
        assert grade.summary["volume_change_ratio"] == {
            "median": None, "lower_quartile": None, "upper_quartile": None, "lesions": 0
        }  # fmt: skip
        assert {row[4] for row in rows[1:]} == {"n/a"}
    assert list(json.loads(grade.table_columns.read_text(encoding="utf-8"))) == rows[0]


@pytest.fixture(scope="module")
def deformed(painted, tmp_path_factory) -> tuple[Anatomy, PaintedChanges]:
    """The head with ventricles, and lesions that expand."""
    anatomy, _, lesion = painted
    folder = tmp_path_factory.mktemp("deformed")
    labels = read_volume(anatomy.working.labels)
    middle = np.linalg.norm(np.moveaxis(np.indices(SHAPE), 0, -1) - (np.array(SHAPE) - 1) / 2, axis=-1) < 10
    labels = labels.like(np.where(middle, HeadLabel.VENTRICLES, labels.data).astype(np.uint8))
    working = replace(anatomy.working, labels=write_volume(labels, folder / "labels.nii"))
    anatomy = replace(anatomy, working=working)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        drawn = paint_changes(anatomy, lesion=lesion, threshold=THRESHOLD, seed=1, deformed=True)
    excess = {name: tuple(folder / path for path in pair) for name, pair in drawn.excess.items()}
    return anatomy, replace(drawn, excess=excess, lesions=tuple(folder / path for path in drawn.lesions))


def expanding(drawn: PaintedChanges) -> dict[int, float]:
    """Ratio of volumes by number."""
    return {row.id: 1 + row.expansion_percent / 100 for row in drawn.rows if row.change == EXPANDING}


def test_what_is_injected_is_known(deformed):
    anatomy, drawn = deformed
    ratios = expanding(drawn)
    assert len(ratios) >= len(RATIOS) - 2
    # Beside the ventricles a lesion is pressed as the tissue is.
    np.testing.assert_allclose(list(ratios.values()), RATIOS[: len(ratios)], atol=0.08)
    pull = Pull(np.load(drawn.pull), read_volume(anatomy.working.labels).affine)
    for number, ratio in ratios.items():
        inside = data_of(drawn.lesions[0]) == number
        assert pull.sampled(inside.astype(np.float32)).sum() == pytest.approx(ratio * inside.sum(), rel=1e-3)
    # Lesions at the edge of the white matter push some of it out of the head.
    assert LOSS_PERCENT - 0.3 < drawn.loss_percent < LOSS_PERCENT + 0.1
    tissue = pull.sampled(tissue_share(read_volume(anatomy.working.labels))).sum()
    assert tissue == pytest.approx(
        (1 - drawn.loss_percent / 100) * tissue_share(read_volume(anatomy.working.labels)).sum(), rel=1e-4
    )
    for row in drawn.rows:
        assert (row.expansion_percent is None) == (row.change not in (EXPANDING, "stable"))


def test_the_followup_shows_the_expansion(deformed, tmp_path, monkeypatch):
    """In place, without noise and bias field, it is the baseline deformed where a lesion is alike at both visits."""
    anatomy, drawn = deformed
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(change_grade, "BIAS", 0.0)
    grid = write_volume(read_volume(anatomy.working.images["FLAIR"]), tmp_path / "later.nii")
    later = replace(anatomy, corrected={"FLAIR": grid}, to_flair={})
    identity = write_transform(np.eye(4), tmp_path / "identity.txt")
    midway = Midway(anatomy.brain, (grid, grid), (identity, identity), {})
    made = make_followup((anatomy, later), painted=drawn, midway=midway, matched=Matched((grid, grid)), seed=1)
    followup, labels_later = data_of(made.corrected["FLAIR"]), data_of(made.labels)
    images = [data_of(make_baseline(anatomy, painted=drawn).corrected["FLAIR"]), followup]
    lesions = data_of(drawn.lesions[0])
    pull = Pull(np.load(drawn.pull), read_volume(anatomy.working.labels).affine)
    tissue = data_of(anatomy.corrected["FLAIR"])
    expected, moved = pull.sampled(tissue, order=3) + pull.sampled(images[0] - tissue), []
    for number in expanding(drawn):
        near = ndimage.distance_transform_edt(lesions != number) < 3
        # A neighbour that is not alike may shine in.
        assert np.abs(images[1] - expected)[near].mean() < 0.1
        moved.append(np.abs(images[1] - images[0])[near].mean())
    # Of a contrast of some 150 units.
    assert min(moved) > 5
    # The ventricles have widened.
    labels = read_volume(anatomy.working.labels).data == HeadLabel.VENTRICLES
    assert np.count_nonzero(labels_later == HeadLabel.VENTRICLES) > 1.05 * np.count_nonzero(labels)


def test_what_is_recovered_stands_beside_it(deformed, painted, tmp_path, monkeypatch):
    anatomy, drawn = deformed
    monkeypatch.chdir(tmp_path)
    grid = read_volume(anatomy.working.brain, mask=True)
    own = data_of(painted[2]) >= THRESHOLD
    masks = [
        write_volume(grid.like(own | (data_of(path) > 0)), tmp_path / f"{k}.nii")
        for k, path in enumerate(drawn.lesions)
    ]
    nothing = write_volume(grid.like(np.zeros(SHAPE, bool)), tmp_path / "nothing.nii")
    # What was injected, without error; it is symmetric about half way but for its own size.
    moved = -np.load(drawn.pull)
    identity = write_transform(np.eye(4), tmp_path / "identity.txt")
    midway = Midway(anatomy.working.brain, (anatomy.working.brain,) * 2, (identity, identity), {})
    tissue = Tissue(nothing, nothing, (masks[0], masks[1]), (painted[2], painted[2]))
    deformation = Deformation(
        write_volume(grid.like(log_jacobian(moved)), tmp_path / "log_jacobian.nii"),
        1.0,
        {"brain_volume_change_percent": -0.9, "tissue_mask_change_percent": -1.2},
        slice_mm=1.0,
    )
    grade = grade_changes(
        Subject("ball", "02", {}),
        drawn,
        found=Comparison(midway, Matched(midway.flairs), tissue, deformation),
        labels=(anatomy.working.labels, anatomy.working.labels),
        min_lesion_mm3=3.0,
        folder=tmp_path / "out",
        seed=1,
    )
    told = grade.summary["expansion"]
    assert told["painted"] == told["measured"] == len(expanding(drawn))
    assert told["slope"]["value"] == pytest.approx(1, abs=0.1)
    assert told["slope"]["low"] <= told["slope"]["value"] <= told["slope"]["high"]
    assert told["candidates"]["found"] == told["candidates"]["painted"] > 0
    assert told["false_candidates"]["candidates"] == 0 < told["false_candidates"]["lesions"]
    assert told["brain_volume"] == {
        "injected_percent": pytest.approx(-drawn.loss_percent, abs=1e-3),
        "brain_volume_change_percent": -0.9,
        "tissue_mask_change_percent": -1.2,
    }
