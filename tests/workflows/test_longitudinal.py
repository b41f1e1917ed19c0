"""Two visits through the whole graph between them: an egg with lesions that come, grow, stay and go."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import ndimage
from volumes import rotation

from msrim.bids import Subject
from msrim.console import Console
from msrim.files import sha256_of
from msrim.image import Volume, read_volume, write_volume
from msrim.manifest import Manifest
from msrim.models import build
from msrim.models.coactseg import find_changes
from msrim.models.registry import read_card
from msrim.recipe import Recipe
from msrim.transform import write_transform
from msrim.workflows.changes import compare, decide_by_network
from msrim.workflows.graph import run_graph
from msrim.workflows.longitudinal import change_graph, write_chain

SPACING_MM = (2.0, 2.0, 3.0)
SHAPE = (60, 60, 40)
# Centre and radius in mm, in the first visit's world.
OLD, GROWING, NEW, GONE = ((20, 0, 0), 7), ((-20, 5, 0), 5), ((0, 22, 5), 5), ((0, -22, -5), 5)
GROWN = ((-20, 5, 0), 8)
SWAPPED = {"new": "vanished", "vanished": "new", "enlarging": "shrinking", "shrinking": "enlarging", "stable": "stable"}


def visit(folder: Path, *lesions, moved: np.ndarray, seed: int) -> dict:
    """What the steps of one visit would have given, as files."""
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
    files = {
        "image": write_volume(brain.like(image.astype(np.float32)), folder / "flair.nii"),
        "brain": write_volume(brain, folder / "brain.nii"),
        "lesion": write_volume(brain.like((0.95 * marked).astype(np.float32)), folder / "lesion.nii"),
        "sphere": write_volume(
            brain.like(ndimage.gaussian_filter(marked, 1).astype(np.float32)), folder / "sphere.nii"
        ),
        "labels": write_volume(brain.like(np.where(depth > 0, 5, 0).astype(np.uint8)), folder / "labels.nii"),
        "mni": write_transform(np.linalg.inv(moved), folder / "mni.txt"),
    }
    return {
        "correct_FLAIR": {"image": files["image"]},
        "extract_brain_FLAIR": {"brain": files["brain"]},
        "align_to_template": {"transform": files["mni"]},
        "find_lesions": {"lesion": files["lesion"], "sphere": files["sphere"]},
        "write_anatomy": {"files": {"labels": files["labels"]}},
    }


def changes_of(one: dict, other: dict, folder: Path, *, manifest: Manifest | None = None) -> dict:
    visits = tuple(
        Subject("egg", session, {"FLAIR": found["correct_FLAIR"]["image"]})
        for session, found in (("01", one), ("02", other))
    )
    graph = change_graph(visits, (one, other), Recipe(threshold=0.5), card=read_card("allnet"), folder=folder)
    manifest = manifest or Manifest(recipe={}, inputs={})
    return run_graph(graph, folder=folder, console=Console(quiet=True), manifest=manifest)["write_changes"]


@pytest.fixture(scope="module")
def visits(tmp_path_factory) -> tuple[dict, dict]:
    folder = tmp_path_factory.mktemp("visits")
    moved = np.eye(4)
    moved[:3, :3] = rotation(x_deg=4, z_deg=-3)
    moved[:3, 3] = (3, -2, 1)
    return (
        visit(folder / "one", OLD, GROWING, GONE, moved=np.eye(4), seed=1),
        visit(folder / "two", OLD, GROWN, NEW, moved=moved, seed=2),
    )


@pytest.fixture(scope="module")
def written(visits, tmp_path_factory) -> dict:
    return changes_of(*visits, tmp_path_factory.mktemp("forth"))


@pytest.fixture(scope="module")
def swapped(visits, tmp_path_factory) -> dict:
    return changes_of(*visits[::-1], tmp_path_factory.mktemp("back"))


def with_t2w(found: dict, folder: Path, *, slices: slice = slice(None)) -> dict:
    """The visit with a T2w that lies elsewhere and shows some of the slices."""
    folder.mkdir()
    flair = read_volume(found["correct_FLAIR"]["image"])
    image = np.zeros(flair.shape, np.float32)
    image[:, :, slices] = np.sqrt(flair.data)[:, :, slices]
    moved = np.eye(4)
    moved[:3, 3] = (2, 0, -3)
    t2w = Volume(image, np.linalg.inv(moved) @ flair.affine)
    return found | {
        "correct_T2w": {"image": write_volume(t2w, folder / "t2w.nii")},
        "align_T2w": {"transform": write_transform(moved, folder / "to_flair.txt")},
    }


@pytest.mark.parametrize("thin", [False, True])
def test_a_t2w_of_both_visits_joins_in(visits, tmp_path, thin):
    """Where both show the brain; if that is little of it, the user is told that they do not."""
    one = with_t2w(visits[0], tmp_path / "t2w-1", slices=slice(0, 26))
    other = with_t2w(visits[1], tmp_path / "t2w-2", slices=slice(0, 16) if thin else slice(14, 40))
    warned = Manifest(recipe={}, inputs={})
    forth, back = (
        changes_of(*pair, tmp_path / name, manifest=manifest)
        for pair, name, manifest in (
            ((one, other), "forth", warned),
            ((other, one), "back", Manifest(recipe={}, inputs={})),
        )
    )
    matched = tmp_path / "forth" / "work" / "changes" / "match"
    assert (matched / "baseline_t2w.nii").is_file() != thin
    assert any("less than half of the brain" in note for note in warned.fallbacks) == thin
    assert sorted(row["change"] for row in forth["rows"]) == ["enlarging", "new", "stable", "vanished"]
    assert [SWAPPED[row["change"]] for row in forth["rows"]] == [row["change"] for row in back["rows"]]
    np.testing.assert_array_equal(read_volume_of(forth, "followup_changed"), read_volume_of(back, "baseline_changed"))
    assert "and of the T2w with a weight of 0.3" in json.loads(forth["files"]["summary"].read_text())["method"]
    assert forth["files"].get("difference_t2w", Path("none")).is_file() != thin
    if not thin:
        z, turned = (read_volume_of(found, "difference_t2w") for found in (forth, back))
        np.testing.assert_array_equal(z, -turned)
        images = [read_volume(matched / f"{name}_t2w.nii").data for name in ("baseline", "followup")]
        brain = read_volume(tmp_path / "forth" / "work" / "changes" / "meet" / "brain.nii", mask=True).data
        seen = images[0] != 0
        np.testing.assert_array_equal(seen, images[1] != 0)
        assert 0.3 < seen[brain].mean() < 0.9 and not seen[~brain].any()
        # In place: the same brain, told apart from its folds.
        assert np.corrcoef(images[0][seen], images[1][seen])[0, 1] > 0.6


def test_both_visits_are_cut_at_one_threshold(visits, tmp_path):
    own = tuple({**found, "choose_threshold": {"threshold": at}} for found, at in zip(visits, (0.2, 0.8), strict=True))
    subjects = tuple(Subject("egg", name, {"FLAIR": visits[0]["correct_FLAIR"]["image"]}) for name in ("01", "02"))
    graph = change_graph(subjects, own, Recipe(), card=read_card("allnet"), folder=tmp_path)
    assert graph.get_node("decide").inputs.threshold == pytest.approx(0.5)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def ball_mm3(lesion) -> float:
    return 4 / 3 * np.pi * lesion[1] ** 3


def test_every_lesion_is_tracked(written):
    found = {row["change"]: (row["baseline_mm3"], row["followup_mm3"]) for row in written["rows"]}
    assert sorted(found) == ["enlarging", "new", "stable", "vanished"] and len(written["rows"]) == 4
    assert found["stable"] == pytest.approx((ball_mm3(OLD),) * 2, rel=0.2)
    # Slices of 3 mm blur what changes, and raters draw wider than half of the blurred edge: so does the rule.
    assert found["enlarging"] == pytest.approx((ball_mm3(GROWING), ball_mm3(GROWN)), rel=0.5)
    assert found["new"] == pytest.approx((0, ball_mm3(NEW)), rel=0.4)
    assert found["vanished"] == pytest.approx((ball_mm3(GONE), 0), rel=0.4)


def test_the_new_mask_holds_the_new_lesion_and_the_grown_part_on_the_follow_up_s_grid(visits, written):
    flair = read_volume(visits[1]["correct_FLAIR"]["image"])
    new = read_volume(written["files"]["followup_changed"], mask=True)
    np.testing.assert_array_equal(new.affine, flair.affine)
    assert new.shape == flair.shape
    expected = ball_mm3(NEW) + ball_mm3(GROWN) - ball_mm3(GROWING)
    assert new.data.sum() * new.voxel_volume_mm3 == pytest.approx(expected, rel=0.5)
    lesions = read_volume(visits[1]["find_lesions"]["lesion"]).data > 0
    assert (new.data & lesions).sum() / new.data.sum() > 0.9


def test_tables_of_the_visits_and_their_maps_agree(written):
    for name in ("baseline", "followup"):
        rows = rows_of(written["files"][f"{name}_table"])
        instances = read_volume(written["files"][f"{name}_instances"])
        assert [int(row["id"]) for row in rows] == np.unique(instances.data)[1:].astype(int).tolist()
        volumes = np.bincount(instances.data.astype(int).ravel())[1:] * instances.voxel_volume_mm3
        np.testing.assert_allclose([float(row["volume_mm3"]) for row in rows], volumes, rtol=1e-3)
        assert {row["change"] for row in rows} <= set(SWAPPED)
    matched = {row["change"]: row["matched_id"] for row in rows_of(written["files"]["followup_table"])}
    assert matched["new"] == "n/a" and matched["stable"] != "n/a"


def test_summary_adds_up_and_tells_the_method(written):
    summary = json.loads(written["files"]["summary"].read_text(encoding="utf-8"))
    assert summary["lesions"] | {"new": 1, "vanished": 1, "enlarging": 1, "stable": 1} == summary["lesions"]
    assert summary["change_mm3"] == sum(row["change_mm3"] for row in written["rows"])
    assert summary["brain_overlap"] > 0.97 and summary["flair_correlation"] > 0.6
    assert "rule on the difference of the FLAIR with allnet@" in summary["method"]


def test_swapped_visits_swap_lesion_by_lesion_and_voxel_by_voxel(written, swapped):
    assert len(written["rows"]) == len(swapped["rows"]) == 4
    for one, other in zip(written["rows"], swapped["rows"], strict=True):
        assert other == {
            "id": one["id"],
            "change": SWAPPED[one["change"]],
            "baseline_ids": one["followup_ids"],
            "followup_ids": one["baseline_ids"],
            "baseline_mm3": one["followup_mm3"],
            "followup_mm3": one["baseline_mm3"],
            "change_mm3": -one["change_mm3"],
            "new_mm3": one["gone_mm3"],
            "gone_mm3": one["new_mm3"],
        }
    for ours, theirs in (("followup", "baseline"), ("baseline", "followup")):
        for key in ("changed", "instances"):
            one, other = read_volume_of(written, f"{ours}_{key}"), read_volume_of(swapped, f"{theirs}_{key}")
            np.testing.assert_array_equal(one, other)


def read_volume_of(written: dict, key: str) -> np.ndarray:
    return read_volume(written["files"][key], mask=False).data


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
    met = {"brain": write_volume(Volume(brain, affine), tmp_path / "in_brain.nii")}
    _, claims = find_changes(images["baseline"], images["followup"], card=read_card(tmp_path))
    threshold = float(np.quantile(claims, 0.8))
    settings = {"model": str(tmp_path), "sha256": digest, "device": "cpu", "threshold": threshold}

    def answer(images: dict[str, Path]) -> dict[str, Path]:
        compared = compare(met, matched=images, **settings)
        return decide_by_network(met, matched=images, compared=compared, threshold=threshold)

    masks = []
    for folder, given in (
        ("forth", matched),
        ("back", {"baseline": matched["followup"], "followup": matched["baseline"]}),
    ):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        files = answer(given)
        masks.append(
            {name: read_volume(files[name], mask=True).data for name in ("new", "gone", "baseline", "followup")}
        )
    forth, back = masks
    for name, other in (("new", "gone"), ("gone", "new"), ("baseline", "followup"), ("followup", "baseline")):
        np.testing.assert_array_equal(forth[name], back[other])
    assert forth["new"].any() and not (forth["new"] & forth["baseline"]).any() and not (forth["new"] & ~brain).any()
    assert not (forth["gone"] & forth["followup"]).any()
    quiet = {
        name: write_volume(Volume(data - 9 * (data > 5), affine), tmp_path / f"quiet_{name}.nii")
        for name, data in images.items()
    }
    nothing = answer(quiet)
    assert not any(read_volume(nothing[name], mask=True).data.any() for name in ("new", "gone"))
    # A layer of brain in which nothing lies deep: the same answers are none of a lesion.
    brain[:, :, 12:] = False
    write_volume(Volume(brain, affine), tmp_path / "in_brain.nii")
    shallow = answer(matched)
    assert not any(read_volume(shallow[name], mask=True).data.any() for name in forth)
