"""Transforms mean the same to us, to ITK and to the files between."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from volumes import OBLIQUE, pose, poses, rotation, wave_volume

from msrim.errors import InputError, OutputError
from msrim.image import from_sitk, read_volume, resample, to_sitk
from msrim.transform import (
    apply_transform,
    itk_from_ras,
    ras_from_itk,
    read_transform,
    rigid_part,
    write_transform,
)

POSES = poses()
angle, shift, scale = st.floats(-60, 60), st.floats(-80, 80), st.floats(0.7, 1.4)


def rigid(x_deg, y_deg, z_deg, *, shift_mm) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(x_deg=x_deg, y_deg=y_deg, z_deg=z_deg)
    matrix[:3, 3] = shift_mm
    return matrix


rigids = st.builds(lambda a, b, c, t: rigid(a, b, c, shift_mm=t), angle, angle, angle, st.tuples(shift, shift, shift))


@given(rigids, st.tuples(scale, scale, scale))
@settings(max_examples=50, deadline=None)
def test_itk_and_back(matrix, scales):
    affine = matrix @ np.diag([*scales, 1.0])
    np.testing.assert_allclose(ras_from_itk(itk_from_ras(affine)), affine, atol=1e-9)


@given(rigids, st.tuples(scale, scale, scale))
@settings(max_examples=50, deadline=None)
def test_rigid_part_undoes_scaling(matrix, scales):
    np.testing.assert_allclose(rigid_part(matrix @ np.diag([*scales, 1.0])), matrix, atol=1e-6)


def test_itk_pulls_what_we_push():
    matrix = rigid(10, -20, 30, shift_mm=(5, -6, 7))
    point = np.array([11.0, -12.0, 13.0])
    x, y, z = apply_transform(matrix, point)
    # ITK maps a point of the fixed image, in LPS, to the moving image.
    np.testing.assert_allclose(itk_from_ras(matrix).TransformPoint((-x, -y, z)), [-11.0, 12.0, 13.0], atol=1e-9)


@pytest.mark.parametrize("name", ["RAS-straight-1mm", "LAS-oblique-3mm", "LPS-oblique-1mm", "PIL-oblique-3mm"])
def test_our_file_resamples_in_sitk_as_we_do(name, tmp_path):
    moving = wave_volume(POSES[name])
    matrix = rigid(8, -5, 12, shift_mm=(3, -2, 4))
    middle = apply_transform(matrix, apply_transform(moving.affine, np.array([7.0, 8.0, 6.0])))
    fixed = wave_volume(pose(OBLIQUE, (0.9, 1.1, 3.0), origin_mm=middle - OBLIQUE @ [4, 5, 12]), shape=(10, 11, 9))
    file = write_transform(matrix, tmp_path / "xfm" / "from-T1w_to-FLAIR_mode-image_xfm.txt")
    itk = sitk.Resample(to_sitk(moving), to_sitk(fixed), sitk.ReadTransform(str(file)), sitk.sitkLinear, 0.0)
    ours = resample(moving, fixed, target_from_source=matrix).data
    # On the rim of the field of view the two differ by rounding of inside and outside.
    both = (ours > 0) & (from_sitk(itk).data > 0)
    assert both.mean() > 0.1
    np.testing.assert_allclose(ours[both], from_sitk(itk).data[both], rtol=1e-4)
    np.testing.assert_allclose(read_transform(file), matrix, atol=1e-9)


def test_euler_and_translation_files_are_read(tmp_path):
    euler = sitk.Euler3DTransform((10.0, 20.0, 30.0), 0.1, -0.2, 0.3, (1.0, 2.0, 3.0))
    sitk.WriteTransform(euler, str(tmp_path / "euler.txt"))
    matrix = read_transform(tmp_path / "euler.txt")
    np.testing.assert_allclose(
        itk_from_ras(matrix).TransformPoint((4, 5, 6)), euler.TransformPoint((4, 5, 6)), atol=1e-9
    )


def test_bad_transform_files(tmp_path):
    (tmp_path / "x.txt").write_text("1 0 0 0")
    for name in ("x.txt", "none.txt"):
        with pytest.raises(InputError, match="not an ITK transform file"):
            read_transform(tmp_path / name)
    field = sitk.DisplacementFieldTransform(sitk.Image([4, 4, 4], sitk.sitkVectorFloat64))
    sitk.WriteTransform(field, str(tmp_path / "warp.hdf"))
    with pytest.raises(InputError, match="not linear"):
        read_transform(tmp_path / "warp.hdf")
    with pytest.raises(OutputError, match="cannot be written"):
        write_transform(np.eye(4), tmp_path / "x.txt" / "y.txt")


def test_rotation_of_the_tests_is_a_rotation():
    np.testing.assert_allclose(OBLIQUE @ OBLIQUE.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(rotation(z_deg=90) @ [1, 0, 0], [0, 1, 0], atol=1e-12)


def test_published_transforms_align_the_published_images(shared_data):
    """Read through our code, the experts' T1w-to-FLAIR file must put the T1w's brain onto the FLAIR's."""
    expert = shared_data / "bids" / "derivatives" / "expert" / "sub-12"
    files = sorted(expert.rglob("*from-T1w*xfm*"))
    assert files
    session = files[0].name.split("_")[1]
    anat = shared_data / "bids" / "sub-12" / session / "anat"
    t1, flair = (anat / f"sub-12_{session}_{name}.nii.gz" for name in ("T1w", "FLAIR"))
    itk = sitk.Resample(
        sitk.ReadImage(str(t1), sitk.sitkFloat32), sitk.ReadImage(str(flair)), sitk.ReadTransform(str(files[0]))
    )
    moving, fixed = read_volume(t1), read_volume(flair)
    ours = resample(moving, fixed, target_from_source=read_transform(files[0]))
    difference = np.abs(ours.data - from_sitk(itk).data)
    assert np.percentile(difference, 99) < 1e-2 * np.ptp(moving.data)
