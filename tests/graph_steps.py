"""Steps for test_graph.py: at the top level of a module, as a graph needs them. Each call adds a line to a journal."""

from __future__ import annotations

import os
import signal
import warnings
from pathlib import Path

import nipype

from msrim.console import Console
from msrim.errors import Fallback, InputError
from msrim.files import write_text, written_atomically
from msrim.manifest import Manifest
from msrim.workflows.graph import run_graph, step


def double(number: Path, folder: Path) -> tuple[Path, int]:
    _note("double", folder)
    warnings.warn("no abacus; counting on fingers", Fallback, stacklevel=1)
    value = 2 * int(number.read_text())
    return write_text(str(value), Path("doubled.txt")), value


def add_one(doubled: Path, folder: Path) -> Path:
    _note("add_one", folder)
    return write_text(str(int(doubled.read_text()) + 1), Path("sum.txt"))


def publish(total: Path, folder: Path) -> Path:
    _note("publish", folder)
    with written_atomically(folder / "out" / "result.txt") as temporary:
        temporary.write_text(total.read_text())
        if (folder / "deadly").exists():
            os.kill(os.getpid(), signal.SIGKILL)
    return folder / "out" / "result.txt"


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


def sum_up(folder: Path) -> tuple[dict, Manifest]:
    """Run three steps over ``number.txt`` of a folder."""
    first = step(double, outputs=["doubled", "value"], number=folder / "number.txt", folder=folder)
    second = step(add_one, outputs=["total"], folder=folder)
    third = step(publish, outputs=["result"], folder=folder)
    workflow = nipype.Workflow("sums")
    workflow.connect(first, "doubled", second, "doubled")
    workflow.connect(second, "total", third, "total")
    return _run(workflow, folder)


def run_alone(function, folder: Path) -> tuple[dict, Manifest]:
    """Run one step over ``number.txt`` of a folder."""
    workflow = nipype.Workflow("alone")
    workflow.add_nodes([step(function, outputs=["value"], number=folder / "number.txt")])
    return _run(workflow, folder)


def _run(workflow: nipype.Workflow, folder: Path) -> tuple[dict, Manifest]:
    manifest = Manifest(recipe={}, inputs={})
    return run_graph(workflow, folder=folder, console=Console(), manifest=manifest), manifest


def _note(name: str, folder: Path) -> None:
    with (folder / "journal.txt").open("a") as stream:
        stream.write(name + "\n")
