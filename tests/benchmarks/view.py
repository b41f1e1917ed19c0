"""How long a visit takes to open: from the command `msrim view` to a page that can be used, in headless Chromium.

    python -m tests.benchmarks.view RESULTS

Chromium draws without a GPU here, so that a person's machine is quicker. Beside the seconds on the clock stands the
processor time of the command and of Chromium in between: where nothing else is at work the clock shows about as much.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from time import perf_counter

from msrim.workflows.view.results import find_results

sys.path.insert(0, str(Path(__file__).parents[1]))
from chromium import chromium


def main() -> None:
    """Open one visit and print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    results = parser.parse_args().results
    shape = find_results(results).lesions().shape
    with tempfile.TemporaryDirectory() as folder, chromium(Path(folder)) as tab:
        # A person's browser is at work already, with its drawing process.
        tab.js("document.createElement('canvas').getContext('webgl2') !== null")
        before = processor_seconds(folder)
        start = perf_counter()
        command = [sys.executable, "-m", "msrim", "view", str(results)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            address = server.stdout.readline().strip()
            served = perf_counter()
            tab.open(address)
            tab.wait("document.body?.dataset.ready")
            ready = perf_counter()
            worked = processor_seconds(str(results)), processor_seconds(folder) - before
            server.terminate()
    print(
        f"{' x '.join(map(str, shape))} voxels: address after {served - start:.1f} s, page after {ready - start:.1f} s "
        f"({os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, no GPU); "
        f"processor time {worked[0]:.1f} s of msrim, {worked[1]:.1f} s of Chromium"
    )


def processor_seconds(word: str) -> float:
    """User and system time of all processes at work with a word in their command, but this one."""
    ticks = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if word in (process / "cmdline").read_text() and process.name != str(os.getpid()):
                # After the name in brackets; utime and stime are fields 14 and 15 of proc(5).
                ticks += sum(map(int, (process / "stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
