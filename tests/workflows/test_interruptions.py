"""Runs that meet a full disk, a second run in their folder, SIGKILL, or a machine without network: real processes."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import pytest
import run_steps

from msrim.console import Console
from msrim.errors import MsrimError, OutputError
from msrim.recipe import Recipe
from msrim.workflows import patient
from msrim.workflows.cohort import participants as cohort
from msrim.workflows.cohort.group import summarise_group
from msrim.workflows.cohort.tasks import Task, Visit, failure_reason, find_cohort
from tests.benchmarks.kills import differences, digests, kill_again, start

QUIET = Console(quiet=True)
# One thread, so that sums come in one order, and tasks in processes of their own.
ALONE = ("--quiet", "--plugin", "MultiProc", "--plugin-args", '{"n_procs": 1}')
PHANTOM = Task("segment", "phantom", None)
# One task of three sleeps until it is killed; the others end at once.
SLEEPER = """
import sys, time
from pathlib import Path
from msrim.console import Console
from msrim.recipe import Recipe
from msrim.workflows import patient
from msrim.workflows.cohort import participants as cohort
from msrim.workflows.cohort.tasks import find_cohort
cohort._limit_threads = lambda threads: None
patient.segment_subject = lambda subject, *_, **__: time.sleep(60 if subject.label == sys.argv[3] else 0)
cohort.run_cohort(
    find_cohort(sys.argv[1], validate=False), Recipe(), Path(sys.argv[2]), console=Console(quiet=True),
    plugin=cohort.Plugin("MultiProc", {"n_procs": 2}),
)
"""


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to."""

    out: Path
    truth: dict[str, str]
    seconds: float
    offline: list[str] | None


@dataclass(frozen=True)
class Disturbed:
    """A run that everything happened to: how it ended on a small disk, then how a second run in its folder did."""

    full_disk: subprocess.CompletedProcess | None
    second: subprocess.CompletedProcess
    not_whole: list[str]
    code: int
    wrong: list[str]


@pytest.fixture(scope="module")
def bids(phantom_dataset: Callable[..., Path], tmp_path_factory) -> Path:
    """A phantom's FLAIR: it takes a run through all that is written, and the other contrasts only cost time."""
    folder, other = tmp_path_factory.mktemp("bids"), ("*_T1w.nii.gz", "*_T2w.nii.gz", "*_Chimap.nii.gz")
    return shutil.copytree(phantom_dataset(11), folder, ignore=shutil.ignore_patterns(*other), dirs_exist_ok=True)


@pytest.fixture(scope="module")
def undisturbed(bids, tmp_path_factory) -> Undisturbed:
    """Without network where that can be had."""
    out, offline, began = tmp_path_factory.mktemp("undisturbed"), _without_network(), perf_counter()
    assert start(bids, out, *ALONE, prefix=offline or ()).wait() == 0
    return Undisturbed(out, digests(out), perf_counter() - began, offline)


