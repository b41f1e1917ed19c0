"""The rule of change: what it takes for new, what it leaves alone, and its symmetry."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from scipy import ndimage

from msrim.image import Volume
from msrim.lesions.change import RULE, ChangeRule, ComparedScan, decide_change, difference_z

SHAPE = (48, 48, 48)
BRAIN = np.linalg.norm(np.indices(SHAPE) - 23.5, axis=0) < 22
AFFINE = np.eye(4)
NOTHING = np.zeros(SHAPE, bool)


def ball(centre, radius) -> np.ndarray:
    return np.linalg.norm(np.indices(SHAPE) - np.reshape(centre, (3, 1, 1, 1)), axis=0) < radius


OLD, NEW, VANISHED = ball((14, 24, 24), 4), ball((34, 24, 24), 3), ball((24, 12, 24), 3)


def visit(seed: int, *lesions: np.ndarray, bright: float = 2.0, shift=0.0) -> tuple[Volume, Volume]:
    """Image and lesion probability."""
    rng = np.random.default_rng(seed)
    mask = np.any(lesions, axis=0) if lesions else np.zeros(SHAPE, bool)
    image = bright * ndimage.gaussian_filter(mask.astype(float), 0.6) + ndimage.shift(
        np.sin(np.indices(SHAPE)[2]), shift
    )
    image += rng.normal(0, 0.3, SHAPE)
    return (
        Volume((image * BRAIN).astype(np.float32), AFFINE),
        Volume((0.9 * ndimage.gaussian_filter(mask.astype(np.float32), 0.5)).astype(np.float32), AFFINE),
    )


def decide(before, after, *, vanished=NOTHING, new=NOTHING, sampled=None, t2w=None, rule=RULE):
    """``vanished`` and ``new`` are the network's."""
    brain = Volume(BRAIN, AFFINE)
    resampled, second = sampled or (before[0], after[0]), t2w or (None, None)
    one = ComparedScan(*before, marked=brain.like(vanished), resampled=resampled[0], t2w=second[0])
    other = ComparedScan(*after, marked=brain.like(new), resampled=resampled[1], t2w=second[1])
    return decide_change(one, other, brain=brain, threshold=0.5, rule=rule)


@pytest.mark.parametrize("limit", [field.name for field in fields(ChangeRule)])
def test_the_text_of_the_rule_names_every_limit(limit):
    value = getattr(RULE, limit)
    other = tuple(2 * part for part in value) if isinstance(value, tuple) else 2 * value
    assert replace(RULE, **{limit: other}).text("net", t2w=True) != RULE.text("net", t2w=True)


def test_the_limits_of_the_rule_are_those_that_decide():
    before, after = visit(0, OLD), visit(1, OLD, NEW)
    assert decide(before, after).new.data.any()
    assert not decide(before, after, rule=replace(RULE, seed_z=1e3)).new.data.any()


@pytest.mark.parametrize("gain, found", [(0.3, False), (0.8, True)])
def test_what_gains_little_is_no_change_however_clear(gain, found):
    """Shading on hardly any noise: ten noise levels or more, and less than half a deviation."""
    rng, brightened = np.random.default_rng(0), ball((30, 24, 24), 6)
    probability = 0.9 * ndimage.gaussian_filter(brightened.astype(np.float32), 0.5)
    before, after = (
        (
            Volume(((0.8 + mask * gain + rng.normal(0, 0.02, SHAPE)) * BRAIN).astype(np.float32), AFFINE),
            Volume((mask * probability).astype(np.float32), AFFINE),
        )
        for mask in (NOTHING, brightened)
    )
    assert decide(before, after).new.data.any() == found
    assert decide(after, before).vanished.data.any() == found
    assert decide(before, after, rule=replace(RULE, gain=0.0)).new.data.any()


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_new_vanished_and_stable_lesions():
    tissue = decide(visit(0, OLD, VANISHED), visit(1, OLD, NEW))
    assert dice(tissue.new.data, NEW) > 0.75
    assert dice(tissue.vanished.data, VANISHED) > 0.75
    assert dice(tissue.baseline.data, OLD | VANISHED) > 0.8
    assert dice(tissue.followup.data, OLD | NEW) > 0.8
    assert not (tissue.baseline.data & tissue.new.data).any()


def test_growth_is_the_tissue_around():
    tissue = decide(visit(0, ball((24, 24, 24), 3)), visit(1, ball((24, 24, 24), 6)))
    shell = ball((24, 24, 24), 6) & ~ball((24, 24, 24), 3)
    assert dice(tissue.new.data, shell) > 0.7
    assert not tissue.vanished.data.any()


