"""How well a lesion mask agrees with the truth.

Conventions, the same in every table of this project
----------------------------------------------------
Lesions are 26-connected components. Voxel-wise measures and volumes take the masks whole; lesion-wise measures leave
out components below ``min_volume_mm3``, in truth and prediction. Whether a lesion is touched is asked of the other mask
whole, so that a small component counts neither for nor against anybody.

Both masks empty is perfect agreement: 1 for ``dice``, ``jaccard``, ``ppv``, ``tpr``, ``ltpr``, ``l_ppv``, ``l_dice``,
``l_f1`` and 0 for ``lfpr``, ``hd95_mm``, ``asd_mm``, ``volume_difference``; the same for lesion-wise measures where
neither mask has a lesion that counts. One empty mask gives 0 for ``dice``, ``jaccard``, ``l_dice`` and ``l_f1``, and
None for what would be a division by zero (``tpr``, ``ltpr`` and ``volume_difference`` without truth, ``ppv``, ``l_ppv``
and ``lfpr`` without prediction) and for distances. None means undefined: leave it out of means.
"""

from __future__ import annotations

from typing import Any

import cc3d
import edt
import numpy as np
from scipy import ndimage

from msrim.image import Volume, bounding_box, same_grid


def segmentation_metrics(truth: Volume, prediction: Volume, *, min_volume_mm3: float = 0.0) -> dict[str, Any]:
    """Compare two lesion masks on one grid.

    Parameters
    ----------
    truth, prediction : Volume
        Lesions where not zero.
    min_volume_mm3 : float
        Lesion-wise measures ignore smaller components.

    Returns
    -------
    dict
        Ready for JSON: ``dice``, ``jaccard``, ``ppv`` (precision), ``tpr`` (sensitivity); ``ltpr``, the share of true
        lesions that the prediction touches; ``lfpr``, the share of predicted lesions that touch no truth; ``l_f1``
        (:func:`lesion_f1`); ``l_ppv`` and ``l_dice``, touched true lesions by the number of predicted ones, and twice
        that by the number of both; ``hd95_mm``, the larger of the two directed 95th percentiles of the distance between
        surfaces; ``asd_mm``, the mean of that distance over the surface voxels of both; volumes in mm3, the absolute
        ``volume_difference`` as a share of the true volume, and numbers of lesions. Surface voxels are those with a
        face on the outside.

    Raises
    ------
    ValueError
        The grids differ.

    Notes
    -----
    Zhang et al. 2021 (ALL-Net), Eq. 4 to 10, but for two points. Eq. 4 lacks a factor of 2: Dice is
    2 TP / (2 TP + FP + FN). For LTP in Eq. 8 the text counts predicted lesions, which may exceed the number of true
    ones; here LTP counts true lesions, as Carass et al. 2017 (doi:10.1016/j.neuroimage.2016.12.064) do.

    ``l_ppv`` and ``l_dice`` are those of Zhang et al. 2023 (SCP), whose L-Dice lacks a factor of 2. Both count true
    lesions above the line, so one prediction over several lesions may put them above 1; ``1 - lfpr`` counts predicted
    lesions. CoactSeg's F1 (Wu et al. 2023) is ``l_f1`` with ``min_volume_mm3`` of 11 voxels, and its distances, in
    voxels, are those of volumes with 1 mm voxels.

    Examples
    --------
    >>> truth = Volume(np.array([[[1, 1, 0, 1]]]), np.eye(4))
    >>> found = segmentation_metrics(truth, Volume(np.array([[[1, 0, 0, 0]]]), np.eye(4)))
    >>> found["dice"], found["ltpr"], found["lfpr"]
    (0.5, 0.5, 0.0)
    """
    if not same_grid(truth, prediction):
        raise ValueError(
            f"truth {truth.shape} and prediction {prediction.shape} lie on different grids "
            f"(spacing {_mm(truth)} and {_mm(prediction)}); resample one onto the other's grid"
        )
    a, b = truth.data != 0, prediction.data != 0
    volume = truth.voxel_volume_mm3
    true, found, both = (int(np.count_nonzero(m)) for m in (a, b, a & b))
    empty = not true and not found

    def ratio(part: int, whole: int) -> float | None:
        return 1.0 if empty else part / whole if whole else None

    lesions, detected = lesions_touching(a, b, min_voxels=min_volume_mm3 / volume)
    predicted, true_positives = lesions_touching(b, a, min_voxels=min_volume_mm3 / volume)
    none_counted = not lesions and not predicted
    ltpr = 1.0 if none_counted else detected / lesions if lesions else None
    lfpr = 0.0 if none_counted else (predicted - true_positives) / predicted if predicted else None
    hd95_mm, asd_mm = (0.0, 0.0) if empty else _surface_distances_mm(a, b, spacing=truth.spacing)
    return {
        "dice": ratio(2 * both, true + found),
        "jaccard": ratio(both, true + found - both),
        "ppv": ratio(both, found),
        "tpr": ratio(both, true),
        "ltpr": ltpr,
        "lfpr": lfpr,
        "l_ppv": 1.0 if none_counted else detected / predicted if predicted else None,
        "l_dice": 1.0 if none_counted else 2 * detected / (lesions + predicted),
        "l_f1": 0.0 if ltpr is None or lfpr is None else lesion_f1(ltpr=ltpr, lfpr=lfpr),
        "hd95_mm": hd95_mm,
        "asd_mm": asd_mm,
        "truth_volume_mm3": true * volume,
        "prediction_volume_mm3": found * volume,
        "volume_difference": 0.0 if empty else abs(found - true) / true if true else None,
        "truth_lesions": lesions,
        "prediction_lesions": predicted,
    }


