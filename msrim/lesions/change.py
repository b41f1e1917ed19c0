"""What has changed between two visits: a rule finds the changes, a network draws their outlines.

Tissue is *new* when all of this holds in a connected piece of MIN_PIECE_MM3 or more:

1. the matched FLAIR is brighter at follow-up than at baseline by GROW_Z noise levels in every voxel, and by SEED_Z in
   one; a piece ends where the difference falls below PEAK_SHARE of its largest, which is where a blurred lesion has its
   edge. The noise is that of this pair of scans, measured apart for voxels on flat ground and on
   edges of each steepness, because an edge that is resampled or half a voxel off differs without any change. If the
   lesions of both visits are brighter at follow-up as a whole, in the median of their voxels, so much of the difference
   is taken off in lesions: blurring and contrast do that, and growth, which is at a lesion's rim, does not. Where both
   visits have a T2w, its difference, in its own noise levels, joins with the weight T2W_WEIGHT: lesions are bright on
   it too, and what flow and noise do to a FLAIR is not seen there;
2. at follow-up it is as bright as lesions are: BRIGHT deviations above the brain's mean in every voxel;
3. the lesion network does not exclude it: in half of the piece the odds at follow-up are LEAST_ODDS or more, the mean
   probability is higher than at baseline, and no lesion is found there at baseline: tissue that was lesion and got
   brighter is not new;
4. it was tissue at baseline, on average no darker than DARK deviations below the brain's mean. Where a dark sulcus or
   ventricle gives way to tissue, the brain has moved or changed its shape;
5. the baseline's scan would have shown it. Sampled on that scan's voxels, the follow-up keeps VISIBLE_SHARE of what it
   is brighter there than around it, and the baseline shows less than FADED_SHARE of that. A small lesion between two
   thick slices fades without being gone.

Such a piece is the sure part of a change: 2 and 3 leave out what a rater's outline holds, tissue that is not yet bright
or that was already taken for lesion. What a network trained on changes (:mod:`msrim.models.networks.coactseg`) calls
new and is connected to the piece is therefore new as well where 1 and, in every voxel, 4 hold; what it calls new
elsewhere is not.

*Gone* tissue is the same with the visits exchanged. All other tissue is lesion at both visits or at neither: where the
mean of both probabilities says so. A lesion therefore only changes where the images show that it did, and swapping the
visits swaps new and gone exactly.

The numbers were chosen on a pair synthesised from one marked visit in 3 mm slices, with lesions of other people painted
in; PEAK_SHARE, SEED_Z, LEAST_ODDS, DARK, T2W_WEIGHT and FADED_SHARE on real pairs as well (two patients, both ways
round).
tests/benchmarks/no_change.py counts what they take for new where nothing is.
"""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from scipy import ndimage

from msrim.image import Volume

SEED_Z = 5.0
GROW_Z = 2.5
PEAK_SHARE = 0.3
BRIGHT = 0.5
DARK = 0.5
LEAST_ODDS = 0.01
T2W_WEIGHT = 0.3
VISIBLE_SHARE, FADED_SHARE = 0.5, 0.7
# What a piece is compared with: what is so far away from it, and neither lesion nor change.
AROUND_MM = (2.0, 5.0)
MIN_PIECE_MM3 = 10.0
# Half of a small lesion's radius: averages the noise of neighbouring voxels and keeps the lesion.
SMOOTHING_MM = 0.8
EDGE_LEVELS = 24
# Less tissue that is lesion at both visits than this tells nothing about how bright lesions came out.
MIN_COMMON_MM3 = 500.0
CLEAR = f"z of the matched FLAIR difference over {SEED_Z:g} somewhere in it, {MIN_PIECE_MM3:g} mm3 or more"
RULE = (
    f"z of the matched difference, less what all lesions became brighter, over {GROW_Z:g} everywhere and "
    f"{SEED_Z:g} somewhere, cut off at {PEAK_SHARE:g} of the peak; intensity over {BRIGHT:g} deviations, at the other "
    f"visit over {-DARK:g} on average and under {FADED_SHARE:g} of what its voxels would show; odds of lesion over "
    f"{LEAST_ODDS:g} in half of it, mean probability higher than at the other visit and no lesion there; "
    f"{MIN_PIECE_MM3:g} mm3 or more"
)


@dataclass(frozen=True, eq=False)
class ChangedTissue:
    """Masks on one grid: lesion at either visit, and what is new and gone, (X, Y, Z) bool each."""

    baseline: Volume
    followup: Volume
    new: Volume
    gone: Volume