def test_swapped_visits_swap_new_and_vanished_exactly():
    one, other = visit(0, OLD, VANISHED), visit(1, OLD, NEW)
    forth, back = decide(one, other), decide(other, one)
    for ours, theirs in (("new", "vanished"), ("vanished", "new"), ("baseline", "followup"), ("followup", "baseline")):
        assert np.array_equal(getattr(forth, ours).data, getattr(back, theirs).data)


def test_a_network_completes_what_the_rule_found_and_adds_nothing_elsewhere():
    """Half of a new lesion was suspected at baseline; one claim is right, one too wide, and one lies far off."""
    before, after = visit(0, OLD), visit(1, OLD, NEW)
    before[1].data[34:] = after[1].data[34:]
    sure, elsewhere = decide(before, after), ball((24, 36, 24), 3)
    assert 0.3 < dice(sure.new.data, NEW) < 0.7
    for claim in (NEW, ball((34, 24, 24), 9)):
        tissue = decide(before, after, new=claim | elsewhere, vanished=elsewhere)
        assert dice(tissue.new.data, NEW) > 0.65
        assert not (sure.new.data & ~tissue.new.data).any()
        assert (
            np.array_equal(tissue.vanished.data, sure.vanished.data)
            and not (tissue.baseline.data & tissue.new.data).any()
        )
        back = decide(after, before, vanished=claim | elsewhere, new=elsewhere)
        assert np.array_equal(back.vanished.data, tissue.new.data) and np.array_equal(
            back.new.data, tissue.vanished.data
        )


def test_a_claim_does_not_reach_over_what_the_rule_says_of_the_other_visit():
    """A network that takes what is vanished for new, connected to a lesion that is new."""
    before, after = visit(0, OLD, VANISHED), visit(1, OLD, NEW)
    sure = decide(before, after)
    bridge = np.zeros(SHAPE, bool)
    bridge[20:38, 9:28, 22:27] = True
    tissue = decide(before, after, new=bridge)
    assert not (tissue.new.data & sure.vanished.data).any()
    assert np.array_equal(tissue.vanished.data, sure.vanished.data)


@pytest.mark.parametrize(("shown", "left", "changed"), [(1.0, 0.3, True), (0.6, 0.5, False), (0.35, 0.0, False)])
def test_a_lesion_that_the_other_scan_would_hardly_show_has_not_changed(shown, left, changed):
    """How much of its contrast the other scan's voxels leave a lesion, and how much the other visit shows."""
    lesion = visit(0, VANISHED)[0].data - visit(0)[0].data
    before, after = visit(0, OLD, VANISHED), visit(1, OLD)
    after[0].data[...] += left * lesion
    sampled = before[0].like(before[0].data - (1 - shown) * lesion), after[0]
    vanished = decide(before, after, sampled=sampled).vanished.data
    assert vanished.any() == changed
    assert np.array_equal(decide(after, before, sampled=sampled[::-1]).new.data, vanished)
    assert not changed or dice(vanished, VANISHED) > 0.6


@pytest.mark.parametrize(("bright", "alone"), [(0.6, False), (0.8, True)])
def test_a_t2w_decides_about_a_faint_lesion_where_both_visits_show_it(bright, alone):
    small, rule = ball((34, 24, 24), 2), replace(RULE, min_change_mm3=0)
    before, after = visit(0, OLD), visit(1, OLD, small, bright=bright)
    after[0].data[OLD] = before[0].data[OLD]
    alike, shown = ((visit(2, OLD)[0], visit(3, OLD, *more, bright=4.0)[0]) for more in ((), (small,)))
    assert decide(before, after, rule=rule).new.data.any() == alone
    assert not decide(before, after, t2w=alike, rule=rule).new.data.any()
    forth, back = decide(before, after, t2w=shown, rule=rule), decide(after, before, t2w=shown[::-1], rule=rule)
    assert (forth.new.data & small).any() and not (forth.new.data & ~ball((34, 24, 24), 4)).any()
    assert np.array_equal(forth.new.data, back.vanished.data) and np.array_equal(forth.vanished.data, back.new.data)
    # The part of the brain with the lesion was not scanned.
    part = tuple(image.like(np.where(np.indices(SHAPE)[0] < 24, image.data, 0)) for image in shown)
    assert decide(before, after, t2w=part, rule=rule).new.data.any() == alone


