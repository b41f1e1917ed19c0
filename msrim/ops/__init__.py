"""The deep directed accumulator (Zhang et al. 2023, doi:10.1007/978-3-031-43895-0_72) and its rim transformation."""

from __future__ import annotations

from msrim.ops.accumulator import accumulate
from msrim.ops.rim import rim_transform

__all__ = ["accumulate", "rim_transform"]
