"""What can be wrong with several visits, told before anything is written; and how lesions come onto a visit's grid."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner
from volumes import LPS, OBLIQUE, pose

from msrim.cli.main import app
from msrim.errors import Remark
from msrim.image import Volume, labels_on_grid, write_volume
from msrim.transform import write_transform
from msrim.workflows.changes import register_to_midway
from msrim.workflows.longitudinal import check_visits, find_visits, visit_date

NOISE = np.random.default_rng(0).random((32, 32, 24), np.float32)


def make_visit(folder: Path, *, name: str = "FLAIR", sidecar: dict | None = None, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    data = np.random.default_rng(seed).random((32, 32, 24), np.float32)
    nib.save(nib.Nifti1Image(data, np.diag([6.0, 6.0, 6.0, 1.0])), folder / f"{name}.nii.gz")
    if sidecar is not None:
        (folder / f"{name}.json").write_text(json.dumps(sidecar))
    return folder


def refused(tmp_path: Path, *visits: Path) -> str:
    run = CliRunner().invoke(app, ["longitudinal", *map(str, visits), "--out", str(tmp_path / "out")])
    assert run.exit_code == 2
    assert not (tmp_path / "out").exists()
    (line,) = run.stderr.strip().splitlines()
    return line


def test_visits_keep_their_sessions_or_are_numbered(tmp_path):
    bids = [make_visit(tmp_path / f"sub-7/ses-{s}/anat", name=f"sub-7_ses-{s}_FLAIR") for s in ("a", "b")]
    assert [(v.label, v.session) for v in find_visits(bids)] == [("7", "a"), ("7", "b")]
    plain = [make_visit(tmp_path / name) for name in ("before", "after")]
    assert [(v.label, v.session) for v in find_visits(plain)] == [("before", "01"), ("before", "02")]
    files = [folder / "FLAIR.nii.gz" for folder in plain]
    assert [v.contrasts["FLAIR"] for v in find_visits(files)] == files


def test_one_visit_is_not_enough(tmp_path):
    assert "one visit is not enough" in refused(tmp_path, make_visit(tmp_path / "only"))


def test_the_same_file_twice(tmp_path):
    one = make_visit(tmp_path / "one")
    (tmp_path / "link").symlink_to(one)
    assert "given as two visits" in refused(tmp_path, one, one)
    assert "given as two visits" in refused(tmp_path, one, tmp_path / "link")


def test_a_copy_is_told_but_compared(tmp_path):
    visits = find_visits([make_visit(tmp_path / "one"), make_visit(tmp_path / "two")])
    (note,) = check_visits(visits)
    assert "byte for byte" in note and str(visits[1].contrasts["FLAIR"]) in note
    assert check_visits(find_visits([tmp_path / "one", make_visit(tmp_path / "three", seed=1)])) == []


def test_a_visit_without_flair(tmp_path):
    line = refused(tmp_path, make_visit(tmp_path / "one"), make_visit(tmp_path / "two", name="T1w"))
    assert "no FLAIR" in line and "two" in line


def test_a_damaged_second_visit_is_found_before_the_first_is_worked_on(tmp_path):
    one, two = make_visit(tmp_path / "one"), make_visit(tmp_path / "two", seed=1)
    (two / "FLAIR.nii.gz").write_bytes((two / "FLAIR.nii.gz").read_bytes()[:5000])
    assert "damaged" in refused(tmp_path, one, two)


@pytest.mark.parametrize(
    "dates",
    [
        ({"AcquisitionDateTime": "2020-05-02T08:00:00"}, {"AcquisitionDateTime": "2019-11-30T09:00:00"}),
        ({"AcquisitionDate": "20200502"}, {"StudyDate": "2020-05-01"}),
        ({"AcquisitionDateTime": "2020-05-02T08:00:00"}, {"AcquisitionDateTime": "2020-05-02T07:59:00"}),
    ],
)
def test_visits_in_the_wrong_order(tmp_path, dates):
    one, two = (make_visit(tmp_path / str(k), sidecar=sidecar, seed=k) for k, sidecar in enumerate(dates))
    assert "order of time" in refused(tmp_path, one, two)
    assert [v.session for v in find_visits([two, one])] == ["01", "02"]


def test_a_day_without_time_is_not_before_the_same_day_with_time(tmp_path):
    one = make_visit(tmp_path / "one", sidecar={"AcquisitionDateTime": "2020-05-02T08:00:00"})
    assert find_visits([one, make_visit(tmp_path / "two", sidecar={"AcquisitionDate": "20200502"})])


def test_dates_of_a_bids_session(tmp_path):
    anat = make_visit(tmp_path / "sub-1/ses-2/anat", name="sub-1_ses-2_FLAIR")
    table = tmp_path / "sub-1/ses-2/sub-1_ses-2_scans.tsv"
    table.write_text(
        "filename\tacq_time\nanat/sub-1_ses-2_T1w.nii.gz\tn/a\nanat/sub-1_ses-2_FLAIR.nii.gz\t1877-06-15T13:45:30\n"
    )
    assert visit_date(anat / "sub-1_ses-2_FLAIR.nii.gz") == "18770615134530"
    assert visit_date(make_visit(tmp_path / "plain") / "FLAIR.nii.gz") == ""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("FLAIR.json", b"{"),
        ("FLAIR.json", b"[1, 2]"),
        ("FLAIR.json", b"null"),
        ("FLAIR.json", '{"InstitutionName": "Universit\u00e4t", "AcquisitionDate": "20200502"}'.encode("latin-1")),
        ("FLAIR.json", b"[" * 100_000),
        ("sub-1_scans.tsv", "filename\tacq_time\nFLAIR.nii.gz\tf\u00fcnf\n".encode("latin-1")),
        ("sub-1_scans.tsv", b"filename\tacq_time\n\x00\t" + b"x" * 200_000),
    ],
    ids=["cut", "list", "null", "Latin-1 JSON", "deep", "Latin-1 table", "long field"],
)
def test_text_that_cannot_be_read_is_told_and_the_run_goes_on(tmp_path, name, content):
    """Only a date is looked for there."""
    one = make_visit(tmp_path / "sub-1" / "one")
    path = one / name if name.endswith("json") else one.parent / name
    path.write_bytes(content)
    with pytest.warns(Remark, match=f"{name}: cannot be read"):
        assert visit_date(one / "FLAIR.nii.gz") == ""
    (note,) = check_visits(find_visits([one, make_visit(tmp_path / "two", seed=1)]))
    assert note.startswith(f"{path}: ") and "the date of the visit is not known" in note


def test_hidden_twins_of_tables_and_dates_that_are_none(tmp_path):
    one = make_visit(tmp_path / "sub-1" / "one", sidecar={"AcquisitionDate": ["x"], "SeriesDate": "01/02/2020"})
    (one.parent / "._sub-1_scans.tsv").write_bytes(bytes(range(256)))
    (one.parent / "sub-1_scans.tsv").write_text("filename\tacq_time\n\nfoo\none/FLAIR.nii.gz\tunknown\textra\n")
    assert visit_date(one / "FLAIR.nii.gz") == ""


def test_a_model_that_finds_no_lesions(tmp_path):
    one, two = make_visit(tmp_path / "one"), make_visit(tmp_path / "two", seed=1)
    run = CliRunner().invoke(
        app, ["longitudinal", str(one), str(two), "--out", str(tmp_path / "out"), "--model", "head"]
    )
    assert run.exit_code == 2 and "its task is head" in run.stderr


def egg(stretch: float) -> np.ndarray:
    i, j, k = np.indices((40, 40, 40)) - 19.5
    return np.maximum(18 - np.sqrt(i**2 + stretch * (j - i / 4) ** 2 + 3 * k**2), 0).astype(np.float32)


@pytest.mark.parametrize(("stretch", "warned"), [(2.0, False), (3.2, True)], ids=["same", "another"])
def test_another_patient_s_brain_is_told(stretch, warned, tmp_path, monkeypatch, recwarn):
    monkeypatch.chdir(tmp_path)
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    flairs, brains = [], []
    for name, image in (("baseline", egg(2.0)), ("followup", egg(stretch))):
        flairs.append(write_volume(Volume(image, affine), tmp_path / f"in_{name}.nii"))
        brains.append(write_volume(Volume(image > 0, affine), tmp_path / f"in_{name}_brain.nii"))
    mni = write_transform(np.eye(4), tmp_path / "mni.txt")
    # The affine could stretch one egg to the other: what is asked is whether scanners' length scales could.
    quality = register_to_midway(tuple(flairs), brains=tuple(brains), to_mni=(mni, mni)).quality
    told = [warning for warning in recwarn if issubclass(warning.category, Remark)]
    assert bool(told) == warned
    assert (quality["brain_overlap"] < 0.95) == warned


def test_lesions_on_thick_oblique_slices_keep_their_place_and_volume():
    labels = np.zeros((60, 60, 60), np.int32)
    labels[10:30, 12:30, 14:30], labels[40:50, 40:50, 40:50], labels[20:21, 50:51, 20:21] = 1, 2, 3
    source = Volume(labels, np.eye(4))
    affine = pose(OBLIQUE @ LPS, (0.9, 0.9, 3.0), origin_mm=(65.0, 75.0, -10.0))
    target = Volume(np.zeros((90, 90, 30), np.float32), affine)
    found = labels_on_grid(source, target, target_from_source=np.eye(4))
    for number, size in ((1, 20 * 18 * 16), (2, 1000)):
        voxels = np.argwhere(found.data == number)
        centre = affine[:3, :3] @ voxels.mean(axis=0) + affine[:3, 3]
        assert len(voxels) * target.voxel_volume_mm3 == pytest.approx(size, rel=0.06)
        np.testing.assert_allclose(centre, np.argwhere(labels == number).mean(axis=0), atol=0.3)
    assert 1 <= (found.data == 3).sum() <= 4  # 1 mm3 in voxels of 2.4 mm3 is not lost
