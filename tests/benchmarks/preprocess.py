"""What each way of a preprocessing step costs and how good it is.

    python -m tests.benchmarks.preprocess --data ../shared/data

Seconds are of the processor, so that a busy machine does not change them. Bias: deviation of the logarithm of a known
field (0.15) that is left, beyond what the same way takes for a field in the clean image. Rigid: T1w to FLAIR, mean
distance to the published transform over the brain, from a start 15 degrees and 30 mm off. Affine: the same over a brain
misplaced and scaled by a known amount.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ants
import edt
import numpy as np
import SimpleITK as sitk
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from msrim.image import Volume, read_volume, resample, to_sitk
from msrim.preprocess.bias import correct_bias
from msrim.preprocess.coordinates import anatomical_coordinates
from msrim.preprocess.register import register_affine, register_rigid
from msrim.preprocess.template import load_template, load_template_brain_mask
from msrim.transform import LPS_FROM_RAS, apply_transform, ras_from_itk, read_transform


def to_ants(volume: Volume):
    affine = LPS_FROM_RAS @ volume.affine
    return ants.from_numpy(
        np.ascontiguousarray(volume.data.astype(np.float32)),
        origin=affine[:3, 3].tolist(),
        spacing=volume.spacing.tolist(),
        direction=affine[:3, :3] / volume.spacing,
    )


def ants_register(kind: str, moving: Volume, fixed: Volume, moving_mask: Volume, fixed_mask: Volume) -> np.ndarray:
    if kind == "AffineFast":
        moving = moving.like(moving.data * moving_mask.data)
    found = ants.registration(
        to_ants(fixed), to_ants(moving), type_of_transform=kind, mask=to_ants(fixed_mask), random_seed=1
    )
    return ras_from_itk(sitk.ReadTransform(found["fwdtransforms"][0]))


def sitk_n4_at_4mm(volume: Volume, mask: Volume) -> Volume:
    image, factors = to_sitk(volume), [max(1, round(4 / s)) for s in volume.spacing]
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.Execute(sitk.Shrink(image, factors), sitk.Shrink(to_sitk(mask), factors))
    return volume.like(volume.data / np.exp(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).T))


def ants_n4(volume: Volume, mask: Volume) -> Volume:
    return volume.like(ants.n4_bias_field_correction(to_ants(volume), mask=to_ants(mask)).numpy())


def timed(function: Callable, *arguments: Any, **keywords: Any) -> tuple[float, Any]:
    start = time.process_time()
    result = function(*arguments, **keywords)
    return time.process_time() - start, result


def mean_gap_mm(a: np.ndarray, b: np.ndarray, points_mm: np.ndarray) -> float:
    return float(np.linalg.norm(apply_transform(a, points_mm) - apply_transform(b, points_mm), axis=-1).mean())


def misplacement() -> np.ndarray:
    matrix = np.eye(4)
    x, y = np.radians([14.0, 5.0])
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    matrix[:3, :3], matrix[:3, 3] = about_y @ about_x, (20, -20, 10)
    return matrix


def raw_pair(data: Path) -> tuple[Volume, Volume, Volume, Volume, np.ndarray]:
    """T1w, FLAIR, their brains, and the published transform of sub-12."""
    name, expert = "sub-12_ses-01", data / "bids/derivatives/expert/sub-12"
    flair, t1w = (read_volume(data / f"bids/sub-12/ses-01/anat/{name}_{c}.nii.gz") for c in ("FLAIR", "T1w"))
    published, common = (
        read_transform(expert / f"ses-01/xfm/{name}_from-{a}_to-{b}_mode-image_xfm.txt")
        for a, b in (("T1w", "FLAIR"), ("FLAIR", "common"))
    )
    mask = read_volume(expert / "anat/sub-12_space-common_desc-brain_mask.nii.gz", mask=True)
    brain = resample(mask, flair, target_from_source=np.linalg.inv(common), nearest=True)
    t1w_brain = resample(brain, t1w, target_from_source=np.linalg.inv(published), nearest=True)
    return t1w, flair, t1w_brain, brain, published


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    table = Table("step", "way", "seconds", "quality")

    def row(step: str, way: str, seconds: float, quality: str) -> None:
        table.add_row(step, way, f"{seconds:.2f}", quality)

    t1w, flair, t1w_brain, brain, published = raw_pair(data)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in flair.shape], indexing="ij")
    log_field = axes[0] - 0.7 * axes[1] ** 2 + 0.8 * axes[0] * axes[2]
    log_field *= 0.15 / log_field[brain.data].std()
    biased = flair.like((flair.data * np.exp(log_field)).astype(np.float32))
    inside = brain.data & (flair.data > 0)
    for way, correct in {"msrim": correct_bias, "SimpleITK at 4 mm": sitk_n4_at_4mm, "antspyx": ants_n4}.items():
        seconds, corrected = timed(correct, biased, brain)
        left = np.log(corrected.data[inside] / correct(flair, brain).data[inside]).std()
        row("N4, raw FLAIR", way, seconds, f"{left:.3f} left")

    away = misplacement()
    moved = Volume(correct_bias(t1w, t1w_brain).data, away @ t1w.affine)
    moved_brain = Volume(t1w_brain.data, moved.affine)
    fixed = correct_bias(flair, brain)
    points = apply_transform(t1w.affine, np.argwhere(t1w_brain.data)[::50])
    masks = {"moving_mask": moved_brain, "fixed_mask": brain}
    for way, register in {
        "msrim": lambda: register_rigid(moved, fixed, **masks),
        "msrim, no masks": lambda: register_rigid(moved, fixed),
        "antspyx QuickRigid": lambda: ants_register("QuickRigid", moved, fixed, *masks.values()),
    }.items():
        seconds, found = timed(register)
        row("rigid, T1w to FLAIR", way, seconds, f"{mean_gap_mm(found @ away, published, points):.2f} mm")

    template, template_brain = load_template(), load_template_brain_mask()
    truth = away @ np.diag([1.1, 0.95, 1.15, 1.0])
    small = resample(template, flair, target_from_source=np.linalg.inv(truth))
    small_brain = small.like(small.data > 0)
    points = apply_transform(flair.affine, np.argwhere(small_brain.data)[::50])
    masks = {"moving_mask": small_brain, "fixed_mask": template_brain}
    for way, register in {
        "msrim": lambda: register_affine(small, template, **masks),
        "antspyx AffineFast": lambda: ants_register("AffineFast", small, template, *masks.values()),
    }.items():
        seconds, found = timed(register)
        row("affine to MNI", way, seconds, f"{mean_gap_mm(found, truth, points):.2f} mm")

    seconds, exact = timed(ndimage.distance_transform_edt, template_brain.data)
    row("distance, 197x233x189", "scipy", seconds, "")
    seconds, found = timed(edt.edt, template_brain.data)
    row("distance, 197x233x189", "edt", seconds, f"{np.abs(found - exact).max():.0e} mm from scipy")
    csf = template_brain.like(template_brain.data & (template.data < 0.45))
    seconds, _ = timed(anatomical_coordinates, template_brain, mni_from_world=np.eye(4), csf=csf, brain=template_brain)
    row("six AnaConv channels", "msrim", seconds, "")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
