"""Known growth in real scans: msrim beside lesiontrack and mscard, each on the pairs that these two make themselves.

    python -m tests.benchmarks.expansion_peers --data DIR --out DIR [--programs BIN] [--visits VISIT ...] [--seeds 0 1]

--programs is the folder of `lesiontrack` and `mscard`, from PyPI (0.2.0 and 0.1.0), best in an environment of their
own; one that is not there is named as absent. The follow-up is simulated: a real, brain-extracted visit of `mni` below
--data (FLAIR, T1w, experts' mask) with

* lesiontrack's growth: eight lesions by 15, 25 or 40 %, the head moved, gain and noise (`lesiontrack backtest`);
* mscard's loss of brain volume of 2 % and six new lesions; no lesion expands (`mscard calibrate`).

All get the same masks of lesions, of both visits, and a year between them; msrim takes the whole way of a user:
`segment --lesions` of both, then `longitudinal --expansion --years 1`. Expansion is the mean over each of the true
lesions, a lesion is found that overlaps with a candidate. lesiontrack moves all that lies within some millimetres of a
lesion that it makes to grow: what lies there and is not one of the eight is told apart, as is one of the eight that the
growth of another reaches. Steps that are done in --out are kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cc3d
import numpy as np
import pandas as pd
from rich.console import Console as Page
from rich.table import Table

import msrim
from msrim.bids import PAIR, Subject
from msrim.image import labels_on_grid, read_labels, read_map
from msrim.transform import read_transform

VISITS = ("sub-openms19", "sub-openms07", "sub-mslesseg14/ses-01")
# A lesion has grown from the first on, and not up to the second: what lies beside a growing one is pulled along. From
# the third on candidates are asked for, which lesiontrack's 15 % are below. Above the fourth two growths have met.
GROWN_PERCENT, STILL_PERCENT, STRONG_PERCENT, ALONE_PERCENT = 10.0, 1.0, 20.0, 41.0
# As many new lesions as mscard finds room for where the load is heavy; its own number is twelve.
NEW_LESIONS = 6


@dataclass(frozen=True)
class Pair:
    """A real visit and a simulated follow-up of it: their folders, and masks of lesions."""

    visits: tuple[Path, Path]
    masks: tuple[Path, Path]


def prepared(visit: Path, out: Path) -> tuple[Path, Path]:
    """A folder with FLAIR and T1w of a visit, and the experts' mask, named as of that folder's session."""
    flair, t1w, mask = (next((visit / "anat").glob(f"*{end}.nii.gz")) for end in ("FLAIR", "T1w", "mask"))
    folder = _folder(out, flair=flair, t1w=t1w)
    return folder, _copied(mask, out / f"{out.parent.name}_{out.name}_label-L_mask.nii.gz")


def _folder(out: Path, *, flair: Path, t1w: Path) -> Path:
    """A session of a patient with copies of two images; those that are there stay."""
    label, session = out.parent.name, out.name
    (out / "anat").mkdir(parents=True, exist_ok=True)
    for contrast, path in (("FLAIR", flair), ("T1w", t1w)):
        _copied(path, out / "anat" / f"{label}_{session}_{contrast}.nii.gz")
    return out


def _copied(path: Path, copy: Path) -> Path:
    if not copy.exists():
        shutil.copyfile(path, copy)
    return copy


def by_msrim(pair: Pair, out: Path) -> tuple[msrim.results.Comparison, pd.DataFrame]:
    """The pair's results and its table of changes."""
    for visit, mask in zip(pair.visits, pair.masks, strict=True):
        msrim.segment(visit, out=out, lesions=mask, brain_extracted=True)
    found = msrim.longitudinal(pair.visits, out=out, brain_extracted=True, expansion=True, years=[1.0]).pairs[0]
    return found, found.changes


def expansions(found: msrim.results.Comparison, truth: Path, rows: pd.DataFrame) -> dict[int, tuple[float, bool]]:
    """Of each true lesion the mean expansion in percent, and whether a candidate overlaps with it.

    Parameters
    ----------
    found : Comparison
    truth : Path
        Numbered lesions on the grid of the baseline's FLAIR.
    rows : DataFrame
        The table of changes.

    Returns
    -------
    dict of int to (float, bool)
        Empty where msrim trusts nothing of the deformation.
    """
    if rows["expansion_percent"].isna().all():
        return {}
    patient = Subject(found.table.name.split("_")[0].removeprefix("sub-"), None, {})
    growth = read_map(patient.below(found.folder, PAIR["log_jacobian"]))
    tracked = read_labels(patient.below(found.folder, PAIR["tracked"]))
    moved = next(found.folder.rglob("*ses-base*from-FLAIR_to-midway_mode-image_xfm.txt"))
    lesions = labels_on_grid(read_labels(truth), growth, target_from_source=read_transform(moved)).data
    candidates = np.isin(tracked.data, rows.index[rows["sel_candidate"].fillna(False).astype(bool)])
    return {
        int(number): (
            100 * float(np.expm1(growth.data[lesions == number].mean(dtype=np.float64))),
            bool(candidates[lesions == number].any()),
        )
        for number in np.unique(lesions[lesions > 0])
    }


