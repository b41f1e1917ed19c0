"""Intensity normalisation."""

from __future__ import annotations

import numpy as np

from msrim.image import Volume

WINSORISED_PERCENTILES = (1.0, 99.0)


def normalise_intensity(volume: Volume, brain: Volume) -> Volume:
    """Zero mean and unit standard deviation inside the brain.

    Parameters
    ----------
    volume : Volume
    brain : Volume of bool
        On the same grid.

    Returns
    -------
    Volume of float32
        0 outside the brain. Mean and deviation are taken over values winsorised at the 1st and 99th percentile, so that
        a vessel or a scar does not set the scale; the values themselves are not clipped. All 0 if the brain is empty or
        constant.

    Examples
    --------
    >>> image = Volume(np.array([1.0, 1.0, 3.0, 3.0, 50.0]).reshape(5, 1, 1), np.eye(4))
    >>> normalise_intensity(image, image.like(image.data < 50)).data.ravel().tolist()
    [-1.0, -1.0, 1.0, 1.0, 0.0]
    """
    inside = brain.data.astype(bool)
    values = volume.data[inside].astype(np.float32)
    data = np.zeros(volume.shape, np.float32)
    if values.size:
        winsorised = np.clip(values, *np.percentile(values, WINSORISED_PERCENTILES))
        deviation = winsorised.std(dtype=np.float64)
        if deviation > 0:
            data[inside] = (values - winsorised.mean(dtype=np.float64)) / deviation
    return volume.like(data)
