"""Agreement of two masks: by hand, against SimpleITK, against the paper's tables, and at the edges."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.distance import cdist

from msrim.evaluation.metrics import lesion_f1, segmentation_metrics
from msrim.image import Volume, read_volume, to_sitk


def volume(data: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Volume:
    return Volume(data, np.diag([*spacing, 1.0]))


def masks(*, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> tuple[Volume, Volume]:
    """Truth: 8 voxels, 2 and 1. Prediction: 4 of the 8 and 4 beside them, the 1, and two of 3 and 1 with no truth."""
    truth, prediction = np.zeros((2, 20, 20, 20), dtype=bool)
    truth[2:4, 2:4, 2:4] = True
    truth[10, 10, 10:12] = True
    truth[15, 15, 15] = True
    prediction[3:5, 2:4, 2:4] = True
    prediction[15, 15, 15] = True
    prediction[2, 17, 2:5] = True
    prediction[17, 2, 2] = True
    return volume(truth, spacing), volume(prediction, spacing)


def test_a_case_done_by_hand():
    found = segmentation_metrics(*masks(spacing=(1.0, 0.5, 2.0)))
    # TP 5, FN 6, FP 8; true lesions 3, two of them touched; predicted lesions 4, two of them in no truth.
    assert found["dice"] == 10 / 24
    assert found["jaccard"] == 5 / 19
    assert found["ppv"] == 5 / 13
    assert found["tpr"] == 5 / 11
    assert found["ltpr"] == 2 / 3
    assert found["lfpr"] == 2 / 4
    assert found["l_f1"] == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))
    assert (found["truth_lesions"], found["prediction_lesions"]) == (3, 4)
    assert (found["truth_volume_mm3"], found["prediction_volume_mm3"]) == (11.0, 13.0)


@pytest.mark.parametrize(
    "min_volume_mm3, lesions, predicted, ltpr, lfpr",
    [(1.0, 3, 4, 2 / 3, 2 / 4), (2.0, 2, 2, 1 / 2, 1 / 2), (4.0, 1, 1, 1.0, 0.0), (9.0, 0, 0, 1.0, 0.0)],
)
def test_components_below_the_minimum_are_no_lesions(min_volume_mm3, lesions, predicted, ltpr, lfpr):
    found = segmentation_metrics(*masks(), min_volume_mm3=min_volume_mm3)
    assert (found["truth_lesions"], found["prediction_lesions"]) == (lesions, predicted)
    assert (found["ltpr"], found["lfpr"]) == (ltpr, lfpr)
    assert found["dice"] == 10 / 24  # voxel-wise measures take the masks whole


def test_a_small_component_still_confirms_a_large_one():
    truth, prediction = np.zeros((2, 10, 10, 10), dtype=bool)
    truth[2:6, 2:6, 2:6] = True
    prediction[3, 3, 3] = True
    assert segmentation_metrics(volume(truth), volume(prediction), min_volume_mm3=3)["ltpr"] == 1.0
    assert segmentation_metrics(volume(prediction), volume(truth), min_volume_mm3=3)["lfpr"] == 0.0


def test_minimum_volume_holds_on_a_scanners_rounded_spacing():
    lesion = np.zeros((10, 10, 10), dtype=bool)
    lesion[2, 2, 2:5] = True
    spacing = tuple(float(np.float32(s)) for s in (0.7, 0.7, 3.0))
    found = segmentation_metrics(volume(lesion, spacing), volume(lesion, spacing), min_volume_mm3=4.41)
    assert found["truth_lesions"] == 1


def test_lesions_touch_at_corners():
    diagonal = np.zeros((6, 6, 6), dtype=bool)
    diagonal[range(4), range(4), range(4)] = True
    assert segmentation_metrics(volume(diagonal), volume(diagonal))["truth_lesions"] == 1


PERFECT = {"dice": 1, "jaccard": 1, "ppv": 1, "tpr": 1, "ltpr": 1, "lfpr": 0, "l_f1": 1, "hd95_mm": 0, "asd_mm": 0}
NO_TRUTH = {"dice": 0, "jaccard": 0, "ppv": 0, "tpr": None, "ltpr": None, "lfpr": 1, "l_f1": 0, "hd95_mm": None}
NO_PREDICTION = {"dice": 0, "jaccard": 0, "ppv": None, "tpr": 0, "ltpr": 0, "lfpr": None, "l_f1": 0, "asd_mm": None}
MISSED = {"dice": 0, "jaccard": 0, "ppv": 0, "tpr": 0, "ltpr": 0, "lfpr": 1, "l_f1": 0}


@pytest.mark.parametrize(
    "true_at, found_at, expected",
    [(None, None, PERFECT), (3, 3, PERFECT), (None, 3, NO_TRUTH), (3, None, NO_PREDICTION), (3, 6, MISSED)],
)
def test_empty_and_disjoint_masks(true_at, found_at, expected):
    truth, prediction = np.zeros((2, 10, 10, 10), dtype=bool)
    if true_at:
        truth[true_at] = True
    if found_at:
        prediction[found_at] = True
    found = segmentation_metrics(volume(truth), volume(prediction))
    assert {name: found[name] for name in expected} == expected
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_distance_between_shifted_boxes_follows_the_spacing():
    truth, prediction = np.zeros((2, 12, 12, 12), dtype=bool)
    truth[5, 5, 2] = True
    prediction[5, 5, 5] = True
    found = segmentation_metrics(volume(truth, (1.0, 1.0, 3.0)), volume(prediction, (1.0, 1.0, 3.0)))
    assert (found["hd95_mm"], found["asd_mm"]) == (9.0, 9.0)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 3.0)])
def test_against_simpleitk_and_brute_force(spacing):
    rng = np.random.default_rng(1)
    # Smooth blobs that reach the border of the array, and another version of them.
    noise = [
        sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(n), 2.0))
        for n in rng.normal(size=(2, 24, 30, 28))
    ]
    truth, prediction = volume(noise[0] > 0.02, spacing), volume(noise[0] + 0.5 * noise[1] > 0.025, spacing)
    found = segmentation_metrics(truth, prediction)

    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(to_sitk(prediction), to_sitk(truth))
    assert found["dice"] == pytest.approx(overlap.GetDiceCoefficient(), abs=1e-12)
    assert found["jaccard"] == pytest.approx(overlap.GetJaccardCoefficient(), abs=1e-12)
    assert 1 - found["ppv"] == pytest.approx(overlap.GetFalseDiscoveryRate())
    assert 1 - found["tpr"] == pytest.approx(overlap.GetFalseNegativeError())

    def surface_mm(mask: Volume) -> np.ndarray:
        image = sitk.ConstantPad(to_sitk(mask), [1] * 3, [1] * 3, 0)
        contour = sitk.GetArrayFromImage(sitk.BinaryContour(image, fullyConnected=False)).T[1:-1, 1:-1, 1:-1]
        return np.argwhere(contour) * np.array(spacing)

    between = cdist(surface_mm(truth), surface_mm(prediction))
    there, back = between.min(axis=1), between.min(axis=0)
    assert found["hd95_mm"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-5)
    assert found["asd_mm"] == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-5)


@pytest.mark.parametrize(
    "lfpr, ltpr, l_f1",
    [
        (0.122, 0.533, 0.663),  # ISBI-2015, ALL-Net
        (0.155, 0.540, 0.659),  # ISBI-2015, Tiramisu
        (0.465, 0.937, 0.681),  # Cornell, baseline
        (0.384, 0.928, 0.740),  # Cornell, baseline and AnaConv
        (0.271, 0.870, 0.793),  # Cornell, baseline and LesLoss
        (0.301, 0.917, 0.793),  # Cornell, ALL-Net
    ],
)
def test_lesion_f1_gives_the_papers_tables(lfpr, ltpr, l_f1):
    assert lesion_f1(ltpr=ltpr, lfpr=lfpr) == pytest.approx(l_f1, abs=0.0011)


def test_dice_has_the_factor_that_the_papers_equation_lacks():
    # Eq. 4 as printed, TP / (2 TP + FP + FN), gives one half at best; its V-F1 (Eq. 7) is what Dice must equal.
    found = segmentation_metrics(*masks())
    assert found["dice"] == pytest.approx(2 * found["ppv"] * found["tpr"] / (found["ppv"] + found["tpr"]))


def test_grids_must_match():
    a = volume(np.zeros((4, 5, 6), dtype=bool))
    with pytest.raises(ValueError, match=r"\(4, 5, 6\).*\(4, 5, 7\)"):
        segmentation_metrics(a, volume(np.zeros((4, 5, 7), dtype=bool)))
    with pytest.raises(ValueError, match="1 x 1 x 1 mm and 1 x 1 x 2 mm"):
        segmentation_metrics(a, volume(np.zeros((4, 5, 6), dtype=bool), (1.0, 1.0, 2.0)))


@pytest.mark.parametrize("patient, lesions, volume_mm3", [("openms07", 37, 1.3e3), ("openms19", 98, 49.8e3)])
def test_a_patients_truth_against_itself(shared_data, patient, lesions, volume_mm3):
    path = f"mni/sub-{patient}/anat/sub-{patient}_space-MNI152_label-L_desc-expert_mask.nii.gz"
    truth = read_volume(shared_data / path, mask=True)
    found = segmentation_metrics(truth, truth)
    assert {name: found[name] for name in PERFECT} == PERFECT
    assert found["truth_lesions"] == found["prediction_lesions"] == lesions
    assert found["truth_volume_mm3"] == pytest.approx(volume_mm3, rel=0.03)
