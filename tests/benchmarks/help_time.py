"""Seconds until `msrim --help` has answered: `.venv/bin/python tests/benchmarks/help_time.py`."""

import statistics
import subprocess
import sys
from time import perf_counter


def seconds() -> float:
    start = perf_counter()
    subprocess.run([sys.executable, "-m", "msrim", "--help"], check=True, capture_output=True)
    return perf_counter() - start


if __name__ == "__main__":
    runs = [seconds() for _ in range(10)]
    print(f"msrim --help: best {min(runs):.3f} s, median {statistics.median(runs):.3f} s")
