"""Brain extraction by SynthStrip."""

from __future__ import annotations

import cc3d
import numpy as np
from scipy import ndimage

from msrim.image import Volume, grid_along, resample, to_ras
from msrim.models import load_model
from msrim.models.inference import run_network
from msrim.models.registry import Card

# Of every side of the network's input, voxels. With 64, as the published network has it, there are half as many
# voxels again in 46 heads.
MULTIPLE = 16
# The brain is what lies under this distance from its surface, with most CSF of the sulci. The published border is 1 mm;
# against the masks that are published with three patients' raw FLAIRs, half of it is better by 0.002 to 0.005 Dice.
BORDER_MM = 0.5
DARK_AND_BRIGHT = (0.5, 99.0)
# Beyond the field of view, as far from the brain as anything.
FAR_MM = 100.0
# The network sees the head alone, not the air around it: this share of the brightest tissue separates them.
HEAD, HEAD_MARGIN_MM = 0.08, 4.0
# From the vertex downwards; brains are shorter by 20 mm and more, and what follows is neck.
HEAD_HEIGHT_MM = 192.0


def extract_brain(volume: Volume, *, card: Card, device: str = "cpu") -> Volume:
    """Brain mask of a whole head in any contrast, orientation and resolution.

    Parameters
    ----------
    volume : Volume
    card : Card
        Of SynthStrip.
    device : str

    Returns
    -------
    Volume of bool
        On the image's grid: brain, ventricles and the CSF of the sulci; one component without holes, or empty.

    Notes
    -----
    Hoopes et al. 2022, doi:10.1016/j.neuroimage.2022.119474.
    """
    distance = brain_distance(volume, card=card, device=device)
    # Shifted by FAR_MM, because outside the field of view `resample` gives zero.
    far = resample(distance.like(FAR_MM - np.clip(distance.data, -FAR_MM, FAR_MM)), volume)
    inside = far.data > FAR_MM - BORDER_MM
    if inside.any():
        inside = ndimage.binary_fill_holes(cc3d.largest_k(inside, k=1, connectivity=6) > 0)
    return volume.like(inside)


def brain_distance(volume: Volume, *, card: Card, device: str = "cpu") -> Volume:
    """Signed distance to the surface of the brain, mm, negative inside: on a 1 mm grid around the head.

    The grid runs along the image's own axes, in RAS order, as that of the published tool does. On one along the
    scanner's axes, oblique slices of 6 to 8 mm look like stairs: masks lacked occipital cortex and cerebellum.

    Parameters
    ----------
    volume : Volume
    card : Card
    device : str
    """
    volume = to_ras(volume)
    low, high = _intensity_range(volume.data)
    head = _head(volume, brighter_than=low + HEAD * (high - low))
    grid = grid_along(volume, head, margin_mm=HEAD_MARGIN_MM, multiple=MULTIPLE)
    image = np.clip(resample(volume.like(volume.data - low), grid).data / (high - low), 0, 1)
    # RAS to LIA: the second axis runs down, the third forward.
    turned = np.ascontiguousarray(image[::-1, :, ::-1].transpose(0, 2, 1), dtype=np.float32)
    distance = run_network(load_model(card), turned[None, None], device=device)[0, 0].numpy()
    return Volume(np.ascontiguousarray(distance.transpose(0, 2, 1)[::-1, :, ::-1]), grid.affine)


def _head(volume: Volume, *, brighter_than: float) -> np.ndarray:
    """Mask of the head in RAS order, without the neck as far as possible; everywhere where there is none."""
    head = ndimage.binary_opening(volume.data > brighter_than)
    if not head.any():
        return np.ones(volume.shape, bool)
    head = cc3d.largest_k(head, k=1, connectivity=6) > 0
    top = np.flatnonzero(head.any(axis=(0, 1)))[-1]
    head[:, :, : max(top - int(HEAD_HEIGHT_MM / volume.spacing[2]), 0)] = False
    return head


def _intensity_range(image: np.ndarray) -> tuple[float, float]:
    """Darkest and brightest intensity that count, over the whole field of view, so that a crop changes neither.

    The published tool takes the minimum. Some scanners' reconstructions leave a few voxels far below the air around
    the head; then the air is grey, and the masks of such 2-D FLAIRs lack the cerebellum.
    """
    low, high = np.percentile(image, DARK_AND_BRIGHT)
    return float(low), float(max(high, low + 1e-6))
