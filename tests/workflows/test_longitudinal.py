"""Two visits through all that is done between them: an egg with lesions that come, grow, stay and go."""

from __future__ import annotations

import csv
import json
import math
import warnings
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import ndimage
from visits import hashes
from volumes import rotation

from msrim.bids import RIM_FOLDER, RIMS, Subject
from msrim.console import Console
from msrim.errors import InputError, Remark
from msrim.files import sha256_of, write_tsv
from msrim.image import Volume, read_volume, write_volume
from msrim.labels import HeadLabel
from msrim.lesions.track import EXPANSION_COLUMNS
from msrim.models import build
from msrim.models.inference import find_changes
from msrim.models.registry import read_card
from msrim.recipe import Recipe
from msrim.transform import read_transform, write_transform
from msrim.workflows.anatomy import Anatomy, AnatomyFiles, Working
from msrim.workflows.changes import (
    Aligned,
    Anatomical,
    Edit,
    Matched,
    Midway,
    Pair,
    PreparedVisit,
    common_threshold,
    compare,
    decide_by_network,
    match,
    register_to_midway,
)
from msrim.workflows.comparison import Changes, compare_visits
from msrim.workflows.longitudinal import remarks_on_dates, visit_date, write_chain, years_between
from msrim.workflows.segment import LesionFiles, Lesions, Probabilities

SPACING_MM = (2.0, 2.0, 3.0)
SHAPE = (60, 60, 40)
# Centre and radius in mm, in the first visit's world.
OLD, GROWING, NEW, VANISHED = ((20, 0, 0), 7), ((-20, 5, 0), 5), ((0, 22, 5), 5), ((0, -22, -5), 5)
GROWN = ((-20, 5, 0), 8)
# Flowing CSF, as bright as a lesion, and the ventricle around it.
FLOW, VENTRICLE = ((0, 0, -20), 4), ((0, 0, -20), 9)
SWAPPED = {"new": "vanished", "vanished": "new", "enlarging": "shrinking", "shrinking": "enlarging", "stable": "stable"}


def visit(folder: Path, session: str, *lesions, moved: np.ndarray, seed: int) -> PreparedVisit:
    """What `msrim segment` would have left of one visit, as far as the comparison looks at it."""
    folder.mkdir()
    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, 3] = -np.array(SHAPE) * SPACING_MM / 2
    points = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    points = points @ np.linalg.inv(moved)[:3, :3].T + np.linalg.inv(moved)[:3, 3]
    x, y, z = np.moveaxis(points, -1, 0)
    depth = 48 - np.sqrt(x**2 + 1.2 * (y - x / 5) ** 2 + 1.5 * z**2)
    marked = np.zeros(SHAPE)
    for centre, radius in lesions:
        # Half of the voxels at the edge: what a slice of finite thickness shows.
        marked = np.maximum(marked, np.clip((radius - np.linalg.norm(points - centre, axis=-1)) / 2 + 0.5, 0, 1))
    folds = 12 * np.sin(x / 6) * np.sin(y / 7) * np.sin(z / 8)
    image = np.where(depth > 0, 100 + folds + 60 * marked, 0)
    image += (depth > 0) * np.random.default_rng(seed).normal(0, 4, SHAPE)
    brain = Volume(depth > 0, affine)
    inside = np.linalg.norm(points - VENTRICLE[0], axis=-1) < VENTRICLE[1]
    labels = np.select([inside, depth > 0], [HeadLabel.VENTRICLES, HeadLabel.CEREBRAL_WHITE], 0)
    files = {
        "image": write_volume(brain.like(image.astype(np.float32)), folder / "flair.nii"),
        "brain": write_volume(brain, folder / "brain.nii"),
        "lesion": write_volume(brain.like((0.95 * marked).astype(np.float32)), folder / "lesion.nii"),
        "sphere": write_volume(
            brain.like(ndimage.gaussian_filter(marked, 1).astype(np.float32)), folder / "sphere.nii"
        ),
        "labels": write_volume(brain.like(labels.astype(np.uint8)), folder / "labels.nii"),
        "mni": write_transform(np.linalg.inv(moved), folder / "mni.txt"),
    }
    anatomy = Anatomy(
        corrected={"FLAIR": files["image"]},
        brain=files["brain"],
        to_flair={},
        to_mni=files["mni"],
        working=Working({"FLAIR": files["image"]}, files["brain"], files["labels"], files["labels"]),
        files=AnatomyFiles(files["brain"], files["labels"], Path(), files["labels"], {}),
    )
    probabilities = Probabilities(files["lesion"], files["sphere"], files["lesion"])
    unread = LesionFiles(**{field.name: Path() for field in fields(LesionFiles)})
    subject = Subject("egg", session, {"FLAIR": files["image"]})
    return PreparedVisit(subject, anatomy, Lesions(probabilities, 0.5, unread, []))


