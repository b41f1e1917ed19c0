"""How a kernel is started on torch's tensors."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from msrim.errors import BackendError

try:
    from numba import cuda
except ImportError as error:
    raise BackendError("the operators need numba-cuda on a GPU: pip install 'msrim[gpu]', or use the CPU") from error

THREADS = 256
# Shared memory that every GPU grants a block by default.
SHARED_BYTES = 48 * 1024


def launch(
    kernel: Any,
    blocks: int,
    device: torch.device,
    *arguments: Any,
    shared_bytes: int = 0,
    threads: tuple[int, ...] | None = None,
) -> None:
    """Put a kernel on the device's current stream, after what torch put there; nothing is copied or waited for."""
    if not blocks:
        return
    stream = cuda.external_stream(torch.cuda.current_stream(device).cuda_stream)
    with cuda.gpus[device.index]:
        arrays = [cuda.as_cuda_array(a.detach(), sync=False) if isinstance(a, Tensor) else a for a in arguments]
        with warnings.catch_warnings():
            # Numba warns that a small input leaves most of a GPU idle, which the user cannot change.
            warnings.filterwarnings("ignore", message="Grid size")
            kernel[blocks, threads or THREADS, stream, shared_bytes](*arrays)


def blocks_for(threads: int) -> int:
    return -(-threads // THREADS)
