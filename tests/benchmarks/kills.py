"""A cohort that is killed again and again beside one that is not: `python -m tests.benchmarks.kills BIDS OUT`.

Every run but the last gets SIGKILL after a random time. What lies there then must be whole, and at the end every file
must be that of the undisturbed run, times aside. With ``--all-tasks`` phantoms are written to BIDS, a new folder: one
with a QSM and one with two visits, so that rims and changes are interrupted too. Further options go to `msrim cohort`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

from msrim.files import PARTIAL
from tests.benchmarks.phantoms import add_phantom, phantom

# What tells the time in a report: when it was, how long and how large each step was, and what was kept.
TIMES = re.compile(
    r"<dt>Run</dt><dd>[^<]*|, [-\d]+ [:\d]+ \w+, QSM"
    r'|<td( class="number")?>[\d.]+( s)?</td>(<td>[\d.–]*</td>)?(<td class="(text )?soft">[^<]*)?'
)


def start(bids: Path, out: Path, *options: str, prefix: Sequence[str] = (), **streams: Any) -> subprocess.Popen:
    """Start `msrim cohort` on a dataset; ``prefix`` goes before the command."""
    command = [sys.executable, "-m", "msrim", "cohort", str(bids), str(out), "participant", "--skip-bids-validation"]
    return subprocess.Popen([*prefix, *command, *options], text=True, **streams)


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of every result by its path below the folder; without times, logs and the steps' own files."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_file() and not re.search(r"(^|/)(work|logs)/", name) and PARTIAL not in name:
            found[name] = hashlib.sha256(_without_times(path)).hexdigest()
    return found


def differences(out: Path, truth: dict[str, str], *, complete: bool) -> list[str]:
    """Files that are not those of the undisturbed run; if complete, also those that are missing or left over."""
    there = digests(out)
    wrong = [name for name, digest in there.items() if truth.get(name) != digest]
    if complete:
        wrong += truth.keys() - there.keys()
        wrong += [str(path) for path in out.rglob(f".*{PARTIAL}*")]
    return wrong


def kill_again(bids: Path, out: Path, *options: str, delays: Sequence[float], truth: dict[str, str]) -> list[str]:
    """Run a cohort and kill it after each of the delays, in seconds; what was not whole then."""
    wrong = []
    for delay in delays:
        run = start(bids, out, *options, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        with suppress(subprocess.TimeoutExpired):
            run.wait(timeout=delay)
        run.kill()
        code, there = run.wait(), digests(out)
        print(f"after {delay:.1f} s: exit code {code}, {len(there)} of {len(truth)} results there", flush=True)
        wrong += differences(out, truth, complete=False)
    return wrong


def _without_times(path: Path) -> bytes:
    if path.name == "report.html":
        return TIMES.sub("", path.read_text(encoding="utf-8")).encode()
    if path.name == "run.json":
        content = json.loads(path.read_text(encoding="utf-8"))
        del content["outputs"]["report.html"]
        content["steps"] = [step["name"] for step in content["steps"]]
        return json.dumps(content).encode()
    return path.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bids", type=Path)
    parser.add_argument("out", type=Path, help="a new folder: undisturbed/ and killed/ are made in it")
    parser.add_argument("--all-tasks", action="store_true", help="write phantoms for every task to BIDS")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given, options = parser.parse_known_args()
    if given.all_tasks:
        lesions, healthy = (phantom(given.out / "phantoms", seed=0, lesion_free=free) for free in (False, True))
        add_phantom(given.bids, lesions, "rims", contrasts=("FLAIR", "Chimap"))
        add_phantom(given.bids, healthy, "twice", session="1", contrasts=("FLAIR",))
        add_phantom(given.bids, lesions, "twice", session="2", contrasts=("FLAIR",))
    began = perf_counter()
    start(given.bids, given.out / "undisturbed", *options).wait()
    seconds, truth = perf_counter() - began, digests(given.out / "undisturbed")
    print(f"undisturbed: {seconds:.1f} s, {len(truth)} results", flush=True)
    rng, out = random.Random(given.seed), given.out / "killed"
    # Twice the run's time altogether, because every start costs some and the step that was cut is done again.
    delays = [rng.uniform(0, 4 * seconds / given.kills) for _ in range(given.kills)]
    wrong = kill_again(given.bids, out, *options, delays=delays, truth=truth)
    start(given.bids, out, *options).wait()
    wrong += differences(out, truth, complete=True)
    print(f"{given.kills} kills, {len(truth)} results, {len(wrong)} not as in the undisturbed run {wrong}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
