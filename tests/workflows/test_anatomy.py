"""What the steps before the lesions decide by themselves, and what they write."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fsl_programs import FAST, answer
from typer.testing import CliRunner

from msrim.bids import Subject
from msrim.cli.main import app
from msrim.console import Console
from msrim.errors import Fallback, Remark
from msrim.image import Volume, read_volume, resample, write_volume
from msrim.models import inference
from msrim.models.registry import read_card
from msrim.preprocess import register
from msrim.preprocess.coordinates import distance_to_boundary
from msrim.preprocess.masks import grown_mask
from msrim.preprocess.template import load_template, load_template_brain_mask
from msrim.preprocess.tissue import csf_structures, tissue_of
from msrim.recipe import Recipe, read_training_recipe
from msrim.training.lesions import Patient
from msrim.transform import apply_transform, read_transform, write_transform
from msrim.workflows import anatomy
from msrim.workflows.anatomy import (
    Anatomy,
    AnatomyFiles,
    Working,
    make_working_images,
    preprocess_visit,
    read_mask,
    read_own,
    working_grid,
    write_anatomy,
)
from msrim.workflows.run import files_in
from msrim.workflows.segment import find_lesions
from msrim.workflows.training_data import prepare_visit

PIPELINES = Path(__file__).parents[2] / "pipelines"
# Brains do not meet.
APART = np.eye(4)
APART[:3, 3] = 150.0, 0, 0
PLAIN = {"card": read_card("synthstrip"), "program": "synthstrip", "brain_extracted": False, "device": "cpu"}


def test_the_working_grid_is_as_fine_as_the_brain_is_small():
    """A box of 60 mm that fills 75 mm of the template, in 3 mm slices and turned by 90 degrees."""
    affine = np.array([[0.0, 1.0, 0.0, 4.0], [-1.0, 0.0, 0.0, 70.0], [0.0, 0.0, 3.0, -20.0], [0.0, 0.0, 0.0, 1.0]])
    brain = Volume(np.ones((61, 61, 21), bool), affine)
    turn = np.array([[0.0, -1.25, 0.0, 9.0], [1.25, 0.0, 0.0, 2.0], [0.0, 0.0, 1.25, 5.0], [0.0, 0.0, 0.0, 1.0]])
    grid = working_grid(brain, mni_from_flair=turn)
    np.testing.assert_allclose(grid.spacing, 0.8)
    assert all(side % 16 == 0 for side in grid.shape)
    upright = (turn @ grid.affine)[:3, :3]
    np.testing.assert_allclose(upright, np.eye(3), atol=1e-9)
    corners = np.array([(0, 0, 0), (60, 60, 20), (60, 0, 20)])
    voxels = apply_transform(np.linalg.inv(grid.affine) @ affine, corners)
    assert (voxels >= 4).all() and (voxels <= np.array(grid.shape) - 5).all()


def test_an_alignment_that_is_not_one_of_a_brain_is_not_used(tmp_path, monkeypatch):
    """A working grid eight times too fine would take all memory."""
    monkeypatch.chdir(tmp_path)
    template, brain = load_template(), load_template_brain_mask()
    smaller = np.diag([0.9, 0.9, 0.9, 1.0])
    image = write_volume(Volume(template.data, smaller @ template.affine), Path("image.nii"))
    mask = write_volume(Volume(brain.data, smaller @ brain.affine), Path("brain.nii"))
    monkeypatch.setattr(register, "register_affine", lambda *_, **__: np.diag([20.0, 1.0, 1.0, 1.0]))
    with pytest.warns(Fallback, match="msrim found scales the head by 1.00 to 20.00; that by turning it"):
        found = read_transform(anatomy.align_to_template(image, contrast="T1w", brain=mask, backend="embedded"))
    np.testing.assert_allclose(found[:3, 3], 0, atol=4.0)
    np.testing.assert_allclose(found[:3, :3], np.linalg.inv(smaller)[:3, :3], atol=0.02)


def test_a_pdw_is_brought_to_the_working_grid(tmp_path, monkeypatch):
    """Its bright block, 6 mm beside the FLAIR's, comes to lie where the FLAIR has it."""
    monkeypatch.chdir(tmp_path)
    brain = np.zeros((40, 40, 40), np.uint8)
    brain[8:32, 8:32, 8:32] = 1
    images = {}
    for name, left in (("flair", 14), ("pdw", 20)):
        data = np.indices(brain.shape).sum(0) % 7 + 20.0 * (np.abs(np.indices(brain.shape)[0] - left - 2) <= 2)
        images[name] = write_volume(Volume(data.astype(np.float32), np.eye(4)), Path(f"{name}.nii"))
    shift = np.eye(4)
    shift[0, 3] = -6
    paths = make_working_images(
        {"FLAIR": images["flair"], "PDw": images["pdw"]},
        brain=write_volume(Volume(brain, np.eye(4)), Path("mask.nii")),
        labels=write_volume(Volume(5 * brain, np.eye(4)), Path("head.nii")),
        labelled="FLAIR",
        to_mni=write_transform(np.eye(4), Path("to_mni.txt")),
        to_flair={"PDw": write_transform(shift, Path("pdw.txt"))},
    ).images
    middles = [np.argwhere(read_own(paths[name]).data > 4)[:, 0].mean() for name in ("FLAIR", "PDw")]
    assert list(paths) == ["FLAIR", "PDw"] and abs(middles[0] - middles[1]) < 0.5


