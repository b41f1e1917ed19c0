"""The report: one HTML file that holds all it shows and needs neither network nor scripts to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from msrim.image import Volume, resample
from msrim.lesions.measure import LESION_COLUMNS, Lesion
from msrim.manifest import Provenance
from msrim.report.page import write_page
from msrim.report.pictures import AXIAL, CORONAL, SAGITTAL, Frame, Picture, lesion_pictures, upright_frame, window
from msrim.report.quality import TISSUE_COLOURS, Sampled, quality_checks, quality_warnings

# Slices of each mosaic: at least, and at most for the lesions' sake.
MOSAICS = {AXIAL: (15, 30), CORONAL: (10, 15), SAGITTAL: (10, 15)}


@dataclass(frozen=True)
class Report(Provenance):
    """Exactly what a report shows, with its provenance.

    Attributes
    ----------
    session : str or None
    model : str
        ``name@version``.
    threshold : float
        Probability from which on a voxel was called lesion.
    model_limits : str
        Of the model's card.
    flair : Volume
    contrasts : dict of str to Volume
        T1w and T2w where given, in FLAIR space: sampled on its grid, or, sharper, their own voxels with the affine
        ``flair_from_t1 @ affine``.
    brain : Volume of bool
    tissue : Volume of int
        1 CSF, 2 GM, 3 WM.
    labels : Volume of int
        :class:`msrim.labels.HeadLabel`.
    instances : Volume of int
        0 outside lesions, their numbers inside.
    template : Volume
        The MNI template's brain, in its own space.
    mni_from_flair : (4, 4) float
    lesions : sequence of Lesion
    summary : dict
        Of :func:`msrim.lesions.measure.summarise`.
    grade : dict or None
        Of :func:`msrim.evaluation.grade.summarise_grade`, where lesions were painted.
    corrected : str or None
        The manually corrected mask, where these are its lesions and not those that were found.
    note : str
        The note beside it.
    """

    session: str | None
    model: str
    threshold: float
    model_limits: str
    flair: Volume
    contrasts: dict[str, Volume]
    brain: Volume
    tissue: Volume
    labels: Volume
    instances: Volume
    template: Volume
    mni_from_flair: np.ndarray
    lesions: Sequence[Lesion]
    summary: dict[str, Any]
    grade: dict[str, Any] | None = None
    corrected: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Column:
    """How the page shows a column of the table of lesions."""

    name: str
    heading: str
    unit: str = ""
    decimals: int | None = None
    signed: bool = False

    def cell(self, lesion: Lesion) -> str:
        """Cells of a lesion's row."""
        value = getattr(lesion, self.name)
        if value is None:
            return "n/a"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if self.decimals is None:
            return str(value)
        return f"{value:{'+' if self.signed else ''}.{self.decimals}f}".replace("-", "\N{MINUS SIGN}")


COLUMNS = (
    Column("id", "Lesion"),
    Column("volume_mm3", "Volume", "mm³", 1),
    Column("diameter_mm", "Longest diameter", "mm", 1),
    Column("region", "Region"),
    Column("distance_to_ventricle_mm", "To ventricle", "mm", 1),
    Column("distance_to_cortex_mm", "To cortex", "mm", 1),
    Column("mean_probability", "Mean probability", "", 2),
    Column("centre_x_mm", "Centre x", "mm, right +", 1, signed=True),
    Column("centre_y_mm", "Centre y", "mm, front +", 1, signed=True),
    Column("centre_z_mm", "Centre z", "mm, up +", 1, signed=True),
    Column("rim_probability", "Rim probability", "", 2),
    Column("rim", "Rim"),
    Column("change", "Change"),
    Column("matched_id", "Earlier number"),
)


def write_report(report: Report, path: Path) -> Path:
    """Write the page.

    Parameters
    ----------
    report : Report
    path : Path
        ``report.html``.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    OutputError
        The file can't be written.
    """
    frame = upright_frame(report.brain, mni_from_flair=report.mni_from_flair)
    sampled = _sampled(report, frame)
    grey = window(sampled.flair, sampled.brain)
    mosaics = {
        plane: lesion_pictures(
            frame, plane, grey=grey, instances=sampled.instances, brain=sampled.brain, least=least, most=most
        )
        for plane, (least, most) in MOSAICS.items()
    }
    pictures = [picture for mosaic in mosaics.values() for picture in mosaic]
    return write_page(
        path,
        "segmentation.html.jinja",
        filters={"ml": _millilitres},
        report=report,
        mosaics=mosaics,
        assessed=[column for column in COLUMNS if any(getattr(row, column.name) is not None for row in report.lesions)],
        columns=COLUMNS,
        described=LESION_COLUMNS,
        shown_on=_best_pictures(pictures),
        checks=quality_checks(frame, sampled),
        warnings=[*report.warnings, *quality_warnings(report.brain, sampled)],
        brain_ml=np.count_nonzero(report.brain.data) * report.brain.voxel_volume_mm3 / 1000,
        tissue_ml={
            name: np.count_nonzero(report.tissue.data == label) * report.tissue.voxel_volume_mm3 / 1000
            for label, (name, _) in TISSUE_COLOURS.items()
        },
        anchor=_anchor,
    )


def _sampled(report: Report, frame: Frame) -> Sampled:
    def on_grid(volume: Volume, *, nearest: bool = False) -> np.ndarray:
        return resample(volume, frame.grid, nearest=nearest).data

    return Sampled(
        flair=on_grid(report.flair),
        template=resample(report.template, frame.grid, target_from_source=np.linalg.inv(report.mni_from_flair)).data,
        contrasts={name: on_grid(volume) for name, volume in report.contrasts.items()},
        brain=on_grid(report.brain, nearest=True) > 0,
        instances=on_grid(report.instances, nearest=True),
        tissue=on_grid(report.tissue, nearest=True),
        labels=on_grid(report.labels, nearest=True),
    )


def _best_pictures(pictures: Sequence[Picture]) -> dict[int, Picture]:
    """For each lesion shown the picture to look at: axial if there is one, with its number, at its largest."""

    def worth(picture: Picture, lesion: int) -> tuple[bool, bool, int]:
        numbered = any(number == lesion for *_, number in picture.numbers)
        return picture.plane is AXIAL, numbered, picture.lesions[lesion]

    best: dict[int, Picture] = {}
    for picture in pictures:
        for lesion in picture.lesions:
            if lesion not in best or worth(picture, lesion) > worth(best[lesion], lesion):
                best[lesion] = picture
    return best


def _anchor(picture: Picture) -> str:
    """Name of a picture of a mosaic within the page."""
    return f"{picture.plane.name}-{round(picture.position_mm * 10)}"


def _millilitres(volume_mm3: float) -> str:
    """Text of a volume, with as many decimals as its size deserves."""
    ml = volume_mm3 / 1000
    return f"{ml:.1f}" if ml >= 10 else f"{ml:.2f}" if ml >= 0.1 or not ml else f"{ml:.3f}"
