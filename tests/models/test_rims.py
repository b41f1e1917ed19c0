"""The rim networks: what they compute, their switches, and weights without pickle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from msrim.image import Volume
from msrim.lesions.patches import cut_patches
from msrim.models import build
from msrim.models.networks.aprl import Forest
from msrim.models.networks.datrnet import DATRNet
from msrim.models.networks.qsmrimnet import DeepSmote, QSMRimNet, Scale, between_neighbours
from msrim.models.networks.resnet import ResNet18
from msrim.models.rims import INPUTS, inner, network_inputs, predict
from msrim.ops import reference

NARROW = (4, 4, 8, 8)


def patches(n: int, size=(32, 32, 8)) -> torch.Tensor:
    torch.manual_seed(0)
    images = torch.randn(n, 3, *size)
    images[:, 2] = 0
    images[:, 2, 12:20, 12:20, 2:6] = 1
    return images


@pytest.mark.parametrize("name", INPUTS)
def test_every_rim_network_gives_one_logit_a_lesion(name):
    kind = INPUTS[name]
    size = kind.patch or (32, 32, 8)
    network = build(name).eval()
    with torch.inference_mode():
        logits = network(*network_inputs(kind, patches(3, size), torch.randn(3, 527)))
    assert logits.shape == (3,)


def test_masked_networks_see_nothing_outside_the_lesion():
    (inside,) = network_inputs(INPUTS["rimnet"], patches(2), None)
    assert not inside[:, :, :12].any() and inside[:, :, 12:20, 12:20, 2:6].all()
    (whole,) = network_inputs(INPUTS["datrnet"], patches(2), None)
    assert whole[:, :, :12].any() and whole.shape[1] == 2


def test_resnet_has_the_strides_of_the_paper():
    """Stem and pooling quarter the patch; the strides 1, 2, 2, 1 quarter it again."""
    network = ResNet18(2, widths=NARROW)
    with torch.inference_mode():
        assert network.stem(torch.zeros(1, 2, 32, 32, 16)).shape == (1, 4, 8, 8, 4)
        assert network.stages(network.stem(torch.zeros(1, 2, 32, 32, 16))).shape == (1, 8, 2, 2, 1)
    # 17 convolutions and the classifier elsewhere make 18; three shortcuts change the width or the size.
    full = ResNet18(2)
    convolutions = [m for m in full.modules() if isinstance(m, torch.nn.Conv3d)]
    assert len(convolutions) == 17 + 3
    assert full.stem[0].weight.shape == (64, 2, 7, 7, 7)


@pytest.mark.parametrize("made", [{}, {"values": False}, {"gradients": False}])
def test_votes_of_datrnet_are_the_plain_transforms_divided_by_their_radii(made):
    """Joined and fused by the layer as it stands, they give what the network computes."""
    network = DATRNet(features=4, radii=(5, 9), widths=NARROW, **made)
    x = torch.randn(2, 4, 32, 32, 8, generator=torch.manual_seed(0))
    plain = reference.rim_transform(x, (5, 9), eps=1e-3)
    kept = [v for v, name in zip(plain, ("values", "gradients"), strict=True) if made.get(name, True)]
    for votes, v in zip(network.votes(x), kept, strict=True):
        assert torch.allclose(votes, v, atol=1e-4)
    scaled = [(v / torch.tensor([5.0, 9.0])[:, None, None, None]).flatten(1, 2) for v in kept]
    assert torch.allclose(network.fused(x), network.fuse(torch.cat(scaled, dim=1)), atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "channels"),
    [
        ({"pre_convs": 0, "values": False, "gradients": False}, 2),
        ({"pre_convs": 0, "radii": (15,)}, 4),
        ({"gradients": False, "radii": (15,)}, 6),
        ({"radii": (15,)}, 12),
        ({"radii": (11, 13, 15)}, 36),
        ({}, 72),
    ],
    ids=["1", "2", "3", "4", "5", "6"],
)
def test_every_row_of_table_2_can_be_built(settings, channels):
    """Input channels of the layer that fuses the votes; without any, of the ResNet."""
    network = DATRNet(features=6, widths=NARROW, **settings).eval()
    first = network.backbone.stem[0] if isinstance(network.fuse, torch.nn.Identity) else network.fuse[0]
    assert first.in_channels == channels
    with torch.inference_mode():
        assert network(patches(2)[:, :2]).shape == (2,)


def test_gradient_reaches_the_first_layer_through_the_votes():
    network = DATRNet(features=4, radii=(5,), pre_convs=2, widths=NARROW)
    network(patches(4)[:, :2]).sum().backward()
    assert network.pre_convs[0][0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("settings", [
    {}, {"image_fusion": False, "radiomics": False, "smote": False}, {"radiomics": False, "smote": False},
    {"smote": False},
], ids=["all", "RimNet's fusion", "images alone", "no DeepSMOTE"])  # fmt: skip
def test_every_row_of_table_3_can_be_built(settings):
    network = QSMRimNet(widths=NARROW, **settings).eval()
    with torch.inference_mode():
        assert network(patches(2, (32, 32, 16))[:, :2], torch.randn(2, 527)).shape == (2,)


def test_branches_can_be_added_instead():
    added = QSMRimNet(widths=(4, 4, 4, 512), fusion="add")
    joined = QSMRimNet(widths=(4, 4, 4, 512))
    assert added.oversample.mix[0][0].in_features == 512
    assert joined.oversample.mix[0][0].in_features == 1024


def test_deep_smote_makes_two_rows_for_each_rim_in_training_alone():
    torch.manual_seed(0)
    smote = DeepSmote(8, width=5)
    features, labels = torch.randn(10, 8), torch.tensor([1.0, 1, 1, 1] + [0] * 6)
    assert smote(features, labels).shape == (10 + 2 * 4, 5)
    assert smote(features).shape == (10, 5)
    assert smote(features, torch.tensor([1.0, 1] + [0] * 8)).shape == (10, 5)


def test_synthetic_rows_lie_on_the_way_to_the_two_nearest_neighbours():
    """On a line, the two nearest of the outermost point are the next two; every new row lies in between."""
    rows = torch.tensor([[0.0], [1.0], [3.0], [10.0]])
    made = between_neighbours(rows).reshape(4, 2)
    for start, ends, new in zip(rows[:, 0], ((1, 3), (0, 3), (1, 0), (3, 1)), made, strict=True):
        for end, value in zip(ends, new, strict=True):
            assert min(start, end) <= value <= max(start, end)
    assert made[3].min() > 1 and len(made.unique()) == 8


def test_scale_leaves_undefined_features_at_the_mean():
    scale = Scale(3)
    scale.fit(torch.tensor([[1.0, 5, 0], [3.0, 5, 0], [torch.nan, 5, 0]]))
    assert scale(torch.tensor([[4.0, 5, 1], [torch.nan, 5, 0]])).tolist() == [[2.0, 0.0, 5.0], [0.0, 0.0, 0.0]]


def test_forest_says_what_scikit_learn_says_and_survives_safetensors(tmp_path):
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 527))
    labels = features[:, 3] + features[:, 7] ** 2 > 1
    columns = [3, 7, 11]
    grown = RandomForestClassifier(20, random_state=0).fit(features[:, columns], labels)
    forest = Forest.of(grown, columns=columns)
    save_file(forest.state_dict(), tmp_path / "weights.safetensors")
    trees, nodes = forest.share.shape
    again = build("aprl-rf", trees=trees, nodes=nodes, columns=columns)
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    fresh = rng.normal(size=(90, 527))
    found = predict(again, INPUTS["aprl-rf"], np.zeros((90, 3, 0, 0, 0), np.float32), fresh)
    assert found == pytest.approx(np.clip(grown.predict_proba(fresh[:, columns])[:, 1], 1e-6, 1 - 1e-6), abs=1e-6)
    assert 0.2 < found.mean() < 0.8


def test_of_five_views_the_highest_counts():
    network = DATRNet(features=4, radii=(5,), pre_convs=1, widths=NARROW)
    images = patches(5, (36, 36, 8)).numpy()
    places = [images[:, :, x : x + 32, y : y + 32] for x, y in ((2, 2), (0, 2), (4, 2), (2, 0), (2, 4))]
    each = [predict(network, INPUTS["datrnet"], place, None) for place in places]
    found = predict(network, INPUTS["datrnet"], images, None, view_shift_mm=1.5)
    assert found == pytest.approx(np.max(each, axis=0), abs=1e-6)
    assert predict(network, INPUTS["datrnet"], images, None) == pytest.approx(each[0], abs=1e-6)
    with pytest.raises(ValueError, match="do not hold"):
        predict(network, INPUTS["datrnet"], places[0], None, view_shift_mm=1.5)


def test_the_middle_of_a_patch_is_the_patch_that_is_cut_at_its_size():
    """Rims are looked at in a larger patch than the report shows; both must be around the same voxel."""
    rng = np.random.default_rng(0)
    image = Volume(rng.random((50, 50, 20), np.float32), np.diag([0.75, 0.75, 3, 1]))
    lesion = image.like(np.pad(np.uint8(rng.random((3, 3, 3)) > 0.3), [(20, 27), (25, 22), (9, 8)]))
    large, small = (cut_patches(image, image, lesion, size=size).images for size in ((36, 36, 8), (32, 32, 8)))
    assert np.array_equal(inner(large, (32, 32, 8)), small)


def test_answers_do_not_depend_on_the_batch(monkeypatch):
    network = DATRNet(features=4, radii=(5,), pre_convs=1, widths=NARROW)
    images = patches(5).numpy()
    whole = predict(network, INPUTS["datrnet"], images, None)
    monkeypatch.setattr("msrim.models.rims.BATCH", 2)
    assert predict(network, INPUTS["datrnet"], images, None) == pytest.approx(whole, abs=1e-6)
    assert predict(network, INPUTS["datrnet"], images[:0], None).shape == (0,)