def test_a_pdw_is_prepared_for_networks_that_know_it_alone(tmp_path):
    """The template's brain in steps of 2 mm, as a FLAIR and as a PDw."""
    template = load_template()
    image = Volume(template.data[::2, ::2, ::2], template.affine @ np.diag([2.0, 2.0, 2.0, 1.0]))
    shown = {"FLAIR": np.where(image.data > 0.5, 1.3 - image.data, 0.2), "PDw": 1.2 - 0.5 * image.data}
    flair, pdw = (
        write_volume(image.like((data * (image.data > 0)).astype(np.float32)), tmp_path / f"sub-1_{contrast}.nii.gz")
        for contrast, data in shown.items()
    )
    subject = Subject("1", None, {"FLAIR": flair}, {"PDw": [pdw]})
    names = {}
    for known in ("T2w", "PDw"):
        visit, out = subject.for_network([known]), tmp_path / known
        files = preprocess_visit(visit, Recipe(brain_extracted=True), out, console=Console(quiet=True)).files
        names[known] = {path.relative_to(out).name for path in files_in(files)}
        assert list(files.transforms) == ["FLAIR", "PDw"][: 1 + (known == "PDw")]
    assert names["PDw"] - names["T2w"] == {"sub-1_from-PDw_to-FLAIR_mode-image_xfm.txt"}


def classes_of_fast(home: Path, image: Volume, *, ventricle_mm: float) -> None:
    """Let FAST's stand-in find CSF in the middle of the brain, grey matter at the front and white matter elsewhere."""
    place = apply_transform(image.affine, np.moveaxis(np.indices(image.shape), 0, -1))
    classes = np.where(place[..., 1] > 20, 2, 3)
    classes[np.linalg.norm(place - (0, -20, 10), axis=-1) < ventricle_mm] = 1
    # What FAST did not see: zero in the T1w, say.
    classes[:, :, :20] = 0
    write_volume(image.like(classes.astype(np.uint8)), home / "classes.nii.gz")


def csf_distance(files: Anatomy) -> np.ndarray:
    """What AnaConv gets of a prepared visit: distance to CSF, mm."""
    return distance_to_boundary(csf_structures(read_own(files.working.tissue)))


# What a program of FSL does, and how the line begins that the user gets.
FAILURES = (
    ({"flirt": "echo 'no room' >&2; exit 1"}, "FLIRT of FSL 6.0.7.4 failed, exit code 1; it said: no room"),
    ({"flirt": "exit 0"}, "FLIRT of FSL ended without an error but wrote no matrix.txt; it said nothing"),
    ({"flirt": "yes 'nan nan' | head -4 > matrix.txt"}, "FLIRT of FSL wrote a matrix that is no transform (nan nan / "),
    ({"fast": f"{FAST}\nexit 1"}, "FAST of FSL 6.0.7.4 failed, exit code 1; it said nothing"),
)


