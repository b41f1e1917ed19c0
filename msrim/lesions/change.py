"""Changes between two visits: a rule finds changed tissue, a network completes its outline.

:class:`ChangeRule` holds the limits, which are named here, and renders the text that run.json and the page show.

Tissue is *new* when all of this holds in a connected piece of ``min_piece_mm3`` or more:

1. the matched FLAIR is brighter at follow-up than at baseline by ``grow_z`` noise levels in every voxel, and by
   ``seed_z`` in one; a piece ends where the difference falls below ``peak_share`` of its largest, which is where a
   blurred lesion has its edge. The noise is that of this pair of scans, measured apart for voxels on flat ground and on
   edges of each steepness, because an edge that is resampled or half a voxel off differs without any change. If the
   lesions of both visits are brighter at follow-up as a whole, in the median of their voxels, so much of the difference
   is taken off in lesions: blurring and contrast do that, and growth, which is at a lesion's rim, does not. Where both
   visits have a T2w, its difference, in its own noise levels, joins with the weight ``t2w_weight``: lesions are bright
   on it too, and flow and noise of the FLAIR are not seen there;
2. at follow-up it is as bright as lesions are: ``bright`` deviations above the brain's mean in every voxel;
3. the lesion network does not exclude it: in half of the piece the odds at follow-up are ``least_odds`` or more, the
   mean probability is higher than at baseline, and no lesion is found there at baseline: tissue that was lesion and got
   brighter is not new;
4. it was tissue at baseline, on average no darker than ``dark`` deviations below the brain's mean. Where a dark sulcus
   or ventricle turns into tissue, the brain has moved or changed its shape;
5. the baseline's scan would have shown it. Sampled on that scan's voxels, the follow-up keeps ``visible_share`` of its
   contrast to the tissue around, and the baseline shows less than ``faded_share`` of that, and less than its own
   contrast by ``gain`` deviations. A small lesion between two thick slices fades without having vanished, and noise or
   shading that is spread widely gains little.

Such a piece is the sure part of a change: 2 and 3 leave out tissue inside a rater's outline that is not yet bright or
was already taken for lesion. The network for changes (:mod:`msrim.models.networks.coactseg`) completes it: tissue that
the network marks as new and that is connected to the piece is new as well where 1 and, in every voxel, 4 hold; tissue
that it marks elsewhere is not. A change of less than ``min_change_mm3`` in the end is none.

*Vanished* tissue is the same with the visits exchanged. All other tissue is lesion at both visits or at neither,
decided by the mean of both probabilities. A lesion therefore only changes where the images show that it did, and
swapping the visits swaps new and vanished tissue exactly.

The numbers were chosen on a pair synthesised from one marked visit in 3 mm slices, with lesions of other people painted
in; ``peak_share``, ``seed_z``, ``least_odds``, ``dark`` and ``t2w_weight`` on real pairs as well (two patients, both
ways round); ``faded_share`` and ``gain`` on rescans without change of two patients, so that nothing is lost in the real
pairs. tests/benchmarks/no_change.py counts false changes in pairs without any.
"""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from scipy import ndimage

from msrim.image import Volume, bounding_boxes

# Half of a small lesion's radius: averages the noise of neighbouring voxels and keeps the lesion.
SMOOTHING_MM = 0.8
EDGE_LEVELS = 24


