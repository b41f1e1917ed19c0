"""One patient with known rims: what gradient echo, QSM and FLAIR make of a brain and the lesions in it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.fft
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from msrim.image import Volume, resample
from msrim.simulation.reconstruction import draw_inversion, invert, local_field, total_field
from msrim.simulation.rim_brain import Brain, scatter_lesions
from msrim.simulation.rim_shapes import TracedShape
from msrim.simulation.rims import VEIN_PPM, Dials, RimLesion, random_vein
from msrim.simulation.shapes import gaussian_field
from msrim.simulation.susceptibility import GradientEcho, field_of
from msrim.transform import apply_transform

TISSUE_PPM = {"white": -0.020, "grey": 0.010, "iron": 0.12}
# Layers of a tract are 10 to 15 ppb apart, and fibres along the main field are as much below those across it.
TRACTS_PPM, ORIENTATION_PPM = 0.010, 0.015
TEXTURE_PPM = 0.003
TISSUE_R2STAR = {"white": 22.0, "grey": 18.0, "csf": 3.0}  # 1/s
R2STAR_PER_PPM = 120.0
DENSITY = {"white": 1.0, "grey": 1.05, "csf": 0.8}
FLAIR = {"white": 1.0, "grey": 1.25, "csf": 0.2}
FLAIR_LESION = (0.45, 0.95)
FLAIR_NOISE = 0.05
FLAIR_LARGER_MM = (0.0, 2.0)  # how much further lesions reach on FLAIR
FLAIR_MOVED_MM, FLAIR_TURNED_DEG = 0.5, 0.5  # error of its registration
VEINS, SULCAL_VEINS = 220, 180
FINER = 2  # painted voxels per acquired one, along each axis in the plane
SUB_SLICE_MM = 1.5
WINDOW = 0.2  # share of k-space over which its ends fade
MARGIN_MM = 6.0
SMALLEST_VOXELS = 4


@dataclass(frozen=True)
class Scanner:
    """How a cohort is scanned.

    Attributes
    ----------
    in_plane_mm, slice_mm : float
        Voxel edges of the QSM.
    phase_encode_mm : float
        Acquired along the second axis, before zero filling; never less than ``in_plane_mm``.
    echoes : GradientEcho
    """

    in_plane_mm: float = 0.75
    slice_mm: float = 3.0
    phase_encode_mm: float = 0.93
    echoes: GradientEcho = field(default_factory=GradientEcho)


@dataclass(frozen=True, eq=False)
class SimulatedPatient:
    """One patient's images and truth, all on the QSM's grid.

    Attributes
    ----------
    qsm : Volume of float32, ppm
        Relative to the ventricles' CSF; 0 outside the brain and in the outermost millimetres of it.
    flair : Volume of float32
        Made at 1 mm and brought to the QSM's grid with an error.
    instances : Volume of int
        0 outside lesions, 1..n inside, by a rater's outline.
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
    bank: list[TracedShape] | None = None,
    dials: Dials | None = None,
) -> SimulatedPatient:
    """Scan one patient: the brain in a size and pose of its own, with lesions, seen by the gradient echo.

    Parameters
    ----------
    brain : Brain
    rims, others : int
        Lesions wanted; those that find no place or end up smaller than SMALLEST_VOXELS are left out.
    """
    dials = dials or Dials()
    pose = _pose(rng)
    lesions = scatter_lesions(brain, rims=rims, others=others, bank=bank, dials=dials, rng=rng)
    return scan_lesions(brain, lesions, pose=pose, scanner=scanner or Scanner(), dials=dials, rng=rng)


