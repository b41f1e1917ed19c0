"""Intensity normalisation."""

from __future__ import annotations

import numpy as np

from msrim.image import Volume

# Of a normal distribution: standard deviation over median absolute deviation.
DEVIATION_OF_MAD = 1.4826


def normalise_intensity(volume: Volume, brain: Volume, *, tissue: Volume | None = None) -> Volume:
    """Median zero and robust standard deviation one in the brain's tissue.

    Parameters
    ----------
    volume : Volume
    brain, tissue : Volume of bool
        On the same grid: what is kept, and where grey and white matter are; without any tissue the whole brain counts.

    Returns
    -------
    Volume of float32
        0 outside the brain. Tissue alone is measured, because an atrophied brain holds more CSF, and by median absolute
        deviation, because lesions must not set the scale: 50 ml of them in a brain of 1.1 l take a third off their own
        contrast in a z-score. All 0 if there is no brain or its median absolute deviation is zero.

    Examples
    --------
    >>> image = Volume(np.array([1.0, 2.0, 3.0, 4.0, 50.0]).reshape(5, 1, 1), np.eye(4))
    >>> everywhere = image.like(image.data < 100)
    >>> normalise_intensity(image, everywhere, tissue=everywhere).data.ravel().round(1).astype(str).tolist()
    ['-1.3', '-0.7', '0.0', '0.7', '31.7']
    """
    inside = brain.data.astype(bool)
    measured = inside if tissue is None else inside & tissue.data
    values = volume.data[measured if measured.any() else inside].astype(np.float32)
    data = np.zeros(volume.shape, np.float32)
    if values.size:
        median = np.median(values)
        deviation = DEVIATION_OF_MAD * np.median(np.abs(values - median))
        if deviation > 0:
            data[inside] = (volume.data[inside] - median) / deviation
    return volume.like(data)
