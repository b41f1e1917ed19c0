"""Brain masks and contrasts that are not what they are taken for."""

from __future__ import annotations

import numpy as np
import pytest

from msrim.image import Volume
from msrim.preprocess.masks import foreground, grown_mask, is_brain_alone
from msrim.preprocess.plausibility import MIN_MATCH, brain_mask_faults, contrast_of, match
from msrim.preprocess.template import load_template, load_template_brain_mask

HERE = np.eye(4)


@pytest.fixture(scope="module")
def brain() -> Volume:
    return load_template_brain_mask()


@pytest.fixture(scope="module")
def contrasts(brain) -> dict[str, Volume]:
    """The template, and what its tissues look like in a FLAIR and in a T2w."""
    t1w = load_template()
    noise = 0.02 * np.random.default_rng(0).normal(size=t1w.shape)
    csf = np.percentile(t1w.data[brain.data], 4)
    seen = {"T1w": t1w.data, "FLAIR": np.where(t1w.data > csf, 0.8, 0.2), "T2w": 1 - t1w.data}
    return {name: t1w.like(((data + noise) * brain.data).astype(np.float32)) for name, data in seen.items()}


@pytest.mark.parametrize("contrast", ["FLAIR", "T1w", "T2w"])
def test_a_contrast_is_known_by_what_is_bright(contrast, contrasts, brain):
    template = load_template()
    assert contrast_of(contrasts[contrast], brain, template=template, template_from_image=HERE) == contrast


def test_too_little_brain_says_nothing_of_the_contrast(contrasts, brain):
    thin = brain.like(brain.data & (np.indices(brain.shape)[2] < 4))
    assert contrast_of(contrasts["T1w"], thin, template=load_template(), template_from_image=HERE) is None


def faults_of(flair: Volume, mask: Volume, brain: Volume) -> str:
    """Everything said of a mask, in one text."""
    return " ".join(brain_mask_faults(flair, mask, template_brain=brain, template_from_image=HERE))


def test_a_whole_brain_is_one(contrasts, brain):
    assert faults_of(contrasts["FLAIR"], brain, brain) == ""


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_half_a_brain_is_told(axis, contrasts, brain):
    half = brain.data & (np.indices(brain.shape)[axis] < brain.shape[axis] // 2)
    assert "has not the shape of a whole brain" in faults_of(contrasts["FLAIR"], brain.like(half), brain)


def test_fat_in_the_mask_is_told(contrasts, brain):
    scalp = grown_mask(brain, by_mm=6)
    flair = contrasts["FLAIR"].like(np.where(scalp.data & ~brain.data, 1.5, contrasts["FLAIR"].data))
    assert "bright tissue" in faults_of(flair, scalp, brain)
    assert "bright tissue" not in faults_of(flair, brain, brain)


def test_a_child_is_told_by_its_volume(contrasts, brain):
    small = np.diag([0.7, 0.7, 0.7, 1.0])
    image, mask = (Volume(each.data, small @ each.affine) for each in (contrasts["FLAIR"], brain))
    (fault,) = brain_mask_faults(image, mask, template_brain=brain, template_from_image=np.linalg.inv(small))
    assert fault.startswith("has 6") and "ml" in fault


def test_contrasts_of_one_head_match_and_those_of_a_misplaced_one_do_not(contrasts, brain):
    masks = {"moving_brain": brain, "fixed_brain": brain}
    shift = np.eye(4)
    shift[:3, 3] = 6, 10, 8
    for contrast in ("FLAIR", "T2w"):
        pair = (contrasts[contrast], contrasts["T1w"])
        assert match(*pair, **masks, fixed_from_moving=HERE) > MIN_MATCH
        assert match(*pair, **masks, fixed_from_moving=shift) < match(*pair, **masks, fixed_from_moving=HERE)
    apart = np.eye(4)
    apart[0, 3] = 400
    assert match(contrasts["FLAIR"], contrasts["T1w"], **masks, fixed_from_moving=apart) == 1


def test_a_brain_without_its_head_is_noticed(contrasts, brain):
    alone = contrasts["T1w"]
    assert is_brain_alone(alone)
    scored = alone.like((alone.data - 0.7) / 0.2)
    assert is_brain_alone(scored)
    assert np.array_equal(foreground(scored).data, foreground(alone).data)
    head = grown_mask(brain, by_mm=14).data & ~grown_mask(brain, by_mm=4).data
    assert not is_brain_alone(alone.like(alone.data + 1.2 * head))
    air = np.abs(0.03 * np.random.default_rng(0).normal(size=alone.shape))
    assert not is_brain_alone(alone.like(alone.data + air))
