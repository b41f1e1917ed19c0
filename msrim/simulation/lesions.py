"""Where multiple sclerosis puts lesions, and how large they are there."""

from __future__ import annotations

import numpy as np
from edt import edt

from msrim.simulation.head import Head
from msrim.simulation.shapes import Blob, draw_blob, random_blob

# How many stand in each place, [low, high): the mix of a relapsing patient with a moderate load.
COUNTS = {"finger": (5, 9), "cap": (2, 5), "juxtacortical": (5, 10), "infratentorial": (2, 5), "deep": (8, 15)}
# Radii that a uniform draw takes from: along the direction of the lesion, and across it.
RADII_MM = {
    "finger": ((7.0, 12.0), (2.8, 5.0)),
    "cap": ((5.0, 8.0), (5.0, 9.0)),
    "juxtacortical": ((2.0, 3.2), (3.0, 6.0)),
    "infratentorial": ((2.0, 4.5), (2.0, 4.5)),
    "deep": ((1.8, 6.0), (1.8, 4.5)),
}
GAP_MM = 2.5
SEVERITY = (0.45, 0.95)


def grow_lesions(head: Head, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scatter lesions over a head's white matter.

    Dawson's fingers stand on the lateral ventricles along the venules that leave them, caps sit on the horns,
    juxtacortical ones lie flat below the cortex; the rest are roundish. All stay out of CSF and end in the cortex.

    Parameters
    ----------
    head : Head
    rng : numpy.random.Generator

    Returns
    -------
    extent : (X, Y, Z) float32
        Fraction of each voxel that lies inside a lesion.
    damage : (X, Y, Z) float32
        Fraction whose tissue is replaced by that of a lesion: ``extent`` times the lesion's severity.
    """
    from_ventricle = edt(~head.ventricles, parallel=1)
    from_cortex = edt(~((head.grey > 0.6) & (from_ventricle > 9)), parallel=1)
    lesions: list[Blob] = []
    for place, candidates in _places(head, from_ventricle, from_cortex).items():
        away_from = from_cortex if place == "juxtacortical" else from_ventricle
        centres = np.argwhere(candidates)
        wanted = rng.integers(*COUNTS[place])
        for voxel in rng.permutation(centres)[: 40 * wanted]:
            blob = _draw(place, voxel, away_from, head.affine, rng)
            if all(_gap_mm(blob, other) > GAP_MM for other in lesions):
                lesions.append(blob)
                wanted -= 1
            if not wanted:
                break
    extent = np.zeros(head.white.shape, np.float32)
    damage = np.zeros_like(extent)
    for blob in lesions:
        draw_blob(blob, extent, head.affine)
        draw_blob(blob, damage, head.affine, value=rng.uniform(*SEVERITY))
    room = (head.white + head.grey) * (edt(head.white < 0.5, parallel=1) < 1.5)
    return extent * room, damage * room


def _places(head: Head, from_ventricle: np.ndarray, from_cortex: np.ndarray) -> dict[str, np.ndarray]:
    """Voxels on which a lesion's foot or centre may stand."""
    x, y, z = head.mni
    white = head.white > 0.6
    wall = (from_ventricle > 0) & (from_ventricle < 1.8) & (head.white > 0.25)
    front, back = np.percentile(y[head.ventricles], (94, 6))
    horn = (y > front) | (y < back)
    far = white & (from_ventricle > 9) & (z > -5)
    hindbrain = (z < -18) & (z > -56) & (y < -14) & (np.abs(x) < 32) & head.brain
    return {
        "finger": wall & ~horn & (z > 10),
        "cap": wall & horn,
        "juxtacortical": far & (from_cortex > 1) & (from_cortex < 2.5),
        "infratentorial": hindbrain & (head.white > 0.45),
        "deep": far & (from_cortex > 4),
    }


def _draw(place: str, voxel: np.ndarray, away_from: np.ndarray, affine: np.ndarray, rng: np.random.Generator) -> Blob:
    along, across = RADII_MM[place]
    radii = np.array([rng.uniform(*along), *rng.uniform(*across, 2)])
    direction = _uphill(away_from, voxel)
    centre = affine[:3, :3] @ voxel + affine[:3, 3]
    if place == "finger":
        centre = centre + 0.8 * radii[0] * direction
    return random_blob(centre, radii, rng=rng, direction=direction)


def _uphill(distance: np.ndarray, voxel: np.ndarray) -> np.ndarray:
    """Unit vector along which a distance grows, over a few voxels because surfaces have steps."""
    step = 2 * np.eye(3, dtype=int)
    slope = np.array([distance[tuple(voxel + e)] - distance[tuple(voxel - e)] for e in step])
    return slope / max(np.linalg.norm(slope), 1e-6)


def _gap_mm(a: Blob, b: Blob) -> float:
    return float(np.linalg.norm(a.centre_mm - b.centre_mm) - a.radii_mm.mean() - b.radii_mm.mean())
