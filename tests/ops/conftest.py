"""The implementations that one body of tests runs over."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from msrim.ops import accumulate, accumulator, reference, rim, rim_transform

GPU = ["cuda"] if torch.cuda.is_available() else []
# The simulator takes the place of numba.cuda in the whole process: see test_simulator.
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
WAYS = ["shared memory simulated", "global memory simulated"] if SIMULATED else ["twin", "cpu", *GPU]


@pytest.fixture(params=["cpu", *GPU])
def device(request):
    """A device that has kernels."""
    return request.param


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """An implementation's functions, and the device it runs on."""
    if request.param == "twin":
        return SimpleNamespace(
            accumulate=reference.accumulate, rim_transform=reference.rim_transform, device=torch.device("cpu")
        )
    if SIMULATED:
        simulate(monkeypatch, shared_bytes=48 * 1024 if "shared" in request.param else 0)
    device = torch.device("cuda", 0) if request.param == "cuda" else torch.device("cpu")
    return SimpleNamespace(accumulate=accumulate, rim_transform=rim_transform, device=device)


def simulate(monkeypatch, *, shared_bytes: int) -> None:
    """Let the GPU's kernels, a few threads a block, work for the CPU."""
    from msrim.ops import _cuda
    from msrim.ops._cuda import launch

    def run(kernel, blocks, device, *arguments, shared_bytes=0, threads=None):
        arrays = [a.detach().numpy() if isinstance(a, torch.Tensor) else a for a in arguments]
        if blocks:
            kernel[blocks, threads or launch.THREADS, 0, shared_bytes](*arrays)

    monkeypatch.setattr(launch, "THREADS", 3)
    for module in (_cuda.votes, _cuda.rim):
        monkeypatch.setattr(module, "launch", run)
        monkeypatch.setattr(module, "SHARED_BYTES", shared_bytes)
    monkeypatch.setattr(_cuda.rim, "THREADS", 6)
    for module in (accumulator, rim):
        monkeypatch.setattr(module, "kernels_for", lambda tensor: _cuda)


@pytest.fixture
def closeness():
    """What rounding explains: of the result in its dtype, of some hundred votes in the dtype of the sums."""

    def tolerances(dtype: torch.dtype) -> dict[str, float]:
        sums = torch.promote_types(dtype, torch.float32)
        return {"rtol": 4 * torch.finfo(dtype).eps, "atol": 100 * torch.finfo(sums).eps}

    return tolerances
