"""Which corrected mask counts as a visit's lesions.

Nothing here reads an image or loads a network, so that `msrim view` starts at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msrim.bids import CORRECTED_FOLDER, EDITED, Subject
from msrim.errors import InputError
from msrim.files import sha256_of


@dataclass(frozen=True)
class Correction:
    """A corrected mask or map of numbered lesions, and the note beside it."""

    mask: Path
    note: str = ""


def read_correction(path: Path) -> Correction:
    """A corrected mask with the note of its sidecar, where it has one."""
    return Correction(path, str(sidecar_of(path).get("Note", "")))


def find_correction(subject: Subject, out: Path) -> Correction | None:
    """The manual correction that counts as a visit's lesions.

    That is what `msrim view` has saved; or else the mask that `msrim segment --lesions` was given, if it is still there
    as it was.
    """
    edited = subject.output(Path(out).absolute(), EDITED["mask"])
    if edited.is_file():
        return read_correction(edited)
    given = measured_mask(subject, out)
    return read_correction(given) if given is not None else None


def is_corrected(subject: Subject, out: Path) -> bool:
    """Whether what counts as a visit's lesions is a correction, and was measured."""
    correction = find_correction(subject, out)
    return correction is not None and measured_mask(subject, out) == correction.mask


def measured_mask(subject: Subject, out: Path) -> Path | None:
    """The corrected mask that `msrim segment --lesions` has measured, if it is still there as it was.

    Raises
    ------
    InputError
        Its record is damaged.
    """
    told = subject.folder(out) / CORRECTED_FOLDER / "run.json"
    if not told.is_file():
        return None
    try:
        given = json.loads(told.read_text(encoding="utf-8"))["inputs"]["lesions"]
        path, digest = Path(given["path"]), given["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{told}: not as msrim has written it; remove {told.parent}") from error
    return path if path.is_file() and sha256_of(path) == digest else None


def sidecar_of(mask: Path) -> dict[str, Any]:
    """Content of the JSON beside a mask; empty if there is none of msrim's form."""
    path = mask.with_name(mask.name.split(".nii")[0] + ".json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
