"""Whatever a user may give by mistake ends in one clear line and exit code 2, and nothing is written."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from msrim.cli.main import app
from msrim.models.registry import CARDS, WEIGHTS, read_card

SHAPE = (32, 32, 24)
AFFINE = np.diag([6.0, 6.0, 6.0, 1.0])
NOISE = np.random.default_rng(0).random(SHAPE, np.float32)


def save(data: np.ndarray, path: Path, *, affine: np.ndarray = AFFINE) -> Path:
    nib.Nifti1Image(data, affine).to_filename(path)
    return path


def moved(*, x_mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] = x_mm
    return affine


def save_two_poses(path: Path) -> None:
    image = nib.Nifti1Image(NOISE, AFFINE)
    image.set_sform(AFFINE, code=1)
    image.set_qform(moved(x_mm=20), code=1)
    image.to_filename(path)


def truncate(path: Path) -> None:
    content = save(NOISE, path).read_bytes()
    path.write_bytes(content[: len(content) // 2])


# What stands in place of the FLAIR, and what the line must say.
BAD_FLAIRS = {
    "missing": (lambda path: path.unlink(missing_ok=True), "no such file"),
    "text": (lambda path: path.write_text("hello"), "not a NIfTI image"),
    "text in gzip": (lambda path: path.write_bytes(gzip.compress(b"hello")), "not a NIfTI image"),
    "truncated gzip": (truncate, "damaged or truncated"),
    "4-D": (lambda path: save(np.stack([NOISE] * 2, -1), path), "has 4 dimensions"),
    "all zeros": (lambda path: save(np.zeros_like(NOISE), path), "every voxel is 0"),
    "NaN": (lambda path: save(np.where(NOISE > 0.1, NOISE, np.nan), path), "NaN or infinite"),
    "Inf": (lambda path: save(np.where(NOISE > 0.1, NOISE, np.inf), path), "NaN or infinite"),
    "two poses": (save_two_poses, "qform and sform place the image 20.0 mm apart"),
    "one slice": (lambda path: save(NOISE[..., :1], path), "only 1 slice(s)"),
    "a folder": (lambda path: path.mkdir(), "no such file"),
}


@pytest.fixture
def patient(tmp_path) -> Path:
    folder = tmp_path / "patient"
    folder.mkdir()
    save(NOISE, folder / "FLAIR.nii.gz")
    save(NOISE, folder / "T1w.nii.gz")
    return folder


def refused(*arguments: object, out: Path, naming: object) -> str:
    """Run msrim; return the one line that it must give."""
    shown = CliRunner().invoke(app, [*map(str, arguments), "--out", str(out)])
    assert shown.exit_code == 2, shown.output
    assert shown.stdout == ""
    [line] = shown.stderr.splitlines()
    assert line.startswith("msrim: error: ")
    assert str(naming) in line
    assert not out.is_dir()
    return line


@pytest.mark.parametrize("command", ["segment", "preprocess"])
@pytest.mark.parametrize(("make", "message"), BAD_FLAIRS.values(), ids=BAD_FLAIRS)
def test_bad_flair(command, make, message, tmp_path):
    flair = tmp_path / "FLAIR.nii.gz"
    make(flair)
    assert message in refused(command, "--flair", flair, out=tmp_path / "out", naming=flair)


def test_bad_second_contrast(patient, tmp_path):
    truncate(patient / "T1w.nii.gz")
    line = refused("segment", patient, out=tmp_path / "out", naming=patient / "T1w.nii.gz")
    assert "damaged or truncated" in line


def test_contrasts_of_heads_of_different_size(patient, tmp_path):
    save(NOISE, patient / "T1w.nii.gz", affine=AFFINE @ np.diag([0.4, 0.4, 0.4, 1.0]))
    line = refused("segment", patient, out=tmp_path / "out", naming=patient / "T1w.nii.gz")
    assert "FLAIR.nii.gz" in line
    assert "not one head" in line


def test_contrasts_beside_each_other(patient, tmp_path):
    save(NOISE, patient / "T1w.nii.gz", affine=moved(x_mm=500))
    line = refused("segment", patient, out=tmp_path / "out", naming=patient / "FLAIR.nii.gz")
    assert "lie beside each other" in line


def test_no_flair(patient, tmp_path):
    (patient / "FLAIR.nii.gz").unlink()
    assert "no FLAIR" in refused("segment", patient, out=tmp_path / "out", naming=patient)


def test_no_subject(tmp_path):
    refused("segment", tmp_path / "nobody", out=tmp_path / "out", naming="nobody: no such folder")


def test_output_is_a_file(patient, tmp_path):
    (tmp_path / "taken").write_text("mine")
    for out in (tmp_path / "taken", tmp_path / "taken" / "deeper"):
        refused("segment", patient, out=out, naming=f"{tmp_path}/taken: is a file, not a folder")
    assert (tmp_path / "taken").read_text() == "mine"


def test_output_on_a_read_only_file_system(patient):
    refused("segment", patient, out=Path("/proc/msrim-out"), naming="/proc: cannot be written")


def test_simulate_into_a_file(tmp_path):
    (tmp_path / "taken").touch()
    refused("simulate", "subject", out=tmp_path / "taken", naming="is a file, not a folder")


def test_unknown_model(patient, tmp_path):
    line = refused("segment", patient, "--model", "skynet", out=tmp_path / "out", naming="skynet")
    assert "allnet" in line


@pytest.mark.parametrize("model", ["head", "datrnet"])
def test_model_for_something_else(patient, tmp_path, model):
    refused("segment", patient, "--model", model, out=tmp_path / "out", naming="finds no lesions")


def test_models_that_cannot_decide_together(patient, tmp_path):
    refused("segment", patient, "--model", "allnet+head", out=tmp_path / "out", naming="head@")
    refused("segment", patient, "--model", "allnet+skynet", out=tmp_path / "out", naming="skynet: no such model")


def test_model_that_needs_more_than_is_there(patient, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    card = (CARDS / "allnet.toml").read_text(encoding="utf-8")
    (model / "card.toml").write_text(card.replace('required = ["FLAIR"]', 'required = ["FLAIR", "T2w"]'), "utf-8")
    shutil.copy(WEIGHTS / "allnet.safetensors", model / "weights.safetensors")
    needs = f"no T2w beside it, which {read_card('allnet').label} needs"
    refused("segment", patient, "--model", model, out=tmp_path / "out", naming=needs)


def test_bad_recipe(patient, tmp_path):
    (tmp_path / "r.toml").write_text("treshold = 0.4\n")
    refused(
        "segment", patient, "--recipe", tmp_path / "r.toml", out=tmp_path / "out", naming="r.toml: treshold: unknown"
    )


def test_damaged_weights(patient, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    shutil.copy(CARDS / "allnet.toml", model / "card.toml")
    content = bytearray((WEIGHTS / "allnet.safetensors").read_bytes())
    content[-1] ^= 1
    (model / "weights.safetensors").write_bytes(content)
    line = refused("segment", patient, "--model", model, out=tmp_path / "out", naming=model / "weights.safetensors")
    assert "damaged" in line


def test_evaluate_on_different_grids(tmp_path):
    truth, prediction = save(NOISE, tmp_path / "a.nii.gz"), save(NOISE[:-1], tmp_path / "b.nii.gz")
    shown = CliRunner().invoke(
        app, ["evaluate", "segmentation", "--truth", str(truth), "--prediction", str(prediction)]
    )
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert "different grids" in shown.stderr