def scan_lesions(
    brain: Brain,
    lesions: list[RimLesion],
    *,
    pose: np.ndarray,
    scanner: Scanner,
    rng: np.random.Generator,
    dials: Dials | None = None,
) -> SimulatedPatient:
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
    dials : Dials, optional
        How lesions are outlined.
    """
    grid, parts = _medium_grid(brain, pose, scanner)
    tissue = {name: resample(volume, grid, target_from_source=pose).data for name, volume in brain.maps.items()}
    b0 = Rotation.from_euler("xy", rng.normal(0, 6, 2), degrees=True).apply([0, 0, 1])
    fine = _finer(grid)
    chi = _doubled(_tissue_susceptibility(tissue, grid, b0, rng))
    solid = np.clip(tissue["white"] + tissue["grey"], 0, 1)
    for lesion in lesions:
        _paint(lesion, fine, pose, chi=chi, solid=solid)
    _add_veins(brain, lesions, fine, pose, chi, rng)
    outside = None if brain.outside is None else _field_from_outside(brain.outside, tissue, grid, pose, b0, rng)
    qsm, coarse = _scan(chi, tissue, _Acquisition(grid, fine, parts, b0, scanner), outside=outside, rng=rng)
    inside = _averaged(tissue["white"] + tissue["grey"] + tissue["csf"], parts) > 0.5
    flair = _flair(brain, lesions, coarse, pose, rng) * inside
    labels, kept = _outlined(lesions, coarse, pose, dials or Dials(), rng)
    return SimulatedPatient(coarse.like(qsm), coarse.like(flair), coarse.like(labels), kept)


def _pose(rng: np.random.Generator) -> np.ndarray:
    pose = np.eye(4)
    turn = Rotation.from_euler("xyz", rng.normal(0, 4, 3), degrees=True).as_matrix()
    # Mirrored every other time: label maps of heads are few.
    pose[:3, :3] = turn * rng.normal(1, 0.03, 3) * (rng.choice((-1, 1)), 1, 1)
    pose[:3, 3] = rng.normal(0, 4, 3)
    return pose


def _medium_grid(brain: Brain, pose: np.ndarray, scanner: Scanner) -> tuple[Volume, int]:
    """The grid of tissues: the QSM's, each slice cut into parts."""
    white, grey = brain.maps["white"], brain.maps["grey"]
    tissue = white.data[::4, ::4, ::4] + grey.data[::4, ::4, ::4]
    points = apply_transform(pose @ white.affine, 4 * np.argwhere(tissue > 0.5))
    low, high = points.min(axis=0) - MARGIN_MM, points.max(axis=0) + MARGIN_MM
    parts = max(1, round(scanner.slice_mm / SUB_SLICE_MM))
    spacing = np.array([scanner.in_plane_mm, scanner.in_plane_mm, scanner.slice_mm / parts])
    voxels = np.ceil((high - low) / (spacing * (1, 1, parts))).astype(int)
    shape = (*(scipy.fft.next_fast_len(int(n)) for n in voxels[:2]), int(voxels[2]) * parts)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = low
    return Volume(np.broadcast_to(np.float32(0), shape), affine), parts


def _finer(grid: Volume) -> Volume:
    """The grid on which susceptibility is painted: FINER voxels for one in the plane, their faces where its are."""
    spacing = grid.spacing / (FINER, FINER, 1)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = grid.affine[:3, 3] + (spacing - grid.spacing) / 2
    shape = (FINER * grid.shape[0], FINER * grid.shape[1], grid.shape[2])
    return Volume(np.broadcast_to(np.float32(0), shape), affine)


def _doubled(data: np.ndarray) -> np.ndarray:
    """A map on the finer grid, linearly between its values."""
    for axis in (0, 1):
        before = np.concatenate([data.take([0], axis), data.take(range(data.shape[axis] - 1), axis)], axis)
        after = np.concatenate([data.take(range(1, data.shape[axis]), axis), data.take([-1], axis)], axis)
        both = np.stack([0.75 * data + 0.25 * before, 0.75 * data + 0.25 * after], axis + 1)
        shape = list(data.shape)
        shape[axis] *= 2
        data = both.reshape(shape)
    return data


def _tissue_susceptibility(
    tissue: dict[str, np.ndarray], grid: Volume, b0: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A brain without lesions: tissues, tracts in layers, fibres' orientation, iron, texture."""
    level = TISSUE_PPM["iron"] * rng.uniform(0.7, 1.3)
    chi = TISSUE_PPM["white"] * tissue["white"] + TISSUE_PPM["grey"] * tissue["grey"] + level * tissue["iron"]
    # Tracts are longer than wide, most of them from front to back.
    layers = gaussian_field(grid.shape, (3.0, 12.0, 5.0) / grid.spacing, rng)
    fibre = [gaussian_field(grid.shape, 9.0 / grid.spacing, rng) for _ in range(3)]
    squared = sum(part**2 for part in fibre)
    along = sum(part * np.float32(b) for part, b in zip(fibre, b0, strict=True)) ** 2 / np.maximum(squared, 1e-6)
    chi += tissue["white"] * (TRACTS_PPM * np.tanh(layers) - ORIENTATION_PPM * (along - 1 / 3))
    brain = tissue["white"] + tissue["grey"] + tissue["csf"]
    chi += TEXTURE_PPM * gaussian_field(grid.shape, 1.2 / grid.spacing, rng) * brain
    return chi.astype(np.float32)


def _points(window: tuple[slice, ...], affine: np.ndarray, per_voxel: tuple[int, int, int]) -> np.ndarray:
    """Places within each voxel of a window: (X, Y, Z, places, 3) float, mm."""
    inner = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / n - 0.5 for n in per_voxel], indexing="ij"), axis=-1)
    index = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in window), indexing="ij"), axis=-1)
    return apply_transform(affine, index[..., None, :] + inner.reshape(-1, 3))


