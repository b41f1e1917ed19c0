"""Content of `msrim view` for one visit: its images, its lesions, and a correction of them."""

from __future__ import annotations

import csv
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from msrim.bids import CORRECTED_FOLDER, EDITED, LESIONS, Subject, transform_name
from msrim.errors import InputError
from msrim.files import sha256_of
from msrim.image import Volume, on_grid_of, read_labels, read_volume
from msrim.transform import read_transform
from msrim.workflows.correction import find_correction, is_corrected
from msrim.workflows.inputs import without_doubts

# Grey values of a contrast that are drawn black and white, as percentiles of what is not background.
DARKEST, BRIGHTEST = 2.0, 99.7
# Enough voxels for them; all of a 1 mm head would cost a fifth of a second.
ENOUGH_VOXELS = 2**19


@dataclass(frozen=True)
class Results:
    """One visit that `msrim segment` has left.

    Attributes
    ----------
    folder : Path
        Of the visit.
    out : Path
        Of the derivative dataset.
    subject : Subject
        Its contrasts are the files that were segmented, where they are still there.
    """

    folder: Path
    out: Path
    subject: Subject

    @property
    def found(self) -> dict[str, Path]:
        """The lesions that the network found, by the names of :data:`msrim.bids.LESIONS`."""
        return self.subject.outputs(self.out, LESIONS)

    @property
    def files(self) -> dict[str, Path]:
        """The lesions that are shown: those measured on the correction, where that was done, else those found."""
        if not self.is_measured:
            return self.found
        folder = self.folder / CORRECTED_FOLDER
        return {name: self.subject.below(folder, suffix) for name, suffix in LESIONS.items()}

    @property
    def is_measured(self) -> bool:
        """Whether the table is of the correction as it is now."""
        return is_corrected(self.subject, self.out)

    @property
    def report(self) -> Path:
        """The page of what is shown, which need not be there."""
        return (self.folder / CORRECTED_FOLDER if self.is_measured else self.folder) / "report.html"

    @property
    def edited(self) -> dict[str, Path]:
        """Mask and sidecar of the correction, which need not be there yet."""
        return self.subject.outputs(self.out, EDITED)

    def lesions(self) -> Volume:
        """Numbered lesions on the FLAIR's grid: int32."""
        return read_labels(self.files["instances"])

    def correction(self) -> Volume | None:
        """The corrected mask on the FLAIR's grid, if there is one: bool."""
        correction = find_correction(self.subject, self.out)
        if correction is None:
            return None
        with without_doubts():
            mask = read_volume(correction.mask, mask=True)
            found = self.found["mask"]
            return on_grid_of(mask, read_volume(found, mask=True), name=correction.mask, target_name=found)

    def state(self) -> str:
        """Tells one saved correction from another, and from none."""
        saved = [path for path in self.edited.values() if path.is_file()]
        return " ".join(sha256_of(path) for path in saved)

    def note(self) -> str:
        """The note beside the correction."""
        correction = find_correction(self.subject, self.out)
        return "" if correction is None else correction.note

    def rows(self) -> list[dict[str, str]]:
        """The table of lesions as it is written."""
        with self.files["table"].open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream, delimiter="\t"))

    def image(self, contrast: str) -> bytes:
        """A contrast in the FLAIR's world, as an uncompressed NIfTI file of 16-bit numbers with its own voxels."""
        with without_doubts():
            volume = read_volume(self.subject.contrasts[contrast])
        affine = volume.affine
        if contrast != "FLAIR":
            affine = read_transform(self.subject.output(self.out, transform_name(contrast))) @ affine
        image = nib.Nifti1Image(volume.data, affine, dtype=np.int16)
        image.set_sform(affine, code=1)
        # Of two poses the viewer takes the sform.
        image.header["qform_code"] = 0
        grey = volume.data[volume.data > volume.data.min()]
        low, high = np.percentile(grey[:: max(len(grey) // ENOUGH_VOXELS, 1)], (DARKEST, BRIGHTEST))
        image.header["cal_min"], image.header["cal_max"] = low, high
        image.header.set_xyzt_units("mm", "sec")
        return image.to_bytes()

    def measure_command(self) -> str:
        """How the corrected mask is measured."""
        flair = self.subject.contrasts["FLAIR"]
        folder = flair.parent.parent if flair.parent.name == "anat" else flair.parent
        words = ["msrim", "segment", str(folder), "--lesions", str(self.edited["mask"]), "--out", str(self.out)]
        return shlex.join(words)


def find_results(path: Path) -> Results:
    """The visit in a folder of results.

    Parameters
    ----------
    path : Path
        A visit's folder, its report, or the whole folder of results where it holds one visit.

    Raises
    ------
    InputError
        No results of `msrim segment`, several visits, or the FLAIR that was segmented is gone.
    """
    path = Path(path).absolute()
    if path.is_file():
        path = path.parent
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give a folder of results of `msrim segment`")
    below = sorted(folder for pattern in ("sub-*", "ses-*", "sub-*/ses-*") for folder in path.glob(pattern))
    visits = [path] if _is_visit(path) else [folder for folder in below if _is_visit(folder)]
    if not visits:
        raise InputError(f"{path}: holds no lesions that `msrim segment` has found; run it first, or give its --out")
    if len(visits) > 1:
        names = ", ".join(str(folder.relative_to(path)) for folder in visits[:5])
        raise InputError(f"{path}: holds several visits ({names}); give one of them, for example {visits[0]}")
    return _results(visits[0])


def _is_visit(folder: Path) -> bool:
    """Whether `msrim segment` has left its run and its lesions here."""
    names = "*_" + LESIONS["instances"]
    return (folder / "run.json").is_file() and any((folder / "anat").glob(names))


def _results(folder: Path) -> Results:
    told = folder / "run.json"
    try:
        inputs = json.loads(told.read_text(encoding="utf-8"))["inputs"]
        paths = {name: _where_it_is(Path(given["path"]), given["sha256"], folder) for name, given in inputs.items()}
        flair, digest = paths["FLAIR"], inputs["FLAIR"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{told}: not written by `msrim segment`; run it again") from error
    if not flair.is_file():
        raise InputError(f"{flair}: gone, but the lesions in {folder} were found on it; put it back")
    if sha256_of(flair) != digest:
        raise InputError(f"{flair}: is not the image any more that the lesions in {folder} were found on; run it again")
    session = folder.name.removeprefix("ses-") if folder.name.startswith("ses-") else None
    patient = folder if session is None else folder.parent
    subject = Subject(patient.name.removeprefix("sub-"), session, paths)
    out = patient.parent
    there = {
        contrast: path
        for contrast, path in paths.items()
        if path.is_file() and (contrast == "FLAIR" or subject.output(out, transform_name(contrast)).is_file())
    }
    return Results(folder, out, Subject(subject.label, session, there))


def _where_it_is(image: Path, digest: str, folder: Path) -> Path:
    """An image that was segmented: where it was, or at the same place from a folder that holds the results as well.

    A dataset that was moved or is seen from another machine has its results within it.
    """
    if image.is_file():
        return image
    places = (above / Path(*image.parts[-count:]) for above in folder.parents for count in range(1, len(image.parts)))
    return next((place for place in places if place.is_file() and sha256_of(place) == digest), image)


def shown(results: Results) -> dict[str, Any]:
    """Everything the page needs besides its images, ready for JSON."""
    lesions = results.lesions()
    rows = results.rows()
    corrected = results.correction()
    return {
        "name": results.folder.relative_to(results.out).as_posix().replace("/", " "),
        "contrasts": list(results.subject.contrasts),
        "shape": list(lesions.shape),
        "voxel_mm3": lesions.voxel_volume_mm3,
        "numbered": runs_of(lesions.data, numbered=True),
        "found": runs_of(read_volume(results.found["mask"], mask=True).data),
        "measured": results.is_measured,
        "mask": runs_of(lesions.data > 0 if corrected is None else corrected.data),
        "lesions": [
            {
                "id": int(row["id"]),
                "volume_mm3": float(row["volume_mm3"]),
                "region": row["region"],
            }
            for row in rows
        ],
        "corrected": corrected is not None,
        "note": results.note(),
        "state": results.state(),
        "measure": results.measure_command(),
    }


def runs_of(data: np.ndarray, *, numbered: bool = False) -> list[int]:
    """Where voxels are not 0: start and length of every run of one value, in the order of NIfTI files.

    Parameters
    ----------
    data : (X, Y, Z) array
    numbered : bool
        Give each run's value as well.

    Examples
    --------
    >>> labels = np.array([0, 7, 7, 8, 0, 1]).reshape(2, 3, 1, order="F")
    >>> runs_of(labels > 0), runs_of(labels, numbered=True)
    ([1, 3, 5, 1], [1, 2, 7, 3, 1, 8, 5, 1, 1])
    """
    flat = data.ravel(order="F")
    places = np.flatnonzero(flat)
    first = np.ones(len(places), bool)
    first[1:] = (np.diff(places) > 1) | (np.diff(flat[places].astype(np.int64)) != 0)
    starts = np.flatnonzero(first)
    columns = [places[starts], np.diff(starts, append=len(places))]
    if numbered:
        columns.append(flat[places[starts]])
    return np.column_stack(columns).ravel().tolist()