@dataclass(frozen=True)
class ChangeRule:
    """Limits of the rule; the module's text explains each.

    Attributes
    ----------
    seed_z, grow_z : float
        Noise levels of the difference that one voxel, and that all voxels of a piece reach.
    peak_share : float
        Of a piece's largest difference.
    min_piece_mm3 : float
        Of the sure part of a change.
    min_change_mm3 : float
        Of a change. A ball of 3 mm: smaller ones do not count as lesions of multiple sclerosis (Filippi et al. 2019).
    bright, dark : float
        Deviations of the brain's intensity above and below its mean.
    least_odds : float
        Of lesion, in half of a piece.
    t2w_weight : float
        Of the T2w's difference beside the FLAIR's.
    visible_share, faded_share : float
        Of the contrast to the tissue around: what the other scan's voxels leave of it, and what of that it shows.
    gain : float
        Deviations of the brain's intensity by which the other visit shows less contrast.
    around_mm : (float, float)
        Distances from a piece between which tissue is around it.
    min_common_mm3 : float
        From so much tissue on that is lesion at both visits, its brightening is taken off.
    """

    seed_z: float = 5.0
    grow_z: float = 2.5
    peak_share: float = 0.3
    min_piece_mm3: float = 10.0
    min_change_mm3: float = 14.1
    bright: float = 0.5
    dark: float = 0.5
    least_odds: float = 0.01
    t2w_weight: float = 0.3
    visible_share: float = 0.5
    faded_share: float = 0.6
    gain: float = 0.5
    around_mm: tuple[float, float] = (2.0, 5.0)
    min_common_mm3: float = 500.0

    @property
    def clear_text(self) -> str:
        """The limits of :func:`clear_change` in words."""
        return (
            f"z of the matched FLAIR difference over {self.seed_z:g} somewhere in it, "
            f"{self.min_change_mm3:g} mm3 or more"
        )

    def text(self, lesions: str, *, t2w: bool) -> str:
        """The whole rule in words, with the name of the lesion model; ``t2w`` where both visits have one."""
        images = (
            f"FLAIR, and of the T2w with a weight of {self.t2w_weight:g} where both visits show it," if t2w else "FLAIR"
        )
        near, far = self.around_mm
        return (
            f"rule on the difference of the {images} with {lesions}: z of the matched difference, less what lesions "
            f"became brighter where {self.min_common_mm3:g} mm3 or more are lesion at both visits, over "
            f"{self.grow_z:g} everywhere and {self.seed_z:g} somewhere, cut off at {self.peak_share:g} of the peak; "
            f"intensity over {self.bright:g} deviations, at the other visit over {-self.dark:g} on average; of its "
            f"contrast to the tissue {near:g} to {far:g} mm around, the other scan's voxels leave "
            f"{self.visible_share:g} or more, and the other visit shows under {self.faded_share:g} of that, and less "
            f"by {self.gain:g} deviations; odds of lesion over {self.least_odds:g} in half of it, mean probability "
            f"higher than at the other visit and no lesion there; {self.min_piece_mm3:g} mm3 or more, and "
            f"{self.min_change_mm3:g} mm3 or more when its outline is completed"
        )


RULE = ChangeRule()


@dataclass(frozen=True, eq=False)
class ComparedScan:
    """One visit on the grid of the comparison, (X, Y, Z) each.

    Attributes
    ----------
    flair : Volume of float
        Of :func:`msrim.preprocess.match.match_intensities`.
    probability : Volume of float
        Of lesion.
    marked : Volume of bool
        Tissue that a network marks as lesion at this visit alone. No voxel is marked at both.
    resampled : Volume of float
        The FLAIR as the voxels of the other visit's scan sample it.
    t2w : Volume of float, optional
        Matched as well; 0 where either visit does not show it.
    """

    flair: Volume
    probability: Volume
    marked: Volume
    resampled: Volume
    t2w: Volume | None = None


@dataclass(frozen=True, eq=False)
class ChangedTissue:
    """Masks on one grid: lesion at either visit, new and vanished tissue, (X, Y, Z) bool each."""

    baseline: Volume
    followup: Volume
    new: Volume
    vanished: Volume


def decide_change(
    baseline: ComparedScan, followup: ComparedScan, *, brain: Volume, threshold: float, rule: ChangeRule = RULE
) -> ChangedTissue:
    """Decide by the rule of this module.

    Parameters
    ----------
    baseline, followup : ComparedScan
    brain : Volume of bool
        The brain at both visits.
    threshold : float
        Of the mean probability, from which on tissue that has not changed is lesion.
    rule : ChangeRule
    """
    inside = brain.data.astype(bool)
    before, after = baseline.probability.data, followup.probability.data
    common = inside & (np.minimum(before, after) >= threshold)
    lesion_share = np.minimum((before + after) / (2 * threshold), 1)

    def brighter(here: Volume, there: Volume, *, seen: np.ndarray) -> np.ndarray:
        dimmed = _dimmed(here, there, common & seen, lesion_share, rule)
        return difference_z(there, dimmed, brain=brain.like(seen)).data

    def z_of(here: ComparedScan, there: ComparedScan) -> np.ndarray:
        z = brighter(here.flair, there.flair, seen=inside)
        if here.t2w is None or there.t2w is None:
            return z
        seen = inside & (here.t2w.data != 0) & (there.t2w.data != 0)
        return _combined(z, brighter(here.t2w, there.t2w, seen=seen), seen, rule)

    z_new, z_vanished = z_of(followup, baseline), z_of(baseline, followup)
    new = _appeared(z_new, followup, baseline, inside & (before < threshold), rule)
    vanished = _appeared(z_vanished, baseline, followup, inside & (after < threshold), rule)
    ground = inside & (np.maximum(before, after) < threshold) & ~new & ~vanished
    new = _without_faded(new, followup, baseline, ground, rule)
    vanished = _without_faded(vanished, baseline, followup, ground, rule)
    marked_new, marked_vanished = (
        here.marked.data.astype(bool) & inside & (there.flair.data >= -rule.dark)
        for here, there in ((followup, baseline), (baseline, followup))
    )
    new, vanished = (
        _completed(new, marked_new & ~vanished, z_new, rule),
        _completed(vanished, marked_vanished & ~new, z_vanished, rule),
    )
    new, vanished = (_large(change, rule.min_change_mm3, brain.voxel_volume_mm3) for change in (new, vanished))
    lesion = inside & ((before + after) / 2 >= threshold)
    return changed_tissue(brain.like(lesion), new=brain.like(new), vanished=brain.like(vanished))


