"""One visit of one patient before its lesions: every contrast prepared, aligned, and on one working grid.

:func:`prepare` calls the steps in order; each function below it is a step
(:mod:`msrim.workflows.run`): it reads files, calls one room and writes files into its own folder. Images between steps
are uncompressed NIfTI in RAS order; transforms are ITK text files.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from msrim.bids import ANATOMY, Subject, transform_name, write_dataset_description
from msrim.console import Console
from msrim.errors import Doubt, Fallback, InputError, Remark
from msrim.files import write_tsv
from msrim.image import Volume, grid_around, read_volume, resample, same_grid, to_ras, write_volume
from msrim.labels import INFRATENTORIAL, TISSUE_NAMES, Tissue
from msrim.models.registry import Card, read_card
from msrim.preprocess import backends, fsl, plausibility
from msrim.preprocess.backends import kind_of
from msrim.preprocess.background import rest_on_zero
from msrim.preprocess.hindbrain import assign_hindbrain, without_gaps
from msrim.preprocess.masks import clean_mask, foreground, is_brain_alone
from msrim.preprocess.normalise import normalise_intensity
from msrim.preprocess.template import load_template, load_template_brain_mask
from msrim.preprocess.tissue import tissue_of
from msrim.recipe import Recipe
from msrim.results import doubts_of
from msrim.transform import apply_transform, mean_scaling, read_transform, rigid_part, write_transform
from msrim.workflows.inputs import about, check_visit
from msrim.workflows.plan import anatomy_steps
from msrim.workflows.run import Run, files_in

HEAD_MODEL, BRAIN_MODEL = "head", "synthstrip"
TISSUE_PROGRAMS = {"fsl": "FAST", "ants": "Atropos"}
# Below this it isn't an adult's brain, and everything after would be nonsense.
MIN_BRAIN_ML = 300.0
# The largest brains with their CSF have 2 l, and some brain extractions leave dura and eyes.
MAX_BRAIN_ML = 2700.0
# Cerebellum and brainstem of an adult make up 150 ml and more; with less than half, lesions there are missed.
MIN_INFRATENTORIAL_ML = 75.0
# Of the FLAIR's brain, what the T1w may leave out and still be the one whose labels are used: of a field of view that
# is cut, or of a brain mask that differs, the rest has the nearest label.
MAX_UNSEEN = 0.03
# An image whose brain lies under 2 mm from the FLAIR's matches better as it is than after each of these.
SHIFTS_MM = np.diag([4.0, 4.0, 4.0])
# Of the brain; more without a class than this is a remark.
MAX_UNCLASSIFIED = 0.01
# Room around the brain on the working grid, so that the network's first layers see its edge whole.
MARGIN_MM = 4.0


@dataclass(frozen=True)
class Working:
    """A visit on one upright grid in the FLAIR's world, as networks see it.

    Attributes
    ----------
    images : dict of str to Path
        By contrast, intensities normalised.
    brain, labels, tissue : Path
        Brain mask, head labels, and tissue classes: 1 CSF, 2 grey matter, 3 white matter.
    """

    images: dict[str, Path]
    brain: Path
    labels: Path
    tissue: Path


@dataclass(frozen=True)
class AnatomyFiles:
    """Result files of a visit's anatomy, on the grid of the user's FLAIR.

    Attributes
    ----------
    brain, tissue, tissue_table, labels : Path
    transforms : dict of str to Path
        "FLAIR" to MNI152, every other contrast to the FLAIR.
    """

    brain: Path
    tissue: Path
    tissue_table: Path
    labels: Path
    transforms: dict[str, Path]


@dataclass(frozen=True)
class Anatomy:
    """One visit, prepared.

    Attributes
    ----------
    corrected : dict of str to Path
        Every contrast on its own grid in RAS order, without bias field.
    brain : Path
        Brain mask on the grid of the corrected FLAIR.
    to_flair : dict of str to Path
        Rigid transform of every other contrast.
    to_mni : Path
        Affine transform of the FLAIR.
    working : Working
    files : AnatomyFiles
    """

    corrected: dict[str, Path]
    brain: Path
    to_flair: dict[str, Path]
    to_mni: Path
    working: Working
    files: AnatomyFiles


def preprocess_subject(subject: Subject, recipe: Recipe, out: Path, *, console: Console) -> Path:
    """Prepare one visit and stop before the lesions.

    Parameters
    ----------
    subject : Subject
    recipe : Recipe
    out : Path
        Folder of the derivative dataset.
    console : Console
        Where progress goes.

    Returns
    -------
    Path
        The brain mask, on the FLAIR's own grid.

    Raises
    ------
    MsrimError
        An input cannot be used; nothing has been written then.
    """
    anatomy = preprocess_visit(subject, recipe, out, console=console)
    brain = read_mask(anatomy.files.brain)
    brain_ml = np.count_nonzero(brain.data) * brain.voxel_volume_mm3 / 1000
    console.result(f"{brain_ml:.0f} ml of brain", doubts=doubts_of(subject.folder(out)))
    return anatomy.files.brain


def preprocess_visit(subject: Subject, recipe: Recipe, out: Path, *, console: Console) -> Anatomy:
    """Prepare one visit; parameters and errors as :func:`preprocess_subject`."""
    check_visit(subject, recipe, out, cards=[*read_card(recipe.model).single, *anatomy_cards()])
    remarks = tell_images(subject, console)
    folder = subject.folder(out)
    steps, settings = anatomy_steps(subject.contrasts, recipe), recipe.model_dump()
    with Run(folder, console, recipe=settings, inputs=subject.contrasts, remarks=remarks, steps=steps) as run:
        anatomy = prepare(subject, recipe, run, out=out)
        # The report there covers these very steps, and the lesions too where `msrim segment` came before.
        if not (run.all_kept and (folder / "run.json").is_file()):
            write_dataset_description(out)
            run.write_manifest(files_in(anatomy.files))
    return anatomy


def tell_images(subject: Subject, console: Console) -> list[str]:
    """Say which files were taken, and return (for run.json) what speaks against it, which is said too."""
    console.say(subject.chosen())
    remarks = subject.contradictions()
    for remark in remarks:
        console.note(remark)
    return remarks


def anatomy_cards() -> list[Card]:
    """Of the networks that :func:`prepare` runs."""
    return [read_card(BRAIN_MODEL), read_card(HEAD_MODEL)]


def prepare(subject: Subject, recipe: Recipe, run: Run, *, out: Path) -> Anatomy:
    """Every step before the lesions.

    Each contrast by itself, the FLAIR first: reorient, extract the brain, correct the bias. Then together: rigid to the
    FLAIR, affine to MNI152 (of the T1w where there is one: it looks most like the template), label the tissues of one
    of them, and onto one working grid.
    """
    backend = run.prepared_by(recipe.backend)
    images: dict[str, Path] = {}
    brains: dict[str, Path] = {}
    corrected = {}
    for contrast, path in subject.contrasts.items():
        flair = None if contrast == "FLAIR" else (images["FLAIR"], brains["FLAIR"])
        image, brain = _brain_of(contrast, path, recipe, run, backend=backend, flair=flair)
        images[contrast], brains[contrast] = image, brain
        corrected[contrast] = run.step(f"correct_{contrast}", correct, image, brain=brain, backend=backend)
    brain = brains["FLAIR"]
    to_flair = {}
    for contrast in (name for name in corrected if name != "FLAIR"):
        with about(subject.contrasts[contrast]):
            to_flair[contrast] = _align_to_flair(contrast, corrected, brains, run, backend=backend)
    usable = run(find_usable, corrected, brains=brains, to_flair=to_flair, sources=subject.contrasts)
    corrected = {contrast: corrected[contrast] for contrast in usable}
    to_flair = {contrast: to_flair[contrast] for contrast in usable if contrast != "FLAIR"}
    best = "T1w" if "T1w" in corrected else "FLAIR"
    with about(subject.contrasts[best]):
        to_mni = run(
            align_to_template, corrected[best], contrast=best, brain=brain, backend=backend, to_flair=to_flair.get(best)
        )
    run(check_images, corrected, brains=brains, to_mni=to_mni, to_flair=to_flair, sources=subject.contrasts)
    labelled = run(choose_labelled, brains, to_flair=to_flair)
    labels = run(
        label_head,
        images[labelled],
        brain=brains[labelled],
        contrast=labelled,
        card=read_card(HEAD_MODEL),
        device=recipe.device,
    )
    tissue = None
    if kind_of(backend) != "embedded":
        tissue = run(classify_tissue, corrected.get("T1w"), brain=brain, to_flair=to_flair.get("T1w"), backend=backend)
    working = run(
        make_working_images,
        corrected,
        brain=brain,
        labels=labels,
        labelled=labelled,
        to_mni=to_mni,
        to_flair=to_flair,
        tissue=tissue,
    )
    files = run(write_anatomy, subject, out=out, brain=brain, working=working, to_mni=to_mni, to_flair=to_flair)
    return Anatomy(corrected, brain, to_flair, to_mni, working, files)


def _brain_of(
    contrast: str, path: Path, recipe: Recipe, run: Run, *, backend: str, flair: tuple[Path, Path] | None
) -> tuple[Path, Path]:
    """A contrast in RAS order, and its brain mask; ``flair`` is what this returned of the FLAIR."""
    image = run.step(f"reorient_{contrast}", reorient, path, brain_extracted=recipe.brain_extracted)
    brain = run.step(
        f"extract_brain_{contrast}",
        extract_brain,
        image,
        source=path,
        card=read_card(BRAIN_MODEL),
        # Other backends do not matter here, so that SynthStrip's mask is kept when another one is chosen.
        program=backend if kind_of(backend) == "fsl" else BRAIN_MODEL,
        brain_extracted=recipe.brain_extracted,
        device=recipe.device,
        flair=flair,
    )
    return image, brain


def _align_to_flair(
    contrast: str, corrected: dict[str, Path], brains: dict[str, Path], run: Run, *, backend: str
) -> Path:
    """Rigid transform of another contrast to the FLAIR."""
    return run.step(
        f"align_{contrast}",
        align,
        corrected[contrast],
        moving_brain=brains[contrast],
        fixed=corrected["FLAIR"],
        fixed_brain=brains["FLAIR"],
        contrast=contrast,
        backend=backend,
    )


def reorient(path: Path, *, brain_extracted: bool) -> Path:
    """Read and check a user's image; write it in RAS order, with a background of 0."""
    volume = rest_on_zero(read_volume(path), name=path, brain_extracted=brain_extracted)
    return write_volume(to_ras(volume), Path("image.nii"))


