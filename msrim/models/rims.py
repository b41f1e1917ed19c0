"""Inputs of the rim networks, and their predictions for a patient's lesions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from msrim.lesions.patches import QSM_SCALE_PPM
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


def rim_probabilities(
    card: Card, patches: np.ndarray, features: np.ndarray | None, *, device: str = "cpu"
) -> np.ndarray:
    """Probability of a rim for each lesion.

    Parameters
    ----------
    card : Card
        Of a rim network.
    patches : (N, 3, X, Y, Z) float32
        Of :func:`msrim.lesions.patches.cut_patches`, of the size in INPUTS.
    features : (N, 527) float or None
        For the networks that want them.

    Returns
    -------
    (N,) float64
    """
    return predict(load_model(card), inputs_of(card), patches, features, device=device)


def predict(
    network: nn.Module, kind: Inputs, patches: np.ndarray, features: np.ndarray | None, *, device: str = "cpu"
) -> np.ndarray:
    """Probabilities of a network, as those of a card by :func:`rim_probabilities`: (N,) float64."""
    network = network.to(choose_device(device)).eval()
    parts = [np.zeros(0)]
    for start in range(0, len(patches), BATCH):
        rows = slice(start, start + BATCH)
        given = network_inputs(
            kind,
            torch.from_numpy(patches[rows]).float(),
            None if features is None else torch.from_numpy(features[rows]).float(),
        )
        with torch.inference_mode():
            logits = network(*(part.to(choose_device(device)) for part in given))
        parts.append(torch.sigmoid(logits.double()).cpu().numpy())
    return np.concatenate(parts)
