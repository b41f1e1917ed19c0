"""One phantom with lesions and the same one without."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cc3d
import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from msrim.errors import OutputError
from msrim.image import Volume, read_volume, resample, same_grid
from msrim.simulation.phantom import simulate_subject
from msrim.transform import read_transform

SEED = 4


@pytest.fixture(scope="module")
def phantom(phantom_dataset: Callable[..., Path]) -> Path:
    return phantom_dataset(SEED)


@pytest.fixture(scope="module")
def healthy(phantom_dataset: Callable[..., Path]) -> Path:
    return phantom_dataset(SEED, lesion_free=True)


def raw(out: Path, contrast: str) -> Volume:
    return read_volume(out / "sub-phantom" / "anat" / f"sub-phantom_{contrast}.nii.gz")


def truth(out: Path, suffix: str) -> Volume:
    path = out / "derivatives" / "truth" / "sub-phantom" / "anat" / f"sub-phantom_space-orig_{suffix}.nii.gz"
    volume = read_volume(path, mask=True)
    return volume.like(np.asanyarray(nib.load(path).dataobj))


def lesions(out: Path) -> np.ndarray:
    return truth(out, "label-L_mask").data > 0


def flair_from(out: Path, contrast: str) -> np.ndarray:
    folder = out / "derivatives" / "truth" / "sub-phantom" / "xfm"
    return read_transform(folder / f"sub-phantom_from-{contrast}_to-FLAIR_mode-image_xfm.txt")


def test_files_are_bids_and_stored_as_a_scanner_would(phantom):
    assert json.loads((phantom / "dataset_description.json").read_text())["DatasetType"] == "raw"
    voxels = {"FLAIR": (0.72, 0.72, 3.0), "T1w": (1.0, 1.0, 1.0), "T2w": (0.6, 0.6, 3.3)}
    for contrast, spacing in voxels.items():
        image = nib.load(phantom / "sub-phantom" / "anat" / f"sub-phantom_{contrast}.nii.gz")
        assert image.get_data_dtype() == np.uint16
        assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
        assert image.header.get_zooms() == pytest.approx(spacing, abs=1e-5)
        assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-3)
        turns_deg = np.degrees(np.arccos(np.abs(np.diag(image.affine)[:3]) / spacing))
        assert 1 < turns_deg.max() < 20


def test_images_and_truth_pass_the_bids_validator(phantom, bids_errors):
    assert bids_errors(phantom) == ""


def test_truth_lies_on_the_flair_grid(phantom):
    flair = raw(phantom, "FLAIR")
    for suffix in ("label-L_mask", "desc-brain_mask", "dseg"):
        volume = truth(phantom, suffix)
        assert volume.shape == flair.shape
        assert same_grid(volume, flair, tolerance_mm=1e-5)


def test_lesions_are_as_many_and_as_large_as_a_patients(phantom):
    mask = truth(phantom, "label-L_mask")
    sizes = np.bincount(cc3d.connected_components(mask.data, connectivity=26).ravel())[1:] * mask.voxel_volume_mm3
    assert 15 <= len(sizes) <= 40
    assert 5 <= sizes.sum() / 1000 <= 20
    assert sizes.min() >= 10
    assert sizes.max() < 6000


def test_lesions_lie_in_the_brain_next_to_white_matter(phantom):
    mask = lesions(phantom)
    classes = truth(phantom, "dseg").data
    assert not (mask & (truth(phantom, "desc-brain_mask").data == 0)).any()
    assert (classes[mask] == 1).mean() < 0.03
    assert (classes[mask] == 3).mean() > 0.7


def test_brain_and_classes_have_the_sizes_of_an_adults(phantom):
    brain, classes = truth(phantom, "desc-brain_mask"), truth(phantom, "dseg")
    ml = brain.voxel_volume_mm3 / 1000
    assert 1250 < brain.data.sum() * ml < 1800
    csf, grey, white = np.bincount(classes.data.ravel(), minlength=4)[1:] * ml
    assert 120 < csf < 350
    assert 1.0 < grey / white < 2.0


def test_flair_shows_lesions_bright_and_csf_dark(phantom):
    flair, mask, classes = raw(phantom, "FLAIR").data, lesions(phantom), truth(phantom, "dseg").data
    around = binary_dilation(mask, iterations=3) & ~binary_dilation(mask, iterations=1) & (classes == 3)
    assert flair[mask].mean() > 1.25 * flair[around].mean()
    # Two voxels deep, so that no neighbour shares the voxel.
    csf = ~binary_dilation(classes != 1, iterations=2)
    white = ~binary_dilation((classes != 3) | mask, iterations=2)
    assert csf.sum() > 200
    assert np.median(flair[csf]) < 0.25 * np.median(flair[white])
    grey = (classes == 2) & ~mask
    assert 1.0 < np.median(flair[grey]) / np.median(flair[white]) < 1.4


def test_t1w_and_t2w_have_their_contrast_through_the_true_transforms(phantom):
    flair, mask, classes = raw(phantom, "FLAIR"), lesions(phantom), truth(phantom, "dseg").data
    csf = ~binary_dilation(classes != 1, iterations=2)
    median = {}
    for contrast in ("T1w", "T2w"):
        matrix = flair_from(phantom, contrast)
        assert 1 < np.linalg.norm(matrix[:3, 3]) < 30
        moved = resample(raw(phantom, contrast), flair, target_from_source=matrix).data
        parts = {"csf": csf, "grey": (classes == 2) & ~mask, "white": (classes == 3) & ~mask, "lesion": mask}
        median[contrast] = {name: np.median(moved[where]) for name, where in parts.items()}
    t1, t2 = median["T1w"], median["T2w"]
    assert t1["white"] > 1.2 * t1["grey"] > 1.2 * 1.2 * t1["csf"]
    assert t1["lesion"] < 0.9 * t1["white"]
    assert t2["csf"] > 1.5 * t2["grey"] > 1.5 * 1.1 * t2["white"]
    assert t2["lesion"] > 1.2 * t2["white"]


@pytest.mark.parametrize("contrast", ["T1w", "T2w"])
def test_true_transform_lays_the_heads_over_each_other(phantom, contrast):
    """The head's outline agrees through the transform, less so without it or when it is applied backwards."""
    flair, moving = raw(phantom, "FLAIR"), raw(phantom, contrast)
    flair = Volume(flair.data[::3, ::3], flair.affine @ np.diag([3.0, 3.0, 1.0, 1.0]))
    head = moving.like((moving.data > 130).astype(np.float32))
    matrix = flair_from(phantom, contrast)
    seen = resample(moving.like(np.ones(moving.shape, np.float32)), flair, target_from_source=matrix).data > 0.99

    def agreement(transform: np.ndarray) -> float:
        # Edges of scalp against air: the only ones that all contrasts share.
        fixed = flair.data > 130
        other = resample(head, flair, target_from_source=transform).data
        return np.corrcoef(fixed[seen], other[seen])[0, 1]

    right = agreement(matrix)
    assert right > agreement(np.eye(4)) + 0.02
    assert right > agreement(np.linalg.inv(matrix)) + 0.05
    for axis in range(3):
        for shift_mm in (-2.0, 2.0):
            off = matrix.copy()
            off[axis, 3] += shift_mm
            assert right > agreement(off)


