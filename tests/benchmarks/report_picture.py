"""The README's picture: a report of a simulated patient, as a browser shows it.

    msrim simulate subject --out phantom --seed 11
    msrim segment phantom/sub-phantom --out results
    python -m tests.benchmarks.report_picture results/sub-phantom/report.html tests/benchmarks/report_picture.png

Chromium opens the page without a window; its head and two rows of slices are kept.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

# Pixels of a page 1000 wide: its head with the totals, and the second and third row of slices.
WIDTH, HEAD, SLICES = 1000, (0, 350), (1472, 2092)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "page.png"
        size = f"--window-size={WIDTH},{SLICES[1]}"
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", size, f"--screenshot={shot}"]
        subprocess.run(["chromium", *options, given.report.absolute().as_uri()], check=True, capture_output=True)
        page = Image.open(shot).convert("RGB")
    bands = [page.crop((0, top, WIDTH, bottom)) for top, bottom in (HEAD, SLICES)]
    picture = Image.new("RGB", (WIDTH, sum(band.height for band in bands)), "white")
    picture.paste(bands[0], (0, 0))
    picture.paste(bands[1], (0, bands[0].height))
    small = picture.resize((760, round(760 * picture.height / WIDTH)), Image.Resampling.LANCZOS)
    small.quantize(256, method=Image.Quantize.FASTOCTREE).save(given.picture, optimize=True)


if __name__ == "__main__":
    main()
