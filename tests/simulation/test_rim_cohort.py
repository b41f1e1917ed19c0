"""Simulated rims: what they look like in QSM, how many there are, and what raters make of them."""

from __future__ import annotations

import csv

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import cohen_kappa_score

from msrim.image import Volume
from msrim.simulation import cohort, rims
from msrim.simulation.cohort import lesion_counts, simulate_cohort
from msrim.simulation.rim_brain import Brain
from msrim.simulation.rim_patient import Scanner, simulate_patient
from msrim.simulation.rims import ShapeBank, draw_lesion, draw_shape, traced_shape
from msrim.simulation.susceptibility import GradientEcho


@pytest.fixture(scope="module")
def brain() -> Brain:
    """A block of white matter around a ventricle, 70 mm wide: the anatomy takes no time."""
    shape = (70, 70, 50)
    white = np.zeros(shape, np.float32)
    white[4:-4, 4:-4, 4:-4] = 1
    ventricle = np.zeros(shape, np.float32)
    ventricle[30:40, 30:40, 20:30] = 1
    affine = np.eye(4)
    affine[:3, 3] = (-35, -35, -25)
    away = np.stack(np.indices(shape)).astype(np.float32) - np.array(shape)[:, None, None, None] / 2
    places = np.argwhere((np.linalg.norm(away, axis=0) > 16) & (ndimage.minimum_filter(white, 25) > 0))
    none = np.zeros(shape, np.float32)
    maps = {"white": white - ventricle, "grey": none, "csf": ventricle, "iron": none, "ventricles": ventricle}
    return Brain(
        {name: Volume(data, affine) for name, data in maps.items()},
        places,
        np.linspace(0, 1, len(places)),
        away / np.maximum(np.linalg.norm(away, axis=0), 1),
    )


@pytest.fixture(scope="module")
def patient(brain):
    return simulate_patient(brain, rims=3, others=4, rng=np.random.default_rng(4))


def test_172_patients_have_the_published_numbers():
    for seed in range(3):
        counts = np.array(lesion_counts(172, np.random.default_rng(seed)))
        assert abs(counts[:, 0].sum() - 177) <= 3 and abs(counts[:, 1].sum() - 3986) <= 40
        with_rims = counts[counts[:, 0] > 0, 0]
        assert len(with_rims) == 65 and np.median(with_rims) == 2 and 9 <= with_rims.max() <= 17


def test_images_and_lesions_lie_on_one_grid(patient):
    assert patient.qsm.shape == patient.flair.shape == patient.instances.shape
    assert patient.qsm.spacing.round(6).tolist() == [0.75, 0.75, 3.0]
    numbers = np.unique(patient.instances.data)
    assert numbers.tolist() == list(range(len(patient.lesions) + 1))
    assert sum(lesion.rim for lesion in patient.lesions) == 3
    assert 0.01 < np.abs(patient.qsm.data[patient.qsm.data != 0]).mean() < 0.1


def test_a_patient_is_a_function_of_the_seed(brain, patient):
    again = simulate_patient(brain, rims=3, others=4, rng=np.random.default_rng(4))
    assert np.array_equal(again.qsm.data, patient.qsm.data)
    assert np.array_equal(again.instances.data, patient.instances.data)
    other = simulate_patient(brain, rims=3, others=4, rng=np.random.default_rng(5))
    assert other.qsm.shape != patient.qsm.shape or not np.array_equal(other.qsm.data, patient.qsm.data)


def test_lesions_are_bright_on_flair(patient):
    inside = patient.instances.data > 0
    white = (patient.qsm.data != 0) & ~ndimage.binary_dilation(inside, iterations=3)
    assert np.median(patient.flair.data[inside]) > 1.3 * np.median(patient.flair.data[white])


def test_rims_are_brighter_than_core_and_surroundings_in_qsm(brain, monkeypatch):
    """The in-plane edge against what lies inside and outside, without noise, all lesions of one size."""
    monkeypatch.setitem(rims.RADIUS_MM, False, rims.RADIUS_MM[True])
    scanner = Scanner(echoes=GradientEcho(snr=1e6))
    differences = {True: [], False: []}
    for seed in range(3):
        found = simulate_patient(brain, rims=2, others=4, scanner=scanner, rng=np.random.default_rng(seed))
        for number, lesion in enumerate(found.lesions, start=1):
            if lesion.kind not in ("rim", "plain", "faint"):
                continue
            mask = found.instances.data == number
            middle = mask[..., mask.sum(axis=(0, 1)).argmax()]
            values = found.qsm.data[..., mask.sum(axis=(0, 1)).argmax()]
            core = ndimage.binary_erosion(middle, iterations=3)
            around = ndimage.binary_dilation(middle, iterations=3) & ~ndimage.binary_dilation(middle)
            if core.any():
                edge = middle & ~ndimage.binary_erosion(middle, iterations=2)
                differences[lesion.rim].append(values[edge].mean() - max(values[core].mean(), values[around].mean()))
    assert len(differences[True]) >= 4 and len(differences[False]) >= 3
    assert np.median(differences[True]) > 0.005 > np.median(differences[False])


