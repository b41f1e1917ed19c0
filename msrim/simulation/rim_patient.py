"""One patient with known rims: what gradient echo, QSM and FLAIR make of a brain and the lesions in it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

from msrim.image import Volume, resample
from msrim.simulation.rim_brain import Brain, scatter_lesions
from msrim.simulation.rims import VEIN_PPM, RimLesion, ShapeBank, random_vein
from msrim.simulation.shapes import smooth_field
from msrim.simulation.susceptibility import GradientEcho, acquire, field_of, fit_field, invert_dipole
from msrim.transform import apply_transform

TISSUE_PPM = {"white": -0.030, "grey": 0.010, "iron": 0.12}
TISSUE_R2STAR = {"white": 22.0, "grey": 18.0, "csf": 3.0}  # 1/s
R2STAR_PER_PPM = 120.0
DENSITY = {"white": 1.0, "grey": 1.05, "csf": 0.8}
FLAIR = {"white": 1.0, "grey": 1.25, "csf": 0.2}
FLAIR_LESION = (0.45, 0.95)
FLAIR_NOISE = 0.05
TEXTURE_PPM = 0.004
VEINS = 250
SUB_SLICE_MM = 1.5
MARGIN_MM = 6.0
SMALLEST_VOXELS = 4


@dataclass(frozen=True)
class Scanner:
    """How a cohort is scanned.

    Attributes
    ----------
    in_plane_mm, slice_mm : float
        Voxel edges of the QSM.
    echoes : GradientEcho
    """

    in_plane_mm: float = 0.75
    slice_mm: float = 3.0
    echoes: GradientEcho = field(default_factory=GradientEcho)


@dataclass(frozen=True, eq=False)
class Patient:
    """One patient's images and truth, all on the QSM's grid.

    Attributes
    ----------
    qsm : Volume of float32, ppm
        Relative to the ventricles' CSF; 0 outside the brain.
    flair : Volume of float32
    instances : Volume of int
        0 outside lesions, 1..n inside.
    lesions : list of RimLesion
        In that order.
    """

    qsm: Volume
    flair: Volume
    instances: Volume
    lesions: list[RimLesion]


def simulate_patient(
    brain: Brain,
    *,
    rims: int,
    others: int,
    rng: np.random.Generator,
    scanner: Scanner | None = None,
    bank: ShapeBank | None = None,
) -> Patient:
    """Scan one patient: the brain in a size and pose of its own, with lesions, seen by the gradient echo.

    Parameters
    ----------
    brain : Brain
    rims, others : int
        Lesions wanted; those that find no place or end up smaller than SMALLEST_VOXELS are left out.
    """
    pose = _pose(rng)
    lesions = scatter_lesions(brain, rims=rims, others=others, bank=bank, rng=rng)
    return scan_lesions(brain, lesions, pose=pose, scanner=scanner or Scanner(), rng=rng)


def scan_lesions(
    brain: Brain, lesions: list[RimLesion], *, pose: np.ndarray, scanner: Scanner, rng: np.random.Generator
) -> Patient:
    """Scan a brain with given lesions.

    Parameters
    ----------
    brain : Brain
    lesions : list of RimLesion
        In the brain's own millimetres.
    pose : (4, 4) float
        From there to the scanner's.
    scanner : Scanner
    rng : numpy.random.Generator
    """
    grid, parts = _fine_grid(brain, pose, scanner)
    tissue = {name: resample(volume, grid, target_from_source=pose).data for name, volume in brain.maps.items()}
    tissue["brain"] = tissue["white"] + tissue["grey"] + tissue["csf"]
    level = TISSUE_PPM["iron"] * rng.uniform(0.7, 1.3)
    chi = TISSUE_PPM["white"] * tissue["white"] + TISSUE_PPM["grey"] * tissue["grey"] + level * tissue["iron"]
    for scale_mm in (1.2, 5.0):
        chi += TEXTURE_PPM * smooth_field(grid.shape, scale_mm / grid.spacing, rng) * tissue["brain"]
    flair = sum(FLAIR[name] * tissue[name] for name in FLAIR)
    flair += np.float32(0.04) * smooth_field(grid.shape, 2.0 / grid.spacing, rng) * tissue["brain"]
    instances = np.zeros(grid.shape, np.int16)
    covered = np.zeros(grid.shape, np.float32)
    for number, lesion in enumerate(lesions, start=1):
        _paint(lesion, number, grid, pose, chi=chi, flair=flair, instances=instances, covered=covered,
               solid=tissue["white"] + tissue["grey"], rng=rng)  # fmt: skip
    _add_veins(brain, lesions, grid, pose, chi, rng)
    r2star = sum(TISSUE_R2STAR[name] * tissue[name] for name in TISSUE_R2STAR)
    r2star += np.float32(R2STAR_PER_PPM) * np.maximum(chi - TISSUE_PPM["white"], 0)
    density = sum(DENSITY[name] * tissue[name] for name in DENSITY)
    b0 = tuple(Rotation.from_euler("xy", rng.normal(0, 6, 2), degrees=True).apply([0, 0, 1]))
    qsm, coarse = _reconstruct(chi, density, r2star, tissue, grid, parts, b0=b0, scanner=scanner, rng=rng)
    seen = _averaged(flair, parts)
    seen += np.float32(FLAIR_NOISE) * rng.standard_normal(seen.shape, dtype=np.float32)
    labels, kept = _kept_lesions(instances, covered, parts, lesions, rng)
    inside = _averaged(tissue["brain"], parts) > 0.5
    return Patient(coarse.like(qsm), coarse.like(np.maximum(400 * seen, 1).round() * inside), coarse.like(labels), kept)


def _pose(rng: np.random.Generator) -> np.ndarray:
    pose = np.eye(4)
    turn = Rotation.from_euler("xyz", rng.normal(0, 4, 3), degrees=True).as_matrix()
    pose[:3, :3] = turn * rng.normal(1, 0.03, 3)
    pose[:3, 3] = rng.normal(0, 4, 3)
    return pose


def _fine_grid(brain: Brain, pose: np.ndarray, scanner: Scanner) -> tuple[Volume, int]:
    """The grid on which susceptibility is painted: the QSM's, each slice cut into parts."""
    white, grey = brain.maps["white"], brain.maps["grey"]
    tissue = white.data[::4, ::4, ::4] + grey.data[::4, ::4, ::4]
    points = apply_transform(pose @ white.affine, 4 * np.argwhere(tissue > 0.5))
    low, high = points.min(axis=0) - MARGIN_MM, points.max(axis=0) + MARGIN_MM
    parts = max(1, round(scanner.slice_mm / SUB_SLICE_MM))
    spacing = np.array([scanner.in_plane_mm, scanner.in_plane_mm, scanner.slice_mm / parts])
    shape = np.ceil((high - low) / (spacing * (1, 1, parts))).astype(int) * (1, 1, parts)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = low
    return Volume(np.broadcast_to(np.float32(0), tuple(shape)), affine), parts


