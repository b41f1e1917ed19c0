"""Progress goes to stderr: lines without a terminal, a spinner with one, nothing when quiet."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from msrim.console import Console

CODE = """
from msrim.console import Console
console = Console()
with console.progress({total}):
    for name in ("find brain", "find lesions"):
        console.started(name)
        console.finished(name, "1.0 s")
"""


@pytest.mark.parametrize(("quiet", "expected"), [(False, "find [brain]: 1.0 s\n"), (True, "")])
def test_lines_without_a_terminal(capsys, quiet, expected):
    console = Console(quiet=quiet)
    with console.progress():
        console.started("find [brain]")
        console.finished("find [brain]", "1.0 s")
    assert capsys.readouterr() == ("", expected)


def test_long_lines_are_not_broken(capsys):
    Console().say("x" * 300)
    assert capsys.readouterr().err == "x" * 300 + "\n"


@pytest.mark.parametrize(("total", "expected"), [("", "step 2: find lesions"), ("2", "step 2 of 2: find lesions")])
def test_spinner_on_a_terminal(total, expected):
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(total=total)],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.stdout == b""
    assert "find brain: 1.0 s" in shown
    assert expected in shown
