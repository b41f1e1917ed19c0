"""Recipes: the settings of a run as data, read from TOML and checked before anything else happens."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from msrim.errors import InputError


class Recipe(BaseModel):
    """Settings of ``msrim segment`` and ``msrim preprocess``.

    Attributes
    ----------
    model : str
        Name in the table of ``msrim models``, or folder of a card and its weights.
    backend : str
        Who registers, extracts the brain and finds the tissues: msrim itself ("embedded") or FSL; "auto" takes the
        embedded one.
    device : str
        Where networks run; "auto" takes CUDA if there is one.
    brain_extracted : bool
        The images show the brain alone.
    threshold : float or None
        Probability from which on a voxel is lesion; the model card's if None.
    min_lesion_mm3 : float, mm3
        Smaller lesions are left out.

    Examples
    --------
    >>> Recipe(device="cpu").model
    'allnet'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(default="allnet", min_length=1)
    backend: Literal["auto", "embedded", "fsl"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    brain_extracted: bool = False
    threshold: float | None = Field(default=None, gt=0, lt=1)
    min_lesion_mm3: float = Field(default=3.0, ge=0, allow_inf_nan=False)


def read_recipe(path: Path | None = None, **overrides: Any) -> Recipe:
    """Read a recipe and lay the options given on the command line over it.

    Parameters
    ----------
    path : Path, optional
        A TOML file; the defaults if not given.
    **overrides
        Fields by name; those that are None are as if not given.

    Raises
    ------
    InputError
        The file is missing, not TOML, or a field is unknown or has an impossible value.

    Examples
    --------
    >>> read_recipe(device="cpu", threshold=None).device
    'cpu'
    """
    settings = {} if path is None else _read_toml(Path(path))
    settings |= {name: value for name, value in overrides.items() if value is not None}
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        known = ", ".join(Recipe.model_fields)
        what = f"unknown field; known are {known}" if problem["type"] == "extra_forbidden" else problem["msg"]
        raise InputError(f"{path or 'settings'}: {field}: {what}") from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a recipe; give a TOML file, see pipelines/") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not a TOML file: {error}") from error
