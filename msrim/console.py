"""What the user sees while msrim works: stderr only, because stdout carries the result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Console:
    """Progress and remarks on stderr: a bar on a terminal, plain lines otherwise, nothing when quiet.

    Parameters
    ----------
    quiet : bool
        Say nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._rich = RichConsole(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None

    @property
    def quiet(self) -> bool:
        """Whether nothing is said."""
        return self._rich.quiet

    def say(self, text: str) -> None:
        """Print one line."""
        self._rich.print(text, markup=False)

    @contextmanager
    def progress(self, total: int) -> Iterator[None]:
        """Show the steps of a run, told by :meth:`started` and :meth:`finished`, while the block runs."""
        if not self._rich.is_terminal:
            yield
            return
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(*columns, console=self._rich, transient=True) as self._bar:
            self._bar.add_task("", total=total)
            try:
                yield
            finally:
                self._bar = None

    def started(self, name: str) -> None:
        """A step begins: its name stands beside the bar."""
        if self._bar:
            self._bar.update(self._bar.task_ids[0], description=name)

    def finished(self, name: str, remark: str) -> None:
        """A step has ended: one line, and the bar moves on."""
        self.say(f"{name}: {remark}")
        if self._bar:
            self._bar.advance(self._bar.task_ids[0])
