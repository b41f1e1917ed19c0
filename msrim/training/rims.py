"""Training rim networks on a cohort: lesions from disk, batches, and the loop."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msrim.console import Console
from msrim.errors import InputError
from msrim.image import read_labels, read_volume, same_grid
from msrim.lesions.patches import SPACING_MM, cut_patches, susceptibility_ppm
from msrim.lesions.radiomics import FIRST_ORDER_COLUMNS, lesion_features
from msrim.models import channels_innermost, write_weights
from msrim.models.networks.aprl import Forest
from msrim.models.networks.qsmrimnet import Scale
from msrim.models.rims import Inputs, network_inputs
from msrim.preprocess.normalise import normalise_intensity
from msrim.recipe import MILESTONES, Optimiser
from msrim.training.loop import Descent, Record

# Room around the patches for turned, scaled and shifted ones, voxels on each side.
MARGIN = (4, 4, 1)
# Augmentation as printed (Zhang et al. 2022, section 2.3): one axis mirrored or not, turned about the slices' normal,
# scaled, blurred in the plane and across slices.
MAX_ANGLE_DEG = 5.0
SCALE = (0.95, 1.05)
BLUR_PLANE, BLUR_ACROSS = (0.1, 0.95), (0.03, 0.3)


@dataclass(frozen=True, eq=False)
class RimLesions:
    """Lesions of a cohort.

    Attributes
    ----------
    patches : (N, 3, X, Y, Z) float16
        QSM, FLAIR and lesion, with a margin around what the network sees; (N, 3, 0, 0, 0) where it sees no image.
    features : (N, 527) float64 or None
    labels : (N,) bool
        Rim+, by the raters.
    truth : (N,) bool
        Rim+, as it was made.
    subjects : (N,) int
        Whose lesion it is: index into ``names``.
    names : tuple of str
    kinds : (N,) str or None
        Kind of each simulated lesion; empty where the table has none.
    """

    patches: np.ndarray
    features: np.ndarray | None
    labels: np.ndarray
    truth: np.ndarray
    subjects: np.ndarray
    names: tuple[str, ...]
    kinds: np.ndarray | None = None

    def of(self, chosen: np.ndarray) -> RimLesions:
        """Some of the lesions, by (N,) bool."""
        features, kinds = (None if part is None else part[chosen] for part in (self.features, self.kinds))
        return RimLesions(
            self.patches[chosen],
            features,
            self.labels[chosen],
            self.truth[chosen],
            self.subjects[chosen],
            self.names,
            kinds,
        )


def read_cohort(
    data: Path, *, kind: Inputs, console: Console, cache: Path | None = None, margin: Sequence[int] = MARGIN
) -> RimLesions:
    """Read the lesions of a cohort that `msrim simulate rim-cohort` made, or one in the same order.

    Parameters
    ----------
    data : Path
        ``sub-*/anat`` with ``_Chimap`` and ``_FLAIR`` on one grid; under ``derivatives/truth`` the lesions
        (``_seg-lesions_dseg``) and ``_desc-lesions.tsv`` with columns ``id``, ``rim`` and, where known, ``truth`` and
        ``kind``.
    kind : Inputs
        Inputs of the network.
    console : Console
        Gets a line about each subject.
    cache : Path, optional
        Folder that keeps radiomic features.
    margin : (3,) int
        Voxels around what the network sees, on each side.

    Raises
    ------
    InputError
        No subject, or one that is not complete.
    """
    folders = sorted(folder for folder in data.glob("sub-*") if folder.is_dir())
    if not folders:
        raise InputError(f"{data}: no sub-* folders; make a cohort with `msrim simulate rim-cohort`")
    size = None
    if kind.patch is not None:
        x, y, z = (n + 2 * m for n, m in zip(kind.patch, margin, strict=True))
        size = (x, y, z)
    parts = []
    with console.progress({folder.name: 1.0 for folder in folders}):
        for folder in folders:
            console.started(folder.name)
            parts.append(_read_subject(folder, data, size=size, kind=kind, cache=cache))
            console.finished(folder.name, f"{len(parts[-1].labels)} lesions read")
    return together(parts)


def together(parts: Sequence[RimLesions]) -> RimLesions:
    """Lesions of several cohorts as those of one; a subject of one is nobody's of another, whatever the names.

    Examples
    --------
    >>> none = np.zeros(2, bool)
    >>> one = RimLesions(np.zeros((2, 3, 0, 0, 0)), None, none, none, np.array([0, 1]), ("sub-1", "sub-2"))
    >>> together([one, one]).subjects.tolist()
    [0, 1, 2, 3]
    """
    before = np.cumsum([0, *(len(part.names) for part in parts)])

    def all_of(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if any(value is None for value in values) else np.concatenate(values)

    return RimLesions(
        **{name: all_of(name) for name in ("patches", "features", "labels", "truth", "kinds")},
        subjects=np.concatenate([part.subjects + first for part, first in zip(parts, before, strict=False)]),
        names=tuple(name for part in parts for name in part.names),
    )


def _read_subject(
    folder: Path, data: Path, *, size: tuple[int, int, int] | None, kind: Inputs, cache: Path | None
) -> RimLesions:
    name, derived = folder.name, data / "derivatives" / "truth" / folder.name / "anat"
    qsm, _ = susceptibility_ppm(read_volume(folder / "anat" / f"{name}_Chimap.nii.gz"), name=name)
    instances = read_labels(derived / f"{name}_seg-lesions_dseg.nii.gz")
    rows = _read_labels(derived / f"{name}_desc-lesions.tsv")
    if len(rows) != len(np.unique(instances.data)) - 1:
        raise InputError(f"{derived}: {len(rows)} rows in the table, but not as many lesions in the instance map")
    patches = np.zeros((len(rows), 3, 0, 0, 0), np.float16)
    if size is not None:
        flair = read_volume(folder / "anat" / f"{name}_FLAIR.nii.gz")
        if not (same_grid(qsm, flair) and same_grid(qsm, instances)):
            raise InputError(f"{folder}: QSM, FLAIR and lesions lie on different grids; bring them onto the QSM's")
        flair = normalise_intensity(flair, qsm.like(qsm.data != 0))
        patches = cut_patches(qsm, flair, instances, size=size).images.astype(np.float16)
    return RimLesions(
        patches,
        lesion_features(qsm, instances, first_order=kind.first_order, cache=cache) if kind.features else None,
        np.array([row["rim"] == "true" for row in rows], bool),
        np.array([row.get("truth", row["rim"]) == "true" for row in rows], bool),
        np.zeros(len(rows), int),
        (name,),
        np.array([row.get("kind", "") for row in rows], str),
    )


@dataclass(frozen=True)
class RimFitting:
    """How a rim network is fitted.

    Attributes
    ----------
    steps, batch_size : int
        Batch ``i`` is a function of ``seed`` and ``i`` alone.
    learning_rate : float
    optimiser : Optimiser
    rim_share : float
        See :func:`draw_batch`.
    max_angle_deg, max_shift_mm, flair_gain : float
        See :func:`augment`.
    seed : int
    report_every : int
        Steps.
    """

    steps: int
    batch_size: int = 64
    learning_rate: float = 1e-4
    optimiser: Optimiser = MILESTONES
    rim_share: float = 0.0
    max_angle_deg: float = MAX_ANGLE_DEG
    max_shift_mm: float = 0.0
    flair_gain: float = 1.0
    seed: int = 0
    report_every: int = 25


def fit_rims(
    network: nn.Module,
    lesions: RimLesions,
    *,
    kind: Inputs,
    out: Path,
    how: RimFitting,
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Train and write the weights.

    Parameters
    ----------
    network : nn.Module
        A rim network; its scaling of features is fitted to ``lesions`` first.
    kind : Inputs
    out : Path
        Folder for ``weights.safetensors``, ``checkpoint.pt`` and ``loss.csv``. A checkpoint found there is continued.
    how : RimFitting
    report : callable
        Gets a line now and then.

    Returns
    -------
    Path
        The weights file.

    Notes
    -----
    Binary cross-entropy.
    """
    device = next(network.parameters()).device
    for module in network.modules():
        if isinstance(module, Scale):
            module.fit(torch.from_numpy(lesions.features))
    # Two thirds of the time of the other order on a processor.
    channels_innermost(network)
    descent = Descent(network, how.optimiser, learning_rate=how.learning_rate, steps=how.steps)
    record = Record(out, descent.parts, steps=how.steps, report_every=how.report_every, report=report)
    # A GPU turns and blurs them itself: a processor would make samples slower than the GPU trains on them.
    patches = torch.from_numpy(lesions.patches).to(device)
    features = None if lesions.features is None else torch.from_numpy(lesions.features).float().to(device)
    network.train()
    for step in range(record.first, how.steps):
        torch.manual_seed(hash((how.seed, step)))
        rng = np.random.default_rng((how.seed, step))
        drawn = draw_batch(lesions.labels, how.batch_size, rng=rng, rim_share=how.rim_share)
        index, labels = (part.to(device) for part in drawn)
        moved = np.random.default_rng((how.seed, step, 1))
        moving = {name: getattr(how, name) for name in ("max_angle_deg", "max_shift_mm", "flair_gain")}
        images = augment(patches[index].float(), kind.patch, **moving, rng=moved)
        given = network_inputs(kind, images, None if features is None else features[index])
        if getattr(network, "smote", False):
            given.append(labels)
        # No bfloat16: on a processor the weights' gradient of a convolution that is wider than its input is garbage
        # then (oneDNN leaves what only padding touches as the memory was), and slices here come down to one.
        loss = rim_loss(network(*given), labels)
        descent.step(step, loss)
        record.add(step, loss.item())
    return write_weights(network, out / "weights.safetensors")


