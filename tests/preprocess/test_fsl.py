"""The FSL backend: matrices by hand, the calls with stand-in programs, and FSL itself where it is installed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fsl_programs import BET, FAST, FLIRT, answer, arguments_of, asked
from typer.testing import CliRunner

from msrim.cli.main import app
from msrim.errors import BackendError
from msrim.image import Volume, write_volume
from msrim.preprocess import fsl
from msrim.preprocess.register import register_rigid
from msrim.preprocess.template import load_template, load_template_brain_mask
from msrim.workflows.doctor import examine


def shifted(x: float, y: float, z: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    return matrix


def test_matrix_between_radiological_images():
    # Voxel (i, j, k) lies at FSL (2i, 2j, 3k) and at world (90 - 2i, 2j - 126, 3k - 72).
    moving = Volume(np.zeros((91, 109, 61)), shifted(90, -126, -72) @ np.diag([-2.0, 2, 3, 1]))
    fixed = Volume(np.zeros((50, 50, 50)), shifted(30, 0, 0) @ np.diag([-1.0, 1, 1, 1]))
    found = fsl.fixed_from_flirt(shifted(5, 6, 7), moving=moving, fixed=fixed)
    # World (90, -126, -72) is FSL 0 of moving, is FSL (5, 6, 7) of fixed, is world (25, 6, 7).
    np.testing.assert_allclose(found, shifted(25 - 90, 6 + 126, 7 + 72), atol=1e-9)


def test_matrix_from_a_neurologically_stored_image():
    # Positive determinant: FSL's first axis runs backwards, so voxel i of 10 lies at FSL 2 (9 - i).
    moving = Volume(np.zeros((10, 10, 10)), np.diag([2.0, 2, 2, 1]))
    fixed = Volume(np.zeros((10, 10, 10)), np.diag([-1.0, 1, 1, 1]))
    found = fsl.fixed_from_flirt(np.eye(4), moving=moving, fixed=fixed)
    # World x = 2i is FSL 18 - x, which in fixed is world x' = -(18 - x).
    np.testing.assert_allclose(found, shifted(-18, 0, 0), atol=1e-9)


@pytest.fixture
def image() -> Volume:
    data = np.random.default_rng(2).random((12, 12, 12)).astype(np.float32) + 1
    return Volume(data, np.diag([-1.0, 1, 1, 1]))


@pytest.fixture
def shown() -> Callable[..., tuple[int, list[str]]]:
    """Exit code of a command, and its lines on stderr."""

    def run(*arguments: object) -> tuple[int, list[str]]:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return result.exit_code, result.stderr.splitlines()

    return run


def test_found_by_fsldir(stand_in):
    home = stand_in()
    assert fsl.find_fsl() == fsl.Installation(home, "6.0.7.4")


def unset(home: Path) -> str:
    return ""


def relative(home: Path) -> str:
    return "fsl"


def spaced(home: Path) -> str:
    return str(home.rename(home.with_name("my fsl")))


def without(name: str) -> Callable[[Path], str]:
    def remove(home: Path) -> str:
        (home / name).unlink()
        return str(home)

    return remove


def not_executable(home: Path) -> str:
    (home / "bin" / "bet").chmod(0o644)
    return str(home)


def nonexistent(home: Path) -> str:
    return "/nonexistent"


UNUSABLE = {
    "unset": (unset, "FSLDIR is not set"),
    "relative": (relative, "FSLDIR is fsl, which is no absolute path"),
    "with a space": (spaced, "my fsl: BET does not work in a folder with a space"),
    "no such folder": (nonexistent, "/nonexistent/bin has no bet, flirt, fast to run"),
    "without bet": (without("bin/bet"), "bin has no bet to run"),
    "without flirt": (without("bin/flirt"), "bin has no flirt to run"),
    "without fast": (without("bin/fast"), "bin has no fast to run"),
    "bet not executable": (not_executable, "bin has no bet to run"),
    "without version": (without("etc/fslversion"), "etc/fslversion: cannot be read"),
}


@pytest.mark.parametrize(("spoil", "told"), UNUSABLE.values(), ids=UNUSABLE)
def test_doctor_and_run_refuse_the_same_fsl_before_any_work(stand_in, tmp_path, image, monkeypatch, shown, spoil, told):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FSLDIR", spoil(stand_in()))
    flair = write_volume(image, tmp_path / "flair.nii.gz")
    code, lines = shown("segment", "--flair", flair, "--out", tmp_path / "out", "--backend", "fsl")
    assert code == 2
    [line] = lines
    assert line.startswith("msrim: error: ")
    assert told in line
    assert not (tmp_path / "out").exists()
    [found] = [finding for finding in examine() if finding.what == "FSL"]
    assert found.state == "missing"
    assert told in found.meaning


def test_doctor_names_the_version(stand_in):
    home = stand_in()
    [found] = [finding for finding in examine() if finding.what == "FSL"]
    assert (found.state, found.meaning) == ("ok", f"6.0.7.4 at {home}")


def bet(image: Volume) -> object:
    return fsl.extract_brain(image)


def flirt(image: Volume) -> object:
    return fsl.register_rigid(image, image)


def fast(image: Volume) -> object:
    return fsl.classify_tissue(image, image.like(image.data > 1.5))


PROGRAMS = {"bet": (bet, BET), "flirt": (flirt, FLIRT), "fast": (fast, FAST)}
ENDINGS = {
    "writes nothing, silent": ("exit 0", "ended without an error but wrote no"),
    "writes nothing, with words": ("echo unwell; exit 0", "it said: unwell"),
    "exit code, silent": ("exit 3", "failed, exit code 3; it said nothing"),
    "exit code, with words": ("echo 'no room to think' >&2; exit 1", "failed, exit code 1; it said: no room to think"),
    "words on stdout": ("echo 'no such option'; exit 1", "failed, exit code 1; it said: no such option"),
    "crash": ("kill -SEGV $$", "failed, was ended by SIGSEGV"),
}


@pytest.mark.parametrize("tool", PROGRAMS)
@pytest.mark.parametrize(("script", "told"), ENDINGS.values(), ids=ENDINGS)
def test_a_program_that_fails_is_never_believed(stand_in, image, tool, script, told):
    call, works = PROGRAMS[tool]
    stand_in(**{tool: script})
    with pytest.raises(BackendError, match=re.escape(told)) as failure:
        call(image)
    assert str(failure.value).startswith(f"{tool.upper()} of FSL ")
    assert len(str(failure.value)) < 600
    if "exit 0" not in script:
        # Not even where all its files are there.
        stand_in(**{tool: f"({works})\n{script}"})
        with pytest.raises(BackendError, match=re.escape(told)):
            call(image)


def test_words_on_stderr_are_a_failure_of_bet_alone(stand_in, image):
    """BET's script ends with status 0 where its own helpers were missing."""
    stand_in(bet=f"{BET}\necho 'bet: 1: dc: not found' >&2")
    with pytest.raises(BackendError, match="exit code 0; it said: bet: 1: dc: not found"):
        fsl.extract_brain(image)
    stand_in(flirt=f"{FLIRT}\necho 'Warning: slow' >&2")
    np.testing.assert_allclose(fsl.register_rigid(image, image), np.eye(4), atol=1e-9)


