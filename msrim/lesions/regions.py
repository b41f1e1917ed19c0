"""Where in the brain a lesion lies, by distances in millimetres from the head labels.

The 2017 McDonald criteria ask for lesions in regions of the brain (Thompson et al. 2018,
doi:10.1016/S1474-4422(17)30470-2; the regions as in Filippi et al. 2016, doi:10.1016/S1474-4422(15)00393-2), read
here as

- infratentorial: most of the lesion lies nearer to cerebellum or brainstem than to the cerebrum;
- periventricular: at most 3 mm from a ventricle, the band that Kim et al. 2008 call juxtaventricular
  (doi:10.1016/j.biopsych.2008.03.024); the criteria require abutting, and masks often stop short of the wall;
- juxtacortical: touching the cortex, without a voxel between; white matter is so thin in the gyri that a wider band
  would take in most small lesions;
- deep white matter: everything else, deep grey matter with it.

The first that fits holds: a confluent lesion that reaches from ventricle to cortex is periventricular.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import edt
import numpy as np
from scipy import ndimage

from msrim.image import Volume, bounding_box
from msrim.labels import CEREBRUM, INFRATENTORIAL, HeadLabel

REGIONS = ("periventricular", "juxtacortical", "infratentorial", "deep white matter")
PERIVENTRICULAR_MM = 3.0

# A lesion often bears a speck of a wrong label, or a shell of partial volume that looks like cortex. The smallest true
# piece is a ventricle's horn of some 0.3 ml; pieces of cortex and tissue are larger by far.
MIN_VENTRICLE_MM3 = 200.0
MIN_TISSUE_MM3 = 2000.0


@dataclass(frozen=True)
class Place:
    """Where one lesion lies: one of REGIONS and the gaps to ventricle and cortex, mm, None where there is none."""

    region: str
    distance_to_ventricle_mm: float | None
    distance_to_cortex_mm: float | None


def place_lesions(instances: Volume, labels: Volume) -> list[Place]:
    """Place every lesion by the anatomy around it; what labels the lesion itself bears doesn't count.

    A distance is the width of the gap between lesion and structure: 0 where voxels of both touch, on any grid.

    Parameters
    ----------
    instances : Volume of int
        0 outside lesions.
    labels : Volume of int
        :class:`msrim.labels.HeadLabel` on the same grid.

    Returns
    -------
    list of Place
        In ascending order of the lesions' numbers.
    """
    lesions = instances.data > 0
    if not lesions.any():
        return []
    box = bounding_box(lesions | (labels.data > 0))
    lesions, anatomy, of_voxel = lesions[box], labels.data[box], instances.data[lesions]
    numbers = np.unique(of_voxel)

    def structure(values: Sequence[int], min_mm3: float) -> np.ndarray:
        found = np.isin(anatomy, values) & ~lesions
        return cc3d.dust(found, threshold=min_mm3 / instances.voxel_volume_mm3, connectivity=26)

    def distance_mm(to: np.ndarray) -> np.ndarray:
        """From every lesion voxel, infinite where there is nothing to reach."""
        if not to.any():
            return np.full(of_voxel.size, np.inf)
        return edt.edt(~to, anisotropy=tuple(instances.spacing))[lesions]

    def gap_mm(to: np.ndarray) -> np.ndarray:
        """From every lesion: (n,) float."""
        bordering = ndimage.maximum_filter(to, size=3)
        return ndimage.minimum(distance_mm(bordering), of_voxel, numbers)

    below = distance_mm(structure(INFRATENTORIAL, MIN_TISSUE_MM3)) < distance_mm(structure(CEREBRUM, MIN_TISSUE_MM3))
    share_below = ndimage.mean(below, of_voxel, numbers)
    to_ventricle = gap_mm(structure([HeadLabel.VENTRICLES], MIN_VENTRICLE_MM3))
    to_cortex = gap_mm(structure([HeadLabel.CORTEX], MIN_TISSUE_MM3))
    return [
        Place(
            _region(share, ventricle, cortex),
            float(ventricle) if np.isfinite(ventricle) else None,
            float(cortex) if np.isfinite(cortex) else None,
        )
        for share, ventricle, cortex in zip(share_below, to_ventricle, to_cortex, strict=True)
    ]


def _region(share_below: float, to_ventricle_mm: float, to_cortex_mm: float) -> str:
    if share_below > 0.5:
        return "infratentorial"
    if to_ventricle_mm <= PERIVENTRICULAR_MM:
        return "periventricular"
    if to_cortex_mm == 0:
        return "juxtacortical"
    return "deep white matter"
