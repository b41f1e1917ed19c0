"""``msrim view``."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer


def view(
    results: Annotated[
        Path,
        typer.Argument(
            metavar="RESULTS",
            help="Results of `segment`: a visit's folder, or the folder of all where there is one.",
        ),
    ],
    *,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the web browser.")] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of the server; 0 takes a free one.")] = 0,
) -> None:
    """Look at lesions slice by slice, and correct them. Prints the address of a page for this machine alone."""
    from msrim.workflows.view.results import find_results
    from msrim.workflows.view.server import ViewServer

    with ViewServer(find_results(results), port=port) as server, suppress(KeyboardInterrupt):
        typer.echo(server.address)
        sys.stdout.flush()
        typer.echo("Ctrl-C ends the server; a saved correction stays.", err=True)
        if open_page:
            import webbrowser

            if not webbrowser.open(server.address):
                from msrim.console import Console

                Console().note("no web browser was found; open the address above in one")
        server.serve_forever()