def test_a_program_that_cannot_be_started_is_told(stand_in, image):
    (stand_in() / "bin" / "bet").write_text("#!/nonexistent/sh\n")
    with pytest.raises(BackendError, match=r"BET of FSL cannot be run: .*No such file"):
        fsl.extract_brain(image)


MATRICES = {
    "empty": "",
    "three rows": "1 0 0 0\n0 1 0 0\n0 0 1 0\n",
    "zeros": "0 0 0 0\n" * 4,
    "nan": "nan nan nan nan\n" * 3 + "0 0 0 1\n",
    "infinite": "1 0 0 inf\n0 1 0 0\n0 0 1 0\n0 0 0 1\n",
    "ragged": "1 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n",
    "words": "Could not open matrix\n",
    "last row": "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 1 1\n",
}


@pytest.mark.parametrize("content", MATRICES.values(), ids=MATRICES)
@pytest.mark.parametrize("register", [fsl.register_rigid, fsl.register_affine])
def test_a_broken_matrix_is_refused(stand_in, image, register, content):
    (stand_in() / "answer").write_text(content)
    with pytest.raises(BackendError, match="FLIRT of FSL wrote a matrix that is no transform"):
        register(image, image)


@pytest.mark.parametrize(
    ("tool", "shown", "result"), [("bet", "head", "brain_mask"), ("fast", "brain", "tissue_pveseg")]
)
def test_a_truncated_result_is_the_programs_fault(stand_in, image, tool, shown, result):
    """As a full disk leaves it: no word of a damaged file of the user's."""
    call, works = PROGRAMS[tool]
    stand_in(**{tool: f"{works}\nhead -c 600 {shown}.nii.gz > {result}.nii.gz"})
    told = rf"{tool.upper()} of FSL wrote a {result}.nii.gz that cannot be used .* TMPDIR"
    with pytest.raises(BackendError, match=told) as failure:
        call(image)
    assert "copy it again" not in str(failure.value)


