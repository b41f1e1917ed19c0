"""Network findings that cannot be lesions, by where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import numpy as np

from msrim.image import Volume, labels_on_grid
from msrim.labels import HeadLabel

# Of a lesion, what may lie in the ventricles: CSF that flows is bright on FLAIR. Of 451 lesions of 10 mm3 or more that
# experts marked in thirteen patients one exceeds it, with 15 mm3; head labels at the edge of a lesion are not exact.
MOST_IN_VENTRICLES = 2 / 3
# Cortex is brighter than white matter, on some scans nearly as bright as lesions. What lies in it for more than this
# share is a lesion if it is brighter than cortex is: by so many deviations of the cortex's own brightness.
MOST_IN_CORTEX, CORTEX_DEVIATIONS = 0.5, 2.0


@dataclass(frozen=True, eq=False)
class Seen:
    """One of several visits: what was marked there, and what a mark is judged by.

    Attributes
    ----------
    marked : Volume of bool
        On the grid that all visits share.
    flair : Volume of float
        The visit's own scan, without its bias field.
    brain : Volume of bool
        On the same grid.
    labels : Volume of int
        HEAD_LABELS on the same grid.
    scan_from_shared : (4, 4) float
        From the world of ``marked`` to that of the scan.
    """

    marked: Volume
    flair: Volume
    brain: Volume
    labels: Volume
    scan_from_shared: np.ndarray


def plausible_lesions(mask: Volume, *, flair: Volume, brain: Volume, labels: Volume, thick_mm: float) -> Volume:
    """Remove what lies in the ventricles, and what thin or thick slices show of normal tissue.

    In thin slices this is cortex, for what lies there and is no brighter than the rest of it. In thick ones, where the
    cortex cannot be told from what lies beside it, it is what keeps to the brain's first or last slice: half brain and
    half what lies beyond, bright by partial volume at the vertex and under the temporal lobes. A lesion that goes on in
    the next slice stays whole.

    Parameters
    ----------
    mask : Volume of bool
        On the grid of the scan.
    flair : Volume of float
        On the same grid, without its bias field.
    brain : Volume of bool
        On the same grid.
    labels : Volume of int
        HEAD_LABELS on the same grid.
    thick_mm : float
        From this slice thickness on slices are thick.

    Examples
    --------
    >>> brain = Volume(np.ones((1, 1, 6), bool), np.diag([1, 1, 6, 1]))
    >>> lesions = brain.like(np.array([[[True, False, True, False, True, True]]]))
    >>> labels = brain.like(np.array([[[5, 5, 2, 5, 5, 5]]]))
    >>> flair = brain.like(np.ones(brain.shape))
    >>> found = plausible_lesions(lesions, flair=flair, brain=brain, labels=labels, thick_mm=5)
    >>> found.data.astype(int).ravel().tolist()
    [0, 0, 0, 0, 1, 1]
    """
    parts = cc3d.connected_components(mask.data.astype(np.uint8), connectivity=26)
    count = int(parts.max()) + 1
    sizes = np.bincount(parts.ravel(), minlength=count)
    inside = np.bincount(parts[labels.data == HeadLabel.VENTRICLES], minlength=count)
    kept = inside <= MOST_IN_VENTRICLES * sizes
    axis = int(np.argmax(mask.spacing))
    slices = np.flatnonzero(brain.data.any(axis=tuple({0, 1, 2} - {axis})))
    if mask.spacing[axis] < thick_mm:
        kept &= ~_is_cortex(parts, sizes, flair.data, cortex=labels.data == HeadLabel.CORTEX)
    elif slices.size:
        kept &= np.isin(np.arange(count), np.take(parts, np.arange(slices[0] + 1, slices[-1]), axis=axis))
    kept[0] = False
    return mask.like(kept[parts])


def _is_cortex(parts: np.ndarray, sizes: np.ndarray, flair: np.ndarray, *, cortex: np.ndarray) -> np.ndarray:
    """By number, whether a part lies in the cortex and is no brighter: (N,) bool."""
    normal = flair[cortex & (parts == 0)]
    if not normal.size:
        return np.zeros(sizes.size, bool)
    middle = np.median(normal)
    limit = middle + CORTEX_DEVIATIONS * 1.4826 * np.median(np.abs(normal - middle))
    share = np.bincount(parts[cortex], minlength=sizes.size)
    brightness = np.bincount(parts.ravel(), weights=flair.ravel(), minlength=sizes.size)
    return (share > MOST_IN_CORTEX * sizes) & (brightness < limit * sizes)


def implausible_everywhere(visits: Sequence[Seen], *, thick_mm: float) -> Volume:
    """Tissue that :func:`plausible_lesions` removes at every visit that it is marked at.

    Marks of the visits that touch are judged together: were a mark removed at one visit and kept at another, it would
    look new or vanished. Tissue that one visit shows as a lesion stays at all of them, in any order of the visits.

    Parameters
    ----------
    visits : sequence of Seen
    thick_mm : float
        As there.

    Returns
    -------
    Volume of bool
        On the visits' shared grid.
    """
    grid = visits[0].marked
    marked = np.logical_or.reduce([visit.marked.data for visit in visits])
    parts = cc3d.connected_components(marked.astype(np.uint8), connectivity=26)
    kept = np.zeros(int(parts.max()) + 1, bool)
    for visit in visits:
        own = labels_on_grid(
            grid.like(np.where(visit.marked.data, parts, 0)), visit.brain, target_from_source=visit.scan_from_shared
        )
        plausible = plausible_lesions(
            own.like(own.data > 0), flair=visit.flair, brain=visit.brain, labels=visit.labels, thick_mm=thick_mm
        )
        kept[np.unique(own.data[plausible.data])] = True
    kept[0] = True
    return grid.like(~kept[parts])
