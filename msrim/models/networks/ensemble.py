"""Several trainings of one network that decide together, as ALL-Net's five seeds do (Zhang et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from msrim.errors import ModelError
from msrim.models import build, plane_of


class Ensemble(nn.Module):
    """The median of its members' logits.

    A median is above a threshold where most members are, so that thresholding it is their majority vote.

    Parameters
    ----------
    network : str
        Key of MODELS.
    members : int
        An odd number.
    shifts : sequence of float, optional
        Added to each member's logits, so that members with thresholds of their own vote at one.
    **settings
        Of every member.

    Raises
    ------
    ModelError
        The number is even, or there is no such network.

    Examples
    --------
    >>> vote = Ensemble("scp", 3, channels=16)
    >>> vote(torch.zeros(1, 3, 32, 32, 1)).shape
    torch.Size([1, 1, 32, 32, 1])
    """

    def __init__(self, network: str, members: int, *, shifts: Sequence[float] | None = None, **settings: Any) -> None:
        super().__init__()
        self.shifts = tuple(shifts or [0.0] * members)
        if members % 2 == 0:
            raise ModelError(f"{members} models cannot vote without a tie; join an odd number")
        self.members = nn.ModuleList(build(network, **settings) for _ in range(members))

    @property
    def plane(self) -> tuple[int, int]:
        """Of slice networks: the slice's size that every member sees."""
        return plane_of(self.members[0])

    def forward(self, *inputs: Tensor) -> Tensor:
        logits = [member(*inputs) + shift for member, shift in zip(self.members, self.shifts, strict=True)]
        return torch.stack(logits).median(dim=0).values
