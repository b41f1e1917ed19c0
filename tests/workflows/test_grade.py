"""Lesions painted into a small head with lesions of its own, and what is found of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from heads import BRIGHT, DARK, OWN, SHAPE, THRESHOLD, head

from msrim.bids import Subject
from msrim.errors import Remark
from msrim.image import read_volume, write_volume
from msrim.labels import HeadLabel
from msrim.workflows.anatomy import Anatomy
from msrim.workflows.grade import SIZES_MM3, Grade, PaintedImages, grade_lesions, own_contrast, paint_lesions

MIN_MM3 = 3.0


@pytest.fixture(scope="module")
def scanned(tmp_path_factory) -> tuple[Anatomy, Path]:
    return head(tmp_path_factory.mktemp("head"))


def paint(scanned: tuple[Anatomy, Path], folder: Path, monkeypatch) -> PaintedImages:
    monkeypatch.chdir(folder)
    painted = paint_lesions(scanned[0], lesion=scanned[1], threshold=THRESHOLD, seed=1)
    images = {name: path.absolute() for name, path in painted.working.images.items()}
    return PaintedImages(replace(painted.working, images=images), painted.lesions.absolute(), painted.contrasts)


def graded(scanned: tuple[Anatomy, Path], painted: PaintedImages, found: np.ndarray, folder: Path) -> Grade:
    """With a mask of what a network finds in the painted images."""
    anatomy, lesion = scanned
    flair = anatomy.working.images["FLAIR"]
    probability = read_volume(flair).like(found.astype(np.float32))
    return grade_lesions(
        Subject("ball", None, {"FLAIR": flair}),
        painted,
        out=folder / "out",
        brain=anatomy.files.brain,
        labels=anatomy.files.labels,
        lesion=lesion,
        painted_lesion=write_volume(probability, folder / "found.nii"),
        threshold=THRESHOLD,
        min_lesion_mm3=MIN_MM3,
        seed=1,
    )


def added(scanned: tuple[Anatomy, Path], painted: PaintedImages, contrast: str) -> np.ndarray:
    """What painting did to an image."""
    before, after = scanned[0].working.images[contrast], painted.working.images[contrast]
    return read_volume(after).data - read_volume(before).data


def test_the_patients_own_contrast_is_measured(scanned):
    anatomy, lesion = scanned
    images = {name: read_volume(path) for name, path in anatomy.working.images.items()}
    white = read_volume(anatomy.working.labels).data == HeadLabel.CEREBRAL_WHITE
    own = images["FLAIR"].like(read_volume(lesion).data > 0.5)
    seen = own_contrast(images, lesions=own, white=white)
    # The quartile of noise lies 0.67 deviations off.
    assert seen["FLAIR"] == pytest.approx(BRIGHT + 0.2, abs=0.15)
    assert seen["T1w"] == pytest.approx(DARK - 0.2, abs=0.15)
    assert own_contrast(images, lesions=own.like(np.zeros(SHAPE, bool)), white=white) is None


def test_lesions_of_each_size_and_contrast_are_painted_away_from_real_ones(scanned, tmp_path, monkeypatch):
    painted = paint(scanned, tmp_path, monkeypatch)
    lesions, own = read_volume(painted.lesions).data, read_volume(scanned[1]).data > 0.5
    assert len(painted.contrasts) == sum(SIZES_MM3.values())
    sizes = np.bincount(lesions.astype(int).ravel())[1:].tolist()
    assert {size: sizes.count(size) for size in SIZES_MM3} == SIZES_MM3
    assert not added(scanned, painted, "FLAIR")[own].any()
    flair, t1w = added(scanned, painted, "FLAIR"), added(scanned, painted, "T1w")
    for contrast in ("faint", "own"):
        numbers = [number for number, (name, _) in painted.contrasts.items() if name == contrast]
        # Large ones, whose middle no blur reaches.
        inside = np.isin(lesions, [number for number in numbers if sizes[number - 1] >= 400])
        value = painted.contrasts[numbers[0]][1]
        assert np.median(flair[inside]) == pytest.approx(value, rel=0.3)
    assert t1w[np.isin(lesions, numbers)].mean() < -0.5
    again = paint(scanned, tmp_path, monkeypatch)
    assert (read_volume(again.working.images["FLAIR"]).data == read_volume(painted.working.images["FLAIR"]).data).all()


def test_thick_slices_show_less_of_small_lesions(scanned, tmp_path, monkeypatch):
    for name in ("fine", "thick"):
        (tmp_path / name).mkdir()
    thick = head(tmp_path, slice_mm=5.0)
    one, other = (paint(scan, tmp_path / name, monkeypatch) for scan, name in ((scanned, "fine"), (thick, "thick")))
    lesions = read_volume(one.lesions).data
    small = (lesions > 0) & (lesions <= SIZES_MM3[10.0])
    assert added(thick, other, "FLAIR")[small].mean() < 0.7 * added(scanned, one, "FLAIR")[small].mean()


def test_what_is_found_of_them_is_counted(scanned, tmp_path, monkeypatch):
    painted = paint(scanned, tmp_path, monkeypatch)
    lesions, own = read_volume(painted.lesions).data.astype(int), read_volume(scanned[1]).data > 0.5
    sizes = np.bincount(lesions.ravel())
    found = own | (sizes[lesions] >= 60) & (lesions > 0)
    # One lesion of the patient is lost, and something is found where nothing was painted.
    found[tuple(slice(c - 4, c + 5) for c in OWN[0])] = False
    corner = np.argwhere((lesions == 0) & (read_volume(scanned[0].working.labels).data == HeadLabel.CORTEX))[0]
    found[tuple(slice(c, c + 2) for c in corner)] = True
    told = graded(scanned, painted, found, tmp_path)
    assert [size["found"] for size in told.summary["sizes"]] == [0, 0, 12, 9, 6, 3]
    assert told.summary["false_positives"] == {"lesions": 1, "volume_mm3": 8.0}
    assert told.summary["lost_lesions"] == 1
    assert told.summary["volume_ratio"]["median"] == 1.0
    assert 25 < told.summary["smallest_found_mm3"]["own"]["value"] < 63
    rows = told.files.table.read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + sum(SIZES_MM3.values())
    assert json.loads(told.files.table_columns.read_text(encoding="utf-8")).keys() == set(rows[0].split("\t"))


def test_a_head_without_room_is_told(scanned, tmp_path, monkeypatch):
    anatomy, _ = scanned
    everywhere = read_volume(anatomy.working.labels)
    lesion = write_volume(everywhere.like((everywhere.data > 0).astype(np.float32)), tmp_path / "lesion.nii")
    with pytest.warns(Remark, match="only 0 lesions could be painted"):
        painted = paint((anatomy, lesion), tmp_path, monkeypatch)
    told = graded((anatomy, lesion), painted, np.zeros(SHAPE), tmp_path)
    assert told.summary["sensitivity"]["painted"] == 0
