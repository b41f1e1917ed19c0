"""Progress goes to stderr: lines without a terminal, a bar with one, nothing when quiet; colours on terminals alone."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest
from rich.progress import Progress

from msrim.console import Console, _Bar

CODE = """
from msrim.console import Console
console = Console()
with console.progress({costs}), console.part("ses-01"):
    for name, kept in (("find brain", False), ("find skull", True), ("find lesions", False)):
        console.started(name)
        console._bar and console._bar.shown.refresh()
        console.finished(name, "kept" if kept else "1.0 s", kept=kept)
console.note("no abacus")
console.result("2 lesions, 1.00 ml", doubts=["the brain mask [of a.nii] has a hole"])
console.error("stopped")
"""
PIPED = """ses-01: find brain: 1.0 s
ses-01: find skull: kept
ses-01: find lesions: 1.0 s
note: no abacus
2 lesions, 1.00 ml. WARNING: the brain mask [of a.nii] has a hole
msrim: error: stopped
"""


def on_a_terminal(costs: str = "", **environment: str) -> str:
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(costs=costs)],
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80", **environment},
        check=True,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.stdout == b""
    return shown


def without_codes(shown: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)


@pytest.mark.parametrize(("quiet", "expected"), [(False, "find [brain]: 1.0 s\n"), (True, "")])
def test_lines_without_a_terminal(capsys, quiet, expected):
    console = Console(quiet=quiet)
    with console.progress():
        console.started("find [brain]")
        console.finished("find [brain]", "1.0 s")
    assert capsys.readouterr() == ("", expected)


def test_long_lines_are_not_broken(capsys):
    Console().say("x" * 300)
    Console().result("y" * 300)
    assert capsys.readouterr().err == "x" * 300 + "\n" + "y" * 300 + "\n"


@pytest.mark.parametrize(
    ("costs", "expected"),
    [("", "step 3 of 3"), ("{'find brain': 1, 'find skull': 1, 'find lesions': 2}", "step 2 of 3")],
)
def test_a_bar_on_a_terminal(costs, expected):
    shown = without_codes(on_a_terminal(costs))
    assert "ses-01: find lesions ━" in shown
    assert expected in shown
    assert "ses-01: find brain: 1.0 s" in shown
    # What an earlier run did is no news.
    assert "kept" not in shown


def test_colours_stay_on_the_terminal():
    shown = on_a_terminal()
    assert "\x1b[33mnote: no abacus" in shown
    assert "\x1b[1m2 lesions, 1.00 ml\x1b[0m\x1b[1;31m. WARNING: the brain mask" in shown
    assert "\x1b[1;31mmsrim: error: stopped" in shown
    piped = subprocess.run(
        [sys.executable, "-c", CODE.format(costs="")],
        env={**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert (piped.stdout, piped.stderr) == ("", PIPED)


def test_what_is_left_is_judged_by_the_speed_so_far(monkeypatch):
    """Twice as slow as planned; what an earlier run did says nothing of the speed."""
    now = [0.0]
    monkeypatch.setattr("msrim.console.monotonic", lambda: now[0])
    bar = _Bar({"a": 10.0, "b": 30.0, "c": 60.0})
    bar.shown = Progress()
    bar.shown.add_task("", total=bar.total)
    bar.start("a", label="a")
    assert bar.left() == "step 1 of 3"
    bar.finish("a", kept=True)
    bar.start("b", label="b")
    now[0] = 60.0
    bar.finish("b", kept=False)
    bar.start("c", label="c")
    assert bar.left() == "step 3 of 3, about 2 min left"
    now[0] = 160.0
    assert bar.left() == "step 3 of 3, about 20 s left"
    now[0] = 999.0
    assert bar.left() == "step 3 of 3, about 1 s left"
