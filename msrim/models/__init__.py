"""Networks: one file each, a card that states what its weights can do, and one line in ``MODELS``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from msrim.models.registry import MODELS, Card, read_card

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MODELS", "Card", "build", "channels_innermost", "load_model", "plane_of", "read_card", "write_weights"]


def build(name: str, **settings: Any) -> nn.Module:
    """Make a registered network with fresh weights.

    Raises
    ------
    ModelError
        The name is not in MODELS.

    Examples
    --------
    >>> type(build("allnet", contrasts=1)).__name__
    'AllNet'
    """
    from importlib import import_module

    from msrim.errors import ModelError

    if name not in MODELS:
        raise ModelError(f"{name}: no such network; choose one of {', '.join(MODELS)}")
    module, _, kind = MODELS[name].partition(":")
    return getattr(import_module(module), kind)(**settings)


def load_model(card: Card) -> nn.Module:
    """The network of a card with its weights, ready for inference.

    Raises
    ------
    ModelError
        The weights are missing, are not the ones that the card describes, or do not fit the network; or the card joins
        several models.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from msrim.errors import ModelError
    from msrim.files import sha256_of

    if card.members:
        raise ModelError(f"{card.label}: several models where one is needed; name one")
    if not card.weights.is_file():
        raise ModelError(f"{card.weights}: the weights of {card.label} are missing; install msrim again")
    if sha256_of(card.weights) != card.sha256:
        raise ModelError(
            f"{card.weights}: damaged, its sha256 is not the card's; restore the file or install msrim again"
        )
    network = build(card.network, **card.settings)
    try:
        network.load_state_dict(load_file(card.weights))
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(f"{card.weights}: does not fit {card.network} with the card's settings ({error})") from error
    return network.eval()


def channels_innermost(network: nn.Module) -> nn.Module:
    """Order a network's weights in place for 3-D convolutions with the channels innermost; the network itself."""
    import torch

    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # not in torch's stubs


def plane_of(network: nn.Module) -> tuple[int, int]:
    """Size of the slices that a network of slices sees, voxels."""
    return cast(tuple[int, int], network.plane)


def write_weights(network: nn.Module, path: Path) -> Path:
    """Write a network's parameters as safetensors."""
    from safetensors.torch import save_file

    from msrim.files import written_atomically

    with written_atomically(path) as temporary:
        save_file({name: value.detach().contiguous().cpu() for name, value in network.state_dict().items()}, temporary)
    return path