def _window(lesion: RimLesion, grid: Volume, pose: np.ndarray, room_mm: float) -> tuple[slice, ...]:
    middle = apply_transform(np.linalg.inv(grid.affine) @ pose, lesion.shape.centre_mm)
    reach = (1.25 * lesion.shape.radii_mm.max() + room_mm) / grid.spacing
    low = np.clip(np.floor(middle - reach), 0, grid.shape).astype(int)
    high = np.clip(np.ceil(middle + reach) + 1, 0, grid.shape).astype(int)
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True))


def _paint(lesion: RimLesion, fine: Volume, pose: np.ndarray, *, chi: np.ndarray, solid: np.ndarray) -> None:
    """Put one lesion into the susceptibility, in place, each voxel the mean of three places across the slice."""
    window = _window(lesion, fine, pose, 3.0)
    points = _points(window, np.linalg.inv(pose) @ fine.affine, (1, 1, 3))
    added = lesion.susceptibility(points).mean(axis=-1)
    # In CSF there is no lesion.
    there = [np.arange(s.start, s.stop) // n for s, n in zip(window, (FINER, FINER, 1), strict=True)]
    chi[window] += (added * solid[np.ix_(*there)]).astype(np.float32)


def _add_veins(
    brain: Brain, lesions: list[RimLesion], grid: Volume, pose: np.ndarray, chi: np.ndarray, rng: np.random.Generator
) -> None:
    """Lesions' veins, others that run towards the ventricles and in sulci, each point shared among eight voxels."""
    affine = brain.maps["white"].affine
    veins = [(vein.points_mm, vein.radius_mm) for lesion in lesions for vein in lesion.veins]
    for voxel in brain.places[rng.integers(len(brain.places), size=VEINS)]:
        direction = brain.directions[:, *voxel] + 0.4 * rng.standard_normal(3)
        points = random_vein(apply_transform(affine, voxel), direction, length_mm=rng.uniform(8, 30),
                             tortuosity=rng.uniform(0.01, 0.06), rng=rng)  # fmt: skip
        veins.append((points, rng.uniform(0.12, 0.35)))
    csf, grey = brain.maps["csf"].data, brain.maps["grey"].data
    sulci = np.argwhere((csf > 0.2) & (grey > 0.2))
    for voxel in sulci[rng.integers(len(sulci), size=SULCAL_VEINS)] if len(sulci) else ():
        points = random_vein(apply_transform(affine, voxel), rng.standard_normal(3), length_mm=rng.uniform(6, 25),
                             tortuosity=rng.uniform(0.04, 0.12), rng=rng)  # fmt: skip
        veins.append((points, rng.uniform(0.2, 0.6)))
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


def _field_from_outside(
    outside: Volume, tissue: dict[str, np.ndarray], grid: Volume, pose: np.ndarray, b0: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """The field of air and bone in the brain, shimmed to second order: (X, Y, Z) float32, ppm, on the tissues' grid."""
    axes = np.linalg.inv(pose[:3, :3]) @ b0
    made = field_of(outside.data, outside.spacing, b0_direction=tuple(axes / np.linalg.norm(axes)))
    index = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in grid.shape], indexing="ij"))
    to_outside = np.linalg.inv(outside.affine) @ np.linalg.inv(pose) @ grid.affine
    where = np.tensordot(to_outside[:3, :3].astype(np.float32), index, axes=1)
    where += to_outside[:3, 3].astype(np.float32)[:, None, None, None]
    # Cubic: between linear pieces there would be sources.
    seen = map_coordinates(made, where, order=3, mode="nearest", output=np.float32)
    x, y, z = (2 * part / n - 1 for part, n in zip(index, grid.shape, strict=True))
    terms = [np.ones_like(x), x, y, z, x * y, x * z, y * z, x**2 - y**2, 2 * z**2 - x**2 - y**2]
    inside = (tissue["white"] + tissue["grey"])[::4, ::4, ::4] > 0.5
    design = np.stack([term[::4, ::4, ::4][inside] for term in terms], axis=-1)
    fitted, *_ = np.linalg.lstsq(design, seen[::4, ::4, ::4][inside], rcond=None)
    # No shim is perfect.
    fitted *= rng.normal(1, 0.05, len(fitted))
    for term, amount in zip(terms, fitted, strict=True):
        seen -= np.float32(amount) * term
    return seen