def extract_brain(
    image: Path,
    *,
    source: Path,
    card: Card,
    program: str,
    brain_extracted: bool,
    device: str,
    flair: tuple[Path, Path] | None = None,
) -> Path:
    """Brain mask on the image's grid: all that is not background, the FLAIR's, BET's, or SynthStrip's.

    ``program`` is FSL with its version, or BRAIN_MODEL; ``flair`` is the FLAIR and its brain mask. An image that was
    brought to the FLAIR's grid, or taken on it, and matches it shows the same brain.

    Raises
    ------
    InputError
        There is no brain to be seen in the file named ``source``.
    """
    from msrim.models import brain as synthstrip

    volume = read_own(image)
    alone = is_brain_alone(volume)
    if alone and not brain_extracted:
        warnings.warn(
            f"{source}: shows the brain alone; its own outline is the brain mask, as with --brain-extracted",
            Fallback,
            stacklevel=2,
        )
    if brain_extracted and not alone:
        _check_volume(foreground(volume), source, or_else="run without --brain-extracted if it shows the whole head")
        warnings.warn(
            f"{source}: shows more than the brain; its brain mask is found as without --brain-extracted",
            Fallback,
            stacklevel=2,
        )
    if alone:
        brain = clean_mask(foreground(volume), opening_mm=1.0, closing_mm=1.0, largest_only=True)
    elif flair and (shared := shared_brain(volume, read_own(flair[0]), read_mask(flair[1]))):
        brain = shared
    elif program != BRAIN_MODEL:
        brain = fsl.extract_brain(volume)
    else:
        brain = synthstrip.extract_brain(volume, card=card, device=device)
    _check_volume(brain, source, or_else="correct the voxel size in the header")
    return write_volume(brain, Path("brain.nii"))


