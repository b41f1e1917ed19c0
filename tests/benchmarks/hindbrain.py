"""Where cerebrum, cerebellum and brainstem lie in heads that are aligned with the template.

    python -m tests.benchmarks.hindbrain --head-labels ../shared/data/head-labels

Label maps of whole heads with FreeSurfer values, aligned by their own labels painted as a T1w. In four turns a quarter
of the heads is labelled by the quadrics of the others; then those of all heads, as `msrim.preprocess.hindbrain` holds
them. Some 3 minutes on one core for 20 heads.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.linear_model import LogisticRegression

from msrim.image import Volume, resample
from msrim.preprocess.hindbrain import quadric_terms
from msrim.preprocess.register import register_affine
from msrim.preprocess.template import load_template, load_template_brain_mask
from msrim.training.contrasts import SIGNAL
from msrim.training.heads import head_label_of_tissue, load_head
from msrim.transform import apply_transform

PARTS = {"cerebrum": (3, 4, 5), "cerebellum": (6, 7), "brainstem": (8,)}
TURNS = 4
# In MNI space, 2 mm.
GRID = Volume(
    np.zeros((97, 117, 97), np.uint8), np.array([[2.0, 0, 0, -96], [0, 2, 0, -132], [0, 0, 2, -78], [0, 0, 0, 1]])
)


def main() -> None:
    """Print the shares of tissue on the right side in heads left out, then the coefficients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head-labels", type=Path, required=True)
    paths = sorted(parser.parse_args().head_labels.glob("*.nii*"))
    parts = np.stack([parts_of(in_mni(path)) for path in track(paths, description="aligning")])
    seen = parts.any(axis=(0, 1))
    parts, points = parts[:, :, seen], apply_transform(GRID.affine, np.argwhere(seen.reshape(GRID.shape)))
    shares = []
    for turn in range(TURNS):
        left_out = np.arange(len(paths)) % TURNS == turn
        said = fitted(parts[~left_out], points).predict(quadric_terms(points)[:, 1:])
        for head in parts[left_out]:
            shares.append([[np.mean(said[truth] == k) for k in range(len(PARTS))] for truth in head])
    table = Table(title=f"{len(paths)} heads, each labelled by the quadrics of others: mean share, lowest")
    table.add_column("tissue of")
    for name in PARTS:
        table.add_column(f"called {name}", justify="right")
    for name, mean, low in zip(PARTS, np.mean(shares, axis=0), np.min(shares, axis=0), strict=True):
        table.add_row(name, *(f"{share:.3f}, {lowest:.3f}" for share, lowest in zip(mean, low, strict=True)))
    console = Console(width=120)
    console.print(table)
    model = fitted(parts, points)
    for name, (intercept, row) in zip(PARTS, zip(model.intercept_, model.coef_, strict=True), strict=True):
        odds = np.r_[intercept, row] - np.r_[model.intercept_[0], model.coef_[0]]
        console.print(f"{name.upper()} = ({', '.join(f'{value:.1f}' for value in odds)})")


def in_mni(path: Path) -> Volume:
    """Labels of a head on GRID."""
    tissues = load_head(path)
    labels = head_label_of_tissue().numpy().astype(np.uint8)[tissues]
    inside = labels > 0
    painted = np.r_[0, SIGNAL["T1w"]].astype(np.float32)[tissues] * inside
    # `load_head` keeps RAS order and 1 mm, and forgets the origin.
    head, brain = Volume(painted, np.eye(4)), Volume(inside, np.eye(4))
    mni_from_head = register_affine(head, load_template(), moving_mask=brain, fixed_mask=load_template_brain_mask())
    return resample(Volume(labels, np.eye(4)), GRID, target_from_source=mni_from_head, nearest=True)


def parts_of(labels: Volume) -> np.ndarray:
    """Which of PARTS every voxel is: (3, n) bool."""
    return np.stack([np.isin(labels.data.ravel(), values) for values in PARTS.values()])


def fitted(parts: np.ndarray, points: np.ndarray) -> LogisticRegression:
    """Multinomial regression on the terms, voxels weighted by the heads that agree: parts (heads, 3, n)."""
    heads, design = parts.sum(axis=0), quadric_terms(points)[:, 1:]
    rows = [np.flatnonzero(count) for count in heads]
    model = LogisticRegression(C=1e4, max_iter=3000)
    return model.fit(
        np.concatenate([design[r] for r in rows]),
        np.concatenate([np.full(len(r), k) for k, r in enumerate(rows)]),
        sample_weight=np.concatenate([count[r] for count, r in zip(heads, rows, strict=True)]),
    )


if __name__ == "__main__":
    main()
