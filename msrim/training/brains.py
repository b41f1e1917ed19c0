"""Brains synthesised from label maps: anatomies that the few real patients do not show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from msrim.image import Volume
from msrim.preprocess.anatomy import anatomical_coordinates
from msrim.preprocess.normalise import normalise_intensity
from msrim.preprocess.register import register_affine
from msrim.preprocess.template import load_template
from msrim.training import synthesis
from msrim.training.heads import TISSUES, answers, load_head, paint
from msrim.training.lesions import Patient

# FreeSurfer 25 and 57: white matter lesions.
LESION = 1 + TISSUES.index((25, 57))


def synthetic_brain(path: Path, *, contrasts: Sequence[str], seed: int) -> Patient:
    """One brain on a 1 mm grid around it, with the lesions that its label map has, if any.

    Parameters
    ----------
    path : Path
        Label map of a whole head with FreeSurfer values.
    contrasts : sequence of str
        Order of the image channels.
    """
    rng = np.random.default_rng(seed)
    tissues = torch.from_numpy(load_head(path)).long()
    labels = answers()[tissues]
    brain = Volume((labels > 0).numpy(), np.eye(4))
    images = {}
    for contrast in sorted({*contrasts, "T1w"}):
        image = paint(tissues, labels, contrast=contrast, rng=rng, lesions=False)
        image = synthesis.blur(image, sigma_voxels=rng.uniform(0.4, 0.7, 3))
        image = synthesis.add_noise(rng, image, spread=rng.uniform(0, 0.02))
        images[contrast] = normalise_intensity(brain.like(image[0].numpy()), brain)
    mni_from_world = register_affine(images["T1w"], load_template(), moving_mask=brain)
    csf = brain.like(np.isin(labels.numpy(), (1, 2)))
    coordinates = anatomical_coordinates(brain, mni_from_world=mni_from_world, csf=csf, brain=brain)
    box = tuple(slice(where.min(), where.max() + 1) for where in np.nonzero(brain.data))
    shift = np.eye(4)
    shift[:3, 3] = [side.start for side in box]
    return Patient(
        name=path.name.split(".")[0],
        images=torch.from_numpy(np.stack([images[contrast].data[box] for contrast in contrasts])),
        coordinates=torch.from_numpy(np.ascontiguousarray(coordinates[:, *box])),
        lesions=(tissues.numpy() == LESION)[box],
        brain=brain.data[box],
        labels=labels.numpy().astype(np.uint8)[box],
        mni_from_voxel=mni_from_world @ shift,
    )
