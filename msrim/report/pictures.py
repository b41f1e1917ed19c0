"""Pictures of a report: slices of an upright grid with outlines that stay sharp at any size.

Every picture follows the radiological convention: the patient's right is on the picture's left in axial and coronal
slices, anterior is on the left in sagittal ones, and anterior (axial) or superior (the others) is at the top.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.measure import find_contours

from msrim.image import Volume, grid_around
from msrim.transform import apply_transform, rigid_part

GRID_SPACING_MM = 0.8
GRID_MARGIN_MM = 10.0
LABEL_HEIGHT_MM = 6.5
# A slice shows a lesion when it meets at least this part of the lesion's largest section in that plane.
SHOWN_FRACTION = 0.5
# Shorter edges than this are noise and small vessels, and hide what the eye should follow.
MIN_EDGE_MM = 25.0


@dataclass(frozen=True)
class Plane:
    """One of the three viewing planes, with the letters at its pictures' left and right sides."""

    name: str
    axis: int
    left: str
    right: str
    axis_name: str


AXIAL = Plane("axial", 2, "R", "L", "z")
CORONAL = Plane("coronal", 1, "R", "L", "y")
SAGITTAL = Plane("sagittal", 0, "A", "P", "x")


@dataclass(frozen=True)
class Picture:
    """One slice, as the page shows it; lengths in mm from the picture's top left corner.

    Attributes
    ----------
    plane : Plane
    position_mm : float
        MNI coordinate of the slice's middle along the plane's normal.
    size_mm : (2,) float
        Width and height.
    image : str
        Data URI.
    under, over : str or None
        Data URIs of an image to compare with and of a transparent overlay.
    outlines : dict of str to str
        SVG path by style class.
    numbers : list of (float, float, int)
        Left end and baseline of a lesion's number.
    lesions : dict of int to int
        Every lesion that the slice meets, with the pixels of its section.
    """

    plane: Plane
    position_mm: float
    size_mm: tuple[float, float]
    image: str
    under: str | None = None
    over: str | None = None
    outlines: dict[str, str] = field(default_factory=dict)
    numbers: list[tuple[float, float, int]] = field(default_factory=list)
    lesions: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Frame:
    """The upright grid that all pictures are cut from.

    Attributes
    ----------
    grid : Volume
        Its axes run to the patient's right, anterior and superior; its affine leads to FLAIR space.
    mni_from_grid : (4, 4) float
        Voxel index to MNI mm.
    """

    grid: Volume
    mni_from_grid: np.ndarray

    def position_mm(self, plane: Plane, index: int) -> float:
        """MNI coordinate, along the plane's normal, of the middle of a slice."""
        middle = (np.array(self.grid.shape) - 1) / 2
        middle[plane.axis] = index
        return float(apply_transform(self.mni_from_grid, middle)[plane.axis])

    def size_mm(self, plane: Plane) -> tuple[float, float]:
        """Width and height of a plane's pictures."""
        across, up = (self.grid.shape[axis] * GRID_SPACING_MM for axis in range(3) if axis != plane.axis)
        return across, up


def upright_frame(brain: Volume, *, mni_from_flair: np.ndarray) -> Frame:
    """An isotropic grid around the brain, turned (not stretched) to stand as the MNI template does.

    Parameters
    ----------
    brain : Volume
        Brain mask in FLAIR space; an empty one frames the whole image.
    mni_from_flair : (4, 4) float
    """
    upright_from_flair = rigid_part(mni_from_flair)
    mask = brain.data > 0
    voxels = np.argwhere(mask if mask.any() else np.ones(brain.shape, bool))
    points = apply_transform(upright_from_flair @ brain.affine, voxels)
    lowest = points.min(axis=0) - GRID_MARGIN_MM
    box = grid_around(points.max(axis=0) + GRID_MARGIN_MM - lowest, lowest, spacing_mm=GRID_SPACING_MM)
    affine = np.linalg.inv(upright_from_flair) @ box.affine
    return Frame(Volume(box.data, affine), mni_from_flair @ affine)


def picture_slice(data: np.ndarray, plane: Plane, index: int) -> np.ndarray:
    """One slice of an upright array as rows from the top and columns from the left.

    Parameters
    ----------
    data : (X, Y, Z, ...) array
        Axes run to the right, anterior and superior.
    plane : Plane
    index : int

    Examples
    --------
    >>> head = np.zeros((2, 3, 4)); head[0, 2, 3] = 1  # left, anterior, superior
    >>> np.argwhere(picture_slice(head, AXIAL, 3)).tolist()  # top right: radiological
    [[0, 1]]
    >>> np.argwhere(picture_slice(head, SAGITTAL, 0)).tolist()  # top left: anterior is on the left
    [[0, 0]]
    """
    return np.moveaxis(data, plane.axis, 0)[index].swapaxes(0, 1)[::-1, ::-1]


