"""Which steps a run will have, and what they cost beside each other: what the progress bar needs to know beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msrim.models.registry import Card
from msrim.preprocess.backends import find_backend, kind_of
from msrim.recipe import Recipe

# Seconds on one quiet core for scans of 1 to 3 mm; their ratios count, not themselves.
SECONDS = {
    "reorient": 0.5,
    "extract_brain": 25.0,
    "correct": 9.0,
    "align": 16.0,
    "find_usable": 3.0,
    "align_to_template": 26.0,
    "check_images": 10.0,
    "choose_labelled": 0.5,
    "label_head": 8.0,
    "classify_tissue": 60.0,
    "make_working_images": 20.0,
    "write_anatomy": 2.0,
    "find_lesions": 100.0,
    "choose_threshold": 1.5,
    "paint_lesions": 10.0,
    "find_painted_lesions": 100.0,
    "grade_lesions": 15.0,
    "write_lesions": 10.0,
    "read_qsm": 1.0,
    "align_to_qsm": 20.0,
    "bring_to_qsm": 3.0,
    "measure_radiomics": 20.0,
    "classify": 10.0,
    "write_rims": 2.0,
    "register_to_midway": 60.0,
    "match": 6.0,
    "compare": 40.0,
    "decide": 10.0,
    "deform": 150.0,
    "write_changes": 12.0,
    "paint_changes": 10.0,
    "make_baseline": 6.0,
    "make_followup": 6.0,
    "make_working_images_of_made_followup": 20.0,
    "find_lesions_of_made_baseline": 100.0,
    "find_lesions_of_made_followup": 100.0,
    "register_to_midway_of_made": 60.0,
    "match_of_made": 6.0,
    "compare_of_made": 40.0,
    "decide_of_made": 10.0,
    "deform_of_made": 150.0,
    "grade_changes": 10.0,
    "correct_tissue": 3.0,
    "write_corrected_changes": 12.0,
    "number_corrected": 5.0,
    "write_corrected": 8.0,
    "write_page": 8.0,
}

# Steps of :func:`msrim.workflows.change_grade.grade_pair`.
GRADED_PAIR = (
    "paint_changes",
    "make_baseline",
    "make_followup",
    "make_working_images_of_made_followup",
    "find_lesions_of_made_baseline",
    "find_lesions_of_made_followup",
    "register_to_midway_of_made",
    "match_of_made",
    "compare_of_made",
    "decide_of_made",
)


def anatomy_steps(contrasts: Iterable[str], recipe: Recipe) -> list[str]:
    """Names of the steps of :func:`msrim.workflows.anatomy.prepare`.

    Examples
    --------
    >>> anatomy_steps(["FLAIR"], Recipe())[:3]
    ['reorient_FLAIR', 'extract_brain_FLAIR', 'correct_FLAIR']
    """
    contrasts = list(contrasts)
    steps = []
    for contrast in contrasts:
        steps += [f"reorient_{contrast}", f"extract_brain_{contrast}", f"correct_{contrast}"]
    steps += [f"align_{contrast}" for contrast in contrasts if contrast != "FLAIR"]
    steps += ["find_usable", "align_to_template", "check_images", "choose_labelled", "label_head"]
    if kind_of(find_backend(recipe.backend)) != "embedded":
        steps.append("classify_tissue")
    return [*steps, "make_working_images", "write_anatomy"]


def lesion_steps(contrasts: Iterable[str], recipe: Recipe, *, card: Card) -> list[str]:
    """Names of the steps of :func:`msrim.workflows.segment.segment_visit`."""
    chosen = recipe.threshold is None and card.threshold_range is not None
    threshold = ["choose_threshold"] if chosen else []
    graded = ["paint_lesions", "find_painted_lesions", "grade_lesions"] if recipe.grade else []
    return [*anatomy_steps(contrasts, recipe), "find_lesions", *threshold, *graded, "write_lesions", "write_page"]


def rim_steps(card: Card) -> list[str]:
    """Names of the steps of :func:`msrim.workflows.rims.classify_rims`."""
    from msrim.models.rims import inputs_of

    measured = ["measure_radiomics"] if inputs_of(card).features else []
    return ["read_qsm", "align_to_qsm", "bring_to_qsm", *measured, "classify", "write_rims", "write_page"]


def change_steps(recipe: Recipe, *, corrected: bool = False) -> list[str]:
    """Names of the steps of :func:`msrim.workflows.comparison.compare_visits`."""
    expansion = ["deform"] if recipe.expansion else []
    corrections = ["correct_tissue"] if corrected else []
    written = "write_corrected_changes" if corrected else "write_changes"
    graded: list[str] = []
    if recipe.grade:
        graded = [*GRADED_PAIR, *(["deform_of_made"] if recipe.expansion else []), "grade_changes"]
    return [
        "register_to_midway",
        "match",
        "compare",
        "decide",
        *expansion,
        *graded,
        *corrections,
        written,
        "write_page",
    ]


def corrected_steps() -> list[str]:
    """Names of the steps of :func:`msrim.workflows.corrected.segment_corrected` beside those of finding lesions."""
    return ["number_corrected", "write_corrected", "write_page"]


def costs(steps: Sequence[str]) -> dict[str, float]:
    """Typical seconds of steps, by the names that the user reads.

    Examples
    --------
    >>> costs(["align_T1w", "align_to_template"])
    {'align T1w': 16.0, 'align to template': 26.0}
    """
    return {step.replace("_", " "): _seconds(step) for step in steps}


def _seconds(step: str) -> float:
    return SECONDS[step] if step in SECONDS else SECONDS[step.rpartition("_")[0]]