def lesion_f1(*, ltpr: float, lfpr: float) -> float:
    """Lesion-wise F1, the harmonic mean of 1 - LFPR and LTPR (Zhang et al. 2021, Eq. 10); 0 where both are 0.

    Examples
    --------
    >>> round(lesion_f1(ltpr=0.533, lfpr=0.122), 3)
    0.663
    """
    precision = 1 - lfpr
    return 2 * precision * ltpr / (precision + ltpr) if precision + ltpr else 0.0


def lesions_touching(mask: np.ndarray, other: np.ndarray, *, min_voxels: float) -> tuple[int, int]:
    """Number of lesions of at least ``min_voxels`` in ``mask``, and of those that share a voxel with ``other``."""
    labels = cc3d.connected_components(mask.astype(np.uint8), connectivity=26)
    # The product of edges in a header's float32 may put a lesion of just the minimum below it.
    counts = np.bincount(labels[mask])[1:] >= min_voxels - 1e-3
    touched = np.bincount(labels[mask & other], minlength=counts.size + 1)[1:] > 0
    return int(counts.sum()), int((counts & touched).sum())


def _surface_distances_mm(a: np.ndarray, b: np.ndarray, *, spacing: np.ndarray) -> tuple[float | None, float | None]:
    """95 % Hausdorff and average distance between the surfaces of two masks, not both empty."""
    if not a.any() or not b.any():
        return None, None
    box = bounding_box(a | b)
    surface_a, surface_b = _surface(a[box]), _surface(b[box])
    from_a = edt.edt(~surface_b, anisotropy=tuple(spacing))[surface_a]
    from_b = edt.edt(~surface_a, anisotropy=tuple(spacing))[surface_b]
    hd95 = max(np.percentile(from_a, 95), np.percentile(from_b, 95))
    return float(hd95), float(np.concatenate([from_a, from_b]).mean(dtype=np.float64))


def _surface(mask: np.ndarray) -> np.ndarray:
    # The space beyond the array counts as outside, so a lesion cut by the field of view has a surface there.
    return mask & ~ndimage.binary_erosion(mask)


def _mm(volume: Volume) -> str:
    return " x ".join(f"{s:g}" for s in volume.spacing.round(3)) + " mm"