@dataclass(frozen=True, eq=False)
class _Acquisition:
    """Grids and pose of a scan: tissues lie on ``grid``, each of its slices one of ``parts`` of a slice of the QSM.

    Susceptibility lies on ``fine``; ``b0`` (3,) is the direction of the main field.
    """

    grid: Volume
    fine: Volume
    parts: int
    b0: np.ndarray
    scanner: Scanner


def _scan(
    chi: np.ndarray,
    tissue: dict[str, np.ndarray],
    scan: _Acquisition,
    *,
    outside: np.ndarray | None,
    rng: np.random.Generator,
) -> tuple[np.ndarray, Volume]:
    """QSM of a susceptibility map, with the grid that it lies on."""
    parts, scanner, b0_direction = scan.parts, scan.scanner, tuple(scan.b0)
    affine = scan.grid.affine.copy()
    affine[:3, 3] += affine[:3, 2] * (parts - 1) / 2
    affine[:3, 2] *= parts
    brain = _averaged(tissue["white"] + tissue["grey"] + tissue["csf"], parts) > 0.5
    coarse = Volume(brain, affine)
    field_ppm = field_of(chi, scan.fine.spacing, b0_direction=b0_direction)
    if outside is not None:
        field_ppm += _doubled(outside)
    density = _weighted(tissue, DENSITY)
    r2star = _doubled(_weighted(tissue, TISSUE_R2STAR))
    r2star += np.float32(R2STAR_PER_PPM) * np.maximum(chi - TISSUE_PPM["white"], 0)
    echoes = _echoes(field_ppm, density, r2star, parts, scanner=scanner, rng=rng)
    found, known = total_field(echoes, brain, protocol=scanner.echoes)
    if outside is not None:
        found, known = local_field(found, known, coarse.spacing)
    kind, weight = draw_inversion(rng)
    qsm = invert(found, coarse.spacing, b0_direction=b0_direction, kind=kind, weight=weight)
    qsm -= qsm[known & (_averaged(tissue["ventricles"], parts) > 0.9)].mean()
    # To a tenth of a ppb: more digits would be noise, and files three times as large.
    return np.where(known, np.round(qsm, 4), 0).astype(np.float32), coarse


