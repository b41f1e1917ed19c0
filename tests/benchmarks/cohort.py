"""A cohort of real and simulated patients, one of them broken: what every step and every patient costs.

    python -m tests.benchmarks.cohort --data DIR --out DIR [--subjects 30] [--workers 1,2]

Real visits are copied from ``bids`` (whole heads) and ``mni`` (brains alone) below ``--data``, phantoms make up the
rest. The dataset, the phantoms, which are made once, and the results lie below ``--out``; a run that was interrupted
goes on there. With ``--workers`` some of the phantoms run again by as many MultiProc workers, each time in a fresh
folder. Further options go to `msrim cohort`.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

from rich.console import Console
from rich.table import Table

from msrim.bids import Subject, find_subject, write_dataset_description
from tests.benchmarks.kills import start
from tests.benchmarks.phantoms import add_phantom, add_visit, phantom

# What phantoms come with, in turn.
CONTRASTS = (("FLAIR",), ("FLAIR", "Chimap"), ("FLAIR", "T1w", "T2w"), ("FLAIR", "T1w"))
LEAST_PHANTOMS = 2
BROKEN = "broken"


def make_dataset(data: Path, root: Path, *, subjects: int) -> dict[str, list[str]]:
    """Write ``root/bids``; labels of its "whole" heads, "brains" alone and "phantoms"."""
    bids = root / "bids"
    shutil.rmtree(bids, ignore_errors=True)
    real = [("whole", patient) for patient in sorted((data / "bids").glob("sub-*"))]
    real += [("brains", patient) for patient in sorted((data / "mni").glob("sub-*"))]
    labels: dict[str, list[str]] = {"whole": [BROKEN], "brains": [], "phantoms": []}
    for kind, patient in real[: max(0, subjects - 1 - LEAST_PHANTOMS)]:
        for folder in sorted(patient.glob("ses-*")) or [patient]:
            add_visit(bids, find_subject(folder))
        labels[kind].append(patient.name.removeprefix("sub-"))
    for seed in range(subjects - sum(map(len, labels.values()))):
        began, label = perf_counter(), f"phantom{seed:02d}"
        images = phantom(root / "phantoms", seed=seed)
        print(f"{label}: {perf_counter() - began:.1f} s", flush=True)
        add_phantom(bids, images, label, contrasts=CONTRASTS[seed % len(CONTRASTS)])
        labels["phantoms"].append(label)
    broken = Subject(BROKEN, None, {}).output(bids, "FLAIR.nii.gz")
    broken.parent.mkdir(parents=True)
    broken.write_text("hello")
    write_dataset_description(bids, name="benchmark of cohorts", kind="raw")
    return labels


def run(bids: Path, out: Path, labels: Sequence[str], *options: str) -> tuple[int, float]:
    """Exit code and seconds of `msrim cohort` for some participants."""
    began = perf_counter()
    code = start(bids, out, "--participant-label", *labels, *options).wait()
    return code, perf_counter() - began


def cost_of_steps(rows: list[dict[str, str]]) -> Table:
    table = Table("workflow", "step", "n", "seconds", "max", "MiB", "max")
    steps = defaultdict(list)
    for row in rows:
        steps[row["workflow"], row["step"]].append((float(row["seconds"]), float(row["peak_mib"])))
    for names, costs in steps.items():
        seconds, mib = zip(*costs, strict=True)
        table.add_row(
            *names, str(len(costs)), f"{median(seconds):.1f}", f"{max(seconds):.1f}", f"{median(mib):.0f}",
            f"{max(mib):.0f}",
        )  # fmt: skip
    return table


def cost_of_subjects(rows: list[dict[str, str]]) -> Table:
    table = Table("subject", "workflows", "steps", "seconds", "MiB")
    subjects = defaultdict(list)
    for row in rows:
        subjects[row["participant_id"]].append(row)
    for subject, own in subjects.items():
        workflows = dict.fromkeys(row["workflow"] for row in own)
        seconds, mib = sum(float(row["seconds"]) for row in own), max(float(row["peak_mib"]) for row in own)
        table.add_row(subject, ", ".join(workflows), str(len(own)), f"{seconds:.1f}", f"{mib:.0f}")
    return table


def compare_workers(bids: Path, root: Path, labels: Sequence[str], *options: str, workers: Sequence[int]) -> None:
    """Seconds of the same participants by each number of workers, and the ratio to the first."""
    first = None
    for count in workers:
        out = root / f"workers-{count}"
        shutil.rmtree(out, ignore_errors=True)
        processes = ("--plugin", "MultiProc", "--plugin-args", json.dumps({"n_procs": count}))
        code, seconds = run(bids, out, labels, *options, *processes)
        first = first or seconds
        print(
            f"{len(labels)} subjects, {count} workers: {seconds:.1f} s, {seconds / first:.2f} of the first; "
            f"exit code {code}",
            flush=True,
        )


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="real images: bids/ and mni/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--subjects", type=int, default=30)
    parser.add_argument("--workers", help="numbers of workers to compare, as 1,2")
    parser.add_argument("--compare-subjects", type=int, default=6, help="phantoms for that")
    given, options = parser.parse_known_args()
    bids, out = given.out / "bids", given.out / "results"
    labels = make_dataset(given.data, given.out, subjects=given.subjects)
    code, seconds = run(bids, out, [*labels["whole"], *labels["phantoms"]], *options)
    if labels["brains"]:
        brains_code, more = run(bids, out, labels["brains"], "--brain-extracted", *options)
        code, seconds = max(code, brains_code), seconds + more
    subprocess.run([sys.executable, "-m", "msrim", "cohort", str(bids), str(out), "group"], check=True)
    costs = rows_of(out / "cohort_steps.tsv")
    page = Console(width=120)
    page.print(cost_of_steps(costs))
    page.print(cost_of_subjects(costs))
    failed = {row["participant_id"]: row["reason"] for row in rows_of(out / "cohort.tsv") if row["reason"] != "n/a"}
    for subject, reason in failed.items():
        print(f"{subject} failed: {reason}")
    print(f"{given.subjects} subjects, {len(failed)} failed, exit code {code}, {seconds:.0f} s")
    if given.workers:
        counts = [int(count) for count in given.workers.split(",")]
        compare_workers(bids, given.out, labels["phantoms"][: given.compare_subjects], *options, workers=counts)
    sys.exit(set(failed) != {f"sub-{BROKEN}"})


if __name__ == "__main__":
    main()
