"""Lesions that somebody has corrected: whose they are, how they are stored elsewhere, what is measured on them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner
from visits import hashes, segmented_visit
from volumes import LPS, OBLIQUE, pose

from msrim.bids import LESIONS, Subject
from msrim.cli.main import app
from msrim.errors import InputError
from msrim.files import sha256_of, write_json
from msrim.image import Volume, read_labels, read_volume, write_volume
from msrim.lesions.measure import summarise
from msrim.workflows.anatomy import AnatomyFiles
from msrim.workflows.corrected import check_correction, number_corrected, write_corrected
from msrim.workflows.correction import Correction, find_correction, read_correction
from msrim.workflows.segment import LesionFiles, Lesions, Probabilities
from msrim.workflows.view.correction import save_correction
from msrim.workflows.view.results import find_results

SHAPE, AFFINE = (40, 44, 30), pose(OBLIQUE @ LPS, (4.0, 4.0, 5.0), origin_mm=(80.0, 88.0, -70.0))
# Voxels; the first two touch, so that as a mask they are one.
BOXES = (np.s_[14:18, 20:24, 12:15], np.s_[18:22, 20:23, 12:15], np.s_[24:27, 28:31, 16:18])


def lesions(*numbers: int) -> np.ndarray:
    data = np.zeros(SHAPE, np.uint8)
    for number in numbers:
        data[BOXES[number - 1]] = number
    return data


def egg() -> np.ndarray:
    i, j, k = (np.indices(SHAPE).T - (np.array(SHAPE) - 1) / 2).T
    return (i / 16) ** 2 + (j / 19) ** 2 + (k / 12) ** 2 < 1


@pytest.fixture
def visit(tmp_path, monkeypatch) -> tuple[Subject, Path]:
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).normal(0, 10, SHAPE)
    flair = Volume(np.where(egg(), 100 + noise + 60 * (lesions(1, 2, 3) > 0), 0).astype(np.float32), AFFINE)
    return segmented_visit(tmp_path, flair, lesions(1, 3) > 0, brain=egg())


def saved(data: np.ndarray, path: Path, *, axes: str | None = None, affine: np.ndarray = AFFINE) -> Path:
    image = nib.Nifti1Image(data, affine)
    if axes is not None:
        turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes))
        image = image.as_reoriented(turn)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)
    return path


def numbered(visit: tuple[Subject, Path], path: Path) -> Volume:
    """Checked as `segment --lesions` does, and numbered."""
    subject, out = visit
    correction = read_correction(path)
    check_correction(correction, subject, out)
    brain = subject.output(out, "space-orig_desc-brain_mask.nii.gz")
    sphere = write_volume(read_volume(brain, mask=True).like(np.zeros(SHAPE, np.float32)), Path("flat.nii"))
    flair = subject.contrasts["FLAIR"]
    return read_labels(number_corrected(flair, correction=correction, brain=brain, sphere=sphere))


@pytest.mark.parametrize("axes", [None, "RAS", "PSR", "LIA"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_masks_of_other_programs_are_taken_in_any_order_of_axes(visit, tmp_path, axes, dtype):
    """ITK-SNAP, FSLeyes and 3D Slicer store other types, and other orders of the axes."""
    found = numbered(visit, saved(lesions(1, 3).astype(dtype) // 1, tmp_path / "by-hand.nii.gz", axes=axes))
    np.testing.assert_array_equal(found.data > 0, lesions(1, 3) > 0)
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-4)


def test_numbers_stay_and_a_mask_is_taken_apart(visit, tmp_path):
    """As labels two lesions that touch are two; as one mask they are one."""
    labels = np.choose(lesions(1, 2, 3), [0, 4, 9, 7]).astype(np.int16)
    found = numbered(visit, saved(labels, tmp_path / "labels.nii.gz"))
    np.testing.assert_array_equal(found.data, labels)
    found = numbered(visit, saved((labels > 0).astype(np.uint8) * 255, tmp_path / "mask.nii"))
    assert np.unique(found.data).tolist() == [0, 1, 2]


def test_an_empty_mask_is_an_answer(visit, tmp_path):
    assert not numbered(visit, saved(lesions(), tmp_path / "nothing.nii.gz")).data.any()


def test_what_is_measured_is_what_was_drawn(visit, tmp_path):
    subject, out = visit
    folder = subject.folder(out) / "corrected"
    before = hashes(out)
    path = saved(lesions(2, 3), tmp_path / "by-hand.nii.gz")
    names = subject.outputs(out, LESIONS)
    anatomy = AnatomyFiles(Path(), Path(), Path(), subject.output(out, "space-orig_desc-head_dseg.nii.gz"), {})
    instances = write_volume(numbered(visit, path), Path("instances.nii"))
    found = Lesions(Probabilities(Path(), Path(), Path()), 0.5, LesionFiles(**names), [])
    written = write_corrected(
        subject, instances=instances, correction=Correction(path, "by hand"), anatomy=anatomy, found=found,
        model="hand@1", folder=folder,
    )  # fmt: skip
    sizes = sorted((np.count_nonzero(lesions(number)) * 80.0 for number in (2, 3)), reverse=True)
    assert [row.volume_mm3 for row in written.rows] == pytest.approx(sizes)
    # The network had not found the first, and was sure of the other.
    assert [row.mean_probability for row in written.rows] == pytest.approx([0, 0.9], abs=1e-3)
    summary = json.loads(written.files.summary.read_text())
    assert summary.items() >= summarise(written.rows).items()
    assert summary["corrected"]["Lesions"] == str(path) and summary["corrected"]["Note"] == "by hand"
    sidecar = json.loads(written.files.mask_sidecar.read_text())
    assert sidecar["Manual"] is True and sidecar["Note"] == "by hand"
    np.testing.assert_array_equal(read_volume(written.files.mask, mask=True).data, lesions(2, 3) > 0)
    after = hashes(out)
    assert {name: after[name] for name in before} == before


# What cannot be this visit's.


def shifted() -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, 3] += 9
    return affine


@pytest.mark.parametrize(
    ("name", "data", "affine", "why"),
    [
        ("mask.nii.gz", lesions(1, 3), shifted(), "different grids"),
        ("mask.nii.gz", lesions(1, 3)[:-1], AFFINE, "different grids"),
        ("sub-other_mask.nii.gz", lesions(1, 3), AFFINE, "is of patient sub-other by its name, not of sub-egg"),
        ("sub-other/anat/mask.nii.gz", lesions(1, 3), AFFINE, "is of patient sub-other by its name"),
        ("mask.nii.gz", np.roll(lesions(1), (-14, -20, -12), (0, 1, 2)), AFFINE, "outside the FLAIR's brain"),
        ("mask.nii.gz", np.roll(lesions(1, 3), 9, axis=2), AFFINE, "is brighter on the FLAIR"),
        ("mask.nii.gz", egg().astype(np.uint8), AFFINE, "marks 100 % of the brain, which no lesions do"),
        ("mask.nii.gz", lesions(1, 3) * np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.float32), AFFINE, "no mask"),
        ("mask.txt", None, AFFINE, "not a NIfTI image"),
    ],
)
def test_a_mask_of_something_else_is_refused_in_one_line(visit, tmp_path, name, data, affine, why):
    subject, out = visit
    path = tmp_path / "given" / name
    if data is None:
        path.parent.mkdir(parents=True)
        path.write_text("x" * 1000)
    else:
        saved(data, path, affine=affine)
    before = hashes(out)
    shown = CliRunner().invoke(
        app, ["segment", "--flair", str(subject.contrasts["FLAIR"]), "--out", str(out), "--lesions", str(path)]
    )
    assert shown.exit_code == 2, (shown.output, shown.exception)
    [line] = shown.stderr.splitlines()
    assert line.startswith(f"msrim: error: {path}: ") and why in line
    assert hashes(out) == before


def test_a_mask_of_another_visit_is_refused(visit, tmp_path):
    subject, out = visit
    with pytest.raises(InputError, match="is of visit ses-02 by its name, not of ses-01"):
        check_correction(
            read_correction(saved(lesions(1), tmp_path / "sub-egg_ses-02_mask.nii.gz")),
            replace(subject, session="01"),
            out,
        )


def test_the_sidecar_tells_which_flair_a_mask_was_drawn_on(visit, tmp_path):
    """With it a mask of nothing bright is taken; of another FLAIR the best mask is refused."""
    subject, out = visit
    results = find_results(out)
    save_correction(results, np.roll(lesions(1, 3), 9, axis=2) > 0, note="dark, but lesions")
    correction = find_correction(subject, out)
    assert correction == Correction(results.edited["mask"], "dark, but lesions")
    check_correction(correction, subject, out)
    sidecar = json.loads(results.edited["sidecar"].read_text())
    sidecar["FLAIR"]["sha256"] = "0" * 64
    write_json(sidecar, results.edited["sidecar"])
    with pytest.raises(InputError, match="was drawn on another FLAIR"):
        check_correction(correction, subject, out)


def test_a_mask_from_elsewhere_counts_while_it_is_there_as_it_was(visit, tmp_path):
    subject, out = visit
    assert find_correction(subject, out) is None
    path = saved(lesions(1), tmp_path / "by-hand.nii.gz")
    told = subject.folder(out) / "corrected" / "run.json"
    told.parent.mkdir()
    write_json({"inputs": {"lesions": {"path": str(path), "sha256": sha256_of(path)}}}, told)
    assert find_correction(subject, out) == Correction(path, "")
    saved(lesions(2), path)
    assert find_correction(subject, out) is None
    # What the page has saved comes first.
    save_correction(find_results(out), lesions(2) > 0, note="")
    assert find_correction(subject, out).mask == find_results(out).edited["mask"]