def changes_of(visits: Pair[PreparedVisit], out: Path, *, years: float | None = None) -> Changes:
    """With years, the expansion is measured too."""
    recipe = Recipe(threshold=0.5, expansion=years is not None)
    return compare_visits(visits, recipe, out, remarks=[], console=Console(quiet=True), years=years)


def assess_rims(visit: PreparedVisit, out: Path) -> None:
    """What `msrim rim-classify` leaves: OLD with a rim; something smaller inside it too."""
    flair = read_volume(visit.anatomy.corrected["FLAIR"])
    at = flair.affine[:3, :3] @ np.indices(SHAPE).reshape(3, -1) + flair.affine[:3, 3:]
    distance = np.linalg.norm(at - np.array(OLD[0])[:, None], axis=0).reshape(SHAPE)
    folder = visit.subject.folder(out) / RIM_FOLDER
    instances = flair.like(np.select([distance < 3, distance < 6], [2, 7], 0))
    write_volume(instances, visit.subject.below(folder, RIMS["instances"]))
    rows = [(2, 0.3), (7, 0.8)]
    write_tsv(rows, visit.subject.below(folder, RIMS["table"]), columns=("id", "rim_probability"))


def told(out: Path) -> dict:
    """The run.json of a pair."""
    [path] = out.glob("sub-egg/ses-*_to_ses-*/run.json")
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def visits(tmp_path_factory) -> Pair[PreparedVisit]:
    folder = tmp_path_factory.mktemp("visits")
    moved = np.eye(4)
    moved[:3, :3] = rotation(x_deg=4, z_deg=-3)
    moved[:3, 3] = (3, -2, 1)
    return (
        visit(folder / "one", "01", OLD, GROWING, VANISHED, FLOW, moved=np.eye(4), seed=1),
        visit(folder / "two", "02", OLD, GROWN, NEW, FLOW, moved=moved, seed=2),
    )


@pytest.fixture(scope="module")
def written(visits, tmp_path_factory) -> Changes:
    out = tmp_path_factory.mktemp("forth")
    assess_rims(visits[0], out)
    return changes_of(visits, out, years=1.5)


@pytest.fixture(scope="module")
def swapped(visits, tmp_path_factory) -> Changes:
    return changes_of(visits[::-1], tmp_path_factory.mktemp("back"), years=1.5)


def mask_of(visit: PreparedVisit) -> Volume:
    lesion = read_volume(visit.lesions.probabilities.lesion)
    return lesion.like(lesion.data >= 0.5)