def clear_change(change: Volume, z: Volume, *, rule: ChangeRule = RULE) -> Volume:
    """Pieces of a network's change that the images show as clearly as the rule asks: seed_z somewhere, min_change_mm3.

    Examples
    --------
    >>> line = lambda *values: Volume(np.array([values, np.zeros(7)])[..., None], np.diag([1.0, 8.0, 1.0, 1.0]))
    >>> change, z = line(1, 1, 0, 1, 1, 0, 1), line(2, 6, 9, 4, 4, 0, 9)
    >>> clear_change(change.like(change.data > 0), z).data[0, :, 0].astype(int).tolist()
    [1, 1, 0, 0, 0, 0, 0]
    """
    large = _large(change.data.astype(bool), rule.min_change_mm3, change.voxel_volume_mm3)
    pieces = cc3d.connected_components(large, connectivity=26)
    kept = _are_clear(pieces, z.data, rule)
    return change.like(np.concatenate([[False], kept])[pieces])


def changed_tissue(lesion: Volume, *, new: Volume, vanished: Volume) -> ChangedTissue:
    """Both visits' lesions from the tissue that is lesion at both, and what is new and vanished.

    Examples
    --------
    >>> mask = lambda *values: Volume(np.array([[values]], bool), np.eye(4))
    >>> both = changed_tissue(mask(1, 1, 0, 0), new=mask(0, 0, 1, 0), vanished=mask(1, 0, 0, 0))
    >>> both.baseline.data.astype(int).ravel().tolist(), both.followup.data.astype(int).ravel().tolist()
    ([1, 1, 0, 0], [0, 1, 1, 0])
    """
    return ChangedTissue(
        baseline=lesion.like((lesion.data | vanished.data) & ~new.data),
        followup=lesion.like((lesion.data | new.data) & ~vanished.data),
        new=new,
        vanished=vanished,
    )


def difference_z(baseline: Volume, followup: Volume, *, brain: Volume) -> Volume:
    """Difference of two matched images in units of the noise at edges of the same steepness.

    Parameters
    ----------
    baseline, followup : Volume of float
    brain : Volume of bool

    Returns
    -------
    Volume of float32
        Follow-up minus baseline; 0 outside the brain. With the visits exchanged, exactly the negative.
    """
    inside = brain.data.astype(bool)
    sigma = SMOOTHING_MM / brain.spacing
    difference = ndimage.gaussian_filter(followup.data - baseline.data, sigma)
    # Anatomy has its edges at both visits; a lesion that comes or goes has its own at one, and is no excuse for itself.
    edge = np.minimum(*(ndimage.gaussian_gradient_magnitude(image.data, sigma) for image in (baseline, followup)))
    levels = np.quantile(edge[inside], np.linspace(0, 1, EDGE_LEVELS + 1))
    level = np.clip(np.searchsorted(levels, edge[inside], side="right") - 1, 0, EDGE_LEVELS - 1)
    size = np.abs(difference[inside])
    # The median of a normal variable's size is 0.6745 of its deviation; changes are too rare to move a median.
    noise = np.array([np.median(size[level == k]) / 0.6745 for k in range(EDGE_LEVELS)])
    noise = np.maximum.accumulate(np.maximum(noise, 1e-6))
    middles = (levels[1:] + levels[:-1]) / 2
    z = np.zeros(brain.shape, np.float32)
    z[inside] = difference[inside] / np.interp(edge[inside], middles, noise)
    return brain.like(z)


