"""Running the packaged networks on whole brains."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from msrim.errors import BackendError, Fallback
from msrim.image import Volume, grid_along, resample, to_ras
from msrim.models import channels_innermost, load_model, plane_of
from msrim.models.networks.coactseg import CLASSES, lesion_probabilities
from msrim.models.registry import Card
from msrim.models.sliding import STRIDE, slide
from msrim.preprocess.coordinates import anatomical_coordinates
from msrim.preprocess.ct import prepare_ct
from msrim.preprocess.masks import hysteresis, remove_superficial
from msrim.preprocess.tissue import csf_structures

MULTIPLE = 16
# Room around the brain in which the head network sees that it ends.
HEAD_MARGIN_MM = 4.0
# Vessels and flowing CSF at the base of the brain and in the upper neck are as bright as lesions. They keep to the
# surface; a lesion lies in white matter or reaches it from the cortex, up to 4 mm thick under the mask's rim of 1.5 mm.
# Of 3,096 lesions that experts marked in 29 patients (Lesjak et al. 2017) only one, of 3 mm3, lies nowhere deeper in
# the template's brain, where their masks are.
SURFACE_MM = 5.5
# Every lesion has a core of ten times the odds of the threshold. Chosen with patients left out of training in view: 3
# to 20 times left their Dice as it was within 0.02, and took the more false lesions away the more it was.
CORE_ODDS = 10.0
# Log odds where a slice network was shown nothing.
UNSEEN = -np.inf


def choose_device(name: str) -> torch.device:
    """The device of ``auto``, ``cpu`` or ``cuda``.

    Raises
    ------
    BackendError
        CUDA is asked for and not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise BackendError("cuda: no CUDA device that torch can use; run with --device cpu or see `msrim doctor`")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device calculates in bfloat16 itself; where it does not, float32 is faster."""
    return device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()


def parse_head(volume: Volume, brain: Volume, *, contrast: str, card: Card, device: str = "cpu") -> Volume:
    """Tissue labels of a brain.

    Parameters
    ----------
    volume : Volume
        In any orientation and resolution.
    brain : Volume of bool
        Brain mask on the same grid. Tissue outside is blanked: fat and muscles of a clinic's FLAIR are brighter than
        all else, and would decide the scaling of the intensities.
    contrast : str
        One of the card's.
    card : Card
        Of the head network.

    Returns
    -------
    Volume of uint8
        Head labels on a 1 mm grid around the brain, along the image's own axes in RAS order; background outside the
        mask alone: inside, the likeliest label of the brain counts, however background-like it looks.
    """
    volume, brain = to_ras(volume), to_ras(brain)
    grid = grid_along(volume, brain.data, margin_mm=HEAD_MARGIN_MM, multiple=MULTIPLE)
    image = scale_intensities(resample(volume.like(np.where(brain.data, volume.data, 0)), grid).data)
    channels = np.zeros((1, len(card.contrasts), *grid.shape), np.float32)
    channels[0, card.contrasts.index(contrast)] = image
    logits = run_network(load_model(card), channels, device=device)[0]
    labels = (logits[1:].argmax(0) + 1).to(torch.uint8).numpy()
    return Volume(labels * resample(brain, grid, nearest=True).data.astype(np.uint8), grid.affine)


def scale_intensities(image: np.ndarray) -> np.ndarray:
    """Map the 0.5th and 99.5th percentile of the non-zero voxels to 0 and 1 and cut what lies outside."""
    values = image[image > 0]
    if not values.size:
        # Empty; brain extraction warns of it.
        return np.zeros_like(image)
    low, high = np.percentile(values, [0.5, 99.5])
    return np.clip((image - low) / max(high - low, 1e-6), 0, 1)


def find_lesions(
    images: dict[str, Volume],
    *,
    tissue: Volume,
    brain: Volume,
    mni_from_world: np.ndarray,
    card: Card,
    device: str = "cpu",
) -> tuple[Volume, Volume]:
    """Probability of lesion by :func:`network_predictions` and :func:`keep_plausible`, and of a lesion's centre."""
    lesion, sphere = network_predictions(
        images, tissue=tissue, brain=brain, mni_from_world=mni_from_world, card=card, device=device
    )
    return keep_plausible(lesion, brain), sphere


def keep_plausible(lesion: Volume, brain: Volume) -> Volume:
    """Probability of lesion without findings that cannot be lesions.

    Findings that nowhere reach deeper than SURFACE_MM below the brain's surface go, and those that nowhere have
    CORE_ODDS times the odds of the threshold; whichever threshold is applied, see :mod:`msrim.preprocess.masks`.
    """
    return hysteresis(remove_superficial(lesion, brain, deeper_than_mm=SURFACE_MM), core_odds=CORE_ODDS)


