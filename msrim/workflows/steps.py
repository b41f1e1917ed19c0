"""What each step of a subject's graph does: read files, call one room, write files into the step's own folder.

Images between steps are uncompressed NIfTI in RAS order; transforms are ITK text files.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import nibabel as nib
import numpy as np

from msrim.errors import Fallback, InputError
from msrim.image import Volume, grid_around, read_volume, resample, to_ras, write_volume
from msrim.lesions.boundary import sharpest_threshold
from msrim.models.registry import read_card
from msrim.preprocess import fsl
from msrim.preprocess.bias import correct_bias
from msrim.preprocess.labels import settle_labels
from msrim.preprocess.masks import clean_mask, grown_mask
from msrim.preprocess.normalise import normalise_intensity
from msrim.preprocess.register import align_by_volume, is_believable, register_affine, register_rigid
from msrim.preprocess.template import load_template, load_template_brain_mask
from msrim.transform import apply_transform, mean_scaling, read_transform, rigid_part, write_transform

HEAD_MODEL = "head"
# Head label -> tissue class of the *_dseg file: 1 CSF, 2 grey matter, 3 white matter. The brainstem is mostly white.
TISSUE_OF_LABEL = np.array([0, 1, 1, 2, 2, 3, 2, 3, 3], np.uint8)
CSF = 1
# Radii of the brain mask's opening and closing, and the rim of pial surface and CSF that raters include.
OPENING_MM, CLOSING_MM, RIM_MM = 4.0, 7.0, 1.5
# Below this it isn't an adult's brain, and everything after would be nonsense.
MIN_BRAIN_ML = 300.0
# Room around the brain on the working grid, so that the network's first layers see its edge whole.
MARGIN_MM = 4.0


def reorient(path: Path) -> Path:
    """Read and check a user's image; write it in RAS order."""
    return write_volume(to_ras(read_volume(path)), Path("image.nii"))


def label_head(image: Path, *, contrast: str, device: str, brain_extracted: bool) -> Path:
    """Head labels on a 1 mm grid around the image.

    The head network knows no PDw; taken for a FLAIR it gets a rough brain, by which it is registered.
    """
    from msrim.models.inference import parse_head

    card = read_card(HEAD_MODEL)
    seen_as = contrast if contrast in card.contrasts else "FLAIR"
    labels = parse_head(read_volume(image), contrast=seen_as, card=card, device=device, brain_extracted=brain_extracted)
    return write_volume(labels, Path("labels.nii"))


def extract_brain(image: Path, *, labels: Path, source: str, backend: str, brain_extracted: bool) -> Path:
    """Brain mask on the image's grid: all that is not zero, BET's, or the head network's.

    Raises
    ------
    InputError
        There is no brain to be seen in the file named ``source``.
    """
    volume = read_volume(image)
    if brain_extracted:
        brain = clean_mask(volume.like(volume.data > 0), opening_mm=1.0, closing_mm=1.0, largest_only=True)
    elif backend == "fsl":
        brain = fsl.extract_brain(volume)
    else:
        brain = brain_from_labels(read_own(labels), volume)
    volume_ml = np.count_nonzero(brain.data) * brain.voxel_volume_mm3 / 1000
    if volume_ml < MIN_BRAIN_ML:
        raise InputError(f"{source}: only {volume_ml:.0f} ml of brain found; check that it shows a whole head")
    return write_volume(brain, Path("brain.nii"))


def brain_from_labels(labels: Volume, image: Volume) -> Volume:
    """Brain mask on an image's grid from head labels: brain, ventricles and the CSF in the sulci.

    Opening takes off what clings to the surface (dura, eye muscles); closing adds the CSF of the sulci, and a last rim
    the pial surface, as raters' brain masks have them. The wide spaces of CSF around the brain stay outside.
    """
    tissue = labels.like(labels.data >= 2)
    tissue = clean_mask(tissue, opening_mm=OPENING_MM, closing_mm=CLOSING_MM, largest_only=True)
    return _smooth_mask(grown_mask(tissue, by_mm=RIM_MM), image)


def _smooth_mask(mask: Volume, target: Volume, *, target_from_source: np.ndarray | None = None) -> Volume:
    """A mask on another grid, its surface half way between inside and outside."""
    inside = resample(mask.like(mask.data.astype(np.float32)), target, target_from_source=target_from_source)
    return target.like(inside.data > 0.5)


def classify_tissue(image: Path, *, brain: Path) -> Path:
    """FAST's tissue classes of a T1w; the embedded backend takes them from the head labels."""
    return write_volume(fsl.classify_tissue(read_own(image), read_mask(brain)), Path("tissue.nii"))


def correct(image: Path, *, brain: Path) -> Path:
    """Remove the bias field."""
    return write_volume(correct_bias(read_volume(image), read_mask(brain)), Path("corrected.nii"))


def align(moving: Path, *, moving_brain: Path, fixed: Path, fixed_brain: Path, backend: str) -> Path:
    """Rigid transform of another contrast to the FLAIR."""
    register = fsl.register_rigid if backend == "fsl" else register_rigid
    matrix = register(
        read_volume(moving), read_volume(fixed), moving_mask=read_mask(moving_brain), fixed_mask=read_mask(fixed_brain)
    )
    return write_transform(matrix, Path("to_flair.txt"))


