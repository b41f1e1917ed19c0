"""Making a cohort with rims, and looking at what was made."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from msrim.console import Console
from msrim.evaluation.rim_cohort import Looks, cohort_facts, lesion_looks
from msrim.files import write_json
from msrim.image import Volume, read_volume
from msrim.lesions.patches import cut_patches
from msrim.models.rims import SHOWN_PATCH
from msrim.preprocess.normalise import normalise_intensity
from msrim.report.gallery import write_gallery
from msrim.simulation.cohort import CohortSettings, simulate_cohort

PICTURE, FACTS = "rims.png", "rims.json"


def make_rim_cohort(out: Path, settings: CohortSettings, *, console: Console) -> Path:
    """Write a cohort, twenty lesions with a rim and twenty without as ``rims.png``, and ``rims.json``.

    Parameters
    ----------
    out : Path
    settings : CohortSettings
    console : Console

    Returns
    -------
    Path
        ``out``.
    """
    simulate_cohort(out, settings, report=console.say)
    facts = look_at_cohort(out)
    if facts["rims"]:
        console.say(
            f"{facts['rims']} lesions with a rim, {facts['others']} without; the edge is 10 ppb above the core in "
            f"{100 * facts['rims_seen']:.0f} % of those with a rim and a core; rim+ lesions are "
            f"{facts['difference_ppb']:.1f} ppb above others; their mean alone separates them with a pROC AUC of "
            f"{facts['mean_proc_auc']:.2f}; look at {out / PICTURE}"
        )
    return out


def look_at_cohort(cohort: Path) -> dict[str, Any]:
    """Measure and draw the lesions of a cohort: the facts of :func:`msrim.evaluation.rim_cohort.cohort_facts`."""
    looks: list[Looks] = []
    patches, truth = [], []
    for folder in sorted(cohort.glob("sub-*")):
        name, derived = folder.name, cohort / "derivatives" / "truth" / folder.name / "anat"
        qsm, flair = (read_volume(folder / "anat" / f"{name}_{image}.nii.gz") for image in ("Chimap", "FLAIR"))
        with open(derived / f"{name}_desc-lesions.tsv", encoding="utf-8", newline="") as stream:
            labels = [row["truth"] == "true" for row in csv.DictReader(stream, delimiter="\t")]
        if not labels:
            continue
        lesions = read_volume(derived / f"{name}_seg-lesions_dseg.nii.gz")
        instances = Volume(lesions.data.astype(np.int32), lesions.affine)
        looks.append(lesion_looks(qsm, instances))
        flair = normalise_intensity(flair, qsm.like(qsm.data != 0))
        patches.append(cut_patches(qsm, flair, instances, size=SHOWN_PATCH).images.astype(np.float16))
        truth += labels
    facts = cohort_facts(looks, np.array(truth))
    write_gallery(np.concatenate(patches), np.array(truth), cohort / PICTURE, rng=np.random.default_rng(0))
    write_json(facts, cohort / FACTS)
    return facts