def network_predictions(
    images: dict[str, Volume],
    *,
    tissue: Volume,
    brain: Volume,
    mni_from_world: np.ndarray,
    card: Card,
    device: str = "cpu",
) -> tuple[Volume, Volume]:
    """The networks' probabilities of lesion, and of lying within 5 mm of a lesion's centre, on the working grid.

    Several models decide by the mean of their log odds; a network that compares visits takes its heads for all
    lesions. Only ALL-Net knows centres; where no model does the second is zero everywhere.

    Parameters
    ----------
    images : dict of str to Volume
        Normalised contrasts on the working grid; contrasts that a model knows and the patient lacks stay zero.
    tissue, brain : Volume
        Tissue classes, whose CSF makes the distance maps, and brain mask on the same grid.
    mni_from_world : (4, 4) float
    card : Card
        Of one model or of several.
    """
    lesions, spheres = [], []
    csf = csf_structures(tissue)
    for each in card.single:
        network, channels = load_model(each), _channels(images, brain=brain, card=each)
        if each.task == "slices":
            lesions.append(_slice_logits(network, channels, device=device))
        elif each.task == "longitudinal":
            lesions.append(_single_visit_logits(network, channels, brain=brain, device=device))
        else:
            coordinates = anatomical_coordinates(brain, mni_from_world=mni_from_world, csf=csf, brain=brain)
            stack = np.concatenate([channels, coordinates])[None]
            lesion, sphere = run_network(network, stack, device=device)[0].numpy()
            lesions.append(lesion)
            spheres.append(sphere)
    return _mean_probability(lesions, brain), _mean_probability(spheres, brain)


def predict_slices(image: Volume, *, card: Card, device: str = "cpu") -> Volume:
    """Probability of lesion by a slice network of one contrast.

    Parameters
    ----------
    image : Volume
        Of that contrast; a CT is prepared as in training (:func:`msrim.preprocess.ct.prepare_ct`), any other image is
        taken in RAS order as it is.
    card : Card
        Of the task "slices".

    Returns
    -------
    Volume of float32
        On the grid that the network sees; 0 beyond its plane.
    """
    seen = prepare_ct(image) if card.contrasts == ("CT",) else to_ras(image)
    logits = _slice_logits(load_model(card), seen.data[None].astype(np.float32), device=device)
    return seen.like(expit(logits).astype(np.float32))


