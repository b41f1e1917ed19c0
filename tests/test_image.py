"""Volumes keep their place in space through files, orientations and resampling."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from volumes import OBLIQUE, RAS, centres, plane_wave, pose, poses, wave_volume

from msrim.errors import InputError, OutputError
from msrim.image import (
    Volume,
    from_sitk,
    grid_along,
    grid_around,
    read_spacing,
    read_volume,
    resample,
    same_grid,
    to_ras,
    to_sitk,
    write_volume,
)
from msrim.transform import apply_transform

POSES = poses()
every_pose = pytest.mark.parametrize("affine", POSES.values(), ids=POSES)


@every_pose
def test_files_keep_voxels_and_place(affine, tmp_path):
    volume = wave_volume(affine)
    path = write_volume(volume, tmp_path / "new" / "wave.nii.gz")
    assert same_grid(read_volume(path), volume)
    np.testing.assert_array_equal(read_volume(path).data, volume.data)
    header = nib.load(path).header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 1)
    np.testing.assert_allclose(header.get_qform(), affine, atol=1e-4)
    assert header.get_xyzt_units() == ("mm", "sec")


@every_pose
def test_to_ras_moves_no_voxel_in_space(affine):
    volume = to_ras(wave_volume(affine))
    assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
    np.testing.assert_allclose(volume.data, plane_wave(centres(volume.shape, volume.affine)), rtol=1e-5)


@every_pose
def test_sitk_sees_the_same_points(affine):
    volume = wave_volume(affine)
    image = to_sitk(volume)
    x, y, z = image.TransformIndexToPhysicalPoint((3, 5, 7))
    np.testing.assert_allclose([-x, -y, z], affine[:3, :3] @ [3, 5, 7] + affine[:3, 3], atol=1e-9)
    assert image.GetPixel(3, 5, 7) == volume.data[3, 5, 7]
    back = from_sitk(image)
    assert same_grid(back, volume)
    np.testing.assert_array_equal(back.data, volume.data)


@every_pose
def test_sitk_reads_our_files_where_we_put_them(affine, tmp_path):
    volume = wave_volume(affine)
    image = sitk.ReadImage(str(write_volume(volume, tmp_path / "wave.nii.gz")))
    assert same_grid(from_sitk(image), volume, tolerance_mm=1e-4)


@every_pose
def test_resampling_follows_space_not_storage(affine):
    target = Volume(
        np.zeros((6, 6, 6)), pose(RAS, (1.0, 1.0, 1.0), origin_mm=centres((14, 16, 12), affine)[6, 7, 5] - 3)
    )
    sampled = resample(wave_volume(affine), target)
    assert same_grid(sampled, target)
    np.testing.assert_allclose(sampled.data, plane_wave(centres(target.shape, target.affine)), rtol=1e-4)


def test_resampling_moves_by_the_transform_and_gives_zero_outside():
    source = Volume(np.ones((10, 10, 10), np.float32), np.eye(4))
    moved = np.eye(4)
    moved[:3, 3] = 4, 0, 0
    sampled = resample(source, source, target_from_source=moved)
    assert sampled.data[:4].max() == 0
    assert sampled.data[4:].min() == 1


def test_nearest_keeps_labels_and_their_type():
    labels = np.zeros((8, 8, 8), np.int16)
    labels[2:5, 2:5, 2:5] = 300
    target = Volume(np.zeros((20, 20, 20)), pose(OBLIQUE, (0.4, 0.4, 0.4), origin_mm=(0, 0, 0)))
    sampled = resample(Volume(labels, np.eye(4)), target, nearest=True)
    assert sampled.data.dtype == np.int16
    assert set(np.unique(sampled.data)) == {0, 300}


def test_resampling_survives_shear():
    affine = pose(RAS, (1.0, 1.0, 2.0))
    affine[0, 2] = 0.6
    target = Volume(np.zeros((4, 4, 4)), pose(RAS, (1.0, 1.0, 1.0), origin_mm=centres((14, 16, 12), affine)[6, 7, 5]))
    expected = plane_wave(centres(target.shape, target.affine))
    np.testing.assert_allclose(resample(wave_volume(affine), target).data, expected, rtol=1e-4)


@given(
    lowest=st.tuples(*[st.floats(-200, 200)] * 3),
    size=st.tuples(*[st.floats(1, 300)] * 3),
    spacing=st.sampled_from([0.5, 1.0, 2.0]),
    multiple=st.sampled_from([1, 8, 16]),
)
@settings(max_examples=50, deadline=None)
def test_grid_around_covers_the_box(lowest, size, spacing, multiple):
    grid = grid_around(np.array(size), np.array(lowest), spacing_mm=spacing, multiple=multiple)
    assert all(n % multiple == 0 for n in grid.shape)
    covered = np.array(grid.shape) * spacing
    assert (covered >= np.array(size) - 1e-6).all()
    assert (covered < np.array(size) + multiple * spacing + 1e-6).all()
    np.testing.assert_array_equal(grid.affine[:3, 3], lowest)


@every_pose
@pytest.mark.parametrize("multiple", [1, 16])
def test_grid_along_covers_the_mask_however_oblique(affine, multiple):
    """Its millimetre voxels lie along the image's own axes, so that its size does not depend on how they run."""
    volume = wave_volume(affine)
    mask = np.zeros(volume.shape, bool)
    mask[2:9, 3:11, 4:8] = True
    grid = grid_along(volume, mask, margin_mm=2.5, multiple=multiple)
    np.testing.assert_allclose(grid.spacing, 1.0)
    needed = (np.array([6, 7, 3]) * volume.spacing + 5).round(9)
    assert grid.shape == tuple(np.ceil((needed + 1) / multiple).astype(int) * multiple)
    inside = apply_transform(np.linalg.inv(grid.affine), centres(volume.shape, affine)[mask])
    room = np.minimum(inside.min(axis=0), np.array(grid.shape) - 1 - inside.max(axis=0))
    assert (room > 2.5 - 1e-6).all()


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (np.eye(12, dtype=bool)[..., None].repeat(12, 2), "uint8"),
        (np.full((12, 12, 12), 200, np.int32), "uint8"),
        (np.full((12, 12, 12), 300, np.int32), "int16"),
        (np.full((12, 12, 12), 0.5, np.float64), "float32"),
    ],
    ids=["mask", "few labels", "many labels", "image"],
)
def test_types_on_disk(data, dtype, tmp_path):
    image = nib.load(write_volume(Volume(data, np.eye(4)), tmp_path / "x.nii.gz"))
    assert image.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asarray(image.dataobj), data)


