"""``msrim evaluate longitudinal``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from msrim.errors import InputError


def longitudinal(
    *,
    truth: Annotated[Path, typer.Option("--truth", help="Mask of new lesions, or of all changes, taken as true.")],
    prediction: Annotated[Path, typer.Option("--prediction", help="Mask of new lesions to be judged.")],
    truth_from_followup: Annotated[
        Path | None,
        typer.Option("--truth-from-followup", help="ITK transform to the truth's space, if the prediction needs one."),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline", help="Baseline FLAIR, where the truth marks shrinking too: with --followup and --brain."
        ),
    ] = None,
    truth_from_baseline: Annotated[
        Path | None, typer.Option("--truth-from-baseline", help="ITK transform of the baseline.")
    ] = None,
    followup: Annotated[Path | None, typer.Option("--followup", help="Follow-up FLAIR, with --baseline.")] = None,
    brain: Annotated[
        Path | None, typer.Option("--brain", help="Brain mask on the truth's grid, with --baseline.")
    ] = None,
) -> None:
    """Compare masks of new lesions on the truth's grid. Prints JSON.

    With both FLAIRs only those parts of the truth are taken that are brighter at follow-up.
    """
    import json

    import numpy as np

    from msrim.evaluation.longitudinal import change_metrics, split_change
    from msrim.image import read_volume, resample
    from msrim.transform import read_transform

    given = [path is not None for path in (baseline, followup, brain)]
    if any(given) and not all(given):
        raise InputError("to tell growing from shrinking give all of --baseline, --followup and --brain")
    matrices = [None if path is None else read_transform(path) for path in (truth_from_baseline, truth_from_followup)]
    marked = read_volume(truth, mask=True)
    if all(given):
        images = [
            resample(read_volume(path), marked, target_from_source=matrix)
            for path, matrix in zip((baseline, followup), matrices, strict=True)
        ]
        marked, _ = split_change(marked, *images, brain=read_volume(brain, mask=True))
    found = read_volume(prediction, mask=True)
    found = resample(found.like(found.data.astype(np.float32)), marked, target_from_source=matrices[1])
    typer.echo(json.dumps(change_metrics(marked, found.like(found.data > 0.5)), indent=2))
