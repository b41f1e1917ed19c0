"""Manual corrections of a visit's lesions: written beside the original mask, never over it."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import numpy as np

from msrim.errors import OutputError
from msrim.files import locked, remove_partial_files, sha256_of, written_atomically
from msrim.image import read_labels, read_volume, write_volume
from msrim.workflows.view.results import Results


def save_correction(results: Results, mask: np.ndarray, *, note: str, over: str | None = None) -> Path:
    """Write the corrected mask and its sidecar; both are whole or as they were.

    Parameters
    ----------
    results : Results
    mask : (X, Y, Z) bool
        On the FLAIR's grid.
    note : str
        Anything that the reader of the mask should know.
    over : str, optional
        Which correction (:meth:`msrim.workflows.view.results.Results.state`) it is made of: no other is replaced.

    Returns
    -------
    Path
        The mask.

    Raises
    ------
    OutputError
        The folder cannot be written to, the disk is full, a run is at work there, or somebody has saved another
        correction meanwhile.
    """
    original = read_volume(results.found["mask"], mask=True)
    lesions = read_labels(results.found["instances"]).data
    flair = results.subject.contrasts["FLAIR"]
    kept = np.unique(lesions[mask & (lesions > 0)])
    names = results.edited
    sidecar = {
        "Type": "Lesion",
        "Manual": True,
        "Description": "Lesions found by a network and corrected by hand",
        "Sources": [f"bids::{results.found['mask'].relative_to(results.out).as_posix()}"],
        "Note": note,
        "Saved": datetime.now().astimezone().isoformat(timespec="seconds"),
        "FLAIR": {"path": str(flair), "sha256": sha256_of(flair)},
        "RemovedLesions": np.setdiff1d(lesions[lesions > 0], kept).tolist(),
        "AddedVoxels": int(np.count_nonzero(mask & ~original.data)),
        "ErasedVoxels": int(np.count_nonzero(original.data & ~mask)),
    }
    with locked(results.folder / "work"):
        if over is not None and over != results.state():
            raise OutputError(
                f"{names['mask'].name} was saved elsewhere since this page was loaded; "
                "load the page again to see that correction, and correct it there"
            )
        remove_partial_files(results.folder / "anat")
        # Renamed when both are whole on the disk, the sidecar first: no mask lies there without one.
        with written_atomically(names["mask"]) as saved, written_atomically(names["sidecar"]) as told:
            write_volume(original.like(mask), saved)
            told.write_text(json.dumps(sidecar, indent=2) + "\n", encoding="utf-8")
    return names["mask"]
