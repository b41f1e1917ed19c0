"""The command line passes on what it is given and keeps stdout for the result."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from msrim import __version__
from msrim.cli.main import OWN_PROCESS, PANELS, app
from msrim.errors import InputError
from msrim.image import Volume, write_volume
from msrim.recipe import Recipe

runner = CliRunner()


@pytest.fixture
def calls(monkeypatch) -> list:
    """Put a recorder in the place of the workflows."""
    calls = []

    def record(subject, recipe, out, *, console):
        calls.append((subject, recipe, out))
        console.say("working")
        return out / "mask.nii.gz"

    for module, function in (("segment", "segment_subject"), ("anatomy", "preprocess_subject")):
        workflow = ModuleType(f"msrim.workflows.{module}")
        setattr(workflow, function, record)
        monkeypatch.setitem(sys.modules, workflow.__name__, workflow)
    return calls


@pytest.fixture
def patient(tmp_path) -> Path:
    folder = tmp_path / "sub-7"
    folder.mkdir()
    for name in ("FLAIR.nii.gz", "T1w.nii.gz"):
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("command", ["segment", "preprocess"])
def test_subject_folder_and_defaults(command, calls, patient, tmp_path):
    shown = runner.invoke(app, [command, str(patient), "--out", str(tmp_path / "out")])
    assert (shown.exit_code, shown.stdout, shown.stderr) == (0, f"{tmp_path}/out/mask.nii.gz\n", "working\n")
    [(subject, recipe, out)] = calls
    assert (subject.label, list(subject.contrasts)) == ("7", ["FLAIR", "T1w"])
    assert (recipe, out) == (Recipe(), tmp_path / "out")


def test_files_options_and_recipe(calls, patient, tmp_path):
    (tmp_path / "mine.toml").write_text('device = "cuda"\nthreshold = 0.3\n')
    arguments = ["segment", "--flair", f"{patient}/FLAIR.nii.gz", "--t1", f"{patient}/T1w.nii.gz", "--out", "out"]
    options = ["--model", "other", "--backend", "fsl", "--device", "cpu", "--brain-extracted"]
    shown = runner.invoke(app, [*arguments, *options, "--recipe", str(tmp_path / "mine.toml"), "--quiet"])
    assert (shown.exit_code, shown.stdout, shown.stderr) == (0, "out/mask.nii.gz\n", "")
    [(subject, recipe, _)] = calls
    assert (subject.label, list(subject.contrasts)) == ("7", ["FLAIR", "T1w"])
    assert recipe == Recipe(model="other", backend="fsl", device="cpu", brain_extracted=True, threshold=0.3)


def test_a_model_of_ones_own_is_remembered_by_its_whole_path(calls, patient, tmp_path, monkeypatch):
    """`msrim rim-classify` and `longitudinal` look it up in run.json, from wherever they are called."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert runner.invoke(app, ["segment", str(patient), "--model", "mine+scp"]).exit_code == 0
    [(_, recipe, _)] = calls
    assert recipe == Recipe(model=f"{tmp_path / 'mine'}+scp")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no FLAIR; give a subject folder or --flair"),
        (["--t1", "T1w.nii"], "no FLAIR; give a subject folder or --flair"),
        (["nobody"], "nobody: no such folder"),
        (["nobody", "--flair", "x.nii"], "nobody: give either a subject folder or --flair, --t1, --t2, not both"),
    ],
)
def test_unclear_subjects(arguments, message, calls):
    shown = runner.invoke(app, ["segment", "--out", "out", *arguments])
    assert shown.exit_code == 2
    assert shown.stdout == ""
    [line] = shown.stderr.splitlines()
    assert line.startswith("msrim: error: ")
    assert line.endswith(message)
    assert calls == []