def test_without_lesions_the_truth_is_empty_and_the_rest_is_the_same_bit_by_bit(phantom, healthy):
    assert not truth(healthy, "label-L_mask").data.any()
    assert np.array_equal(truth(healthy, "dseg").data, truth(phantom, "dseg").data)
    around = binary_dilation(lesions(phantom), iterations=2)
    sick, sound = raw(phantom, "FLAIR").data, raw(healthy, "FLAIR").data
    assert sick[around].mean() > 1.1 * sound[around].mean()
    # Lesions lie in the brain: nothing outside it may differ, for the same seed gives the same scan.
    far = ~binary_dilation(truth(phantom, "desc-brain_mask").data > 0, iterations=3)
    assert np.array_equal(sick[far], sound[far])
    assert 0 < (sick != sound).mean() < 0.02


def test_an_unwritable_folder_is_reported_before_the_work(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        simulate_subject(tmp_path / "file" / "out")


def test_qsm_has_lesions_with_and_without_a_rim(phantom, healthy):
    """On a grid of its own, lesions where FLAIR has them, brought there by the poses."""
    qsm, folder = raw(phantom, "Chimap"), phantom / "derivatives" / "truth" / "sub-phantom" / "anat"
    instances = nib.load(folder / "sub-phantom_space-Chimap_seg-lesions_dseg.nii.gz")
    assert np.array_equal(instances.affine, qsm.affine) and instances.shape == qsm.shape
    rows = (folder / "sub-phantom_space-Chimap_desc-lesions.tsv").read_text(encoding="utf-8").splitlines()[1:]
    assert len(rows) == np.max(instances.dataobj)
    assert {row.split("\t")[1] for row in rows} == {"true", "false"}
    none = nib.load(healthy / "derivatives/truth/sub-phantom/anat/sub-phantom_space-Chimap_seg-lesions_dseg.nii.gz")
    assert not np.any(none.dataobj)
