"""A visit's results as `msrim segment` leaves them, made in a moment by the run's own writers, and its page."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from msrim.bids import ANATOMY, Subject, transform_name
from msrim.files import sha256_of, write_text
from msrim.image import Volume, write_volume
from msrim.labels import HeadLabel
from msrim.manifest import Manifest
from msrim.recipe import Recipe
from msrim.transform import write_transform
from msrim.workflows.anatomy import AnatomyFiles
from msrim.workflows.run import files_in
from msrim.workflows.segment import LesionRule, Probabilities, write_lesions
from msrim.workflows.view.results import Results
from msrim.workflows.view.server import ViewServer


def segmented_visit(
    folder: Path, flair: Volume, lesions: np.ndarray, *, brain: np.ndarray, label: str = "egg"
) -> tuple[Subject, Path]:
    """Write a patient and the results of segmenting it.

    Parameters
    ----------
    flair : Volume
    lesions, brain : (X, Y, Z) bool
        On its grid.

    Returns
    -------
    Subject, Path
        The patient, and the folder of the derivative dataset.
    """
    folder.mkdir(parents=True, exist_ok=True)
    anat, out = folder / "raw" / f"sub-{label}" / "anat", folder / "out"
    files = {name: anat / f"sub-{label}_{name}.nii.gz" for name in ("FLAIR", "T1w")}
    write_volume(flair, files["FLAIR"])
    write_volume(flair.like(np.where(brain, 200 - flair.data, 0).astype(np.float32)), files["T1w"])
    subject = Subject(label, None, files)
    names = subject.outputs(out, ANATOMY)
    white = np.where(brain, HeadLabel.CEREBRAL_WHITE, 0).astype(np.uint8)
    transforms = {"T1w": write_transform(np.eye(4), subject.output(out, transform_name("T1w")))}
    anatomy = AnatomyFiles(
        brain=write_volume(flair.like(brain), names["brain"]),
        tissue=write_volume(flair.like(brain.astype(np.uint8) * 3), names["tissue"]),
        tissue_table=write_text("index\tname\n", names["tissue_table"]),
        labels=write_volume(flair.like(white), names["labels"]),
        transforms=transforms,
    )
    probability = flair.like(np.where(lesions, 0.9, 0).astype(np.float32))
    seen = Probabilities(
        *(write_volume(probability, folder / f"{name}.nii") for name in ("lesion", "sphere", "network"))
    )
    written = write_lesions(
        subject,
        out=out,
        probabilities=seen,
        anatomy=anatomy,
        flair=files["FLAIR"],
        rule=LesionRule("hand@1", threshold=0.5, min_mm3=3.0),
    )
    page = write_text("<!doctype html><title>Report</title>", subject.folder(out) / "report.html")
    manifest = Manifest(recipe=Recipe().model_dump(), inputs=subject.contrasts)
    manifest.write(subject.folder(out) / "run.json", outputs=[*files_in([anatomy, written.files]), page])
    return subject, out


@contextmanager
def serving(results: Results) -> Iterator[ViewServer]:
    """Its interactive page, at the server's address."""
    with ViewServer(results) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def hashes(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder but locks, by its path there."""
    return {
        str(path.relative_to(folder)): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
