"""Lesions painted into a small head with lesions of its own, and what is found of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from heads import BRIGHT, DARK, OWN, SHAPE, THRESHOLD, head
from scipy import ndimage

from msrim.bids import Subject
from msrim.errors import Remark
from msrim.evaluation.grade import CONTRASTS
from msrim.image import read_volume, write_volume
from msrim.labels import HeadLabel
from msrim.training.contrasts import PAINTED_CONTRAST
from msrim.workflows.anatomy import Anatomy
from msrim.workflows.grade import SIZES_MM3, Grade, PaintedImages, grade_lesions, paint_lesions
from msrim.workflows.painting import Canvas, canvas_of, own_contrasts

MIN_MM3 = 3.0


@pytest.fixture(scope="module")
def scanned(tmp_path_factory) -> tuple[Anatomy, Path]:
    return head(tmp_path_factory.mktemp("head"))


def paint(scanned: tuple[Anatomy, Path], folder: Path, monkeypatch) -> PaintedImages:
    monkeypatch.chdir(folder)
    painted = paint_lesions(scanned[0], lesion=scanned[1], threshold=THRESHOLD, seed=1)
    images = {name: path.absolute() for name, path in painted.working.images.items()}
    working = replace(painted.working, images=images)
    return replace(painted, working=working, lesions=painted.lesions.absolute(), shown=painted.shown.absolute())


def graded(scanned: tuple[Anatomy, Path], painted: PaintedImages, found: np.ndarray, folder: Path) -> Grade:
    """With a mask of what a network finds in the painted images."""
    anatomy, lesion = scanned
    flair = anatomy.working.images["FLAIR"]
    probability = read_volume(flair).like(found.astype(np.float32))
    return grade_lesions(
        Subject("ball", None, {"FLAIR": flair}),
        painted,
        out=folder / "out",
        flair=flair,
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


def canvas(scanned: tuple[Anatomy, Path]) -> Canvas:
    return canvas_of(scanned[0], lesion=scanned[1], threshold=THRESHOLD)


def test_the_patients_own_contrast_is_measured(scanned):
    seen = own_contrasts(canvas(scanned))
    assert len(seen) == len(OWN)
    for volume, contrasts in seen:
        assert volume == pytest.approx(4 / 3 * np.pi * 3.5**3, rel=0.1)
        # The quartile of noise lies 0.67 deviations off.
        assert contrasts["FLAIR"] == pytest.approx(BRIGHT + 0.2, abs=0.2)
        assert contrasts["T1w"] == pytest.approx(DARK - 0.2, abs=0.2)


@pytest.mark.parametrize("slice_mm", [1.0, 5.0])
def test_painted_lesions_are_as_bright_on_the_scan_as_the_patients_own(tmp_path, monkeypatch, slice_mm):
    """However much of them the scan's slices take away."""
    painted = paint(head(tmp_path, slice_mm=slice_mm), tmp_path, monkeypatch)
    seen = {
        name: [how.flair_contrast for how in painted.painted.values() if how.contrast == name] for name in CONTRASTS
    }
    faintest = PAINTED_CONTRAST["FLAIR"][0]
    for name, expected in (("faint", faintest), ("medium", (faintest + BRIGHT + 0.2) / 2), ("own", BRIGHT + 0.2)):
        assert np.median(seen[name]) == pytest.approx(expected, rel=0.15)


def test_a_head_without_lesions_gets_what_raters_usually_mark(scanned, tmp_path, monkeypatch):
    anatomy, lesion = scanned
    probability = read_volume(lesion)
    healthy = write_volume(probability.like(0 * probability.data), tmp_path / "lesion.nii")
    painted = paint((anatomy, healthy), tmp_path, monkeypatch)
    usual = [how.flair_contrast for how in painted.painted.values() if how.contrast == "own"]
    assert np.median(usual) == pytest.approx(np.mean(PAINTED_CONTRAST["FLAIR"]), rel=0.1)


def test_lesions_of_each_size_and_contrast_are_painted_away_from_real_ones(scanned, tmp_path, monkeypatch):
    painted = paint(scanned, tmp_path, monkeypatch)
    lesions, own = read_volume(painted.lesions).data, read_volume(scanned[1]).data > 0.5
    assert len(painted.painted) == sum(SIZES_MM3.values())
    sizes = np.bincount(lesions.astype(int).ravel())[1:].tolist()
    assert {size: sizes.count(size) for size in SIZES_MM3} == SIZES_MM3
    assert not added(scanned, painted, "FLAIR")[own].any()
    flair, t1w = added(scanned, painted, "FLAIR"), added(scanned, painted, "T1w")
    for contrast in ("faint", "own"):
        numbers = [number for number, how in painted.painted.items() if how.contrast == contrast]
        # Large ones, whose middle no blur reaches.
        inside = np.isin(lesions, [number for number in numbers if sizes[number - 1] >= 400])
        value = np.mean([painted.painted[number].flair_contrast for number in numbers])
        assert np.median(flair[inside]) == pytest.approx(value, rel=0.3)
    assert t1w[np.isin(lesions, numbers)].mean() < -0.5
    again = paint(scanned, tmp_path, monkeypatch)
    assert (read_volume(again.working.images["FLAIR"]).data == read_volume(painted.working.images["FLAIR"]).data).all()


def test_thick_slices_show_lesions_larger_than_they_were_drawn(scanned, tmp_path, monkeypatch):
    for name in ("fine", "thick"):
        (tmp_path / name).mkdir()
    thick = head(tmp_path, slice_mm=5.0)
    one, other = (paint(scan, tmp_path / name, monkeypatch) for scan, name in ((scanned, "fine"), (thick, "thick")))
    smallest = [
        sorted(how.volume_mm3 for how in painted.painted.values())[: int(SIZES_MM3[10.0])] for painted in (one, other)
    ]
    assert 7 <= np.median(smallest[0]) <= 16 and np.median(smallest[1]) > 25


def test_what_is_found_of_them_is_counted(scanned, tmp_path, monkeypatch):
    painted = paint(scanned, tmp_path, monkeypatch)
    shown, own = read_volume(painted.shown).data.astype(int), read_volume(scanned[1]).data > 0.5
    large = [number for number, how in painted.painted.items() if how.volume_mm3 >= 40]
    found = own | np.isin(shown, large)
    # One lesion of the patient is lost, and something is found where nothing was painted.
    found[tuple(slice(c - 4, c + 5) for c in OWN[0])] = False
    white = read_volume(scanned[0].working.labels).data == HeadLabel.CEREBRAL_WHITE
    away = ndimage.distance_transform_edt(white & (shown == 0) & ~own)
    found[tuple(slice(c, c + 2) for c in np.unravel_index(away.argmax(), away.shape))] = True
    told = graded(scanned, painted, found, tmp_path)
    sizes = told.summary["sizes"]
    assert [size["found"] for size in sizes] == [0, 0, *(size["painted"] for size in sizes[2:])]
    assert sum(size["found"] for size in sizes) == len(large) > 20
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
