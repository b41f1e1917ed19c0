"""Tables of a cohort: visits of one patient weigh as one, and the papers' conventions hold."""

import numpy as np
import pytest

from msrim.evaluation.cohort import (
    COHORT_FIGURES,
    FIGURES,
    Scan,
    cohort_figures,
    compare_methods,
    scan_figures,
    summarise_cohort,
)
from msrim.image import Volume


def scans(shift: float = 0.0) -> list[Scan]:
    """Six scans of five patients with random masks, the prediction the truth with noise."""
    made = []
    for number, patient in enumerate("aabcde"):
        rng = np.random.default_rng(number)
        truth = rng.random((10, 10, 10)) < 0.02 * (number + 2)
        found = truth ^ (rng.random(truth.shape) < 0.05 + shift)
        figures = scan_figures(Volume(truth, np.eye(4)), Volume(found, np.eye(4)))
        made.append(Scan(patient, str(number), figures))
    return made


def test_every_figure_has_its_row():
    rows = summarise_cohort(scans())
    assert [row["figure"] for row in rows] == [*FIGURES, *COHORT_FIGURES]
    for row in rows:
        assert row["patients"] == 5
        assert row["low"] <= row["mean"] <= row["high"], row


def test_visits_of_a_patient_weigh_as_one():
    cohort = scans()
    dice = [scan.figures["dice"] for scan in cohort]
    row = next(row for row in summarise_cohort(cohort) if row["figure"] == "dice")
    values = [(dice[0] + dice[1]) / 2, *dice[2:]]
    assert row["mean"] == pytest.approx(sum(values) / 5)
    assert row["sd"] == pytest.approx(np.std(values, ddof=1))


def test_f1_of_means_is_the_papers():
    """ALL-Net's Table 3: V-F1 0.764 and L-F1 0.793 from precision, sensitivity, LFPR and LTPR; Dice is 0.755."""
    figures = {"dice": 0.755, "ppv": 0.781, "tpr": 0.748, "lfpr": 0.301, "ltpr": 0.917}
    volumes = {"truth_volume_mm3": 1.0, "prediction_volume_mm3": 2.0}
    found = cohort_figures([Scan("a", None, figures | volumes)])
    assert found["v_f1_of_means"] == pytest.approx(0.764, abs=0.0005)
    assert found["l_f1_of_means"] == pytest.approx(0.793, abs=0.0005)
    assert found["isbi_score"] is None  # one scan has no correlation


def test_lesion_figures_of_scp():
    """Two of three true lesions touched, by two of four predictions: 2 / 4, and 2 * 2 / (3 + 4)."""
    truth = Volume(np.array([[[1, 0, 1, 0, 1, 0, 0, 0, 0]]], bool), np.eye(4))
    found = Volume(np.array([[[1, 0, 1, 0, 0, 0, 1, 0, 1]]], bool), np.eye(4))
    figures = scan_figures(truth, found)
    assert (figures["l_ppv"], figures["l_dice"]) == (2 / 4, 4 / 7)
    assert figures["volume_difference"] == pytest.approx(1 / 3)
    assert figures["rq"] == pytest.approx(4 / 7)


def test_a_worse_method_loses():
    rows = {row["figure"]: row for row in compare_methods(scans(), scans(shift=0.05))}
    assert rows["dice"]["patients"] == 5
    assert rows["dice"]["mean_difference"] < 0 and rows["dice"]["rank_biserial"] == -1
    assert rows["dice"]["t_p"] < 0.05


def test_nothing_defined_is_none():
    empty, full = Volume(np.zeros((4, 4, 4), bool), np.eye(4)), Volume(np.ones((4, 4, 4), bool), np.eye(4))
    rows = {row["figure"]: row for row in summarise_cohort([Scan("a", None, scan_figures(empty, full))])}
    assert (rows["tpr"]["patients"], rows["tpr"]["mean"], rows["tpr"]["low"]) == (0, None, None)
    assert rows["challenge_score"]["mean"] is None
