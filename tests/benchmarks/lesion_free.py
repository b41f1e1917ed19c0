"""What a lesion model finds in simulated heads that have no lesion: every millilitre is wrong.

    python -m tests.benchmarks.lesion_free --out DIR [--model NAME] [--seeds 16 17 18 19 20]

Each head goes through the whole of `msrim segment` with FLAIR, T1w and T2w, and with FLAIR alone. The mean has a 95 %
bootstrap interval over heads. Seeds 11 to 15 were in view when the search for thresholds was made.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console as Page
from rich.table import Table

from msrim.bids import Subject
from msrim.console import Console
from msrim.evaluation.statistics import bootstrap_interval
from msrim.image import read_volume
from msrim.recipe import Recipe
from msrim.workflows.segment import segment_subject
from tests.benchmarks.phantoms import phantom

SETS = (("FLAIR", "T1w", "T2w"), ("FLAIR",))


def main() -> None:
    """Segment every head twice and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default=Recipe().model)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(16, 21)))
    given = parser.parse_args()
    table = Table(title=f"Found in simulated heads without lesions, {given.model}")
    for column in ("seed", *(f"{' + '.join(names)}, {what}" for names in SETS for what in ("ml", "threshold"))):
        table.add_column(column, justify="right")
    found_ml = []
    for seed in given.seeds:
        anat = phantom(given.out / "phantoms", seed=seed, lesion_free=True)
        row = [_found(anat, names, model=given.model, out=given.out / f"{seed}-{'-'.join(names)}") for names in SETS]
        found_ml.append([ml for ml, _ in row])
        table.add_row(str(seed), *(text for ml, threshold in row for text in (f"{ml:.2f}", f"{threshold:g}")))
    means = (_mean(column) for column in zip(*found_ml, strict=True))
    table.add_row("mean", *(text for mean in means for text in (mean, "")))
    Page(width=110).print(table)


def _mean(found_ml: Sequence[float]) -> str:
    """With its interval, which one head alone does not have."""
    interval = bootstrap_interval(found_ml)
    return f"{np.mean(found_ml):.2f}" + (" ({:.2f}-{:.2f})".format(*interval) if interval else "")


def _found(anat: Path, contrasts: tuple[str, ...], *, model: str, out: Path) -> tuple[float, float]:
    """Millilitres called lesion, and the threshold that was taken."""
    images = {name: anat / f"sub-phantom_{name}.nii.gz" for name in contrasts}
    mask = segment_subject(Subject("phantom", None, images), Recipe(model=model), out, console=Console(quiet=True))
    beside = json.loads(mask.with_name(mask.name.replace(".nii.gz", ".json")).read_text(encoding="utf-8"))
    volume = read_volume(mask, mask=True)
    return volume.data.sum() * volume.voxel_volume_mm3 / 1000, beside["Threshold"]


if __name__ == "__main__":
    main()
