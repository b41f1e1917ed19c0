"""One way to fill a page's template."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2

from msrim.files import write_text


def write_page(
    path: Path, template: str, *, filters: dict[str, Callable[..., Any]] | None = None, **values: Any
) -> Path:
    """Write a page: one file, no network, readable without scripts.

    Parameters
    ----------
    path : Path
    template : str
        File in ``templates``; a missing value is an error.
    filters : dict of str to callable, optional
        Of the template.

    Raises
    ------
    OutputError
        The file can't be written.
    """
    return write_text(render_page(template, filters=filters, **values), path)


def render_page(template: str, *, filters: dict[str, Callable[..., Any]] | None = None, **values: Any) -> str:
    """A page's text; parameters as :func:`write_page`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("msrim", "report/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    return environment.get_template(template).render(**values)


def read_asset(name: str) -> bytes:
    """A style or script that a page loads, from beside the templates."""
    return (Path(__file__).with_name("templates") / name).read_bytes()
