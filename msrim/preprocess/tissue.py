"""Tissue classes of a brain, of any backend, and the CSF-filled structures to which AnaConv measures distances."""

from __future__ import annotations

import numpy as np

from msrim.image import Volume
from msrim.labels import TISSUE_OF_LABEL, Tissue
from msrim.preprocess.masks import clean_mask

# Radii of the opening and the closing of CSF: one voxel of 1 mm, the least that there is. Sulci of one or two voxels
# go with the noise.
OPENING_MM, CLOSING_MM = 1.0, 1.0
# A larger hole is no noise: CSF closes around the whole brain.
MAX_HOLE_MM3 = 1000.0


def tissue_of(labels: Volume, *, found: Volume | None = None, brain: Volume | None = None) -> Volume:
    """Tissue classes from head labels, or in the brain from what FAST or Atropos found.

    Parameters
    ----------
    labels : Volume of uint8
        :class:`msrim.labels.HeadLabel`.
    found : Volume of uint8, optional
        Classes of a T1w on the same grid, 0 where that program saw nothing. There, and outside the brain, where it was
        shown nothing, the head labels count.
    brain : Volume of bool, optional
        On the same grid; needed with ``found``.

    Returns
    -------
    Volume of uint8
        :class:`msrim.labels.Tissue`; 0 where there is no head.

    Examples
    --------
    >>> labels = Volume(np.array([0, 1, 3, 5, 5], np.uint8).reshape(5, 1, 1), np.eye(4))
    >>> found = labels.like(np.array([0, 2, 2, 2, 0], np.uint8).reshape(5, 1, 1))
    >>> brain = labels.like(np.array([0, 0, 1, 1, 1], bool).reshape(5, 1, 1))
    >>> tissue_of(labels).data.ravel().tolist()
    [0, 1, 2, 3, 3]
    >>> tissue_of(labels, found=found, brain=brain).data.ravel().tolist()
    [0, 1, 2, 2, 3]
    """
    classes = TISSUE_OF_LABEL[labels.data]
    if found is not None and brain is not None:
        classes = np.where(brain.data & (found.data > 0), found.data, classes)
    return labels.like(classes.astype(np.uint8))


def csf_structures(tissue: Volume) -> Volume:
    """CSF-filled structures, opened, closed and filled: what AnaConv's distance to CSF is measured to.

    Parameters
    ----------
    tissue : Volume of uint8
        Of :func:`tissue_of`.

    Returns
    -------
    Volume of bool

    Notes
    -----
    Zhang et al., ALL-Net, NeuroImage: Clinical, 2021, section 2.3.

    Examples
    --------
    >>> tissue = np.full((12, 12, 12), 3, np.uint8)
    >>> tissue[4:9, 4:9, 4:9], tissue[6, 6, 6], tissue[1, 1, 1] = 1, 2, 1
    >>> csf = csf_structures(Volume(tissue, np.eye(4))).data
    >>> bool(csf[6, 6, 6]), bool(csf[1, 1, 1])
    (True, False)
    """
    csf = tissue.like(tissue.data == Tissue.CSF)
    return clean_mask(csf, opening_mm=OPENING_MM, closing_mm=CLOSING_MM, max_hole_mm3=MAX_HOLE_MM3)