def shared_brain(volume: Volume, flair: Volume, brain: Volume) -> Volume | None:
    """The FLAIR's brain mask, where an image on the same grid shows anything; None if it lies elsewhere in the image.

    It lies there if both match, and match better than after a shift along any axis.
    """
    if not same_grid(volume, flair):
        return None
    shown = volume.like(ndimage.binary_fill_holes(foreground(volume).data))

    def quality(shift_mm: np.ndarray) -> float:
        pose = np.eye(4)
        pose[:3, 3] = shift_mm
        return plausibility.match(volume, flair, moving_brain=shown, fixed_brain=brain, fixed_from_moving=pose)

    here = quality(np.zeros(3))
    if here < plausibility.MIN_MATCH or any(quality(shift) > here for shift in (*-SHIFTS_MM, *SHIFTS_MM)):
        return None
    return brain.like(brain.data & shown.data)


def _check_volume(brain: Volume, source: Path, *, or_else: str) -> None:
    volume_ml = np.count_nonzero(brain.data) * brain.voxel_volume_mm3 / 1000
    if volume_ml < MIN_BRAIN_ML:
        raise InputError(f"{source}: only {volume_ml:.0f} ml of brain found; check that it shows a whole head")
    if volume_ml > MAX_BRAIN_ML:
        raise InputError(f"{source}: {volume_ml:.0f} ml of brain found; {or_else}")


