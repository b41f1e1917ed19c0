"""Messages while msrim works: on stderr only, because stdout carries the result."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

# Of the work; before so much is done, the rest cannot be estimated on this machine.
ENOUGH_TO_JUDGE = 0.03


class Console:
    """Progress and remarks on stderr: a bar and colours on a terminal, plain lines otherwise, nothing when quiet.

    Parameters
    ----------
    quiet : bool
        No messages.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        # Asked of the stream itself: the environment may force colours, which a file or a pipe must not get.
        terminal = sys.stderr.isatty()
        self._rich = RichConsole(stderr=True, quiet=quiet, highlight=False, soft_wrap=True, force_terminal=terminal)
        self._bar: _Bar | None = None
        self._part = ""

    @property
    def quiet(self) -> bool:
        """Whether no messages are shown."""
        return self._rich.quiet

    def say(self, text: str) -> None:
        """Print one line."""
        self._print(text)

    def note(self, text: str) -> None:
        """Show a remark: a replaced method, or a caution for reading the results."""
        self._print(f"note: {text}", style="yellow")

    def error(self, text: str) -> None:
        """Show why msrim stops; quiet or not."""
        self._rich.quiet = False
        self._print(f"msrim: error: {text}", style="bold red")

    def result(self, text: str, *, doubts: Sequence[str] = ()) -> None:
        """Show the result on one line, and on the same line why it cannot be trusted, where that is so."""
        line = Text(text, style="bold")
        if doubts:
            line.append(f". WARNING: {'; '.join(doubts)}", style="bold red")
        self._rich.print(line)

    def _print(self, text: str, *, style: str | None = None) -> None:
        self._rich.print(text, markup=False, style=style)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Put the name of the whole before every step of the block."""
        before, self._part = self._part, f"{name}: "
        try:
            yield
        finally:
            self._part = before

    @contextmanager
    def progress(self, costs: Mapping[str, float] | None = None) -> Iterator[None]:
        """Show the steps of a run, reported by :meth:`started` and :meth:`finished`, while the block runs.

        Parameters
        ----------
        costs : dict of str to float, optional
            The steps that are to come, as they will be named, and what they cost beside each other.
        """
        if not self._rich.is_terminal:
            yield
            return
        self._bar = _Bar(costs or {})
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            _Left(self._bar),
        )
        with Progress(*columns, console=self._rich, transient=True, expand=True) as self._bar.shown:
            self._bar.shown.add_task("", total=self._bar.total)
            try:
                yield
            finally:
                self._bar = None

    def started(self, name: str) -> None:
        """A step begins: its name stands beside the bar."""
        if self._bar:
            self._bar.start(name, label=f"{self._part}{name}")

    def finished(self, name: str, remark: str, *, kept: bool = False) -> None:
        """A step has ended: one line, but none on a terminal for a step that was done by an earlier run."""
        if self._bar:
            self._bar.finish(name, kept=kept)
        if not (kept and self._rich.is_terminal):
            self._print(f"{self._part}{name}: {remark}", style="dim")


class _Bar:
    """How far a run is, in what its steps cost."""

    shown: Progress

    def __init__(self, costs: Mapping[str, float]) -> None:
        self.open = dict(costs)
        self.steps = len(costs)
        self.total = sum(costs.values())
        self.number = 0
        self.done = 0.0
        # Of the steps that this run did, unlike those that it found done: cost and seconds.
        self.own, self.seconds = 0.0, 0.0
        self.began = monotonic()

    def start(self, name: str, *, label: str) -> None:
        self.number += 1
        if name not in self.open:
            self.open[name] = 1.0
            self.total += 1.0
            self.steps = max(self.steps, self.number)
        self.began = monotonic()
        self.shown.update(self.shown.task_ids[0], description=label, total=self.total)

    def finish(self, name: str, *, kept: bool) -> None:
        cost = self.open.pop(name, 0.0)
        self.done += cost
        if not kept:
            self.own += cost
            self.seconds += monotonic() - self.began
        self.shown.update(self.shown.task_ids[0], completed=self.done)

    def left(self) -> str:
        """Steps, and about how long, as soon as the machine's speed is known."""
        steps = f"step {self.number} of {self.steps}"
        if self.own < ENOUGH_TO_JUDGE * self.total or not self.open:
            return steps
        speed = self.seconds / self.own
        current = min(monotonic() - self.began, speed * max(self.open.values()))
        seconds = max(speed * sum(self.open.values()) - current, 1.0)
        return f"{steps}, about {f'{seconds / 60:.0f} min' if seconds > 90 else f'{seconds:.0f} s'} left"


class _Left(ProgressColumn):
    """The time left, as text."""

    def __init__(self, bar: _Bar) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._shown_bar = bar

    def render(self, task: Task) -> Text:
        """Text of the column."""
        return Text(self._shown_bar.left())