def _paint(
    lesion: RimLesion,
    number: int,
    grid: Volume,
    pose: np.ndarray,
    *,
    chi: np.ndarray,
    flair: np.ndarray,
    instances: np.ndarray,
    covered: np.ndarray,
    solid: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Put one lesion into the maps, in place."""
    middle = apply_transform(np.linalg.inv(grid.affine) @ pose, lesion.shape.centre_mm)
    reach = (1.5 * lesion.shape.radii_mm.max() + 3) / grid.spacing
    low = np.clip(np.floor(middle - reach), 0, grid.shape).astype(int)
    high = np.clip(np.ceil(middle + reach) + 1, 0, grid.shape).astype(int)
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    index = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), axis=-1)
    inside, added = lesion.extent(apply_transform(np.linalg.inv(pose) @ grid.affine, index))
    inside = (inside * np.clip(solid[window], 0, 1)).astype(np.float32)
    # Outside the lesion a rim fades into tissue too; in CSF there is none.
    chi[window] += (added * np.clip(solid[window], 0, 1)).astype(np.float32)
    bright = np.float32(rng.uniform(*FLAIR_LESION))
    flair[window] += bright * inside
    instances[window][inside > covered[window]] = number
    covered[window] = np.maximum(covered[window], inside)


def _add_veins(
    brain: Brain, lesions: list[RimLesion], grid: Volume, pose: np.ndarray, chi: np.ndarray, rng: np.random.Generator
) -> None:
    """Lesions' veins, and others that run towards the ventricles, each point shared among its eight voxels."""
    affine = brain.maps["white"].affine
    veins = [(vein.points_mm, vein.radius_mm) for lesion in lesions for vein in lesion.veins]
    for voxel in brain.places[rng.integers(len(brain.places), size=VEINS)]:
        direction = brain.directions[:, *voxel] + 0.4 * rng.standard_normal(3)
        points = random_vein(apply_transform(affine, voxel), direction, length_mm=rng.uniform(8, 30), rng=rng)
        veins.append((points, rng.uniform(0.12, 0.35)))
    points = np.concatenate([points for points, _ in veins])
    step_mm = 0.25
    area = np.concatenate([np.full(len(points), np.pi * radius**2 * step_mm) for points, radius in veins])
    voxels = apply_transform(np.linalg.inv(grid.affine) @ pose, points)
    base = np.floor(voxels).astype(int)
    part = voxels - base
    fraction = np.zeros(grid.shape, np.float32)
    for corner in np.ndindex(2, 2, 2):
        weight = np.where(corner, part, 1 - part).prod(axis=1) * area / grid.voxel_volume_mm3
        at = base + corner
        inside = ((at >= 0) & (at < grid.shape)).all(axis=1)
        np.add.at(fraction, tuple(at[inside].T), weight[inside])
    np.minimum(fraction, 1, out=fraction)
    chi += fraction * (VEIN_PPM - chi)


def _reconstruct(
    chi: np.ndarray,
    density: np.ndarray,
    r2star: np.ndarray,
    tissue: dict[str, np.ndarray],
    grid: Volume,
    parts: int,
    *,
    b0: tuple[float, float, float],
    scanner: Scanner,
    rng: np.random.Generator,
) -> tuple[np.ndarray, Volume]:
    """QSM of a susceptibility map, with the grid that it lies on."""
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, 2] * (parts - 1) / 2
    affine[:3, 2] *= parts
    brain = _averaged(tissue["brain"], parts) > 0.5
    coarse = Volume(brain, affine)
    field_ppm = field_of(chi, grid.spacing, b0_direction=b0)
    inside = [data.reshape(*brain.shape, parts)[brain] for data in (field_ppm, density, r2star)]
    echoes = acquire(*inside, protocol=scanner.echoes, rng=rng)
    found = np.zeros(brain.shape, np.float32)
    found[brain] = fit_field(echoes, protocol=scanner.echoes)
    qsm = invert_dipole(found, coarse.spacing, b0_direction=b0)
    qsm -= qsm[brain & (_averaged(tissue["ventricles"], parts) > 0.9)].mean()
    # To a tenth of a ppb: more digits would be noise, and files three times as large.
    return np.where(brain, np.round(qsm, 4), 0).astype(np.float32), coarse


