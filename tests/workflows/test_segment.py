"""The whole run, as a user sees it: a phantom patient's raw files in, results out."""

from __future__ import annotations

import csv
import doctest
import html
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from chromium import chromium
from scipy import ndimage
from typer.testing import CliRunner
from visits import serving

import msrim
from msrim.bids import Subject, find_subject
from msrim.cli.main import app
from msrim.console import Console
from msrim.evaluation.metrics import segmentation_metrics
from msrim.files import sha256_of
from msrim.image import Volume, read_volume, write_volume
from msrim.models.registry import CARDS, read_card
from msrim.recipe import Recipe
from msrim.workflows.anatomy import preprocess_subject, reorient
from msrim.workflows.segment import fixed_threshold, for_slices, segment_subject
from msrim.workflows.view.results import find_results

QUIET = Console(quiet=True)
GOLDEN = [
    "anat/sub-phantom_desc-lesions.json",
    "anat/sub-phantom_desc-lesions.tsv",
    "anat/sub-phantom_desc-summary.json",
    "anat/sub-phantom_space-orig_desc-brain_mask.nii.gz",
    "anat/sub-phantom_space-orig_desc-head_dseg.nii.gz",
    "anat/sub-phantom_space-orig_dseg.nii.gz",
    "anat/sub-phantom_space-orig_dseg.tsv",
    "anat/sub-phantom_space-orig_label-L_desc-network_probseg.json",
    "anat/sub-phantom_space-orig_label-L_desc-network_probseg.nii.gz",
    "anat/sub-phantom_space-orig_label-L_mask.json",
    "anat/sub-phantom_space-orig_label-L_mask.nii.gz",
    "anat/sub-phantom_space-orig_label-L_probseg.json",
    "anat/sub-phantom_space-orig_label-L_probseg.nii.gz",
    "anat/sub-phantom_space-orig_seg-lesions_dseg.nii.gz",
    "anat/sub-phantom_space-orig_seg-lesions_dseg.tsv",
    "report.html",
    "run.json",
    "xfm/sub-phantom_from-FLAIR_to-MNI152NLin2009aSym_mode-image_xfm.txt",
    "xfm/sub-phantom_from-T1w_to-FLAIR_mode-image_xfm.txt",
    "xfm/sub-phantom_from-T2w_to-FLAIR_mode-image_xfm.txt",
]


@pytest.fixture(scope="module")
def phantom(phantom_dataset: Callable[..., Path]) -> Path:
    return phantom_dataset(11) / "sub-phantom"


@pytest.fixture(scope="module")
def results(phantom, tmp_path_factory) -> Path:
    """Folder of the phantom's results."""
    out = tmp_path_factory.mktemp("out")
    segment_subject(find_subject(phantom), Recipe(), out, console=QUIET)
    return out / "sub-phantom"


def anat(results: Path, suffix: str) -> Path:
    return results / "anat" / f"sub-phantom_{suffix}"


def volume_ml(path: Path) -> float:
    mask = read_volume(path, mask=True)
    return mask.data.sum() * mask.voxel_volume_mm3 / 1000


def test_the_files_are_those_that_the_readme_lists(results):
    made = [path for path in results.rglob("*") if path.is_file() and path.relative_to(results).parts[0] in
            ("anat", "xfm", "report.html", "run.json")]  # fmt: skip
    assert sorted(path.relative_to(results).as_posix() for path in made) == sorted(GOLDEN)


def test_results_lie_on_the_flairs_own_grid_exactly(phantom, results):
    flair = nib.load(phantom / "anat" / "sub-phantom_FLAIR.nii.gz")
    for suffix in ("label-L_mask", "label-L_probseg", "seg-lesions_dseg", "desc-brain_mask", "dseg"):
        image = nib.load(anat(results, f"space-orig_{suffix}.nii.gz"))
        assert image.shape == flair.shape
        np.testing.assert_array_equal(image.affine, flair.affine)


