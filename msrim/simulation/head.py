"""A synthetic whole head: the MNI152 average's brain, deformed, with sharpened cortex and a skull around it.

The template that nilearn packages ends at the brain's surface. Everything outside (subarachnoid CSF, dura, skull with
marrow, scalp, eyes, sinuses, face, neck) is made here from distances and ellipsoids, irregular enough that brain
extraction has something to decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import cc3d
import nibabel as nib
import numpy as np
from edt import edt
from scipy.ndimage import map_coordinates

from msrim.simulation.shapes import gaussian_field

TEMPLATE = "datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
# Below this height the template's brainstem narrows to a point; this cross-section goes on downwards as the cord.
LOWEST_SLICE = 5
# The box of the head in template space, mm: template plus scalp, face and a piece of neck.
BOX_MM = np.array([[-98.0, 98.0], [-132.0, 118.0], [-112.0, 112.0]])
# Mean size relative to the MNI152 average, which is larger than people are (Lancaster et al., Hum Brain Mapp 2007).
MEAN_SCALE = 0.93
CORTEX_MM = 3.5

OUTSIDE = ("air", "csf", "dura", "bone", "marrow", "muscle", "fat", "skin")


@dataclass(frozen=True, eq=False)
class Head:
    """Tissues of a head on an upright grid of 1 mm.

    Attributes
    ----------
    affine : (4, 4) float
        Voxel index to the head's own RAS mm.
    white, grey, csf : (X, Y, Z) float32
        Fractions; what is left to 1 belongs to ``outside``.
    outside : (X, Y, Z) uint8
        Index into ``OUTSIDE``.
    brain : (X, Y, Z) bool
        Brain with its inner and sulcal CSF, without the cord.
    ventricles : (X, Y, Z) bool
        Lateral ventricles.
    mni : (3, X, Y, Z) float32, mm
        Where each voxel lies in the template.
    """

    affine: np.ndarray
    white: np.ndarray
    grey: np.ndarray
    csf: np.ndarray
    outside: np.ndarray
    brain: np.ndarray
    ventricles: np.ndarray
    mni: np.ndarray


def make_head(rng: np.random.Generator) -> Head:
    """Draw a head: size, shape, sulci, thickness of CSF, skull and scalp."""
    affine, mni = _deform(rng)
    white, grey, brain = _sample_template(mni)
    white, grey, csf = _sharpen(white, grey, brain, mni, rng)
    outside = _wrap(brain, mni, rng)
    brain &= mni[2] > -70
    return Head(affine, white, grey, csf, outside, brain, _find_ventricles(csf, brain, mni), mni)


def _deform(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    scale = MEAN_SCALE * (1 + 0.025 * rng.standard_normal(3))
    low = np.floor(BOX_MM[:, 0] * scale)
    shape = tuple(np.ceil(BOX_MM[:, 1] * scale - low).astype(int))
    affine = np.eye(4)
    affine[:3, 3] = low
    mni = np.empty((3, *shape), np.float32)
    for axis in range(3):
        line = ((low[axis] + np.arange(shape[axis])) / scale[axis]).astype(np.float32)
        mni[axis] = line.reshape([-1 if k == axis else 1 for k in range(3)])
        mni[axis] += 2.5 * gaussian_field(shape, 25.0, rng)
        mni[axis] += 0.9 * gaussian_field(shape, 6.0, rng)
    return affine, mni


def _sample_template(mni: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    folder = Path(str(files("nilearn")))
    images = [nib.Nifti1Image.from_filename(folder / TEMPLATE.format(name)) for name in ("t1", "gm", "wm")]
    t1, grey, white = (np.asanyarray(image.dataobj) for image in images)
    voxel = mni - images[0].affine[:3, 3].astype(np.float32).reshape(3, 1, 1, 1)
    voxel[2] -= LOWEST_SLICE

    def sample(data: np.ndarray) -> np.ndarray:
        # "nearest" repeats the lowest slice: the cord. On the other sides the template ends in zeros.
        return map_coordinates(data[:, :, LOWEST_SLICE:], voxel, output=np.float32, order=1, mode="nearest")

    brain = sample((t1 > 0).astype(np.float32)) > 0.5
    return sample(white / np.float32(255)), sample(grey / np.float32(255)), brain


def _sharpen(
    white: np.ndarray, grey: np.ndarray, brain: np.ndarray, mni: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Undo some of the average's blur, and open the sulci that it has closed: cortex is only so thick."""
    csf = np.clip(1 - white - grey, 0, 1)
    near_white = white > 0.3
    parts = [np.where(brain, part, 0) ** 1.7 for part in (white, grey, csf)]
    total = np.maximum(parts[0] + parts[1] + parts[2], 1e-6)
    white, grey, csf = (part / total for part in parts)
    x, y, z = mni
    deep_grey = (np.abs(x) < 37) & (y > -45) & (y < 26) & (z > -27) & (z < 24)
    vermis = 16 * (np.abs(x) < 14)
    cerebellum = (y < -18) & (z < vermis - 14 - 0.25 * (y + 60))
    ridge = edt(~near_white, parallel=1) - (CORTEX_MM + 0.6 * gaussian_field(brain.shape, 8.0, rng))
    opened = np.where(deep_grey | cerebellum, 0, 0.85 * grey / (1 + np.exp(-np.clip(ridge / 0.5, -20, 20))))
    return white, grey - opened, csf + opened