@pytest.mark.parametrize("tool", PROGRAMS)
def test_temporary_folder_with_a_space(stand_in, image, tmp_path, monkeypatch, tool):
    """Files are named relative to it: BET and FAST break at spaces in a path."""
    stand_in(**{tool: f'case "$*" in *" / "*|*/*) echo "unquoted $*" >&2; exit 1;; esac\n{PROGRAMS[tool][1]}'})
    (tmp_path / "with space").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "with space"))
    PROGRAMS[tool][0](image)
    assert not list((tmp_path / "with space").iterdir())


ENDED = """
import signal, sys
from pathlib import Path
from msrim.cli.main import end_on_sigterm
from msrim.image import read_volume
from msrim.preprocess import fsl
end_on_sigterm()
# A shell that starts tests in the background lets them ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
fsl.extract_brain(read_volume(Path(sys.argv[1])))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_a_run_that_is_ended_leaves_no_program_and_no_folder(stand_in, image, tmp_path, number, code):
    """BET is a script: what it started ends as well."""
    home = stand_in(bet='sleep 300 & echo $! > "$FSLDIR/child"; wait')
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    flair = write_volume(image, tmp_path / "flair.nii.gz")
    run = subprocess.Popen(
        [sys.executable, "-c", ENDED, flair], env={**os.environ, "TMPDIR": str(temporary)}, stderr=subprocess.DEVNULL
    )
    child = home / "child"
    wait_until(lambda: child.is_file() and child.read_text().strip())
    assert list(temporary.iterdir())
    run.send_signal(number)
    assert run.wait(timeout=120) == code
    wait_until(lambda: not is_running(child.read_text().strip()))
    assert not list(temporary.iterdir())


def is_running(process: str) -> bool:
    """An ended one stays in the table until the system's first process looks at it."""
    try:
        return Path("/proc", process, "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_bet_mask_comes_back_on_the_same_grid(stand_in, image):
    home = stand_in(bet=f'[ "$FSLOUTPUTTYPE" = NIFTI_GZ ] && {BET}')
    mask = fsl.extract_brain(image)
    assert arguments_of(home, "bet") == ["head.nii.gz", "brain.nii.gz", "-m", "-R"]
    assert mask.data.dtype == bool
    assert mask.data.all()
    np.testing.assert_array_equal(mask.affine, image.affine)


@pytest.mark.parametrize("masked", [False, True], ids=["whole heads", "brains"])
@pytest.mark.parametrize(("register", "dof"), [(fsl.register_rigid, 6), (fsl.register_affine, 12)])
def test_flirt_is_asked_for_images_without_weights(stand_in, image, register, dof, masked):
    """Masks as weights make FLIRT's search end where the brains do not meet: it gets blanked images instead."""
    home = stand_in()
    fixed = Volume(image.data + 5, image.affine)
    masks = {"moving_mask": image.like(image.data > 1.5), "fixed_mask": image.like(image.data > 1.2)} if masked else {}
    answer(home, shifted(3, -2, 1), moving=image, fixed=fixed)
    np.testing.assert_allclose(register(image, fixed, **masks), shifted(3, -2, 1), atol=1e-6)
    given = arguments_of(home, "flirt")
    assert dict(zip(given[::2], given[1::2], strict=True)) == {
        "-in": "moving.nii.gz",
        "-ref": "fixed.nii.gz",
        "-out": "moved.nii.gz",
        "-omat": "matrix.txt",
        "-cost": "normmi",
        "-searchcost": "normmi",
        "-dof": str(dof),
    }
    for name, given in (("moving", image), ("fixed", fixed)):
        expected = np.where(masks[f"{name}_mask"].data, given.data, 0) if masked else given.data
        np.testing.assert_array_equal(nib.load(asked(home) / f"{name}.nii.gz").get_fdata(dtype=np.float32), expected)


def test_fast_labels(stand_in, image):
    home = stand_in()
    brain = image.like(image.data > 1.5)
    labels = fsl.classify_tissue(image, brain).data
    assert arguments_of(home, "fast") == ["-t", "1", "-n", "3", "-o", "tissue", "-S", "1", "brain.nii.gz"]
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {0, 2}
    np.testing.assert_array_equal(labels > 0, brain.data)


def test_nothing_is_written_into_fsldir(stand_in, image):
    """It may be read-only, and it is everybody's."""
    home = stand_in()
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    folders = [home, *(path for path in home.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        for call, _ in PROGRAMS.values():
            call(image)
        assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before
    finally:
        for folder in folders:
            folder.chmod(0o755)


@pytest.mark.parametrize("chosen", ["NIFTI", "NIFTI_PAIR", "ANALYZE"])
def test_the_users_output_type_does_not_matter(stand_in, image, monkeypatch, chosen):
    stand_in(**{name: f'[ "$FSLOUTPUTTYPE" = NIFTI_GZ ] || exit 1\n{works}' for name, (_, works) in PROGRAMS.items()})
    monkeypatch.setenv("FSLOUTPUTTYPE", chosen)
    for call, _ in PROGRAMS.values():
        call(image)


FAILURES = {
    "bet exits 3 with words": {"bet": "echo 'no head' >&2; exit 3"},
    "bet crashes inside": {"bet": "sh -c 'kill -SEGV $$'; echo 'bet2: Segmentation fault' >&2"},
    "bet writes nothing": {"bet": "exit 0"},
}


@pytest.mark.parametrize("scripts", FAILURES.values(), ids=FAILURES)
def test_a_failed_run_ends_in_one_line_and_leaves_no_results(stand_in, image, tmp_path, shown, monkeypatch, scripts):
    stand_in(**scripts)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    large = Volume(np.tile(image.data, (3, 3, 3)), np.diag([-2.0, 2, 2, 1]))
    flair = write_volume(large, tmp_path / "in put" / "flair.nii.gz")
    out = tmp_path / "out put"
    code, lines = shown("segment", "--flair", flair, "--out", out, "--backend", "fsl", "--quiet")
    assert code == 2
    [line] = lines
    assert line.startswith("msrim: error: BET of FSL ")
    assert len(line) < 600
    [visit] = out.iterdir()
    assert {path.name for path in visit.iterdir()} == {"work", "logs"}
    # Nipype's own report of a crash would lie beside it.
    assert [path.name for path in (visit / "logs").iterdir()] == ["nipype.log"]
    assert not list(temporary.iterdir())


@pytest.mark.skipif("FSLDIR" not in os.environ, reason="FSL is not installed: FSLDIR is not set")
def test_both_backends_agree_on_a_rigid_pair():
    template, brain = load_template(), load_template_brain_mask()
    away = shifted(6, -9, 4)
    moved = Volume(template.data, away @ template.affine)
    masks = {"moving_mask": Volume(brain.data, moved.affine), "fixed_mask": brain}
    middle = np.append(template.affine[:3] @ np.append(np.argwhere(brain.data).mean(axis=0), 1), 1)
    for register in (fsl.register_rigid, register_rigid):
        error = register(moved, template, **masks) @ away
        # A millimetre in the middle of the brain and a degree: what backends must agree by.
        assert np.linalg.norm(error @ middle - middle) < 1
        assert np.degrees(np.arccos(np.clip((np.trace(error[:3, :3]) - 1) / 2, -1, 1))) < 1
