"""What tests share."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fsl_programs
import pytest

ROOT = Path(__file__).parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers beside each other: one thread each, also in what their tests start. Set before torch is imported.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs come first: a worker that began one last would be alone with it at the end."""
    items.sort(key=lambda item: item.path.parent.name != "workflows")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images, which are not part of the repository: $MSRIM_DATA or ../shared/data beside it."""
    folder = Path(os.environ.get("MSRIM_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set MSRIM_DATA")
    return folder


@pytest.fixture(scope="session")
def phantom_dataset(tmp_path_factory) -> Callable[..., Path]:
    """The phantom's dataset of a seed; made once for all tests and workers, so nobody may change it."""
    from msrim.simulation.phantom import simulate_subject

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def dataset(seed: int, *, lesion_free: bool = False) -> Path:
        out = folder / f"phantom-{seed}{'-healthy' * lesion_free}"
        with Path(f"{out}.lock").open("w") as stream:
            # Another worker may be at it.
            fcntl.flock(stream, fcntl.LOCK_EX)
            if not out.exists():
                simulate_subject(out.with_suffix(".partial"), seed=seed, lesion_free=lesion_free)
                out.with_suffix(".partial").rename(out)
        return out

    return dataset


@pytest.fixture(scope="session")
def bids_errors() -> Callable[[Path], str]:
    """What the official validator finds wrong in a BIDS dataset and in the derivatives inside; empty if nothing."""
    validator = Path(sys.executable).with_name("bids-validator-deno")
    if not validator.exists():
        pytest.skip("no BIDS validator: pip install bids-validator-deno")

    def errors(folder: Path) -> str:
        found = ""
        # With --recursive the validator does not read the .bidsignore of a derivative.
        for dataset in (folder, *folder.glob("derivatives/*")):
            shown = subprocess.run([validator, "--ignoreWarnings", dataset], capture_output=True, text=True)
            found += shown.stdout + shown.stderr if shown.returncode or "ERROR" in shown.stdout else ""
        return found

    return errors


@pytest.fixture
def stand_in(tmp_path, monkeypatch) -> Callable[..., Path]:
    """Set FSLDIR to a folder of stand-ins, see :func:`fsl_programs.install`."""

    def install(**scripts: str) -> Path:
        home = fsl_programs.install(tmp_path / "fsl", **scripts)
        monkeypatch.setenv("FSLDIR", str(home))
        monkeypatch.delenv("FSLOUTPUTTYPE", raising=False)
        return home

    return install
