"""Where lesions of multiple sclerosis lie: how many there are per millilitre of white matter."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from msrim.image import Volume
from msrim.labels import WHITE_MATTER, HeadLabel

# Lesions per millilitre, by the distance of their middle to the ventricles, in 1,784 maps of lesions that were drawn by
# hand and brought to MNI space (3,527 lesions; Senra Filho et al. 2019, doi:10.1088/2057-1976/ab08fc); only their
# ratios count. Printed by `python -m tests.benchmarks.lesion_places --lesion-bank FILE`.
DISTANCES_MM = (0, 2, 4, 6, 9, 13, 18, 24, 32)
LARGE_MM3 = 300.0
# Of the cerebrum, ring by ring; of the cerebellum; of the brainstem.
SMALLER = (7.15, 5.62, 4.35, 4.86, 5.24, 5.75, 3.01, 1.09, 0.22), 1.52, 1.86
LARGER = (2.61, 4.11, 2.27, 1.51, 0.72, 0.89, 0.45, 0.09, 0.02), 0.41, 0.23


def lesion_density(labels: Volume, *, volume_mm3: float) -> np.ndarray:
    """How many lesions of a volume lie about a place, beside other places.

    Parameters
    ----------
    labels : Volume of int
        HEAD_LABELS.
    volume_mm3 : float
        Large lesions keep closer to the ventricles than others do.

    Returns
    -------
    (X, Y, Z) float32
        Lesions per millilitre of the cerebrum's, the cerebellum's and the brainstem's white matter; 0 elsewhere. Where
        no ventricle is seen, as in a part of a head, the cerebrum's white matter has one density.

    Examples
    --------
    >>> line = [HeadLabel.VENTRICLES, *[HeadLabel.CEREBRAL_WHITE] * 20, HeadLabel.CORTEX, HeadLabel.BRAINSTEM]
    >>> density = lesion_density(Volume(np.array([[line]]), np.eye(4)), volume_mm3=100.0)
    >>> density[0, 0, [0, 1, 10, 20, 21, 22]].round(2).astype(str).tolist()
    ['0.0', '7.15', '5.24', '3.01', '0.0', '1.86']
    """
    rings, cerebellum, brainstem = LARGER if volume_mm3 >= LARGE_MM3 else SMALLER
    ventricles = labels.data == HeadLabel.VENTRICLES
    distance = np.zeros(labels.shape)
    if ventricles.any():
        distance = ndimage.distance_transform_edt(~ventricles, sampling=labels.spacing)
    density = np.array(rings, np.float32)[np.searchsorted(DISTANCES_MM, distance, side="right") - 1]
    density[labels.data == HeadLabel.CEREBELLAR_WHITE] = cerebellum
    density[labels.data == HeadLabel.BRAINSTEM] = brainstem
    return density * np.isin(labels.data, WHITE_MATTER)
