"""One whole patient with a scanner's images, and the truth beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cc3d
import numpy as np
from scipy.spatial.transform import Rotation

from msrim.bids import write_dataset_description
from msrim.image import Volume, resample, write_volume
from msrim.simulation.cohort import write_labels
from msrim.simulation.contrast import (
    TISSUE_PARAMETERS,
    Tissue,
    flair,
    mprage,
    null_time_ms,
    receive,
    sample_slices,
    turbo_spin_echo,
)
from msrim.simulation.head import OUTSIDE, Head, make_head
from msrim.simulation.lesions import grow_lesions
from msrim.simulation.rim_brain import lesions_of, make_brain
from msrim.simulation.rim_patient import Scanner, scan_lesions
from msrim.simulation.rims import Dials
from msrim.simulation.shapes import gaussian_field
from msrim.transform import apply_transform, write_transform

LABEL = "sub-phantom"
SMALLEST_MM3 = 10.0
COIL_BIAS = 0.12
HEAD_CENTRE_MM = np.array([0.0, -12.0, 4.0])
LPS_STORAGE = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Protocol:
    """How one contrast is acquired."""

    signal: Callable[[Tissue], float]
    fat_left: float  # share of fat's signal that fat suppression leaves
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    snr: float


PROTOCOLS = {
    "FLAIR": Protocol(
        partial(flair, tr_ms=9000, te_ms=120, ti_ms=null_time_ms(TISSUE_PARAMETERS["csf"], tr_ms=9000)),
        fat_left=0.3, shape=(320, 320, 56), spacing_mm=(0.72, 0.72, 3.0), snr=28,
    ),
    "T1w": Protocol(
        partial(mprage, tr_ms=2300, ti_ms=1000, echo_spacing_ms=7.5, excitations=176, flip_deg=9),
        fat_left=0.6, shape=(192, 256, 192), spacing_mm=(1.0, 1.0, 1.0), snr=30,
    ),
    "T2w": Protocol(
        partial(turbo_spin_echo, tr_ms=5000, te_ms=100),
        fat_left=0.6, shape=(352, 384, 52), spacing_mm=(0.6, 0.6, 3.3), snr=35,
    ),
}  # fmt: skip


def simulate_subject(out: Path, *, seed: int = 0, lesion_free: bool = False) -> Path:
    """Write a phantom patient: raw FLAIR, T1w, T2w and QSM in BIDS, and the truth as a derivative.

    Every contrast has its own grid and its own pose of the head. The truth lies on the FLAIR's grid: lesion mask (at
    least half of a voxel is lesion), brain mask, tissue classes (1 CSF, 2 GM, 3 WM) and the transforms from T1w and T2w
    to FLAIR. On the QSM's grid: its lesions, and which of them have a rim.

    Parameters
    ----------
    out : Path
        Root of the BIDS dataset to make.
    seed : int
        The same seed gives the same images, bit by bit.
    lesion_free : bool
        The same head without its lesions.

    Returns
    -------
    Path
        The subject's folder, ``<out>/sub-phantom``.

    Raises
    ------
    OutputError
        The folder cannot be written to.
    """
    truth = out / "derivatives" / "truth"
    write_dataset_description(out, name="msrim phantom", kind="raw")
    rng = np.random.default_rng(seed)
    head = make_head(rng)
    extent, damage = grow_lesions(head, rng)
    if lesion_free:
        extent, damage = np.zeros_like(extent), np.zeros_like(damage)

    base_pose = _random_pose(rng, rotation_deg=4.0, shift_mm=6.0)
    poses, grids = {}, {}
    for contrast, protocol in PROTOCOLS.items():
        poses[contrast] = _random_pose(rng, rotation_deg=2.5, shift_mm=4.0) @ base_pose
        grids[contrast] = _oblique_grid(protocol, poses[contrast], rng)
        signal = _signal(head, damage, protocol, rng)
        seen = sample_slices(signal, grids[contrast], grid_from_volume=poses[contrast])
        white_matter = protocol.signal(TISSUE_PARAMETERS["white matter"])
        image = receive(seen, white_matter=white_matter, snr=protocol.snr, bias=COIL_BIAS, rng=rng)
        write_volume(image, out / LABEL / "anat" / f"{LABEL}_{contrast}.nii.gz")

    def on_flair(fraction: np.ndarray) -> Volume:
        whole = Volume(fraction.astype(np.float32), head.affine)
        return sample_slices(whole, grids["FLAIR"], grid_from_volume=poses["FLAIR"])

    anat, xfm = truth / LABEL / "anat", truth / LABEL / "xfm"
    lesions, brain = on_flair(extent), on_flair(head.brain)
    classes = np.where(head.brain, np.argmax([head.csf, head.grey, head.white], axis=0) + 1, 0).astype(np.uint8)
    tissue = resample(Volume(classes, head.affine), grids["FLAIR"], target_from_source=poses["FLAIR"], nearest=True)
    # Crumbs that slices cut off from a lesion are below what anybody would mark.
    smallest = int(np.ceil(SMALLEST_MM3 / lesions.voxel_volume_mm3))
    marked = cc3d.dust((lesions.data >= 0.5).astype(np.uint8), threshold=smallest, connectivity=26)
    write_volume(lesions.like(marked), anat / f"{LABEL}_space-orig_label-L_mask.nii.gz")
    write_volume(brain.like(brain.data >= 0.5), anat / f"{LABEL}_space-orig_desc-brain_mask.nii.gz")
    write_volume(tissue, anat / f"{LABEL}_space-orig_dseg.nii.gz")
    for contrast in ("T1w", "T2w"):
        flair_from_contrast = poses["FLAIR"] @ np.linalg.inv(poses[contrast])
        write_transform(flair_from_contrast, xfm / f"{LABEL}_from-{contrast}_to-FLAIR_mode-image_xfm.txt")
    # A generator of its own: the other contrasts of a seed stay what they were before there was a QSM.
    _write_qsm(head, extent, base_pose, out, np.random.default_rng((seed, 1)))
    write_dataset_description(truth, name="truth of a msrim phantom")
    return out / LABEL


def _write_qsm(head: Head, extent: np.ndarray, base_pose: np.ndarray, out: Path, rng: np.random.Generator) -> None:
    pose = _random_pose(rng, rotation_deg=2.5, shift_mm=4.0) @ base_pose
    lesions = lesions_of(Volume(extent, head.affine), dials=Dials(), rng=rng)
    scan = scan_lesions(make_brain(head), lesions, pose=pose, scanner=Scanner(), rng=rng)
    truth = out / "derivatives" / "truth" / LABEL / "anat"
    write_volume(scan.qsm, out / LABEL / "anat" / f"{LABEL}_Chimap.nii.gz")
    write_volume(scan.instances, truth / f"{LABEL}_space-Chimap_seg-lesions_dseg.nii.gz")
    write_labels(scan.lesions, truth / f"{LABEL}_space-Chimap_desc-lesions.tsv", noisy=False, rng=rng)


def _signal(head: Head, damage: np.ndarray, protocol: Protocol, rng: np.random.Generator) -> Volume:
    """The signal of every voxel's mixture of tissues, with some texture."""
    level = {
        name: protocol.signal(tissue) * (protocol.fat_left if tissue.fat else 1)
        for name, tissue in TISSUE_PARAMETERS.items()
    }
    healthy = head.white * level["white matter"] + head.grey * level["grey matter"] + head.csf * level["csf"]
    inside = head.white + head.grey + head.csf
    # Lesions replace whatever shares their voxel except CSF, which stays what it is.
    parenchyma = (head.white * level["white matter"] + head.grey * level["grey matter"]) * damage
    replaced = (head.white + head.grey) * damage
    signal = healthy - parenchyma + replaced * np.float32(level["lesion"])
    around = np.array([level[name] for name in OUTSIDE], np.float32)[head.outside]
    signal += (1 - inside) * around
    for scale_mm, deviation in ((1.5, 0.035), (6.0, 0.025)):
        signal *= 1 + deviation * gaussian_field(signal.shape, scale_mm, rng)
    return Volume(signal.astype(np.float32), head.affine)


def _random_pose(rng: np.random.Generator, *, rotation_deg: float, shift_mm: float) -> np.ndarray:
    """A rigid displacement whose angles and shifts lie between half the given ones and all of them, either way."""
    amounts = rng.uniform(0.5, 1.0, 6) * rng.choice((-1, 1), 6)
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("xyz", rotation_deg * amounts[:3], degrees=True).as_matrix()
    pose[:3, 3] = shift_mm * amounts[3:]
    return pose


def _oblique_grid(protocol: Protocol, pose: np.ndarray, rng: np.random.Generator) -> Volume:
    """Where an operator might have put the slices: tilted, and not quite centred on the head."""
    plan = _random_pose(rng, rotation_deg=5.0, shift_mm=3.0)
    affine = np.eye(4)
    affine[:3, :3] = plan[:3, :3] @ LPS_STORAGE * protocol.spacing_mm
    centre = plan[:3, 3] + apply_transform(pose, HEAD_CENTRE_MM)
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(protocol.shape) - 1) / 2)
    return Volume(np.broadcast_to(np.float32(0), protocol.shape), affine)