def slope(rows: pd.DataFrame) -> float:
    """Of measured by injected growth, through the origin."""
    return float((rows["injected"] * rows["measured"]).sum() / (rows["injected"] ** 2).sum())


def median_ratio(rows: pd.DataFrame) -> float:
    """Of measured by injected growth."""
    return float((rows["measured"] / rows["injected"]).median())


def mean_growth(rows: pd.DataFrame) -> float:
    return float(rows["measured"].mean())


def share_of_candidates(rows: pd.DataFrame) -> float:
    return float(rows["candidate"].mean())


def grown_rows(patient: str, seed: int, truth: dict, measured: dict[int, tuple[float, bool]]) -> list[dict]:
    return [
        {
            "patient": patient,
            "seed": seed,
            "made": lesion["volume_factor"] > 1,
            "injected": lesion["true_mean_expansion_pct"],
            "measured": measured[lesion["lesion_id"]][0],
            "candidate": measured[lesion["lesion_id"]][1],
        }
        for lesion in truth["lesions"]
        if lesion["lesion_id"] in measured
    ]


def interval(rows: pd.DataFrame, figure: Callable[[pd.DataFrame], float], *, draws: int = 2000) -> str:
    """A figure with its 95 % bootstrap interval over lesions."""
    rng = np.random.default_rng(0)
    drawn = [figure(rows.iloc[rng.integers(len(rows), size=len(rows))]) for _ in range(draws)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return f"{figure(rows):.2f} ({low:.2f}-{high:.2f})"


def print_growth(tables: dict[str, pd.DataFrame]) -> None:
    """One column a program."""
    table = Table(title="growth that lesiontrack made (simulated); 95 % interval over lesions")
    table.add_column("")
    for name in tables:
        table.add_column(name, justify="right")

    def add(title: str, chosen: dict[str, pd.DataFrame], figure: Callable[[pd.DataFrame], str]) -> None:
        table.add_row(title, *(figure(rows) if len(rows) else "nothing told" for rows in chosen.values()))

    def chosen(choose: Callable[[pd.DataFrame], pd.Series]) -> dict[str, pd.DataFrame]:
        return {name: rows[choose(rows)] for name, rows in tables.items()}

    alone = chosen(lambda rows: rows["made"] & rows["injected"].between(GROWN_PERCENT, ALONE_PERCENT))
    strong = {name: rows[rows["injected"] >= STRONG_PERCENT] for name, rows in alone.items()}
    still = chosen(lambda rows: rows["injected"].abs() <= STILL_PERCENT)
    moved = chosen(lambda rows: rows["injected"] >= GROWN_PERCENT)
    add(f"lesions made to grow, by {GROWN_PERCENT:.0f} to 40 %", alone, lambda rows: str(len(rows)))
    add("measured by injected: slope", alone, lambda rows: interval(rows, slope))
    add("... median", alone, lambda rows: interval(rows, median_ratio))
    add(f"of {STRONG_PERCENT:.0f} % and more", strong, lambda rows: str(len(rows)))
    add("... called candidates", strong, lambda rows: interval(rows, share_of_candidates))
    add("lesions that did not grow", still, lambda rows: str(len(rows)))
    add("measured, %: mean", still, lambda rows: interval(rows, mean_growth))
    add("... deviation", still, lambda rows: f"{rows['measured'].std():.1f}")
    add("called candidates", still, lambda rows: interval(rows, share_of_candidates))
    add(f"all that were moved, by {GROWN_PERCENT:.0f} % and more", moved, lambda rows: str(len(rows)))
    add("measured by injected: slope", moved, lambda rows: interval(rows, slope))
    add("called candidates", moved, lambda rows: interval(rows, share_of_candidates))
    Page(width=120).print(table)


def run_program(program: Path, arguments: Sequence[object]) -> bool:
    """Whether it ended well; what it said is printed where not."""
    done = subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{program.name} failed: {done.stderr.strip()[-500:]}", flush=True)
    return done.returncode == 0


def growth(data: Path, out: Path, program: Path, visits: Sequence[str], seeds: Sequence[int]) -> None:
    """Pairs of lesiontrack, by itself and by msrim."""
    rows: dict[str, list[dict]] = {"lesiontrack": [], "msrim": []}
    for name in visits:
        patient = name.split("/")[0]
        base, mask = prepared(data / "mni" / name, out / "bids" / patient / "ses-base")
        flair, t1w = (next((base / "anat").glob(f"*{contrast}.nii.gz")) for contrast in ("FLAIR", "T1w"))
        for seed in seeds:
            made = out / "lesiontrack" / patient / f"seed-{seed}"
            arguments = ["--t1", t1w, "--flair", flair, "--mask", mask, "--out", made, "--seeds", seed, "--threads", 1]
            # Constancy wants a visit between; growth does not, and it takes as long again.
            arguments += ["--timepoints", "1.0"]
            if not (made / "backtest_lesions.tsv").exists() and not run_program(program, ["backtest", *arguments]):
                continue
            synthetic = next(made.rglob("synthetic_1/truth.json")).parent
            truth = json.loads((synthetic / "truth.json").read_text())
            theirs = pd.read_csv(made / "backtest_lesions.tsv", sep="\t").set_index("lesion_id")
            measured = {
                number: (row["measured_mean_pct_per_year"], bool(row["detected"])) for number, row in theirs.iterrows()
            }
            rows["lesiontrack"] += grown_rows(patient, seed, truth, measured)
            followup = _folder(
                out / "bids" / patient / f"ses-grown{seed}",
                flair=synthetic / "synth_FLAIR.nii.gz",
                t1w=synthetic / "synth_T1w.nii.gz",
            )
            found, table = by_msrim(Pair((base, followup), (mask, synthetic / "synth_mask.nii.gz")), out / "msrim")
            measured = expansions(found, synthetic / "baseline_lesion_labels.nii.gz", table)
            rows["msrim"] += grown_rows(patient, seed, truth, measured)
            told = "" if measured else ": msrim trusts nothing of the deformation"
            print(f"{patient}, seed {seed}{told}", flush=True)
    columns = ["patient", "seed", "made", "injected", "measured", "candidate"]
    print_growth({name: pd.DataFrame(found, columns=columns) for name, found in rows.items()})


def atrophy(data: Path, out: Path, program: Path, visits: Sequence[str]) -> None:
    """Pairs of mscard, by itself and by msrim."""
    table = Table(title="2 % of the brain lost, no lesion expands: mscard's pairs (simulated)")
    for column in ("", "injected, %", "mscard", "msrim", "candidates per lesion: mscard", "msrim", "lesions"):
        table.add_column(column, justify="right")
    for name in visits:
        patient = name.split("/")[0]
        base, mask = prepared(data / "mni" / name, out / "bids" / patient / "ses-base")
        flair, t1w = (next((base / "anat").glob(f"*{contrast}.nii.gz")) for contrast in ("FLAIR", "T1w"))
        made = out / "mscard" / patient
        made.mkdir(parents=True, exist_ok=True)
        manifest = made / "manifest.tsv"
        columns = ("subject", "session", "time_years", "t1", "flair", "mask")
        values = (patient, "base", "0", *(str(path.absolute()) for path in (t1w, flair, mask)))
        manifest.write_text("\t".join(columns) + "\n" + "\t".join(values) + "\n")
        graded = made / patient / "calibration" / "grade.json"
        arguments = ["calibrate", manifest, "--out", made, "--threads", 1, "--n-new", NEW_LESIONS]
        if not graded.exists() and not run_program(program, arguments):
            continue
        grade, synthetic = json.loads(graded.read_text()), graded.parent / "synthetic"
        followup = _folder(
            out / "bids" / patient / "ses-lost", flair=synthetic / "FLAIR.nii.gz", t1w=synthetic / "T1w.nii.gz"
        )
        found, rows = by_msrim(Pair((base, followup), (mask, synthetic / "mask.nii.gz")), out / "msrim")
        both = rows[rows["sel_candidate"].notna()]
        lesions = cc3d.connected_components(read_labels(mask).data > 0, connectivity=18, return_N=True)[1]
        change = found.summary["brain_volume_change_percent"]
        table.add_row(
            patient,
            f"{grade['brain']['injected_change_pct']:.2f}",
            f"{grade['brain']['jacobian_change_pct']:.2f}",
            "nothing told" if change is None else f"{change:.2f}",
            f"{grade['sel']['per_baseline_lesion']:.2f}",
            "nothing told" if both.empty else f"{both['sel_candidate'].astype(bool).mean():.2f}",
            f"{lesions}, {len(both)}",
        )
    Page(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--programs", type=Path, help="folder of lesiontrack and mscard, if not on the path")
    parser.add_argument("--visits", nargs="+", default=VISITS, help="below mni of --data")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="of lesiontrack's pairs")
    given = parser.parse_args()
    out = given.out.absolute()
    for name, measure in (("lesiontrack", growth), ("mscard", atrophy)):
        program = shutil.which(name, path=None if given.programs is None else str(given.programs))
        if program is None:
            print(f"{name} is absent: pip install {name}")
        elif measure is growth:
            growth(given.data, out, Path(program), given.visits, given.seeds)
        else:
            atrophy(given.data, out, Path(program), given.visits)


if __name__ == "__main__":
    main()
