"""What the limits of msrim.preprocess.plausibility lie between.

    python -m tests.benchmarks.plausibility --data DIR --out DIR

Prepares every visit below ``--data`` and prints, for each contrast, what its brain mask and its intensities say; then
the same for damaged masks (halves, and grown by 8 and 14 mm), and how well the T1w of one patient matches the FLAIR of
the next.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console as Page
from rich.table import Table

from msrim.bids import find_subject
from msrim.console import Console
from msrim.errors import InputError
from msrim.image import Volume
from msrim.models import read_card
from msrim.models.brain import extract_brain
from msrim.preprocess.bias import correct_bias
from msrim.preprocess.masks import grown_mask
from msrim.preprocess.plausibility import bright_surface, contrast_features, match, template_dice
from msrim.preprocess.register import register_affine, register_rigid
from msrim.preprocess.template import load_template, load_template_brain_mask
from msrim.recipe import Recipe
from msrim.transform import read_transform
from msrim.workflows.anatomy import Anatomy, preprocess_visit, read_mask, read_own

QUIET = Console(quiet=True)


@dataclass(frozen=True)
class Seen:
    """A contrast without its bias field, its own brain mask, and where it lies."""

    image: Volume
    brain: Volume
    mni_from_image: np.ndarray


def main() -> None:
    """Print three tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folders of visits, at any depth")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    whole, damaged, crossed = (Table(title=title) for title in ("as it is", "damaged masks", "another patient's T1w"))
    for column in ("visit", "contrast", "Dice with template", "bright surface", "correlation", "CSF", "match"):
        whole.add_column(column, justify="right")
    for column in ("visit", "mask", "Dice with template", "bright surface"):
        damaged.add_column(column, justify="right")
    for column in ("FLAIR", "T1w", "match"):
        crossed.add_column(column, justify="right")
    before: tuple[str, Seen] | None = None
    for name, anatomy in visits(given.data, given.out):
        seen = {contrast: look(anatomy, contrast) for contrast in anatomy.corrected}
        flair = seen["FLAIR"]
        for contrast, each in seen.items():
            features = contrast_features(
                each.image, each.brain, template=load_template(), template_from_image=each.mni_from_image
            )
            quality = "" if contrast == "FLAIR" else f"{matched(each, flair):.3f}"
            whole.add_row(name, contrast, *shape_of(each), *(f"{value:.2f}" for value in features), quality)
        for what, mask in damages(flair.brain):
            image = correct_bias(flair.image, mask)
            there = register_affine(image, load_template(), moving_mask=mask, fixed_mask=load_template_brain_mask())
            damaged.add_row(name, what, *shape_of(Seen(image, mask, there)))
        if "T1w" in seen:
            if before is not None:
                crossed.add_row(before[0], name, f"{registered_match(seen['T1w'], before[1]):.3f}")
            before = name, flair
    for table in (whole, damaged, crossed):
        Page(width=120).print(table)


def visits(data: Path, out: Path) -> Iterator[tuple[str, Anatomy]]:
    """Every visit that has a FLAIR, prepared."""
    for folder in sorted({path.parent for path in data.rglob("*FLAIR.nii*")}):
        try:
            subject = find_subject(folder)
        except InputError:
            continue
        name = subject.label if subject.session is None else f"{subject.label} {subject.session}"
        yield name, preprocess_visit(subject, Recipe(), out, console=QUIET)


def look(anatomy: Anatomy, contrast: str) -> Seen:
    """A contrast of a prepared visit; the FLAIR's mask is the visit's, others are extracted again."""
    image, mni_from_flair = read_own(anatomy.corrected[contrast]), read_transform(anatomy.to_mni)
    if contrast == "FLAIR":
        return Seen(image, read_mask(anatomy.brain), mni_from_flair)
    brain = extract_brain(image, card=read_card("synthstrip"))
    return Seen(image, brain, mni_from_flair @ read_transform(anatomy.to_flair[contrast]))


def shape_of(seen: Seen) -> list[str]:
    """Dice with the template's brain, and the share of bright surface."""
    brain = load_template_brain_mask()
    dice = template_dice(seen.brain, template_brain=brain, template_from_brain=seen.mni_from_image)
    return [f"{dice:.3f}", f"{bright_surface(seen.image, seen.brain):.3f}"]


def damages(brain: Volume) -> Iterator[tuple[str, Volume]]:
    """Halves along each axis, and the mask with what lies around it."""
    for axis, what in enumerate(("right half", "front half", "upper half")):
        index = np.indices(brain.shape)[axis]
        occupied = np.flatnonzero(brain.data.any(axis=tuple({0, 1, 2} - {axis})))
        yield what, brain.like(brain.data & (index > occupied.mean()))
    for by_mm in (8.0, 14.0):
        yield f"grown by {by_mm:g} mm", grown_mask(brain, by_mm=by_mm)


def matched(moving: Seen, fixed: Seen) -> float:
    """How well a contrast matches the FLAIR where it was aligned to."""
    there = np.linalg.inv(fixed.mni_from_image) @ moving.mni_from_image
    masks = {"moving_brain": moving.brain, "fixed_brain": fixed.brain}
    return match(moving.image, fixed.image, **masks, fixed_from_moving=there)


def registered_match(moving: Seen, fixed: Seen) -> float:
    """The same of two people, after registration."""
    there = register_rigid(moving.image, fixed.image, moving_mask=moving.brain, fixed_mask=fixed.brain)
    masks = {"moving_brain": moving.brain, "fixed_brain": fixed.brain}
    return match(moving.image, fixed.image, **masks, fixed_from_moving=there)


if __name__ == "__main__":
    main()
