"""Datasets of phantoms and copied images, for benchmarks that run a whole cohort."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from msrim.bids import Subject
from msrim.simulation.phantom import simulate_subject


def phantom(folder: Path, *, seed: int, lesion_free: bool = False) -> Path:
    """Images of a phantom, made below ``folder`` unless they are there: the folder that holds them."""
    root = folder / f"{seed}-{'healthy' if lesion_free else 'lesions'}"
    # The last file that is written.
    if not (root / "derivatives" / "truth" / "dataset_description.json").is_file():
        simulate_subject(root, seed=seed, lesion_free=lesion_free)
    return root / "sub-phantom" / "anat"


def add_phantom(bids: Path, images: Path, label: str, *, session: str | None = None, contrasts: Iterable[str]) -> None:
    """Copy some contrasts of a phantom into a dataset as a visit of its own."""
    files = {contrast: images / f"sub-phantom_{contrast}.nii.gz" for contrast in contrasts}
    add_visit(bids, Subject(label, session, files))


def add_visit(bids: Path, visit: Subject) -> None:
    """Copy the images of a visit into a dataset, under their BIDS names."""
    for contrast, path in visit.contrasts.items():
        target = visit.output(bids, f"{contrast}.nii.gz")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
