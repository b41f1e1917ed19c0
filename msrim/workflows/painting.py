"""What ``--grade`` paints on: a visit's images, the room beside its own lesions, and how bright those are.

How a painted lesion looks in itself is :mod:`msrim.training.painting`; where it lies is :mod:`msrim.lesions.places`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cc3d
import numpy as np
from scipy import ndimage

from msrim.image import Volume, bounding_boxes
from msrim.labels import WHITE_MATTER
from msrim.lesions.places import lesion_density
from msrim.lesions.scatter import scatter_lesions
from msrim.preprocess.masks import grown_mask
from msrim.preprocess.scan import as_scanned
from msrim.transform import read_transform
from msrim.workflows.anatomy import Anatomy, read_mask, read_own

SEED = 1
# From the patient's own lesions, and between painted ones: what was found of one is not taken for another's.
GAP_MM = 5.0
# A lesion's contrast is that of so many of the patient's own, those nearest to it in volume; smaller ones than this are
# not asked.
NEIGHBOURS, LEAST_OWN_MM3 = 9, 10.0
# Voxels around a painted lesion that its blurred edge may reach.
MARGIN = 4
# What a network leaves of a lesion's edge, at most.
EDGE_MM = 3.0
# White matter around a lesion, from and to.
AROUND_MM = (2.0, 6.0)
# Of its highest contrast on a scan, what a voxel has that shows a lesion.
SHOWING = 0.5
# Of a lesion's contrast, what voxels leave at least: less is made up for as if it were this much.
LEAST_KEPT = 0.05


@dataclass(frozen=True, eq=False)
class Canvas:
    """A visit's working images, and what lies there.

    Attributes
    ----------
    images : dict of str to Volume
        Normalised contrasts on one grid.
    own : Volume of bool
        The patient's own lesions as they were found.
    labels : Volume of int
        HEAD_LABELS.
    white, brain : (X, Y, Z) bool
    anatomy : Anatomy
    """

    images: dict[str, Volume]
    own: Volume
    labels: Volume
    white: np.ndarray
    brain: np.ndarray
    anatomy: Anatomy

    def scatter(self, volumes_mm3: Sequence[float], *, rng: np.random.Generator) -> Volume:
        """Lesions of given volumes where lesions lie, away from the patient's own: numbers from 1, 0 elsewhere."""
        allowed = self.own.like(self.white & ~grown_mask(self.own, by_mm=GAP_MM).data)

        def density(volume_mm3: float) -> np.ndarray:
            return lesion_density(self.labels, volume_mm3=volume_mm3)

        return scatter_lesions(allowed, volumes_mm3, density=density, gap_mm=GAP_MM, rng=rng)

    def as_shown(self, drawn: np.ndarray, contrast: str) -> np.ndarray:
        """What a contrast's scan shows of what is drawn on the working grid, on that grid: (X, Y, Z) float32."""
        scan = read_own(self.anatomy.corrected[contrast])
        # The transforms lead to the FLAIR's world, in which the working grid lies.
        scan_from_flair = np.linalg.inv(flair_from(self.anatomy, contrast))
        return as_scanned(self.own.like(drawn), scan, scan_from_drawn=scan_from_flair).data


def canvas_of(anatomy: Anatomy, *, lesion: Path, threshold: float) -> Canvas:
    """Read what is painted on; ``lesion`` is the probability of lesion on the working grid."""
    working = anatomy.working
    images = {name: read_own(path) for name, path in working.images.items()}
    labels, brain = read_own(working.labels), read_mask(working.brain).data
    own = images["FLAIR"].like(read_own(lesion).data >= threshold)
    return Canvas(images, own, labels, np.isin(labels.data, WHITE_MATTER) & brain, brain, anatomy)


