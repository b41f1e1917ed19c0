"""Samples are reproducible and true to what they claim; the loop learns and continues where it stopped."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import ndimage
from torch import nn

from msrim.bids import CONTRASTS as CONTRASTS_OF_FILES
from msrim.console import Console
from msrim.errors import InputError, ModelError
from msrim.image import Volume, write_volume
from msrim.labels import TISSUE_OF_LABEL, HeadLabel, Tissue
from msrim.models import build, load_model, read_card, write_weights
from msrim.models.cards import write_card
from msrim.recipe import ONE_CYCLE, read_training_recipe
from msrim.training import contrasts, synthesis
from msrim.training.brains import synthetic_brain
from msrim.training.contrasts import TISSUES
from msrim.training.heads import SyntheticHeads, head_label_of_tissue, load_head, paint
from msrim.training.lesions import (
    DEEPEST_CAP_MM,
    LesionBank,
    LesionCrops,
    Patient,
    lesions_at,
    read_patient,
    write_patient,
)
from msrim.training.loop import Fitting, fit
from msrim.workflows.train import start_from
from msrim.workflows.train import train as train_network
from msrim.workflows.training_data import painted_from, synthetic_brains

PIPELINES = Path(__file__).parents[2] / "pipelines"
SHAPE = (48, 48, 48)
CONTRASTS = ("FLAIR", "T1w", "T2w")


@pytest.fixture
def head_path(tmp_path):
    """A ball of soft tissue with a ball of cortex around white matter around a ventricle."""
    distance = np.linalg.norm(np.indices(SHAPE) - 23.5, axis=0)
    labels = np.select([distance < 4, distance < 12, distance < 16, distance < 22], [4, 2, 3, 507], 0)
    path = tmp_path / "head.nii.gz"
    nib.save(nib.Nifti1Image(labels.astype(np.int16), np.eye(4)), path)
    return path


@pytest.fixture
def patient():
    brain = np.linalg.norm(np.indices(SHAPE) - 23.5, axis=0) < 22
    lesions = np.zeros(SHAPE, bool)
    lesions[10:13, 20:23, 20:23] = True
    coordinates = torch.zeros(6, *SHAPE)
    coordinates[0] = torch.linspace(-0.24, 0.23, 48)[:, None, None]
    coordinates[4] = 0.5
    return Patient("one", torch.ones(3, *SHAPE), coordinates, lesions, brain, np.full(SHAPE, 5, np.uint8), np.eye(4))


@pytest.fixture
def bank(tmp_path):
    block = np.zeros(SHAPE, bool)
    block[30:36, 20:26, 20:26] = True
    voxels = np.flatnonzero(block)
    path = tmp_path / "bank.npz"
    offsets = np.array([0, len(voxels)])
    np.savez(path, voxels=voxels, offsets=offsets, names=["100-500/0"], shape=SHAPE, affine=np.eye(4))
    return LesionBank(path)


def test_every_contrast_is_in_every_table():
    tables = [table for name, table in vars(contrasts).items() if name.isupper() and isinstance(table, dict)]
    assert len(tables) == 7 and all(table.keys() == CONTRASTS_OF_FILES.keys() for table in tables)
    assert {len(values) for values in contrasts.SIGNAL.values()} == {len(TISSUES)}


def test_every_label_of_the_head_network_is_taught():
    assert set(head_label_of_tissue().tolist()) == set(range(9))
    assert head_label_of_tissue()[0] == 0 and head_label_of_tissue()[1 + TISSUES.index((507,))] == 0


@pytest.mark.parametrize(
    ("value", "label", "tissue"),
    [
        (24, "OUTER_CSF", "CSF"), (4, "VENTRICLES", "CSF"), (43, "VENTRICLES", "CSF"), (3, "CORTEX", "GREY"),
        (42, "CORTEX", "GREY"), (10, "DEEP_GREY", "GREY"), (2, "CEREBRAL_WHITE", "WHITE"),
        (41, "CEREBRAL_WHITE", "WHITE"), (8, "CEREBELLAR_GREY", "GREY"), (46, "CEREBELLAR_WHITE", "WHITE"),
        (16, "BRAINSTEM", "WHITE"),
    ],
)  # fmt: skip
def test_freesurfers_structures_are_what_the_head_network_calls_them(value, label, tissue):
    """FreeSurferColorLUT: 4 and 43 are the lateral ventricles, 3 and 42 the cortex, 16 the brainstem."""
    [answer] = [int(a) for a, values in zip(head_label_of_tissue()[1:], TISSUES, strict=True) if value in values]
    assert (HeadLabel(answer).name, Tissue(TISSUE_OF_LABEL[answer]).name) == (label, tissue)


def test_a_head_sample_is_a_function_of_its_number(head_path):
    first, second = (SyntheticHeads([head_path], shape=(32, 32, 32), samples=4, seed=3)[2] for _ in range(2))
    other = SyntheticHeads([head_path], shape=(32, 32, 32), samples=4, seed=3)[3]
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


def test_a_head_sample_holds_one_contrast_between_0_and_1(head_path):
    for image, labels in SyntheticHeads([head_path], shape=(32, 48, 16), samples=6):
        assert image.shape == (3, 32, 48, 16) and labels.shape == (32, 48, 16)
        assert (image.flatten(1).abs().amax(1) > 0).sum() <= 1
        assert image.min() >= 0 and image.max() <= 1


def crops(patient, bank, *, samples=24, shape=(32, 32, 32)):
    return LesionCrops([patient], bank, contrasts=CONTRASTS, shape=shape, samples=samples)


def test_lesion_crops_teach_real_and_painted_lesions(patient, bank):
    real = [truth.sum() for _, truth, _ in (crops(patient, None)[i] for i in range(24))]
    both = [truth.sum() for _, truth, _ in (crops(patient, bank)[i] for i in range(24))]
    assert sum(both) > sum(real) > 0


def test_a_patient_read_piece_by_piece_gives_the_same_crops(patient, bank, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read = read_patient("one", write_patient(patient))
    assert isinstance(read.lesions, np.memmap) and read.images.dtype == patient.images.dtype
    # A worker process gets names of files, not the arrays.
    assert len(pickle.dumps(read)) < 2000 < len(pickle.dumps(patient))
    for name in ("masks", "ventricle_mm", "bright"):
        assert name in vars(read) and np.array_equal(getattr(read, name), getattr(patient, name))
    for index in range(6):
        one, other = (crops(visit, bank)[index] for visit in (patient, read))
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("white", [5, 7, 8])
def test_lesions_are_painted_into_white_matter(patient, bank, white):
    """Into the white matter of cerebrum, cerebellum and brainstem alike, and into nothing else."""
    painted = {}
    for label in (white, 3):
        sets = crops(replace(patient, labels=np.full_like(patient.labels, label)), bank)
        painted[label] = 0
        for index in range(24):
            visit, _, lesions, points, _ = sets.crop(index)
            real = synthesis.sample_at(visit.masks, points)[0] > 0.5
            assert real.sum() == (lesions & real).sum()
            painted[label] += int((lesions & ~real).sum())
    assert painted[white] > 100
    assert painted[3] == 0


def test_crops_are_cut_to_the_range_of_the_recipe(patient, bank):
    cut = LesionCrops([patient], bank, contrasts=CONTRASTS, shape=(32, 32, 32), samples=6, intensity_range=(-0.5, 1.0))
    for index in range(6):
        whole, part = (samples[index][0][:3] for samples in (crops(patient, bank), cut))
        assert whole.max() > 1.0
        assert torch.equal(part, whole.clamp(-0.5, 1.0))


def test_half_of_the_crops_keep_their_sites_intensities(patient):
    """White matter of 1 stays near 1, or is what another site's sequence makes of it."""
    means = []
    for index in range(120):
        image, truth, _ = crops(patient, None, samples=120)[index]
        normal = (image[0] != 0) & (truth[0] == 0)
        if normal.sum() > 5000:
            means.append(float(image[0][normal].mean()))
    near = np.abs(np.array(means) - 1) < 0.35
    assert len(means) > 60 and 0.5 < near.mean() < 0.9
    assert np.ptp(means) > 1