def test_fsl_prepares_a_visit(tmp_path, stand_in, capfd, monkeypatch):
    """Programs that fail end the run in one line. Then FAST's classes make tissue file and distance maps, in a run and
    in training; version and backend are told; another FSL starts anew; what FLIRT finds wrong is replaced and told.
    """
    template = load_template()
    image = Volume(template.data[::2, ::2, ::2], template.affine @ np.diag([2.0, 2.0, 2.0, 1.0]))
    dark = 0.2 * (image.data > 0)  # CSF, around grey matter brighter than white
    flair = image.like(np.where(image.data > 0.5, 1.3 - image.data, dark).astype(np.float32))
    contrasts = {
        "FLAIR": write_volume(flair, tmp_path / "sub-1_FLAIR.nii.gz"),
        "T1w": write_volume(image, tmp_path / "sub-1_T1w.nii.gz"),
    }
    visit, recipe, out = Subject("1", None, contrasts), Recipe(backend="fsl", brain_extracted=True), tmp_path / "out"
    given = ["--flair", contrasts["FLAIR"], "--t1", contrasts["T1w"], "--out", out, "--quiet"]
    for scripts, words in FAILURES:
        stand_in(**scripts)
        shown = CliRunner().invoke(app, ["preprocess", "--backend", "fsl", "--brain-extracted", *map(str, given)])
        [line] = shown.stderr.splitlines()
        assert (shown.exit_code, shown.stdout) == (2, "")
        assert line.startswith(f"msrim: error: {words}"), line
        assert {path.name for path in (out / "sub-1").iterdir()} == {"work", "logs"}
        assert words.split(";")[0] in (out / "sub-1" / "logs" / "nipype.log").read_text(encoding="utf-8")

    home = stand_in(fast='cp "$FSLDIR/classes.nii.gz" tissue_pveseg.nii.gz')
    classes_of_fast(home, image, ventricle_mm=15)
    first = preprocess_visit(visit, recipe, out, console=Console(quiet=True))
    told = json.loads((out / "sub-1" / "run.json").read_text(encoding="utf-8"))
    assert (told["backend"], told["versions"]["FSL"]) == ("fsl 6.0.7.4", "6.0.7.4")
    [note] = told["fallbacks"]
    assert "% of the brain got no tissue class from the T1w: there it is the head network's" in note
    tissue, brain = read_own(first.files.tissue).data, read_mask(first.files.brain).data
    np.testing.assert_array_equal(tissue > 0, brain)
    seen = brain & (np.indices(brain.shape)[2] > 21)
    found = read_volume(home / "classes.nii.gz").data
    assert np.mean(tissue[seen] == found[seen]) > 0.98
    before = csf_distance(first)

    patient = trained_on(visit, out)
    np.testing.assert_array_equal(patient.coordinates.numpy(), np.float16(channels_of(first, monkeypatch)[3:]))

    classes_of_fast(home, image, ventricle_mm=30)
    answer(home, APART, moving=image, fixed=image)
    (home / "etc" / "fslversion").write_text("6.0.8\n")
    capfd.readouterr()
    second = preprocess_visit(visit, recipe, out, console=Console())
    said = capfd.readouterr().err
    told = json.loads((out / "sub-1" / "run.json").read_text(encoding="utf-8"))
    assert told["backend"] == "fsl 6.0.8"
    assert "backend: fsl 6.0.8" in said
    anew = {step["name"] for step in told["steps"] if not step["kept"]}
    assert {"correct_FLAIR", "align_T1w", "align_to_template", "classify_tissue", "make_working_images"} <= anew
    assert not anew & {"reorient_FLAIR", "label_head"}
    assert np.abs(csf_distance(second) - before).max() > 5
    apart = [
        f"registration of the T1w to the {other}: what FLIRT of FSL found lays " for other in ("FLAIR", "template")
    ]
    for words in apart:
        [note] = [note for note in told["fallbacks"] if note.startswith(words)]
        assert "that by msrim was taken" in note
        assert f"note: {note}" in said
    np.testing.assert_allclose(read_transform(second.to_flair["T1w"]), np.eye(4), atol=0.5)
    np.testing.assert_allclose(np.diag(read_transform(second.to_mni)), np.ones(4), atol=0.1)


