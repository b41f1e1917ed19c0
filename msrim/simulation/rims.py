"""Lesions as susceptibility shows them: with a rim, without one, and without one but easily mistaken.

Everything is in ppm and in the millimetres of the head that the lesions lie in.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cc3d
import numpy as np
from edt import edt
from scipy.ndimage import map_coordinates

from msrim.files import read_arrays
from msrim.simulation.shapes import Blob, random_blob

# What tells lesions apart, tuned once and frozen; msrim.simulation.cohort says on what.
RIM_PPM = (0.053, 0.37)  # median and log-deviation of a rim's susceptibility above its surroundings
RIM_MM = (1.0, 2.4)
COMPLETE = (2 / 3, 1.0)  # share of the edge that a rim takes up
INCOMPLETE = (0.2, 0.5)
LESION_PPM = (0.012, 0.010)  # mean and deviation of demyelinated tissue above white matter
CENTRE_PPM = (0.02, 0.06)
VEIN_PPM = 0.4
EDGE_VEIN_MM = (0.18, 0.32)
CENTRAL_VEIN_MM = (0.1, 0.25)
# What a lesion without a rim is, and how often: a small one, and one as large as those with a rim.
KINDS = ("plain", "faint", "finger", "bright centre", "edge vein", "partial rim")
KINDS_SMALL = (0.60, 0.16, 0.13, 0.05, 0.04, 0.02)
KINDS_LARGE = (0.42, 0.13, 0.14, 0.13, 0.11, 0.07)
HARD_KINDS = KINDS[3:]
CENTRAL_VEIN_CHANCE = 0.4

# Median and log-deviation of the in-plane radius, and its bounds, in mm.
RADIUS_MM = {True: (4.9, 0.25, 3.75, 11.25), False: (2.9, 0.45, 1.4, 13.0)}
EDGE_MM = 0.8  # width over which a lesion's edge fades
WAVES = 4


@dataclass(frozen=True)
class TracedShape:
    """The shape of somebody's lesion, from a mask.

    Attributes
    ----------
    centre_mm, radii_mm : (3,) float
        Middle and half-widths of the box around it.
    depth : (X, Y, Z) float32, mm
        Signed distance to its surface, positive inside.
    affine : (4, 4) float
        Of ``depth``.
    """

    centre_mm: np.ndarray
    radii_mm: np.ndarray
    depth: np.ndarray
    affine: np.ndarray

    def depth_mm(self, points_mm: np.ndarray) -> np.ndarray:
        """How far inside the surface points lie, (...) float; negative outside."""
        inverse = np.linalg.inv(self.affine)
        voxels = np.moveaxis(points_mm @ inverse[:3, :3].T + inverse[:3, 3], -1, 0)
        return map_coordinates(self.depth, voxels, order=1, mode="nearest")


@dataclass(frozen=True)
class Vein:
    """A curve with a radius: ``points_mm`` (N, 3) at equal steps."""

    points_mm: np.ndarray
    radius_mm: float


@dataclass(frozen=True)
class RimLesion:
    """One lesion.

    Attributes
    ----------
    shape : Blob or TracedShape
    kind : str
        "rim" or one of KINDS.
    lesion_ppm : float
        Of its whole body, above the tissue that it replaces.
    centre_ppm : float
        Of a bright centre.
    rim_ppm, rim_mm : float
        Susceptibility and thickness of its rim; 0 ppm for none.
    around : (360,) float
        How much of the rim there is in each direction, degree by degree.
    veins : tuple of Vein
    """

    shape: Blob | TracedShape
    kind: str
    lesion_ppm: float
    centre_ppm: float
    rim_ppm: float
    rim_mm: float
    around: np.ndarray
    veins: tuple[Vein, ...]

    @property
    def rim(self) -> bool:
        """Whether it is rim+: a rim along at least two thirds of the edge."""
        return self.kind == "rim"

    def extent(self, points_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fraction inside the lesion, and susceptibility that it adds (ppm), at points: (...) float each."""
        depth = self.shape.depth_mm(points_mm)
        inside = np.clip(depth / EDGE_MM + 0.5, 0, 1)
        added = inside * self.lesion_ppm
        if self.centre_ppm:
            added += self.centre_ppm * np.clip(depth / (0.6 * self.shape.radii_mm.min()), 0, 1)
        if self.rim_ppm:
            away = points_mm - self.shape.centre_mm
            # The gaps wind around the lesion with height, so that no slice has quite the rim of its neighbour.
            angle = np.degrees(np.arctan2(away[..., 1], away[..., 0])) + 4 * away[..., 2]
            present = np.interp(angle, np.arange(360), self.around, period=360)
            added += self.rim_ppm * present * np.exp(-0.5 * ((depth / self.rim_mm - 0.5) / 0.42) ** 2)
        return inside, added


