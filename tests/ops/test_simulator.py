"""The GPU's kernels without a GPU: the same tests in Numba's CUDA simulator, which needs a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# What the simulator, a thread of Python for every thread of the GPU, can do in time.
CHOSEN = "hand or no_numbers or empty or infinite or (gradients_equal and float64 and not one)"


@pytest.mark.parametrize("file", ["test_accumulate.py", "test_rim.py"])
def test_kernels_of_the_gpu_in_the_simulator(file):
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", CHOSEN, str(HERE / file)],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout[-4000:]