def _find_ventricles(csf: np.ndarray, brain: np.ndarray, mni: np.ndarray) -> np.ndarray:
    x, y, z = mni
    near = (np.abs(x) < 40) & (y > -62) & (y < 36) & (z > -6) & (z < 34)
    parts = cc3d.connected_components((csf > 0.5) & near & (edt(brain, parallel=1) > 14), connectivity=6)
    counts = np.bincount(parts.ravel())
    return np.isin(parts, [part for part in range(1, counts.size) if counts[part] > 2500])


def _wrap(brain: np.ndarray, mni: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Label the tissues outside the brain, layer by layer outwards and then from the skin inwards."""
    shape = brain.shape
    x, y, z = mni

    def varied(mean: float, deviation: float, scale_mm: float) -> np.ndarray:
        return np.clip(mean + deviation * gaussian_field(shape, scale_mm, rng), 0.4 * mean, 2 * mean)

    # The dura bridges sulci, the skull's outer table bridges the notches between lobes too: closings by 6 and 25 mm.
    from_brain = edt(~brain, parallel=1)
    dura = (edt(from_brain < 6, parallel=1) > 6) | brain
    hull = (edt(from_brain < 25, parallel=1) > 25) | brain
    depth, from_hull = edt(~dura, parallel=1), edt(~hull, parallel=1)
    inner = varied(1.8, 0.7, 14.0)
    skull = varied(6.0, 0.8, 20.0)
    scalp = varied(5.5, 0.8, 25.0)
    temple = 8 * np.exp(-((y / 34) ** 2) - ((z + 15) / 25) ** 2 - ((np.abs(x) - 65) / 25) ** 2)
    face = _ellipsoid(mni, (0, 38, -56), (60, 62, 66)) < 1
    base = _ellipsoid(mni, (0, 2, -42), (70, 96, 75)) < 1
    neck = ((x / 60) ** 2 + ((y + 30) / 54) ** 2 < 1) & (z < -40)
    head = (from_hull < inner + skull + scalp + temple) | face | base | neck
    below_skin = edt(head, parallel=1)

    soft = gaussian_field(shape, 2.5, rng)
    labels = np.zeros(shape, np.uint8)
    _fill(labels, head, "muscle")
    _fill(labels, head & (soft > 0.9), "fat")
    _fill(labels, head & (below_skin < varied(4.5, 1.2, 12.0)), "fat")
    _fill(labels, head & (below_skin < 1.6), "skin")
    deep = below_skin > 3
    _add_eyes(labels, mni, deep, soft)
    _add_cavities(labels, mni, deep, soft)

    cranium = (from_hull < inner + skull) & (below_skin > 2) & ((z > -60) | (depth < inner + 5))
    _fill(labels, cranium, "bone")
    middle = (depth > inner + 1.8) & (from_hull < inner + skull - 1.8) & (soft > -0.6) & (z > -30)
    _fill(labels, cranium & middle, "marrow")
    _fill(labels, depth < inner + 0.8, "dura")
    _fill(labels, depth < inner, "csf")
    return labels


def _fill(labels: np.ndarray, where: np.ndarray, tissue: str) -> None:
    labels[where] = OUTSIDE.index(tissue)


def _ellipsoid(mni: np.ndarray, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
    """Below 1 inside; a centre off the midline stands for both sides."""
    x, y, z = mni
    across = np.abs(x) if centre[0] else x
    away = [((a - c) / r) ** 2 for a, c, r in zip((across, y, z), centre, radii, strict=True)]
    return away[0] + away[1] + away[2]


def _add_eyes(labels: np.ndarray, mni: np.ndarray, deep: np.ndarray, soft: np.ndarray) -> None:
    """Orbits with their fat, muscles and optic nerves, and eyeballs with lenses."""
    socket = _ellipsoid(mni, (31, 52, -36), (19, 27, 18))
    _fill(labels, deep & (socket < 1.25), "bone")
    _fill(labels, deep & (socket < 1) & (soft < 1.2), "fat")
    _fill(labels, deep & (_ellipsoid(mni, (31, 46, -36), (9, 20, 9)) < 1) & (soft > -0.3), "muscle")
    _fill(labels, deep & (_ellipsoid(mni, (31, 52, -36), (2.5, 22, 2.5)) < 1), "dura")
    _fill(labels, _ellipsoid(mni, (32, 66, -36), (13, 13, 13)) < 1, "dura")
    _fill(labels, _ellipsoid(mni, (32, 66, -36), (12, 12, 12)) < 1, "csf")
    _fill(labels, _ellipsoid(mni, (32, 74, -36), (5, 2.2, 5)) < 1, "muscle")


def _add_cavities(labels: np.ndarray, mni: np.ndarray, deep: np.ndarray, soft: np.ndarray) -> None:
    """Air with mucosa and bone around."""
    for centre, radii in (
        ((6, 60, -56), (4, 32, 15)),  # nasal cavity
        ((29, 52, -66), (13, 17, 15)),  # maxillary sinuses
        ((6, 48, -36), (6, 20, 9)),  # ethmoid cells
        ((0, 20, -42), (12, 11, 8)),  # sphenoid sinus
        ((0, 2, -85), (10, 8, 26)),  # pharynx
        ((52, -34, -44), (9, 11, 14)),  # mastoid cells
    ):
        cavity = _ellipsoid(mni, centre, radii) + 0.15 * soft
        _fill(labels, deep & (cavity < 1.35), "bone")
        _fill(labels, deep & (cavity < 1.15), "skin")  # mucosa
        _fill(labels, deep & (cavity < 1), "air")
