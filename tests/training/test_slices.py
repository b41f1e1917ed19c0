"""Slices for 2-D networks: z-scored, of one size, reproducible, lesions and images in step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from msrim.models import build
from msrim.models.scp import fit_to_plane
from msrim.training.losses import soft_dice
from msrim.training.slices import LesionSlices


def scan(seed: int, shape=(40, 60, 12)) -> tuple[np.ndarray, np.ndarray]:
    """One bright lesion in slices 5 and 6."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, bool)
    mask[18:23, 30:34, 5:7] = True
    image = np.stack([100 + rng.normal(0, 5, shape) + 60 * mask, rng.normal(0, 1, shape) - 3 * mask])
    return image.astype(np.float32), mask


def slices(samples: int = 40, seed: int = 0) -> LesionSlices:
    return LesionSlices([scan(1), scan(2)], plane=(32, 48), samples=samples, seed=seed)


def test_samples_are_of_the_planes_size_and_follow_their_number():
    image, lesions = slices()[7]
    assert image.shape == (2, 32, 48, 1) and lesions.shape == (1, 32, 48, 1)
    assert image.dtype == lesions.dtype == torch.float32
    assert torch.equal(image, slices()[7][0])
    assert not torch.equal(image, slices(seed=1)[7][0])
    with pytest.raises(IndexError):
        slices()[40]


def test_half_of_the_slices_and_more_show_a_lesion():
    shown = [bool(lesions.any()) for _, lesions in slices(samples=200)]
    # 0.5, and of the others 2 in 12: 0.583.
    assert 0.48 < np.mean(shown) < 0.69


def test_a_lesion_is_bright_where_its_mask_says():
    for image, lesions in slices():
        if lesions.any():
            inside = lesions[0] > 0
            assert image[0][inside].mean() > image[0][~inside].mean() + 3
            assert image[1][inside].mean() < image[1][~inside].mean() - 1


def test_intensities_are_z_scored_over_the_scan():
    image, _ = slices().scans[0]
    assert image.mean(axis=(1, 2, 3)) == pytest.approx([0, 0], abs=1e-4)
    assert image.std(axis=(1, 2, 3)) == pytest.approx([1, 1], abs=1e-4)


@pytest.mark.parametrize("size", [(5, 9), (6, 10), (4, 12), (11, 3)])
def test_the_middle_stays_the_middle(size):
    data = np.zeros((2, 7, 9, 3))
    data[:, 3, 4] = 1
    fitted = fit_to_plane(data, size)
    assert fitted.shape == (2, *size, 3)
    x, y = (int(index) for index in np.argwhere(fitted[0, ..., 0])[0])
    assert abs(x - (size[0] - 1) / 2) <= 0.5 and abs(y - (size[1] - 1) / 2) <= 0.5


def test_scp_learns_from_them():
    torch.manual_seed(0)
    network = build("scp", channels=64, in_channels=2)
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    losses = []
    for step in range(12):
        image, lesions = (torch.stack(parts) for parts in zip(*(slices()[3 * step + i] for i in range(3)), strict=True))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(image), lesions)
        loss = loss + soft_dice(torch.sigmoid(network(image)), lesions)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
