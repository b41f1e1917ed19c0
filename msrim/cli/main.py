"""The command ``msrim`` and its exit codes: 0 done, 1 a bug, 2 something that the user can mend."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from msrim import __version__
from msrim.cli import cohort, doctor, evaluate, longitudinal, models, predict, rims, segment, simulate, train, view
from msrim.errors import Fallback, MsrimError


class _Group(TyperGroup):
    """Turns msrim's own errors into one line. Typer carries a click of its own, so they cannot be ClickExceptions."""

    def invoke(self, ctx: typer.Context) -> object:
        try:
            with _notes(quiet="--quiet" in ctx.args):
                return super().invoke(ctx)
        except MsrimError as error:
            typer.echo(f"msrim: error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from error


@contextmanager
def _notes(*, quiet: bool) -> Iterator[None]:
    """Tell what was taken with a doubt outside of a run's steps, which tell their own; nothing beside an error."""
    notes: dict[str, None] = {}
    show = warnings.showwarning

    def keep(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if issubclass(category, Fallback):
            notes[str(message)] = None
        else:
            show(message, category, *where)

    with warnings.catch_warnings():
        warnings.simplefilter("always", Fallback)
        warnings.showwarning = keep
        yield
    for note in notes if not quiet else ():
        typer.echo(f"note: {note}", err=True)


# Plain help and tracebacks: the decorated ones triple the time of `msrim --help`.
app = typer.Typer(
    name="msrim",
    cls=_Group,
    help="Multiple-sclerosis lesions from MRI. Research use only.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(segment.segment)
app.command()(segment.preprocess)
app.command()(rims.rim_classify)
app.command()(longitudinal.longitudinal)
app.command(cls=cohort.BidsAppCommand)(cohort.cohort)
app.command()(view.view)
app.command()(predict.predict)
app.command()(train.train)
app.command()(models.models)
app.command()(models.join)
app.command()(doctor.doctor)
app.add_typer(simulate.app, name="simulate")
app.add_typer(evaluate.app, name="evaluate")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"msrim {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Multiple-sclerosis lesions from MRI. Research use only."""


def end_on_sigterm() -> None:
    """Let SIGTERM end msrim as Ctrl-C does: programs that it started and temporary folders go with it."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def main() -> None:
    """Run the command line."""
    end_on_sigterm()
    # Paths need not be UTF-8.
    sys.stdout.reconfigure(errors="surrogateescape")
    app()
