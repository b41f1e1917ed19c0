"""The 2.5-D backbone: slices see their neighbours and nothing else, and the network is the published one."""

from __future__ import annotations

import torch

from msrim.models import build
from msrim.models.networks.tiramisu import Tiramisu, stacked_slices

SMALL = {"layers": (2, 2, 2), "growth": 4, "first": 8}


def test_it_has_as_many_parameters_as_the_published_network():
    """FC-DenseNet56: 1.4 million parameters at three input channels (Jegou et al. 2017, Table 1)."""
    network = Tiramisu(3, layers=(4,) * 6, growth=12, first=48)
    classifier = network.out_channels * 11 + 11
    assert round((sum(p.numel() for p in network.parameters()) + classifier) / 1e6, 1) == 1.4


def test_features_of_a_slice_depend_on_its_neighbours_alone():
    torch.manual_seed(0)
    network = build("allnet-tiramisu", **SMALL).eval()
    one = torch.randn(1, 3, 16, 16, 20)
    other = one.clone()
    other[..., 10] += 1
    with torch.inference_mode():
        features = [network.backbone(stacked_slices(image, 3)) for image in (one, other)]
    changed = (features[0] != features[1]).flatten(0, 3).any(dim=0)
    assert changed.nonzero().ravel().tolist() == [9, 10, 11]


def test_whole_volumes_go_through_in_parts_without_a_trace():
    torch.manual_seed(0)
    network = build("allnet-tiramisu", **SMALL).eval()
    volume = torch.randn(2, 9, 16, 24, 11)
    with torch.inference_mode():
        together = network(volume)
        alone = network(volume[1:])
    assert torch.allclose(together[1:], alone, atol=1e-5)


def test_sides_need_not_be_multiples_of_anything():
    network = build("allnet-tiramisu", **SMALL).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 9, 17, 23, 5)).shape == (1, 2, 17, 23, 5)
