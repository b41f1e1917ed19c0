"""A picture of lesions side by side: random ones with a rim above, random ones without below."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from msrim.errors import OutputError
from msrim.files import written_atomically
from msrim.report.pictures import AXIAL, picture_slice

SHOWN = 20
COLUMNS = 10
ZOOM = 3
# Black and white, in units of 0.05 ppm about the brain's median.
WINDOW = (-1.2, 2.0)
OUTLINE = (220, 60, 60)


def write_gallery(patches: np.ndarray, truth: np.ndarray, path: Path, *, rng: np.random.Generator) -> Path:
    """Write twenty rim+ lesions and twenty others, each in its largest slice with its outline.

    Parameters
    ----------
    patches : (N, 3, X, Y, Z) float
        See :class:`msrim.lesions.patches.Patches`.
    truth : (N,) bool
        Rim+.
    path : Path
        PNG.
    rng : numpy.random.Generator
        Chooses.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    rows = []
    for kind in (truth, ~truth):
        members = np.flatnonzero(kind)
        tiles = [_tile(patches[index]) for index in rng.permutation(members)[:SHOWN]]
        empty = np.full((patches.shape[3] * ZOOM + 2, patches.shape[2] * ZOOM + 2, 3), 255, np.uint8)
        tiles += [empty] * (SHOWN - len(tiles))
        rows += [np.concatenate(tiles[start : start + COLUMNS], axis=1) for start in range(0, SHOWN, COLUMNS)]
        rows.append(np.full((8, rows[0].shape[1], 3), 255, np.uint8))
    try:
        with written_atomically(path) as temporary:
            Image.fromarray(np.concatenate(rows[:-1])).save(temporary, format="PNG")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
    return path


def _tile(patch: np.ndarray) -> np.ndarray:
    inside = patch[2] > 0.5
    index = int(inside.sum(axis=(0, 1)).argmax())
    grey = np.clip((picture_slice(patch[0], AXIAL, index) - WINDOW[0]) / (WINDOW[1] - WINDOW[0]), 0, 1)
    mask = np.kron(picture_slice(inside, AXIAL, index), np.ones((ZOOM, ZOOM), bool))
    picture = np.repeat(np.kron((255 * grey).astype(np.uint8), np.ones((ZOOM, ZOOM), np.uint8))[..., None], 3, axis=-1)
    edge = mask & ~(np.roll(mask, 1, 0) & np.roll(mask, -1, 0) & np.roll(mask, 1, 1) & np.roll(mask, -1, 1))
    picture[edge] = OUTLINE
    return np.pad(picture, ((1, 1), (1, 1), (0, 0)), constant_values=255)
