"""Whole datasets: who is run in which order, what a failure does to the others, and what the group's tables tell."""

from __future__ import annotations

import csv
import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
from nipype.pipeline.plugins.multiproc import MultiProcPlugin
from typer.testing import CliRunner

from msrim.cli.main import app
from msrim.console import Console
from msrim.errors import InputError, MsrimError, OutputError
from msrim.files import locked
from msrim.image import Volume, write_volume
from msrim.recipe import Recipe
from msrim.report.cohort import Row, mark_outliers, robust_z
from msrim.transform import write_transform
from msrim.workflows import patient
from msrim.workflows.cohort import participants as cohort
from msrim.workflows.cohort.group import summarise_group
from msrim.workflows.cohort.participants import run_cohort
from msrim.workflows.cohort.processes import Processes
from msrim.workflows.cohort.tasks import Task, Visit, failure_reason, find_cohort, tasks_of
from tests.preprocess.test_identity import BRAIN, person, scanned

QUIET = Console(quiet=True)
runner = CliRunner()


def add_visit(bids: Path, participant: str, session: str | None = None, *, qsm: bool = False) -> None:
    folder = bids / f"sub-{participant}" / (f"ses-{session}" if session else "") / "anat"
    folder.mkdir(parents=True)
    name = f"sub-{participant}" + (f"_ses-{session}" if session else "")
    (folder / f"{name}_FLAIR.nii.gz").touch()
    if qsm:
        (folder / f"{name}_Chimap.nii.gz").touch()


@pytest.fixture
def bids(tmp_path) -> Path:
    """Three patients: one visit, one visit with a QSM, two visits."""
    folder = tmp_path / "bids"
    add_visit(folder, "1")
    add_visit(folder, "2", qsm=True)
    add_visit(folder, "3", "a", qsm=True)
    add_visit(folder, "3", "b")
    (folder / "dataset_description.json").write_text("{}")
    return folder


@pytest.fixture
def calls(tmp_path, monkeypatch) -> Path:
    """Put recorders in the place of the three workflows; one line a call, also from other processes."""
    path = tmp_path / "calls"
    path.touch()

    def note(what: str, visit: str) -> None:
        with path.open("a") as stream:
            stream.write(f"{what} {visit}\n")

    def segment(subject, recipe, out, *, console):
        note("segment", f"{subject.label}{subject.session or ''}")

    def rims(subject, qsm, recipe, out, *, console, model):
        note("rims", f"{subject.label}{subject.session or ''}")

    def follow(visits, recipe, out, *, console):
        note("longitudinal", "".join(f"{visit.label}{visit.session}" for visit in visits))

    def corrected(subject, recipe, out, mask, *, console):
        note("corrected", f"{subject.label}{subject.session or ''} {mask.name}")

    monkeypatch.setattr(patient, "segment_subject", segment)
    monkeypatch.setattr(patient, "measure_corrected", corrected)
    monkeypatch.setattr(patient, "classify_rims", rims)
    monkeypatch.setattr(patient, "follow_visits", follow)
    # Loads torch, which costs every process more than all else here.
    monkeypatch.setattr(cohort, "_limit_threads", lambda threads: None)
    return path


def failing(monkeypatch, label: str, error: BaseException) -> None:
    """Make the segmentation of one patient fail."""
    works = patient.segment_subject

    def segment(subject, recipe, out, *, console):
        if subject.label == label:
            raise error
        works(subject, recipe, out, console=console)

    monkeypatch.setattr(patient, "segment_subject", segment)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_tasks_are_what_the_images_allow(bids):
    names = [task.name for task, _ in tasks_of(find_cohort(bids))]
    assert names == [
        "sub-1_segment",
        "sub-2_segment",
        "sub-2_rims",
        "sub-3_ses-a_segment",
        "sub-3_ses-b_segment",
        "sub-3_ses-a_rims",
        "sub-3_longitudinal",
    ]


def test_labels_choose(bids):
    visits = find_cohort(bids, participants=["sub-1", "3"], sessions=["ses-b"])
    assert [(visit.participant, visit.session) for visit in visits] == [("3", "b")]
    with pytest.raises(InputError, match="no sub-9 among"):
        find_cohort(bids, participants=["9"])
    with pytest.raises(InputError, match="no ses-a among"):
        find_cohort(bids, participants=["1"], sessions=["a"])


