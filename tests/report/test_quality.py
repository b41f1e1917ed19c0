"""What the report finds suspicious by itself."""

from __future__ import annotations

import numpy as np
import pytest

from msrim.image import Volume
from msrim.report.pictures import GRID_SPACING_MM
from msrim.report.quality import Sampled, quality_warnings


def sampled(**changed) -> Sampled:
    block = np.zeros((50, 50, 50), bool)
    block[10:40, 10:40, 10:40] = True
    good = {
        "flair": 100.0 * block,
        "template": 100.0 * block,
        "contrasts": {"T1w": 100.0 * block},
        "brain": block,
        "instances": np.zeros(block.shape, int),
        "tissue": 3 * block,
        "labels": 5 * block,
    }
    return Sampled(**{**good, **changed})


def brain(volume_ml: float) -> Volume:
    voxels = np.zeros((20, 20, 20), bool)
    voxels.flat[: round(volume_ml)] = True
    return Volume(voxels, np.diag([10.0, 10.0, 10.0, 1.0]))


def test_nothing_to_say():
    assert quality_warnings(brain(1400), sampled()) == []


@pytest.mark.parametrize("volume_ml", [899, 1901])
def test_brain_of_an_unusual_size(volume_ml):
    (warning,) = quality_warnings(brain(volume_ml), sampled())
    assert f"holds {volume_ml} ml" in warning


def test_contrast_that_misses_part_of_the_brain():
    short = sampled().flair.copy()
    short[:, :, :13] = 0  # 3 of the brain's 30 slices
    (warning,) = quality_warnings(brain(1400), sampled(contrasts={"T2w": short}))
    assert warning == "T2w does not cover 10% of the brain mask."


def test_template_beside_the_brain():
    aside = np.roll(sampled().template, 6, axis=0)  # 24 of 30 slices in common
    (warning,) = quality_warnings(brain(1400), sampled(template=aside))
    assert "Dice of 0.80" in warning


def test_lesion_outside_the_brain():
    instances = np.zeros((50, 50, 50), int)
    instances[2:7, 2:7, 2:7] = 1
    (warning,) = quality_warnings(brain(1400), sampled(instances=instances))
    assert warning.startswith(f"{125 * GRID_SPACING_MM**3:.0f} mm³")
