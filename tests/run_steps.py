"""Steps for test_run.py: at the top level of a module, as a run needs them. Each call adds a line to a journal."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from msrim.console import Console
from msrim.errors import Doubt, Fallback, InputError
from msrim.files import write_text, written_atomically
from msrim.manifest import Manifest
from msrim.workflows.run import Run


@dataclass(frozen=True)
class Doubled:
    """A number as a file and as itself."""

    file: Path
    value: int


def double(number: Path, folder: Path) -> Doubled:
    _note("double", folder)
    warnings.warn("no abacus; counting on fingers", Fallback, stacklevel=1)
    value = 2 * int(number.read_text())
    return Doubled(write_text(str(value), Path("doubled.txt")), value)


def add_one(doubled: Doubled, folder: Path) -> Path:
    _note("add_one", folder)
    return write_text(str(int(doubled.file.read_text()) + 1), Path("sum.txt"))


def publish(total: Path, folder: Path) -> Path:
    _note("publish", folder)
    with written_atomically(folder / "out" / "result.txt") as temporary:
        temporary.write_text(total.read_text())
        if (folder / "deadly").exists():
            os.kill(os.getpid(), signal.SIGKILL)
    return folder / "out" / "result.txt"


def suspect(number: Path) -> int:
    warnings.warn("no abacus; counting on fingers", Fallback, stacklevel=1)
    warnings.warn("six fingers on one hand", Doubt, stacklevel=1)
    return int(number.read_text())


def chatter(number: Path) -> int:
    os.system("echo a program talks")
    print("a library talks")
    return 1


def refuse(number: Path) -> Path:
    raise InputError(f"{number.name}: not the number that anybody wanted; give another")


def break_down(number: Path) -> Path:
    raise ZeroDivisionError("a bug")


def interrupt(number: Path) -> Path:
    raise KeyboardInterrupt


def give_object(number: Path) -> object:
    return object()


@dataclass(frozen=True)
class Sums:
    """What the three steps return."""

    doubled: Doubled
    total: Path
    result: Path


def sum_up(folder: Path) -> tuple[Sums, Manifest]:
    """Run three steps over ``number.txt`` of a folder."""
    with _run(folder) as run:
        doubled = run(double, folder / "number.txt", folder)
        total = run(add_one, doubled, folder=folder)
        return Sums(doubled, total, run(publish, total, folder=folder)), run.manifest


def told_by(function: Callable, folder: Path) -> Manifest:
    """Run one step, and return what the run tells of itself."""
    with _run(folder) as run:
        run(function, folder / "number.txt")
    return run.manifest


def run_alone(function: Callable, folder: Path) -> object:
    """Run one step over ``number.txt`` of a folder."""
    with _run(folder) as run:
        return run(function, folder / "number.txt")


def _run(folder: Path) -> Run:
    return Run(folder, Console(), recipe={}, inputs={})


def _note(name: str, folder: Path) -> None:
    with (folder / "journal.txt").open("a") as stream:
        stream.write(name + "\n")
