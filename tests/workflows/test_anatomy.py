"""What the steps before the lesions decide by themselves, and what they write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from msrim.bids import Subject
from msrim.console import Console
from msrim.errors import Fallback
from msrim.image import Volume, write_volume
from msrim.preprocess.template import load_template, load_template_brain_mask
from msrim.recipe import Recipe
from msrim.simulation.phantom import simulate_subject
from msrim.transform import apply_transform, read_transform, write_transform
from msrim.workflows import anatomy
from msrim.workflows.anatomy import (
    AnatomyFiles,
    make_working_images,
    preprocess_visit,
    read_own,
    working_grid,
    write_anatomy,
)
from msrim.workflows.run import files_in


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
    monkeypatch.setattr(anatomy, "register_affine", lambda *_, **__: np.diag([20.0, 1.0, 1.0, 1.0]))
    with pytest.warns(Fallback, match="not one of a brain"):
        found = read_transform(anatomy.align_to_template(image, brain=mask, backend="embedded"))
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
    """A phantom's T2w stands for the PDw."""
    anat = simulate_subject(tmp_path / "phantom", seed=3) / "anat"
    flair, pdw = (anat / f"sub-phantom_{contrast}.nii.gz" for contrast in ("FLAIR", "T2w"))
    subject = Subject("1", None, {"FLAIR": flair}, {"PDw": [pdw]})
    names = {}
    for known in ("T2w", "PDw"):
        visit, out = subject.for_network([known]), tmp_path / known
        files = preprocess_visit(visit, Recipe(), out, console=Console(quiet=True)).files
        names[known] = {path.relative_to(out).name for path in files_in(files)}
        assert list(files.transforms) == ["FLAIR", "PDw"][: 1 + (known == "PDw")]
    assert names["PDw"] - names["T2w"] == {"sub-1_from-PDw_to-FLAIR_mode-image_xfm.txt"}


def written(folder: Path, *, cerebellum_voxels: int) -> AnatomyFiles:
    """Files of a 40 mm cube of brain, so much of it cerebellum."""
    labels = np.full(40**3, 5, np.uint8)
    labels[:cerebellum_voxels] = 6
    labels = labels.reshape(40, 40, 40)
    flair = Volume(np.random.default_rng(0).random((40, 40, 40), np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    files = {"flair": flair, "brain": flair.like(np.ones(flair.shape, bool)), "labels": flair.like(labels)}
    given = {name: write_volume(volume, folder / f"{name}.nii") for name, volume in files.items()}
    return write_anatomy(
        Subject("1", None, {"FLAIR": given["flair"]}),
        out=folder,
        brain=given["brain"],
        labels=given["labels"],
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
