"""A threshold that rises where lesions are faint and doubtful."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, gaussian_filter
from scipy.special import expit, logit

from msrim.image import Volume
from msrim.lesions.threshold import mean_edge_contrast, undoubted_threshold

SHAPE = (40, 44, 36)
HIGHEST = 0.999


@pytest.fixture(scope="module")
def patient():
    """A FLAIR with two lesions, a network's answer to it, and the brain."""
    rng = np.random.default_rng(0)
    points = np.indices(SHAPE)
    middles = np.array([[12, 14, 18], [27, 29, 16]])
    balls = zip(middles, (5, 7), strict=True)
    distance = np.min([np.linalg.norm(points - m[:, None, None, None], axis=0) - r for m, r in balls], 0)
    brain = Volume(np.ones(SHAPE, bool), np.eye(4))
    brain.data[:3] = False
    flair = gaussian_filter((distance < 0).astype(np.float64), 0.6) * 3 + rng.normal(scale=0.2, size=SHAPE)
    answer = -1.5 * distance + gaussian_filter(rng.normal(size=SHAPE), 1) * 2
    return brain.like(flair.astype(np.float32)), brain.like(expit(answer) * brain.data), brain, distance < 0


def test_step_is_the_mean_over_all_faces_of_an_outline(patient):
    flair, answer, brain, _ = patient
    levels = (0.1, 0.5, 0.93)
    for level, step in zip(levels, mean_edge_contrast(answer, flair, brain=brain, levels=levels), strict=True):
        lesion, rises = answer.data >= level, []
        for axis in range(3):
            one, other = np.arange(SHAPE[axis] - 1), np.arange(1, SHAPE[axis])
            for low, high in ((one, other), (other, one)):
                taken = [np.take(data, at, axis) for data in (lesion, flair.data, brain.data) for at in (low, high)]
                crossed = ~taken[0] & taken[1] & taken[4] & taken[5]
                rises.append((taken[3] - taken[2])[crossed])
        assert step == pytest.approx(np.concatenate(rises).mean(), rel=1e-5)


def test_no_face_gives_nan(patient):
    flair, answer, brain, _ = patient
    assert np.isnan(mean_edge_contrast(answer, flair, brain=brain, levels=[0.99999999999])).all()


def test_faint_lesions_are_given_up_only_where_the_network_doubts_them(patient):
    """Bright cortex taken for lesions is faint and doubtful, lesions in a blurred scan are only faint."""
    flair, answer, brain, truth = patient
    odds = logit(np.clip(answer.data, 1e-9, 1 - 1e-9))
    sure, doubted = (answer.like(np.where(brain.data, expit(steep * odds), 0)) for steep in (3, 0.4))
    faint = flair.like(0.1 * flair.data)
    given = {"brain": brain, "default": 0.5, "highest": HIGHEST}
    assert undoubted_threshold(doubted, faint, **given) > 0.995
    for network, image in ((sure, faint), (doubted, flair)):
        assert undoubted_threshold(network, image, **given) == 0.5
        found = network.data >= 0.5
        assert 2 * np.sum(found & truth) / (found.sum() + truth.sum()) > 0.6


def test_what_is_clear_among_doubtful_marks_stays(patient):
    """One lesion with edges, and faint marks twice as large: the threshold rises over the marks alone."""
    flair, answer, brain, _ = patient
    points = np.indices(SHAPE)
    lesion, mark = (
        np.linalg.norm(points - np.array(m)[:, None, None, None], axis=0) for m in ((12, 14, 18), (27, 29, 16))
    )
    network = answer.like(np.where(lesion < 5, 0.9999, np.where(mark < 11, 0.85 - 0.02 * mark, 0.001)))
    image = flair.like(np.where(lesion < 5, 3.0, 0.0) + np.random.default_rng(1).normal(scale=0.1, size=SHAPE))
    chosen = undoubted_threshold(network, image, brain=brain, default=0.5, highest=HIGHEST)
    assert chosen > 0.5
    assert (network.data >= chosen)[lesion < 5].all()
    assert np.mean((network.data >= chosen)[mark < 11]) < 0.6


def test_next_to_no_lesion_leaves_the_default(patient):
    flair, answer, brain, _ = patient
    point = np.zeros(SHAPE, bool)
    point[20, 20, 20] = True
    speck = answer.like(np.where(binary_dilation(point, iterations=2), 0.9, 0.01))
    for image in (speck, answer.like(np.zeros(SHAPE))):
        assert undoubted_threshold(image, flair, brain=brain, default=0.6, highest=HIGHEST) == 0.6


def test_no_threshold_lies_above_the_highest(patient):
    flair, answer, brain, _ = patient
    odds = logit(np.clip(answer.data, 1e-9, 1 - 1e-9))
    doubted = answer.like(np.where(brain.data, expit(0.4 * odds), 0))
    for default, highest in ((0.3, 0.6), (0.5, 0.9)):
        chosen = undoubted_threshold(doubted, flair.like(0 * flair.data), brain=brain, default=default, highest=highest)
        assert default < chosen <= highest
