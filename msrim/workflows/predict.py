"""A slice network on one image of its single contrast, whatever part of the body it shows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msrim.console import Console
from msrim.errors import InputError
from msrim.image import read_volume, resample, write_volume
from msrim.models.registry import Card, read_card
from msrim.workflows.inputs import check_output_folder
from msrim.workflows.run import Run, files_in


@dataclass(frozen=True)
class Prediction:
    """Mask and probability on the image's own grid."""

    mask: Path
    probability: Path


def predict(model: str, image: Path, out: Path, *, device: str = "auto", console: Console) -> Path:
    """Run a slice network on an image.

    Parameters
    ----------
    model : str
        Of the task "slices" and of one contrast: a name, or folder of a card and its weights.
    image : Path
        Taken as it is, without registration, brain extraction or bias correction. CT in Hounsfield units.
    out : Path
        Gets ``<image>_label-L_mask.nii.gz``, ``<image>_label-L_probseg.nii.gz`` and ``run.json``.
    device : str
    console : Console

    Returns
    -------
    Path
        The mask.

    Raises
    ------
    InputError
        The model is no slice network or takes several contrasts, or the image cannot be used.
    """
    from msrim.models import load_model
    from msrim.models.inference import choose_device

    card = read_card(model)
    if card.task != "slices":
        raise InputError(f"{card.label}: does not work slice by slice (its task is {card.task}); choose another model")
    if len(card.contrasts) > 1:
        names = ", ".join(card.contrasts)
        raise InputError(f"{card.label}: takes several contrasts ({names}); give it to `msrim segment --model`")
    check_output_folder(out)
    choose_device(device)
    load_model(card)
    read_volume(image)
    settings, inputs = {"model": card.label, "device": device}, {card.contrasts[0]: image.absolute()}
    with Run(out, console, recipe=settings, inputs=inputs) as run:
        prediction = run(predict_image, image, card=card, device=device, out=out)
        if not (run.all_kept and (out / "run.json").is_file()):
            run.write_manifest(files_in(prediction))
    return prediction.mask


def predict_image(image: Path, *, card: Card, device: str, out: Path) -> Prediction:
    """Probability slice by slice, and the mask at the card's threshold."""
    from msrim.models.inference import predict_slices

    volume = read_volume(image)
    probability = resample(predict_slices(volume, card=card, device=device), volume)
    probability = volume.like(np.clip(probability.data, 0, 1).astype(np.float32))
    name = re.sub(r"\.nii(\.gz)?$", "", image.name)
    return Prediction(
        mask=write_volume(volume.like(probability.data >= card.threshold), out / f"{name}_label-L_mask.nii.gz"),
        probability=write_volume(probability, out / f"{name}_label-L_probseg.nii.gz"),
    )