def _dimmed(image: Volume, other: Volume, common: np.ndarray, lesion_share: np.ndarray, rule: ChangeRule) -> Volume:
    """An image less what its lesions are brighter than the other visit's, in the median of what is lesion at both."""
    if np.count_nonzero(common) * image.voxel_volume_mm3 < rule.min_common_mm3:
        return image
    brighter = float(np.median(image.data[common] - other.data[common]))
    return image.like(image.data - max(brighter, 0) * lesion_share)


def _combined(flair: np.ndarray, t2w: np.ndarray, seen: np.ndarray, rule: ChangeRule) -> np.ndarray:
    """One z from that of the FLAIR and, where it is seen, of the T2w; as if their noise were independent."""
    return np.where(seen, (flair + rule.t2w_weight * t2w) / np.hypot(1, rule.t2w_weight), flair)


def _completed(sure: np.ndarray, marked: np.ndarray, z: np.ndarray, rule: ChangeRule) -> np.ndarray:
    """Sure tissue, and tissue connected to it that a network marked and the images show as clearly."""
    parts = cc3d.connected_components(sure | (marked & (z >= rule.grow_z)), connectivity=26)
    peaks = ndimage.maximum(np.where(sure, z, 0), parts, np.arange(int(parts.max()) + 1))
    peaks[0] = 0
    # A part without anything sure has a peak of 0.
    return (peaks[parts] > 0) & (sure | (z >= rule.peak_share * peaks[parts]))


def _large(mask: np.ndarray, least_mm3: float, voxel_mm3: float) -> np.ndarray:
    """Without connected pieces of less than ``least_mm3``: (X, Y, Z) bool."""
    return cc3d.dust(mask, threshold=least_mm3 / voxel_mm3, connectivity=26)


def _are_clear(pieces: np.ndarray, z: np.ndarray, rule: ChangeRule) -> np.ndarray:
    """Which of the pieces 1..n reach seed_z somewhere: (n,) bool."""
    return ndimage.maximum(z, pieces, np.arange(1, int(pieces.max(initial=0)) + 1)) >= rule.seed_z


def _appeared(
    z: np.ndarray, here: ComparedScan, there: ComparedScan, inside: np.ndarray, rule: ChangeRule
) -> np.ndarray:
    """Pieces that are brighter here than at the other visit, as bright as lesions, and perhaps lesions."""
    pieces = cc3d.connected_components(inside & (z >= rule.grow_z) & (here.flair.data >= rule.bright), connectivity=26)
    peaks = ndimage.maximum(z, pieces, np.arange(int(pieces.max(initial=0)) + 1))
    near_peak = (pieces > 0) & (z >= rule.peak_share * peaks[pieces])
    large = _large(near_peak, rule.min_piece_mm3, here.flair.voxel_volume_mm3)
    pieces = cc3d.connected_components(large, connectivity=26)
    count = int(pieces.max(initial=0))
    if not count:
        return np.zeros(inside.shape, bool)
    numbers = np.arange(1, count + 1)
    kept = _are_clear(pieces, z, rule)
    likely = rule.least_odds / (1 + rule.least_odds)
    kept &= ndimage.median(here.probability.data, pieces, numbers) >= likely
    own, other, brightness_there = (
        ndimage.mean(image.data.astype(np.float64), pieces, numbers)
        for image in (here.probability, there.probability, there.flair)
    )
    kept &= (own > other) & (brightness_there >= -rule.dark)
    return np.concatenate([[False], kept])[pieces]


def _without_faded(
    change: np.ndarray, here: ComparedScan, there: ComparedScan, ground: np.ndarray, rule: ChangeRule
) -> np.ndarray:
    """Without pieces that the other scan does not show for want of resolution, or shows nearly as well."""
    spacing, (near, far) = here.flair.spacing, rule.around_mm
    images = here.flair.data, here.resampled.data, there.flair.data
    pieces = cc3d.connected_components(change, connectivity=26)
    kept = np.ones(int(pieces.max(initial=0)) + 1, bool)
    for number, box in bounding_boxes(pieces, margin=np.ceil(far / spacing).astype(int)).items():
        inside = pieces[box] == number
        distance = ndimage.distance_transform_edt(~inside, sampling=spacing)
        around = ground[box] & (distance >= near) & (distance <= far)
        if not around.any():
            continue
        own, expected, seen = (image[box][inside].mean() - np.median(image[box][around]) for image in images)
        shown = expected >= rule.visible_share * own and seen < rule.faded_share * expected
        kept[number] = shown and own - seen >= rule.gain
    kept[0] = False
    return kept[pieces]