def test_grey_matter_and_csf_change_beside_white_matter(patient):
    labels = patient.labels.copy()
    labels[:, :, :20], labels[:, :, 28:] = 3, 1
    differences = []
    for index in range(40):
        image, truth, _ = crops(replace(patient, labels=labels), None, samples=40)[index]
        visit, _, _, points, _ = crops(replace(patient, labels=labels), None, samples=40).crop(index)
        where = synthesis.sample_at(visit.masks, points) > 0.99
        white, grey, csf = (where[tissue] & where[1] & (truth[0] == 0) for tissue in (2, 3, 4))
        if min(white.sum(), grey.sum(), csf.sum()) > 300:
            middle = image[0][white].mean()
            differences.append([float(image[0][tissue].mean() - middle) for tissue in (grey, csf)])
    spread = np.std(differences, axis=0)
    # Uniform over 1.4 and 2.5, at a fifth of that in half of the crops: 0.29 and 0.54 with a gain of one.
    assert len(differences) > 10 and (spread > (0.12, 0.2)).all() and (spread < (0.6, 1.1)).all()


def test_a_painted_lesion_is_brighter_on_flair(patient, bank):
    """The patient's images are all ones, so only the painting and the real lesion can stand out."""
    contrasts = []
    for image, truth, _ in (crops(patient, bank, samples=60)[i] for i in range(60)):
        inside, outside = truth[0] > 0, (truth[0] == 0) & (image[0] != 0)
        if inside.sum() > 100:
            contrasts.append(float(image[0][inside].mean() - image[0][outside].mean()))
    assert len(contrasts) >= 3 and min(contrasts) > 0.1


