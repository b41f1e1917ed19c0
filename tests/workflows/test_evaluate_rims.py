"""Cross-validation of rim classifiers: who is judged by whom, and by which threshold."""

from __future__ import annotations

import numpy as np
import pytest

from msrim.console import Console
from msrim.errors import InputError
from msrim.image import Volume
from msrim.recipe import TrainingRecipe
from msrim.training.rims import RimLesions
from msrim.workflows.evaluate_rims import CrossValidated, cross_validate
from tests.benchmarks.rims_end_to_end import COLUMNS, compare, off_middle

QUIET = Console(quiet=True)
RECIPE = TrainingRecipe(
    name="tiny", version="0", task="rims", summary="of a test", normalisation="none", network="datrnet",
    contrasts=("Chimap", "FLAIR"), steps=4, batch_size=8, learning_rate=1e-3,
)  # fmt: skip


def cohort(rims: list[int]) -> RimLesions:
    """Subjects with so many rims each, and as many lesions without one, and one more."""
    labels = np.concatenate([[True] * n + [False] * (n + 1) for n in rims])
    subjects = np.repeat(np.arange(len(rims)), [2 * n + 1 for n in rims])
    patches = np.zeros((len(labels), 3, 0, 0, 0), np.float16)
    return RimLesions(patches, None, labels, labels, subjects, tuple(f"sub-{n}" for n in range(len(rims))))


@pytest.fixture
def trained(monkeypatch) -> list[RimLesions]:
    """What networks were trained on; none really is, and every one says the same of all lesions."""
    seen = []

    def fit(recipe, lesions, folder, **_):
        folder.mkdir(parents=True)
        seen.append(lesions)
        return None, {}

    monkeypatch.setattr("msrim.workflows.evaluate_rims.fit_network", fit)
    monkeypatch.setattr("msrim.workflows.evaluate_rims.predict", lambda *given, **_: np.full(len(given[2]), 0.5))
    return seen


def test_no_network_sees_the_subjects_that_it_judges_and_folds_share_the_many_rims(trained, tmp_path):
    lesions = cohort([0] * 10 + [2] * 5 + [9] * 5)
    result = cross_validate(RECIPE, lesions, tmp_path, console=QUIET, seeds=1)
    assert len(trained) == 5
    for fold, training in enumerate(trained):
        judged = set(lesions.subjects[result.folds == fold])
        assert not judged & set(training.subjects) and len(judged) == 4
        assert sum(subject >= 15 for subject in judged) == 1 and sum(10 <= subject < 15 for subject in judged) == 1


def test_a_folds_own_truth_chooses_no_threshold():
    """Each fold alone would be told apart without an error, by 0.9 and by 0.5."""
    truth = np.array([1, 0, 0, 1, 0, 0], bool)
    probability = np.array([[0.9, 0.6, 0.1, 0.5, 0.4, 0.1]])
    result = CrossValidated(probability, np.array([0, 0, 0, 1, 1, 1]), truth, np.array([0, 0, 0, 1, 1, 1]))
    assert result.rim.tolist() == [True, True, False, False, False, False]
    assert (result.figures()["sensitivity"], result.figures()["roc_auc"]) == (0.5, 1.0)


def test_some_of_the_lesions_are_judged_by_themselves():
    truth, subjects = np.array([True, False] * 4), np.arange(8) // 2
    # Right for the first four lesions, wrong for the others.
    probability = np.where(np.arange(8) < 4, truth, ~truth).astype(float)[None]
    result = CrossValidated(probability, np.arange(8) // 2 % 2, truth, subjects)
    areas = [result.of(subjects < 2), result.of(subjects >= 2)]
    assert [part.figures()["roc_auc"] for part in areas] == [1.0, 0.0]


def test_folds_of_another_recipe_are_not_taken_for_these(trained, tmp_path):
    lesions = cohort([1] * 10)
    cross_validate(RECIPE, lesions, tmp_path, console=QUIET, seeds=1)
    cross_validate(RECIPE, lesions, tmp_path, console=QUIET, seeds=2)
    assert len(trained) == 10
    longer = RECIPE.model_copy(update={"steps": 5})
    with pytest.raises(InputError, match="folds of another recipe or cohort"):
        cross_validate(longer, lesions, tmp_path, console=QUIET, seeds=1)
    with pytest.raises(InputError, match="folds of another recipe or cohort"):
        cross_validate(RECIPE, cohort([1] * 11), tmp_path, console=QUIET, seeds=1)


def test_too_few_rims_are_refused(trained, tmp_path):
    with pytest.raises(InputError, match="1 subjects with a rim are too few for 5 folds"):
        cross_validate(RECIPE, cohort([0] * 9 + [3]), tmp_path, console=QUIET)
    assert not trained


def test_from_scan_to_rim_a_split_rim_counts_once():
    """A lesion with a rim found as two, one without found as one, one with a rim missed; and one that is none."""
    truth, found = np.zeros((2, 12, 1), int)
    truth[0:4], truth[5:8], truth[9:10] = 1, 2, 3
    found[0:2], found[2:4], found[6:7], found[11:] = 4, 5, 6, 7
    counts = compare(truth, {1, 3}, found, {4, 5, 6, 7})
    assert dict(zip(COLUMNS, counts, strict=True)) == {
        "lesions made": 3, "found": 2, "split": 1, "invented": 1, "rims made": 2, "found as lesions": 1,
        "called rim+": 1, "invented rim+": 2,
    }  # fmt: skip


def test_found_lesions_lie_off_the_middle_of_the_made_ones_that_they_share_most_with():
    """Half of a made lesion of 10 x 6 x 4 voxels and a bit beyond; one that is too small, and one on nothing."""
    truth, found = np.zeros((2, 20, 12, 4), int)
    truth[0:10, 0:6], truth[15:18, 0:6] = 1, 2
    found[5:11, 0:6], found[15:18, 0:6], found[0:2, 8:10] = 1, 2, 3
    off = off_middle(Volume(truth, np.diag([2.0, 1.0, 3.0, 1.0])), found)
    np.testing.assert_allclose(off, [[2 * (7.5 - 4.5), 0, 0]])