def rim_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy; rows beyond the labels are synthetic rim+ (DeepSMOTE).

    Examples
    --------
    >>> round(float(rim_loss(torch.zeros(3), torch.zeros(2))), 4)
    0.6931
    """
    return F.binary_cross_entropy_with_logits(logits, F.pad(labels, (0, len(logits) - len(labels)), value=1.0))


def draw_batch(
    labels: np.ndarray, size: int, *, rng: np.random.Generator, rim_share: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Rows of a batch and their labels (size,) float.

    Parameters
    ----------
    labels : (N,) bool
        Rim+.
    size : int
    rng : numpy.random.Generator
    rim_share : float
        Share of the batch that is rim+; with 0 rows are drawn as they come, one in 24 of a cohort's.
    """
    if rim_share == 0:
        chosen = rng.choice(len(labels), size, replace=size > len(labels))
    else:
        rims = round(rim_share * size)
        chosen = np.concatenate([
            rng.choice(np.flatnonzero(labels), rims), rng.choice(np.flatnonzero(~labels), size - rims)
        ])  # fmt: skip
    return torch.from_numpy(chosen), torch.from_numpy(labels[chosen]).float()


def augment(
    patches: Tensor,
    size: Sequence[int] | None,
    *,
    max_angle_deg: float = MAX_ANGLE_DEG,
    max_shift_mm: float = 0.0,
    flair_gain: float = 1.0,
    rng: np.random.Generator,
) -> Tensor:
    """Mirror, turn, scale, shift and blur, each lesion in its own way; cut to ``size``.

    Parameters
    ----------
    patches : (N, 3, X, Y, Z)
        With MARGIN, on any device.
    size : (3,) int or None
        With None the patches come back: there is no image.
    max_angle_deg : float
        Turned by as much at most, to either side. Corners that then lie beyond the margin repeat its border.
    max_shift_mm : float
        Along each axis at most, to either side. A lesion as `msrim segment` finds it, or a part of one that was
        separated, does not lie where raters drew it, and its patch is cut around its own middle.
    flair_gain : float
        The FLAIR is multiplied or divided by as much at most. How bright lesions are on it depends on the sequence, and
        a network that has seen one of them alone takes no lesion of another for one with a rim.
    """
    if size is None:
        return patches
    n, _, *whole = patches.shape
    device = patches.device
    angle = np.radians(rng.uniform(-max_angle_deg, max_angle_deg, n))
    scale = rng.uniform(*SCALE, n)
    mirror = np.ones((n, 3))
    mirror[np.arange(n), rng.integers(3, size=n)] = rng.choice((-1.0, 1.0), n)
    matrix = np.zeros((n, 3, 3))
    matrix[:, 0, 0] = matrix[:, 1, 1] = np.cos(angle)
    matrix[:, 1, 0] = np.sin(angle)
    matrix[:, 0, 1] = -matrix[:, 1, 0]
    matrix[:, 2, 2] = 1
    matrix *= scale[:, None, None] * mirror[:, None]
    # grid_sample counts axes from the last, and from -1 to 1 over the whole patch.
    half = (np.array(whole) - 1) / 2
    wanted = [(np.arange(k) - (k - 1) / 2) for k in size]
    points = np.stack(np.meshgrid(*wanted, indexing="ij"), axis=-1).reshape(-1, 3)
    to_places = (matrix / half[:, None])[:, ::-1].transpose(0, 2, 1).copy()
    places = torch.from_numpy(points).to(device) @ torch.from_numpy(to_places).to(device)
    if max_shift_mm > 0:
        shift = rng.uniform(-max_shift_mm, max_shift_mm, (n, 1, 3)) / SPACING_MM / half
        places = places + torch.from_numpy(shift[..., ::-1].copy()).to(device)
    grid = places.float().reshape(n, *size, 3)
    sampled = F.grid_sample(patches, grid, padding_mode="border", align_corners=True)
    plane, across = rng.uniform(*BLUR_PLANE, n), rng.uniform(*BLUR_ACROSS, n)
    images = sampled[:, :2]
    for axis, sigma in (("x", plane), ("y", plane), ("z", across)):
        blur = _gaussians(size, axis, sigma).to(device)
        images = torch.einsum(f"ncxyz,nw{axis}->nc{'xyz'.replace(axis, 'w')}", images, blur)
    sampled[:, :2] = images
    if flair_gain > 1:
        most = np.log(flair_gain)
        gain = torch.from_numpy(np.exp(rng.uniform(-most, most, n))).float().to(device)
        sampled[:, 1] *= gain[:, None, None, None]
    return sampled