def test_whole_masks_are_painted_beside_the_maps(bank, tmp_path):
    """The bank's only map has one place; a mask elsewhere, in voxels of 2 mm, is drawn more often than not."""
    small = np.zeros((24, 24, 24), bool)
    small[3:6, 3:6, 3:6] = True
    empty = Volume(np.zeros_like(small), np.eye(4))
    masked = LesionBank(tmp_path / "bank.npz", [Volume(small, np.diag([2.0, 2, 2, 1])), empty])
    rng, points = np.random.default_rng(0), torch.stack(torch.meshgrid(*[torch.arange(48.0)] * 3, indexing="ij"), -1)
    drawn = [masked.draw(rng) for _ in range(60)]
    whole = [maps for maps in drawn if maps[0].shape == small.shape]
    assert 24 < len(whole) < 48
    assert {len(maps) for maps in drawn} == {1, 2, 3} and {len(maps) for maps in whole} == {1}
    unmirrored = next(maps for maps in whole if maps[0].mni_from_voxel[0, 0] > 0)
    found = lesions_at(points, unmirrored, np.eye(4))
    # 27 voxels of 8 mm3, scaled by 0.85 to 1.2 along each axis.
    assert 27 * 8 * 0.5 < found.sum() < 27 * 8 * 2
    assert torch.nonzero(found).float().mean(0).sub(8).abs().max() < 4
    place = unmirrored[0].any_place(rng)
    assert found[tuple(torch.from_numpy(place).round().long())]


def test_caps_are_bright_beside_the_ventricles_and_never_lesions(patient):
    labels = patient.labels.copy()
    labels[20:28, 20:28, 20:28] = HeadLabel.VENTRICLES
    healthy = replace(patient, labels=labels, lesions=np.zeros(SHAPE, bool))
    samples = crops(healthy, None)
    distance = healthy.ventricle_mm[0].float()
    far = distance > DEEPEST_CAP_MM - 0.5
    assert far.any()
    for seed in range(5):
        caps = samples._caps(distance, np.random.default_rng(seed))
        assert caps[0].max() > 0.5 and caps[0, distance == 1].mean() > caps[0, distance > 6].mean()
        assert not caps[:, far].any()
    assert not any(samples[index][1].any() for index in range(8))