def draw_lesion(shape: Blob | TracedShape, *, rim: bool, rng: np.random.Generator) -> RimLesion:
    """Draw what a lesion of a given shape consists of."""
    large = np.sort(shape.radii_mm)[1] > RADIUS_MM[True][2]
    kind = "rim" if rim else str(rng.choice(KINDS, p=KINDS_LARGE if large else KINDS_SMALL))
    lesion_ppm = rng.normal(*LESION_PPM)
    veins = []
    if kind == "finger" or rng.random() < CENTRAL_VEIN_CHANCE:
        veins.append(_central_vein(shape, rng))
    if kind == "edge vein":
        veins.append(_edge_vein(shape, rng))
    has_rim = kind in ("rim", "partial rim")
    return RimLesion(
        shape=shape,
        kind=kind,
        lesion_ppm=0.2 * lesion_ppm if kind == "faint" else lesion_ppm,
        centre_ppm=rng.uniform(*CENTRE_PPM) if kind == "bright centre" else 0.0,
        rim_ppm=RIM_PPM[0] * np.exp(RIM_PPM[1] * rng.standard_normal()) if has_rim else 0.0,
        rim_mm=rng.uniform(*RIM_MM),
        around=_rim_around(rng.uniform(*(COMPLETE if rim else INCOMPLETE)), rng),
        veins=tuple(veins),
    )


def draw_shape(centre_mm: np.ndarray, *, rim: bool, direction: np.ndarray | None, rng: np.random.Generator) -> Blob:
    """A made lesion: size as rims and others have them, a finger where there is a direction.

    Parameters
    ----------
    centre_mm : (3,) float
    rim : bool
    direction : (3,) float, optional
        Along a venule, for Dawson's fingers; roundish without.
    """
    radius = draw_radius_mm(rim=rim, rng=rng)
    stretch = rng.uniform(0.8, 1.25, 3)
    if direction is not None:
        stretch *= (1.5, 0.8, 0.8)
    return random_blob(centre_mm, radius * stretch, rng=rng, direction=direction, roughness=rng.uniform(0.04, 0.12))


def draw_radius_mm(*, rim: bool, rng: np.random.Generator) -> float:
    """Radius in the plane of the slices."""
    median, deviation, low, high = RADIUS_MM[rim]
    return float(np.clip(median * np.exp(deviation * rng.standard_normal()), low, high))


class ShapeBank:
    """Shapes and places of other people's lesions, in MNI space, from an .npz of flat indices.

    Parameters
    ----------
    path : Path
        Holds ``voxels`` (flat C-order indices), ``offsets``, ``shape`` and ``affine``.
    """

    def __init__(self, path: Path) -> None:
        voxels, offsets, shape, self.affine = read_arrays(path, "voxels", "offsets", "shape", "affine")
        self.voxels, self.offsets = voxels.astype(np.int64), offsets.astype(np.int64)
        self.shape = tuple(int(n) for n in shape)
        # Half of a map is often its other half's mirror image; sizes are of one.
        self.radii_mm = (np.diff(self.offsets) / 2 * 3 / (4 * np.pi)) ** (1 / 3)

    def draw(self, *, rim: bool, rng: np.random.Generator) -> TracedShape:
        """A lesion of about the size that :func:`draw_radius_mm` asks for, where it was."""
        wanted = draw_radius_mm(rim=rim, rng=rng)
        index = int(rng.choice(np.argsort(np.abs(self.radii_mm - wanted))[:60]))
        voxels = np.stack(
            np.unravel_index(self.voxels[self.offsets[index] : self.offsets[index + 1]], self.shape), axis=-1
        )
        low = voxels.min(axis=0)
        mask = np.zeros(np.ptp(voxels, axis=0) + 1, np.uint8)
        mask[tuple((voxels - low).T)] = 1
        parts = cc3d.connected_components(mask, connectivity=26)
        voxels = np.argwhere(parts == rng.integers(1, parts.max() + 1)) + low
        return traced_shape(voxels, self.affine)


