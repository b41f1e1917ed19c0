"""Brains synthesised from label maps: anatomies that the few real patients do not show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from msrim.image import Volume, grid_around, resample
from msrim.preprocess.coordinates import anatomical_coordinates
from msrim.preprocess.normalise import normalise_intensity
from msrim.preprocess.register import register_affine
from msrim.preprocess.template import load_template
from msrim.preprocess.tissue import csf_structures, tissue_of
from msrim.training import synthesis
from msrim.training.contrasts import TISSUES
from msrim.training.heads import head_label_of_tissue, load_head, paint
from msrim.training.lesions import Patient
from msrim.transform import mean_scaling

# FreeSurfer 25 and 57: white matter lesions.
LESION = 1 + TISSUES.index((25, 57))


def synthetic_brain(path: Path, *, contrasts: Sequence[str], seed: int) -> Patient:
    """One brain with the lesions that its label map has, on a grid as fine for its size as the template's of 1 mm.

    Parameters
    ----------
    path : Path
        Label map of a whole head with FreeSurfer values.
    contrasts : sequence of str
        Order of the image channels.
    """
    rng = np.random.default_rng(seed)
    tissues = torch.from_numpy(load_head(path)).long()
    head = head_label_of_tissue()[tissues]
    brain = Volume((head > 0).numpy(), np.eye(4))
    tissue = brain.like((head > 2).numpy())
    images = {}
    for contrast in sorted({*contrasts, "T1w"}):
        image = paint(tissues, head, contrast=contrast, rng=rng, lesions=False)
        image = synthesis.blur(image, sigma_voxels=rng.uniform(0.4, 0.7, 3))
        image = synthesis.add_noise(rng, image, spread=rng.uniform(0, 0.02))
        images[contrast] = normalise_intensity(brain.like(image[0].numpy()), brain, tissue=tissue)
    mni_from_world = register_affine(images["T1w"], load_template(), moving_mask=brain)
    occupied = np.argwhere(brain.data)
    lowest, spacing_mm = occupied.min(axis=0), 1 / mean_scaling(mni_from_world)
    grid = grid_around(np.ptp(occupied, axis=0) + 1, lowest, spacing_mm=spacing_mm)
    inside, lesions = (
        grid.like(resample(brain.like(mask.astype(np.float32)), grid).data > 0.5)
        for mask in (brain.data, tissues.numpy() == LESION)
    )
    labels = resample(brain.like(head.numpy().astype(np.uint8)), grid, nearest=True)
    csf = csf_structures(tissue_of(labels))
    coordinates = anatomical_coordinates(grid, mni_from_world=mni_from_world, csf=csf, brain=inside)
    seen = [resample(images[contrast], grid).data * inside.data for contrast in contrasts]
    return Patient(
        name=path.name.split(".")[0],
        images=torch.from_numpy(np.stack(seen)).half(),
        coordinates=torch.from_numpy(coordinates).half(),
        lesions=lesions.data,
        brain=inside.data,
        labels=labels.data,
        mni_from_voxel=mni_from_world @ grid.affine,
    )