def window(data: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Grey values 0 to 255, with the median of what is ``inside`` at mid-grey or darker, so that lesions stand out.

    Parameters
    ----------
    data : (X, Y, Z) float
    inside : (X, Y, Z) bool
        An empty mask takes every voxel.
    """
    low, middle, high = np.percentile(data[inside] if inside.any() else data, (1.0, 50.0, 99.7))
    high = max(high, low + 1.8 * (middle - low), low + 1e-6)
    return np.clip((data - low) * (255 / (high - low)), 0, 255).astype(np.uint8)


def data_uri(pixels: np.ndarray) -> str:
    """A WebP image in a data URI: (H, W) grey, or (H, W, 4) with transparency, kept without loss."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "WEBP", quality=82, method=4, lossless=pixels.ndim == 3)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def outline(mask: np.ndarray) -> str:
    """SVG path, in mm, around the pixels of a (H, W) bool mask."""
    return _path(find_contours(np.pad(mask, 1).astype(np.float32), 0.5), padding=1)


def edges(picture: np.ndarray, level: float, inside: np.ndarray) -> str:
    """SVG path, in mm, along the larger edges where a (H, W) picture crosses ``level``, within ``inside``."""
    smooth = ndimage.gaussian_filter(picture, 0.8 / GRID_SPACING_MM)
    lines = find_contours(smooth, level, mask=inside)
    return _path([line for line in lines if len(line) * GRID_SPACING_MM > MIN_EDGE_MM])


def _path(lines: list[np.ndarray], *, padding: int = 0) -> str:
    parts = []
    for line in lines:
        points = np.round((line[:, ::-1] - padding + 0.5) * GRID_SPACING_MM, 1)
        parts.append("M" + "L".join(f"{x:g} {y:g}" for x, y in points))
    return "".join(parts)


def choose_slices(instances: np.ndarray, plane: Plane, *, extent: range, least: int, most: int) -> list[int]:
    """Slices that together show as many lesions as possible, and no part of the brain left out.

    The slice that shows the most lesions not yet shown is taken first, and so on, up to ``most``. Then the brain is cut
    into ``least`` equal slabs, and one without a slice gets its middle one: the reader also sees where nothing was
    marked.

    Parameters
    ----------
    instances : (X, Y, Z) int
        Lesions 1..n on the upright grid.
    plane : Plane
    extent : range
        Slices that meet the brain.
    least, most : int
    """
    voxels = np.nonzero(instances)
    sections = np.zeros((int(instances.max(initial=0)) + 1, instances.shape[plane.axis]), int)
    np.add.at(sections, (instances[voxels], voxels[plane.axis]), 1)
    largest = sections.max(axis=1, keepdims=True)
    shown = (largest > 0) & (sections >= SHOWN_FRACTION * largest)
    chosen: list[int] = []
    while shown.any() and len(chosen) < most:
        # Among slices that show equally many, the one with the largest sections.
        best = int(np.lexsort((sections.sum(axis=0), shown.sum(axis=0)))[-1])
        chosen.append(best)
        shown[shown[:, best]] = False
    for slab in np.array_split(np.array(extent), least):
        if slab.size and not set(chosen) & set(slab.tolist()):
            chosen.append(int(slab[slab.size // 2]))
    return sorted(chosen)


def mask_extent(mask: np.ndarray, plane: Plane) -> range:
    """Slices of a (X, Y, Z) bool mask from the first to the last that holds some of it."""
    occupied = np.flatnonzero(mask.any(axis=tuple(axis for axis in range(3) if axis != plane.axis)))
    return range(int(occupied[0]), int(occupied[-1]) + 1) if occupied.size else range(mask.shape[plane.axis])


def lesion_pictures(
    frame: Frame, plane: Plane, *, grey: np.ndarray, instances: np.ndarray, brain: np.ndarray, least: int, most: int
) -> list[Picture]:
    """The mosaic of one plane: slices of the FLAIR with every lesion outlined, and numbered where there is room.

    Parameters
    ----------
    frame : Frame
    plane : Plane
    grey : (X, Y, Z) uint8
        FLAIR on the frame's grid, windowed.
    instances : (X, Y, Z) int
    brain : (X, Y, Z) bool
    least, most : int
        Bounds of :func:`choose_slices`.
    """
    pictures = []
    for index in choose_slices(instances, plane, extent=mask_extent(brain, plane), least=least, most=most):
        here = picture_slice(instances, plane, index)
        # Each lesion by itself, so that the parts of a split confluent one keep a border between them.
        masks = {int(lesion): here == lesion for lesion in np.unique(here[here > 0])}
        picture = Picture(
            plane,
            frame.position_mm(plane, index),
            frame.size_mm(plane),
            data_uri(picture_slice(grey, plane, index)),
            outlines={"lesion": "".join(outline(mask) for mask in masks.values())},
            numbers=place_numbers(masks, here > 0),
            lesions={lesion: int(np.count_nonzero(mask)) for lesion, mask in masks.items()},
        )
        pictures.append(picture)
    return pictures


def place_numbers(masks: dict[int, np.ndarray], lesions: np.ndarray) -> list[tuple[float, float, int]]:
    """Put each lesion's number beside it, the largest first, where it covers neither a lesion nor another number."""
    taken = lesions.copy()
    height = int(np.ceil(LABEL_HEIGHT_MM / GRID_SPACING_MM))
    numbers = []
    for lesion, mask in sorted(masks.items(), key=lambda item: -np.count_nonzero(item[1])):
        rows, columns = np.nonzero(mask)
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        width = int(np.ceil(0.6 * LABEL_HEIGHT_MM * len(str(lesion)) / GRID_SPACING_MM))
        row, column = (top + bottom - height) // 2, (left + right - width) // 2
        for y, x in ((row, right + 1), (row, left - width - 1), (top - height - 1, column), (bottom + 1, column)):
            box = taken[max(y, 0) : y + height, max(x, 0) : x + width]
            if box.shape == (height, width) and not box.any():
                box[:] = True
                numbers.append((x * GRID_SPACING_MM, (y + 0.86 * height) * GRID_SPACING_MM, lesion))
                break
    return numbers
