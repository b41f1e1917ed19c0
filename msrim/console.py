"""What the user sees while msrim works: stderr only, because stdout carries the result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Console:
    """Progress and remarks on stderr: a spinner on a terminal, plain lines otherwise, nothing when quiet.

    Parameters
    ----------
    quiet : bool
        Say nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._rich = RichConsole(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._spinner: Progress | None = None

    @property
    def quiet(self) -> bool:
        """Whether nothing is said."""
        return self._rich.quiet

    def say(self, text: str) -> None:
        """Print one line."""
        self._rich.print(text, markup=False)

    @contextmanager
    def progress(self, total: int | None = None) -> Iterator[None]:
        """Show the steps of a run, told by :meth:`started` and :meth:`finished`, while the block runs.

        Parameters
        ----------
        total : int, optional
            How many there are, where that is known.
        """
        if not self._rich.is_terminal:
            yield
            return
        of = "" if total is None else f" of {total}"
        count = TextColumn(f"step {{task.completed}}{of}: {{task.description}}")
        columns = SpinnerColumn(), count, TimeElapsedColumn()
        with Progress(*columns, console=self._rich, transient=True) as self._spinner:
            self._spinner.add_task("", total=total)
            try:
                yield
            finally:
                self._spinner = None

    def started(self, name: str) -> None:
        """A step begins: its number and name stand beside the spinner."""
        if self._spinner:
            self._spinner.update(self._spinner.task_ids[0], description=name, advance=1)

    def finished(self, name: str, remark: str) -> None:
        """A step has ended: one line."""
        self.say(f"{name}: {remark}")
