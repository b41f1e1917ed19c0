"""A cohort of patients with known rims: QSM, FLAIR and lesions of as many as are wanted.

How hard it is: :class:`msrim.simulation.rims.Dials`, frozen before DA-TR-Net was trained on it. Nothing of it may be
changed because of what the rim networks do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import geom, lognorm

from msrim.bids import write_dataset_description
from msrim.errors import InputError
from msrim.files import write_text
from msrim.image import write_volume
from msrim.simulation.head import make_head
from msrim.simulation.rim_brain import make_brain, read_brain
from msrim.simulation.rim_patient import Scanner, SimulatedPatient, simulate_patient
from msrim.simulation.rim_shapes import ShapeBank
from msrim.simulation.rims import HARD_KINDS, Dials, RimLesion

# Of 172 patients some 65 have a rim, two of these on average three (Zhang et al. 2022, Fig. 3 and section 3.2).
PATIENTS_WITH_RIMS = 0.38
MEAN_RIMS = 2.72
MOST_RIMS = 17
MEAN_LESIONS, LESIONS_SPREAD = 24.2, 0.75

# A rater sees a rim where its share of the edge seems to be large enough, and is mistaken about that by so much; large
# solid lesions and veins look a little like one. Two raters agree with a kappa of 0.59 (Zhang et al. 2022), a third
# decides.
SEEN_FROM, SEEN_SPREAD = 0.66, 0.235
SEEMING = {True: 0.2, False: -0.2}
# Cohorts to train on and to test on share neither heads nor lesions of the bank: every fourth is for tests.
PARTS = ("all", "train", "test")
TRUTH = Path("derivatives") / "truth"


@dataclass(frozen=True)
class CohortSettings:
    """Size and content of a cohort.

    Attributes
    ----------
    subjects : int
        172 patients have about 177 lesions with a rim and 3986 without.
    seed : int
        Patient ``i`` is a function of ``seed``, ``i``, ``subjects`` and ``part`` alone.
    scanner : Scanner
    lesion_bank : Path, optional
        Lesion maps in MNI space, see :class:`msrim.simulation.rim_shapes.ShapeBank`: places for all lesions, and shapes
        for small ones without a rim. No lesion of it serves two patients. Made shapes and places without it.
    head_labels : Path, optional
        Folder of whole-head label maps with FreeSurfer values, one for each patient in turn; made heads without it.
    part : str
        "train" and "test" take three quarters of the heads and of the bank's lesions and the last quarter; "all" all.
    label_noise : bool
        Column ``rim`` of the tables is by two raters, and a third where they differ; ``truth`` otherwise, too.
    lesions : (int, int), optional
        With and without a rim, of every patient; as :func:`lesion_counts` spreads them if not given.
    dials : Dials
        For other cohorts than the frozen ones.
    """

    subjects: int
    seed: int = 0
    scanner: Scanner = field(default_factory=Scanner)
    lesion_bank: Path | None = None
    head_labels: Path | None = None
    part: str = "all"
    label_noise: bool = False
    lesions: tuple[int, int] | None = None
    dials: Dials = field(default_factory=Dials)

    def heads(self) -> list[Path]:
        """Files of the part's label maps; empty for made heads."""
        if self.head_labels is None:
            return []
        found = _part(sorted(self.head_labels.glob("*.nii*")), self.part)
        if not found:
            raise InputError(
                f"{self.head_labels}: no label maps (*.nii.gz) for part {self.part}; give a folder of some"
            )
        return found

    def recorded(self, heads: Sequence[Path]) -> str:
        """JSON that identifies the cohort."""
        about = {
            "seed": self.seed, "subjects": self.subjects, "part": self.part, "bank": self.lesion_bank is not None,
            "heads": len(heads), "label_noise": self.label_noise, "lesions": self.lesions, "dials": asdict(self.dials),
            "scanner": asdict(self.scanner),
        }  # fmt: skip
        return json.dumps(about, indent=2) + "\n"


