"""Who prepares the images: msrim itself ("embedded"), FSL or ANTs, behind one interface; and what they found, checked.

A backend is named with its version ("fsl 6.0.7.4"), so that a step whose argument it is is done again with another one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from msrim.errors import BackendError, Fallback, InputError
from msrim.image import Volume
from msrim.preprocess import ants, bias, fsl, register
from msrim.preprocess.masks import blanked
from msrim.preprocess.verify import why_wrong

PROGRAMS = {"embedded": "msrim", "fsl": "FLIRT of FSL", "ants": "ANTs"}
TWINS = {"embedded": register, "fsl": fsl, "ants": ants}


def find_backend(name: str) -> str:
    """The backend of "auto", "embedded", "fsl" or "ants", with its version; "auto" takes the embedded one.

    Raises
    ------
    BackendError
        It is not installed.

    Examples
    --------
    >>> find_backend("auto")
    'embedded'
    """
    if name == "fsl":
        return f"fsl {fsl.find_fsl().version}"
    if name == "ants":
        try:
            return f"ants {version('antspyx')}"
        except PackageNotFoundError as error:
            raise BackendError("antspyx is not installed; install msrim again, or use --backend embedded") from error
    return "embedded"


def kind_of(backend: str) -> str:
    """Which one a backend is, without its version.

    Examples
    --------
    >>> kind_of("fsl 6.0.7.4")
    'fsl'
    """
    return backend.split()[0]


def versions_of(backend: str) -> dict[str, str]:
    """Program and version for `run.json` and the report; empty for the embedded one, which is msrim's own.

    Examples
    --------
    >>> versions_of("fsl 6.0.7.4"), versions_of("embedded")
    ({'FSL': '6.0.7.4'}, {})
    """
    kind, *number = backend.split()
    return {{"fsl": "FSL", "ants": "antspyx"}[kind]: number[0]} if number else {}


def correct_bias(volume: Volume, mask: Volume, *, backend: str) -> Volume:
    """Remove the bias field: by N4 of ANTs, or by msrim's N4 under every other backend."""
    return (ants if kind_of(backend) == "ants" else bias).correct_bias(volume, mask)


def classify_tissue(t1w: Volume, brain: Volume, *, backend: str) -> Volume:
    """CSF, grey and white matter of a T1w image by FAST or Atropos, see :func:`msrim.preprocess.fsl.classify_tissue`.

    The embedded backend takes them from the head labels instead, for which it needs no T1w.
    """
    return TWINS[kind_of(backend)].classify_tissue(t1w, brain)


def align(
    moving: Volume,
    fixed: Volume,
    *,
    moving_mask: Volume,
    fixed_mask: Volume,
    backend: str,
    names: tuple[str, str],
) -> np.ndarray:
    """Rigid transform from one image of a head to another, checked before anybody uses it.

    Parameters
    ----------
    moving, fixed : Volume
    moving_mask, fixed_mask : Volume of bool
        Brain masks on their grids.
    backend : str
        As :func:`find_backend` names it. An implausible result is replaced by the embedded backend's; a
        :class:`Fallback` warns of it.
    names : (str, str)
        Names of the images, for example "T1w" and "FLAIR".

    Returns
    -------
    (4, 4) float
        ``fixed_from_moving``, RAS mm.

    Raises
    ------
    InputError
        Nothing that was found can be right.
    BackendError
        The backend's program failed.
    """
    masks = {"moving_mask": moving_mask, "fixed_mask": fixed_mask}
    return _first_right(
        [partial(TWINS[kind].register_rigid, moving, fixed, **masks) for kind in _kinds(backend)],
        by=[PROGRAMS[kind] for kind in _kinds(backend)],
        fault=partial(
            why_wrong, moving=moving, fixed=fixed, moving_mask=moving_mask, fixed_mask=fixed_mask, rigid=True
        ),
        names=names,
        # Nothing goes without a FLAIR.
        remedy="give images of the same head" + ("" if names[0] == "FLAIR" else f", or leave the {names[0]} out"),
    )


def align_to_template(
    image: Volume, template: Volume, *, brain: Volume, template_brain: Volume, backend: str, name: str = "brain"
) -> np.ndarray:
    """Affine transform from a brain to the template, checked before anybody uses it.

    Where neither the backend's nor msrim's own can be right, the brain is turned and scaled by its volume; a
    :class:`Fallback` warns of it. Parameters, result and errors as those of :func:`align`.
    """
    masks = {"moving_mask": brain, "fixed_mask": template_brain}
    affine = [partial(TWINS[kind].register_affine, image, template, **masks) for kind in _kinds(backend)]
    return _first_right(
        [*affine, partial(register.align_by_volume, image, template, **masks)],
        by=[*(PROGRAMS[kind] for kind in _kinds(backend)), "turning it and scaling it by its volume"],
        fault=partial(
            why_wrong,
            moving=blanked(image, brain),
            fixed=template,
            moving_mask=brain,
            fixed_mask=template_brain,
            rigid=False,
        ),
        names=(name, "template"),
        remedy="check that it shows a whole head, and that its header has the right orientation",
    )


def _kinds(backend: str) -> list[str]:
    """Whose registration is tried, in this order."""
    return list(dict.fromkeys((kind_of(backend), "embedded")))


def _first_right(
    ways: Sequence[Callable[[], np.ndarray]],
    *,
    by: Sequence[str],
    fault: Callable[[np.ndarray], str | None],
    names: tuple[str, str],
    remedy: str,
) -> np.ndarray:
    """Result of the first of several methods that is plausible; a Fallback warns if it is not the first method's."""
    faults: list[str] = []
    for way, program in zip(ways, by, strict=True):
        matrix = way()
        why = fault(matrix)
        if why is None:
            if faults:
                warnings.warn(
                    f"registration of the {names[0]} to the {names[1]}: what {' and '.join(faults)}; that by {program} "
                    "was taken: look at the pictures",
                    Fallback,
                    stacklevel=3,
                )
            return matrix
        faults.append(f"{program} found {why}")
    raise InputError(f"the {names[0]} cannot be registered to the {names[1]}: what {' and '.join(faults)}; {remedy}")