def test_what_is_smaller_than_a_ball_of_3_mm_is_no_change_until_its_outline_is_completed():
    small = ball((34, 24, 24), 2)
    before, after = visit(0, OLD), visit(1, OLD, small, bright=0.8)
    after[0].data[OLD] = before[0].data[OLD]
    sure = decide(before, after, rule=replace(RULE, min_change_mm3=0)).new.data
    assert RULE.min_piece_mm3 <= sure.sum() < RULE.min_change_mm3
    assert not decide(before, after).new.data.any() and not decide(after, before).vanished.data.any()
    completed = decide(before, after, new=small).new.data
    assert completed.sum() >= RULE.min_change_mm3 and not (sure & ~completed).any()
    assert np.array_equal(decide(after, before, vanished=small).vanished.data, completed)


def test_what_only_the_network_sees_is_no_change():
    """It marks a lesion at follow-up that is as bright at baseline: then it was there."""
    image, _ = visit(0, OLD, NEW)
    other, seen = visit(1, OLD, NEW)
    _, missed = visit(0, OLD)
    tissue = decide((image, missed), (other, seen))
    assert not tissue.new.data.any()
    assert np.array_equal(tissue.baseline.data, tissue.followup.data)


def test_what_only_the_images_show_is_no_lesion():
    """A bright spot that the network takes for something else, such as flow."""
    before, (bright, _) = visit(0, OLD), visit(1, OLD, NEW)
    assert not decide(before, (bright, before[1])).new.data.any()


def test_half_a_suspicion_of_the_network_is_enough_for_a_clear_difference():
    """Small new lesions often stay below the threshold of a single visit."""
    before, after = visit(0, OLD), visit(1, OLD, NEW)
    for place, most, seen in ((NEW, 0.1, True), (NEW, 0.001, False), (ball((34, 24, 24), 1.1), 0.1, False)):
        suspected = after[1].like(np.where(OLD, after[1].data, most * place).astype(np.float32))
        assert decide(before, (after[0], suspected)).new.data.any() == seen


def test_tissue_where_csf_was_is_no_lesion():
    """A ventricle or a sulcus that moved."""
    before, after = visit(0, OLD), visit(1, OLD, NEW)
    assert decide(before, after).new.data.any()
    sure = decide(before, after).new.data
    before[0].data[NEW] -= 2.0
    assert not decide(before, after).new.data.any()
    assert not decide(after, before).vanished.data.any()
    # Nor is it the outline of one beside it, whatever a network claims.
    before, beside = visit(0, OLD), ball((40, 24, 24), 3)
    before[0].data[beside] -= 4.0
    tissue = decide(before, after, new=ball((37, 24, 24), 6))
    assert (tissue.new.data & sure).any() and not (tissue.new.data & beside).any()


def test_darker_csf_and_brighter_grey_are_not_lesions():
    """A change below the brightness of lesions is left alone, whatever its size."""
    before, after = visit(0, OLD), visit(1, OLD)
    after[0].data[NEW] -= 2.0
    assert not decide(after, before).new.data.any()


def test_lesions_that_are_all_brighter_have_not_grown():
    """The scanner's doing; the network finds more of them then."""
    lesion, found = ball((24, 24, 24), 8), ball((24, 24, 24), 6)
    before, after = visit(0, lesion, bright=2.0), visit(1, lesion, bright=3.0)
    _, seen_before = visit(0, found)
    assert not decide((before[0], seen_before), after).new.data.any()
    assert not decide(after, (before[0], seen_before)).vanished.data.any()


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_noise_and_edges_half_a_voxel_off_are_not_a_change(shift):
    before, after = visit(0, OLD), visit(1, OLD, shift=(0, 0, shift))
    after[1].data[:] = 0.6  # the network would agree with anything
    tissue = decide(before, after)
    assert not tissue.new.data.any() and not tissue.vanished.data.any()


def test_a_scan_against_itself():
    one = visit(0, OLD)
    tissue = decide(one, one)
    assert not tissue.new.data.any() and not tissue.vanished.data.any()
    assert np.array_equal(tissue.baseline.data, tissue.followup.data)


def test_the_unit_of_z_is_the_noise():
    (before, _), (after, _) = visit(0), visit(1)
    brain = Volume(BRAIN, AFFINE)
    z = difference_z(before, after, brain=brain).data
    assert np.std(z[BRAIN]) == pytest.approx(1, rel=0.1)
    assert not z[~BRAIN].any()
    turned = difference_z(after, before, brain=brain).data
    assert np.array_equal(z, -turned)