@pytest.fixture(scope="module")
def disturbed(bids, undisturbed, tmp_path_factory) -> Iterator[Disturbed]:
    out, pipes = tmp_path_factory.mktemp("disturbed"), {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    truth, full_disk, not_whole = undisturbed.truth, None, []
    with_small_disk = _mount(out, "size=8M")
    if with_small_disk:
        full_disk = _ended(start(bids, out, *ALONE, **pipes))
        not_whole += differences(out, truth, complete=False)
        subprocess.run(["mount", "-o", "remount,size=1G", out], check=True)
        PHANTOM.reason_file(out).unlink()
    first = start(bids, out, *ALONE)
    _wait_for(lambda: (failure_reason(PHANTOM, out) or "").startswith("did not end"))
    second = _ended(start(bids, out, *ALONE, **pipes))
    assert first.poll() is None
    time.sleep(random.uniform(0, 0.4 * undisturbed.seconds))
    first.kill()
    first.wait()
    delays = [random.uniform(0.2, 0.6) * undisturbed.seconds]
    not_whole += kill_again(bids, out, *ALONE, delays=delays, truth=truth)
    code = start(bids, out, *ALONE).wait()
    yield Disturbed(full_disk, second, not_whole, code, differences(out, truth, complete=True))
    if with_small_disk:
        subprocess.run(["umount", "--lazy", out], check=True)


def test_no_network_is_needed(undisturbed):
    if undisturbed.offline is None:
        pytest.skip("no right to make a network namespace")
    inside = subprocess.run([*undisturbed.offline, "cat", "/proc/net/dev"], capture_output=True, text=True, check=True)
    assert [line.split(":")[0].strip() for line in inside.stdout.splitlines()[2:]] == ["lo"]
    assert "sub-phantom/anat/sub-phantom_space-orig_label-L_mask.nii.gz" in undisturbed.truth


def test_a_full_disk_is_told_on_one_line(disturbed):
    if disturbed.full_disk is None:
        pytest.skip("no right to mount a small disk")
    assert (disturbed.full_disk.returncode, disturbed.full_disk.stdout) == (2, "")
    [line] = disturbed.full_disk.stderr.splitlines()
    assert line.startswith("msrim: error: ") and "No space left on device" in line


def test_a_second_run_in_the_same_folder_says_so_and_stops(disturbed):
    assert (disturbed.second.returncode, disturbed.second.stdout) == (2, "")
    [line] = disturbed.second.stderr.splitlines()
    assert line.endswith("sub-phantom: another msrim run is working here; wait for it to end")


def test_nothing_is_half_written_and_the_end_is_that_of_an_undisturbed_run(disturbed):
    assert (disturbed.not_whole, disturbed.code, disturbed.wrong) == ([], 0, [])


def test_results_pass_the_bids_validator(undisturbed, bids_errors):
    assert bids_errors(undisturbed.out) == ""


def test_a_phantom_beside_a_broken_patient(bids, undisturbed):
    """A row for both, and what is done already is not done again."""
    out, broken = undisturbed.out, bids / "sub-broken" / "anat"
    # The patient's page is put together anew with the cohort's.
    results = [*(out / "sub-phantom").rglob("*.gz"), *(out / "sub-phantom").rglob("report.html")]
    before = {path: path.stat().st_mtime_ns for path in results}
    broken.mkdir(parents=True)
    try:
        (broken / "sub-broken_FLAIR.nii.gz").write_text("hello")
        visits = find_cohort(bids, validate=False)
        with pytest.raises(MsrimError, match=r"1 of 2 steps failed.*sub-broken_FLAIR.nii.gz: not a NIfTI image"):
            cohort.run_cohort(visits, Recipe(), out, console=QUIET)
        summarise_group(visits, out, console=QUIET)
    finally:
        shutil.rmtree(bids / "sub-broken")
    header, *lines = (out / "cohort.tsv").read_text(encoding="utf-8").splitlines()
    broken_row, phantom = (dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines)
    assert broken_row["reason"].startswith("segment: ") and phantom["reason"] == "n/a"
    assert 1000 < float(phantom["brain_ml"]) < 2000 and int(phantom["lesions"]) > 5
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("pages", [1, 2, 4, 6, 8, 11, 14, 16])
def test_wherever_the_disk_gets_full_it_is_told_and_mended(tmp_path, pages):
    """From Nipype's own files to the result, which is there after 17 pages of 4 KiB."""
    if not _mount(tmp_path, f"size={4 * pages}k"):
        pytest.skip("no right to mount a small disk")
    try:
        (tmp_path / "number.txt").write_text("4")
        with pytest.raises(OutputError, match="No space left on device"):
            run_steps.sum_up(tmp_path)
        assert not (tmp_path / "out" / "result.txt").exists()
        subprocess.run(["mount", "-o", "remount,size=4M", tmp_path], check=True)
        sums, _ = run_steps.sum_up(tmp_path)
        assert sums.result.read_text() == "9"
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


@pytest.fixture
def three(tmp_path) -> Path:
    """Three patients whose images are empty files."""
    for label in "123":
        (tmp_path / "bids" / f"sub-{label}" / "anat").mkdir(parents=True)
        (tmp_path / "bids" / f"sub-{label}" / "anat" / f"sub-{label}_FLAIR.nii.gz").touch()
    return tmp_path / "bids"


def test_a_killed_run_leaves_nobody_behind(three, tmp_path):
    """Workers that live on would keep the next run out."""
    command = [sys.executable, "-c", SLEEPER, three, tmp_path / "out"]
    first = subprocess.Popen([*command, "2"])
    _wait_for(lambda: (failure_reason(Task("segment", "2", None), tmp_path / "out") or "").startswith("did not end"))
    first.kill()
    first.wait()
    subprocess.run([*command, "nobody"], check=True, timeout=300)
    assert not list((tmp_path / "out" / "logs").glob("*.json"))


def test_a_killed_task_stops_nobody(three, tmp_path, monkeypatch):
    """As the system kills what needs too much memory."""

    def segment(subject, *_: object, **__: object) -> None:
        if subject.label == "2":
            signal.raise_signal(signal.SIGKILL)

    monkeypatch.setattr(patient, "segment_subject", segment)
    monkeypatch.setattr(cohort, "_limit_threads", lambda threads: None)
    visits = [Visit(label, None, three / f"sub-{label}") for label in "123"]
    with pytest.raises(
        MsrimError, match="1 of 3 steps failed, the others are done; sub-2_segment: did not end: killed"
    ):
        cohort.run_cohort(
            visits, Recipe(), tmp_path / "out", console=QUIET, plugin=cohort.Plugin("MultiProc", {"n_procs": 2})
        )
    assert [path.name for path in (tmp_path / "out" / "logs").glob("*.json")] == ["sub-2_segment.json"]


def _without_network() -> list[str] | None:
    """What to put before a command so that it runs in a network namespace without interfaces."""
    for prefix in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        if shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0:
            return prefix
    return None


def _mount(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    return bool(shutil.which("mount")) and subprocess.run(command, capture_output=True).returncode == 0


def _ended(run: subprocess.Popen) -> subprocess.CompletedProcess:
    stdout, stderr = run.communicate(timeout=600)
    return subprocess.CompletedProcess(run.args, run.returncode, stdout, stderr)


def _wait_for(happened: Callable[[], bool], *, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"waited {seconds:g} s in vain"
        time.sleep(0.2)