def decide_change(
    baseline: Volume,
    followup: Volume,
    *,
    brain: Volume,
    probabilities: tuple[Volume, Volume],
    threshold: float,
    claims: tuple[Volume, Volume],
    sampled: tuple[Volume, Volume] | None = None,
    t2w: tuple[Volume, Volume] | None = None,
) -> ChangedTissue:
    """Decide by the rule of this module.

    Parameters
    ----------
    baseline, followup : Volume of float
        FLAIRs, of :func:`msrim.preprocess.match.match_intensities`.
    brain : Volume of bool
        The brain at both visits.
    probabilities : (Volume, Volume)
        Probability of lesion at baseline and at follow-up.
    threshold : float
        Of the mean probability, from which on tissue that has not changed is lesion.
    claims : (Volume, Volume) of bool
        What a network calls gone and new; no voxel is both.
    sampled : (Volume, Volume) of float, optional
        The baseline as the follow-up's voxels sample it, and the follow-up as the baseline's do; if not given, as they
        are.
    t2w : (Volume, Volume) of float, optional
        The same of the T2w; 0 where either visit does not show it.
    """
    before, after = (volume.data for volume in probabilities)
    inside = brain.data.astype(bool)
    common = inside & (np.minimum(before, after) >= threshold)
    lesion_share = np.minimum((before + after) / (2 * threshold), 1)

    def brighter(one: Volume, other: Volume, *, seen: np.ndarray) -> np.ndarray:
        dimmed = _dimmed(other, one, common & seen, lesion_share)
        return difference_z(one, dimmed, brain=brain.like(seen)).data

    z_new, z_gone = brighter(baseline, followup, seen=inside), brighter(followup, baseline, seen=inside)
    if t2w is not None:
        seen = inside & (t2w[0].data != 0) & (t2w[1].data != 0)
        z_new = _joined(z_new, brighter(*t2w, seen=seen), seen)
        z_gone = _joined(z_gone, brighter(*t2w[::-1], seen=seen), seen)
    likely = LEAST_ODDS / (1 + LEAST_ODDS)
    limits = {"likely": likely, "piece_voxels": MIN_PIECE_MM3 / brain.voxel_volume_mm3}
    images = followup.data, baseline.data
    shown = images[::-1] if sampled is None else (sampled[0].data, sampled[1].data)
    new = _appeared(z_new, images, (after, before), inside & (before < threshold), **limits)
    gone = _appeared(z_gone, images[::-1], (before, after), inside & (after < threshold), **limits)
    ground = inside & (np.maximum(before, after) < threshold) & ~new & ~gone
    new = _without_faded(new, (followup.data, shown[1], baseline.data), ground, spacing=brain.spacing)
    gone = _without_faded(gone, (baseline.data, shown[0], followup.data), ground, spacing=brain.spacing)
    claimed_gone, claimed_new = (
        claim.data.astype(bool) & inside & (image.data >= -DARK)
        for claim, image in zip(claims, (followup, baseline), strict=True)
    )
    new, gone = _completed(new, claimed_new & ~gone, z_new), _completed(gone, claimed_gone & ~new, z_gone)
    lesion = inside & ((before + after) / 2 >= threshold)
    return changed_tissue(brain.like(lesion), new=brain.like(new), gone=brain.like(gone))


def clear_change(change: Volume, z: Volume) -> Volume:
    """Pieces of a network's change that the images show as clearly as the rule asks: SEED_Z somewhere, MIN_PIECE_MM3.

    Examples
    --------
    >>> line = lambda *values: Volume(np.array([values, np.zeros(7)])[..., None], np.diag([1.0, 6.0, 1.0, 1.0]))
    >>> change, z = line(1, 1, 0, 1, 1, 0, 1), line(2, 6, 9, 4, 4, 0, 9)
    >>> clear_change(change.like(change.data > 0), z).data[0, :, 0].astype(int).tolist()
    [1, 1, 0, 0, 0, 0, 0]
    """
    pieces = cc3d.connected_components(change.data.astype(bool), connectivity=26)
    kept = _are_clear(pieces, z.data, MIN_PIECE_MM3 / change.voxel_volume_mm3)
    return change.like(np.concatenate([[False], kept])[pieces])


