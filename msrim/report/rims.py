"""The report of rims: every lesion with its probability, the most likely first, and what the network saw of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from msrim.lesions.measure import Lesion
from msrim.lesions.patches import QSM_SCALE_PPM
from msrim.manifest import Provenance
from msrim.report.page import write_page
from msrim.report.pictures import AXIAL, GRID_SPACING_MM, data_uri, outline, picture_slice

# Reach of the votes in the pictures, voxels: the largest of DA-TR-Net's.
SHOWN_RADIUS = 15
# Values of black and white: QSM in units of 0.05 ppm about the brain's median, FLAIR in deviations about its mean.
QSM_WINDOW, FLAIR_WINDOW = (-1.0, 2.0), (-2.0, 4.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class RimReport(Provenance):
    """Exactly what a report of rims shows, with its provenance.

    Attributes
    ----------
    session : str or None
    model, model_limits : str
    lesions : sequence of Lesion
        With rim probability and decision where they were judged.
    patches : (N, 3, X, Y, Z) float32
        Of :class:`msrim.lesions.patches.Patches`, for the lesions ``numbers``.
    around : (N, X, Y, Z) bool
        All lesions in the patches.
    numbers : sequence of int
    spacing_mm : float
        Of the patches' voxels in the plane.
    remarks : dict of str to list of str
        By lesion number.
    summary : dict
    """

    session: str | None
    model: str
    model_limits: str
    lesions: Sequence[Lesion]
    patches: np.ndarray
    around: np.ndarray
    numbers: Sequence[int]
    spacing_mm: float
    remarks: dict[str, list[str]]
    summary: dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A lesion, its pictures by name, outlines on them (SVG paths) of it and of all, and its remarks.

    ``group`` is the heading that it stands under, empty for rim+ ones.
    """

    lesion: Lesion
    group: str
    pictures: dict[str, str]
    outline: str
    around: str
    remarks: Sequence[str]


def write_rim_report(report: RimReport, path: Path) -> Path:
    """Write the page.

    Raises
    ------
    OutputError
        The file can't be written.
    """
    return write_page(
        path,
        "rims.html.jinja",
        report=report,
        rows=rim_rows(report),
        side=report.patches.shape[3] * GRID_SPACING_MM,
        side_mm=report.patches.shape[3] * report.spacing_mm,
        qsm_ppb=[1000 * QSM_SCALE_PPM * value for value in QSM_WINDOW],
    )


def rim_rows(report: RimReport) -> list[Row]:
    """The page's rows: by descending probability, those not judged last."""
    pictures = dict(zip(report.numbers, _pictures(report.patches, report.around), strict=True))
    ranked = sorted(report.lesions, key=lambda lesion: (lesion.rim_probability is None, -(lesion.rim_probability or 0)))
    return [
        Row(
            lesion,
            _group(lesion, report.summary),
            *pictures.get(lesion.id, ({}, "", "")),
            remarks=report.remarks.get(str(lesion.id), []),
        )
        for lesion in ranked
    ]


def _group(lesion: Lesion, summary: dict[str, Any]) -> str:
    if lesion.rim_probability is None:
        return "Not judged"
    if lesion.rim:
        return ""
    low = summary["rim_possible_from"]
    if low is not None and lesion.rim_probability >= low:
        return f"Not called rim+, but possible: few rims lie below {low:.2f}, the sensitive threshold"
    return "Not called rim+"


def _pictures(patches: np.ndarray, around: np.ndarray) -> list[tuple[dict[str, str], str, str]]:
    """Of each lesion the slice where it is largest, in four images, its outline, and that of all lesions there."""
    import torch

    from msrim.ops import rim_transform

    if not len(patches):
        return []
    v_u, v_s = (v[:, 0, 0].numpy() for v in rim_transform(torch.from_numpy(patches[:, :1]), (SHOWN_RADIUS,), eps=1e-3))
    windows = {"QSM": QSM_WINDOW, "FLAIR": FLAIR_WINDOW}
    # One scale for all lesions: lesions differ in the height of the peak.
    windows |= {name: tuple(np.percentile(v, (1, 99.9))) for name, v in (("V_u", v_u), ("V_s", v_s))}
    images = {"QSM": patches[:, 0], "FLAIR": patches[:, 1], "V_u": v_u, "V_s": v_s}
    rows = []
    for row, lesion in enumerate(patches[:, 2] > 0.5):
        index = int(lesion.sum(axis=(0, 1)).argmax())
        shown = {
            name: data_uri(_grey(picture_slice(image[row], AXIAL, index), *windows[name]))
            for name, image in images.items()
        }
        own, others = (outline(picture_slice(mask, AXIAL, index)) for mask in (lesion, around[row]))
        rows.append((shown, own, others))
    return rows


def _grey(picture: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((picture - low) * (255 / max(high - low, 1e-6)), 0, 255).astype(np.uint8)
