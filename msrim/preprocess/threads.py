"""ITK's number of threads, which decides the last bits of its sums."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import SimpleITK as sitk


@contextmanager
def one_itk_thread() -> Iterator[None]:
    """Run SimpleITK on one thread inside the block, so that the bits do not depend on the number of cores.

    A filter's own ``SetNumberOfThreads`` is not enough: registration metrics and N4 go by the global default, and ITK
    adds up per thread.
    """
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
