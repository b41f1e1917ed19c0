"""The ANTs backend on antspyx itself, at small sizes: what it finds, the same bits every time, and nothing left."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from volumes import rotation

from msrim.errors import BackendError
from msrim.image import Volume
from msrim.preprocess import ants
from msrim.preprocess.template import load_template, load_template_brain_mask


@pytest.fixture(scope="module")
def brain() -> Volume:
    """The template's brain in steps of 4 mm."""
    template = load_template()
    return Volume(template.data[::4, ::4, ::4], template.affine @ np.diag([4.0, 4.0, 4.0, 1.0]))


@pytest.fixture(scope="module")
def mask(brain) -> Volume:
    return brain.like(load_template_brain_mask().data[::4, ::4, ::4])


def test_n4_takes_a_field_away(brain, mask):
    axis = np.linspace(-1, 1, brain.shape[0])[:, None, None]
    biased = brain.like((brain.data * np.exp(0.4 * axis)).astype(np.float32))
    corrected = ants.correct_bias(biased, mask)
    inside = mask.data & (brain.data > 0)
    # The template is not quite even itself: what N4 makes of it is the aim.
    even = ants.correct_bias(brain, mask).data[inside]
    left = np.log(corrected.data[inside] / even).std()
    assert left < 0.2 * np.log(biased.data[inside] / brain.data[inside]).std()
    np.testing.assert_array_equal(corrected.affine, brain.affine)


def test_n4_of_nothing_is_nothing(brain):
    empty = brain.like(np.zeros_like(brain.data))
    assert not ants.correct_bias(empty, empty.like(empty.data > 0)).data.any()


@pytest.mark.parametrize("stored", ["RAS", "LAS"])
def test_rigid_and_affine_bring_a_brain_back(brain, mask, stored):
    """Skull and neck around it are no matter: they are blanked."""
    away = np.eye(4)
    away[:3, :3], away[:3, 3] = rotation(x_deg=9, z_deg=-6), (12, -15, 8)
    around = brain.like(np.where(mask.data, brain.data, np.roll(brain.data, 9, axis=2)))
    flip = (slice(None, None, -1 if stored == "LAS" else 1),)
    turn = np.eye(4)
    if stored == "LAS":
        turn[0] = -1, 0, 0, brain.shape[0] - 1
    grid = brain.affine @ turn
    for register, scale in ((ants.register_rigid, 1.0), (ants.register_affine, 1.08)):
        put = away @ np.diag([scale, scale, scale, 1.0])
        moving, moving_mask = (Volume(image.data[flip], put @ grid) for image in (around, mask))
        found = register(moving, brain, moving_mask=moving_mask, fixed_mask=mask)
        corners = np.array([(-60, -80, -40, 1), (60, 60, 70, 1), (0, 0, 0, 1), (-60, 60, 0, 1)]).T
        assert np.linalg.norm(((found @ put - np.eye(4)) @ corners)[:3], axis=0).mean() < 1


def test_atropos_numbers_tissue_from_csf_to_white(brain, mask):
    labels = ants.classify_tissue(brain, mask).data
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels > 0, mask.data)
    means = [brain.data[labels == each].mean() for each in (1, 2, 3)]
    assert means == sorted(means)
    assert min(np.count_nonzero(labels == each) for each in (1, 2, 3)) > 0.05 * mask.data.sum()


def test_bright_vessels_are_no_tissue_class_of_atropos(brain, mask):
    """Half a percent of the brain's voxels, up to eight times as bright as white matter."""
    bright = np.random.default_rng(3).random(brain.shape) < 0.005
    image = brain.like(np.where(bright, brain.data * 8, brain.data).astype(np.float32))
    labels = ants.classify_tissue(image, mask).data
    assert min(np.count_nonzero(labels == each) for each in (1, 2, 3)) > 0.05 * mask.data.sum()
    means = [brain.data[(labels == each) & ~bright].mean() for each in (1, 2, 3)]
    assert means[0] < 0.75 * means[1] < 0.75 * means[2]


@pytest.fixture(scope="module")
def swollen(brain, mask) -> dict[str, Volume]:
    """A brain whose left half is wider, elsewhere: no affine brings it back."""
    index = np.moveaxis(np.indices(brain.shape), 0, -1).astype(float)
    side = np.clip((index[..., 0] - 24) / 24, 0, 1)
    index[..., 0] -= 2.5 * np.sin(np.pi * side)
    put = np.eye(4)
    put[:3, 3] = 10, -6, 4
    moving = Volume(brain.data, brain.affine)
    data = ants.Warp(brain, ((index @ brain.affine[:3, :3].T + brain.affine[:3, 3]) - points_of(brain))).apply(moving)
    return {"moving": Volume(data.data, put @ brain.affine), "moving_mask": Volume(data.data > 0, put @ brain.affine)}


