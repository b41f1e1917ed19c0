"""Inputs of the rim networks, and their predictions for a patient's lesions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from msrim.lesions.patches import QSM_SCALE_PPM, SPACING_MM
from msrim.models import load_model
from msrim.models.inference import choose_device
from msrim.models.registry import Card

BATCH = 64


@dataclass(frozen=True)
class Inputs:
    """Inputs that a network needs of a lesion.

    Attributes
    ----------
    patch : (3,) int or None
        Voxels of the patches; None for no image.
    masked : bool
        Only what lies inside the lesion is left in the patch.
    features : bool
        The radiomic features.
    first_order : bool
        Of these only the first-order ones of the image itself.
    """

    patch: tuple[int, int, int] | None
    masked: bool = False
    features: bool = False
    first_order: bool = False

    @property
    def normalisation(self) -> str:
        """How the inputs are scaled, for recipes and cards."""
        parts = []
        if self.patch is not None:
            parts += [
                f"QSM: brain median to 0, divided by {QSM_SCALE_PPM:g} ppm",
                "FLAIR: median and median absolute deviation of the brain to 0 and 1",
                f"patches of {' x '.join(map(str, self.patch))} voxels",
            ]
            if self.masked:
                parts[-1] += ", 0 outside the lesion"
        if self.features:
            parts.append(f"{'first-order' if self.first_order else '527'} radiomic features of the QSM in ppb")
        return "; ".join(parts)


# Patch for the report where the network sees no image.
SHOWN_PATCH = (32, 32, 8)
INPUTS = {
    "datrnet": Inputs((32, 32, 8)),
    "qsmrimnet": Inputs((32, 32, 16), masked=True, features=True),
    "rimnet": Inputs((32, 32, 16), masked=True),
    "aprl-rf": Inputs(None, features=True, first_order=True),
    "aprl-nn": Inputs(None, features=True),
}


def inputs_of(card: Card) -> Inputs:
    """Inputs of a card's network; of several that vote, those of each."""
    return INPUTS[card.settings.get("network", card.network)]


def network_inputs(kind: Inputs, patches: Tensor, features: Tensor | None) -> list[Tensor]:
    """Arguments of a network's forward.

    Parameters
    ----------
    patches : (N, 3, X, Y, Z)
        QSM, FLAIR and lesion.
    features : (N, 527) or None
    """
    given: list[Tensor] = []
    if kind.patch is not None:
        given.append(patches[:, :2] * (patches[:, 2:] > 0.5) if kind.masked else patches[:, :2])
    if kind.features:
        if features is None:
            raise ValueError("this network needs the lesions' radiomic features")
        given.append(features)
    return given


def shown_size(card: Card) -> tuple[int, int, int]:
    """Voxels of a lesion's pictures: what a card's network sees from the middle, or SHOWN_PATCH if that is no image."""
    return inputs_of(card).patch or SHOWN_PATCH


def patch_size(card: Card) -> tuple[int, int, int]:
    """Voxels of the patches to cut for a card's network: what it sees, with room for views beside the middle."""
    x, y, z = shown_size(card)
    room_x, room_y, _ = np.abs(views(card.view_shift_mm)).max(axis=0)
    return x + 2 * int(room_x), y + 2 * int(room_y), z


def views(shift_mm: float) -> np.ndarray:
    """Where a network looks, voxels off the middle of the patch: there, and to each side in the plane of the slices.

    Parameters
    ----------
    shift_mm : float
        With 0 there is one view.

    Returns
    -------
    (views, 3) int

    Examples
    --------
    >>> views(1.5).tolist()
    [[0, 0, 0], [2, 0, 0], [-2, 0, 0], [0, 2, 0], [0, -2, 0]]
    """
    middle = np.zeros((1, 3), int)
    x, y = (round(shift_mm / spacing) for spacing in SPACING_MM[:2])
    beside = np.array([(x, 0, 0), (-x, 0, 0), (0, y, 0), (0, -y, 0)])
    return np.concatenate([middle, beside]) if shift_mm > 0 else middle


def inner(patches: np.ndarray, size: Sequence[int], *, off: Sequence[int] = (0, 0, 0)) -> np.ndarray:
    """The middle of patches, or what lies some voxels off it.

    Parameters
    ----------
    patches : (N, C, X, Y, Z)
    size : (3,) int
        Of the part, voxels.
    off : (3,) int
        Voxels from the middle of the patch to that of the part.

    Raises
    ------
    ValueError
        The part reaches beyond the patches.

    Examples
    --------
    >>> inner(np.arange(6).reshape(1, 1, 6, 1, 1), (2, 1, 1), off=(1, 0, 0)).ravel().tolist()
    [3, 4]
    """
    whole = patches.shape[2:]
    low = [(n - k) // 2 + d for n, k, d in zip(whole, size, off, strict=True)]
    if any(start < 0 or start + k > n for start, k, n in zip(low, size, whole, strict=True)):
        raise ValueError(f"patches of {tuple(whole)} voxels do not hold one of {tuple(size)} that is {tuple(off)} off")
    return patches[:, :, *(slice(start, start + k) for start, k in zip(low, size, strict=True))]


def rim_probabilities(
    card: Card, patches: np.ndarray, features: np.ndarray | None, *, device: str = "cpu"
) -> np.ndarray:
    """Probability of a rim for each lesion.

    Parameters
    ----------
    card : Card
        Of a rim network.
    patches : (N, 3, X, Y, Z) float
        Of :func:`msrim.lesions.patches.cut_patches`, of :func:`patch_size` or larger.
    features : (N, 527) float or None
        For the networks that want them.

    Returns
    -------
    (N,) float64
    """
    shift = card.view_shift_mm
    return predict(load_model(card), inputs_of(card), patches, features, view_shift_mm=shift, device=device)


def predict(
    network: nn.Module,
    kind: Inputs,
    patches: np.ndarray,
    features: np.ndarray | None,
    *,
    view_shift_mm: float = 0.0,
    device: str = "cpu",
) -> np.ndarray:
    """Probabilities of a network, as those of a card by :func:`rim_probabilities`: the highest of its views.

    Parameters
    ----------
    view_shift_mm : float
        See :func:`views`. A lesion that `msrim segment` found does not lie in the middle of its patch as those do that
        networks are trained on, and a rim off the middle is missed more often than one is made up.

    Returns
    -------
    (N,) float64
    """
    place, seen = choose_device(device), views(view_shift_mm)
    network = network.to(place).eval()
    parts = [np.zeros(0)]
    for start in range(0, len(patches), BATCH):
        rows = slice(start, start + BATCH)
        known = None if features is None else torch.from_numpy(features[rows]).float()
        with torch.inference_mode():
            logits = [
                network(*(part.to(place) for part in network_inputs(kind, images, known)))
                for images in _views_of(patches[rows], kind, seen)
            ]
        parts.append(torch.sigmoid(torch.stack(logits).amax(dim=0).double()).cpu().numpy())
    return np.concatenate(parts)


def _views_of(patches: np.ndarray, kind: Inputs, seen: np.ndarray) -> Iterator[Tensor]:
    """What a network sees of the patches from each view; once what it sees where that is no image."""
    if kind.patch is None:
        yield torch.from_numpy(patches).float()
        return
    for off in seen:
        yield torch.from_numpy(inner(patches, kind.patch, off=off)).float()