def test_errors_are_one_line_and_bugs_keep_their_traceback(monkeypatch, calls, patient):
    def fail(*_, **__):
        raise InputError("x.nii: two\nlines; mend it")

    monkeypatch.setattr(sys.modules["msrim.workflows.segment"], "segment_subject", fail)
    shown = runner.invoke(app, ["segment", str(patient), "--out", "out"])
    assert (shown.exit_code, shown.stderr) == (2, "msrim: error: x.nii: two lines; mend it\n")

    def break_down(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(sys.modules["msrim.workflows.segment"], "segment_subject", break_down)
    shown = runner.invoke(app, ["segment", str(patient), "--out", "out"])
    assert (shown.exit_code, type(shown.exception)) == (1, ZeroDivisionError)


@pytest.mark.parametrize("arguments", [["segment", "x"], ["segment", "--colour", "red"], ["fly"]])
def test_wrong_usage(arguments):
    shown = runner.invoke(app, arguments)
    assert (shown.exit_code, shown.stdout) == (2, "")


def test_the_help_groups_commands_and_shows_the_usual_lines():
    shown = runner.invoke(app, ["--help"], terminal_width=80).stdout
    for line in (
        "msrim run sub-12 --out results",
        "msrim segment sub-12/ses-01 --out results",
        "msrim longitudinal sub-12/ses-01 sub-12/ses-02 --out results",
        "msrim rim-classify sub-12/ses-01 --out results",
        "msrim cohort BIDS_DIR OUT_DIR participant",
    ):
        assert f"    {line}\n" in shown
    headings = [line.removesuffix(":") for line in shown.splitlines() if line.endswith(":") and line[0] != " "]
    assert headings == ["Options", *PANELS]
    commands = shown[shown.index(PANELS[0]) :]
    names = re.findall(r"^  (\w[\w-]*)  ", commands, flags=re.MULTILINE)
    assert sorted(names) == sorted(get_command(app).commands)
    assert "..." not in commands


@pytest.mark.parametrize("command", ["segment", "preprocess", "rim-classify"])
def test_what_may_be_left_out_stands_in_brackets_once(command):
    shown = runner.invoke(app, [command, "--help"]).stdout
    assert shown.splitlines()[0].endswith(f" {command} [OPTIONS] [SUBJECT]")
    assert "[[" not in shown


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("msrim se", ["segment"]),
        ("msrim simulate rim", ["rim-cohort"]),
        ("msrim segment --brain", ["--brain-extracted"]),
        ("msrim segment --backend f", ["fsl"]),
    ],
)
def test_shells_complete(line, expected):
    words = line.split()
    environment = {"_MSRIM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    assert runner.invoke(app, [], prog_name="msrim", env=environment).stdout.split() == expected


def test_version():
    assert runner.invoke(app, ["--version"]).stdout == f"msrim {__version__}\n"


def test_evaluate_segmentation(tmp_path):
    truth, prediction = np.zeros((10, 10, 10), bool), np.zeros((10, 10, 10), bool)
    truth[2:4, 2:4, 2:4] = True
    prediction[2:4, 2:4, 2:3] = True
    files = {
        name: write_volume(Volume(data, np.eye(4)), tmp_path / f"{name}.nii.gz")
        for name, data in {"truth": truth, "prediction": prediction}.items()
    }
    paths = ["--truth", str(files["truth"]), "--prediction", str(files["prediction"])]
    metrics = json.loads(runner.invoke(app, ["evaluate", "segmentation", *paths]).stdout)
    assert metrics["dice"] == pytest.approx(2 * 4 / 12)
    assert (metrics["ppv"], metrics["tpr"], metrics["l_f1"]) == (1.0, 0.5, 1.0)
    assert (metrics["truth_volume_mm3"], metrics["truth_lesions"]) == (8.0, 1)
    metrics = json.loads(runner.invoke(app, ["evaluate", "segmentation", *paths, "--min-volume-mm3", "9"]).stdout)
    assert metrics["truth_lesions"] == 0


def test_models_lists_every_network():
    lines = runner.invoke(app, ["models"]).stdout.splitlines()
    assert any(line.startswith("allnet@") and "FLAIR [T1w] [T2w]" in line for line in lines)


def test_doctor_finds_this_machine_fit():
    shown = runner.invoke(app, ["doctor"])
    assert shown.exit_code == 0, shown.stdout
    states = {line.split(maxsplit=1)[0] for line in shown.stdout.splitlines()}
    assert "ok" in states
    assert "broken" not in states
    assert "python:" in shown.stdout


def test_doctor_says_what_is_broken(monkeypatch):
    from msrim.workflows import doctor

    monkeypatch.setattr(doctor, "package_versions", lambda: {"python": "3.11", "antspyx": "missing"})
    shown = runner.invoke(app, ["doctor"])
    assert shown.exit_code == 2
    assert "broken   antspyx: not installed; install msrim again with `make`" in shown.stdout


def test_the_command_line_gives_torch_large_pages():
    code = (
        "import os, sys\nfrom msrim.cli.main import main\nsys.argv = ['msrim', '--version']\n"
        "try: main()\nexcept SystemExit: print(os.environ.get('THP_MEM_ALLOC_ENABLE'), 'torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.splitlines()[-1] == "1 False"


@pytest.mark.parametrize(
    ("command", "process", "kept"), [("segment", OWN_PROCESS, 1), ("cohort", OWN_PROCESS, 0), ("segment", None, 0)]
)
def test_commands_keep_freed_memory_but_not_for_patients_side_by_side(command, process, kept, monkeypatch):
    calls = []
    monkeypatch.setattr("msrim.cli.main.keep_freed_memory", lambda: calls.append(command))
    assert runner.invoke(app, [command], obj=process).exit_code == 2  # without arguments
    assert len(calls) == kept


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_freed_memory_is_kept_for_what_comes_next():
    """Thirty arrays of 50 MB one after the other: where memory is kept, pages are cleared for the first alone."""
    faults = []
    for first in ("", "from msrim.cli.main import keep_freed_memory; keep_freed_memory();"):
        code = (
            f"import resource; import numpy as np; {first}"
            "count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt; before = count();"
            "any(np.ones(50_000_000, np.uint8)[0] > 1 for _ in range(30)); print(count() - before)"
        )
        faults.append(int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout))
    assert faults[1] < faults[0] / 5


@pytest.mark.parametrize("arguments", [("segment", ""), ("segment", "sub-1", "--out="), ("run", "sub-1", "--out", "")])
def test_an_empty_argument_is_no_path(arguments):
    shown = runner.invoke(app, [*arguments])
    assert shown.exit_code == 2 and shown.stderr.startswith("msrim: error: an argument is empty")


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_stream_wants_nothing(closed):
    number = {"stdout": 1, "stderr": 2}[closed]
    shown = subprocess.run(
        [sys.executable, "-m", "msrim", "segment", "sub-none"], capture_output=True, preexec_fn=lambda: os.close(number)
    )
    assert shown.returncode == 2 and (b"no such folder" in shown.stderr) == (closed == "stdout")


def test_a_full_disk_behind_stdout_is_told():
    with open("/dev/full", "w") as full:
        shown = subprocess.run(
            [sys.executable, "-m", "msrim", "models"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert shown.returncode == 2
    assert shown.stderr == "msrim: error: what is printed cannot be written: No space left on device\n"


def test_a_current_folder_that_is_gone_is_told(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    shown = CliRunner().invoke(app, ["segment", "sub-1"])
    assert shown.exit_code == 2 and shown.stderr.startswith(
        "msrim: error: the current folder: No such file or directory"
    )