def points_of(volume: Volume) -> np.ndarray:
    return np.moveaxis(np.indices(volume.shape), 0, -1) @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def test_syn_deforms_one_brain_into_another(brain, mask, swollen):
    warp = ants.register_deformable(**swollen, fixed=brain, fixed_mask=mask, iterations=(30, 20))
    linear = ants.register_affine(**swollen, fixed=brain, fixed_mask=mask)
    shift = points_of(brain) @ np.linalg.inv(linear)[:3, :3].T + np.linalg.inv(linear)[:3, 3] - points_of(brain)
    errors = [
        np.abs(each.apply(swollen["moving"]).data - brain.data)[mask.data].mean()
        for each in (warp, ants.Warp(brain, shift))
    ]
    assert errors[0] < 0.7 * errors[1]
    labels = warp.apply(swollen["moving_mask"], nearest=True).data
    assert labels.dtype == bool
    assert 2 * (labels & mask.data).sum() / (labels.sum() + mask.data.sum()) > 0.95


def test_a_warp_is_what_antspyx_makes_of_its_own_files(brain, mask, swollen, tmp_path, monkeypatch):
    """The field and the affine in one, against ANTs' resampling with the files that it wrote."""
    import ants as antspyx

    kept = {}
    register = antspyx.registration

    def keep(fixed, moving, **options):
        found = register(fixed, moving, **options | {"outprefix": f"{tmp_path}/"})
        kept["image"] = antspyx.apply_transforms(fixed, moving, found["fwdtransforms"]).numpy()
        return found

    monkeypatch.setattr(antspyx, "registration", keep)
    warp = ants.register_deformable(**swollen, fixed=brain, fixed_mask=mask, iterations=(10, 0))
    moving = swollen["moving"]
    found = warp.apply(moving.like(np.where(swollen["moving_mask"].data, moving.data, 0)))
    np.testing.assert_allclose(found.data, kept["image"], atol=2e-3)


TWICE = """
import hashlib
import numpy as np
from msrim.image import Volume
from msrim.preprocess import ants
from msrim.preprocess.template import load_template
template = load_template()
brain = Volume(template.data[::4, ::4, ::4], template.affine @ np.diag([4.0, 4.0, 4.0, 1.0]))
mask = brain.like(brain.data > 0)
moving = Volume(brain.data, np.array([[1, 0, 0, 9], [0, 1, 0, -7], [0, 0, 1, 5], [0, 0, 0, 1.0]]) @ brain.affine)
found = (
    ants.register_rigid(moving, brain), ants.register_affine(moving, brain), ants.correct_bias(brain, mask).data,
    ants.classify_tissue(brain, mask).data, ants.register_deformable(moving, brain, iterations=(10, 5)).displacement,
)
print(*(hashlib.sha256(np.ascontiguousarray(each).tobytes()).hexdigest()[:16] for each in found))
"""


def test_the_same_bits_every_time_and_nothing_left(tmp_path):
    """In processes of their own, with as many threads as there are cores."""
    said = set()
    for _ in range(2):
        environment = {**os.environ, "TMPDIR": str(tmp_path), ants.THREADS: "4"}
        run = subprocess.run([sys.executable, "-c", TWICE], env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        said.add(run.stdout)
    assert len(said) == 1
    assert len(said.pop().split()) == 5
    assert not list(tmp_path.iterdir())


def test_one_thread_is_not_left_to_others():
    """The embedded backend and other programs keep the number that the user set."""
    code = "import os; from msrim.preprocess import ants; ants._library(); print(os.environ[ants.THREADS])"
    environment = {**os.environ, ants.THREADS: "3"}
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout == "3\n"


def test_a_failure_is_told_in_one_line(brain):
    """Atropos finds no three classes in an image of one value."""
    before = tempfile.gettempdir()
    flat = brain.like(np.zeros_like(brain.data))
    with pytest.raises(BackendError, match=r"Atropos of ANTs failed: .*; check the image, or use --backend embedded"):
        ants.classify_tissue(flat, flat.like(flat.data > 0))
    assert tempfile.gettempdir() == before
