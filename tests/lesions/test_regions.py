"""Where a lesion lies, in a brain made of blocks."""

import numpy as np
import pytest

from msrim.image import Volume
from msrim.lesions.regions import place_lesions

VENTRICLE, CORTEX, WHITE, CEREBELLUM, BRAINSTEM = 2, 3, 5, 7, 8


def blocks() -> np.ndarray:
    """60 x 60 x 80 mm: cerebellum below z = 30, a ventricle up to x = 29, cortex from x = 50 to 54."""
    labels = np.full((60, 60, 80), WHITE, dtype=np.uint8)
    labels[:, :, :30] = CEREBELLUM
    labels[20:30, 20:40, 45:60] = VENTRICLE
    labels[50:55, :, 30:] = CORTEX
    labels[55:] = 0
    return labels


def place_one(lesion: tuple[slice, ...], labels: np.ndarray, *, affine: np.ndarray | None = None):
    instances = np.zeros(labels.shape, dtype=np.int32)
    instances[lesion] = 1
    affine = np.eye(4) if affine is None else affine
    (place,) = place_lesions(Volume(instances, affine), Volume(labels, affine))
    return place


@pytest.mark.parametrize(
    "first_x, last_x, region, to_ventricle, to_cortex",
    [
        (30, 32, "periventricular", 0.0, 17.0),
        (33, 35, "periventricular", 3.0, 14.0),
        (34, 36, "deep white matter", 4.0, 13.0),
        (46, 48, "deep white matter", 16.0, 1.0),
        (47, 49, "juxtacortical", 17.0, 0.0),
        (30, 49, "periventricular", 0.0, 0.0),
        (28, 31, "periventricular", 0.0, 18.0),
        (48, 52, "juxtacortical", 18.0, 0.0),
    ],
)
def test_regions_by_the_gap_in_millimetres(first_x, last_x, region, to_ventricle, to_cortex):
    place = place_one(np.s_[first_x : last_x + 1, 28:31, 50:53], blocks())
    assert place.region == region
    assert place.distance_to_ventricle_mm == pytest.approx(to_ventricle)
    assert place.distance_to_cortex_mm == pytest.approx(to_cortex)


@pytest.mark.parametrize(
    "slices, region",
    [
        (np.s_[10:13, 28:31, 10:13], "infratentorial"),
        (np.s_[10:13, 28:31, 24:34], "infratentorial"),  # six of ten layers below
        (np.s_[10:13, 28:31, 26:36], "deep white matter"),  # six of ten layers above
    ],
)
def test_infratentorial_by_the_larger_part(slices, region):
    assert place_one(slices, blocks()).region == region


def test_infratentorial_goes_first():
    labels = blocks()
    labels[20:30, 20:40, 10:20] = VENTRICLE  # the fourth ventricle
    place = place_one(np.s_[30:33, 28:31, 12:15], labels)
    assert place.distance_to_ventricle_mm == 0
    assert place.region == "infratentorial"


@pytest.mark.parametrize("label", [VENTRICLE, CORTEX, BRAINSTEM, 0])
def test_a_lesion_mislabelled_with_a_shell_around_it_keeps_its_place(label):
    lesion = np.s_[38:42, 28:32, 50:54]
    labels = blocks()
    labels[37:43, 27:33, 49:55] = label
    place, expected = place_one(lesion, labels), place_one(lesion, blocks())
    assert expected.region == "deep white matter"
    assert place == expected


def test_distances_follow_the_spacing():
    # 3 mm slices: z = 15 and 16 lie over one another, x is 0.5 mm wide.
    labels = np.full((60, 40, 40), WHITE, dtype=np.uint8)
    labels[:, :, :15] = VENTRICLE
    affine = np.diag([0.5, 1.0, 3.0, 1.0])
    assert place_one(np.s_[20:23, 20:23, 15:17], labels, affine=affine).distance_to_ventricle_mm == 0
    assert place_one(np.s_[20:23, 20:23, 16:17], labels, affine=affine).distance_to_ventricle_mm == pytest.approx(3)
    labels = np.moveaxis(labels, 2, 0)
    affine = np.diag([0.5, 1.0, 3.0, 1.0])
    assert place_one(np.s_[19:22, 20:23, 20:23], labels, affine=affine).distance_to_ventricle_mm == pytest.approx(2)


def test_storage_order_does_not_matter():
    lesion = np.zeros((60, 60, 80), dtype=np.int32)
    lesion[33:36, 28:31, 50:53] = 1
    labels = blocks()
    flipped = np.diag([-1.0, 1.0, 1.0, 1.0])
    turned = Volume(np.asfortranarray(lesion[::-1].transpose(2, 0, 1)), flipped[:, [2, 0, 1, 3]])
    place = place_lesions(turned, turned.like(labels[::-1].transpose(2, 0, 1)))
    assert place == place_lesions(Volume(lesion, np.eye(4)), Volume(labels, np.eye(4)))


def test_no_ventricle_and_no_cortex_are_not_zero_millimetres():
    labels = np.full((30, 30, 30), WHITE, dtype=np.uint8)
    place = place_one(np.s_[10:12, 10:12, 10:12], labels)
    assert place.distance_to_ventricle_mm is None
    assert place.distance_to_cortex_mm is None
    assert place.region == "deep white matter"


def test_no_lesion_has_no_place():
    labels = blocks()
    empty = Volume(np.zeros(labels.shape, dtype=np.int32), np.eye(4))
    assert place_lesions(empty, empty.like(labels)) == []
