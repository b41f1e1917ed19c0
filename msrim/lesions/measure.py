"""The table of lesions: one row each, and totals that its rows add up to exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from msrim.files import write_tsv
from msrim.image import Volume
from msrim.lesions.regions import PERIVENTRICULAR_MM, REGIONS, place_lesions

# The McDonald criteria count these three in the brain; optic nerve and spinal cord lie outside it.
DIAGNOSTIC_REGIONS = ("periventricular", "juxtacortical", "infratentorial")

# Descriptions of the columns of *_desc-lesions.tsv, in their order, for *_desc-lesions.json.
LESION_COLUMNS = {
    "id": {"Description": "Number of the lesion in the instance map (*_seg-lesions_dseg), largest first"},
    "volume_mm3": {"Description": "Number of voxels times the volume of one", "Units": "mm3"},
    "centre_x_mm": {"Description": "Centre of mass, to the right, in the FLAIR's world coordinates", "Units": "mm"},
    "centre_y_mm": {"Description": "Centre of mass, to the front, in the FLAIR's world coordinates", "Units": "mm"},
    "centre_z_mm": {"Description": "Centre of mass, upwards, in the FLAIR's world coordinates", "Units": "mm"},
    "diameter_mm": {
        "Description": "Longest diameter (maximum Feret), between the outer faces of the lesion's voxels",
        "Units": "mm",
    },
    "region": {
        "Description": "Where the lesion lies: the first of infratentorial, periventricular, juxtacortical that fits",
        "Levels": {
            "periventricular": f"At most {PERIVENTRICULAR_MM:g} mm from a ventricle",
            "juxtacortical": "Touching the cortex",
            "infratentorial": "Most of it nearer to cerebellum or brainstem than to the cerebrum",
            "deep white matter": "None of these",
        },
    },
    "distance_to_ventricle_mm": {"Description": "Smallest gap to a ventricle, 0 where they touch", "Units": "mm"},
    "distance_to_cortex_mm": {"Description": "Smallest gap to the cortex, 0 where they touch", "Units": "mm"},
    "mean_probability": {"Description": "Mean of the lesion probability over the lesion's voxels"},
    "rim_probability": {"Description": "Probability of a paramagnetic rim; n/a where rims were not assessed"},
    "rim": {"Description": "Whether the lesion has a paramagnetic rim; n/a where rims were not assessed"},
    "change": {"Description": "Change since the earlier visit; n/a for a single visit"},
    "matched_id": {"Description": "Number of the same lesion at the earlier visit; n/a for a single visit"},
}


@dataclass(frozen=True)
class Lesion:
    """One row of the table; its fields are the columns, described in LESION_COLUMNS. None means not assessed."""

    id: int
    volume_mm3: float
    centre_x_mm: float
    centre_y_mm: float
    centre_z_mm: float
    diameter_mm: float
    region: str
    distance_to_ventricle_mm: float | None
    distance_to_cortex_mm: float | None
    mean_probability: float
    rim_probability: float | None = None
    rim: bool | None = None
    change: str | None = None
    matched_id: int | None = None


def measure_lesions(instances: Volume, *, probability: Volume, labels: Volume) -> list[Lesion]:
    """Measure every lesion; numbers are rounded to what the table shows, so that table and totals agree.

    Parameters
    ----------
    instances : Volume of int
        0 outside lesions, their numbers inside.
    probability : Volume of float in 0..1
        The lesion probability, on the same grid.
    labels : Volume of int
        :class:`msrim.labels.HeadLabel` on the same grid.

    Returns
    -------
    list of Lesion
        By ascending number; empty where there is no lesion.
    """
    voxels = np.argwhere(instances.data > 0)
    if not len(voxels):
        return []
    of_voxel = instances.data[tuple(voxels.T)]
    order = np.argsort(of_voxel, kind="stable")
    numbers, starts = np.unique(of_voxel[order], return_index=True)
    likelihood = probability.data[tuple(voxels.T)]
    lesions = []
    for number, members, place in zip(
        numbers, np.split(order, starts[1:]), place_lesions(instances, labels), strict=True
    ):
        centre = instances.affine[:3, :3] @ voxels[members].mean(axis=0) + instances.affine[:3, 3]
        x_mm, y_mm, z_mm = (_rounded(c, 2) for c in centre)
        ventricle_mm, cortex_mm = (
            None if distance is None else _rounded(distance, 2)
            for distance in (place.distance_to_ventricle_mm, place.distance_to_cortex_mm)
        )
        lesions.append(
            Lesion(
                int(number),
                _rounded(len(members) * instances.voxel_volume_mm3, 3),
                x_mm,
                y_mm,
                z_mm,
                _rounded(_longest_diameter_mm(voxels[members], instances.affine), 2),
                place.region,
                ventricle_mm,
                cortex_mm,
                _rounded(likelihood[members].mean(dtype=np.float64), 4),
            )
        )
    return lesions


def summarise(lesions: Sequence[Lesion]) -> dict[str, Any]:
    """Total the rows of the table, all and by region.

    Returns
    -------
    dict
        Ready for JSON: ``lesions`` and ``volume_mm3``, the same under ``regions`` for each of REGIONS,
        ``regions_met``, ``dissemination_in_space`` (a sentence) and ``use``.

    Examples
    --------
    >>> summarise([])["dissemination_in_space"]
    "lesions in 0 of the brain's three regions; spinal cord and optic nerve not assessed"
    """
    inside = {region: [lesion for lesion in lesions if lesion.region == region] for region in REGIONS}
    met = [region for region in DIAGNOSTIC_REGIONS if inside[region]]
    named = f" ({', '.join(met)})" if met else ""
    return {
        **_totals(lesions),
        "regions": {region: _totals(rows) for region, rows in inside.items()},
        "regions_met": met,
        "dissemination_in_space": (
            f"lesions in {len(met)} of the brain's three regions{named}; spinal cord and optic nerve not assessed"
        ),
        "use": "research use only",
    }


def write_lesions_tsv(lesions: Sequence[Lesion], path: Path) -> Path:
    """Write the table as BIDS has it: tab-separated, "n/a" where nothing was assessed, a header alone for no lesion.

    Raises
    ------
    OutputError
        The file can't be written.
    """
    rows = [map(_decimals, LESION_COLUMNS, astuple(lesion)) for lesion in lesions]
    return write_tsv(rows, path, columns=LESION_COLUMNS)


def _decimals(column: str, value: object) -> object:
    decimals = 3 if column.endswith("_mm3") else 4 if column.endswith("probability") else 2
    return f"{value:.{decimals}f}" if isinstance(value, float) else value


def _totals(lesions: Sequence[Lesion]) -> dict[str, Any]:
    return {"lesions": len(lesions), "volume_mm3": round(math.fsum(lesion.volume_mm3 for lesion in lesions), 3)}


def _rounded(value: float, decimals: int) -> float:
    # Adding zero turns -0.0 into 0.0, which would print with its sign.
    return round(float(value), decimals) + 0.0


def _longest_diameter_mm(voxels: np.ndarray, affine: np.ndarray) -> float:
    """Maximum Feret diameter between the centres of voxel faces, so that one voxel is as long as its longest edge."""
    faces = np.concatenate([voxels + half * axis for axis in np.eye(3) for half in (-0.5, 0.5)])
    points_mm = faces @ affine[:3, :3].T
    return float(pdist(points_mm[ConvexHull(points_mm).vertices]).max())
