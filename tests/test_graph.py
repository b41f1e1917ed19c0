"""A graph finishes after being killed, repeats nothing that is valid, and tells errors as they were raised."""

from __future__ import annotations

import fcntl
import gzip
import subprocess
import sys
from pathlib import Path

import graph_steps
import pytest

from msrim.errors import InputError, OutputError


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


def test_results_come_out_by_step_and_name(folder):
    results, manifest = graph_steps.sum_up(folder)
    assert results["double"]["value"] == 8
    assert results["double"]["doubled"].read_text() == "8"
    assert results["publish"] == {"result": folder / "out" / "result.txt"}
    assert (folder / "out" / "result.txt").read_text() == "9"
    assert [step.name for step in manifest.steps] == ["double", "add_one", "publish"]
    assert not any(step.kept for step in manifest.steps)


def test_second_run_repeats_nothing_and_remembers_fallbacks(folder):
    _, first = graph_steps.sum_up(folder)
    journal(folder)
    results, second = graph_steps.sum_up(folder)
    assert journal(folder) == []
    assert results["publish"]["result"].read_text() == "9"
    assert [step.kept for step in second.steps] == [True, True, True]
    assert [step.seconds for step in second.steps] == [step.seconds for step in first.steps]
    assert second.fallbacks == ["no abacus; counting on fingers"]


def test_run_killed_in_the_middle_finishes_and_repeats_only_what_was_not_done(folder):
    (folder / "deadly").touch()
    code = "import sys, pathlib, graph_steps; graph_steps.sum_up(pathlib.Path(sys.argv[1]))"
    killed = subprocess.run([sys.executable, "-c", code, folder], cwd=Path(__file__).parent, capture_output=True)
    assert killed.returncode == -9
    assert journal(folder) == ["double", "add_one", "publish"]
    [half_file] = (folder / "out").iterdir()
    assert half_file.name.startswith(".result-partial-")
    (folder / "deadly").unlink()
    graph_steps.sum_up(folder)
    assert journal(folder) == ["publish"]
    assert [path.name for path in (folder / "out").iterdir()] == ["result.txt"]
    assert (folder / "out" / "result.txt").read_text() == "9"


def test_changed_input_is_done_again(folder):
    graph_steps.sum_up(folder)
    (folder / "number.txt").write_text("5")
    journal(folder)
    graph_steps.sum_up(folder)
    assert journal(folder) == ["double", "add_one", "publish"]
    assert (folder / "out" / "result.txt").read_text() == "11"


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("")], ids=["deleted", "emptied"])
def test_damaged_result_is_made_again_alone(folder, damage):
    graph_steps.sum_up(folder)
    damage(folder / "out" / "result.txt")
    journal(folder)
    graph_steps.sum_up(folder)
    assert journal(folder) == ["publish"]
    assert (folder / "out" / "result.txt").read_text() == "9"


def test_other_code_invalidates(folder, monkeypatch):
    graph_steps.sum_up(folder)
    journal(folder)
    monkeypatch.setattr("msrim.workflows.graph._code_version", lambda: "0.2.0+other")
    graph_steps.sum_up(folder)
    assert journal(folder) == ["double", "add_one", "publish"]


@pytest.mark.parametrize(
    ("function", "error", "text"),
    [
        (graph_steps.refuse, InputError, "number.txt: not the number that anybody wanted; give another"),
        (graph_steps.break_down, ZeroDivisionError, "a bug"),
        (graph_steps.interrupt, KeyboardInterrupt, ""),
    ],
)
def test_errors_come_out_as_they_were_raised(folder, function, error, text):
    with pytest.raises(error) as caught:
        graph_steps.run_alone(function, folder)
    assert type(caught.value) is error
    assert str(caught.value) == text


def test_values_that_cannot_be_hashed_are_refused(folder):
    with pytest.raises(TypeError, match="not object; write it to a file"):
        graph_steps.run_alone(graph_steps.give_object, folder)


def test_stdout_stays_empty_and_stderr_tells_each_step(folder, capfd):
    graph_steps.sum_up(folder)
    out, err = capfd.readouterr()
    assert out == ""
    assert [line.split(":")[0] for line in err.splitlines()] == ["note", "double", "add one", "publish"]


def test_what_libraries_and_programs_print_goes_to_the_log(folder):
    # In a process of its own: pytest stands between print and stdout.
    code = "import sys, pathlib, graph_steps as g; g.run_alone(g.chatter, pathlib.Path(sys.argv[1])); print('result')"
    done = subprocess.run(
        [sys.executable, "-c", code, folder], cwd=Path(__file__).parent, check=True, capture_output=True
    )
    assert done.stdout == b"result\n"
    log = (folder / "logs" / "nipype.log").read_text()
    assert "a program talks" in log
    assert "a library talks" in log


def test_second_run_at_the_same_time_is_refused(folder):
    (folder / "work").mkdir()
    with (folder / "work" / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another msrim run is working here"):
            graph_steps.sum_up(folder)


def test_environment_is_not_stored_beside_results(folder, monkeypatch):
    monkeypatch.setenv("A_SECRET", "correct-horse-battery-staple")
    graph_steps.sum_up(folder)
    stored = [gzip.decompress(path.read_bytes()) for path in (folder / "work").rglob("*.pklz")]
    assert stored
    assert not any(b"correct-horse" in content for content in stored)
