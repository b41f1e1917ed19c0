"""Kernels for a CPU, compiled by Numba at their first use and kept on disk."""

from __future__ import annotations

from msrim.ops._cpu.rim import rim_transform, rim_transform_backward
from msrim.ops._cpu.votes import accumulate, grad_grids, sample

__all__ = ["accumulate", "grad_grids", "rim_transform", "rim_transform_backward", "sample"]