def test_a_correction_changes_the_lesions_that_it_touches_and_no_other(visits, written, tmp_path):
    """At follow-up the new lesion is removed, and one is drawn that nobody found."""
    out = written.files.changes.parents[3]
    pair = out / "sub-egg" / "ses-01_to_ses-02"
    before = hashes(pair)
    followup = visits[1]
    found = mask_of(followup)
    drawn = found.like(found.data.copy())
    points = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1) @ found.affine[:3, :3].T
    points = points + found.affine[:3, 3]
    moved = np.linalg.inv(read_transform(followup.anatomy.to_mni))

    def ball(place, radius):
        return np.linalg.norm(points - (moved @ [*place, 1])[:3], axis=-1) < radius

    drawn.data[ball(NEW[0], 9)] = False
    drawn.data[ball((0, 0, 20), 5)] = True
    edit = Edit(write_volume(found, tmp_path / "found.nii"), write_volume(drawn, tmp_path / "drawn.nii"))
    edited = (visits[0], replace(followup, edit=edit))
    changes = compare_visits(
        edited, Recipe(threshold=0.5), out, remarks=["by hand"], console=Console(quiet=True), corrected=True
    )
    old = {row.change: row for row in written.rows}
    new = {row.change: row for row in changes.rows}
    assert set(old) == set(new) == {"new", "stable", "enlarging", "vanished"}
    for change in ("stable", "enlarging", "vanished"):
        assert (new[change].baseline_mm3, new[change].followup_mm3) == (
            old[change].baseline_mm3,
            old[change].followup_mm3,
        )
    own = read_volume(changes.visits[1].instances).data
    assert not own[ball(NEW[0], 7)].any()
    assert np.mean(own[ball((0, 0, 20), 4)] > 0) == 1
    expected = np.count_nonzero(ball((0, 0, 20), 5)) * found.voxel_volume_mm3
    assert new["new"].followup_mm3 == pytest.approx(expected, rel=0.2)
    assert read_volume(changes.visits[1].changed, mask=True).data[ball((0, 0, 20), 4)].all()
    corrected = out / "sub-egg" / "corrected" / "ses-01_to_ses-02"
    assert changes.files.changes.is_relative_to(corrected)
    run = json.loads((corrected / "run.json").read_text(encoding="utf-8"))
    assert run["inputs"]["followup lesions"]["path"] == str(tmp_path / "drawn.nii")
    assert "corrected by hand in the lesions of ses-02" in run["recipe"]["change_method"]
    assert "by hand" in run["warnings"]
    kept = {step["name"]: step["kept"] for step in run["steps"]}
    assert kept["compare"] and kept["decide"] and not kept["write_corrected_changes"]
    after = hashes(pair)
    assert {name: after[name] for name in before if "/" not in name or name.startswith("anat")} == {
        name: digest for name, digest in before.items() if "/" not in name or name.startswith("anat")
    }


def with_t2w(visit: PreparedVisit, folder: Path, *, slices: slice = slice(None)) -> PreparedVisit:
    """The visit with a T2w that lies elsewhere and shows some of the slices."""
    folder.mkdir()
    flair = read_volume(visit.anatomy.corrected["FLAIR"])
    image = np.zeros(flair.shape, np.float32)
    image[:, :, slices] = np.sqrt(flair.data)[:, :, slices]
    moved = np.eye(4)
    moved[:3, 3] = (2, 0, -3)
    t2w = write_volume(Volume(image, np.linalg.inv(moved) @ flair.affine), folder / "t2w.nii")
    anatomy = replace(
        visit.anatomy,
        corrected=visit.anatomy.corrected | {"T2w": t2w},
        to_flair={"T2w": write_transform(moved, folder / "to_flair.txt")},
    )
    return replace(visit, anatomy=anatomy)


@pytest.mark.parametrize("thin", [False, True])
def test_a_t2w_of_both_visits_joins_in(visits, tmp_path, thin):
    """Where both show the brain; if that is little of it, the user is told that they do not."""
    one = with_t2w(visits[0], tmp_path / "t2w-1", slices=slice(0, 26))
    other = with_t2w(visits[1], tmp_path / "t2w-2", slices=slice(0, 16) if thin else slice(14, 40))
    forth, back = changes_of((one, other), tmp_path / "forth"), changes_of((other, one), tmp_path / "back")
    assert any("less than half of the brain" in note for note in told(tmp_path / "forth")["fallbacks"]) == thin
    assert sorted(row.change for row in forth.rows) == ["enlarging", "new", "stable", "vanished"]
    assert [SWAPPED[row.change] for row in forth.rows] == [row.change for row in back.rows]
    np.testing.assert_array_equal(data_of(forth.visits[1].changed), data_of(back.visits[0].changed))
    assert "and of the T2w with a weight of 0.3" in json.loads(forth.files.summary.read_text())["method"]
    assert (forth.files.difference_t2w is None) == thin
    if not thin:
        np.testing.assert_array_equal(data_of(forth.files.difference_t2w), -data_of(back.files.difference_t2w))