def test_lesions_are_found_and_lie_in_the_brain(phantom, results):
    """A phantom is easier than a patient: this catches a broken chain, not a weak network."""
    truth = phantom.parent / "derivatives" / "truth" / "sub-phantom" / "anat"
    lesions = read_volume(anat(results, "space-orig_label-L_mask.nii.gz"), mask=True)
    found = segmentation_metrics(read_volume(truth / "sub-phantom_space-orig_label-L_mask.nii.gz", mask=True), lesions)
    assert found["dice"] > 0.4
    brain = read_volume(anat(results, "space-orig_desc-brain_mask.nii.gz"), mask=True)
    assert not (lesions.data & ~brain.data).any()
    overlap = segmentation_metrics(
        read_volume(truth / "sub-phantom_space-orig_desc-brain_mask.nii.gz", mask=True), brain
    )
    assert overlap["dice"] > 0.93


def test_table_instances_mask_and_summary_agree(results):
    rows = rows_of(anat(results, "desc-lesions.tsv"))
    instances = read_volume(anat(results, "space-orig_seg-lesions_dseg.nii.gz"))
    mask = read_volume(anat(results, "space-orig_label-L_mask.nii.gz"), mask=True)
    summary = json.loads(anat(results, "desc-summary.json").read_text(encoding="utf-8"))
    counts = np.bincount(instances.data.astype(int).ravel())[1:]
    assert len(rows) == len(counts) == summary["lesions"] > 5
    np.testing.assert_array_equal(instances.data > 0, mask.data)
    volumes = np.array([float(row["volume_mm3"]) for row in rows])
    np.testing.assert_allclose(volumes, counts * mask.voxel_volume_mm3, atol=1e-3)
    assert sum(volumes) == pytest.approx(summary["volume_mm3"], abs=1e-6)
    assert volumes.min() >= Recipe().min_lesion_mm3
    assert summary["use"] == "research use only"


def threshold_of(results: Path) -> float:
    """As the mask's sidecar tells it; summary, mask and probability agree with it."""
    threshold = json.loads(anat(results, "space-orig_label-L_mask.json").read_text(encoding="utf-8"))["Threshold"]
    assert json.loads(anat(results, "desc-summary.json").read_text(encoding="utf-8"))["threshold"] == threshold
    mask = read_volume(anat(results, "space-orig_label-L_mask.nii.gz"), mask=True).data
    likely = read_volume(anat(results, "space-orig_label-L_probseg.nii.gz")).data >= threshold
    assert not (mask & ~likely).any() and mask.sum() > 0.8 * likely.sum()
    assert f"<dd>{threshold:.3g}</dd>" in (results / "report.html").read_text(encoding="utf-8")
    return threshold


@pytest.mark.parametrize("function", [msrim.segment, msrim.rim_classify, msrim.run, msrim.longitudinal])
def test_the_examples_of_the_documentation(function, phantom, results):
    """Those of ``import msrim`` run here, where a phantom is segmented already."""
    names = {"phantom": phantom, "results": results.parent}
    examples = [test for test in doctest.DocTestFinder().find(function, globs=names) if test.examples]
    told: list[str] = []
    for test in examples:
        doctest.DocTestRunner().run(test, out=told.append)
    assert examples and not told, "".join(told)


def test_thick_slices_have_models_of_their_own(tmp_path):
    """One model finds the lesions of all visits of a patient; a model that the user names is left alone."""
    visits = {}
    for slice_mm in (1.0, 3.0, 6.4):
        image = np.random.default_rng(0).uniform(0, 100, (64, 64, 12)).astype(np.float32)
        flair = write_volume(Volume(image, np.diag([2.0, 2.0, slice_mm, 1])), tmp_path / f"{slice_mm}_FLAIR.nii")
        visits[slice_mm] = Subject("01", None, {"FLAIR": flair})
    assert for_slices(Recipe(), visits[1.0]) == Recipe()
    assert for_slices(Recipe(), visits[3.0]).model == "allnet-thick+scp-thick"
    thick = for_slices(Recipe(), visits[6.4])
    assert thick.model == "allnet-thick+scp-thick"
    assert for_slices(Recipe(), *visits.values()) == for_slices(thick, visits[3.0]) == thick
    assert for_slices(Recipe(model="coactseg"), visits[6.4]).model == "coactseg"
    own = tmp_path / "own"
    own.mkdir()
    shutil.copy(CARDS / "allnet.toml", own / "card.toml")
    assert for_slices(Recipe(model=str(own)), visits[6.4]).model == str(own)
    card = read_card(thick.model)
    assert [fixed_threshold(thick, card=card, subject=visits[mm]) for mm in (3.0, 6.4)] == [0.5, 0.8]
    assert fixed_threshold(Recipe(threshold=0.3), card=card, subject=visits[6.4]) == 0.3


