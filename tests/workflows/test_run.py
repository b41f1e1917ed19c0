"""A run finishes after being killed, repeats nothing that is valid, and tells errors as they were raised."""

from __future__ import annotations

import fcntl
import gzip
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import run_steps

from msrim.console import Console
from msrim.errors import InputError, OutputError
from msrim.files import write_text
from msrim.workflows.run import Run
from tests.benchmarks.backends import share_steps

STEPS = Path(run_steps.__file__).parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "number.txt").write_text("4")
    return tmp_path


def journal(folder: Path) -> list[str]:
    """Calls since the last look."""
    path = folder / "journal.txt"
    calls = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return calls


def test_results_are_what_the_steps_return(folder):
    sums, manifest = run_steps.sum_up(folder)
    assert (sums.doubled.value, sums.doubled.file.read_text()) == (8, "8")
    assert sums.doubled.file.is_absolute()
    assert sums.result == folder / "out" / "result.txt"
    assert sums.result.read_text() == "9"
    assert [step.name for step in manifest.steps] == ["double", "add_one", "publish"]
    assert not any(step.kept for step in manifest.steps)


def test_second_run_repeats_nothing_and_remembers_fallbacks(folder):
    _, first = run_steps.sum_up(folder)
    journal(folder)
    sums, second = run_steps.sum_up(folder)
    assert journal(folder) == []
    assert sums.result.read_text() == "9"
    assert [step.kept for step in second.steps] == [True, True, True]
    assert [step.seconds for step in second.steps] == [step.seconds for step in first.steps]
    assert second.remarks == second.fallbacks == ["no abacus; counting on fingers"]


def test_fallbacks_and_doubts_are_told_and_kept_apart(folder):
    for _ in range(2):
        told = run_steps.told_by(run_steps.suspect, folder)
        assert told.remarks == ["no abacus; counting on fingers", "six fingers on one hand"]
        assert (told.fallbacks, told.doubts) == (told.remarks[:1], told.remarks[1:])


def test_run_killed_in_the_middle_finishes_and_repeats_only_what_was_not_done(folder):
    (folder / "deadly").touch()
    code = "import sys, pathlib, run_steps; run_steps.sum_up(pathlib.Path(sys.argv[1]))"
    killed = subprocess.run([sys.executable, "-c", code, folder], cwd=STEPS, capture_output=True)
    assert killed.returncode == -9
    assert journal(folder) == ["double", "add_one", "publish"]
    [half_file] = (folder / "out").iterdir()
    assert half_file.name.startswith(".result-partial-")
    (folder / "deadly").unlink()
    run_steps.sum_up(folder)
    assert journal(folder) == ["publish"]
    assert [path.name for path in (folder / "out").iterdir()] == ["result.txt"]
    assert (folder / "out" / "result.txt").read_text() == "9"