def traced_shape(voxels: np.ndarray, affine: np.ndarray, *, margin: int = 6) -> TracedShape:
    """The shape of a set of voxels (N, 3) on a grid of 1 mm."""
    low = voxels.min(axis=0) - margin
    mask = np.zeros(np.ptp(voxels, axis=0) + 1 + 2 * margin, bool)
    mask[tuple((voxels - low).T)] = True
    depth = edt(mask, parallel=1) - edt(~mask, parallel=1)
    # Half a voxel from the last centre inside to the surface.
    depth -= 0.5 * np.sign(depth)
    to_world = affine.copy()
    to_world[:3, 3] = affine[:3, :3] @ low + affine[:3, 3]
    corners = np.stack([voxels.min(axis=0), voxels.max(axis=0)]) @ affine[:3, :3].T + affine[:3, 3]
    return TracedShape(corners.mean(axis=0), np.abs(np.ptp(corners, axis=0)) / 2 + 0.5, depth, to_world)


def random_vein(
    start_mm: np.ndarray, direction: np.ndarray, *, length_mm: float, rng: np.random.Generator
) -> np.ndarray:
    """A curve that wanders about a direction: (N, 3) points, mm, a quarter of a millimetre apart."""
    steps = int(length_mm / 0.25)
    turns = np.cumsum(rng.normal(0, 0.02, (steps, 3)), axis=0)
    heading = direction / np.linalg.norm(direction) + turns
    heading /= np.linalg.norm(heading, axis=1, keepdims=True)
    return start_mm + 0.25 * np.cumsum(heading, axis=0)


def _central_vein(shape: Blob | TracedShape, rng: np.random.Generator) -> Vein:
    direction = shape.axes[:, 0] if isinstance(shape, Blob) else rng.standard_normal(3)
    length = 2.4 * shape.radii_mm.max()
    points = random_vein(np.zeros(3), direction, length_mm=length, rng=rng)
    return Vein(points - points.mean(axis=0) + shape.centre_mm, rng.uniform(*CENTRAL_VEIN_MM))


def _edge_vein(shape: Blob | TracedShape, rng: np.random.Generator) -> Vein:
    """A vein that bends around a part of the lesion, more or less within a slice."""
    span = rng.uniform(np.radians(90), np.radians(230))
    angles = rng.uniform(0, 2 * np.pi) + np.linspace(0, span, 60)
    heading = np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=-1)
    height = rng.uniform(-0.3, 0.3) * shape.radii_mm[2] + rng.normal(0, 1.5) * np.linspace(-0.5, 0.5, 60)
    middle = shape.centre_mm + height[:, None] * np.array([0, 0, 1.0])
    reach = np.arange(0, 1.6 * shape.radii_mm.max(), 0.25)
    inside = shape.depth_mm(middle[:, None] + reach[:, None] * heading[:, None]) > 0
    edge = np.where(inside.any(axis=1), reach[inside.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)], 1.0)
    curve = middle + edge[:, None] * heading
    steps = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    at = np.arange(0, steps[-1], 0.25)
    return Vein(np.stack([np.interp(at, steps, axis) for axis in curve.T], axis=-1), rng.uniform(*EDGE_VEIN_MM))


def _rim_around(complete: float, rng: np.random.Generator) -> np.ndarray:
    """How much of a rim there is, degree by degree: near 1 over a share of the edge, near 0 elsewhere."""
    angle = np.radians(np.arange(360))
    order = np.arange(1, WAVES + 1)[:, None]
    wave = (np.cos(order * angle + rng.uniform(0, 2 * np.pi, (WAVES, 1))) * rng.random((WAVES, 1))).sum(axis=0)
    level = np.quantile(wave, 1 - complete)
    strength = 1 + 0.25 * np.cos(3 * angle + rng.uniform(0, 2 * np.pi))
    return strength / (1 + np.exp(-np.clip((wave - level) / 0.06, -30, 30)))