def changed_tissue(lesion: Volume, *, new: Volume, gone: Volume) -> ChangedTissue:
    """Both visits' lesions from the tissue that is lesion at both, and what is new and gone.

    Examples
    --------
    >>> mask = lambda *values: Volume(np.array([[values]], bool), np.eye(4))
    >>> both = changed_tissue(mask(1, 1, 0, 0), new=mask(0, 0, 1, 0), gone=mask(1, 0, 0, 0))
    >>> both.baseline.data.astype(int).ravel().tolist(), both.followup.data.astype(int).ravel().tolist()
    ([1, 1, 0, 0], [0, 1, 1, 0])
    """
    return ChangedTissue(
        baseline=lesion.like((lesion.data | gone.data) & ~new.data),
        followup=lesion.like((lesion.data | new.data) & ~gone.data),
        new=new,
        gone=gone,
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


def _dimmed(image: Volume, other: Volume, common: np.ndarray, lesion_share: np.ndarray) -> Volume:
    """An image less what its lesions are brighter than the other visit's, in the median of what is lesion at both."""
    if np.count_nonzero(common) * image.voxel_volume_mm3 < MIN_COMMON_MM3:
        return image
    brighter = float(np.median(image.data[common] - other.data[common]))
    return image.like(image.data - max(brighter, 0) * lesion_share)


def _joined(flair: np.ndarray, t2w: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """One z from that of the FLAIR and, where it is seen, of the T2w; as if their noise were independent."""
    return np.where(seen, (flair + T2W_WEIGHT * t2w) / np.hypot(1, T2W_WEIGHT), flair)


def _completed(sure: np.ndarray, claimed: np.ndarray, z: np.ndarray) -> np.ndarray:
    """What is sure, and what is claimed in connection with it where the images show it as clearly."""
    parts = cc3d.connected_components(sure | (claimed & (z >= GROW_Z)), connectivity=26)
    peaks = ndimage.maximum(np.where(sure, z, 0), parts, np.arange(int(parts.max()) + 1))
    peaks[0] = 0
    # A part without anything sure has a peak of 0.
    return (peaks[parts] > 0) & (sure | (z >= PEAK_SHARE * peaks[parts]))


def _are_clear(pieces: np.ndarray, z: np.ndarray, piece_voxels: float) -> np.ndarray:
    """Which of the pieces 1..n are large enough and reach SEED_Z somewhere: (n,) bool."""
    count = int(pieces.max(initial=0))
    large = np.bincount(pieces.ravel(), minlength=count + 1)[1:] >= piece_voxels
    return large & (ndimage.maximum(z, pieces, np.arange(1, count + 1)) >= SEED_Z)


def _appeared(
    z: np.ndarray,
    images: tuple[np.ndarray, np.ndarray],
    probabilities: tuple[np.ndarray, np.ndarray],
    inside: np.ndarray,
    *,
    likely: float,
    piece_voxels: float,
) -> np.ndarray:
    """Pieces that are brighter than at the other visit, as bright as lesions, and perhaps lesions: this visit first."""
    pieces = cc3d.connected_components(inside & (z >= GROW_Z) & (images[0] >= BRIGHT), connectivity=26)
    peaks = ndimage.maximum(z, pieces, np.arange(int(pieces.max(initial=0)) + 1))
    pieces = cc3d.connected_components((pieces > 0) & (z >= PEAK_SHARE * peaks[pieces]), connectivity=26)
    count = int(pieces.max(initial=0))
    if not count:
        return np.zeros(inside.shape, bool)
    numbers = np.arange(1, count + 1)
    kept = _are_clear(pieces, z, piece_voxels)
    kept &= ndimage.median(probabilities[0], pieces, numbers) >= likely
    here, there, brightness_there = (
        ndimage.mean(values.astype(np.float64), pieces, numbers) for values in (*probabilities, images[1])
    )
    kept &= (here > there) & (brightness_there >= -DARK)
    return np.concatenate([[False], kept])[pieces]


def _without_faded(
    change: np.ndarray, images: tuple[np.ndarray, np.ndarray, np.ndarray], ground: np.ndarray, *, spacing: np.ndarray
) -> np.ndarray:
    """Without pieces that the other scan does not show for want of resolution, or shows nearly as well as it can.

    ``images`` are this visit's, the same on the other scan's voxels, and the other visit's.
    """
    pieces = cc3d.connected_components(change, connectivity=26)
    kept = np.ones(int(pieces.max(initial=0)) + 1, bool)
    margin = np.ceil(AROUND_MM[1] / spacing).astype(int)
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        box = tuple(slice(max(s.start - m, 0), s.stop + m) for s, m in zip(box, margin, strict=True))
        inside = pieces[box] == number
        distance = ndimage.distance_transform_edt(~inside, sampling=spacing)
        around = ground[box] & (distance >= AROUND_MM[0]) & (distance <= AROUND_MM[1])
        if not around.any():
            continue
        own, expected, seen = (image[box][inside].mean() - np.median(image[box][around]) for image in images)
        kept[number] = expected >= VISIBLE_SHARE * own and seen < FADED_SHARE * expected
    kept[0] = False
    return kept[pieces]