def test_another_run_starts_from_the_steps_of_one_that_did_the_same_work(folder, tmp_path):
    """As the benchmark of backends has it: what lies elsewhere under the same name is the same work."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "number.txt").write_text((folder / "number.txt").read_text())
    run_steps.told_by(run_steps.suspect, folder)
    share_steps(folder / "work", other / "work")
    [step] = run_steps.told_by(run_steps.suspect, other).steps
    assert step.kept
    (other / "number.txt").write_text("5")
    [step] = run_steps.told_by(run_steps.suspect, other).steps
    assert not step.kept


def test_changed_input_is_done_again(folder):
    run_steps.sum_up(folder)
    (folder / "number.txt").write_text("5")
    journal(folder)
    run_steps.sum_up(folder)
    assert journal(folder) == ["double", "add_one", "publish"]
    assert (folder / "out" / "result.txt").read_text() == "11"


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("")], ids=["deleted", "emptied"])
def test_damaged_result_is_made_again_alone(folder, damage):
    run_steps.sum_up(folder)
    damage(folder / "out" / "result.txt")
    journal(folder)
    run_steps.sum_up(folder)
    assert journal(folder) == ["publish"]
    assert (folder / "out" / "result.txt").read_text() == "9"


def test_other_code_invalidates(folder, monkeypatch):
    run_steps.sum_up(folder)
    journal(folder)
    monkeypatch.setattr("msrim.workflows.run._code_version", lambda: "0.2.0+other")
    run_steps.sum_up(folder)
    assert journal(folder) == ["double", "add_one", "publish"]


@pytest.mark.parametrize(
    ("function", "error", "text"),
    [
        (run_steps.refuse, InputError, "number.txt: not the number that anybody wanted; give another"),
        (run_steps.break_down, ZeroDivisionError, "a bug"),
        (run_steps.interrupt, KeyboardInterrupt, ""),
    ],
)
def test_errors_come_out_as_they_were_raised(folder, function, error, text):
    with pytest.raises(error) as caught:
        run_steps.run_alone(function, folder)
    assert type(caught.value) is error
    assert str(caught.value) == text


def test_values_that_cannot_be_hashed_are_refused(folder):
    with pytest.raises(TypeError, match="not object; write it to a file"):
        run_steps.run_alone(run_steps.give_object, folder)


def test_stdout_stays_empty_and_stderr_tells_each_step(folder, capfd):
    run_steps.sum_up(folder)
    out, err = capfd.readouterr()
    assert out == ""
    assert [line.split(":")[0] for line in err.splitlines()] == ["note", "double", "add one", "publish"]


@pytest.mark.parametrize(("asked", "used"), [("auto", "embedded"), ("fsl", "fsl 6.0.7.4"), ("ants", "ants 0.6.3")])
def test_the_backend_is_told_and_recorded(tmp_path, stand_in, capfd, asked, used):
    """What "auto" chose too."""
    stand_in()
    with Run(tmp_path / "out", Console(), recipe={"backend": asked}, inputs={}) as run:
        assert run.prepared_by(asked) == used
        told = json.loads(run.write_manifest([]).read_text(encoding="utf-8"))
    assert f"backend: {used}" in capfd.readouterr().err.splitlines()
    assert (told["recipe"]["backend"], told["backend"]) == (asked, used)
    program = {"fsl": "FSL", "ants": "antspyx"}.get(asked)
    assert program is None or told["versions"][program] == used.split()[1]


def test_what_libraries_and_programs_print_goes_to_the_log(folder):
    # In a process of its own: pytest stands between print and stdout.
    code = "import sys, pathlib, run_steps as g; g.run_alone(g.chatter, pathlib.Path(sys.argv[1])); print('result')"
    done = subprocess.run([sys.executable, "-c", code, folder], cwd=STEPS, check=True, capture_output=True)
    assert done.stdout == b"result\n"
    log = (folder / "logs" / "nipype.log").read_text()
    assert "a program talks" in log
    assert "a library talks" in log


def test_second_run_at_the_same_time_is_refused(folder):
    (folder / "work").mkdir()
    with (folder / "work" / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another msrim run is working here"):
            run_steps.sum_up(folder)


def test_others_are_kept_out_until_run_json_is_written(folder):
    """Of two runs that end together the later one would hash what the first is still writing."""
    run = Run(folder, Console(quiet=True), recipe={}, inputs={})
    with run:
        page = run(run_steps.publish, write_text("9", folder / "sum.txt"), folder=folder)
        with pytest.raises(OutputError, match="another msrim run is working here"):
            run_steps.sum_up(folder)
        written = run.write_manifest([page])
    assert "out/result.txt" in written.read_text()
    run_steps.sum_up(folder)


def test_environment_is_not_stored_beside_results(folder, monkeypatch):
    monkeypatch.setenv("A_SECRET", "correct-horse-battery-staple")
    run_steps.sum_up(folder)
    stored = [gzip.decompress(path.read_bytes()) for path in (folder / "work").rglob("*.pklz")]
    assert stored
    assert not any(b"correct-horse" in content for content in stored)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_memory_that_a_step_freed_is_given_back_when_it_ends(folder):
    """300 MB, freed: the process keeps them without a step, and not after one."""
    code = f"""
import numpy as np, os
from pathlib import Path
from statistics import mean
from msrim.cli.main import keep_freed_memory
from msrim.console import Console
from msrim.workflows.run import Run
resident_mb = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
keep_freed_memory()
with Run(Path({str(folder)!r}), Console(quiet=True), recipe={{}}, inputs={{}}) as run:
    run.step("warm_up", mean, [1])
    np.ones(300_000_000, np.uint8)
    without = resident_mb()
    run.step("average", mean, [1, 2])
    within = resident_mb()
print(without - within)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(told.stdout) > 250
