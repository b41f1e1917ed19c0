"""Lesions as susceptibility shows them: with a rim, without one, and without one but easily mistaken.

Everything is in ppm and in the millimetres of the head that the lesions lie in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from msrim.simulation.rim_shapes import TracedShape


@dataclass(frozen=True)
class Dials:
    """How hard a cohort is: frozen on 26 November 2026, before any network was trained on it.

    Set on what can be seen. In ten simulated patients with 140 rims and 2083 other lesions the edge is 10 ppb above the
    core in 92 % of rims, rim+ lesions are 11.4 ppb above others, and the mean alone has a pROC AUC of 0.17.
    It is harder than real data for APRL (RF) and easier for APRL (NN): the benchmarks' README has the figures::

        python -m tests.benchmarks.rim_calibration --lesion-bank NPZ --head-labels DIR --out DIR
            --subjects 10 --lesions 14 210 --seed 100 --methods mean aprl-rf aprl-nn

    Attributes
    ----------
    rim_ppm : float
        Median susceptibility of a rim above its lesion.
    unevenness : float
        How much a rim's thickness and susceptibility vary along the edge, and a lesion's body inside, in shares.
    outline_mm : float
        Deviation of an outline's place and of how far it is drawn inside or outside the edge.
    """

    rim_ppm: float = 0.070
    unevenness: float = 0.25
    outline_mm: float = 0.4


RIM_SPREAD = 0.2  # log-deviation of a rim's susceptibility
RIM_MM = (0.9, 2.0)
# A rim falls to a tenth at 1.4 times its thickness; within, two voxels of core are left (RIMS need room to be seen).
DEPTH_PER_RIM, CORE_MM = 1.4, 1.5
COMPLETE = 2 / 3  # share of the edge from which on a rim counts as one
LEAST_SHARE = 0.1
# Lesions without a rim. By age (Chen et al. 2014, Radiology 271:183) they are 0.5, 38 or 4.7 ppb above their
# surroundings; one in eight is solid and bright (11 % diffuse to 6 % with a rim, AJR 2022;219:120).
KINDS = ("plain", "fresh", "solid", "finger", "edge vein", "partial rim")
CHANCES = (0.58, 0.05, 0.13, 0.12, 0.07, 0.05)
HARD_KINDS = ("solid", "edge vein", "partial rim")  # as large as those with a rim
BODY_PPM = {
    "plain": (0.0047, 0.007),
    "fresh": (0.0005, 0.004),
    "solid": (0.038, 0.007),
    "finger": (0.0047, 0.007),
    "edge vein": (0.008, 0.008),
    "partial rim": (0.008, 0.007),
    "rim": (-0.002, 0.007),
}
SOLID_PPM = (0.025, 0.050)
VEIN_PPM = 0.4
EDGE_VEIN_MM = (0.18, 0.32)
CENTRAL_VEIN_MM = (0.1, 0.25)
# 73 % of lesions on FLAIR* (Castellaro et al. 2020), 53 % on multi-echo gradient echo (J Neuroimaging 2022).
CENTRAL_VEIN_CHANCE = {True: 0.7, False: 0.55}
EDGE_MM = 0.8  # width over which a lesion's edge fades
WAVES = 5


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
    shape : TracedShape
    kind : str
        "rim" or one of KINDS.
    body_ppm : float
        Of its whole body, above the tissue that it replaces.
    peak, slope : float, (3,) float per mm
        How its body differs from even: towards the middle, in shares, and from side to side.
    rim_ppm, rim_mm : float
        Susceptibility and mean thickness of its rim; 0 ppm for none.
    share : float
        Of the edge that its rim takes up.
    around, thickness : (360,) float
        How much of the rim there is in each direction, degree by degree, and its thickness in shares of ``rim_mm``.
    veins : tuple of Vein
    """

    shape: TracedShape
    kind: str
    body_ppm: float
    peak: float
    slope: np.ndarray
    rim_ppm: float
    rim_mm: float
    share: float
    around: np.ndarray
    thickness: np.ndarray
    veins: tuple[Vein, ...]

    @property
    def rim(self) -> bool:
        """Whether it is rim+: a rim along at least two thirds of the edge."""
        return self.kind == "rim"

    def at(self, centre_mm: np.ndarray) -> RimLesion:
        """The same lesion elsewhere, veins included."""
        shift = centre_mm - self.shape.centre_mm
        veins = tuple(Vein(vein.points_mm + shift, vein.radius_mm) for vein in self.veins)
        return replace(self, shape=self.shape.moved(centre_mm), veins=veins)

    def susceptibility(self, points_mm: np.ndarray) -> np.ndarray:
        """Its susceptibility at points: (...) float, ppm."""
        depth = self.shape.depth_mm(points_mm)
        away = points_mm - self.shape.centre_mm
        inside = np.clip(depth / EDGE_MM + 0.5, 0, 1)
        uneven = 1 + self.peak * (np.clip(depth / self.shape.inscribed_mm, 0, 1) - 0.5) + away @ self.slope
        added = inside * self.body_ppm * uneven
        if self.rim_ppm:
            # The gaps wind around the lesion with height, so that no slice has quite the rim of its neighbour.
            angle = np.degrees(np.arctan2(away[..., 1], away[..., 0])) + 4 * away[..., 2]
            present, width = (np.interp(angle, np.arange(360), of, period=360) for of in (self.around, self.thickness))
            added += self.rim_ppm * present * np.exp(-0.5 * ((depth / (self.rim_mm * width) - 0.5) / 0.42) ** 2)
        return added


def draw_kind(rng: np.random.Generator) -> str:
    """Kind of a lesion without a rim."""
    return str(rng.choice(KINDS, p=CHANCES))


