"""Random shapes and fields, smooth and in millimetres, from which lesions, skulls and textures are made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Plane waves summed for a surface's roughness: enough that no two lesions look related, few enough to stay smooth.
WAVES = 12


def gaussian_field(shape: tuple[int, int, int], scale: float | np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian random field with zero mean and unit standard deviation at every voxel.

    White noise on a coarse lattice is interpolated by Gaussian kernels, one axis after the other; that costs a few
    matrix products where filtering white noise at full resolution costs seconds.

    Parameters
    ----------
    shape : (3,) int
    scale : float or (3,) float, voxels
        Standard deviation of the kernel; two places ``2 * scale`` apart have a correlation of ``exp(-1)``.
    rng : numpy.random.Generator

    Returns
    -------
    (X, Y, Z) float32

    Examples
    --------
    >>> gaussian_field((6, 5, 4), 2.0, np.random.default_rng(0)).shape
    (6, 5, 4)
    """
    kernels = []
    for length, sigma in zip(shape, np.broadcast_to(scale, 3), strict=True):
        knots = np.arange(-3 * sigma, length - 1 + 4 * sigma, sigma)
        kernel = np.exp(-0.5 * ((np.arange(length)[:, None] - knots) / sigma) ** 2)
        kernels.append((kernel / np.linalg.norm(kernel, axis=1, keepdims=True)).astype(np.float32))
    field = rng.standard_normal([kernel.shape[1] for kernel in kernels], dtype=np.float32)
    for kernel in kernels:  # each turn contracts the first axis and appends its replacement last
        field = np.tensordot(field, kernel, axes=(0, 1))
    return np.ascontiguousarray(field)


@dataclass(frozen=True)
class Blob:
    """A rough ellipsoid: the shape of a lesion.

    Attributes
    ----------
    centre_mm : (3,) float
    radii_mm : (3,) float
    axes : (3, 3) float
        Unit vectors of the three radii, in columns.
    waves : (WAVES, 3) float
        Wave vectors of the surface's roughness, per radius.
    phases : (WAVES,) float, rad
    roughness : float
        Standard deviation of the surface's distance to the centre, as a share of the radius.
    """

    centre_mm: np.ndarray
    radii_mm: np.ndarray
    axes: np.ndarray
    waves: np.ndarray
    phases: np.ndarray
    roughness: float

    def depth_mm(self, points_mm: np.ndarray) -> np.ndarray:
        """About how far inside the surface points lie; negative outside.

        Exact for a smooth sphere; along an ellipsoid's long axis it is scaled by the mean radius.

        Parameters
        ----------
        points_mm : (..., 3) float

        Returns
        -------
        (...) float, mm
        """
        place = (points_mm - self.centre_mm) @ self.axes / self.radii_mm
        wave = np.cos(place @ self.waves.T + self.phases).sum(axis=-1) * np.sqrt(2 / WAVES)
        mean_radius = float(np.prod(self.radii_mm)) ** (1 / 3)
        return (1 + self.roughness * wave - np.linalg.norm(place, axis=-1)) * mean_radius

    def depth_on_grid(self, x_mm: np.ndarray, y_mm: np.ndarray, z_mm: np.ndarray) -> np.ndarray:
        """:meth:`depth_mm` at all places of an upright grid: (X,), (Y,) and (Z,) to (X, Y, Z) float32, mm.

        A plane wave on such a grid is a product of three, which takes a thirtieth of the time.
        """
        away = [line - middle for line, middle in zip((x_mm, y_mm, z_mm), self.centre_mm, strict=True)]
        per_mm = self.axes / self.radii_mm
        x, y, z = (np.exp(1j * np.outer(line, k)) for line, k in zip(away, per_mm @ self.waves.T, strict=True))
        plane = ((x * np.exp(1j * self.phases))[:, None] * y).astype(np.complex64)
        wave = (plane @ z.T.astype(np.complex64)).real * np.float32(np.sqrt(2 / WAVES))
        parts = [
            [np.float32(c) * line.astype(np.float32) for line, c in zip(away, column, strict=True)]
            for column in per_mm.T
        ]
        squared = sum((a[:, None, None] + b[:, None] + c) ** 2 for a, b, c in parts)
        mean_radius = np.float32(np.prod(self.radii_mm) ** (1 / 3))
        return (1 + np.float32(self.roughness) * wave - np.sqrt(squared)) * mean_radius


def random_blob(
    centre_mm: np.ndarray,
    radii_mm: np.ndarray,
    *,
    rng: np.random.Generator,
    direction: np.ndarray | None = None,
    roughness: float = 0.1,
) -> Blob:
    """Draw the orientation and the roughness of a lesion.

    Parameters
    ----------
    centre_mm, radii_mm : (3,) float
    rng : numpy.random.Generator
    direction : (3,) float, optional
        Where the first radius points (along a venule, across the cortex); anywhere if not given.
    roughness : float
        See :class:`Blob`; 0 gives a smooth ellipsoid.

    Examples
    --------
    >>> ball = random_blob(np.zeros(3), np.full(3, 4.0), rng=np.random.default_rng(0), roughness=0.0)
    >>> ball.depth_mm(np.array([0.0, 3.0, 0.0])).round(6).item()
    1.0
    """
    frame = rng.standard_normal((3, 3))
    if direction is not None:
        frame[:, 0] = direction
    axes, _ = np.linalg.qr(frame)
    waves = rng.normal(0.0, 2.0, (WAVES, 3))
    return Blob(np.asarray(centre_mm, float), np.asarray(radii_mm, float), axes, waves,
                rng.uniform(0, 2 * np.pi, WAVES), roughness)  # fmt: skip


def draw_blob(blob: Blob, canvas: np.ndarray, affine: np.ndarray, *, value: float = 1.0, edge_mm: float = 1.0) -> None:
    """Add a blob to a map of fractions, in place; where blobs overlap the larger value stays.

    Parameters
    ----------
    blob : Blob
    canvas : (X, Y, Z) float32
    affine : (4, 4) float
        Of the canvas, voxel index to mm; upright (no rotation).
    value : float
        Fraction deep inside.
    edge_mm : float
        Width over which the fraction falls from ``value`` to 0 across the surface.
    """
    spacing = np.diag(affine)[:3]
    reach = blob.radii_mm.max() * (1 + 3 * blob.roughness) + edge_mm
    middle = (blob.centre_mm - affine[:3, 3]) / spacing
    low = np.clip(np.floor(middle - reach / spacing), 0, None).astype(int)
    high = np.clip(np.ceil(middle + reach / spacing) + 1, 0, canvas.shape).astype(int)
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    axes_mm = [np.arange(a, b) * s + o for a, b, s, o in zip(low, high, spacing, affine[:3, 3], strict=True)]
    points = np.stack(np.meshgrid(*axes_mm, indexing="ij"), axis=-1)
    fraction = np.clip(blob.depth_mm(points) / edge_mm + 0.5, 0, 1) * value
    canvas[window] = np.maximum(canvas[window], fraction)
