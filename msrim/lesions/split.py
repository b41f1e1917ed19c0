"""Separate lesions: connected components, and confluent ones cut where several centres, or waists, are seen."""

from __future__ import annotations

from typing import Final

import cc3d
import edt
import numpy as np
from scipy import ndimage
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from msrim.image import Volume, bounding_boxes, same_grid

CONNECTIVITY: Final = 26
# The spheres are 10 mm wide: centres closer than their radius cannot be separated in their union.
MIN_PEAK_DISTANCE_MM = 5.0
SPHERE_RADIUS_MM = 5.0
# Levels of the probability at which the split is made and averaged, which makes it robust.
LEVELS = (0.3, 0.5, 0.7)
# Of probability and of depth: a voxel's noise.
SMOOTHING_MM = 0.7
# Decimals of the depth in radii, 0.5 um. Equally deep places of a symmetric lesion differ by the processor's rounding,
# which must not choose the centre among them, nor with it whether two centres lie far enough apart.
DEPTH_DECIMALS = 4
# How far the depth must fall between two centres, in radii; shallower waists are noise of the surface.
MIN_PROMINENCE = 0.03
# The same in mm of the depth within the mask itself, and how much more for each mm of the coarsest voxel side, whose
# steps the surface has. Of lesions of 1 mm voxels merged on purpose 0.35 mm cuts single ones in two, 0.4 mm none, and
# 0.75 mm hardly any at all (8 to 24 cases; tests/benchmarks/split.py has the command).
MIN_WAIST_MM, WAIST_MM_PER_MM, SHAPE_SMOOTHING_MM = 0.15, 0.25, 1.0
# A ball of 3 mm, the smallest lesion that counts in MS (Filippi et al. 2016, doi:10.1016/S1474-4422(15)00393-2).
MIN_PART_MM3 = np.pi / 6 * 3.0**3


def label_lesions(mask: np.ndarray) -> np.ndarray:
    """Number the 26-connected components of a mask, the largest first.

    Parameters
    ----------
    mask : (X, Y, Z) bool

    Returns
    -------
    (X, Y, Z) int32
        0 outside the mask, 1..n inside.

    Examples
    --------
    >>> label_lesions(np.array([[[1, 0, 1, 1]]], dtype=bool)).tolist()
    [[[2, 0, 1, 1]]]
    """
    return largest_first(cc3d.connected_components(mask.astype(np.uint8), connectivity=CONNECTIVITY))


def split_confluent(mask: Volume, *, sphere_probability: Volume | None) -> Volume:
    """Number the lesions of a mask, those grown into one another apart.

    Every connected component is cut by a watershed on the depth within the sphere head's spheres, one part for each of
    its peaks; where no model knows centres, on the depth within the component itself. Peaks lie at least 5 mm apart
    whatever the voxels' shape; a component with one peak or none stays whole, and a part smaller than a 3 mm ball, or
    than two voxels, goes to its neighbours. The mask itself never changes.

    Parameters
    ----------
    mask : Volume of bool
    sphere_probability : Volume of float in 0..1, or None
        Probability of lying within 5 mm of a lesion's centre; None, or zero everywhere, where no model knows it.

    Returns
    -------
    Volume of int32
        1..n by descending volume; every label is one 26-connected component.

    Raises
    ------
    ValueError
        The two grids differ.

    Notes
    -----
    Zhang et al. 2021 (ALL-Net), Discussion: the probability map of spheres "can be used to pick up peak points for
    identifying individual lesions".
    """
    labels = label_lesions(mask.data)
    if sphere_probability is not None and not same_grid(mask, sphere_probability):
        raise ValueError(
            f"lesion mask {mask.shape} and sphere probability {sphere_probability.shape} lie on different grids"
        )
    if sphere_probability is not None and not sphere_probability.data.any():
        sphere_probability = None
    spacing = mask.spacing
    min_voxels = max(2, round(MIN_PART_MM3 / mask.voxel_volume_mm3))
    reach = np.ceil((SPHERE_RADIUS_MM + 3 * SMOOTHING_MM) / spacing).astype(int)
    parts = labels.copy()
    used = labels.max()
    # The margin lets smoothing see the probability around the lesion, so that its edge isn't taken for a slope.
    for lesion, box in bounding_boxes(labels, margin=reach).items():
        component = labels[box] == lesion
        if np.count_nonzero(component) < 2 * min_voxels:
            continue
        if sphere_probability is None:
            height = _depth_of_shape(component, spacing=spacing)
            prominence = (MIN_WAIST_MM + WAIST_MM_PER_MM * max(spacing)) / SPHERE_RADIUS_MM
        else:
            height, prominence = _depth(sphere_probability.data[box], spacing=spacing), MIN_PROMINENCE
        cut = _cut(component, height, spacing=spacing, min_voxels=min_voxels, prominence=prominence)
        parts[box][component] = used + cut[component]
        used += cut.max()
    return mask.like(largest_first(parts))


