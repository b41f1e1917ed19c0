"""run.json: what went into a run, what came out, and what it cost."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

from msrim import __version__
from msrim.files import sha256_of, write_json

# The libraries that touch the numbers; a difference in results between two machines starts here.
NUMERIC_PACKAGES = (
    "numpy",
    "scipy",
    "torch",
    "SimpleITK",
    "nibabel",
    "scikit-image",
    "connected-components-3d",
    "edt",
    "nilearn",
    "nipype",
    "antspyx",
    "picsl-greedy",
)


@dataclass
class Cost:
    """Resources that a block used.

    Attributes
    ----------
    seconds : float
        By the clock on the wall.
    processor_seconds : float
        Of all threads, and of the programs that were started and have ended: a busy machine makes a block longer, but
        hardly more work.
    peak_mib : float or None
        Peak resident memory; None where the system does not report it (not Linux).
    """

    seconds: float = 0.0
    processor_seconds: float = 0.0
    peak_mib: float | None = None


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure the block: the yielded cost is filled in when it ends.

    The peak is this process's alone (VmHWM of proc(5)); programs that it starts are not in it.
    """
    cost = Cost()
    # Writing 5 sets the high-water mark back to the present size, so that every step gets a peak of its own.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    start, worked = perf_counter(), _processor_seconds()
    try:
        yield cost
    finally:
        cost.seconds = round(perf_counter() - start, 3)
        cost.processor_seconds = round(_processor_seconds() - worked, 3)
        with suppress(OSError):
            status = Path("/proc/self/status").read_text()
            cost.peak_mib = round(int(status.split("VmHWM:")[1].split()[0]) / 1024, 1)


def _processor_seconds() -> float:
    """Of this process and of the children that it has waited for."""
    return sum(os.times()[:4])


@dataclass(frozen=True)
class StepRecord:
    """One step of a run; ``kept`` means that an earlier run did it, at this cost, and its results are still valid."""

    name: str
    seconds: float
    processor_seconds: float
    peak_mib: float | None
    kept: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Provenance:
    """Provenance of a report's results.

    Attributes
    ----------
    subject : str
    date : datetime
        When the run ended.
    inputs : dict of str to Path
        The user's files by contrast.
    steps : sequence of StepRecord
    backend : str or None
        Who prepared the images, with its version; never "auto", and None where nothing was prepared.
    versions : dict of str to str
        ``msrim`` among them.
    recipe : str
        TOML.
    warnings : sequence of str
        Whatever the reader must know.
    doubts : sequence of str
        Of the warnings, those that ask for visual inspection before the results are trusted.
    """

    subject: str
    date: datetime
    inputs: dict[str, Path]
    steps: Sequence[StepRecord]
    backend: str | None
    versions: dict[str, str]
    recipe: str
    warnings: Sequence[str]
    doubts: Sequence[str] = ()


@dataclass
class Manifest:
    """Record of a run, filled while it goes and written once at its end.

    Attributes
    ----------
    recipe : dict
        Every setting as it was used, after defaults and command-line options.
    inputs : dict of str to Path
        The user's files by contrast.
    steps : list of StepRecord
        In the order in which they ended.
    remarks : list of str
        Remarks for the reader, in their order.
    fallbacks : list of str
        Of these, what was replaced by what, and why; in run.json apart from the others, its ``warnings``.
    doubts : list of str
        Of these, those that ask for visual inspection before the results are trusted.
    backend : str or None
        Who prepared the images, where the run asks for that; "auto" is never among them.
    versions : dict of str to str
        Of :func:`package_versions`, and of the backend's program.
    """

    recipe: dict[str, Any]
    inputs: dict[str, Path]
    steps: list[StepRecord] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    fallbacks: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    backend: str | None = None
    versions: dict[str, str] = field(default_factory=lambda: package_versions())

    def provenance(self, subject: str, *, recipe: str, doubts: Sequence[str] = ()) -> dict[str, Any]:
        """The fields of :class:`Provenance` for a report of this run, by name.

        Parameters
        ----------
        subject : str
        recipe : str
            TOML.
        doubts : sequence of str
            Those of the runs on which this one builds.
        """
        return {
            "subject": subject,
            "date": datetime.now().astimezone(),
            "inputs": self.inputs,
            "steps": self.steps,
            "backend": self.backend,
            "versions": self.versions,
            "recipe": recipe,
            "warnings": self.remarks,
            "doubts": [*doubts, *self.doubts],
        }

    def write(self, path: Path, *, outputs: list[Path]) -> Path:
        """Write run.json with the hashes of everything read and written; paths of outputs are relative to its folder.

        Raises
        ------
        OutputError
            The folder cannot be written to.
        """
        content = {
            "versions": self.versions,
            "backend": self.backend,
            "recipe": self.recipe,
            "inputs": {
                name: {"path": str(file), "sha256": sha256_of(file)} for name, file in sorted(self.inputs.items())
            },
            "outputs": {os.path.relpath(file, path.parent): sha256_of(file) for file in sorted(outputs)},
            "steps": [asdict(step) for step in self.steps],
            "warnings": [text for text in self.remarks if text not in self.fallbacks],
            "fallbacks": self.fallbacks,
            "doubts": self.doubts,
        }
        return write_json(content, path)


def package_versions() -> dict[str, str]:
    """Versions of msrim, Python and the libraries that touch the numbers; "missing" where one is not installed.

    Examples
    --------
    >>> list(package_versions())[:2]
    ['msrim', 'python']
    """
    versions = {"msrim": __version__, "python": platform.python_version()}
    for name in NUMERIC_PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "missing"
    return versions
