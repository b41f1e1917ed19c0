"""How a kernel is compiled, and how its work is shared out between threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

# A thread that touches fewer numbers than these takes longer to start than to work.
NUMBERS = 2**16


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a kernel, and keep it on the disk for the next process.

    Where neither the package's folder nor the user's can be written to, as in a read-only image run under a number
    without a home, every process compiles anew.
    """

    def compile_kernel(kernel: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(kernel, nogil=True, error_model="numpy", cache=True, **options)
        except RuntimeError:
            return njit(kernel, nogil=True, error_model="numpy", **options)

    return compile_kernel


def empty(*shape: int, like: Tensor) -> Tensor:
    """An uninitialised tensor of another's dtype in numpy's memory: in huge pages, which torch does not ask for.

    The first touch of the rim transformation's outputs in small pages takes about as long as making them.
    """
    return torch.from_numpy(np.empty(shape, dtype=like.numpy().dtype))


def parallel_for(kernel: Callable[..., Any], pieces: int, *arguments: Any) -> None:
    """Run ``kernel(*arguments, first, last)`` over all pieces on as many threads as torch may use.

    Python's own threads, as the kernels hold no lock: Numba's would not outlive a fork (DataLoader workers).
    """
    arrays = [np.asarray(a) if isinstance(a, Tensor | list | tuple) else a for a in arguments]
    threads = min(torch.get_num_threads(), pieces, sum(a.size for a in arrays if isinstance(a, np.ndarray)) // NUMBERS)
    if threads < 2:
        kernel(*arrays, 0, pieces)
        return
    # Several ranges a thread, so that one that is slowed down does not keep the others waiting.
    edges = [pieces * i // (4 * threads) for i in range(4 * threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda first, last: kernel(*arrays, first, last), edges[:-1], edges[1:]))