def test_singleton_axes_are_dropped(tmp_path):
    nib.Nifti1Image(np.random.default_rng(0).random((9, 9, 9, 1), np.float32), np.eye(4)).to_filename(
        tmp_path / "x.nii"
    )
    assert read_volume(tmp_path / "x.nii").shape == (9, 9, 9)


def test_empty_masks_are_valid(tmp_path):
    path = write_volume(Volume(np.zeros((9, 9, 2), bool), np.eye(4)), tmp_path / "mask.nii")
    assert read_volume(path, mask=True).data.dtype == bool


def test_volume_measures():
    volume = Volume(np.zeros((2, 3, 4)), pose(OBLIQUE, (0.5, 1.0, 3.0)))
    np.testing.assert_allclose(volume.spacing, [0.5, 1.0, 3.0])
    assert volume.voxel_volume_mm3 == pytest.approx(1.5)
    with pytest.raises(ValueError, match=r"\(4, 3, 2\) does not lie on a grid of \(2, 3, 4\)"):
        volume.like(np.zeros((4, 3, 2)))


def image(data: np.ndarray) -> bytes:
    return nib.Nifti1Image(data, np.eye(4)).to_bytes()


def two_poses() -> bytes:
    disagreeing = nib.Nifti1Image(np.random.default_rng(0).random((12, 12, 12), np.float32), np.eye(4))
    disagreeing.set_sform(np.eye(4), code=1)
    moved = np.eye(4)
    moved[0, 3] = 5
    disagreeing.set_qform(moved, code=1)
    return disagreeing.to_bytes()


def flat() -> bytes:
    content = bytearray(image(NOISE))
    content[252:256] = b"\0\0\1\0"  # qform_code 0, sform_code 1
    content[312:328] = bytes(16)  # srow_z
    return bytes(content)


NOISE = np.random.default_rng(0).random((12, 12, 12), np.float32)
BAD_FILES = {
    "text": (b"hello", "not a NIfTI image"),
    "empty": (b"", "not a NIfTI image"),
    "cut": (image(NOISE)[:-100], "damaged or truncated"),
    "four": (image(np.stack([NOISE, NOISE], -1)), "has 4 dimensions (12, 12, 12, 2), 3 are needed"),
    "two": (image(NOISE[..., 0]), "has 2 dimensions"),
    "zeros": (image(np.zeros_like(NOISE)), "every voxel is 0"),
    "constant": (image(np.full_like(NOISE, 7)), "every voxel is 7"),
    "nan": (image(np.where(NOISE > 0.5, NOISE, np.nan)), "are NaN or infinite"),
    "inf": (image(np.where(NOISE > 0.5, NOISE, np.inf)), "are NaN or infinite"),
    "slice": (image(NOISE[..., :1]), "only 1 slice(s) along one axis"),
    "poses": (two_poses(), "its qform and sform place the image 5.0 mm apart"),
    "flat": (flat(), "its affine is singular"),
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files_are_refused_by_name(content, message, suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_gzip(share, tmp_path):
    whole = gzip.compress(image(NOISE))
    path = tmp_path / "x.nii.gz"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=r"damaged or truncated|not a NIfTI"):
        read_volume(path)


def test_spacing_is_read_from_the_header_alone(tmp_path):
    path = write_volume(Volume(NOISE, np.diag([0.9, 0.9, 3.0, 1.0])), tmp_path / "x.nii.gz")
    spacing = read_volume(path).spacing
    # Cut within the voxels, but not so short that the header asks for more than a file of its size can hold.
    path.write_bytes(path.read_bytes()[:-100])
    np.testing.assert_array_equal(read_spacing(path), spacing)
    with pytest.raises(InputError, match="damaged or truncated"):
        read_volume(path)
    path.write_bytes(b"no image")
    with pytest.raises(InputError, match="not a NIfTI"):
        read_spacing(path)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "x.nii", tmp_path):
        with pytest.raises(InputError, match="no such file"):
            read_volume(path)


def test_unwritable_place(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_volume(Volume(NOISE, np.eye(4)), tmp_path / "file" / "x.nii.gz")