def test_caps_are_painted_where_the_recipe_asks_for_them(patient, monkeypatch):
    """Thin slices resolve caps: there, what is bright beside the ventricles is a lesion more often than not."""

    def capped(caps: bool) -> int:
        drawn = []
        monkeypatch.setattr(LesionCrops, "_caps", lambda self, distance, rng: drawn.append(1) or torch.zeros(1))
        samples = LesionCrops([patient], None, contrasts=CONTRASTS, shape=(16, 16, 16), samples=8, caps=caps)
        for index in range(8):
            samples[index]
        return len(drawn)

    assert capped(False) == 0 < capped(True) < 8


def test_crops_beside_lesions_show_what_is_as_bright(patient):
    images = torch.zeros(3, *SHAPE)
    images[0, 8:16, 18:26, 18:26] = images[0, 30:34, 20:24, 20:24] = images[0, 2, 23, 23] = 3.0
    shown = replace(patient, images=images)
    bright = np.array(np.unravel_index(shown.bright, SHAPE)).T
    # The block away from the lesion and what of the other is not near it; not the bright voxel at the surface.
    assert len(bright) > 64 and ((bright[:, 0] >= 30).sum() == 64) and bright[:, 0].min() >= 8
    assert ndimage.distance_transform_edt(~patient.lesions)[tuple(bright.T)].min() > 3
    samples, rng = crops(shown, None), np.random.default_rng(0)
    places = {tuple(voxel) for voxel in bright}
    centres = [tuple(samples._centre(shown, [], rng)) for _ in range(400)]
    # Half of those three in ten that show no lesion on purpose.
    assert 0.1 < np.mean([centre in places for centre in centres]) < 0.2


def test_every_lesion_lies_in_its_sphere(patient, bank):
    for _, truth, spheres in (crops(patient, bank)[i] for i in range(8)):
        if truth.any():
            assert spheres[truth > 0].mean() > 0.5
            assert spheres.sum() > truth.sum()


def test_coordinates_move_with_the_anatomy(patient):
    """Left and right change places in mirrored crops, and distances shrink as the crop zooms in."""
    signs = set()
    for image, _, _ in (crops(patient, None)[i] for i in range(12)):
        across = image[3, :, 16, 16]
        seen = across[across != 0]
        if len(seen) > 8:
            # Mirrored anatomy with mirrored coordinates: x still grows along the first axis.
            signs.add(bool(seen.diff().median() > 0))
        distances = image[7][image[7] > 0]
        assert distances.numel() == 0 or 0.33 < distances.median() < 0.75
    assert signs == {True}


def test_flair_is_never_withheld_and_t1w_sometimes(patient, bank):
    images = [crops(patient, bank)[i][0] for i in range(24)]
    assert all(image[0].abs().amax() > 0 for image in images)
    assert 0 < sum(float(image[1].abs().amax()) == 0 for image in images) < 24


def test_required_contrasts_are_never_withheld(patient):
    samples = LesionCrops([patient], None, contrasts=CONTRASTS, shape=(16, 16, 16), samples=24, required=("T2w",))
    withheld = {name: sum(not image[i].any() for image, *_ in samples) for i, name in enumerate(CONTRASTS)}
    assert withheld["FLAIR"] == withheld["T2w"] == 0 < withheld["T1w"]


def test_lesions_are_brighter_on_pdw(patient, bank, head_path):
    """In painted lesions, and in brains from label maps grey matter is brighter than white."""
    contrasts = ("FLAIR", "PDw")
    two = replace(patient, images=patient.images[:2])
    differences = []
    for image, truth, _ in LesionCrops([two], bank, contrasts=contrasts, shape=(32, 32, 32), samples=40):
        inside, outside = truth[0] > 0, (truth[0] == 0) & (image[1] != 0)
        if inside.sum() > 100 and image[1].any():
            differences.append(float(image[1][inside].mean() - image[1][outside].mean()))
    assert len(differences) >= 3 and np.mean(differences) > 0.3
    tissues = torch.from_numpy(load_head(head_path)).long()
    labels = head_label_of_tissue()[tissues]
    drawn = [
        paint(tissues, labels, contrast="PDw", rng=np.random.default_rng(seed), lesions=False)[0] for seed in range(40)
    ]
    assert np.mean([float(image[labels == 3].mean() - image[labels == 5].mean()) for image in drawn]) > 0.03