def align_to_template(image: Path, *, brain: Path, backend: str, to_flair: Path | None = None) -> Path:
    """Affine transform from the FLAIR's space to MNI152, measured on the T1w where there is one.

    The brain is always the FLAIR's: it is the mask that the user gets and looks at.
    """
    register = fsl.register_affine if backend == "fsl" else register_affine
    volume = read_volume(image)
    image_from_flair = np.eye(4) if to_flair is None else np.linalg.inv(read_transform(to_flair))
    mask = _smooth_mask(read_mask(brain), volume, target_from_source=image_from_flair)
    masks = {"moving_mask": mask, "fixed_mask": load_template_brain_mask()}
    matrix = register(volume, load_template(), **masks)
    if not is_believable(matrix):
        warnings.warn(
            "the affine alignment to the template is not one of a brain; the brain was turned and scaled by its volume "
            "instead: look at the pictures",
            Fallback,
            stacklevel=2,
        )
        matrix = align_by_volume(volume, load_template(), **masks)
    return write_transform(matrix @ image_from_flair, Path("to_mni.txt"))


def make_working_images(
    corrected: Path,
    *,
    brain: Path,
    labels: Path,
    to_mni: Path,
    t1w_labels: Path | None = None,
    t1w: Path | None = None,
    t2w: Path | None = None,
    pdw: Path | None = None,
    t1w_to_flair: Path | None = None,
    t2w_to_flair: Path | None = None,
    pdw_to_flair: Path | None = None,
) -> tuple[dict[str, Path], Path, Path]:
    """Every contrast, the brain mask and the head labels on one upright grid, intensities normalised."""
    mni_from_flair = read_transform(to_mni)
    grid = working_grid(read_mask(brain), mni_from_flair=mni_from_flair)
    mask = _smooth_mask(read_mask(brain), grid)
    of_t1w = None
    if t1w_labels is not None:
        of_t1w = resample(read_own(t1w_labels), grid, target_from_source=read_transform(t1w_to_flair), nearest=True)
    of_flair = resample(read_own(labels), grid, nearest=True)
    parsed = settle_labels(of_flair, of_t1w, brain=mask, mni_from_world=mni_from_flair)
    tissue = parsed.like(TISSUE_OF_LABEL[parsed.data] > CSF)
    images = {}
    others = (("T1w", t1w, t1w_to_flair), ("T2w", t2w, t2w_to_flair), ("PDw", pdw, pdw_to_flair))
    for name, path, transform in (("FLAIR", corrected, None), *others):
        if path is not None:
            matrix = None if transform is None else read_transform(transform)
            image = resample(read_own(path), grid, target_from_source=matrix)
            image = normalise_intensity(image, mask, tissue=tissue)
            images[name] = write_volume(image, Path(f"{name}.nii"))
    return images, write_volume(mask, Path("brain.nii")), write_volume(parsed, Path("labels.nii"))


def working_grid(brain: Volume, *, mni_from_flair: np.ndarray) -> Volume:
    """A grid around the brain that stands upright and is as fine for its size as the template's of 1 mm.

    Brains differ by a third in volume; what a network learned of sizes and distances holds for all of them this way.

    Parameters
    ----------
    brain : Volume of bool
    mni_from_flair : (4, 4) float
        Only its rotation and its mean scaling are used.

    Returns
    -------
    Volume
        Empty, in the FLAIR's world.
    """
    upright = rigid_part(mni_from_flair)
    points = apply_transform(upright @ brain.affine, np.argwhere(brain.data))
    low, high = points.min(axis=0) - MARGIN_MM, points.max(axis=0) + MARGIN_MM
    grid = grid_around(high - low, low, spacing_mm=1 / mean_scaling(mni_from_flair), multiple=16)
    return Volume(grid.data, np.linalg.inv(upright) @ grid.affine)


def find_lesions(
    images: dict[str, Path], *, brain: Path, labels: Path, to_mni: Path, model: str, sha256: str, device: str
) -> tuple[Path, Path]:
    """Probabilities of lesion and of lesion centre on the working grid; the sum makes other weights another step."""
    from msrim.models import inference

    lesion, sphere = inference.find_lesions(
        {name: read_own(path) for name, path in images.items()},
        labels=read_own(labels),
        brain=read_mask(brain),
        mni_from_world=read_transform(to_mni),
        card=read_card(model),
        device=device,
    )
    return write_volume(lesion, Path("lesion.nii")), write_volume(sphere, Path("sphere.nii"))


def choose_threshold(
    images: dict[str, Path], *, brain: Path, lesion: Path, within: tuple[float, float], default: float
) -> float:
    """The probability from which on a voxel of this patient is lesion, by the edges of the FLAIR."""
    flair = read_own(images["FLAIR"])
    return sharpest_threshold(read_own(lesion), flair, brain=read_mask(brain), within=within, default=default)


def read_own(path: Path) -> Volume:
    """An image that an earlier step wrote: labels keep their type, and all zeros is a valid answer."""
    image = nib.load(path)
    return Volume(np.asarray(image.dataobj), image.affine)


def read_mask(path: Path) -> Volume:
    """A mask that an earlier step wrote."""
    return read_volume(path, mask=True)