def find_changes(
    baseline: np.ndarray,
    followup: np.ndarray,
    *,
    card: Card,
    device: str = "cpu",
    stride: int = STRIDE,
    both_ways: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Run a pair through the network both ways round, so that swapping the visits swaps the predictions exactly.

    Parameters
    ----------
    baseline, followup : (X, Y, Z) float32
        FLAIRs on one grid of ``card.spacing_mm``, intensities matched, zero mean and unit deviation inside the brain.
    card : Card
        Of a network with the task "longitudinal".
    stride : int
        From one window to the next, voxels.
    both_ways : bool
        If not, lesions at either visit are predicted from the pair in its order alone, as in the paper.

    Returns
    -------
    lesions : (2, X, Y, Z) float32
        Probability of lesion at baseline and at follow-up, each the mean of both ways.
    changes : (2, X, Y, Z) float32
        Probability of vanished and of new tissue.
    """
    predict = prepare_network(load_model(card), device=device)

    def one_way(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        logits = slide(predict, np.stack([first, second, second - first]), stride=stride)
        return lesion_probabilities(logits[None])[0].numpy()

    forth, back = one_way(baseline, followup), one_way(followup, baseline)
    if not both_ways:
        return forth[:2], np.stack([back[2], forth[2]])
    lesions = np.stack([(forth[0] + back[1]) / 2, (back[0] + forth[1]) / 2])
    return lesions, np.stack([back[2], forth[2]])


def _mean_probability(logits: list[np.ndarray], brain: Volume) -> Volume:
    """By the mean log odds, float32; zero outside the brain, and where no model knows."""
    return brain.like(expit(np.mean(logits, axis=0)) * brain.data if logits else np.zeros(brain.shape, np.float32))


def _channels(images: dict[str, Volume], *, brain: Volume, card: Card) -> np.ndarray:
    """The card's contrasts in its order and range: (C, X, Y, Z) float32."""
    empty = np.zeros(brain.shape, np.float32)
    channels = np.stack([images[name].data if name in images else empty for name in card.contrasts])
    return channels if card.intensity_range is None else np.clip(channels, *card.intensity_range) * brain.data


def _slice_logits(network: nn.Module, channels: np.ndarray, *, device: str) -> np.ndarray:
    """Log odds of lesion (X, Y, Z) by a network of slices, which sees the middle of each."""
    seen = z_scored(fit_to_plane(channels, plane_of(network)))[None]
    logits = run_network(network, seen, device=device)[0, 0].numpy()
    return fit_to_plane(logits, channels.shape[1:3], fill=UNSEEN)


def _single_visit_logits(network: nn.Module, channels: np.ndarray, *, brain: Volume, device: str) -> np.ndarray:
    """Log odds of lesion (X, Y, Z) by a network that compares visits, which is shown one as if nothing had changed.

    As in training, the image has zero mean and unit deviation inside the brain; both heads for all lesions count.
    """
    image = (channels[0] - channels[0][brain.data].mean()) / max(float(channels[0][brain.data].std()), 1e-6)
    image = (image * brain.data).astype(np.float32)
    logits = slide(prepare_network(network, device=device), np.stack([image, image, np.zeros_like(image)])).numpy()
    odds = logits[1::CLASSES] - logits[::CLASSES]
    return odds[:2].mean(axis=0)


def fit_to_plane(data: np.ndarray, plane: Sequence[int], *, fill: float = 0) -> np.ndarray:
    """Cut or pad around the middle so that the axes before the last are of a size.

    Parameters
    ----------
    data : (..., X, Y, Z) array
    plane : (2,) int
    fill : float
        Value of the padding.

    Examples
    --------
    >>> fit_to_plane(np.arange(1, 7).reshape(2, 3, 1), (4, 1))[..., 0].tolist()
    [[0], [2], [5], [0]]
    """
    for axis, size in zip((-3, -2), plane, strict=True):
        before = (data.shape[axis] - size) // 2
        if before >= 0:
            data = np.take(data, range(before, before + size), axis=axis)
        else:
            missing = size - data.shape[axis]
            widths = [(0, 0)] * data.ndim
            widths[axis] = (missing // 2, missing - missing // 2)
            data = np.pad(data, widths, constant_values=fill)
    return data


def z_scored(image: np.ndarray) -> np.ndarray:
    """Each channel of a scan less its mean, by its standard deviation: (C, X, Y, Z) float32; a constant one is zero.

    Over the whole volume, as in the paper: SCP's classifier goes without a bias because its input has none.

    Examples
    --------
    >>> z_scored(np.array([[[[1.0, 3.0]]]]))[0, 0, 0].tolist()
    [-1.0, 1.0]
    """
    axes = (1, 2, 3)
    spread = image.std(axis=axes, keepdims=True)
    return ((image - image.mean(axis=axes, keepdims=True)) / np.where(spread > 0, spread, 1)).astype(np.float32)


def run_network(network: nn.Module, channels: np.ndarray, *, device: str) -> Tensor:
    """Logits (N, K, X, Y, Z) float32 on the CPU of one whole volume, see :func:`prepare_network`."""
    return prepare_network(network, device=device)(channels)


def prepare_network(network: nn.Module, *, device: str) -> Callable[[np.ndarray], Tensor]:
    """A network as a function: channels (N, C, X, Y, Z) float32 in, logits (N, K, X, Y, Z) float32 on the CPU out.

    bfloat16 where the processor has instructions for it, else float32. A GPU whose memory is too small falls back to
    the CPU, with a :class:`Fallback` warning.
    """
    network, chosen = without_batch_norm(network), choose_device(device)

    def predict(channels: np.ndarray) -> Tensor:
        try:
            return _forward(network, channels, chosen)
        except torch.cuda.OutOfMemoryError:
            warnings.warn("GPU memory is too small for this volume; the network ran on the CPU", Fallback, stacklevel=2)
            return _forward(network, channels, torch.device("cpu"))

    return predict


def without_batch_norm(network: nn.Module) -> nn.Module:
    """A copy for inference whose convolutions do what the batch norms behind them did: as right, and a sixth faster.

    Examples
    --------
    >>> without_batch_norm(nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2)).eval())
    Sequential(
      (0): Conv3d(1, 2, kernel_size=(1, 1, 1), stride=(1, 1, 1))
      (1): Identity()
    )
    """
    network = copy.deepcopy(network)
    for block in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for index, (layer, norm) in enumerate(pairwise(list(block))):
            if isinstance(layer, nn.Conv3d) and isinstance(norm, nn.BatchNorm3d):
                block[index], block[index + 1] = fuse_conv_bn_eval(layer, norm), nn.Identity()
    return network


def _forward(network: nn.Module, channels: np.ndarray, device: torch.device) -> Tensor:
    # Channels innermost: bfloat16 convolutions in 3-D take 0.6 of the time on a CPU, and give the same.
    network = channels_innermost(network.to(device))
    stack = torch.from_numpy(channels).to(device).contiguous(memory_format=torch.channels_last_3d)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device)):
        return network(stack).float().cpu().contiguous()