def test_a_dataset_says_so_or_is_taken_as_one(bids):
    (bids / "dataset_description.json").unlink()
    with pytest.raises(InputError, match=r"no dataset_description\.json"):
        find_cohort(bids)
    assert len(find_cohort(bids, validate=False)) == 4


@pytest.mark.parametrize("plugin", ["Linear", "MultiProc"])
def test_everything_runs_once_and_in_order(bids, calls, tmp_path, plugin):
    out = tmp_path / "out"
    run_cohort(find_cohort(bids), Recipe(), out, console=QUIET, plugin=cohort.Plugin(plugin, {"n_procs": 2}))
    lines = calls.read_text().splitlines()
    assert sorted(lines) == [
        "longitudinal 3a3b",
        "rims 2",
        "rims 3a",
        "segment 1",
        "segment 2",
        "segment 3a",
        "segment 3b",
    ]
    assert lines.index("rims 2") > lines.index("segment 2")
    assert lines.index("longitudinal 3a3b") > max(lines.index(f"{e} 3a") for e in ("segment", "rims"))
    assert not list((out / "logs").glob("*.json"))


def test_lesions_that_somebody_has_corrected_are_measured_too(bids, calls, tmp_path):
    edited = tmp_path / "out/sub-1/anat/sub-1_space-orig_label-L_desc-edited_mask.nii.gz"
    edited.parent.mkdir(parents=True)
    edited.touch()
    run_cohort(find_cohort(bids, participants=["1"]), Recipe(), tmp_path / "out", console=QUIET)
    assert calls.read_text().splitlines() == ["segment 1", f"corrected 1 {edited.name}"]


def test_one_failure_stops_nobody_and_is_told(bids, calls, tmp_path, monkeypatch):
    out = tmp_path / "out"
    failing(monkeypatch, "2", InputError("sub-2_FLAIR.nii.gz: every voxel is 0;\ngive another"))
    shown = runner.invoke(app, ["cohort", str(bids), str(out), "participant", "--quiet"])
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr.startswith("msrim: error: 2 of 7 steps failed")
    assert {"segment 1", "segment 3a", "segment 3b", "longitudinal 3a3b"} < set(calls.read_text().splitlines())
    assert "rims 2" not in calls.read_text()
    assert runner.invoke(app, ["cohort", str(bids), str(out), "group"]).exit_code == 0
    broken = rows_of(out / "cohort.tsv")[1]
    assert (broken["segment"], broken["rims"], broken["longitudinal"]) == ("failed", "failed", "n/a")
    assert broken["reason"] == "segment: sub-2_FLAIR.nii.gz: every voxel is 0; give another"
    assert broken["reason"] in (out / "cohort.html").read_text(encoding="utf-8")


def test_a_mended_patient_is_done_by_the_next_run(bids, calls, tmp_path, monkeypatch):
    with monkeypatch.context() as broken:
        failing(broken, "2", InputError("no"))
        with pytest.raises(MsrimError, match="sub-2_segment: no"):
            run_cohort(find_cohort(bids), Recipe(), tmp_path / "out", console=QUIET)
    run_cohort(find_cohort(bids), Recipe(), tmp_path / "out", console=QUIET)
    assert "rims 2" in calls.read_text()
    assert failure_reason(Task("segment", "2", None), tmp_path / "out") is None


def test_a_bug_is_told_as_one(bids, calls, tmp_path, monkeypatch):
    failing(monkeypatch, "1", ZeroDivisionError("division by zero"))
    with pytest.raises(MsrimError, match=r"sub-1_segment: ZeroDivisionError: division by zero \(a bug of msrim"):
        run_cohort(find_cohort(bids), Recipe(), tmp_path / "out", console=QUIET)
    [trace] = (tmp_path / "out" / "logs").glob("crash-*sub1*.txt")
    assert "ZeroDivisionError" in trace.read_text()


