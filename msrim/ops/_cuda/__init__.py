"""Kernels for an NVIDIA GPU, compiled by numba-cuda at their first use, on torch's current stream."""

from __future__ import annotations

from msrim.ops._cuda.rim import rim_transform, rim_transform_backward
from msrim.ops._cuda.votes import accumulate, grad_grids, sample

__all__ = ["accumulate", "grad_grids", "rim_transform", "rim_transform_backward", "sample"]