def _averaged(data: np.ndarray, parts: int) -> np.ndarray:
    return sum(data[..., part::parts] for part in range(parts)) / parts


def _kept_lesions(
    instances: np.ndarray, covered: np.ndarray, parts: int, lesions: list[RimLesion], rng: np.random.Generator
) -> tuple[np.ndarray, list[RimLesion]]:
    """The instance map as raters draw it, and the lesions that are large enough to be in it."""
    # Raters see where a lesion ends to within a third of a millimetre or so, some closer and some wider.
    limit = rng.uniform(0.3, 0.7, len(lesions) + 1).astype(np.float32)
    share = _averaged(covered, parts)
    # A slice's voxel belongs to the lesion of the part that is covered most.
    best = covered.reshape(*covered.shape[:2], -1, parts).argmax(axis=-1)[..., None]
    number = np.take_along_axis(instances.reshape(*covered.shape[:2], -1, parts), best, axis=-1)[..., 0]
    number = np.where(share >= limit[number], number, 0)
    sizes = np.bincount(number.ravel(), minlength=len(lesions) + 1)
    kept = [index for index in range(1, len(lesions) + 1) if sizes[index] >= SMALLEST_VOXELS]
    renumbered = np.zeros(len(lesions) + 1, np.int16)
    renumbered[kept] = np.arange(1, len(kept) + 1)
    return renumbered[number], [lesions[index - 1] for index in kept]
