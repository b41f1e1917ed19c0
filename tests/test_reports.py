"""What users of other tools reported, tried here: each case with its right answer, and its neighbours."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner
from volumes import OBLIQUE, RAS, pose

from msrim.bids import Subject, default_results_folder, find_subject, subject_from_files
from msrim.cli.main import app
from msrim.errors import Doubt, Fallback, InputError, OutputError, Remark
from msrim.files import sha256_of
from msrim.image import Volume, on_grid_of, read_labels, read_volume, same_grid, write_volume
from msrim.lesions.patches import susceptibility_ppm
from msrim.models.registry import read_card
from msrim.preprocess.background import background_of, rest_on_zero
from msrim.recipe import Recipe
from msrim.transform import read_transform
from msrim.workflows.anatomy import extract_brain, read_mask, reorient
from msrim.workflows.cohort.tasks import copies_among, find_cohort
from msrim.workflows.inputs import check_results_folder, read_head, read_subject
from msrim.workflows.longitudinal import check_visits
from msrim.workflows.rims import read_lesions, read_qsm
from msrim.workflows.segment import as_segmented

SHAPE, AFFINE = (40, 44, 36), pose(RAS, (4.0, 4.0, 4.0), origin_mm=(-80.0, -88.0, -72.0))


def brain(seed: int = 0) -> np.ndarray:
    """A textured egg of 1.1 l, zero around it."""
    i, j, k = (np.indices(SHAPE).T - (np.array(SHAPE) - 1) / 2).T
    inside = (i / 16) ** 2 + (j / 19) ** 2 + (k / 13) ** 2 < 1
    return np.where(inside, np.random.default_rng(seed).normal(100, 20, SHAPE).clip(5), 0).astype(np.float32)


def save(data: np.ndarray, path: Path, *, affine=AFFINE, sform: int = 1, qform: int = 1, **fields) -> Path:
    image = nib.Nifti1Image(data, affine)
    image.set_qform(affine, code=qform)
    image.set_sform(affine, code=sform)
    image.header["vox_offset"] = 352
    for name, value in fields.items():
        image.header[name] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not nibabel's own writing, which would mend the header on the way.
    content = image.header.binaryblock + bytes(4) + np.asarray(data).tobytes(order="F")
    # No time in it: the same image saved a second later is the same file.
    path.write_bytes(gzip.compress(content, 1, mtime=0) if path.name.lower().endswith(".gz") else content)
    return path


def run(*arguments: object):
    return CliRunner().invoke(app, [*map(str, arguments)])


def refused(*arguments: object, naming: object) -> str:
    """Run msrim; return the one line that it must give."""
    shown = run(*arguments)
    assert shown.exit_code == 2, (shown.output, shown.exception)
    assert shown.stdout == ""
    [line] = shown.stderr.splitlines()
    assert line.startswith("msrim: error: ") and str(naming) in line
    return line


# Headers.


def test_a_sheared_image_is_read_and_what_is_written_of_it_is_read_again(tmp_path):
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.08 * 4
    flair = read_volume(save(brain(), tmp_path / "FLAIR.nii.gz", affine=sheared, qform=0))
    again = read_volume(write_volume(flair, tmp_path / "again.nii"))
    np.testing.assert_allclose(again.affine, sheared, atol=1e-5)
    assert int(nib.load(tmp_path / "again.nii").header["qform_code"]) == 0
    # A qform that says all of it but the shear, as other programs write it, is no other pose.
    both = read_volume(save(brain(), tmp_path / "both.nii.gz", affine=sheared))
    np.testing.assert_allclose(both.affine, sheared, atol=1e-5)


@pytest.mark.parametrize("length", [(0.9, 0.9, 0.9), (30.0, 0.0, 0.0), (np.nan, 0.0, 0.0), (0.70711, 0.70711, 0.001)])
def test_a_damaged_quaternion_beside_a_good_sform(tmp_path, length):
    given = dict(zip(("quatern_b", "quatern_c", "quatern_d"), length, strict=True))
    flair = save(brain(), tmp_path / "FLAIR.nii", **given)
    try:
        with pytest.warns(Fallback, match=r"FLAIR.nii: its qform is damaged; its sform is used"):
            volume = read_volume(flair)
    except (InputError, AssertionError):
        # Just short of 1 it is a rotation, only another one than the sform's.
        assert length[0] == 0.70711
    else:
        np.testing.assert_array_equal(volume.affine, AFFINE)
    alone = save(brain(), tmp_path / "alone.nii", sform=0, **given)
    if length[0] != 0.70711:
        refused(
            "preprocess", "--flair", alone, "--out", tmp_path / "o", naming=f"{alone}: its affine (qform) is damaged"
        )


@pytest.mark.parametrize("row", [[0, 0, 0, 0], [np.nan, 0, 0, 0], [np.inf, 0, 0, 0]])
def test_a_damaged_sform_beside_a_good_qform(tmp_path, row):
    flair = save(brain(), tmp_path / "FLAIR.nii", srow_x=row)
    with pytest.warns(Fallback, match="its sform is damaged; its qform is used"):
        np.testing.assert_allclose(read_volume(flair).affine, AFFINE, atol=1e-4)


def test_a_header_without_a_pose_is_told(tmp_path):
    flair = save(brain(), tmp_path / "FLAIR.nii.gz", qform=0, sform=0)
    with pytest.warns(Remark, match=r"left and right are not known and are taken as stored LAS"):
        assert read_volume(flair).spacing == pytest.approx([4, 4, 4])


@pytest.mark.parametrize(
    ("dtype", "what"),
    [
        ([("R", "u1"), ("G", "u1"), ("B", "u1")], "a colour image"),
        ([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")], "a colour image"),
        (np.complex64, "complex numbers"),
        (np.complex128, "complex numbers"),
    ],
)
def test_colours_and_complex_numbers(tmp_path, dtype, what):
    flair = save(np.zeros(SHAPE, dtype), tmp_path / "FLAIR.nii.gz")
    assert what in refused("preprocess", "--flair", flair, "--out", tmp_path / "out", naming=flair)


@pytest.mark.parametrize(
    ("scale", "units", "what"),
    [
        (1000, 3, "1.44e+05 x 1.6e+05 x 1.76e+05 mm across by its header and its unit is the micron"),
        (0.001, 1, "0.144 x 0.16 x 0.176 mm across by its header and its unit is the meter"),
        (1000, 2, "1.44e+05 x 1.6e+05 x 1.76e+05 mm across"),
        (0.1, 2, "14.4 x 16 x 17.6 mm across, which is no head"),
        (5, 0, "720 x 800 x 880 mm across, which is no head"),
    ],
)
def test_lengths_in_other_units(tmp_path, scale, units, what):
    flair = save(brain(), tmp_path / "FLAIR.nii.gz", affine=AFFINE @ np.diag([scale] * 3 + [1]), xyzt_units=units)
    assert what in refused("preprocess", "--flair", flair, "--out", tmp_path / "out", naming=flair)


def test_a_wrong_unit_beside_lengths_in_mm_does_no_harm(tmp_path):
    assert read_head(save(brain(), tmp_path / "FLAIR.nii.gz", xyzt_units=1)).spacing == pytest.approx([4, 4, 4])


def test_a_header_that_claims_more_than_there_is(tmp_path):
    for dim, what in (([3, 32000, 32000, 32000, 1, 1, 1, 1], "which no head scan has"),
                      ([3, 300, 300, 300, 1, 1, 1, 1], "damaged or truncated")):  # fmt: skip
        flair = save(brain(), tmp_path / "FLAIR.nii.gz", dim=dim)
        assert what in refused("preprocess", "--flair", flair, "--out", tmp_path / "out", naming=flair)


def test_nothing_but_the_message_is_said_of_a_type_that_is_none(tmp_path):
    flair = save(brain(), tmp_path / "FLAIR.nii.gz", datatype=272)
    # Where Python's own handler of last resort would speak: outside of pytest's capture.
    command = [sys.executable, "-m", "msrim", "preprocess", "--flair", flair, "--out", tmp_path / "out"]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode == 2 and len(shown.stderr.splitlines()) == 1, shown.stderr


def test_a_bit_that_turned_in_a_compressed_file(tmp_path):
    flair = save(brain(), tmp_path / "FLAIR.nii.gz")
    content = bytearray(flair.read_bytes())
    content[-8] ^= 1  # of the checksum
    flair.write_bytes(content)
    assert "damaged" in refused("preprocess", "--flair", flair, "--out", tmp_path / "out", naming=flair)


def test_nan_around_the_head_is_background_and_nowhere_else(tmp_path):
    flair = save(np.where(brain() > 0, brain(), np.nan).astype(np.float32), tmp_path / "FLAIR.nii.gz")
    with pytest.warns(Remark, match="46808 voxels around the head are NaN and count as background"):
        np.testing.assert_array_equal(read_volume(flair).data, brain())
    mask = save(np.where(soft(1) > 0, 1, np.nan).astype(np.float32), tmp_path / "mask.nii.gz")
    with pytest.warns(Remark, match="count as background"):
        np.testing.assert_array_equal(read_labels(mask).data, soft(1))
    for value, where, count in ((np.nan, (20, 22, 18), 1), (np.inf, (0, 0, 0), 1), (np.nan, ..., brain().size)):
        data = brain()
        data[where] = value
        flair = save(data, tmp_path / "FLAIR.nii.gz")
        assert f"{count} voxels are NaN" in refused(
            "preprocess", "--flair", flair, "--out", tmp_path / "out", naming=flair
        )


def test_a_header_with_two_sizes_of_voxels(tmp_path):
    flair = save(brain(), tmp_path / "FLAIR.nii", qform=0, pixdim=[1, 1, 1, 2, 1, 1, 1, 1])
    with pytest.warns(Remark, match="measure 4 x 4 x 4 mm by its sform, which is used, and 1 x 1 x 2 by its pixdim"):
        assert read_volume(flair).spacing == pytest.approx([4, 4, 4])
    flair = save(brain(), tmp_path / "FLAIR.nii", qform=0, sform=0, pixdim=[1, 0, 4, 4, 1, 1, 1, 1])
    assert "voxel size" in refused("preprocess", "--flair", flair, "--out", tmp_path / "out", naming=flair)


def test_data_that_begin_within_the_header(tmp_path):
    flair = save(brain().astype(np.int16), tmp_path / "FLAIR.nii", vox_offset=0)
    assert "begin at byte 0" in refused("preprocess", "--flair", flair, "--out", tmp_path / "out", naming=flair)


OTHER_FORMATS = {
    "pair.img": (b"", "an empty file"),
    "a.hdr": (nib.AnalyzeHeader().binaryblock, "one of a pair of .hdr and .img"),
    "a.img": (bytes(1000), "one of a pair of .hdr and .img"),
    "a.mgz": (gzip.compress(b"\0\0\0\1" + bytes(600)), "mri_convert"),
    "a.dcm": (bytes(128) + b"DICM" + bytes(600), "dcm2niix"),
    "a.nrrd": (b"NRRD0004", "3D Slicer"),
    "a.mha": (b"ObjectType = Image", "MetaImage"),
    "twice.nii.gz": (gzip.compress(gzip.compress(b"x")), "compressed twice"),
    "zip.nii.gz": (b"PK\x03\x04", "an archive"),
    "lfs.nii.gz": (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
    "annex.nii.gz": (b"/annex/objects/MD5E-s1--0.nii.gz", "datalad get"),
    "page.nii.gz": (b"<!DOCTYPE html>", "convert it to .nii or .nii.gz"),
}


# Ids are the names: a compressed content has the second of its making in it, which two workers don't share.
@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_other_formats_are_told_by_their_content(tmp_path, name):
    content, what = OTHER_FORMATS[name]
    path = tmp_path / name
    path.write_bytes(content)
    line = refused("preprocess", "--flair", path, "--out", tmp_path / "out", naming=path)
    assert "not a NIfTI image" in line and what in line


# Names.


def test_names_that_say_another_compression(tmp_path):
    plain = save(brain(), tmp_path / "a.nii").rename(tmp_path / "FLAIR.nii.gz")
    assert "rename it to .nii" in refused("preprocess", "--flair", plain, "--out", tmp_path / "o", naming=plain)
    zipped = save(brain(), tmp_path / "b.nii.gz").rename(tmp_path / "FLAIR.nii")
    assert "rename it to .nii.gz" in refused("preprocess", "--flair", zipped, "--out", tmp_path / "o", naming=zipped)


@pytest.mark.parametrize("ending", [".Nii.gz", ".NII.GZ", ".nii.GZ", ".NII", ".Nii"])
def test_endings_in_capitals(tmp_path, ending):
    path = save(brain(), tmp_path / f"PAT01 Ax T1{ending}")
    np.testing.assert_array_equal(read_volume(path).data, brain())


def test_a_link_whose_file_was_not_fetched(tmp_path):
    (tmp_path / "FLAIR.nii.gz").symlink_to(tmp_path / ".git/annex/objects/x")
    line = refused("segment", tmp_path, "--out", tmp_path / "out", naming=tmp_path / "FLAIR.nii.gz")
    assert "datalad get" in line


def test_files_that_cannot_be_looked_at(tmp_path):
    long = tmp_path / ("x" * 300)
    for path in (tmp_path, tmp_path / "a" / ".." / "b", long):
        assert "damaged" not in refused("segment", "--flair", path, "--out", tmp_path / "out", naming=path)
    refused("segment", long, "--out", tmp_path / "out", naming=long)
    flair = save(brain(), tmp_path / "FLAIR.nii.gz")
    refused("segment", "--flair", flair, "--out", long, naming=long)


# Background.

EXTRACTED = {"card": read_card("synthstrip"), "program": "synthstrip", "brain_extracted": True, "device": "cpu"}


@pytest.mark.parametrize(
    "shift",
    [lambda x: (x - x.mean()) / x.std(), lambda x: x - 1024, lambda x: x + 100, lambda x: 1000 * (x - x.mean())],
    ids=["z-scored", "CT-like", "raised", "scaled"],
)
def test_a_brain_on_another_background_has_the_same_mask(tmp_path, monkeypatch, shift):
    monkeypatch.chdir(tmp_path)
    flair = save(shift(brain()).astype(np.float32), tmp_path / "FLAIR.nii.gz")
    with pytest.warns(Remark, match=r"FLAIR.nii.gz: its background is .* and not 0"):
        image = reorient(flair, brain_extracted=True)
    mask = extract_brain(image, source=flair, **EXTRACTED)
    (tmp_path / "plain").mkdir()
    monkeypatch.chdir(tmp_path / "plain")
    plain = reorient(save(brain(), tmp_path / "plain.nii.gz"), brain_extracted=True)
    expected = extract_brain(plain, source=Path("x"), **EXTRACTED)
    np.testing.assert_array_equal(read_mask(mask).data, read_mask(expected).data)


def test_bright_values_that_have_become_negative_are_told():
    data = 200 * brain()
    data[18:22, 20:24, 16:19] += 30_000
    wrapped = data.astype(np.int64).astype(np.uint16).view(np.int16).astype(np.float32)
    assert (wrapped < 0).any()
    with pytest.warns(Doubt, match=r"FLAIR.nii: \d+ voxels are as far below 0 as others are above it"):
        rest_on_zero(Volume(wrapped, AFFINE), name="FLAIR.nii", brain_extracted=True)


def test_a_spike_is_cut_and_told(recwarn):
    data = brain()
    rest_on_zero(Volume(3 * data, AFFINE), name="FLAIR.nii", brain_extracted=True)
    assert not recwarn.list
    data[20, 20, 20] = 1e7
    with pytest.warns(Remark, match=r"FLAIR.nii: 1 voxels are over 50 times as bright as all others and were cut"):
        cut = rest_on_zero(Volume(data, AFFINE), name="FLAIR.nii", brain_extracted=True).data
    assert 100 < cut[20, 20, 20] < 200
    cut[20, 20, 20] = data[20, 20, 20]
    np.testing.assert_array_equal(cut, data)


@pytest.mark.parametrize("value", [255, 4095])
def test_a_background_brighter_than_the_brain(value):
    data = np.where(brain() > 0, brain(), value).astype(np.float32)
    with pytest.warns(Remark, match=f"its background is {value}, brighter than what is darkest in the head"):
        moved = rest_on_zero(Volume(data, AFFINE), name="FLAIR.nii", brain_extracted=True)
    np.testing.assert_array_equal(moved.data > 0, brain() > 0)


def test_a_brain_that_was_z_scored_within_its_mask(tmp_path):
    data = brain()
    inside = data > 0
    scored = np.where(inside, (data - data[inside].mean()) / data[inside].std(), 0)
    with pytest.warns(Remark, match="% of its values are below 0"):
        moved = rest_on_zero(Volume(scored, AFFINE), name="FLAIR.nii", brain_extracted=True)
    np.testing.assert_array_equal(moved.data > 0, inside)
    assert np.corrcoef(moved.data[inside], data[inside])[0, 1] > 0.999


def test_ordinary_images_stay_as_they_are(recwarn):
    noise = np.abs(np.random.default_rng(0).normal(3, 1, SHAPE))
    rings = brain() + np.random.default_rng(0).normal(0, 0.5, SHAPE)  # splines leave some
    for data in (brain(), brain() + noise, np.where(brain() > 0, rings, 0)):
        volume = Volume(data.astype(np.float32), AFFINE)
        assert rest_on_zero(volume, name="x") is volume
    assert not recwarn.list
    assert background_of(brain()) == 0 and background_of(noise) is None


def test_a_whole_head_given_as_a_brain_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    head = read_volume(save(brain() + np.random.default_rng(1).random(SHAPE, np.float32), tmp_path / "FLAIR.nii"))
    image = write_volume(head, tmp_path / "image.nii")
    with pytest.raises(InputError, match=r"FLAIR.nii: 4055 ml of brain found; run without --brain-extracted"):
        extract_brain(image, source=Path("FLAIR.nii"), **EXTRACTED)


# What is no such image.


def test_one_image_as_two_contrasts(tmp_path):
    flair = save(brain(), tmp_path / "FLAIR.nii.gz")
    copy = shutil.copy(flair, tmp_path / "copy.nii.gz")
    for t1 in (flair, copy):
        line = refused("segment", "--flair", flair, "--t1", t1, "--out", tmp_path / "out", naming=t1)
        assert "the same image as FLAIR and T1w" in line


@pytest.mark.parametrize("kind", ["lesion mask", "brain mask", "labels", "probability"])
def test_a_mask_as_flair(tmp_path, kind):
    index = np.indices(SHAPE)
    lesions = np.zeros(SHAPE, np.float32)
    lesions[18:23, 20:24, 17:20] = 1
    data = {
        "lesion mask": lesions,
        "brain mask": brain() > 0,
        "labels": (index[0] // 7 + 8 * (index[1] // 9)) * (brain() > 0),
        "probability": lesions * np.random.default_rng(0).random(SHAPE),
    }[kind].astype(np.float32)
    flair = save(data, tmp_path / "FLAIR.nii.gz")
    line = refused("segment", "--flair", flair, "--out", tmp_path / "out", naming=flair)
    assert "give the image that the scanner made" in line


# Masks.


def soft(value: float) -> np.ndarray:
    data = np.zeros(SHAPE, np.float32)
    data[10:14, 10:14, 10:14] = value
    return data


def evaluated(tmp_path: Path, prediction: Path):
    truth = save(soft(1), tmp_path / "truth.nii.gz")
    return run("evaluate", "segmentation", "--truth", truth, "--prediction", prediction)


@pytest.mark.parametrize("value", [0.4, 0.5, 1 / 255, 1e-6])
@pytest.mark.parametrize("option", ["--truth", "--prediction"])
def test_a_mask_without_a_value_above_a_half_is_not_empty(tmp_path, value, option):
    files = {"--truth": save(soft(1), tmp_path / "a.nii.gz"), "--prediction": save(soft(1), tmp_path / "b.nii.gz")}
    files[option] = save(soft(value), tmp_path / "soft.nii.gz")
    line = refused("evaluate", "segmentation", *(x for pair in files.items() for x in pair), naming=files[option])
    assert "64 voxels are above 0, but none above 0.5" in line
    with pytest.raises(InputError, match=r"none above 0\.5"):
        read_lesions(files[option], {Path("FLAIR.nii"): Volume(np.zeros(SHAPE), AFFINE)})


def test_a_probability_map_as_a_mask_is_told(tmp_path):
    data = soft(0.9)
    data[10, 10, 10] = 0.3
    shown = evaluated(tmp_path, save(data, tmp_path / "probability.nii.gz"))
    assert shown.exit_code == 0 and json.loads(shown.stdout)["dice"] == pytest.approx(2 * 63 / (63 + 64))
    [note] = shown.stderr.splitlines()
    assert note.endswith("probability.nii.gz: not a mask of 0 and 1; what is above 0.5 counts, 63 of 64 voxels above 0")


@pytest.mark.parametrize(
    "data",
    [brain(), brain().astype(np.int16), (brain() - 100) / 20, -soft(1)],
    ids=["FLAIR", "int FLAIR", "z-scored", "255 in int8"],
)
def test_an_image_as_a_mask(tmp_path, data):
    prediction = save(data, tmp_path / "prediction.nii.gz")
    truth = save(soft(1), tmp_path / "truth.nii.gz")
    refused("evaluate", "segmentation", "--truth", truth, "--prediction", prediction, naming=prediction)


@pytest.mark.parametrize("data", [soft(1), soft(255), soft(0), soft(1).astype(bool).astype(np.uint8)])
def test_masks_are_masks(tmp_path, data, recwarn):
    mask = read_volume(save(data, tmp_path / "mask.nii.gz"), mask=True)
    np.testing.assert_array_equal(mask.data, data > 0)
    assert not recwarn.list


def test_a_mask_of_several_labels_is_told(tmp_path):
    # The second is no lesion in the truth of the WMH challenge, but another disease.
    truth = save(soft(1) + np.roll(soft(1), 8, axis=0), tmp_path / "truth.nii.gz")
    kinds = save(soft(1) + 2 * np.roll(soft(1), 8, axis=0), tmp_path / "kinds.nii.gz")
    result = run("evaluate", "segmentation", "--truth", kinds, "--prediction", truth)
    assert f"{kinds}: holds the labels 1, 2, and all of them count" in result.stderr
    assert "labels" not in run("evaluate", "segmentation", "--truth", truth, "--prediction", truth).stderr


@pytest.mark.parametrize("scale", [0.999999, 1.0000001, 0.9999])
def test_labels_that_scaling_has_rounded_are_labels(tmp_path, scale, recwarn):
    data = np.zeros(SHAPE, np.int16)
    for number in range(1, 5):
        data[6 * number : 6 * number + 3, 3:6, 3:6] = number
    labels = read_labels(save((data * scale).astype(np.float32), tmp_path / "labels.nii.gz"))
    np.testing.assert_array_equal(labels.data, data)
    assert not recwarn.list


@pytest.mark.parametrize("data", [1 - soft(1), 1 + soft(1), soft(0) + 1], ids=["inverted", "from 1 on", "all"])
def test_a_mask_whose_background_is_not_zero(tmp_path, data):
    prediction, truth = save(data, tmp_path / "p.nii.gz"), save(soft(1), tmp_path / "t.nii.gz")
    line = refused("evaluate", "segmentation", "--truth", truth, "--prediction", prediction, naming=prediction)
    assert "give a mask whose background is 0" in line


# Grids.


@pytest.mark.parametrize("unknown", ["truth", "prediction"])
def test_a_mask_without_a_pose_lies_as_its_image_is_stored(tmp_path, unknown):
    """The library takes it for mirrored."""
    data = soft(1)
    data[30:33, 5:9, 20:24] = 1
    files = {
        name: save(data, tmp_path / f"{name}.nii.gz", **({"qform": 0, "sform": 0} if name == unknown else {}))
        for name in ("truth", "prediction")
    }
    shown = run("evaluate", "segmentation", "--truth", files["truth"], "--prediction", files["prediction"])
    assert json.loads(shown.stdout)["dice"] == 1.0
    assert f"{files[unknown]}: its header does not say how the head lies; voxels of" in shown.stderr


@pytest.mark.parametrize(
    ("change", "dice"),
    [
        (lambda a: a + np.pad(np.full((3, 1), 0.004), ((0, 1), (3, 0))), 1.0),
        (lambda a: a + np.pad(np.full((3, 4), 0.002), ((0, 1), (0, 0))), 1.0),
        (lambda a: a.round(2), 1.0),
    ],
    ids=["origin 4 um off", "all 2 um off", "rounded"],
)
def test_grids_that_differ_by_less_than_anybody_sees(tmp_path, change, dice):
    shown = evaluated(tmp_path, save(soft(1), tmp_path / "p.nii.gz", affine=change(AFFINE), qform=0))
    assert shown.exit_code == 0, shown.stderr
    assert json.loads(shown.stdout)["dice"] == dice


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mask_stored_in_the_other_direction(tmp_path, axis):
    data = soft(1)
    data[12:14, 11, 10] = 0
    flip = np.eye(4)
    flip[axis, axis], flip[axis, 3] = -1, SHAPE[axis] - 1
    truth = save(data, tmp_path / "a.nii.gz")
    stored = save(np.ascontiguousarray(np.flip(data, axis)), tmp_path / "b.nii.gz", affine=AFFINE @ flip)
    shown = run("evaluate", "segmentation", "--truth", truth, "--prediction", stored)
    assert json.loads(shown.stdout)["dice"] == 1.0


def test_stored_slice_by_slice_along_another_axis():
    volume = Volume(np.random.default_rng(0).random((5, 6, 7)), pose(OBLIQUE, (1.0, 2.0, 3.0)))
    turned = Volume(volume.data.transpose(2, 0, 1), volume.affine[:, [2, 0, 1, 3]])
    back = on_grid_of(turned, volume, name="a", target_name="b")
    assert same_grid(back, volume)
    np.testing.assert_array_equal(back.data, volume.data)


def test_grids_that_differ_say_by_how_much(tmp_path):
    moved = AFFINE.copy()
    moved[0, 3] += 3
    prediction = save(soft(1), tmp_path / "p.nii.gz", affine=moved)
    truth = save(soft(1), tmp_path / "t.nii.gz")
    line = refused("evaluate", "segmentation", "--truth", truth, "--prediction", prediction, naming=prediction)
    assert "lies up to 3 mm from where" in line and str(truth) in line
    moved[0, 3] -= 2
    shown = evaluated(tmp_path, save(soft(1), prediction, affine=moved))
    assert "1 mm from the grid of" in shown.stderr and shown.exit_code == 0


# Lesions by number.


GRID = {Path("FLAIR.nii.gz"): Volume(np.zeros(SHAPE), AFFINE)}


@pytest.mark.parametrize("first", [1, 250, 32760, 40001, 70_000])
def test_large_lesion_numbers_survive_writing(tmp_path, first, recwarn):
    data = np.zeros(SHAPE, np.int32)
    for number in range(8):
        data[4 * number : 4 * number + 3, 3:6, 3:6] = first + number
    lesions = read_lesions(save(data, tmp_path / "lesions.nii.gz"), GRID)
    written = nib.load(write_volume(lesions, tmp_path / "written.nii.gz"))
    np.testing.assert_array_equal(np.asarray(written.dataobj), data)
    assert not recwarn.list


def test_numbers_that_cannot_be_kept_are_refused(tmp_path):
    data = np.zeros(SHAPE, np.int32)
    data[3:6, 3:6, 3:6], data[9, 9, 9] = 2_000_000, 1
    with pytest.raises(InputError, match="holds the label 2000000"):
        read_labels(save(data, tmp_path / "lesions.nii.gz"))
    with pytest.raises(ValueError, match="fit no type"):
        write_volume(Volume(data.astype(np.int64) * 2000, AFFINE), tmp_path / "x.nii")


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_negative_labels_keep_their_sign(tmp_path, dtype):
    data = np.arange(-60, 67, dtype=dtype).reshape(127, 1, 1)
    written = nib.load(write_volume(Volume(data, np.eye(4)), tmp_path / "x.nii"))
    np.testing.assert_array_equal(np.asarray(written.dataobj), data)


@pytest.mark.parametrize("kinds", [2, 3, 4])
def test_kinds_of_lesions_are_not_lesions(tmp_path, kinds):
    data = np.zeros(SHAPE, np.int16)
    for number in range(9):
        data[4 * number : 4 * number + 2, 3:6, 3 : 6 + number] = 1 + number % kinds
    with pytest.warns(Remark, match=f"its {kinds} labels have 9 separate parts"):
        lesions = read_lesions(save(data, tmp_path / "lesions.nii.gz"), GRID)
    assert np.unique(lesions.data).tolist() == list(range(10))
    np.testing.assert_array_equal(lesions.data > 0, data > 0)


def test_a_lesion_in_two_parts_is_told(tmp_path):
    data = np.zeros(SHAPE, np.int16)
    data[3:6, 3:6, 3:6], data[12:15, 3:6, 3:6], data[20:24, 3:6, 3:6] = 7, 7, 9
    with pytest.warns(Remark, match="1 parts lie apart"):
        lesions = read_lesions(save(data, tmp_path / "lesions.nii.gz"), GRID)
    np.testing.assert_array_equal(lesions.data, data)


# Susceptibility.


def susceptibility() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.where(brain() > 0, rng.normal(-0.005, 0.016, SHAPE) + 0.05 * (rng.random(SHAPE) < 0.02), 0)


@pytest.mark.parametrize(("factor", "unit"), [(1, "ppm"), (1000, "ppb"), (3, "ppm"), (3000, "ppb")])
def test_units_of_susceptibility(factor, unit):
    found, told = susceptibility_ppm(Volume(factor * susceptibility(), AFFINE), name="x")
    assert told == unit
    np.testing.assert_allclose(found.data, factor / (1000 if unit == "ppb" else 1) * susceptibility())


@pytest.mark.parametrize("factor", [16.05, 8.0, 127.7, 42.6, 100, 1e4, 1e-6, 1e6])
def test_other_units_are_no_susceptibility(factor):
    """Radians at 20 ms of 3 T and of 1.5 T, Hz at 3 T and at 1 T, percent, ppt, a share, and nonsense."""
    with pytest.raises(InputError, match=r"Chimap.nii: its values spread over .* neither ppm nor ppb"):
        susceptibility_ppm(Volume(factor * susceptibility(), AFFINE), name="Chimap.nii")


def test_images_and_fields_are_no_susceptibility():
    for image in (brain(), brain() - 35):  # with some values below 0, as splines leave
        with pytest.raises(InputError, match="hardly any values below 0"):
            susceptibility_ppm(Volume(np.where(brain() > 0, image, 0), AFFINE), name="x")
    i, j, k = np.indices(SHAPE) / 40
    field = np.where(brain() > 0, 120 * (i**2 - j * k) - 20, 0)  # Hz
    with pytest.raises(InputError, match="as smoothly as a field"):
        susceptibility_ppm(Volume(field, AFFINE), name="x")


@pytest.mark.parametrize("change", [lambda x: x + 0.02, lambda x: x - 0.01, lambda x: np.where(x == 0, -1000, x)])
def test_a_susceptibility_map_on_another_background(tmp_path, monkeypatch, change):
    """Referenced to CSF, or filled around the brain."""
    monkeypatch.chdir(tmp_path)
    given = susceptibility()
    with pytest.warns(Remark, match=r"QSM.nii.gz: its background is .* and was set to 0"):
        found = read_volume(read_qsm(save(change(given).astype(np.float32), tmp_path / "QSM.nii.gz")).qsm)
    np.testing.assert_array_equal(found.data != 0, given != 0)
    np.testing.assert_allclose(found.data[given != 0], change(given)[given != 0], atol=1e-6)


def test_values_of_any_size_are_brought_to_what_can_be_summed():
    for scale in (1e-9, 1e-30, 1e9, 1e30):
        image = Volume((brain() * np.float32(scale)).astype(np.float32), AFFINE)
        found = rest_on_zero(image, name="x").data
        np.testing.assert_allclose(found, brain() * found.max() / brain().max(), rtol=1e-4)
        assert 1 < found.max() < 1e5


# Other files.


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 no", b"\x93NUMPY"])
def test_a_lesion_bank_that_is_none(tmp_path, content):
    bank = tmp_path / "bank.npz"
    if content is not None:
        bank.write_bytes(content)
    refused("simulate", "rim-cohort", "--subjects", 1, "--lesion-bank", bank, "--out", tmp_path / "out", naming=bank)


@pytest.mark.parametrize("numbers", ["0 0 0 0 0 0 0 0 0 1 2 3", "nan 0 0 0 1 0 0 0 1 0 0 0", "1 2"])
def test_a_transform_that_is_none(tmp_path, numbers):
    path = tmp_path / "xfm.txt"
    path.write_text(
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        f"Parameters: {numbers}\nFixedParameters: 0 0 0\n"
    )
    with pytest.raises(InputError, match=r"xfm\.txt: "):
        read_transform(path)


# Whose results these are.


def results_of(flair: Path, out: Path) -> Path:
    """What a run leaves that tells whose results they are."""
    folder = subject_from_files(flair).folder(out)
    (folder / "work").mkdir(parents=True)
    inputs = {"FLAIR": {"path": str(flair), "sha256": sha256_of(flair)}}
    (folder / "run.json").write_text(json.dumps({"inputs": inputs}))
    return folder


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("P1-1/FLAIR.nii.gz", "P-11/FLAIR.nii.gz"),
        ("张伟/FLAIR.nii.gz", "李娜/FLAIR.nii.gz"),
        ("flat/p01_FLAIR.nii.gz", "flat/p02_FLAIR.nii.gz"),
        ("a/sub-1/anat/sub-1_FLAIR.nii.gz", "b/sub-1/anat/sub-1_FLAIR.nii.gz"),
    ],
    ids=["signs", "other scripts", "one folder", "two datasets"],
)
def test_results_of_another_patient_are_not_replaced(tmp_path, one, other):
    first, second = save(brain(0), tmp_path / one), save(brain(1), tmp_path / other)
    folder = results_of(first, tmp_path / "out")
    line = refused("preprocess", "--flair", second, "--brain-extracted", "--out", tmp_path / "out", naming=second)
    assert f"{folder}: holds results of another FLAIR, {first}" in line


def test_results_of_the_same_patient_are_replaced(tmp_path):
    flair = save(brain(), tmp_path / "jane" / "FLAIR.nii.gz")
    results_of(flair, tmp_path / "out")
    check_results_folder(subject_from_files(flair), tmp_path / "out")
    save(brain(1), flair)  # exported again
    check_results_folder(subject_from_files(flair), tmp_path / "out")
    save(brain(), flair)
    moved = flair.rename(tmp_path / "FLAIR.nii.gz").rename(tmp_path / "moved.nii.gz")
    check_results_folder(Subject("jane", None, {"FLAIR": moved}), tmp_path / "out")


@pytest.mark.parametrize("place", ["raw/sub-01/out", "raw/sub-01/ses-1/anat", "others", "link"])
def test_results_do_not_go_among_images(raw, tmp_path, place):
    save(brain(), tmp_path / "others" / "sub-02" / "anat" / "sub-02_FLAIR.nii.gz")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before, out = digests(tmp_path), tmp_path / place
    refused("preprocess", raw / "sub-01" / "ses-1", "--brain-extracted", "--out", out, naming=out)
    refused("run", raw / "sub-01", "--brain-extracted", "--out", out, naming=out)
    refused("cohort", raw, out, "participant", naming=out)
    assert digests(tmp_path) == before


def test_one_head_under_two_names_is_told(raw):
    shutil.copytree(raw / "sub-01" / "ses-1", raw / "sub-02" / "ses-1")
    flair = (raw / "sub-02" / "ses-1" / "anat" / "sub-01_ses-1_FLAIR.nii.gz").rename(
        raw / "sub-02" / "ses-1" / "anat" / "sub-02_ses-1_FLAIR.nii.gz"
    )
    [told] = copies_among(find_cohort(raw))
    assert told.startswith(f"{flair} is a copy of {raw / 'sub-01'}")
    visits = [find_subject(raw / name / "ses-1") for name in ("sub-01", "sub-02")]
    assert "sub-01 and sub-02 are two patients by their names; compared as one" in check_visits(visits)


def test_files_of_others_in_the_place_of_results(tmp_path):
    flair = save(brain(), tmp_path / "jane" / "FLAIR.nii.gz")
    folder = tmp_path / "out" / "sub-jane"
    (folder / "anat").mkdir(parents=True)
    (folder / "anat" / "sub-jane_space-orig_label-L_mask.nii.gz").write_text("drawn by hand")
    with pytest.raises(OutputError, match="holds files that msrim has not written"):
        check_results_folder(subject_from_files(flair), tmp_path / "out")
    (folder / "run.json").write_text("[]")
    with pytest.raises(OutputError, match=r"run\.json: not written by msrim"):
        check_results_folder(subject_from_files(flair), tmp_path / "out")


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def raw(tmp_path) -> Path:
    """A dataset with whatever its authors wrote."""
    folder = tmp_path / "raw"
    for session in ("1", "2"):
        name = folder / "sub-01" / f"ses-{session}" / "anat" / f"sub-01_ses-{session}"
        save(brain(int(session)), Path(f"{name}_FLAIR.nii.gz"))
    save(susceptibility().astype(np.float32), Path(f"{name}_Chimap.nii.gz"))
    description = {"Name": "ours", "BIDSVersion": "1.9.0", "DatasetType": "raw", "Authors": ["A"], "License": "CC0"}
    (folder / "dataset_description.json").write_text(json.dumps(description))
    (folder / ".bidsignore").write_text("extra/\n")
    (folder / "participants.tsv").write_text("participant_id\nsub-01\n")
    return folder


COMMANDS = {
    "preprocess": ["preprocess", "sub-01/ses-1", "--brain-extracted"],
    "segment": ["segment", "sub-01/ses-1", "--brain-extracted"],
    "rim-classify": ["rim-classify", "sub-01/ses-2", "--brain-extracted"],
    "longitudinal": ["longitudinal", "sub-01/ses-1", "sub-01/ses-2", "--brain-extracted"],
    "run": ["run", "sub-01", "--brain-extracted"],
    "simulate subject": ["simulate", "subject"],
    "simulate rim-cohort": ["simulate", "rim-cohort", "--subjects", "1"],
}


@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_command_writes_into_a_raw_dataset(raw, command, described, monkeypatch):
    if not described:
        if command[0] == "simulate":
            pytest.skip("nobody's dataset")
        (raw / "dataset_description.json").unlink()
    before = digests(raw)
    monkeypatch.chdir(raw)
    refused(*command, "--out", raw, naming=raw)
    assert digests(raw) == before


@pytest.mark.parametrize("level", ["participant", "group"])
def test_cohort_does_not_write_into_a_raw_dataset(raw, level):
    before = digests(raw)
    refused("cohort", raw, raw, level, naming=raw)
    assert digests(raw) == before


def test_simulated_patients_do_not_replace_ones_without_a_description(tmp_path):
    flair = save(brain(), tmp_path / "sub-001" / "anat" / "sub-001_FLAIR.nii.gz")
    before = digests(tmp_path)
    refused("simulate", "rim-cohort", "--subjects", 1, "--out", tmp_path, naming=tmp_path)
    (flair.parent.parent / "note").touch()
    (tmp_path / ".bidsignore").write_text("sub-001/note\n")
    refused("cohort", tmp_path, tmp_path / "out", "participant", naming="no dataset_description.json")
    assert digests(tmp_path).items() >= before.items()


def test_a_description_that_somebody_has_completed_stays_so(tmp_path):
    from msrim.bids import write_dataset_description

    path = write_dataset_description(tmp_path)
    content = json.loads(path.read_text()) | {"Authors": ["A"], "Name": "ours"}
    path.write_text(json.dumps(content))
    (tmp_path / ".bidsignore").write_text("mine/\n" + (tmp_path / ".bidsignore").read_text())
    write_dataset_description(tmp_path)
    assert json.loads(path.read_text()) == content
    lines = (tmp_path / ".bidsignore").read_text().splitlines()
    assert lines[0] == "mine/" and "work" in lines and len(lines) == len(set(lines))
    path.write_bytes(b"\xff{")
    with pytest.raises(OutputError, match="a dataset that msrim has not written"):
        write_dataset_description(tmp_path)


def test_results_have_a_place_without_out(raw, tmp_path, monkeypatch):
    plain = save(brain(), tmp_path / "jane" / "FLAIR.nii.gz")
    for asked, place in (
        (raw / "sub-01" / "ses-1", raw / "derivatives" / "msrim"),
        (raw / "sub-01" / "ses-1" / "anat", raw / "derivatives" / "msrim"),
        (plain.parent, tmp_path / "msrim-results"),
    ):
        assert default_results_folder(find_subject(asked)) == place
    monkeypatch.chdir(plain.parent)
    assert default_results_folder(find_subject(Path())) == tmp_path / "msrim-results"
    (tmp_path / "msrim-results").write_text("mine")
    line = refused("segment", ".", naming=tmp_path / "msrim-results")
    assert "is a file, not a folder" in line


# What `rim-classify` finds of `segment`.


def segmented(flair: Path, out: Path, *, lesions: bool = True, **settings) -> Path:
    """What `msrim segment` leaves that tells how it found the lesions."""
    subject = subject_from_files(flair)
    folder = results_of(flair, out)
    told = json.loads((folder / "run.json").read_text())
    t1 = save(brain(1), flair.with_name("T1w.nii.gz"))
    told["inputs"]["T1w"] = {"path": str(t1), "sha256": sha256_of(t1)}
    told["recipe"] = Recipe(**settings).model_dump()
    mask = subject.output(out, "space-orig_label-L_mask.nii.gz").relative_to(folder).as_posix()
    told["outputs"] = {mask: "0"} if lesions else {}
    (folder / "run.json").write_text(json.dumps(told))
    return t1


def test_lesions_that_are_there_are_taken_as_they_were_found(tmp_path):
    flair, out = save(brain(), tmp_path / "jane" / "FLAIR.nii.gz"), tmp_path / "out"
    given = subject_from_files(flair)
    assert as_segmented(given, Recipe(), out) == (given, Recipe())
    t1 = segmented(flair, out, model="scp", brain_extracted=True, threshold=0.3)
    subject, recipe = as_segmented(given, Recipe(), out)
    assert subject.contrasts == {"FLAIR": flair, "T1w": t1}
    assert recipe == Recipe(model="scp", brain_extracted=True, threshold=0.3)
    t1.unlink()
    with pytest.raises(InputError, match=r"T1w.nii.gz: gone, but the lesions"):
        as_segmented(given, Recipe(), out)


def test_a_visit_that_was_only_prepared_is_segmented_as_asked(tmp_path):
    flair, out = save(brain(), tmp_path / "jane" / "FLAIR.nii.gz"), tmp_path / "out"
    segmented(flair, out, lesions=False, model="scp")
    given = subject_from_files(flair)
    assert as_segmented(given, Recipe(), out) == (given, Recipe())


def test_rim_classify_asks_for_the_lesions_of_segment(tmp_path, monkeypatch):
    flair, out = save(brain(), tmp_path / "jane" / "FLAIR.nii.gz"), tmp_path / "out"
    qsm = save(susceptibility().astype(np.float32), tmp_path / "jane" / "QSM.nii.gz")
    segmented(flair, out, model="scp", brain_extracted=True)
    asked = []

    def segment_visit(subject, recipe, out, *, console):
        asked.append((sorted(subject.contrasts), recipe.model, recipe.brain_extracted))
        raise InputError("enough")

    monkeypatch.setattr("msrim.workflows.rims.segment_visit", segment_visit)
    shown = run("rim-classify", "--flair", flair, "--qsm", qsm, "--out", out)
    assert asked == [(["FLAIR", "T1w"], "scp", True)]
    assert f"images and settings are those of `msrim segment` in {out / 'sub-jane'} (scp)" in shown.stderr


# Surroundings.


def test_a_user_without_a_name(monkeypatch):
    """As in a container that runs under a number."""
    import getpass

    from msrim.workflows.cohort.participants import user_name

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    unshare = ["unshare", "--user", "--map-user=54321"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    code = "from msrim.workflows.cohort.participants import user_name; print(user_name())"
    shown = subprocess.run([*unshare, sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.stdout.strip() == "user54321", shown.stderr
    assert getpass.getuser() == user_name()


# Whatever else a file may hold.


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_ends_in_an_image_or_one_message(tmp_path, data):
    """Bytes of the header, and of what follows, replaced at random."""
    path = tmp_path / f"x{data.draw(st.sampled_from(['.nii', '.nii.gz']))}"
    image = nib.Nifti1Image(np.random.default_rng(0).random((9, 9, 9), np.float32), np.diag([20.0, 20.0, 20.0, 1.0]))
    image.set_qform(image.affine, code=1)
    content = bytearray(image.to_bytes())
    for place in data.draw(st.lists(st.integers(0, 360), min_size=1, max_size=6)):
        width = data.draw(st.sampled_from([1, 2, 4]))
        content[place : place + width] = data.draw(st.binary(min_size=width, max_size=width))
    content = content[: data.draw(st.sampled_from([len(content), len(content) // 2, 348, 40, 0]))]
    path.write_bytes(gzip.compress(bytes(content), 1) if path.suffix == ".gz" else bytes(content))
    for mask in (False, True):
        try:
            volume = read_volume(path, mask=mask)
        except InputError as error:
            assert str(error).startswith(f"{path}: ") and len(str(error)) < 600
        else:
            assert np.isfinite(volume.affine).all() and len(volume.shape) == 3
            assert volume.data.dtype == (bool if mask else np.float32)


def test_a_subject_is_read_without_a_word(raw, recwarn):
    """What is taken with a doubt is told once, by the run."""
    flair = save(brain(), raw / "codes0.nii.gz", sform=0, qform=0)
    read_subject(subject_from_files(flair))
    assert not recwarn.list