def test_the_threshold_is_the_patients_own_or_the_users(phantom, results):
    low, high = read_card("allnet").threshold_range
    assert low <= threshold_of(results) <= high
    try:
        segment_subject(find_subject(phantom), Recipe(threshold=0.77, grade=True), results.parent, console=QUIET)
        assert threshold_of(results) == 0.77
        check_grade(results)
    finally:
        segment_subject(find_subject(phantom), Recipe(), results.parent, console=QUIET)


def check_grade(results: Path) -> None:
    """The phantom shows most lesions like its own of 160 mm3 and more, and painting makes few others."""
    summary = json.loads(anat(results, "desc-summary.json").read_text(encoding="utf-8"))["grade"]
    large = [size["contrasts"]["own"] for size in summary["sizes"] if size["volume_mm3"] >= 160]
    assert summary["sensitivity"]["painted"] >= 30
    assert sum(size["found"] for size in large) >= 0.8 * sum(size["painted"] for size in large)
    assert summary["false_positives"]["lesions"] <= 3
    page = (results / "report.html").read_text(encoding="utf-8")
    assert summary["statement"][1:].replace("mm3", "mm³") in html.unescape(page)
    rows = anat(results, "desc-grade.tsv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + summary["sensitivity"]["painted"]
    steps = json.loads((results / "run.json").read_text(encoding="utf-8"))["steps"]
    redone = {step["name"] for step in steps if not step["kept"]}
    assert redone == {"paint_lesions", "find_painted_lesions", "grade_lesions", "write_lesions"}


def test_a_second_run_repeats_nothing(phantom, results):
    report = results / "report.html"
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*.nii*")} | {report: report.stat().st_mtime_ns}
    segment_subject(find_subject(phantom), Recipe(), results.parent, console=QUIET)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_preparing_a_segmented_visit_keeps_what_is_told_of_it(phantom, results):
    """As `msrim rim-classify --lesions` does."""
    before = (results / "run.json").read_text(encoding="utf-8")
    preprocess_subject(find_subject(phantom), Recipe(), results.parent, console=QUIET)
    assert (results / "run.json").read_text(encoding="utf-8") == before


def test_the_manifest_tells_what_it_cost(results):
    run = json.loads((results / "run.json").read_text(encoding="utf-8"))
    assert set(run["inputs"]) == {"FLAIR", "T1w", "T2w"}
    assert {"report.html", "anat/sub-phantom_space-orig_label-L_mask.nii.gz"} <= set(run["outputs"])
    assert max(step["peak_mib"] for step in run["steps"]) < 6 * 1024
    assert (run["recipe"]["backend"], run["backend"]) == ("auto", "embedded")
    assert "<dt>Backend</dt><dd>embedded</dd>" in (results / "report.html").read_text(encoding="utf-8")


def test_a_patient_corrected_in_the_page_is_measured_again(results, tmp_path):
    """Counts, volumes, regions and the page follow the correction; what was found stays byte for byte."""
    before = {name: sha256_of(results / name) for name in GOLDEN}
    shown, corrected = find_results(results), results / "corrected"
    instances = read_volume(anat(results, "space-orig_seg-lesions_dseg.nii.gz")).data
    # A small one: where a large one goes, voxels under it count as ventricle again, and others lie nearer to it.
    number = next(n for n in reversed(range(1, int(instances.max()))) if lies_alone(instances, n))
    with serving(shown) as server, chromium(tmp_path) as tab:
        tab.open(server.address)
        tab.wait("document.body?.dataset.ready")
        tab.click('[data-layout="axial"]')
        found = int(tab.text("#count"))
        tab.click(f'[data-lesion="{number}"] button')
        tab.wait(f"document.querySelector('#count').textContent === '{found - 1}'")
        tab.js("document.querySelector('#note').focus()")
        tab.type("choroid plexus <b>")
        tab.click("#submit")
        tab.wait("document.querySelector('#state').textContent === 'Saved'")
        command = shlex.split(tab.text("#command"))
        assert command[:2] == ["msrim", "segment"]
        ran = CliRunner().invoke(app, [*command[1:], "--quiet"])
        assert ran.exit_code == 0, (ran.output, ran.exception)
        tab.reload()
        tab.wait("document.body?.dataset.ready")
        assert tab.text("#count") == str(found - 1) and tab.js("!document.querySelector('#measured').hidden")
        assert tab.js("document.querySelectorAll('#lesions tr').length") == found - 1
        assert tab.errors == []
    mask = read_volume(anat(corrected, "space-orig_label-L_mask.nii.gz"), mask=True).data
    np.testing.assert_array_equal(mask, (instances > 0) & (instances != number))
    old, new = (rows_of(anat(folder, "desc-lesions.tsv")) for folder in (results, corrected))
    removed = old.pop(number - 1)
    assert [row["volume_mm3"] for row in new] == [row["volume_mm3"] for row in old]
    one, other = (
        json.loads(anat(folder, "desc-summary.json").read_text(encoding="utf-8")) for folder in (results, corrected)
    )
    region = removed["region"]
    assert other["lesions"] == one["lesions"] - 1
    assert other["regions"][region]["lesions"] == one["regions"][region]["lesions"] - 1
    assert other["volume_mm3"] == pytest.approx(one["volume_mm3"] - float(removed["volume_mm3"]), abs=0.01)
    run = json.loads((corrected / "run.json").read_text(encoding="utf-8"))
    edited = shown.edited["mask"]
    assert run["recipe"]["lesions"] == "corrected by hand"
    assert run["inputs"]["lesions"] == {"path": str(edited), "sha256": sha256_of(edited)}
    sidecar = json.loads(anat(corrected, "space-orig_label-L_mask.json").read_text(encoding="utf-8"))
    assert sidecar["Manual"] is True
    assert sidecar["Note"] == other["corrected"]["Note"] == "choroid plexus <b>"
    page = (corrected / "report.html").read_text(encoding="utf-8")
    assert "Corrected by hand." in page and "choroid plexus &lt;b&gt;" in page
    assert {name: sha256_of(results / name) for name in GOLDEN} == before
    # The other tests find this visit as it was.
    shutil.rmtree(corrected)
    for path in shown.edited.values():
        path.unlink()


def lies_alone(instances: np.ndarray, number: int) -> bool:
    """Whether a lesion touches no other, so that these are cut in the same way without it."""
    around = ndimage.binary_dilation(instances == number, np.ones((3, 3, 3)))
    return set(np.unique(instances[around])) <= {0, number}


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_a_brain_without_lesions(phantom_dataset, tmp_path):
    """From all contrasts, then from the FLAIR alone, in one folder: its brain is kept."""
    subject = find_subject(phantom_dataset(4, lesion_free=True) / "sub-phantom")
    for contrasts in (("FLAIR", "T1w", "T2w"), ("FLAIR",)):
        subject = replace(subject, contrasts={name: subject.contrasts[name] for name in contrasts})
        mask = segment_subject(subject, Recipe(), tmp_path, console=QUIET)
        assert volume_ml(mask) < 0.2, contrasts


@pytest.fixture(scope="module")
def flair_alone(phantom, tmp_path_factory) -> float:
    """Volume found on the FLAIR as it was stored, ml."""
    image = nib.load(phantom / "anat" / "sub-phantom_FLAIR.nii.gz")
    return volume_ml(segmented_alone(image, tmp_path_factory.mktemp("alone")))


def segmented_alone(image: nib.Nifti1Image, folder: Path) -> Path:
    (folder / "subject").mkdir()
    image.to_filename(folder / "subject" / "FLAIR.nii.gz")
    mask = segment_subject(find_subject(folder / "subject"), Recipe(), folder / "out", console=QUIET)
    assert nib.load(mask).shape == image.shape
    return mask


def stored_in(axes: str, phantom: Path) -> nib.Nifti1Image:
    """The phantom's FLAIR in another storage order."""
    stored = nib.load(phantom / "anat" / "sub-phantom_FLAIR.nii.gz")
    return stored.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(stored.affine), nib.orientations.axcodes2ornt(axes))
    )