def choose_labelled(brains: dict[str, Path], *, to_flair: dict[str, Path]) -> str:
    """The contrast for the labels: the T1w, which separates tissues best, where it shows the brain; else the FLAIR."""
    if "T1w" not in to_flair:
        return "FLAIR"
    brain, of_t1w = (read_mask(brains[contrast]) for contrast in ("FLAIR", "T1w"))
    seen = resample(of_t1w, brain, target_from_source=read_transform(to_flair["T1w"]), nearest=True)
    unseen = 1 - np.mean(seen.data[brain.data])
    if unseen <= MAX_UNSEEN:
        return "T1w"
    warnings.warn(
        f"the T1w shows no brain in {100 * unseen:.0f} % of the FLAIR's brain mask: the head labels, which tell the "
        "regions of lesions, are those of the FLAIR",
        Fallback,
        stacklevel=2,
    )
    return "FLAIR"


def label_head(image: Path, *, brain: Path, contrast: str, card: Card, device: str) -> Path:
    """Head labels on a 1 mm grid around the brain."""
    from msrim.models.inference import parse_head

    labels = parse_head(read_own(image), read_mask(brain), contrast=contrast, card=card, device=device)
    return write_volume(labels, Path("labels.nii"))


def _smooth_mask(mask: Volume, target: Volume, *, target_from_source: np.ndarray | None = None) -> Volume:
    """A mask on another grid, its surface half way between inside and outside."""
    inside = resample(mask.like(mask.data.astype(np.float32)), target, target_from_source=target_from_source)
    return target.like(inside.data > 0.5)


def classify_tissue(t1w: Path | None, *, brain: Path, to_flair: Path | None, backend: str) -> Path | None:
    """Tissue classes of the T1w by FAST or Atropos in the FLAIR's brain; None where there is no T1w.

    The embedded backend takes them from the head labels.
    """
    program = TISSUE_PROGRAMS[kind_of(backend)]
    if t1w is None or to_flair is None:
        warnings.warn(
            f"{program} needs a T1w and there is none: the tissue classes are those of the head network",
            Fallback,
            stacklevel=2,
        )
        return None
    image = read_own(t1w)
    mask = _smooth_mask(read_mask(brain), image, target_from_source=np.linalg.inv(read_transform(to_flair)))
    return write_volume(backends.classify_tissue(image, mask, backend=backend), Path("tissue.nii"))


def correct(image: Path, *, brain: Path, backend: str) -> Path:
    """Remove the bias field."""
    return write_volume(
        backends.correct_bias(read_own(image), read_mask(brain), backend=backend), Path("corrected.nii")
    )


def align(moving: Path, *, moving_brain: Path, fixed: Path, fixed_brain: Path, contrast: str, backend: str) -> Path:
    """Rigid transform of another contrast to the FLAIR; the identity where none that was found can be right.

    :func:`find_usable` then takes the contrast if the headers place it well, and leaves it out otherwise.
    """
    try:
        matrix = backends.align(
            read_own(moving),
            read_own(fixed),
            moving_mask=read_mask(moving_brain),
            fixed_mask=read_mask(fixed_brain),
            backend=backend,
            names=(contrast, "FLAIR"),
        )
    except InputError as error:
        warnings.warn(f"{error}; the position in its header counts", Fallback, stacklevel=2)
        matrix = np.eye(4)
    return write_transform(matrix, Path("to_flair.txt"))