def _gaussians(size: Sequence[int], axis: str, sigma: np.ndarray) -> Tensor:
    """Each lesion's blur along an axis as a matrix (N, k, k); at the ends what lies beyond counts as nothing."""
    steps = np.arange(size["xyz".index(axis)])
    away = np.abs(steps[:, None] - steps)
    sigma = sigma[:, None, None]
    weight = np.exp(-0.5 * (away / sigma) ** 2) * (away <= np.floor(4 * sigma + 0.5))
    return torch.from_numpy(weight / weight.sum(axis=2, keepdims=True)).float()


def fit_forest(lesions: RimLesions, *, trees: int = 200, seed: int = 0) -> Forest:
    """APRL: rim+ lesions oversampled to as many as the others, and a random forest on the first-order features."""
    from imblearn.over_sampling import SMOTE
    from sklearn.ensemble import RandomForestClassifier

    if lesions.features is None:
        raise ValueError("the forest needs the lesions' radiomic features")
    known = np.nan_to_num(lesions.features[:, FIRST_ORDER_COLUMNS])
    neighbours = min(5, int(lesions.labels.sum()) - 1)
    rows, labels = SMOTE(k_neighbors=neighbours, random_state=seed).fit_resample(known, lesions.labels)
    forest = RandomForestClassifier(trees, random_state=seed).fit(rows, labels)
    return Forest.of(forest, columns=FIRST_ORDER_COLUMNS)


def _read_labels(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream, delimiter="\t"))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); every subject needs a table of rims") from error