def test_crops_need_not_be_cubes(patient, bank):
    shape = (32, 48, 16)
    for image, truth, spheres in (crops(patient, bank, shape=shape)[i] for i in range(8)):
        assert image.shape == (9, *shape) and truth.shape == spheres.shape == (1, *shape)
        # x still grows along the first axis, and one voxel is about one millimetre.
        across = image[3, :, 24, 8]
        seen = across[across != 0]
        assert len(seen) < 2 or 0.65 < 100 * float(seen.diff().median()) < 1.5


class Halves(torch.utils.data.Dataset):
    """Voxels above one half are foreground."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int):
        image = torch.rand(1, 4, 4, 4, generator=torch.Generator().manual_seed(index))
        return image, (image > 0.5).float()


def train(out, *, samples, stop_after=None, spoilt=MappingProxyType({})):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 8, 1), nn.ReLU(), nn.Conv3d(8, 1, 1))
    seen = []

    def loss(logits, truth):
        if stop_after is not None and len(seen) == stop_after:
            raise KeyboardInterrupt
        value = nn.functional.binary_cross_entropy_with_logits(logits, truth)
        seen.append(value.item())
        return value * spoilt.get(len(seen), 1)

    weights = fit(
        network,
        Halves(samples),
        loss=loss,
        out=out,
        how=Fitting(
            learning_rate=0.05, report_every=2, workers=0, optimiser=ONE_CYCLE.model_copy(update={"averaging": 0.9})
        ),
    )
    return weights, seen


def test_the_loop_learns(tmp_path):
    _, seen = train(tmp_path, samples=200)
    assert np.mean(seen[-20:]) < 0.5 * np.mean(seen[:20])


def test_a_gradient_that_cannot_be_is_left_out(tmp_path):
    """As bfloat16 gives it now and then."""
    weights, seen = train(tmp_path, samples=60, spoilt={3: 1e20, 30: float("inf"), 40: float("nan")})
    assert np.mean(seen[-10:]) < 0.7 * np.mean(seen[:10])
    assert all(value.isfinite().all() for value in load_file(weights).values())


def test_batch_norm_knows_the_statistics_of_the_written_weights(tmp_path):
    """Not those of the weights before averaging, which a high learning rate keeps far away."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 1), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 1, 1))
    samples = Halves(60)
    weights = fit(
        network,
        samples,
        loss=nn.functional.binary_cross_entropy_with_logits,
        out=tmp_path,
        how=Fitting(learning_rate=0.3, workers=0, optimiser=ONE_CYCLE.model_copy(update={"averaging": 0.99})),
    )
    written = load_file(weights)
    first = nn.Conv3d(1, 4, 1)
    first.load_state_dict({"weight": written["0.weight"], "bias": written["0.bias"]})
    with torch.no_grad():
        seen = torch.stack([first(samples[index][0][None])[0] for index in range(60)])
    # The loop runs in bfloat16, which keeps three digits.
    torch.testing.assert_close(written["1.running_mean"], seen.mean((0, 2, 3, 4)), atol=0.01, rtol=0.01)
    torch.testing.assert_close(written["1.running_var"].sqrt(), seen.std((0, 2, 3, 4)), atol=0.02, rtol=0.02)