def test_ctrl_c_ends_all(bids, calls, tmp_path, monkeypatch):
    failing(monkeypatch, "1", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run_cohort(find_cohort(bids), Recipe(), tmp_path / "out", console=QUIET)
    assert calls.read_text() == ""


def test_what_a_killed_task_leaves(bids, calls, tmp_path, monkeypatch):
    """The reason lies there before the work begins."""
    out, seen = tmp_path / "out", []
    task = Task("segment", "1", None)
    monkeypatch.setattr(patient, "segment_subject", lambda *_, **__: seen.append(failure_reason(task, out)))
    run_cohort(find_cohort(bids, participants=["1"]), Recipe(), out, console=QUIET)
    assert seen == ["did not end: killed, out of memory or disk, or still at work"]


def test_a_folder_that_is_no_label_stops_no_other(bids, calls, tmp_path, capsys):
    out = tmp_path / "out"
    add_visit(bids, "1_old")
    add_visit(bids, "2 copy")
    add_visit(bids, "3", "a-repeat")
    with pytest.raises(MsrimError, match=r"3 folders were left out, the others are done; .*/sub-1_old: no name"):
        run_cohort(find_cohort(bids), Recipe(), out, console=Console())
    everything = "segment 1\nsegment 2\nrims 2\nsegment 3a\nsegment 3b\nrims 3a\nlongitudinal 3a3b\n"
    assert sorted(calls.read_text().split("\n")) == sorted(everything.split("\n"))
    notes = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert [line.split(": ")[1] for line in notes] == [
        str(bids / name) for name in ("sub-1_old", "sub-2 copy", "sub-3/ses-a-repeat")
    ]
    summarise_group(find_cohort(bids), out, console=QUIET)
    reasons = {(row["participant_id"], row["session_id"]): row["reason"] for row in rows_of(out / "cohort.tsv")}
    assert len(reasons) == 7
    for name in (("sub-1_old", "n/a"), ("sub-2 copy", "n/a"), ("sub-3", "ses-a-repeat")):
        assert reasons[name].startswith("left out: no name of BIDS")
    with pytest.raises(InputError, match=r"sub-1_old: no name of BIDS"):
        run_cohort(find_cohort(bids, participants=["1_old"]), Recipe(), out, console=QUIET)


def test_two_runs_share_a_folder_but_not_a_patient(bids, calls, tmp_path):
    out = tmp_path / "out"
    with locked(out / "work" / "sub-1"):
        with pytest.raises(OutputError, match="another msrim run is working here"):
            run_cohort(find_cohort(bids), Recipe(), out, console=QUIET)
        assert calls.read_text() == ""
        run_cohort(find_cohort(bids, participants=["2"]), Recipe(), out, console=QUIET)
    assert calls.read_text() == "segment 2\nrims 2\n"


def test_what_cannot_work_is_told_before_anything_runs(bids, calls, tmp_path):
    visits = find_cohort(bids)
    with pytest.raises(InputError, match="plugin Slurm: Nipype has none of that name"):
        run_cohort(visits, Recipe(), tmp_path / "out", console=QUIET, plugin=cohort.Plugin("Slurm"))
    with pytest.raises(InputError, match="holds the images"):
        run_cohort(visits, Recipe(), bids, console=QUIET)
    with pytest.raises(InputError, match="holds the images; choose another folder with --work-dir"):
        run_cohort(visits, Recipe(), tmp_path / "out", console=QUIET, work=bids)
    arguments = ["cohort", str(bids), str(tmp_path / "out"), "participant"]
    for given in ("[1]", "no-such-file", "{1}", '{"n_procs": "two"}', '{"memory_gb": 0}'):
        shown = runner.invoke(app, [*arguments, "--plugin-args", given])
        assert shown.exit_code == 2 and "--plugin-args" in shown.stderr
    assert not (tmp_path / "out").exists()


def test_several_labels_after_one_option(bids, calls, tmp_path):
    arguments = ["cohort", str(bids), str(tmp_path / "out"), "participant"]
    shown = runner.invoke(app, [*arguments, "--participant-label", "1", "sub-3", "--session-label", "b"])
    assert (shown.exit_code, shown.stdout) == (0, f"{tmp_path / 'out'}\n")
    assert calls.read_text() == "segment 3b\n"


def test_slurm_is_asked_for_what_the_user_has_not_set(bids):
    graph = cohort.cohort_graph(
        tasks_of(find_cohort(bids, participants=["1"])),
        Recipe(),
        bids.parent / "out",
        rim_model="datrnet",
        plugin=cohort.Plugin("SLURM", {"sbatch_args": "--mem=9G --partition=long"}),
        quiet=True,
    )
    assert graph.get_node("sub1_segment").plugin_args == {"sbatch_args": "--cpus-per-task=1 --dependency=singleton"}


def test_robust_z_by_hand():
    # Median 3, absolute deviations 2 1 0 1 7 with median 1.
    np.testing.assert_allclose(robust_z([1, 2, 3, 4, 10]), 0.6745 * np.array([-2, -1, 0, 1, 7]))
    assert not robust_z([2, 2, 2, 9]).any()


def test_outliers_need_company_and_a_scale():
    ordinary = [1.0, 1.5, 2.0, 2.5, 3.0]
    rows = [Row(f"sub-{n}", None, "done", brain_ml=1200 + n, lesion_ml=ml) for n, ml in enumerate([*ordinary, 90.0])]
    assert [row.outlier for row in mark_outliers(rows)] == ["", "", "", "", "", "lesion_ml"]
    assert not any(row.outlier for row in mark_outliers(rows[2:]))
    missing = Row("sub-9", None, "failed", reason="no FLAIR")
    assert mark_outliers([*rows, missing])[-1] == missing


def finished(visit: Visit, out: Path, *, brain_voxels: int, lesion_mm3: float) -> None:
    """What a segmentation leaves, as far as the group looks at it."""
    folder, name = visit.results(out), f"sub-{visit.participant}_ses-{visit.session}"
    brain = np.zeros((20, 20, 20), bool)
    brain.ravel()[:brain_voxels] = True
    write_volume(Volume(brain, np.diag([10.0, 10, 10, 1])), folder / f"anat/{name}_space-orig_desc-brain_mask.nii.gz")
    summary = {"lesions": 4, "volume_mm3": lesion_mm3}
    (folder / f"anat/{name}_desc-summary.json").write_text(json.dumps(summary))
    steps = [{"name": "find_lesions", "seconds": 2.5, "peak_mib": 900.0, "kept": False},
             {"name": "write", "seconds": 1.0, "peak_mib": None, "kept": False}]  # fmt: skip
    (folder / "run.json").write_text(json.dumps({"steps": steps}))
    (folder / "report.html").touch()


def test_the_group_counts_links_and_marks(tmp_path):
    bids, out = tmp_path / "bids", tmp_path / "out"
    for number in range(6):
        add_visit(bids, str(number), "a")
    visits = find_cohort(bids, validate=False)
    for number, visit in enumerate(visits[:5]):
        finished(visit, out, brain_voxels=1200 + 10 * number if number else 400, lesion_mm3=1000.0 + 100 * number)
    page = summarise_group(visits, out, console=QUIET)
    rows = rows_of(out / "cohort.tsv")
    assert [row["brain_ml"] for row in rows] == ["400.0", "1210.0", "1220.0", "1230.0", "1240.0", "n/a"]
    assert [row["outlier"] for row in rows] == ["brain_ml", "n/a", "n/a", "n/a", "n/a", "n/a"]
    assert (rows[1]["lesion_ml"], rows[1]["seconds"], rows[1]["peak_mib"]) == ("1.1", "3.5", "900.0")
    assert rows[5]["reason"] == "segment: not run"
    costs = rows_of(out / "cohort_steps.tsv")
    assert len(costs) == 10 and costs[1]["peak_mib"] == "n/a" and costs[0]["step"] == "find_lesions"
    links = re.findall(r'href="([^"]+)"', page.read_text(encoding="utf-8"))
    assert len(links) == 5 and all((out / link).is_file() for link in links)


def test_the_group_tells_of_one_brain_under_two_names(tmp_path, capsys):
    """Visit b of patient 2 is a scan of patient 1; patient 3 has never been segmented."""
    bids, out = tmp_path / "bids", tmp_path / "out"
    for participant, session in (("1", "a"), ("2", "a"), ("2", "b"), ("3", "a")):
        add_visit(bids, participant, session)
    visits = find_cohort(bids, validate=False)
    to_mni = np.eye(4)
    to_mni[:3, 3] = np.array([0, -16, 18]) - (np.array(BRAIN.shape) - 1) / 2
    for seed, (visit, who) in enumerate(zip(visits[:3], (1, 2, 1), strict=True)):
        finished(visit, out, brain_voxels=1200, lesion_mm3=1000.0)
        scan = Volume(scanned(person(who), seed).astype(np.float32), np.eye(4))
        write_volume(scan, visit.subject().contrasts["FLAIR"])
        name = f"sub-{visit.participant}_ses-{visit.session}"
        write_volume(scan.like(BRAIN), visit.results(out) / f"anat/{name}_space-orig_desc-brain_mask.nii.gz")
        xfm = visit.results(out) / "xfm"
        xfm.mkdir()
        write_transform(to_mni, xfm / f"{name}_from-FLAIR_to-MNI152NLin2009aSym_mode-image_xfm.txt")
    page = summarise_group(visits, out, console=Console())
    rows = rows_of(out / "cohort.tsv")
    assert [row["same_brain_as"] for row in rows] == ["sub-2 ses-b", "n/a", "sub-1 ses-a", "n/a"]
    told = "sub-1 ses-a and sub-2 ses-b show the same brain"
    assert told in " ".join(capsys.readouterr().err.split()) and told in page.read_text(encoding="utf-8")
    assert "shows the same brain as sub-1 ses-a" in page.read_text(encoding="utf-8")


def finished_cohort(bids: Path, out: Path, *, patients: int) -> list[Visit]:
    """Visits of a cohort whose results all lie there."""
    for number in range(patients):
        add_visit(bids, str(number), "a")
    visits = find_cohort(bids, validate=False)
    for visit in visits:
        finished(visit, out, brain_voxels=1200, lesion_mm3=1000.0)
    return visits


def test_damaged_results_of_one_visit_are_told_in_its_row(tmp_path):
    out = tmp_path / "out"
    visits = finished_cohort(tmp_path / "bids", out, patients=3)
    damaged = visits[1].results(out) / "run.json"
    damaged.write_text("{")
    reason = Task("segment", "2", "a").reason_file(out)
    reason.parent.mkdir()
    reason.write_text("[]")
    summarise_group(visits, out, console=QUIET)
    rows = rows_of(out / "cohort.tsv")
    assert [row["segment"] for row in rows] == ["done", "failed", "failed"]
    assert rows[1]["reason"].startswith(f"{damaged}: not as msrim has written it")
    assert rows[2]["reason"].startswith(f"{reason}: not as msrim has written it")


def test_the_group_takes_what_somebody_has_corrected(tmp_path):
    out = tmp_path / "out"
    visits = finished_cohort(tmp_path / "bids", out, patients=2)
    folder, name = visits[1].results(out), "sub-1_ses-a"
    (folder / f"anat/{name}_space-orig_label-L_desc-edited_mask.nii.gz").touch()
    summarise_group(visits, out, console=QUIET)
    assert rows_of(out / "cohort.tsv")[1]["reason"] == "segment: not run"
    corrected = folder / "corrected"
    (corrected / "anat").mkdir(parents=True)
    (corrected / f"anat/{name}_desc-summary.json").write_text(json.dumps({"lesions": 3, "volume_mm3": 800.0}))
    (corrected / "run.json").write_text("{}")
    (corrected / "report.html").touch()
    page = summarise_group(visits, out, console=QUIET).read_text(encoding="utf-8")
    assert [(row["lesions"], row["lesion_ml"]) for row in rows_of(out / "cohort.tsv")] == [("4", "1.0"), ("3", "0.8")]
    assert '<a href="sub-1/ses-a/corrected/report.html">corrected</a>' in page


def test_the_group_tells_rims_and_possible_ones(tmp_path):
    """Results of a version that did not tell possible ones stay as they are."""
    out = tmp_path / "out"
    for number in "01":
        add_visit(tmp_path / "bids", number, "a", qsm=True)
    visits = find_cohort(tmp_path / "bids", validate=False)
    for visit, told in zip(visits, ({"rim_possible": 3}, {}), strict=True):
        finished(visit, out, brain_voxels=1200, lesion_mm3=1000.0)
        rims = visit.results(out) / "rims"
        (rims / "anat").mkdir(parents=True)
        summary = json.dumps({"rim_lesions": 2, **told})
        (rims / f"anat/sub-{visit.participant}_ses-a_desc-summary.json").write_text(summary)
        (rims / "run.json").write_text(json.dumps({"steps": []}))
    page = summarise_group(visits, out, console=QUIET).read_text(encoding="utf-8")
    rows = rows_of(out / "cohort.tsv")
    assert [(row["rim_lesions"], row["rim_possible"]) for row in rows] == [("2", "3"), ("2", "n/a")]
    assert "<td>2</td><td>3</td>" in page


@pytest.mark.parametrize("name", ["_submit_job", "_get_result", "_taskid", "_task_obj"])
def test_nipype_still_has_what_processes_replaces(name):
    """Private names of Nipype: a version that renames them would run its own pool in silence."""
    source = inspect.getsource(MultiProcPlugin)
    assert re.search(rf"(def |self\.){name}\b", source)
    assert name in inspect.getsource(Processes)