def is_large(kind: str) -> bool:
    """Whether lesions of a kind are as large as those with a rim."""
    return kind == "rim" or kind in HARD_KINDS


def draw_lesion(shape: TracedShape, kind: str, *, dials: Dials, rng: np.random.Generator) -> RimLesion | None:
    """Draw what a lesion of a given shape consists of; None where it has no room for its rim."""
    rim_mm, thickness = 1.0, np.ones(360)
    if has_rim := kind in ("rim", "partial rim"):
        thickness = 1 + dials.unevenness * _wave(rng)
        widest = (shape.inscribed_mm - CORE_MM) / (DEPTH_PER_RIM * thickness.max())
        if widest < RIM_MM[0]:
            return None
        rim_mm = rng.uniform(RIM_MM[0], min(RIM_MM[1], widest))
    body = rng.normal(*BODY_PPM[kind])
    if kind == "solid":
        body = float(np.clip(body, *SOLID_PPM))
    share = 0.0
    if has_rim:
        share = rng.uniform(COMPLETE, 1) if kind == "rim" else rng.uniform(LEAST_SHARE, COMPLETE)
    veins = []
    if kind == "finger" or rng.random() < CENTRAL_VEIN_CHANCE[kind == "rim"]:
        veins.append(_central_vein(shape, rng))
    if kind == "edge vein":
        veins.append(_edge_vein(shape, rng))
    direction = rng.standard_normal(3)
    return RimLesion(
        shape=shape,
        kind=kind,
        body_ppm=body,
        peak=rng.uniform(-0.2, 1.0) if kind == "solid" else rng.uniform(-0.3, 0.6),
        slope=dials.unevenness * rng.random() * direction / np.linalg.norm(direction) / shape.radii_mm.mean(),
        rim_ppm=dials.rim_ppm * np.exp(RIM_SPREAD * rng.standard_normal()) if has_rim else 0.0,
        rim_mm=rim_mm,
        share=share,
        around=_rim_around(share, dials.unevenness, rng) if has_rim else np.zeros(360),
        thickness=thickness,
        veins=tuple(veins),
    )


def random_vein(
    start_mm: np.ndarray, direction: np.ndarray, *, length_mm: float, tortuosity: float, rng: np.random.Generator
) -> np.ndarray:
    """A curve that wanders about a direction: (N, 3) points, mm, a quarter of a millimetre apart.

    ``tortuosity`` is the deviation of a step's turn, rad.
    """
    steps = int(length_mm / 0.25)
    turns = np.cumsum(rng.normal(0, tortuosity, (steps, 3)), axis=0)
    heading = direction / np.linalg.norm(direction) + turns
    heading /= np.linalg.norm(heading, axis=1, keepdims=True)
    return start_mm + 0.25 * np.cumsum(heading, axis=0)


def _central_vein(shape: TracedShape, rng: np.random.Generator) -> Vein:
    length = 2.4 * shape.radii_mm.max()
    points = random_vein(np.zeros(3), rng.standard_normal(3), length_mm=length, tortuosity=0.02, rng=rng)
    return Vein(points - points.mean(axis=0) + shape.centre_mm, rng.uniform(*CENTRAL_VEIN_MM))


def _edge_vein(shape: TracedShape, rng: np.random.Generator) -> Vein:
    """A vein that bends around a part of the lesion, more or less within a slice and now nearer, now further."""
    span = rng.uniform(np.radians(90), np.radians(260))
    angles = rng.uniform(0, 2 * np.pi) + np.linspace(0, span, 90)
    heading = np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=-1)
    height = rng.uniform(-0.3, 0.3) * shape.radii_mm[2] + rng.normal(0, 1.5) * np.linspace(-0.5, 0.5, 90)
    middle = shape.centre_mm + height[:, None] * np.array([0, 0, 1.0])
    reach = np.arange(0, 1.6 * shape.radii_mm.max(), 0.25)
    inside = shape.depth_mm(middle[:, None] + reach[:, None] * heading[:, None]) > 0
    edge = np.where(inside.any(axis=1), reach[inside.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)], 1.0)
    # Tortuous: it sways about the edge and across the slices.
    sway = rng.uniform(0.3, 1.0) * np.interp(np.linspace(0, 8, 90), np.arange(9), rng.standard_normal(9))
    curve = middle + (edge + sway)[:, None] * heading
    curve[:, 2] += rng.uniform(0.3, 1.0) * np.interp(np.linspace(0, 8, 90), np.arange(9), rng.standard_normal(9))
    steps = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    at = np.arange(0, steps[-1], 0.25)
    return Vein(np.stack([np.interp(at, steps, axis) for axis in curve.T], axis=-1), rng.uniform(*EDGE_VEIN_MM))


def _wave(rng: np.random.Generator) -> np.ndarray:
    """A periodic curve over the degrees of a turn, between -1 and 1."""
    angle = np.radians(np.arange(360))
    order = np.arange(1, WAVES + 1)[:, None]
    strength = rng.random((WAVES, 1)) / np.sqrt(order)
    wave = (np.cos(order * angle + rng.uniform(0, 2 * np.pi, (WAVES, 1))) * strength).sum(axis=0)
    return wave / np.abs(wave).max()


def _rim_around(share: float, unevenness: float, rng: np.random.Generator) -> np.ndarray:
    """How much of a rim there is, degree by degree: about 1 over a share of the edge, near 0 elsewhere."""
    wave = _wave(rng)
    level = np.quantile(wave, 1 - share)
    return (1 + unevenness * _wave(rng)) / (1 + np.exp(-np.clip((wave - level) / 0.05, -30, 30)))