def _echoes(
    field_ppm: np.ndarray, density: np.ndarray, r2star: np.ndarray, parts: int, *,
    scanner: Scanner, rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """Complex images on the QSM's grid: (echoes, X, Y, Z) complex64.

    Across the slice, parts are summed; in the plane, k-space is cropped to what is acquired, its ends fade, and zeros
    are filled in.
    """
    protocol = scanner.echoes
    times, phases = 1e-3 * np.array(protocol.echo_times_ms), protocol.phase_per_ppm
    window = _k_space_window(field_ppm.shape[:2], scanner)
    shape = (field_ppm.shape[2] // parts, field_ppm.shape[0] // FINER, field_ppm.shape[1] // FINER)
    turn = np.empty(field_ppm.shape, np.complex64)
    found = np.empty((len(times), shape[1], shape[2], shape[0]), np.complex64)
    signal = np.repeat(np.repeat(density, FINER, 0), FINER, 1).astype(np.complex64)
    before = (0.0, 0.0)
    step = None
    for echo, (time, phase) in enumerate(zip(times, phases, strict=True)):
        wanted = (round(float(time - before[0]), 9), round(float(phase - before[1]), 6))
        if wanted != step:
            decay, angle = np.exp(np.float32(-wanted[0]) * r2star), np.float32(wanted[1]) * field_ppm
            turn.real, turn.imag = decay * np.cos(angle), decay * np.sin(angle)
            step = wanted
        signal *= turn
        before = (time, phase)
        slices = np.moveaxis(_averaged(signal, parts), 2, 0)
        spectrum = scipy.fft.fftshift(scipy.fft.fft2(slices, axes=(1, 2)), axes=(1, 2))
        x, y = (n // 2 - m // 2 for n, m in zip(spectrum.shape[1:], shape[1:], strict=True))
        spectrum = spectrum[:, x : x + shape[1], y : y + shape[2]] * window
        image = scipy.fft.ifft2(scipy.fft.ifftshift(spectrum, axes=(1, 2)), axes=(1, 2)) / FINER**2
        noise = rng.standard_normal((*shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
        found[echo] = np.moveaxis(image + noise / np.float32(protocol.snr), 0, 2)
    return found


def _k_space_window(shape: tuple[int, int], scanner: Scanner) -> np.ndarray:
    """How much of each frequency is kept, on the QSM's grid, with the shift of its voxels against the finer ones."""
    sides = []
    for n, acquired in zip(shape, (scanner.in_plane_mm, scanner.phase_encode_mm), strict=True):
        k = np.fft.fftshift(np.fft.fftfreq(n // FINER, scanner.in_plane_mm))
        far = np.abs(k) * 2 * max(acquired, scanner.in_plane_mm)
        fade = np.clip((1 - far) / WINDOW, 0, 1)
        # The middle of a QSM voxel lies between the finer ones.
        shift = np.exp(2j * np.pi * k * scanner.in_plane_mm * (FINER - 1) / (2 * FINER))
        sides.append(np.sin(np.pi / 2 * fade) ** 2 * shift)
    return np.outer(*sides).astype(np.complex64)


def _averaged(data: np.ndarray, parts: int) -> np.ndarray:
    return np.asarray(sum(data[..., part::parts] for part in range(parts))) / parts


def _weighted(tissue: dict[str, np.ndarray], weights: dict[str, float]) -> np.ndarray:
    """Sum of the fractions of some tissues, each with its weight."""
    return np.asarray(sum(weights[name] * tissue[name] for name in weights))


def _flair(
    brain: Brain, lesions: list[RimLesion], coarse: Volume, pose: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """FLAIR of 1 mm in the head's own pose, brought to the QSM's grid by a registration that is a little off."""
    grid = brain.maps["white"]
    tissue = {name: brain.maps[name].data for name in FLAIR}
    flair = _weighted(tissue, FLAIR).astype(np.float32)
    flair += np.float32(0.04) * gaussian_field(grid.shape, 2.0 / grid.spacing, rng) * sum(tissue.values())
    solid = np.clip(tissue["white"] + tissue["grey"], 0, 1)
    for lesion in lesions:
        window = _window(lesion, grid, np.eye(4), 4.0)
        depth = lesion.shape.depth_mm(_points(window, grid.affine, (2, 2, 2)))
        inside = np.clip(depth + rng.uniform(*FLAIR_LARGER_MM) * min(1, lesion.shape.mean_radius_mm / 4) + 0.5, 0, 1)
        flair[window] += np.float32(rng.uniform(*FLAIR_LESION)) * (inside.mean(axis=-1) * solid[window]).astype("f4")
    flair += np.float32(FLAIR_NOISE) * rng.standard_normal(flair.shape, dtype=np.float32)
    error = np.eye(4)
    error[:3, :3] = Rotation.from_euler("xyz", rng.normal(0, FLAIR_TURNED_DEG, 3), degrees=True).as_matrix()
    error[:3, 3] = rng.normal(0, FLAIR_MOVED_MM, 3)
    seen = resample(grid.like(flair), coarse, target_from_source=error @ pose).data
    return np.maximum(400 * seen, 1).round()


def _outlined(
    lesions: list[RimLesion], coarse: Volume, pose: np.ndarray, dials: Dials, rng: np.random.Generator
) -> tuple[np.ndarray, list[RimLesion]]:
    """The instance map by a rater's outline, and the lesions that are large enough to be in it."""
    numbers = np.zeros(coarse.shape, np.int16)
    best = np.zeros(coarse.shape, np.float32)
    for number, lesion in enumerate(lesions, start=1):
        window = _window(lesion, coarse, pose, 4.0)
        points = _points(window, np.linalg.inv(pose) @ coarse.affine, (2, 2, 2))
        # Small lesions are missed by less, for one looks closer.
        size = min(1.0, lesion.shape.mean_radius_mm / 4)
        moved = size * dials.outline_mm * np.append(rng.normal(0, 1, 2), 0)
        grown = size * np.clip(rng.normal(0, dials.outline_mm), -1.5 * dials.outline_mm, 1.5 * dials.outline_mm)
        inside = (lesion.shape.depth_mm(points - moved) + grown > 0).mean(axis=-1)
        drawn = (inside >= 0.5) & (inside > best[window])
        numbers[window][drawn] = number
        best[window][drawn] = inside[drawn]
    sizes = np.bincount(numbers.ravel(), minlength=len(lesions) + 1)
    kept = [index for index in range(1, len(lesions) + 1) if sizes[index] >= SMALLEST_VOXELS]
    renumbered = np.zeros(len(lesions) + 1, np.int16)
    renumbered[kept] = np.arange(1, len(kept) + 1)
    return renumbered[numbers], [lesions[index - 1] for index in kept]
