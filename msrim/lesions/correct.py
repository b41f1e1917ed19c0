"""Manual corrections of one visit's lesions, brought into the comparison of two.

A comparison takes the lesions of both visits together, so that unchanged tissue has one outline. A correction only
adds and removes its own voxels: untouched lesions keep their outline and their change.
"""

from __future__ import annotations

import cc3d
import numpy as np
from scipy import ndimage

from msrim.image import Volume
from msrim.lesions.change import ChangedTissue

# The corrected mask, the tissue added to the one that was found, and the tissue removed: shares of voxels, 0 to 1.
Given = tuple[Volume, Volume, Volume]


def with_corrections(tissue: ChangedTissue, *, baseline: Given | None, followup: Given | None) -> ChangedTissue:
    """Add to each visit's lesions the tissue that was added by hand, and remove the tissue that was removed.

    Parameters
    ----------
    tissue : ChangedTissue
    baseline, followup : (Volume, Volume, Volume) of float or None
        On its grid; None for a visit without correction.

    Returns
    -------
    ChangedTissue
        Of the voxels of a correction, those that are lesion at one visit alone are new or vanished.

    Examples
    --------
    >>> line = lambda *values: Volume(np.array([[values]], np.float32), np.eye(4))
    >>> found = line(1, 1, 0, 0, 1).like(np.array([[[True, True, False, False, True]]]))
    >>> nothing = found.like(np.zeros((1, 1, 5), bool))
    >>> given = line(0, 0, 0, 1, 1), line(0, 0, 0, 1, 0), line(1, 1, 0, 0, 0)
    >>> after = with_corrections(ChangedTissue(found, found, nothing, nothing), baseline=None, followup=given)
    >>> [mask.data.astype(int).ravel().tolist() for mask in (after.followup, after.new, after.vanished)]
    [[0, 0, 0, 1, 1], [0, 0, 0, 1, 0], [1, 1, 0, 0, 0]]
    """
    before, touched_before = _corrected(tissue.baseline, baseline)
    after, touched_after = _corrected(tissue.followup, followup)
    touched = touched_before | touched_after
    new = np.where(touched, after & ~before, tissue.new.data & after)
    vanished = np.where(touched, before & ~after, tissue.vanished.data & before)
    like = tissue.baseline.like
    return ChangedTissue(like(before), like(after), like(new), like(vanished))


def _corrected(lesion: Volume, given: Given | None) -> tuple[np.ndarray, np.ndarray]:
    """A visit's lesions with its correction, and where the two differ: (X, Y, Z) bool each."""
    found = lesion.data.astype(bool)
    if given is None:
        return found, np.zeros(found.shape, bool)
    mask, added, taken = (share.data for share in given)
    # Removed tissue reaches to the next voxel of the visit's own grid, unless the corrected mask is there.
    lost = (taken > 0) & (mask <= 0.5)
    after = (found & ~lost) | (added > 0.5)
    # Outlines are not the same voxel for voxel: of a lesion that was removed, no rim is left over.
    pieces = cc3d.connected_components(after, connectivity=26)
    beside = np.unique(pieces[ndimage.binary_dilation(lost, np.ones((3, 3, 3))) & after])
    left = np.setdiff1d(beside, np.unique(pieces[mask > 0]))
    after &= ~np.isin(pieces, left[left > 0])
    return after, after != found