def test_rims_take_up_two_thirds_of_the_edge_and_partial_ones_less():
    rng = np.random.default_rng(0)
    shares = {"rim": [], "partial rim": []}
    for index in range(400):
        shape = draw_shape(np.zeros(3), rim=True, direction=None, rng=rng)
        lesion = draw_lesion(shape, rim=index % 2 == 0, rng=rng)
        if lesion.kind in shares:
            shares[lesion.kind].append((lesion.around > 0.4).mean())
            assert lesion.rim_ppm > 0
        else:
            assert lesion.rim_ppm == 0
    assert min(shares["rim"]) > 0.6 and max(shares["partial rim"]) < 0.6


def test_every_kind_of_hard_lesion_occurs():
    rng = np.random.default_rng(1)
    shapes = [draw_shape(np.zeros(3), rim=index % 2 == 0, direction=None, rng=rng) for index in range(400)]
    kinds = [draw_lesion(shape, rim=False, rng=rng).kind for shape in shapes]
    assert {kind: kinds.count(kind) for kind in rims.KINDS}.keys() == set(kinds)
    assert sum(kind in rims.HARD_KINDS for kind in kinds) > 60


def test_thin_slices_and_another_field(brain):
    scanner = Scanner(in_plane_mm=1.0, slice_mm=1.0, echoes=GradientEcho(field_t=1.5))
    found = simulate_patient(brain, rims=1, others=1, scanner=scanner, rng=np.random.default_rng(0))
    assert found.qsm.spacing.round(6).tolist() == [1.0, 1.0, 1.0]


def test_traced_shapes_keep_their_volume_and_depth():
    index = np.stack(np.meshgrid(*[np.arange(21)] * 3, indexing="ij"), axis=-1)
    ball = np.argwhere(np.linalg.norm(index - 10, axis=-1) <= 6)
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    shape = traced_shape(ball, affine)
    assert shape.centre_mm.tolist() == [-10, 10, 10]
    assert shape.depth_mm(np.array([[-10.0, 10, 10], [-4.0, 10, 10], [0.0, 10, 10]])).round().tolist() == [6, 0, -4]


def test_bank_gives_lesions_of_about_the_size_asked_for(shared_data):
    bank = ShapeBank(shared_data / "lesion-bank.npz")
    rng = np.random.default_rng(0)
    drawn = {rim: [bank.draw(rim=rim, rng=rng) for _ in range(30)] for rim in (True, False)}
    sizes = {rim: np.median([(shape.depth > 0).sum() for shape in shapes]) for rim, shapes in drawn.items()}
    assert sizes[True] > 2 * sizes[False]
    assert all(np.abs(shape.centre_mm).max() < 110 for shape in drawn[True])


def test_two_raters_agree_as_moderately_as_published(patient):
    """Kappa of 0.59 at the published prevalence: 4 % rim+, and of the others one in seven easily mistaken."""
    rng = np.random.default_rng(0)
    truth = rng.random(60000) < 177 / 4163
    hard = ~truth & (rng.random(60000) < 1 / 7)
    imagined = np.where(hard, cohort.IMAGINED_HARD, cohort.IMAGINED)
    votes = rng.random((2, 60000)) < np.where(truth, 1 - cohort.MISSED, imagined)
    assert cohen_kappa_score(*votes) == pytest.approx(0.59, abs=0.02)


@pytest.fixture
def small(brain, monkeypatch) -> None:
    """Cohorts of that block of white matter, four lesions each."""
    monkeypatch.setattr(cohort, "make_head", lambda rng: None)
    monkeypatch.setattr(cohort, "make_brain", lambda head: brain)
    monkeypatch.setattr(cohort, "lesion_counts", lambda subjects, rng: [(2, 2)] * subjects)


def test_cohort_on_disk(small, tmp_path):
    said = []
    simulate_cohort(tmp_path, subjects=2, seed=3, label_noise=True, report=said.append)
    assert [line.split(":")[0] for line in said] == ["sub-001", "sub-002"]
    qsm = nib.load(tmp_path / "sub-001/anat/sub-001_Chimap.nii.gz")
    anat = tmp_path / "derivatives/truth/sub-001/anat"
    instances = nib.load(anat / "sub-001_seg-lesions_dseg.nii.gz")
    assert np.array_equal(qsm.affine, instances.affine) and qsm.shape == instances.shape
    with open(anat / "sub-001_desc-lesions.tsv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert [int(row["id"]) for row in rows] == np.unique(instances.dataobj)[1:].tolist()
    assert sum(row["truth"] == "true" for row in rows) == 2
    assert list(rows[0]) == ["id", "rim", "truth", "rater_1", "rater_2", "kind"]
    first, second = (nib.load(tmp_path / f"sub-00{n}/anat/sub-00{n}_Chimap.nii.gz").shape for n in (1, 2))
    assert first != second


def test_cohort_and_truth_pass_the_bids_validator(small, tmp_path, bids_errors):
    assert bids_errors(simulate_cohort(tmp_path, subjects=1)) == ""