def test_a_t2w_is_matched_where_both_visits_show_it(visits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = with_t2w(visits[0], tmp_path / "t2w-1", slices=slice(0, 26))
    other = with_t2w(visits[1], tmp_path / "t2w-2", slices=slice(14, 40))
    pair = (one.anatomy, other.anatomy)
    midway = register_to_midway(
        tuple(each.corrected["FLAIR"] for each in pair),
        brains=tuple(each.brain for each in pair),
        to_mni=tuple(each.to_mni for each in pair),
    )
    matched = match(midway, t2w=tuple(Aligned(each.corrected["T2w"], each.to_flair["T2w"]) for each in pair))
    images, brain = [data_of(path) for path in matched.t2w], read_volume(midway.brain, mask=True).data
    seen = images[0] != 0
    np.testing.assert_array_equal(seen, images[1] != 0)
    assert 0.3 < seen[brain].mean() < 0.9 and not seen[~brain].any()
    # In place: the same brain, told apart from its folds.
    assert np.corrcoef(images[0][seen], images[1][seen])[0, 1] > 0.6


def test_both_visits_are_cut_at_one_threshold(visits):
    one, other = visits
    own = (
        replace(one, lesions=replace(one.lesions, threshold=0.2)),
        replace(other, lesions=replace(other.lesions, threshold=0.8)),
    )
    assert common_threshold(own, Recipe(), card=read_card("allnet")) == pytest.approx(0.5)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def ball_mm3(lesion) -> float:
    return 4 / 3 * np.pi * lesion[1] ** 3


def test_every_lesion_is_tracked(written):
    found = {row.change: (row.baseline_mm3, row.followup_mm3) for row in written.rows}
    assert sorted(found) == ["enlarging", "new", "stable", "vanished"] and len(written.rows) == 4
    assert found["stable"] == pytest.approx((ball_mm3(OLD),) * 2, rel=0.2)
    # Slices of 3 mm blur what changes, and raters draw wider than half of the blurred edge: so does the rule.
    assert found["enlarging"] == pytest.approx((ball_mm3(GROWING), ball_mm3(GROWN)), rel=0.5)
    assert found["new"] == pytest.approx((0, ball_mm3(NEW)), rel=0.4)
    assert found["vanished"] == pytest.approx((ball_mm3(VANISHED), 0), rel=0.4)


def test_the_new_mask_holds_the_new_lesion_and_the_grown_part_on_the_follow_up_s_grid(visits, written):
    flair = read_volume(visits[1].anatomy.corrected["FLAIR"])
    new = read_volume(written.visits[1].changed, mask=True)
    np.testing.assert_array_equal(new.affine, flair.affine)
    assert new.shape == flair.shape
    expected = ball_mm3(NEW) + ball_mm3(GROWN) - ball_mm3(GROWING)
    assert new.data.sum() * new.voxel_volume_mm3 == pytest.approx(expected, rel=0.5)
    lesions = read_volume(visits[1].lesions.probabilities.lesion).data > 0
    assert (new.data & lesions).sum() / new.data.sum() > 0.9


def test_tables_of_the_visits_and_their_maps_agree(written):
    for files in written.visits:
        rows = rows_of(files.table)
        instances = read_volume(files.instances)
        assert [int(row["id"]) for row in rows] == np.unique(instances.data)[1:].astype(int).tolist()
        volumes = np.bincount(instances.data.astype(int).ravel())[1:] * instances.voxel_volume_mm3
        np.testing.assert_allclose([float(row["volume_mm3"]) for row in rows], volumes, rtol=1e-3)
        assert {row["change"] for row in rows} <= set(SWAPPED)
    matched = {row["change"]: row["matched_id"] for row in rows_of(written.visits[1].table)}
    assert matched["new"] == "n/a" and matched["stable"] != "n/a"


def test_summary_adds_up_and_tells_the_method(written):
    summary = json.loads(written.files.summary.read_text(encoding="utf-8"))
    assert summary["lesions"] | {"new": 1, "vanished": 1, "enlarging": 1, "stable": 1} == summary["lesions"]
    assert summary["change_mm3"] == sum(row.change_mm3 for row in written.rows)
    assert summary["brain_overlap"] > 0.96 and summary["flair_correlation"] > 0.6
    assert "rule on the difference of the FLAIR with allnet@" in summary["method"]


def test_swapped_visits_swap_lesion_by_lesion_and_voxel_by_voxel(written, swapped):
    assert len(written.rows) == len(swapped.rows) == 4
    for one, other in zip(written.rows, swapped.rows, strict=True):
        mirrored = asdict(other)
        # What grows one way shrinks the other; whether it does so slowly, or has a rim, is asked of one way.
        apart = {name: mirrored.pop(name) for name in (*EXPANSION_COLUMNS, "rim_probability")}
        assert apart["expansion_error_percent"] == one.expansion_error_percent
        for name in ("expansion_percent", "expansion_percent_per_year"):
            forth, back = getattr(one, name), apart[name]
            assert (forth is None) == (back is None)
            assert forth is None or (1 + forth / 100) * (1 + back / 100) == pytest.approx(1, abs=2e-4)
        assert mirrored == {
            "id": one.id,
            "change": SWAPPED[one.change],
            "baseline_ids": one.followup_ids,
            "followup_ids": one.baseline_ids,
            "baseline_mm3": one.followup_mm3,
            "followup_mm3": one.baseline_mm3,
            "change_mm3": -one.change_mm3,
            "new_mm3": one.vanished_mm3,
            "vanished_mm3": one.new_mm3,
        }
    for one, other in zip(written.visits, swapped.visits[::-1], strict=True):
        np.testing.assert_array_equal(data_of(one.changed), data_of(other.changed))
        np.testing.assert_array_equal(data_of(one.instances), data_of(other.instances))


def test_no_slow_expansion_is_sought_where_the_deformation_is_chance(written):
    """The egg's white matter is flat: noise alone leads the deformation there, and the user is told."""
    kept = [row for row in written.rows if row.expansion_percent is not None]
    assert {row.change for row in kept} == {"stable", "enlarging"}
    assert all(row.expansion_error_percent > 5 and row.sel_candidate is None for row in kept)
    summary = json.loads(written.files.summary.read_text(encoding="utf-8"))
    assert summary["sel_candidates"] is None and summary["years"] == 1.5
    assert summary["brain_volume_change_percent"] is None
    folder = written.files.summary.parents[1]
    assert "too much by chance" in (folder / "report.html").read_text(encoding="utf-8")
    fallbacks = json.loads((folder / "run.json").read_text(encoding="utf-8"))["fallbacks"]
    assert any(
        "by chance in white matter: each lesion's expansion has its error beside it" in note for note in fallbacks
    )


def test_expansion_between_thick_slices_is_doubted(written):
    doubts = json.loads((written.files.summary.parents[1] / "run.json").read_text(encoding="utf-8"))["doubts"]
    [doubt] = [doubt for doubt in doubts if "expansion between slices of 3 mm is underestimated" in doubt]
    # At the top of the page, and not among its warnings again.
    assert (written.files.summary.parents[1] / "report.html").read_text(encoding="utf-8").count(doubt) == 1


def test_rims_stand_beside_changes(written):
    assert {row.change: row.rim_probability for row in written.rows if row.rim_probability} == {"stable": 0.8}
    told = {row["change"]: row["rim_probability"] for row in rows_of(written.files.changes)}
    assert told["stable"] == "0.800" and told["new"] == "n/a"


def test_years_come_from_dates_or_from_the_user(tmp_path):
    visits = []
    for session, day in (("01", "2020-01-01"), ("02", "2021-07-02"), ("03", None)):
        flair = tmp_path / f"{session}.nii.gz"
        flair.touch()
        if day:
            flair.with_name(f"{session}.json").write_text(json.dumps({"AcquisitionDate": day}), encoding="utf-8")
        visits.append(Subject("egg", session, {"FLAIR": flair}))
    between = years_between(visits)
    assert between == [pytest.approx(1.5, abs=0.005), None]
    assert years_between(visits, [1.0, 0.5]) == [1.0, 0.5]
    for wrong in ([1.0], [1.0, 0.0], [1.0, -2.0], [1.0, 1e-9], [1.0, 300.0], [1.0, math.nan]):
        with pytest.raises(
            InputError, match="give one number of years for each step from visit to visit, 2 here, from"
        ):
            years_between(visits, wrong)


def test_dates_that_cannot_be_right_are_told(tmp_path):
    days = {"1": ("18200101", "18200101"), "2": ("20200101", None), "3": ("20220101", "20210101")}
    visits = []
    for session, (by_sidecar, by_table) in days.items():
        flair = tmp_path / f"ses-{session}" / "anat" / "FLAIR.nii.gz"
        flair.parent.mkdir(parents=True)
        flair.touch()
        flair.with_name("FLAIR.json").write_text(json.dumps({"AcquisitionDate": by_sidecar}), encoding="utf-8")
        if by_table:
            (tmp_path / f"ses-{session}" / "x_scans.tsv").write_text(
                f"filename\tacq_time\nanat/FLAIR.nii.gz\t{by_table}\n"
            )
        visits.append(Subject("egg", session, {"FLAIR": flair}))
    assert years_between(visits) == [None, pytest.approx(2.0, abs=0.005)]
    assert remarks_on_dates(visits, []) == ["ses-1 and ses-2 are 200 years apart by their dates, which are not used"]
    assert remarks_on_dates(visits[1:], [1.0]) == [
        "--years 1 is used; by their dates ses-2 and ses-3 are 2.00 years apart"
    ]
    assert remarks_on_dates(visits[1:], [2.05]) == []
    for visit in visits[:2]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            visit_date(visit.contrasts["FLAIR"])
    with pytest.warns(Remark, match="20220101 by its sidecar and on 20210101 by the table of scans"):
        assert visit_date(visits[2].contrasts["FLAIR"]) == "20220101"


def data_of(path: Path) -> np.ndarray:
    return read_volume(path).data


def test_visits_chain_into_one_table(written, swapped, tmp_path):
    """There and back again: what was new vanishes; what had vanished and comes back is another row."""
    visits = [Subject("egg", session, {}) for session in ("01", "02", "03")]
    (tmp_path / "sub-egg").mkdir()
    rows = rows_of(write_chain(visits, [written, swapped], tmp_path))
    steps = {(row["ses-01_to_ses-02"], row["ses-02_to_ses-03"]) for row in rows}
    assert steps == {
        ("stable", "stable"),
        ("enlarging", "shrinking"),
        ("new", "vanished"),
        ("vanished", "absent"),
        ("absent", "new"),
    }
    stable = next(row for row in rows if row["ses-01_to_ses-02"] == "stable")
    assert stable["ses-01_mm3"] == stable["ses-02_mm3"] == stable["ses-03_mm3"]


def test_a_network_decides_where_there_is_one(tmp_path, monkeypatch):
    """Weights that were never trained: answers mean nothing, but masks must fit together and swap with the visits.

    Whatever they say, only what lies where the images differ can have changed: a block of either visit.
    """
    torch.manual_seed(0)
    network = build("coactseg", width=4)
    rng = np.random.default_rng(0)
    images = {name: rng.normal(size=(48, 40, 44)).astype(np.float32) for name in ("baseline", "followup")}
    images["followup"][8:24, 8:32, 8:36] += 9
    images["baseline"][28:40, 8:32, 8:36] += 9
    with torch.no_grad():
        network(torch.from_numpy(rng.normal(size=(2, 3, 32, 32, 32)).astype(np.float32)))
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    digest = sha256_of(tmp_path / "weights.safetensors")
    (tmp_path / "card.toml").write_text(
        'name = "coactseg"\nversion = "0"\nnetwork = "coactseg"\nsettings = { width = 4 }\ntask = "longitudinal"\n'
        'summary = ""\ncontrasts = ["FLAIR"]\nrequired = ["FLAIR"]\nspacing_mm = 1.0\nnormalisation = ""\n'
        f'threshold = 0.5\nsha256 = "{digest}"\nlicence = ""\ntraining = ""\nlimits = ""\n'
    )
    affine = np.eye(4)
    matched = {name: write_volume(Volume(data, affine), tmp_path / f"{name}.nii") for name, data in images.items()}
    brain = np.zeros((48, 40, 44), bool)
    brain[4:-4, 4:-4, 4:-4] = True
    inside, identity = Volume(brain, affine), write_transform(affine, tmp_path / "identity.txt")
    midway = Midway(write_volume(inside, tmp_path / "in_brain.nii"), (Path(), Path()), (identity, identity), {})
    white = write_volume(inside.like(np.where(brain, HeadLabel.CEREBRAL_WHITE, 0)), tmp_path / "white.nii")
    anatomies = (Anatomical(write_volume(inside, tmp_path / "brain.nii"), matched["baseline"], white),) * 2
    _, claims = find_changes(images["baseline"], images["followup"], card=read_card(tmp_path))
    threshold = float(np.quantile(claims, 0.8))

    def answer(baseline: Path, followup: Path) -> dict[str, np.ndarray]:
        images = Matched((baseline, followup))
        given = {"card": read_card(tmp_path), "device": "cpu", "threshold": threshold, "stride": 60}
        compared = compare(midway, matched=images, **given)
        tissue = decide_by_network(midway, matched=images, compared=compared, anatomies=anatomies, threshold=threshold)
        files = {"new": tissue.new, "vanished": tissue.vanished, **dict(zip(matched, tissue.lesions, strict=True))}
        return {name: read_volume(path, mask=True).data for name, path in files.items()}

    masks = []
    for folder, given in (
        ("forth", matched.values()),
        ("back", reversed(matched.values())),
    ):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        masks.append(answer(*given))
    forth, back = masks
    for name, other in (("new", "vanished"), ("vanished", "new"), ("baseline", "followup"), ("followup", "baseline")):
        np.testing.assert_array_equal(forth[name], back[other])
    assert forth["new"].any() and not (forth["new"] & forth["baseline"]).any() and not (forth["new"] & ~brain).any()
    assert not (forth["vanished"] & forth["followup"]).any()
    quiet = {
        name: write_volume(Volume(data - 9 * (data > 5), affine), tmp_path / f"quiet_{name}.nii")
        for name, data in images.items()
    }
    # Plainly: the head for new lesions of the pair as it is, wherever its probability reaches the threshold.
    loud = compare(
        midway, matched=Matched(tuple(matched.values())), card=read_card(tmp_path), device="cpu", threshold=threshold,
        stride=20, plain=True,
    )  # fmt: skip
    _, (_, new) = find_changes(
        images["baseline"], images["followup"], card=read_card(tmp_path), stride=20, both_ways=False
    )
    plain = decide_by_network(
        midway,
        matched=Matched(tuple(matched.values())),
        compared=loud,
        anatomies=anatomies,
        threshold=threshold,
        plain=True,
    )
    np.testing.assert_array_equal(read_volume(plain.new, mask=True).data, (new >= threshold) & brain)
    nothing = answer(*quiet.values())
    assert not nothing["new"].any() and not nothing["vanished"].any()
    # A layer of brain in which nothing lies deep: the same answers are none of a lesion.
    brain[:, :, 12:] = False
    write_volume(Volume(brain, affine), tmp_path / "in_brain.nii")
    shallow = answer(*matched.values())
    assert not any(mask.any() for mask in shallow.values())
