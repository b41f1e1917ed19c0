"""A lesion with a rim and one without, simulated, and what the rim transformation makes of them.

    python -m tests.benchmarks.rim_picture --out rim.png

Columns: susceptibility, V_u and V_s with 9 steps along the gradient; each column's rows share one grey scale.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from msrim.ops import rim_transform

SIDE, RADIUS, STEPS, ZOOM = 48, 8.0, 9, 5


def lesions() -> Tensor:
    """(2, 1, 48, 48): a bright interrupted ring, as iron at a lesion's edge; a bright blob beside a vein. In ppm."""
    noise = torch.Generator().manual_seed(0)
    i, j = torch.meshgrid(*[torch.arange(float(SIDE)) - SIDE / 2] * 2, indexing="ij")
    # A little oval, as lesions are.
    distance, angle = torch.hypot(i, 1.15 * j), torch.atan2(i, j)
    rim = torch.exp(-(((distance - RADIUS) / 1.6) ** 2)) * torch.where((angle - 2).abs() < 0.5, 0.3, 1.0)
    blob = 0.6 * torch.exp(-((distance / RADIUS) ** 2))
    vein = 0.8 * torch.exp(-(((i - 0.6 * j - 12) / 1.5) ** 2))
    clean = torch.stack([0.03 * (rim + 0.3 * (distance < RADIUS)), 0.03 * (blob + vein)])[:, None]
    return clean + 0.003 * torch.randn(clean.shape, generator=noise)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    x = lesions()
    v_u, v_s = rim_transform(x, (STEPS,))
    columns = []
    for maps in (x[:, 0], v_u[:, 0, 0], v_s[:, 0, 0]):
        low, high = maps.min(), torch.quantile(maps, 0.999)
        gray = (255 * (maps - low) / (high - low)).clamp(0, 255).byte()
        columns.append(torch.nn.functional.pad(gray, (1, 1, 1, 1), value=255).flatten(0, 1))
    pixels = np.kron(torch.cat(columns, 1).numpy(), np.ones((ZOOM, ZOOM), dtype=np.uint8))
    Image.fromarray(pixels).save(out)
    print(out)


if __name__ == "__main__":
    main()