def find_usable(
    corrected: dict[str, Path], *, brains: dict[str, Path], to_flair: dict[str, Path], sources: dict[str, Path]
) -> list[str]:
    """The FLAIR, and the contrasts that match it where they were aligned to; another one would mislead the networks."""
    fixed, fixed_brain = read_own(corrected["FLAIR"]), read_mask(brains["FLAIR"])
    usable = ["FLAIR"]
    for contrast, transform in to_flair.items():
        quality = plausibility.match(
            read_own(corrected[contrast]),
            fixed,
            moving_brain=read_mask(brains[contrast]),
            fixed_brain=fixed_brain,
            fixed_from_moving=read_transform(transform),
        )
        if quality >= plausibility.MIN_MATCH:
            usable.append(contrast)
        else:
            warnings.warn(
                f"{sources[contrast]}: does not match the FLAIR and is left out (normalised mutual information "
                f"{quality:.3f}, at least {plausibility.MIN_MATCH} is needed): its alignment failed, or it shows "
                "another patient",
                Fallback,
                stacklevel=2,
            )
    return usable


def check_images(
    corrected: dict[str, Path],
    *,
    brains: dict[str, Path],
    to_mni: Path,
    to_flair: dict[str, Path],
    sources: dict[str, Path],
) -> None:
    """Warn of a brain mask that is not one of a whole brain, and of images with the contrast of others.

    Raises
    ------
    InputError
        FLAIR and T1w are exchanged.
    """
    mni_from_flair, template = read_transform(to_mni), load_template()
    seen = {}
    for contrast, path in corrected.items():
        flair_from_image = np.eye(4) if contrast == "FLAIR" else read_transform(to_flair[contrast])
        seen[contrast] = plausibility.contrast_of(
            read_own(path),
            read_mask(brains[contrast]),
            template=template,
            template_from_image=mni_from_flair @ flair_from_image,
        )
    if seen["FLAIR"] == "T1w" and seen.get("T1w") in ("FLAIR", "T2w"):
        raise InputError(
            f"{sources['FLAIR']} and {sources['T1w']}: the first, given as FLAIR, looks like a T1w, and the second, "
            "given as T1w, does not; exchange them"
        )
    for contrast, other in seen.items():
        if contrast in ("FLAIR", "T1w", "T2w") and other not in (None, contrast):
            warnings.warn(
                f"{sources[contrast]}: given as {contrast}, but looks like a {other}; do not trust the results if it "
                "is one",
                Doubt,
                stacklevel=2,
            )
    faults = plausibility.brain_mask_faults(
        read_own(corrected["FLAIR"]),
        read_mask(brains["FLAIR"]),
        template_brain=load_template_brain_mask(),
        template_from_image=mni_from_flair,
    )
    if faults:
        warnings.warn(
            f"{sources['FLAIR']}: the brain mask {' and '.join(faults)}; look at it before you trust the results",
            Doubt,
            stacklevel=2,
        )


def align_to_template(image: Path, *, contrast: str, brain: Path, backend: str, to_flair: Path | None = None) -> Path:
    """Affine transform from the FLAIR's space to MNI152, measured on the T1w where there is one.

    The brain is always the FLAIR's: it is the mask that the user gets and looks at.
    """
    volume = read_own(image)
    image_from_flair = np.eye(4) if to_flair is None else np.linalg.inv(read_transform(to_flair))
    mask = _smooth_mask(read_mask(brain), volume, target_from_source=image_from_flair)
    template, template_brain = load_template(), load_template_brain_mask()
    matrix = backends.align_to_template(
        volume, template, brain=mask, template_brain=template_brain, backend=backend, name=contrast
    )
    return write_transform(matrix @ image_from_flair, Path("to_mni.txt"))


