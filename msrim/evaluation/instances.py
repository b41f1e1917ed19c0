"""How well lesions are separated: numbered lesions against numbered lesions."""

from __future__ import annotations

from typing import Any

import numpy as np

from msrim.image import Volume, same_grid


def panoptic_quality(truth: Volume, prediction: Volume) -> dict[str, Any]:
    """Compare two maps of numbered lesions on one grid.

    Parameters
    ----------
    truth, prediction : Volume of int
        0 outside lesions, their numbers inside.

    Returns
    -------
    dict
        ``pq``, panoptic quality, the product of ``rq``, recognition quality (the F1 of lesions), and ``sq``,
        segmentation quality (the mean intersection over union of the matched). A true and a predicted lesion match if
        they share more than half of their union, which no lesion can do with two others. ``count_error`` is the number
        of predicted lesions less the number of true ones.

        Both empty is perfect agreement; without a match ``pq`` and ``rq`` are 0 and ``sq`` is None.

    Raises
    ------
    ValueError
        The grids differ.

    Notes
    -----
    Kirillov et al. 2019, arXiv:1801.00868.

    Examples
    --------
    >>> truth = Volume(np.array([[[1, 1, 0, 2, 2, 2]]]), np.eye(4))
    >>> panoptic_quality(truth, truth.like(np.array([[[1, 1, 0, 2, 3, 3]]])))["rq"]
    0.8
    """
    if not same_grid(truth, prediction):
        raise ValueError(f"lesions {truth.shape} and {prediction.shape} lie on different grids")
    # Numbers may have gaps, and voxel counts need indices without.
    true_numbers, true = np.unique(truth.data, return_inverse=True)
    found_numbers, found = np.unique(prediction.data, return_inverse=True)
    shared = np.zeros((true_numbers.size, found_numbers.size), dtype=np.int64)
    np.add.at(shared, (true.ravel(), found.ravel()), 1)
    union = shared.sum(1, keepdims=True) + shared.sum(0, keepdims=True) - shared
    overlap = (shared / union)[true_numbers != 0][:, found_numbers != 0]
    matched = overlap[overlap > 0.5]
    lesions, predicted = overlap.shape
    rq = 2 * matched.size / (lesions + predicted) if lesions + predicted else 1.0
    sq = float(matched.mean()) if matched.size else None if lesions + predicted else 1.0
    return {
        "pq": rq * (sq or 0.0),
        "sq": sq,
        "rq": rq,
        "matched_lesions": int(matched.size),
        "truth_lesions": lesions,
        "prediction_lesions": predicted,
        "count_error": predicted - lesions,
    }
