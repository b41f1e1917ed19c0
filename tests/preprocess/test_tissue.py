"""Tissue classes of several sources in one map, and the CSF that makes AnaConv's distances."""

from __future__ import annotations

import numpy as np

from msrim.image import Volume
from msrim.preprocess.coordinates import anatomical_coordinates
from msrim.preprocess.tissue import csf_structures, tissue_of


def head() -> Volume:
    """Labels of a ball of white matter with a ventricle, in a shell of CSF that is closed all around."""
    distance = np.linalg.norm(np.moveaxis(np.indices((40, 40, 40)), 0, -1) - 19.5, axis=-1)
    labels = np.select([distance < 4, distance < 15, distance < 18], [2, 5, 1], 0)
    return Volume(labels.astype(np.uint8), np.eye(4))


def test_another_program_counts_where_it_saw_the_brain():
    labels = head()
    brain = labels.like(np.isin(labels.data, (2, 5)))
    found = labels.like(np.where(brain.data, 2, 3).astype(np.uint8))
    found.data[20, 20, 20] = found.data[30, 20, 20] = 0
    tissue = tissue_of(labels, found=found, brain=brain).data
    assert (tissue[brain.data] > 0).all()
    assert (tissue[20, 20, 20], tissue[30, 20, 20]) == (1, 3)
    others = brain.data.copy()
    others[[20, 30], 20, 20] = False
    assert (tissue[others] == 2).all()
    np.testing.assert_array_equal(tissue[~brain.data], tissue_of(labels).data[~brain.data])


def test_csf_around_the_brain_does_not_swallow_it():
    labels = head()
    csf = csf_structures(tissue_of(labels)).data
    assert not csf[labels.data == 5].any()
    assert csf[np.isin(labels.data, (1, 2))].mean() > 0.9


def test_single_voxels_and_gaps_of_csf_go():
    tissue = tissue_of(head())
    tissue.data[30, 20, 20], tissue.data[20, 20, 20] = 1, 2
    csf = csf_structures(tissue).data
    assert not csf[30, 20, 20]
    assert csf[20, 20, 20]


def test_changing_the_tissue_changes_the_distance_maps():
    """Of FAST, Atropos and the head network alike: the fifth channel is the distance to the CSF that they found."""
    labels = head()
    brain = labels.like(np.isin(labels.data, (2, 5)))
    found = labels.like(tissue_of(labels).data * brain.data)
    other = labels.like(found.data.copy())
    other.data[26:32, 16:24, 16:24] = 1
    one, two = (
        anatomical_coordinates(
            brain, mni_from_world=np.eye(4), csf=csf_structures(tissue_of(labels, found=each, brain=brain)), brain=brain
        )
        for each in (found, other)
    )
    changed = [bool((a != b).any()) for a, b in zip(one, two, strict=True)]
    assert changed == [False, False, False, False, True, False]
    assert two[4, 25, 20, 20] < one[4, 25, 20, 20]
