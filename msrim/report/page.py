"""One way to fill a page's template."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2

from msrim.files import write_text


def write_page(path: Path, template: str, *, filters: dict[str, Callable] | None = None, **values: Any) -> Path:
    """Write a page: one file, no network, readable without scripts.

    Parameters
    ----------
    path : Path
    template : str
        File in ``templates``; a value that it names and nobody gives is an error.
    filters : dict of str to callable, optional
        Of the template.

    Raises
    ------
    OutputError
        The file can't be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("msrim", "report/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    return write_text(environment.get_template(template).render(**values), path)
