"""The command ``msrim`` and its exit codes: 0 done, 1 a bug, 2 something that the user can mend."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from msrim import __version__
from msrim.cli import (
    cohort,
    doctor,
    evaluate,
    longitudinal,
    models,
    predict,
    rims,
    run,
    segment,
    simulate,
    sweep,
    train,
    view,
)
from msrim.errors import InputError, MsrimError, Remark

# Of glibc's malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
# Given to the application by the command line, which has its process for itself.
OWN_PROCESS = "own process"
PANELS = PATIENT, DATASET, TRUTH, NETWORKS, MACHINE = (
    "One patient",
    "A whole dataset",
    "Known truth",
    "Networks",
    "This installation",
)


# \b: lines as they are.
HELP = """Multiple-sclerosis lesions from MRI. Research use only.

Everything that a patient's images allow, and one page:

\b
  msrim run sub-12 --out results

One by one, and a whole dataset:

\b
  msrim segment sub-12/ses-01 --out results
  msrim longitudinal sub-12/ses-01 sub-12/ses-02 --out results
  msrim rim-classify sub-12/ses-01 --out results
  msrim cohort BIDS_DIR OUT_DIR participant
"""


class _Group(TyperGroup):
    """Turns msrim's own errors into one line. Typer carries a click of its own, so they cannot be ClickExceptions."""

    def invoke(self, ctx: Any) -> Any:
        try:
            _check_arguments(ctx.args)
            with _notes(quiet="--quiet" in ctx.args):
                return super().invoke(ctx)
        except MsrimError as error:
            raise _told(" ".join(str(error).split())) from error
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise _told(f"what is printed cannot be written: {error.strerror}") from error

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Commands by what they are for: rich_help_panel without the frames, which double the time of the help."""
        found = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        commands = [(name, command) for name, command in found if command is not None]
        width = max(len(name) for name, _ in commands)
        room = formatter.width - width - 4
        for panel in PANELS:
            own = [(name, command) for name, command in commands if getattr(command, "rich_help_panel", None) == panel]
            with formatter.section(panel):
                formatter.write_dl([(name.ljust(width), command.get_short_help_str(room)) for name, command in own])


def _told(message: str) -> typer.Exit:
    from msrim.console import Console

    Console().error(message)
    return typer.Exit(2)


def _check_arguments(arguments: Sequence[str]) -> None:
    """Refuse empty ones, as shells make of variables that are not set, and paths from a folder that is gone."""
    if any(re.fullmatch("(--[a-z-]+=)?", argument) for argument in arguments):
        raise InputError("an argument is empty, as a shell variable that is not set is; give it or leave it out")
    try:
        Path.cwd()
    except OSError as error:
        raise InputError(f"the current folder: {error.strerror}; change to one that is there, and run again") from error


@contextmanager
def _notes(*, quiet: bool) -> Iterator[None]:
    """Show remarks from outside a run's steps, which show their own; none beside an error."""
    notes: dict[str, None] = {}
    show = warnings.showwarning

    def keep(message: Warning | str, category: type[Warning], *where: Any, **how: Any) -> None:
        if issubclass(category, Remark):
            notes[str(message)] = None
        else:
            show(message, category, *where, **how)

    with warnings.catch_warnings():
        warnings.simplefilter("always", Remark)
        warnings.showwarning = keep  # its other arguments are passed on
        yield
    if notes:
        from msrim.console import Console

        console = Console(quiet=quiet)
        for note in notes:
            console.note(note)


# Plain help and tracebacks: the decorated ones triple the time of `msrim --help`.
app = typer.Typer(
    name="msrim",
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command(rich_help_panel=PATIENT)(run.run)
app.command(rich_help_panel=PATIENT)(segment.segment)
app.command(rich_help_panel=PATIENT)(longitudinal.longitudinal)
app.command(rich_help_panel=PATIENT)(rims.rim_classify)
app.command(rich_help_panel=PATIENT)(view.view)
app.command(rich_help_panel=PATIENT)(segment.preprocess)
app.command(cls=cohort.BidsAppCommand, rich_help_panel=DATASET)(cohort.cohort)
app.add_typer(simulate.app, name="simulate", rich_help_panel=TRUTH)
app.add_typer(evaluate.app, name="evaluate", rich_help_panel=TRUTH)
app.command(rich_help_panel=NETWORKS)(models.models)
app.command(rich_help_panel=NETWORKS)(train.train)
app.command(rich_help_panel=NETWORKS)(sweep.sweep)
app.command(rich_help_panel=NETWORKS)(models.join)
app.command(rich_help_panel=NETWORKS)(predict.predict)
app.command(rich_help_panel=MACHINE)(doctor.doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"msrim {__version__}")
        raise typer.Exit()


@app.callback(help=HELP)
def options(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of msrim itself, and what is done before any command."""
    command = cast(TyperGroup, ctx.command).get_command(ctx, ctx.invoked_subcommand or "")
    # A program that calls the application keeps its own memory as it likes.
    if ctx.obj == OWN_PROCESS and getattr(command, "keeps_freed_memory", True):
        keep_freed_memory()


def end_on_sigterm() -> None:
    """Let SIGTERM end msrim as Ctrl-C does: programs that it started and temporary folders go with it."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def keep_freed_memory() -> None:
    """Have glibc keep large blocks that were freed, for the next layer of a network, until the step ends.

    Otherwise they go back to the system at once, which clears every page anew for the next layer: where clearing is
    slow, a visit takes a fifth longer. Other C libraries are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(TRIM_THRESHOLD, 2**31 - 1)
    mallopt(MMAP_THRESHOLD, 2**30)


def main() -> None:
    """Run the command line."""
    end_on_sigterm()
    # A layer's result is 100 MB and more: given in pages of 4 kB, the kernel takes half as long as the network again.
    # torch reads this once, at the first tensor.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Who closes them wants to see nothing.
    sys.stdout, sys.stderr = (stream or Path(os.devnull).open("w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    # Paths need not be UTF-8.
    cast(TextIOWrapper, sys.stdout).reconfigure(errors="surrogateescape")
    app(obj=OWN_PROCESS)