def trained_on(visit: Subject, out: Path) -> Patient:
    """What training makes of a visit that was prepared before."""
    recipe = read_training_recipe(PIPELINES / "allnet.toml", backend="fsl", brain_extracted=True)
    flair = read_volume(visit.contrasts["FLAIR"])
    marked = write_volume(flair.like((flair.data > 1).astype(np.uint8)), out.with_name("marked.nii.gz"))
    return prepare_visit(visit, marked, recipe=recipe, out=out, console=Console(quiet=True))


def channels_of(prepared: Anatomy, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """What a run gives ALL-Net of a prepared visit: (C, X, Y, Z) float32."""
    seen = []

    def keep(network: torch.nn.Module, channels: np.ndarray, *, device: str) -> torch.Tensor:
        seen.append(channels[0])
        return torch.zeros(1, 2, *channels.shape[2:])

    with monkeypatch.context() as patched:
        patched.chdir(prepared.brain.parent)
        patched.setattr(inference, "run_network", keep)
        find_lesions(prepared.working, to_mni=prepared.to_mni, card=read_card("allnet"), device="cpu")
    return seen[0]


def test_changed_tissue_of_ants_changes_the_distance_maps(tmp_path, monkeypatch):
    """Atropos itself, in steps of 4 mm: a ball of the T1w as dark as CSF becomes CSF, whatever the head labels say."""
    template, mask = load_template(), load_template_brain_mask()
    grid = template.affine @ np.diag([4.0, 4.0, 4.0, 1.0])
    t1w, brain = Volume(template.data[::4, ::4, ::4], grid), Volume(mask.data[::4, ::4, ::4], grid)
    place = apply_transform(grid, np.moveaxis(np.indices(t1w.shape), 0, -1))
    ball = np.linalg.norm(place - (-28, -20, 30), axis=-1) < 14
    inside = write_volume(brain, tmp_path / "brain.nii")
    labels = write_volume(brain.like(np.where(brain.data, 5, 0).astype(np.uint8)), tmp_path / "head.nii")
    flair, identity = write_volume(t1w, tmp_path / "flair.nii"), write_transform(np.eye(4), tmp_path / "identity.txt")
    found = []
    for name, shown in (("as it is", t1w.data), ("with a ball", np.where(ball, 0.2 * t1w.data.max(), t1w.data))):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        image = write_volume(t1w.like(shown.astype(np.float32)), Path("t1w.nii"))
        tissue = anatomy.classify_tissue(image, brain=inside, to_flair=identity, backend="ants 0.6.3")
        working = make_working_images(
            {"FLAIR": flair, "T1w": image},
            brain=inside,
            labels=labels,
            labelled="T1w",
            to_mni=identity,
            to_flair={"T1w": identity},
            tissue=tissue,
        )
        found.append({part: read_own(getattr(working, part).resolve()) for part in ("labels", "tissue", "brain")})
    one, other = found
    np.testing.assert_array_equal(one["labels"].data, other["labels"].data)
    place = apply_transform(one["tissue"].affine, np.moveaxis(np.indices(one["tissue"].shape), 0, -1))
    deep = np.linalg.norm(place - (-28, -20, 30), axis=-1) < 8
    assert (other["tissue"].data[deep] == 1).mean() > 0.95 > 0.2 > (one["tissue"].data[deep] == 1).mean()
    distances = [distance_to_boundary(csf_structures(each["tissue"])) for each in found]
    assert np.abs(distances[0] - distances[1])[one["brain"].data > 0].max() > 5


def test_changed_tissue_changes_what_the_network_is_given(tmp_path, monkeypatch):
    """All else being equal: the channel of the distance to CSF, and no other."""
    monkeypatch.chdir(tmp_path)
    brain = np.zeros((48, 48, 48), np.uint8)
    brain[8:40, 8:40, 8:40] = 1
    given = {"brain": Volume(brain, np.eye(4)), "FLAIR": Volume(brain.astype(np.float32), np.eye(4))}
    paths = {name: write_volume(volume, Path(f"{name}.nii")) for name, volume in given.items()}
    to_mni, seen = write_transform(np.eye(4), Path("to_mni.txt")), []
    monkeypatch.setattr(
        inference,
        "run_network",
        lambda network, channels, *, device: seen.append(channels[0]) or torch.zeros(1, 2, *brain.shape),
    )
    for side in (6, 12):
        tissue = 3 * brain
        tissue[20 : 20 + side, 20 : 20 + side, 20 : 20 + side] = 1
        path = write_volume(Volume(tissue, np.eye(4)), Path(f"tissue{side}.nii"))
        working = Working({"FLAIR": paths["FLAIR"]}, paths["brain"], paths["brain"], path)
        find_lesions(working, to_mni=to_mni, card=read_card("allnet"), device="cpu")
    changed = [bool((one != two).any()) for one, two in zip(*seen, strict=True)]
    assert changed == [False] * 3 + [False, False, False, False, True, False]


@pytest.fixture(scope="module")
def registered(tmp_path_factory) -> tuple[Path, Path, Volume]:
    """A FLAIR-like image of the template's brain in a skull, a mask of two thirds of that brain, and a T1w-like image.

    The third lies on the same grid, but shows nothing in its lowest 40 mm.
    """
    template, mask = load_template(), load_template_brain_mask()
    skull, scalp = (grown_mask(mask, by_mm=by).data for by in (5, 12))
    tissue = template.data / template.data.max()
    folder = tmp_path_factory.mktemp("registered")
    flair = np.where(mask.data, 1.2 - tissue, np.where(skull, 0.1, 1.5 * scalp)).astype(np.float32)
    t1w = np.where(mask.data, tissue, np.where(skull, 0.05, 1.3 * scalp)).astype(np.float32)
    low, high = np.flatnonzero(mask.data.any(axis=(0, 1)))[[0, -1]]
    t1w[:, :, : low + 40] = 0
    brain = mask.data.copy()
    brain[:, :, low + 2 * (high - low) // 3 :] = False
    paths = [
        write_volume(mask.like(data), folder / name)
        for data, name in ((flair, "flair.nii"), (brain.astype(np.uint8), "brain.nii"))
    ]
    return paths[0], paths[1], mask.like(t1w)


def test_an_image_on_the_flairs_grid_that_matches_it_has_its_brain(registered, tmp_path, monkeypatch):
    """Where it shows anything: one brain extraction is enough then."""
    monkeypatch.chdir(tmp_path)
    flair, brain, t1w = registered
    found = anatomy.extract_brain(write_volume(t1w, Path("t1w.nii")), source=Path("T1w"), flair=(flair, brain), **PLAIN)
    np.testing.assert_array_equal(read_mask(found).data, read_mask(brain).data & (t1w.data.any(axis=(0, 1))))


def test_an_image_that_only_seems_registered_has_a_brain_of_its_own(registered):
    """5 mm away its brain isn't the FLAIR's, and on another grid nobody says that it was registered."""
    flair, brain = read_volume(registered[0]), read_mask(registered[1])
    t1w = registered[2]
    assert anatomy.shared_brain(t1w, flair, brain)
    assert anatomy.shared_brain(t1w.like(np.roll(t1w.data, 5, axis=1)), flair, brain) is None
    assert anatomy.shared_brain(Volume(t1w.data[:, :, :-1], t1w.affine), flair, brain) is None


@pytest.mark.parametrize(("unseen", "labelled"), [(0, "T1w"), (2, "T1w"), (10, "FLAIR")])
def test_a_t1w_in_which_the_brain_is_not_seen_gives_no_labels(tmp_path, unseen, labelled, recwarn):
    """Percent of the FLAIR's brain that the T1w's mask leaves out; 5 mm away, where its transform brings it back."""
    brain = np.zeros((60, 60, 60), np.uint8)
    brain[5:55, 5:55, 5:55] = 1
    of_t1w, shift = brain.copy(), np.eye(4)
    of_t1w[: 5 + unseen // 2], shift[0, 3] = 0, 5
    brains = {
        "FLAIR": write_volume(Volume(brain, shift), tmp_path / "flair.nii"),
        "T1w": write_volume(Volume(of_t1w, np.eye(4)), tmp_path / "t1w.nii"),
    }
    assert anatomy.choose_labelled(brains, to_flair={}) == "FLAIR"
    to_flair = {"T1w": write_transform(shift, tmp_path / "t1w.txt")}
    assert anatomy.choose_labelled(brains, to_flair=to_flair) == labelled
    told = [str(warning.message) for warning in recwarn if warning.category is Fallback]
    assert bool(told) == (labelled == "FLAIR")
    # FAST or Atropos may have found the tissue classes all the same.
    assert all("no brain in 10 % of the FLAIR" in note and "tissue" not in note for note in told)


def test_tissue_classes_of_another_program_stand_beside_labels_of_the_flair(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    brain = np.zeros((48, 48, 48), np.uint8)
    brain[8:40, 8:40, 8:40] = 1
    classes = 2 * brain
    classes[20:28, 20:28, 20:28] = 1
    made = {"image": brain.astype(np.float32), "brain": brain, "head": 5 * brain, "classes": classes}
    paths = {name: write_volume(Volume(data, np.eye(4)), Path(f"made_{name}.nii")) for name, data in made.items()}
    identity = write_transform(np.eye(4), Path("identity.txt"))
    working = make_working_images(
        {"FLAIR": paths["image"], "T1w": paths["image"]},
        brain=paths["brain"],
        labels=paths["head"],
        labelled="FLAIR",
        to_mni=identity,
        to_flair={"T1w": identity},
        tissue=paths["classes"],
    )
    inside, tissue = read_mask(working.brain).data, read_own(working.tissue)
    expected = resample(read_own(paths["classes"]), tissue, nearest=True).data
    np.testing.assert_array_equal(tissue.data[inside], expected[inside])
    assert np.unique(read_own(working.labels).data[inside]).tolist() == [5]


@pytest.mark.parametrize(("backend", "program"), [("fsl 6.0.7.4", "FAST"), ("ants 0.6.3", "Atropos")])
def test_who_stands_in_for_the_tissue_program_is_told(backend, program):
    with pytest.warns(Fallback, match=f"{program} needs a T1w and there is none: .* those of the head network"):
        assert anatomy.classify_tissue(None, brain=Path("brain.nii"), to_flair=None, backend=backend) is None


def written(folder: Path, *, cerebellum_voxels: int) -> AnatomyFiles:
    """Files of a 40 mm cube of brain, so much of it cerebellum."""
    labels = np.full(40**3, 5, np.uint8)
    labels[:cerebellum_voxels] = 6
    labels = labels.reshape(40, 40, 40)
    flair = Volume(np.random.default_rng(0).random((40, 40, 40), np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    files = {"flair": flair, "brain": flair.like(np.ones(flair.shape, bool)), "labels": flair.like(labels)}
    files["tissue"] = tissue_of(files["labels"])
    given = {name: write_volume(volume, folder / f"{name}.nii") for name, volume in files.items()}
    return write_anatomy(
        Subject("1", None, {"FLAIR": given["flair"]}),
        out=folder,
        brain=given["brain"],
        working=Working({}, given["brain"], given["labels"], given["tissue"]),
        to_mni=write_transform(np.eye(4), folder / "to_mni.txt"),
        to_flair={},
    )


def test_a_missing_cerebellum_is_told(tmp_path):
    with pytest.warns(Remark, match="only 40 ml of cerebellum and brainstem"):
        written(tmp_path, cerebellum_voxels=5000)


def test_a_whole_cerebellum_is_nothing_to_tell(tmp_path, recwarn):
    files = written(tmp_path, cerebellum_voxels=12500)
    assert not [warning for warning in recwarn if issubclass(warning.category, Remark)]
    assert all(path.is_file() for path in files_in(files))