@pytest.mark.parametrize("axes", ["RAS", "LAS", "SPL"])
def test_the_first_step_removes_the_storage_order(axes, phantom, tmp_path, monkeypatch):
    """So that all others see the same image."""
    monkeypatch.chdir(tmp_path)
    stored_in(axes, phantom).to_filename("turned.nii")
    turned = read_volume(reorient(Path("turned.nii"), brain_extracted=False).rename("first.nii"))
    as_stored = read_volume(reorient(phantom / "anat" / "sub-phantom_FLAIR.nii.gz", brain_extracted=False))
    np.testing.assert_array_equal(turned.data, as_stored.data)
    np.testing.assert_allclose(turned.affine, as_stored.affine, atol=1e-4)


def test_storage_order_does_not_matter(phantom, flair_alone, tmp_path):
    """In sagittal slices from top to bottom as much is found, and where lesions were made."""
    image = stored_in("SPL", phantom)
    mask = segmented_alone(image, tmp_path)
    assert volume_ml(mask) == pytest.approx(flair_alone, rel=0.1)
    found = nib.load(mask)
    np.testing.assert_array_equal(found.affine, image.affine)
    truth = phantom.parent / "derivatives" / "truth" / "sub-phantom" / "anat"
    as_made = read_volume(truth / "sub-phantom_space-orig_label-L_mask.nii.gz", mask=True)
    lesions = found.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(found.affine), nib.io_orientation(as_made.affine))
    )
    assert segmentation_metrics(as_made, as_made.like(np.asarray(lesions.dataobj) > 0))["dice"] > 0.4


