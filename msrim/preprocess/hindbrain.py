"""Head labels that the results can be built on: without gaps, and the hindbrain where it lies.

A network that looks at intensities takes much of the cerebellum for cerebrum. The tentorium between them lies at nearly
the same place in every brain that is aligned with the template, so quadrics separate cerebrum, cerebellum and brainstem
apart: of 20 heads, each labelled by the quadrics of others, 99.6 % of the cerebrum's tissue keeps its side, 97 % of the
cerebellum's and 88 % of the brainstem's (94 % of it below the cerebrum); at worst 98.9, 91 and 80 %. `python -m
tests.benchmarks.hindbrain` prints these and the coefficients.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from msrim.image import Volume
from msrim.labels import GREY_MATTER, TISSUE_OF_LABEL, WHITE_MATTER, HeadLabel, Tissue
from msrim.preprocess.masks import grown_mask
from msrim.transform import apply_transform

# Labels reach so far beyond the brain mask: whichever grid they are sampled on, no voxel of its mask is without one.
BEYOND_MM = 2.0

# Log odds against the cerebrum, over the terms of `quadric_terms`.
CEREBELLUM = (9.9, -10.5, -0.9, -19.2, -6.6, -19.4, -0.8, -19.0, -35.8, 7.4)
BRAINSTEM = (5.9, -19.0, 32.4, -28.4, -30.6, -52.1, 3.2, -1.9, 13.1, 10.4)
CENTRE_MM, UNIT_MM = np.array([0.0, -50.0, -20.0]), 50.0
# New label of every old one in cerebrum, cerebellum and brainstem: grey stays grey and white stays white.
RENAMED = np.tile(np.arange(len(HeadLabel), dtype=np.uint8), (3, 1))
RENAMED[0, HeadLabel.CEREBELLAR_GREY], RENAMED[0, WHITE_MATTER] = HeadLabel.CORTEX, HeadLabel.CEREBRAL_WHITE
RENAMED[1, GREY_MATTER], RENAMED[1, WHITE_MATTER] = HeadLabel.CEREBELLAR_GREY, HeadLabel.CEREBELLAR_WHITE
RENAMED[2, [*GREY_MATTER, *WHITE_MATTER]] = HeadLabel.BRAINSTEM


def without_gaps(labels: Volume, brain: Volume) -> Volume:
    """The nearest label for every voxel of the brain, and BEYOND_MM around it, that has none.

    Examples
    --------
    >>> line = Volume(np.array([1, 0, 0, 0, 5], np.uint8).reshape(5, 1, 1), np.diag([3.0, 1.0, 1.0, 1.0]))
    >>> without_gaps(line, line.like(np.array([0, 1, 0, 1, 1], bool).reshape(5, 1, 1))).data.ravel().tolist()
    [1, 1, 0, 5, 5]
    """
    gaps = (labels.data == HeadLabel.BACKGROUND) & grown_mask(brain, by_mm=BEYOND_MM).data
    if not (gaps.any() and labels.data.any()):
        return labels
    nearest = ndimage.distance_transform_edt(
        labels.data == HeadLabel.BACKGROUND, sampling=labels.spacing, return_distances=False, return_indices=True
    )
    filled = labels.data.copy()
    filled[gaps] = labels.data[tuple(nearest[:, gaps])]
    return labels.like(filled)


def assign_hindbrain(labels: Volume, *, mni_from_world: np.ndarray) -> Volume:
    """Assign the tissue below the tentorium to cerebellum and brainstem, and that above it to the cerebrum.

    Parameters
    ----------
    labels : Volume of uint8
    mni_from_world : (4, 4) float
        Affine to MNI152, RAS mm.

    Examples
    --------
    >>> white = Volume(np.full((1, 1, 1), 5, np.uint8), np.eye(4))
    >>> for place in ((-20, -30, 30), (-25, -65, -40), (0, -28, -35)):
    ...     mni_from_world = np.eye(4)
    ...     mni_from_world[:3, 3] = place
    ...     print(assign_hindbrain(white, mni_from_world=mni_from_world).data.item())
    5
    7
    8
    """
    tissue = np.nonzero(TISSUE_OF_LABEL[labels.data] > Tissue.CSF)
    points = apply_transform(mni_from_world @ labels.affine, np.column_stack(tissue))
    odds = quadric_terms(points) @ np.transpose([np.zeros(len(CEREBELLUM)), CEREBELLUM, BRAINSTEM])
    placed = labels.data.copy()
    placed[tissue] = RENAMED[odds.argmax(axis=1), labels.data[tissue]]
    return labels.like(placed)


def quadric_terms(points: np.ndarray) -> np.ndarray:
    """Terms of a quadric that is the same left and right: (n, 3) MNI mm to (n, 10)."""
    x, y, z = (points - CENTRE_MM).T / UNIT_MM
    x = np.abs(x)
    return np.column_stack([np.ones(len(points)), x, y, z, x * x, y * y, z * z, x * y, x * z, y * z])
