"""Pictures for quality control: registration, brain mask and tissue classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage

from msrim.image import Volume
from msrim.labels import INFRATENTORIAL, HeadLabel, Tissue
from msrim.report.pictures import (
    AXIAL,
    CORONAL,
    GRID_SPACING_MM,
    SAGITTAL,
    Frame,
    Picture,
    Plane,
    data_uri,
    edges,
    mask_extent,
    outline,
    picture_slice,
    window,
)

# Adults' intracranial volumes lie well inside; beyond these the mask has lost brain or kept scalp.
BRAIN_VOLUME_ML = (900.0, 1900.0)
MAX_UNCOVERED = 0.05
MIN_TEMPLATE_DICE = 0.85
MAX_LESION_OUTSIDE_MM3 = 10.0

# Okabe-Ito colours, for colour-blind readers too.
TISSUE_COLOURS: dict[int, tuple[str, str]] = {
    Tissue.CSF: ("CSF", "#56b4e9"),
    Tissue.GREY: ("grey matter", "#e69f00"),
    Tissue.WHITE: ("white matter", "#009e73"),
}
HEAD_COLOURS: dict[int, tuple[str, str]] = {
    HeadLabel.VENTRICLES: ("ventricles", "#56b4e9"),
    HeadLabel.CORTEX: ("cortex", "#e69f00"),
    HeadLabel.DEEP_GREY: ("deep grey matter", "#cc79a7"),
    HeadLabel.CEREBRAL_WHITE: ("cerebral white matter", "#009e73"),
    INFRATENTORIAL[0]: ("infratentorial", "#f0e442"),
}
OVERLAY_OPACITY = 110

View = tuple[Plane, int]


@dataclass(frozen=True)
class Check:
    """One row of quality pictures.

    Attributes
    ----------
    title, text : str
        Its content, and the look of a good one.
    pictures : list of Picture
    legend : list of (str, str)
        Name and colour of what is drawn.
    """

    title: str
    text: str
    pictures: list[Picture]
    legend: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Sampled:
    """Everything that is shown, on the upright grid of a frame: (X, Y, Z) arrays.

    Attributes
    ----------
    flair, template : float
    contrasts : dict of str to float array
    brain, instances, tissue, labels : bool, int, int, int
    """

    flair: np.ndarray
    template: np.ndarray
    contrasts: dict[str, np.ndarray]
    brain: np.ndarray
    instances: np.ndarray
    tissue: np.ndarray
    labels: np.ndarray


def quality_checks(frame: Frame, sampled: Sampled) -> list[Check]:
    """The rows of quality pictures, each with the same four slices.

    Edges come from the FLAIR's (or the template's) own grey values, never from a mask that was made on the picture
    under them: such a mask would follow the picture wherever a wrong registration has put it.
    """
    views = _views(sampled.brain)
    flair = window(sampled.flair, sampled.brain)
    template_edges = _edges(sampled.template, sampled.template > 0, views)
    masks = [{"mask": outline(picture_slice(sampled.brain, *view))} for view in views]
    regions = np.where(np.isin(sampled.labels, INFRATENTORIAL), INFRATENTORIAL[0], sampled.labels)
    tissue = [_coloured(picture_slice(sampled.tissue, *view), TISSUE_COLOURS) for view in views]
    anatomy = [_coloured(picture_slice(regions, *view), HEAD_COLOURS) for view in views]
    return [
        *_registration_checks(frame, sampled, flair, views),
        Check(
            "FLAIR aligned with the MNI template",
            "FLAIR with the template's edges. No affine follows every gyrus: size, tilt and midline should agree.",
            _pictures(frame, views, flair, outlines=template_edges),
            [("edges of the template", "var(--edge)")],
        ),
        Check(
            "Brain mask",
            "The line should run along the brain's surface, with no scalp or eye inside and no brain outside.",
            _pictures(frame, views, flair, outlines=masks),
            [("brain mask", "var(--mask)")],
        ),
        Check(
            "Tissue classes",
            "Lesions can fall into any class here; they are not found from this picture.",
            _pictures(frame, views, flair, over=tissue),
            list(TISSUE_COLOURS.values()),
        ),
        Check(
            "Anatomy that decides a lesion's region",
            "The table's distances are measured to these. What a lesion itself is taken for here does not count.",
            _pictures(frame, views, flair, over=anatomy),
            list(HEAD_COLOURS.values()),
        ),
    ]


def _registration_checks(frame: Frame, sampled: Sampled, flair: np.ndarray, views: list[View]) -> list[Check]:
    """A row for each contrast beside the FLAIR, which lies under it as (X, Y, Z) uint8."""
    slices = [data_uri(picture_slice(flair, *view)) for view in views]
    flair_edges = _edges(sampled.flair, sampled.brain, views)
    return [
        Check(
            f"{name} registered to the FLAIR",
            f"{name} with the FLAIR's own edges. Ventricles, sulci and the brain's rim should follow the lines.",
            _pictures(frame, views, window(image, sampled.brain), under=slices, outlines=flair_edges),
            [("edges of the FLAIR", "var(--edge)")],
        )
        for name, image in sampled.contrasts.items()
    ]


def quality_warnings(brain: Volume, sampled: Sampled) -> list[str]:
    """Sentences about what lies outside its usual range; empty if nothing does.

    Parameters
    ----------
    brain : Volume
        Brain mask on its own grid.
    sampled : Sampled
    """
    warnings = []
    brain_ml = np.count_nonzero(brain.data) * brain.voxel_volume_mm3 / 1000
    if not BRAIN_VOLUME_ML[0] <= brain_ml <= BRAIN_VOLUME_ML[1]:
        warnings.append(
            f"The brain mask holds {brain_ml:.0f} ml; adults lie between {BRAIN_VOLUME_ML[0]:.0f} and "
            f"{BRAIN_VOLUME_ML[1]:.0f} ml. Look at the brain mask below."
        )
    brain_voxels = int(np.count_nonzero(sampled.brain))
    for name, image in {"FLAIR": sampled.flair, **sampled.contrasts}.items():
        uncovered = np.count_nonzero(sampled.brain & (image == 0)) / max(brain_voxels, 1)
        if uncovered > MAX_UNCOVERED:
            warnings.append(f"{name} does not cover {uncovered:.0%} of the brain mask.")
    template = sampled.template > 0
    both, total = np.count_nonzero(template & sampled.brain), int(np.count_nonzero(template)) + brain_voxels
    overlap = 2 * both / max(total, 1)
    if overlap < MIN_TEMPLATE_DICE:
        warnings.append(
            f"Brain mask and MNI template overlap at a Dice of {overlap:.2f} only, below {MIN_TEMPLATE_DICE}. "
            "Look at the alignment below; regions and coordinates may be wrong."
        )
    outside_mm3 = np.count_nonzero((sampled.instances > 0) & ~sampled.brain) * GRID_SPACING_MM**3
    if outside_mm3 > MAX_LESION_OUTSIDE_MM3:
        warnings.append(f"{outside_mm3:.0f} mm³ of the lesions lie outside the brain mask.")
    return warnings


def _views(brain: np.ndarray) -> list[View]:
    """Through the cerebellum, the lateral ventricles, the brainstem, and beside the midline, clear of the falx."""
    heights = ((AXIAL, 0.3), (AXIAL, 0.6), (CORONAL, 0.5), (SAGITTAL, 0.56))
    extents = [(plane, mask_extent(brain, plane), height) for plane, height in heights]
    return [(plane, extent[int(height * (len(extent) - 1))]) for plane, extent, height in extents]


def _edges(image: np.ndarray, brain: np.ndarray, views: list[View]) -> list[dict[str, str]]:
    # CSF is dark on FLAIR and T1w: two thirds of the brain's median lies between it and tissue.
    level = float(np.median(image[brain])) * 2 / 3 if brain.any() else 0.0
    return [
        {
            "edge": edges(
                picture_slice(image, *view),
                level,
                ndimage.binary_dilation(picture_slice(brain, *view), iterations=round(3 / GRID_SPACING_MM)),
            )
        }
        for view in views
    ]


def _coloured(labels: np.ndarray, colours: dict[int, tuple[str, str]]) -> str:
    """Transparent overlay of a (H, W) slice of labels, as a data URI."""
    palette = np.zeros((256, 4), np.uint8)
    for label, (_, colour) in colours.items():
        palette[label] = (*bytes.fromhex(colour[1:]), OVERLAY_OPACITY)
    return data_uri(palette[labels])


def _pictures(frame: Frame, views: list[View], grey: np.ndarray, **drawn: list[Any]) -> list[Picture]:
    """The slices of (X, Y, Z) ``grey`` with what is drawn on each: fields of Picture, one item a view."""
    return [
        Picture(
            plane,
            frame.position_mm(plane, index),
            frame.size_mm(plane),
            data_uri(picture_slice(grey, plane, index)),
            **{name: items[number] for name, items in drawn.items()},
        )
        for number, (plane, index) in enumerate(views)
    ]
