"""What the steps before the lesions decide by themselves, and what they write."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from msrim.bids import Subject
from msrim.console import Console
from msrim.errors import Fallback
from msrim.image import Volume, read_volume, write_volume
from msrim.models import inference
from msrim.models.registry import read_card
from msrim.preprocess import register
from msrim.preprocess.coordinates import distance_to_boundary
from msrim.preprocess.template import load_template, load_template_brain_mask
from msrim.preprocess.tissue import csf_structures, tissue_of
from msrim.recipe import Recipe
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
        labels={"FLAIR": write_volume(Volume(5 * brain, np.eye(4)), Path("head.nii"))},
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


def test_fsl_prepares_a_visit(tmp_path, stand_in):
    """FAST's classes make tissue file and distance maps; version and backend are told, and another FSL starts anew."""
    template = load_template()
    image = Volume(template.data[::2, ::2, ::2], template.affine @ np.diag([2.0, 2.0, 2.0, 1.0]))
    dark = 0.2 * (image.data > 0)  # CSF, around grey matter brighter than white
    flair = image.like(np.where(image.data > 0.5, 1.3 - image.data, dark).astype(np.float32))
    contrasts = {
        "FLAIR": write_volume(flair, tmp_path / "sub-1_FLAIR.nii.gz"),
        "T1w": write_volume(image, tmp_path / "sub-1_T1w.nii.gz"),
    }
    home = stand_in(fast='cp "$FSLDIR/classes.nii.gz" tissue_pveseg.nii.gz')
    visit, recipe, out = Subject("1", None, contrasts), Recipe(backend="fsl", brain_extracted=True), tmp_path / "out"
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

    classes_of_fast(home, image, ventricle_mm=30)
    (home / "etc" / "fslversion").write_text("6.0.8\n")
    second = preprocess_visit(visit, recipe, out, console=Console(quiet=True))
    told = json.loads((out / "sub-1" / "run.json").read_text(encoding="utf-8"))
    assert told["backend"] == "fsl 6.0.8"
    anew = {step["name"] for step in told["steps"] if not step["kept"]}
    assert {"correct_FLAIR", "align_T1w", "align_to_template", "classify_tissue", "make_working_images"} <= anew
    assert not anew & {"reorient_FLAIR", "label_head_FLAIR", "label_head_T1w"}
    assert np.abs(csf_distance(second) - before).max() > 5


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
    with pytest.warns(Fallback, match="only 40 ml of cerebellum and brainstem"):
        written(tmp_path, cerebellum_voxels=5000)


def test_a_whole_cerebellum_is_nothing_to_tell(tmp_path, recwarn):
    files = written(tmp_path, cerebellum_voxels=12500)
    assert not [warning for warning in recwarn if issubclass(warning.category, Fallback)]
    assert all(path.is_file() for path in files_in(files))