def simulate_cohort(out: Path, settings: CohortSettings, *, report: Callable[[str], None] = lambda line: None) -> Path:
    """Write a cohort: ``sub-*/anat`` with QSM (``_Chimap``) and FLAIR, lesions and their labels as a derivative.

    Parameters
    ----------
    out : Path
        Root of the BIDS dataset to make. Patients that it holds already, of the same cohort, are left as they are.
    settings : CohortSettings
    report : callable
        Gets a line about each patient.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    InputError
        There are no head labels, the bank has fewer lesions than subjects, or ``out`` holds another cohort.
    OutputError
        The folder cannot be written to.
    """
    subjects, seed = settings.subjects, settings.seed
    bank, members = None, []
    if settings.lesion_bank is not None:
        bank = ShapeBank(settings.lesion_bank)
        members = _part(list(range(len(bank))), settings.part)
        if len(members) < subjects:
            raise InputError(
                f"{settings.lesion_bank}: {len(members)} lesions are too few for {subjects} subjects; make fewer"
            )
    heads = settings.heads()
    _keep_settings(settings.recorded(heads), out / "simulation.json")
    write_dataset_description(out, name="msrim simulated rim cohort", kind="raw")
    rng = np.random.default_rng((seed, 1))
    counts = [settings.lesions] * subjects if settings.lesions else lesion_counts(subjects, rng)
    # Patients of one head after each other: a brain is read once.
    order = sorted(range(subjects), key=lambda index: index % len(heads)) if heads else range(subjects)
    read, brain = -1, None
    for index in order:
        if _table_of(index, out).is_file():
            continue
        rng = np.random.default_rng((seed, 2, PARTS.index(settings.part), index))
        if not heads:
            brain = make_brain(make_head(rng))
        elif brain is None or read != index % len(heads):
            read = index % len(heads)
            brain = read_brain(heads[read])
        shapes = None if bank is None else bank.shapes(members[index::subjects])
        rims, others = counts[index]
        patient = simulate_patient(
            brain, rims=rims, others=others, scanner=settings.scanner, bank=shapes, dials=settings.dials, rng=rng
        )
        _write_patient(patient, index, out, noisy=settings.label_noise, rng=rng)
        found = sum(lesion.rim for lesion in patient.lesions)
        report(f"{_name(index)}: {len(patient.lesions)} lesions, {found} with a rim")
    write_dataset_description(out / TRUTH, name="truth of a msrim simulated rim cohort")
    return out


def _name(index: int) -> str:
    return f"sub-{index + 1:03d}"


def _table_of(index: int, out: Path) -> Path:
    """The table of a patient's rims, which is written last."""
    return out / TRUTH / _name(index) / "anat" / f"{_name(index)}_desc-lesions.tsv"


def _write_patient(patient: SimulatedPatient, index: int, out: Path, *, noisy: bool, rng: np.random.Generator) -> None:
    name, table = _name(index), _table_of(index, out)
    write_volume(patient.qsm, out / name / "anat" / f"{name}_Chimap.nii.gz")
    write_volume(patient.flair, out / name / "anat" / f"{name}_FLAIR.nii.gz")
    write_volume(patient.instances, table.with_name(f"{name}_seg-lesions_dseg.nii.gz"))
    write_labels(patient.lesions, table, noisy=noisy, rng=rng)


def _part(things: list[Any], part: str) -> list[Any]:
    """Those of a list that a part of the cohorts may use."""
    last = [index % 4 == 3 for index in range(len(things))]
    return [thing for thing, is_last in zip(things, last, strict=True) if part == "all" or is_last == (part == "test")]


def _keep_settings(settings: str, path: Path) -> None:
    if path.is_file() and path.read_text(encoding="utf-8") != settings:
        raise InputError(f"{path.parent}: holds a cohort made otherwise (see {path.name}); choose another folder")
    write_text(settings, path)


def lesion_counts(subjects: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Lesions with and without a rim of each patient: evenly spread quantiles of their distributions, shuffled.

    Examples
    --------
    >>> counts = lesion_counts(172, np.random.default_rng(0))
    >>> sum(rims for rims, _ in counts), sum(others for _, others in counts)
    (177, 3967)
    """
    share = (np.arange(subjects) + 0.5) / subjects
    with_rims = np.maximum(0, (share - (1 - PATIENTS_WITH_RIMS)) / PATIENTS_WITH_RIMS)
    rims = np.where(with_rims > 0, np.clip(geom.ppf(with_rims, 1 / MEAN_RIMS), 1, MOST_RIMS), 0)
    mean_others = MEAN_LESIONS - PATIENTS_WITH_RIMS * MEAN_RIMS
    median = mean_others / np.exp(LESIONS_SPREAD**2 / 2)
    others = np.maximum(1, np.round(lognorm.ppf(share, LESIONS_SPREAD, scale=median)))
    return list(
        zip(rng.permutation(rims.astype(int)).tolist(), rng.permutation(others.astype(int)).tolist(), strict=True)
    )


def write_labels(lesions: list[RimLesion], path: Path, *, noisy: bool, rng: np.random.Generator) -> Path:
    """Write the table of rims: ``id``, ``rim`` (the raters' if ``noisy``), ``truth``, raters, kind, share."""
    rows = ["id\trim\ttruth\trater_1\trater_2\tkind\tshare"]
    for number, lesion in enumerate(lesions, start=1):
        votes = rate(lesion, raters=3, rng=rng)
        rated = bool(votes.sum() >= 2) if noisy else lesion.rim
        cells = (number, rated, lesion.rim, bool(votes[0]), bool(votes[1]), lesion.kind, f"{lesion.share:.2f}")
        rows.append("\t".join(str(cell).lower() if isinstance(cell, bool) else str(cell) for cell in cells))
    return write_text("\n".join(rows) + "\n", path)


def rate(lesion: RimLesion, *, raters: int, rng: np.random.Generator) -> np.ndarray:
    """Whether raters call a lesion rim+: (raters,) bool."""
    seeming = lesion.share or SEEMING[lesion.kind in HARD_KINDS]
    return seeming + SEEN_SPREAD * rng.standard_normal(raters) > SEEN_FROM