def test_fine_tuning_keeps_the_statistics_of_batch_norm(tmp_path):
    """A few slices of one patient, half of them empty, measured them so badly that twice the lesions were found."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 1), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 1, 1))
    nn.init.constant_(network[1].running_mean, 0.25)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    loss = nn.functional.binary_cross_entropy_with_logits
    written = load_file(fit(network, Halves(20), loss=loss, out=tmp_path, how=Fitting(workers=0, fine_tuning=True)))
    for name in ("1.running_mean", "1.running_var"):
        torch.testing.assert_close(written[name], before[name])
    assert not torch.equal(written["0.weight"], before["0.weight"])


def test_a_stopped_training_ends_as_if_it_had_not_stopped(tmp_path):
    whole, _ = train(tmp_path / "whole", samples=40)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", samples=40, stop_after=25)
    resumed, seen = train(tmp_path / "stopped", samples=40)
    assert len(seen) == 20
    for name, value in load_file(whole).items():
        assert torch.allclose(value, load_file(resumed)[name], atol=1e-6), name


def test_fine_tuning_may_leave_contrasts_out(tmp_path):
    settings = {"contrasts": 3, "widths": [4, 8], "head_width": 4}
    recipe = read_training_recipe(PIPELINES / "allnet.toml", contrasts=["FLAIR", "T1w", "T2w"])
    weights = write_weights(build("allnet", **settings), tmp_path / "weights.safetensors")
    card = read_card(write_card(recipe, weights, settings=settings, training="none", limits="a test").parent)
    one = build("allnet", **settings | {"contrasts": 1})
    start_from(one, card, contrasts=["T1w"])
    t1w, coordinates = torch.rand(1, 7, 16, 16, 16).split([1, 6], dim=1)
    silent = torch.zeros_like(t1w)
    with torch.inference_mode():
        expected = load_model(card)(torch.cat([silent, t1w, silent, coordinates], dim=1))
        torch.testing.assert_close(one.eval()(torch.cat([t1w, coordinates], dim=1)), expected)
    with pytest.raises(ModelError, match="settings are not the recipe's"):
        start_from(build("allnet", **settings | {"widths": [8, 16]}), card, contrasts=card.contrasts)


@pytest.mark.parametrize("recipe", ["allnet", "coactseg", "scp", "head"])
def test_a_misspelt_patient_to_leave_out_is_refused(recipe, tmp_path):
    image = Volume(np.ones((4, 4, 4), np.float32), np.eye(4))
    for name in ("FLAIR", "label-L_mask"):
        write_volume(image, tmp_path / "sub-07" / "anat" / f"sub-07_{name}.nii.gz")
    write_volume(image, tmp_path / "head.nii.gz")
    recipe = read_training_recipe(PIPELINES / f"{recipe}.toml")
    with pytest.raises(InputError, match="no marked subject 7 to leave out"):
        train_network(recipe, tmp_path, tmp_path / "out", leave_out=["7"], console=Console(quiet=True))
    assert not (tmp_path / "out").exists()


def test_every_visit_of_a_patient_to_leave_out_stays_out(tmp_path):
    """Nobody is left when both patients are named, and of two visits of one patient neither is."""
    image = Volume(np.ones((4, 4, 4), np.float32), np.eye(4))
    for visit in ("sub-07/ses-1", "sub-07/ses-2", "sub-08"):
        for name in ("FLAIR", "label-L_mask"):
            prefix = visit.replace("/", "_")
            write_volume(image, tmp_path / visit / "anat" / f"{prefix}_{name}.nii.gz")
    one = {"contrasts": ["FLAIR"], "required": ["FLAIR", "T1w"], "settings": {"contrasts": 1}}
    recipe = read_training_recipe(PIPELINES / "allnet.toml", **one)
    with pytest.raises(InputError, match="is left to train on"):
        train_network(recipe, tmp_path, tmp_path / "out", leave_out=["07", "08"], console=Console(quiet=True))
    for left, other in (("07", "08"), ("08", "07")):
        with pytest.raises(InputError, match=f"sub-{other}/.*no T1w, which the recipe requires"):
            train_network(recipe, tmp_path, tmp_path / "out", leave_out=[left], console=Console(quiet=True))


def test_masks_of_patients_to_leave_out_are_not_painted(bank, tmp_path):
    recipe = read_training_recipe(
        PIPELINES / "allnet.toml", lesion_bank=tmp_path / "bank.npz", lesion_masks=tmp_path / "masks"
    )
    with pytest.raises(InputError, match="masks: no lesion masks"):
        painted_from(recipe, leave_out=[])
    for name in ("sub-07_mask", "08_space-MNI152_mask"):
        write_volume(Volume(np.pad(np.ones((2, 2, 2), np.uint8), 1), np.eye(4)), tmp_path / "masks" / f"{name}.nii.gz")
    assert [len(painted_from(recipe, leave_out=out).whole) for out in ([], ["07"], ["07", "08"])] == [2, 1, 0]
    with pytest.raises(InputError, match="give that as well"):
        painted_from(recipe.model_copy(update={"lesion_bank": None}), leave_out=[])


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("allnet-cornell", "sub-07/anat: no T2w, which the recipe requires; see --leave-out"),
        ("allnet", "no visit has a T2w, so a model would not know"),
    ],
)
def test_a_contrast_that_a_visit_or_all_of_them_lack_is_refused(recipe, message, tmp_path):
    image = Volume(np.ones((4, 4, 4), np.float32), np.eye(4))
    for name in ("FLAIR", "T1w", "label-L_mask"):
        write_volume(image, tmp_path / "sub-07" / "anat" / f"sub-07_{name}.nii.gz")
    write_volume(image, tmp_path / "head.nii.gz")
    recipe = read_training_recipe(PIPELINES / f"{recipe}.toml")
    with pytest.raises(InputError, match=message):
        train_network(recipe, tmp_path, tmp_path / "out", leave_out=[], console=Console(quiet=True))
    assert not (tmp_path / "out").exists()


def test_a_misspelt_contrast_is_refused(tmp_path):
    recipe = read_training_recipe(PIPELINES / "allnet.toml").model_copy(update={"contrasts": ("FLAIR", "T1", "T2w")})
    with pytest.raises(InputError, match="recipe allnet: T1: unknown contrast; known are FLAIR, T1w, T2w, PDw"):
        train_network(recipe, tmp_path, tmp_path / "out", leave_out=[], console=Console(quiet=True))


def test_crops_that_the_network_cannot_halve_are_refused(tmp_path):
    fresh = {"settings": {"contrasts": 3}, "crop": (128, 128, 36)}
    recipe = read_training_recipe(PIPELINES / "allnet.toml").model_copy(update=fresh)
    with pytest.raises(InputError, match=r"recipe allnet: allnet .* no crops of 128 x"):
        train_network(recipe, tmp_path, tmp_path / "out", leave_out=[], console=Console(quiet=True))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bool])
def test_sampling_reads_any_type_and_gives_zero_outside(dtype):
    volume = (torch.arange(2 * 6 * 7 * 8).reshape(2, 6, 7, 8) % 5).to(dtype)
    points = torch.tensor([[2.0, 3.0, 4.0], [2.5, 3.25, 6.9], [5.0, 6.0, 7.0], [-0.5, 3.0, 4.0], [5.75, 6.0, 7.0]])
    for some in (points, points[3:], torch.tensor([[9.0, -3.0, 12.0]]), torch.tensor([[0.0, 0.0, 0.0]])):
        expected = [ndimage.map_coordinates(np.pad(c.float().numpy(), 8), some.T.numpy() + 8, order=1) for c in volume]
        sampled = synthesis.sample_at(volume, some[None, None])[:, 0, 0]
        assert sampled.numpy() == pytest.approx(np.stack(expected), abs=1e-5)


def test_synthetic_brains_are_made_once(head_path, tmp_path):
    """The next training with the same label maps and contrasts takes them as they were kept."""
    recipe = read_training_recipe(Path("allnet"), head_labels=head_path.parent)
    made = synthetic_brain(head_path, contrasts=recipe.contrasts, seed=0)
    written = []
    for _ in range(2):
        (brain,) = synthetic_brains(recipe, tmp_path / "prepared", console=Console(quiet=True))
        assert brain.name == "head" and torch.equal(brain.images, made.images)
        assert torch.equal(brain.coordinates, made.coordinates)
        for name in ("lesions", "brain", "labels", "mni_from_voxel"):
            kept, expected = getattr(brain, name), getattr(made, name)
            assert kept.dtype == expected.dtype and np.array_equal(kept, expected)
        (file,) = (tmp_path / "prepared").rglob("images.npy")
        written.append(file.stat().st_mtime_ns)
    assert written[0] == written[1]
