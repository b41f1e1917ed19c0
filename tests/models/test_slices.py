"""The 2.5-D U-Net that measures features against the brain: what scanners differ by leaves no trace in them."""

from __future__ import annotations

import pytest
import torch

from msrim.models import build
from msrim.models.networks.slices import SLICES_AT_ONCE, BrainNorm

SMALL = {"widths": (4, 8, 16)}


def _brain() -> torch.Tensor:
    """(1, 3, 32, 32, 6), zero outside a disc."""
    torch.manual_seed(0)
    x, y = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    inside = ((x - 16) ** 2 + (y - 15) ** 2 < 120)[:, :, None]
    return torch.randn(1, 3, 32, 32, 6) * inside


@pytest.fixture(name="network")
def _network():
    torch.manual_seed(1)
    return build("allnet-slices", **SMALL).eval()


def test_inside_the_brain_features_have_no_mean_and_deviation_one():
    x = 7 + 3 * torch.randn(2, 5, 64, 64, 3)
    inside = torch.zeros(2, 1, 64, 64, 3)
    inside[:, :, 10:50, 20:60] = 1
    normal = BrainNorm(5)(x, inside)[:, :, 10:50:2, 20:60:2]
    assert torch.allclose(normal.mean((2, 3)), torch.zeros(2, 5, 3), atol=1e-4)
    assert torch.allclose(normal.std((2, 3)), torch.ones(2, 5, 3), atol=5e-3)


def test_the_scale_of_an_image_leaves_no_trace(network):
    """What batch norm cannot do: a scanner with twice the contrast is answered alike."""
    images, coordinates = _brain(), torch.randn(1, 6, 32, 32, 6)
    with torch.inference_mode():
        one, other = (network(torch.cat([scale * images, coordinates], dim=1)) for scale in (1.0, 2.5))
    assert float((one - other).abs().max()) < 0.02 * float(one.std())


def test_more_background_leaves_no_trace():
    """A crop and the whole slice hold the same brain and different amounts of nothing."""
    images = _brain()
    inside = (images != 0).any(1, keepdim=True).float()
    norm = BrainNorm(3)
    wider = norm(*(torch.nn.functional.pad(seen, (0, 0, 16, 16, 16, 16)) for seen in (images, inside)))
    assert torch.allclose(norm(images, inside), wider[:, :, 16:-16, 16:-16], atol=1e-5)


def test_the_answer_in_a_slice_depends_on_its_neighbours_alone(network):
    one = torch.randn(1, 9, 16, 16, 20)
    other = one.clone()
    other[:, :3, ..., 10] += torch.randn(16, 16)
    with torch.inference_mode():
        changed = (network(one) != network(other)).flatten(0, 3).any(dim=0)
    assert changed.nonzero().ravel().tolist() == [9, 10, 11]


def test_whole_volumes_go_through_in_parts_without_a_trace(network):
    volume = torch.randn(1, 9, 16, 24, 2 * SLICES_AT_ONCE + 3)
    with torch.inference_mode():
        together = network(volume)
        alone = torch.cat(
            [network(volume[..., i - 1 : i + 2])[..., 1:2] for i in range(1, volume.shape[-1] - 1)], dim=-1
        )
    assert torch.allclose(together[..., 1:-1], alone, atol=1e-5)


def test_an_empty_slice_and_an_empty_image_give_numbers(network):
    with torch.inference_mode():
        assert torch.isfinite(network(torch.zeros(1, 9, 16, 16, 3))).all()
