"""What a network marks and no lesion can be, by where it lies."""

from __future__ import annotations

import cc3d
import numpy as np

from msrim.image import Volume
from msrim.labels import HeadLabel

# Of a lesion, what may lie in the ventricles: CSF that flows is bright on FLAIR. Of 451 lesions of 10 mm3 or more that
# experts marked in thirteen patients one exceeds it, with 15 mm3; head labels at the edge of a lesion are not exact.
MOST_IN_VENTRICLES = 2 / 3


def plausible_lesions(mask: Volume, *, brain: Volume, labels: Volume, thick_mm: float) -> Volume:
    """Remove what lies in the ventricles, and what lies wholly in the brain's first or last slice if slices are thick.

    Such a slice is half brain and half what lies beyond: bright by partial volume at the vertex and under the temporal
    lobes. A lesion that goes on in the next slice stays whole.

    Parameters
    ----------
    mask, brain : Volume of bool
        On the grid of the scan.
    labels : Volume of int
        HEAD_LABELS on the same grid.
    thick_mm : float
        From this slice thickness on slices are thick.

    Examples
    --------
    >>> brain = Volume(np.ones((1, 1, 6), bool), np.diag([1, 1, 6, 1]))
    >>> lesions = brain.like(np.array([[[True, False, True, False, True, True]]]))
    >>> labels = brain.like(np.array([[[5, 5, 2, 5, 5, 5]]]))
    >>> plausible_lesions(lesions, brain=brain, labels=labels, thick_mm=5).data.astype(int).ravel().tolist()
    [0, 0, 0, 0, 1, 1]
    """
    parts = cc3d.connected_components(mask.data.astype(np.uint8), connectivity=26)
    count = int(parts.max()) + 1
    inside = np.bincount(parts[labels.data == HeadLabel.VENTRICLES], minlength=count)
    kept = inside <= MOST_IN_VENTRICLES * np.bincount(parts.ravel(), minlength=count)
    axis = int(np.argmax(mask.spacing))
    slices = np.flatnonzero(brain.data.any(axis=tuple({0, 1, 2} - {axis})))
    if mask.spacing[axis] >= thick_mm and slices.size:
        kept &= np.isin(np.arange(count), np.take(parts, np.arange(slices[0] + 1, slices[-1]), axis=axis))
    kept[0] = False
    return mask.like(kept[parts])