def _cut(
    component: np.ndarray, height: np.ndarray, *, spacing: np.ndarray, min_voxels: int, prominence: float
) -> np.ndarray:
    """Label the parts of one component; without two peaks it is one part."""
    peaks = _peaks(component, height, spacing=spacing, prominence=prominence)
    while len(peaks) > 1:
        seeds = np.zeros(component.shape, dtype=np.int32)
        seeds[tuple(np.array(peaks).T)] = np.arange(1, len(peaks) + 1)
        parts = watershed(-height, seeds, connectivity=3, mask=component)
        sizes = np.bincount(parts[component])[1:]
        if sizes.min() >= min_voxels:
            return parts
        # Flooding again without the smallest part's peak hands its voxels to its neighbours, all parts still connected.
        del peaks[sizes.argmin()]
    return component.astype(np.int32)


def _depth(probability: np.ndarray, *, spacing: np.ndarray) -> np.ndarray:
    """Depth within the spheres in radii, the mean over LEVELS.

    Where spheres overlap the probability is as high between their centres as at them, but the union has a waist.
    """
    smooth = ndimage.gaussian_filter(probability.astype(np.float32), SMOOTHING_MM / spacing, mode="nearest")
    depth = np.mean([edt.edt(smooth >= level, anisotropy=tuple(spacing)) for level in LEVELS], axis=0)
    # A little of the probability itself chooses among equally deep places.
    height = depth / SPHERE_RADIUS_MM + 0.1 * smooth
    return ndimage.gaussian_filter(height, SMOOTHING_MM / spacing, mode="nearest")


def _depth_of_shape(component: np.ndarray, *, spacing: np.ndarray) -> np.ndarray:
    """Depth within a component in the spheres' radii, smoothed; beyond the array is outside."""
    depth = edt.edt(np.pad(component, 1), anisotropy=tuple(spacing))[1:-1, 1:-1, 1:-1]
    return ndimage.gaussian_filter(depth.astype(np.float32), SHAPE_SMOOTHING_MM / spacing) / SPHERE_RADIUS_MM


def _peaks(component: np.ndarray, height: np.ndarray, *, spacing: np.ndarray, prominence: float) -> list[np.ndarray]:
    """Voxels of the prominent tops within a component, the highest first; of two close ones only the higher.

    The centre of a top is the middle of its equally high voxels. The landscape around the component takes part, so that
    the slope of a neighbour's peak isn't taken for one.
    """
    # h-maxima as plateaus of the reconstruction: two tops of equal height with a shallow dip between them are one.
    height = np.round(height, DEPTH_DECIMALS)
    plateaus = cc3d.connected_components(
        local_maxima(reconstruction(height - prominence, height)).astype(np.uint8), connectivity=CONNECTIVITY
    )
    highest = ndimage.maximum(height, plateaus, np.arange(plateaus.max() + 1))
    voxels = np.argwhere((plateaus > 0) & (height == highest[plateaus]))
    numbers = plateaus[tuple(voxels.T)]
    peaks: list[np.ndarray] = []
    centres: list[np.ndarray] = []
    for number in sorted(set(numbers), key=lambda number: -highest[number]):
        equal = voxels[numbers == number]
        centre = equal.mean(axis=0)
        top = equal[np.linalg.norm((equal - centre) * spacing, axis=1).argmin()]
        near = any(np.linalg.norm((centre - other) * spacing) < MIN_PEAK_DISTANCE_MM for other in centres)
        if component[tuple(top)] and not near:
            centres.append(centre)
            peaks.append(top)
    return peaks


def largest_first(labels: np.ndarray, *, min_voxels: float = 1) -> np.ndarray:
    """The same parts numbered 1..n by descending size, 0 staying 0: int32.

    Parameters
    ----------
    labels : array of int
    min_voxels : float
        Smaller parts become 0.

    Examples
    --------
    >>> largest_first(np.array([7, 0, 3, 3])).tolist(), largest_first(np.array([7, 0, 3, 3]), min_voxels=2).tolist()
    ([2, 0, 1, 1], [0, 0, 1, 1])
    """
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes >= max(min_voxels, 1))]
    rank = np.zeros(sizes.size, dtype=np.int32)
    rank[order] = np.arange(1, order.size + 1)
    return rank[labels]
