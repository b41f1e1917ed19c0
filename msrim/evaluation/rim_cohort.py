"""How visible the rims of a rim cohort are on QSM, and how well a single number separates them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from msrim.evaluation.rims import curve_areas
from msrim.image import Volume, bounding_boxes

# The edge is a lesion's outermost voxels in the plane; the core what lies deepest, where there is depth enough.
EDGE_VOXELS, CORE_VOXELS, CORE_SHARE = 2.0, 3.0, 0.7
NEAR, FAR = 2, 5  # surroundings, voxels from the outline in the plane
SEEN_PPB = 10.0


@dataclass(frozen=True, eq=False)
class Looks:
    """Of each lesion, in the order of their numbers.

    Attributes
    ----------
    contrast_ppb : (N,) float
        Mean in the outline less that of its surroundings.
    edge_ppb : (N,) float
        Edge less core in the slice where the lesion is largest; NaN where there is no core.
    box : (N, 3) int
        Voxels.
    """

    contrast_ppb: np.ndarray
    edge_ppb: np.ndarray
    box: np.ndarray


def lesion_looks(qsm: Volume, instances: Volume) -> Looks:
    """Measure the lesions of one subject.

    Parameters
    ----------
    qsm : Volume of float, ppm
        0 outside the brain; slices along the third axis.
    instances : Volume of int
        On the same grid; 0 outside lesions, 1..n inside.
    """
    contrast, edges, boxes = [], [], []
    for number, box in bounding_boxes(instances.data, margin=(FAR, FAR, 0)).items():
        labels, values = instances.data[box], 1000 * qsm.data[box]
        inside = labels == number
        away = np.stack([ndimage.distance_transform_edt(~part) for part in np.moveaxis(inside, 2, 0)], axis=2)
        away[:, :, ~inside.any(axis=(0, 1))] = np.inf
        around = (away > NEAR) & (away <= FAR) & (labels == 0) & (values != 0)
        contrast.append(values[inside].mean() - values[around].mean() if around.any() else np.nan)
        middle = int(inside.sum(axis=(0, 1)).argmax())
        depth = ndimage.distance_transform_edt(np.pad(inside[..., middle], 1))[1:-1, 1:-1]
        core = depth >= max(CORE_VOXELS, CORE_SHARE * depth.max())
        edge = (depth > 0) & (depth <= EDGE_VOXELS)
        here = values[..., middle]
        edges.append(here[edge].mean() - here[core].mean() if core.any() else np.nan)
        boxes.append([s.stop - s.start for s in box])
    return Looks(np.array(contrast), np.array(edges), np.array(boxes).reshape(-1, 3))


def cohort_facts(looks: list[Looks], truth: np.ndarray) -> dict[str, float]:
    """Figures over a cohort's lesions.

    Parameters
    ----------
    looks : list of Looks
        Of the subjects.
    truth : (N,) bool
        Rim+, of all lesions in that order.

    Returns
    -------
    dict
        ``rims`` and ``others``; ``rims_seen``, the share of rims whose edge is SEEN_PPB above the core, of those
        that have a core, which is ``rims_with_core`` of all; ``difference_ppb``, the mean contrast of rim+ lesions less
        that of the others; ``mean_proc_auc``, that of the contrast alone; ``largest``, the widest box in voxels in
        the plane and across slices.
    """
    contrast, edge, box = (
        np.concatenate([getattr(one, name) for one in looks]) for name in ("contrast_ppb", "edge_ppb", "box")
    )
    known = np.isfinite(contrast)
    cored = truth & np.isfinite(edge)
    return {
        "rims": int(truth.sum()),
        "others": int((~truth).sum()),
        "rims_with_core": float(cored.sum() / max(truth.sum(), 1)),
        "rims_seen": float((edge[cored] > SEEN_PPB).mean()) if cored.any() else 0.0,
        "difference_ppb": float(contrast[truth & known].mean() - contrast[~truth & known].mean()),
        "mean_proc_auc": curve_areas(truth[known], contrast[known])["proc_auc"],
        "largest": [int(box[:, :2].max()), int(box[:, 2].max())],
    }