def test_a_killed_run_is_finished_by_the_next(phantom, tmp_path):
    """Killed in the middle of a step; what stood before is kept, and no half file is left."""
    command = [sys.executable, "-m", "msrim", "preprocess", "--flair"]
    command += [str(phantom / "anat" / "sub-phantom_FLAIR.nii.gz"), "--out", str(tmp_path / "out")]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for line in run.stderr:
        if line.startswith("extract brain"):
            break
    time.sleep(0.5)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    run.stderr.close()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "extract brain FLAIR: kept" in again.stderr
    assert Path(again.stdout.strip()).is_file()
    assert not list((tmp_path / "out").rglob("*-partial-*"))


def test_real_scans_brain_masks_agree_with_the_experts(shared_data, tmp_path):
    """Dice with the published masks, from the FLAIR alone.

    Those of sub-03 and sub-04 lack cortex at the vertex, that of sub-03 the frontal lobes as well.
    """
    from msrim.image import resample
    from msrim.transform import read_transform

    for label, session, least in (("12", "01", 0.95), ("04", "01", 0.93), ("20", "02", 0.95), ("03", "01", 0.85)):
        scan = shared_data / "bids" / f"sub-{label}" / f"ses-{session}" / "anat"
        (tmp_path / label).mkdir()
        shutil.copy(scan / f"sub-{label}_ses-{session}_FLAIR.nii.gz", tmp_path / label / f"sub-{label}_FLAIR.nii.gz")
        found = preprocess_subject(find_subject(tmp_path / label), Recipe(), tmp_path / "out", console=QUIET)
        brain = read_volume(found, mask=True)
        expert = shared_data / "bids" / "derivatives" / "expert" / f"sub-{label}"
        mask = read_volume(expert / "anat" / f"sub-{label}_space-common_desc-brain_mask.nii.gz", mask=True)
        name = f"sub-{label}_ses-{session}_from-FLAIR_to-common_mode-image_xfm.txt"
        common_from_flair = read_transform(expert / f"ses-{session}" / "xfm" / name)
        truth = resample(
            mask.like(mask.data.astype(np.float32)), brain, target_from_source=np.linalg.inv(common_from_flair)
        )
        assert segmentation_metrics(brain.like(truth.data > 0.5), brain)["dice"] > least, label
