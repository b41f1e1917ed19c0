"""Brain extraction by SynthStrip."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from volumes import LPS, OBLIQUE, pose

from msrim.errors import InputError
from msrim.evaluation.metrics import segmentation_metrics
from msrim.image import Volume, read_volume, resample, to_ras
from msrim.models import load_model, read_card
from msrim.models.brain import extract_brain
from msrim.models.convert_synthstrip import convert
from msrim.models.networks.synthstrip import SynthStrip, convolve_upsampled
from msrim.preprocess.masks import grown_mask
from msrim.preprocess.template import load_template, load_template_brain_mask

CARD = read_card("synthstrip")


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice of two masks."""
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def test_layers_are_the_published_ones():
    """Hoopes et al. 2022: seven levels, two convolutions each, 2.57 million parameters, one distance out."""
    network = load_model(CARD)
    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv3d)]
    assert len(convolutions) == 2 * 7 + 2 * 6 + 1
    assert [layer.out_channels for layer in convolutions[::2]] == [
        16,
        32,
        64,
        64,
        64,
        64,
        64,
        64,
        64,
        64,
        64,
        32,
        16,
        1,
    ]
    assert sum(p.numel() for p in network.parameters()) == 2_566_561


def test_sides_need_not_be_multiples_of_64():
    """Half blocks change what lies near them alone; where there are none, nothing."""
    torch.manual_seed(0)
    network = SynthStrip(encoder=(2, 4, 4), decoder=(4, 2)).eval()
    image = torch.rand(1, 1, 10, 9, 12)
    with torch.inference_mode():
        assert network(image).shape == image.shape


@pytest.mark.parametrize("sides", [(6, 4, 8), (5, 4, 7)], ids=["whole blocks", "half blocks"])
def test_summed_taps_do_what_doubled_voxels_do(sides):
    """The published decoder: nearest upsampling, the skip connection behind it, one 3x3x3 convolution."""
    torch.manual_seed(0)
    coarse, skip = torch.randn(1, 5, *((side + 1) // 2 for side in sides)), torch.randn(1, 3, *sides)
    convolution = torch.nn.Conv3d(8, 4, 3, padding=1)
    doubled = coarse
    for axis, side in zip((2, 3, 4), sides, strict=True):
        doubled = doubled.repeat_interleave(2, dim=axis).narrow(axis, 0, side)
    with torch.inference_mode():
        expected = convolution(torch.cat([doubled, skip], dim=1))
        torch.testing.assert_close(convolve_upsampled(convolution, coarse, skip), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def head() -> tuple[Volume, np.ndarray]:
    """The template's brain in a bright skull, 2 x 2 x 6 mm, stored in another order and oblique; and the mask to find.

    It is the template's and 1 mm of the dark layer around it, which SynthStrip takes for CSF.
    """
    template, mask = load_template(), load_template_brain_mask()
    affine = pose(OBLIQUE @ LPS, (2.0, 2.0, 6.0), origin_mm=(0, 0, 0))
    shape = (128, 128, 36)
    middle = template.affine[:3, :3] @ (np.array(template.shape) / 2) + template.affine[:3, 3]
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    grid = Volume(np.zeros(shape, np.float32), affine)
    scalp, skull = grown_mask(mask, by_mm=12), grown_mask(mask, by_mm=5)
    data = np.where(mask.data, template.data / template.data.max(), np.where(skull.data, 0.1, 1.3 * scalp.data))
    image = resample(template.like(data.astype(np.float32)), grid)
    expected = grown_mask(mask, by_mm=1.0)
    return image, resample(expected.like(expected.data.astype(np.float32)), grid).data > 0.5


def test_a_brain_is_found_in_any_pose(head):
    image, brain = head
    found = extract_brain(image, card=CARD)
    assert found.data.shape == image.shape
    assert dice(found.data, brain) > 0.96
    turned = extract_brain(to_ras(image), card=CARD)
    back = resample(turned.like(turned.data.astype(np.float32)), image).data > 0.5
    assert dice(back, found.data) > 0.999


def test_a_few_voxels_far_below_the_air_change_nothing(head):
    """As some reconstructions leave them: by the minimum they made the air grey, and the cerebellum went missing."""
    image, _ = head
    odd = image.data.copy()
    odd[::40, ::40, ::12] = -image.data.max()
    assert dice(extract_brain(image.like(odd), card=CARD).data, extract_brain(image, card=CARD).data) > 0.99


def test_nothing_to_see_is_no_brain():
    noise = np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32)
    found = extract_brain(Volume(noise, np.diag([4.0, 4.0, 4.0, 1.0])), card=CARD)
    assert found.data.sum() * found.voxel_volume_mm3 < 300e3


def test_only_the_published_weights_are_converted(tmp_path):
    (tmp_path / "other.pt").write_bytes(b"not it")
    with pytest.raises(InputError, match=r"not synthstrip-1\.pt of deepsurfer"):
        convert(tmp_path / "other.pt", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_contrasts_of_one_clinics_head_agree(shared_data):
    """FLAIR, T1w and T2w with slices of 8 mm, which the authors brought to one grid."""
    folder = shared_data / "ms3seg" / "sub-101627" / "anat"
    names = ("FLAIR", "space-FLAIR_T1w", "space-FLAIR_T2w")
    masks = [extract_brain(read_volume(folder / f"sub-101627_{name}.nii.gz"), card=CARD) for name in names]
    assert all(segmentation_metrics(masks[0], mask)["dice"] > 0.95 for mask in masks[1:])
