"""``msrim doctor``."""

from __future__ import annotations

import typer


def doctor() -> None:
    """List installed and missing parts, and the consequences. Ends with 2 if msrim cannot run."""
    from msrim.workflows.doctor import examine

    findings = examine()
    for finding in findings:
        typer.echo(f"{finding.state:<8} {finding.what}: {finding.meaning}")
    if any(finding.state == "broken" for finding in findings):
        raise typer.Exit(2)