def make_working_images(
    corrected: dict[str, Path],
    *,
    brain: Path,
    labels: Path,
    labelled: str,
    to_mni: Path,
    to_flair: dict[str, Path],
    tissue: Path | None = None,
) -> Working:
    """Every contrast, brain mask, head labels and tissue classes on one upright grid, intensities normalised.

    Parameters
    ----------
    corrected : dict of str to Path
        By contrast.
    brain : Path
        Of the FLAIR.
    labels : Path
        Head labels of one contrast, ``labelled``.
    labelled : str
    to_mni : Path
    to_flair : dict of str to Path
        Of every contrast but the FLAIR.
    tissue : Path, optional
        Classes of the T1w by another program; those of the head labels if not given, and where it has none.
    """
    mni_from_flair = read_transform(to_mni)
    flair_from = {contrast: read_transform(path) for contrast, path in to_flair.items()}
    grid = working_grid(read_mask(brain), mni_from_flair=mni_from_flair)
    mask = _smooth_mask(read_mask(brain), grid)
    found = resample(read_own(labels), grid, target_from_source=flair_from.get(labelled), nearest=True)
    parsed = assign_hindbrain(without_gaps(found, mask), mni_from_world=mni_from_flair)
    solid = parsed.like(tissue_of(parsed).data > Tissue.CSF)
    images = {}
    for contrast, path in corrected.items():
        image = resample(read_own(path), grid, target_from_source=flair_from.get(contrast))
        image = normalise_intensity(image, mask, tissue=solid)
        images[contrast] = write_volume(image, Path(f"{contrast}.nii"))
    classes = None
    if tissue is not None:
        classes = resample(read_own(tissue), grid, target_from_source=flair_from["T1w"], nearest=True)
        if (unseen := np.mean(classes.data[mask.data] == 0)) > MAX_UNCLASSIFIED:
            warnings.warn(
                f"{100 * unseen:.0f} % of the brain got no tissue class from the T1w: there it is the head network's",
                Fallback,
                stacklevel=2,
            )
    return Working(
        images,
        brain=write_volume(mask, Path("brain.nii")),
        labels=write_volume(parsed, Path("labels.nii")),
        tissue=write_volume(tissue_of(parsed, found=classes, brain=mask), Path("tissue.nii")),
    )


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


def write_anatomy(
    subject: Subject,
    *,
    out: Path,
    brain: Path,
    working: Working,
    to_mni: Path,
    to_flair: dict[str, Path],
) -> AnatomyFiles:
    """Brain mask, tissue classes, head labels and transforms on the grid of the user's FLAIR.

    Parameters
    ----------
    subject : Subject
        The affine of the user's own FLAIR is copied.
    out : Path
    brain : Path
    working : Working
        Its labels and tissue classes have no gaps inside the brain.
    to_mni : Path
    to_flair : dict of str to Path
        Of every contrast but the FLAIR.
    """
    target = read_volume(subject.contrasts["FLAIR"])
    inside = _on(target, read_mask(brain))
    parsed, classes = (
        target.like(resample(read_own(path), target, nearest=True).data * inside.data)
        for path in (working.labels, working.tissue)
    )
    below_ml = np.isin(parsed.data, INFRATENTORIAL).sum() * target.voxel_volume_mm3 / 1000
    if below_ml < MIN_INFRATENTORIAL_ML:
        warnings.warn(
            f"only {below_ml:.0f} ml of cerebellum and brainstem lie in the brain mask: lesions there may be missed",
            Remark,
            stacklevel=2,
        )
    files = subject.outputs(out, ANATOMY)
    transforms = {
        contrast: write_transform(read_transform(path), subject.output(out, transform_name(contrast)))
        for contrast, path in {"FLAIR": to_mni, **to_flair}.items()
    }
    return AnatomyFiles(
        brain=write_volume(inside, files["brain"]),
        labels=write_volume(parsed, files["labels"]),
        tissue=write_volume(classes, files["tissue"]),
        tissue_table=write_tsv(TISSUE_NAMES.items(), files["tissue_table"], columns=("index", "name")),
        transforms=transforms,
    )


def _on(target: Volume, mask: Volume) -> Volume:
    """A mask on the grid of the user's file: the same voxels in another order."""
    moved = resample(mask.like(mask.data.astype(np.uint8)), target, nearest=True)
    return moved.like(moved.data > 0)


def read_own(path: Path) -> Volume:
    """An image that an earlier step wrote: labels keep their type, and all zeros is a valid answer."""
    image = nib.Nifti1Image.from_filename(path)
    return Volume(np.asarray(image.dataobj), image.affine)


def read_mask(path: Path) -> Volume:
    """A mask that an earlier step wrote."""
    return read_volume(path, mask=True, filling=True)