def scattered(
    anatomy: Anatomy, volumes_mm3: Sequence[float], *, lesion: Path, threshold: float, rng: np.random.Generator
) -> tuple[Canvas, Volume, dict[int, tuple[slice, ...]]]:
    """A visit's canvas, lesions of given volumes scattered on it, and the box that each will be painted in, by number.

    ``lesion`` is the probability of the visit's own lesions on the working grid. There is room for some lesions alone.
    """
    canvas = canvas_of(anatomy, lesion=lesion, threshold=threshold)
    lesions = canvas.scatter(volumes_mm3, rng=rng)
    return canvas, lesions, bounding_boxes(lesions.data, margin=MARGIN)


def flair_from(anatomy: Anatomy, contrast: str) -> np.ndarray:
    """To the world of the FLAIR from that of a contrast, (4, 4)."""
    return np.eye(4) if contrast == "FLAIR" else read_transform(anatomy.to_flair[contrast])


def painted_contrasts(canvas: Canvas, lesions: Volume, share: np.ndarray) -> dict[int, dict[str, tuple[float, float]]]:
    """How much each painted lesion must differ from white matter to be as bright on the scan as real ones.

    Parameters
    ----------
    canvas : Canvas
    lesions : Volume of int
        To be painted, numbered; on the working grid.
    share : (X, Y, Z) float
        Their edges and textures, see :func:`msrim.training.painting.painted_share`.

    Returns
    -------
    dict of int to dict of str to (float, float)
        By number and contrast, before voxels blur it: like the faintest that raters mark, and like the patient's own
        lesions of its size.
    """
    from msrim.training.contrasts import PAINTED_CONTRAST

    own = own_contrasts(canvas)
    nearest = nearest_lesion(lesions)
    shown = {name: canvas.as_shown(share, name) for name in canvas.images}
    parts = {name: showing(image, nearest) for name, image in shown.items()}
    volumes = np.bincount(parts["FLAIR"].ravel()) * lesions.voxel_volume_mm3
    kept = {name: quartiles(shown[name], parts[name]) for name in shown}
    contrasts: dict[int, dict[str, tuple[float, float]]] = {}
    for number, volume in enumerate(volumes.tolist()):
        if number and volume:
            likely = _like_own(own, volume, ranges=PAINTED_CONTRAST)
            left = {name: max(kept[name].get(number, 0.0), LEAST_KEPT) for name in shown}
            contrasts[number] = {
                name: (min(PAINTED_CONTRAST[name], key=abs) / left[name], likely[name] / left[name]) for name in shown
            }
    return contrasts


def _like_own(
    own: Sequence[tuple[float, dict[str, float]]], volume_mm3: float, *, ranges: dict[str, tuple[float, float]]
) -> dict[str, float]:
    """The median of the patient's own lesions nearest in volume, or of what raters mark; within what they mark.

    Examples
    --------
    >>> own = [(10.0 * 2**k, {"FLAIR": 1.0 + k / 10}) for k in range(20)]
    >>> _like_own(own, 10.0, ranges={"FLAIR": (0.9, 4.5)}), _like_own([], 10.0, ranges={"FLAIR": (0.5, 4.5)})
    ({'FLAIR': 1.4}, {'FLAIR': 2.5})
    """
    nearest = sorted(own, key=lambda lesion: abs(np.log(lesion[0] / volume_mm3)))[:NEIGHBOURS]
    return {
        name: float(np.clip(np.median([values[name] for _, values in nearest]) if own else np.mean(bounds), *bounds))
        for name, bounds in ranges.items()
        if not own or name in own[0][1]
    }


def own_contrasts(canvas: Canvas) -> list[tuple[float, dict[str, float]]]:
    """Volume and contrasts of each of the patient's own lesions, see :func:`lesion_contrasts`.

    A network may mark no more than the middle of a lesion: a lesion is what shows it on the FLAIR, as of painted ones.
    """
    parts = cc3d.connected_components(canvas.own.data.astype(np.uint8), connectivity=26)
    volumes = np.bincount(parts.ravel()) * canvas.own.voxel_volume_mm3
    marked = canvas.own.like(np.where(volumes[parts] >= LEAST_OWN_MM3, parts, 0))
    flair, white = canvas.images["FLAIR"].data, canvas.white & (parts == 0)
    seen = marked.like(np.zeros_like(marked.data))
    for number, box, distance, ring in _surroundings(marked, white):
        inside, around = distance == 0, flair[box][ring]
        # The very brightest voxel is as much noise as lesion.
        edge = (1 - SHOWING) * np.median(around) + SHOWING * np.percentile(flair[box][inside], 95)
        free = (seen.data[box] == 0) & ((parts[box] == 0) | inside)
        seen.data[box][free & (distance <= EDGE_MM) & (flair[box] >= edge)] = number
    counts = np.bincount(seen.data.ravel()) * seen.voxel_volume_mm3
    found = lesion_contrasts(seen, canvas.images, white=white & (seen.data == 0))
    return [(float(counts[number]), contrasts) for number, contrasts in found.items()]


def _surroundings(
    lesions: Volume, white: np.ndarray
) -> Iterator[tuple[int, tuple[slice, ...], np.ndarray, np.ndarray]]:
    """Number, box, distance to the lesion in mm and the white matter around it; none of lesions without such."""
    reach = np.ceil(AROUND_MM[1] / lesions.spacing).astype(int)
    for number, box in bounding_boxes(lesions.data, margin=reach).items():
        distance = ndimage.distance_transform_edt(lesions.data[box] != number, sampling=lesions.spacing)
        around = white[box] & (distance >= AROUND_MM[0]) & (distance <= AROUND_MM[1])
        if around.any():
            yield number, box, distance, around


def lesion_contrasts(lesions: Volume, images: dict[str, Volume], *, white: np.ndarray) -> dict[int, dict[str, float]]:
    """How each lesion differs from the white matter around it.

    Parameters
    ----------
    lesions : Volume of int
        Numbered.
    images : dict of str to Volume
        By contrast, on the same grid.
    white : (X, Y, Z) bool
        White matter without any lesion.

    Returns
    -------
    dict of int to dict of str to float
        By number and contrast: the quartile of the lesion that differs more, less the median around it. A lesion
        without white matter around it is left out.
    """
    found = {}
    for number, box, distance, around in _surroundings(lesions, white):
        inside = distance == 0
        found[number] = {
            name: float(
                np.percentile(image.data[box][inside], 25 if name == "T1w" else 75) - np.median(image.data[box][around])
            )
            for name, image in images.items()
        }
    return found


def nearest_lesion(lesions: Volume) -> np.ndarray:
    """The number of the lesion that is nearest to each voxel: (X, Y, Z) int; 0 everywhere without any."""
    if not lesions.data.any():
        return np.zeros(lesions.shape, int)
    where = ndimage.distance_transform_edt(
        lesions.data == 0, sampling=lesions.spacing, return_distances=False, return_indices=True
    )
    return lesions.data[tuple(where)].astype(int)


def showing(shown: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """The voxels that show each lesion: those nearest to it with SHOWING of its highest contrast or more.

    That is how it would be marked by somebody who sees the scan alone.

    Parameters
    ----------
    shown : (X, Y, Z) float
        What a scan shows of lesions that were painted.
    nearest : (X, Y, Z) int
        Of :func:`nearest_lesion`.

    Returns
    -------
    (X, Y, Z) int
        Their numbers, 0 elsewhere.

    Examples
    --------
    >>> showing(np.array([0.3, 1.0, 0.6, 0.1, 0.2]), np.array([1, 1, 1, 2, 2])).tolist()
    [0, 1, 1, 2, 2]
    """
    highest = np.zeros(int(nearest.max()) + 1)
    numbers = np.unique(nearest)
    highest[numbers] = ndimage.maximum(shown, nearest, numbers)
    return np.where((shown > 0) & (shown >= SHOWING * highest[nearest]), nearest, 0)


def quartiles(shown: np.ndarray, parts: np.ndarray) -> dict[int, float]:
    """The upper quartile in each part, by its number."""
    return {
        number: float(np.percentile(shown[box][parts[box] == number], 75))
        for number, box in bounding_boxes(parts).items()
    }
