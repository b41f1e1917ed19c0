"""A scan against itself, moved, re-noised and re-sampled: how much is called new, which must be nothing.

    python -m tests.benchmarks.no_change --flair FILE [--t2w FILE] --out DIR [--repeats 20] [--first 0]
        [--model NAME] [--brain-extracted] [--expansion]

The follow-up of each repeat is the same scan in another pose (up to 8 degrees and 10 mm), on other slices (1 to 4 mm
thick, averaged over their thickness), with noise, a bias field and a contrast of its own; a T2w likewise, and in a pose
of its own. Both visits go through the whole of `msrim longitudinal`. New lesions over 10 mm3 are counted, on either
side: what vanished is as wrong as what is new. With --expansion, as if a year had passed: candidates for slowly
expanding lesions, of how many that both visits have, and the change of the brain's volume. With --first, repeats before
it are left out; steps that --out holds are not done again.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console as Page
from rich.progress import track
from rich.table import Table
from scipy import ndimage
from scipy.spatial.transform import Rotation

from msrim.console import Console
from msrim.image import Volume, read_volume, resample, to_ras, write_volume
from msrim.recipe import Recipe
from msrim.workflows.longitudinal import find_visits, follow_visits

LARGE_MM3 = 10.0
COLUMNS = (
    "slices mm",
    "new > 10 mm3",
    "vanished > 10 mm3",
    "new mm3",
    "vanished mm3",
    "expanding",
    "brain %",
    "seconds",
)


def main() -> None:
    """Run the repeats and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flair", type=Path, required=True)
    parser.add_argument("--t2w", type=Path, help="of the same visit")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--model", default=Recipe().model)
    parser.add_argument("--brain-extracted", action="store_true")
    parser.add_argument("--expansion", action="store_true")
    given = parser.parse_args()
    scans = {"FLAIR": given.flair} if given.t2w is None else {"FLAIR": given.flair, "T2w": given.t2w}
    images = {contrast: to_ras(read_volume(path)) for contrast, path in scans.items()}
    table = Table(title=f"{' + '.join(path.name for path in scans.values())} against itself, {given.model}")
    for column in ("repeat", *COLUMNS):
        table.add_column(column, justify="right")
    large = 0
    for repeat in track(range(given.first, given.repeats), description="repeats", console=Page(stderr=True)):
        found = compared(repeat, scans, images, given)
        large += int(found[COLUMNS[1]])
        table.add_row(str(repeat), *(found[column] for column in COLUMNS))
    Page(width=110).print(table)
    Page(width=110).print(f"{large} new lesions over {LARGE_MM3:g} mm3 in {given.repeats - given.first} repeats")


def compared(
    repeat: int, scans: dict[str, Path], images: dict[str, Volume], given: argparse.Namespace
) -> dict[str, str]:
    """What `msrim longitudinal` says of the scan and its rescan of this number: the table's cells by column."""
    start = time.perf_counter()
    rng = np.random.default_rng(repeat)
    again = {contrast: rescanned(image, rng) for contrast, image in images.items()}
    folder = given.out / "copies" / f"repeat-{repeat:02d}"
    copies = {name: write_volume(image, folder / f"{name}.nii.gz") for name, (image, _) in again.items()}
    # The baseline stays where it is, so that its steps are kept from one repeat to the next. Each copy is a session of
    # its own: its results would replace another one's.
    visits = [
        replace(visit, session=session, contrasts=paths)
        for visit, session, paths in zip(
            find_visits([scans["FLAIR"], copies["FLAIR"]]), ("00", f"{repeat + 1:02d}"), (scans, copies), strict=True
        )
    ]
    recipe = Recipe(model=given.model, brain_extracted=given.brain_extracted, expansion=given.expansion)
    out = given.out / f"results-{given.flair.stem}"
    found = follow_visits(visits, recipe, out, console=Console(quiet=True), years=[1.0]).parent
    summary = json.loads(next(found.glob("*_desc-summary.json")).read_text(encoding="utf-8"))
    with next(found.glob("*_desc-changes.tsv")).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    large = {
        change: sum(row["change"] == change and float(row[f"{visit}_mm3"]) > LARGE_MM3 for row in rows)
        for change, visit in (("new", "followup"), ("vanished", "baseline"))
    }
    both = sum(row["change"] not in large for row in rows)
    brain = summary.get("brain_volume_change_percent")
    cells = [f"{again['FLAIR'][1]:.1f}", *map(str, large.values())]
    cells += [f"{summary[name]:.0f}" for name in ("new_mm3", "vanished_mm3")]
    cells.append(f"{summary['sel_candidates']} of {both}" if given.expansion else "")
    cells.append("" if not given.expansion else "n/a" if brain is None else f"{brain:+.2f}")
    return dict(zip(COLUMNS, [*cells, f"{time.perf_counter() - start:.0f}"], strict=True))


def rescanned(scan: Volume, rng: np.random.Generator) -> tuple[Volume, float]:
    """The same head in another scan, and how thick its slices are."""
    slice_mm = float(rng.uniform(1.0, 4.0))
    spacing = np.array([*rng.uniform(0.8, 1.1, 2), slice_mm])
    extent = scan.spacing * scan.shape
    shape = np.ceil(extent / spacing).astype(int)
    turn = Rotation.from_euler("xyz", rng.uniform(-8, 8, 3), degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    middle = scan.affine @ np.array([*(np.array(scan.shape) - 1) / 2, 1.0])
    affine[:3, 3] = middle[:3] - affine[:3, :3] @ ((shape - 1) / 2)
    # A slice is the mean over its thickness, sampled every millimetre.
    depth = max(1, round(slice_mm))
    fine = affine @ np.diag([1, 1, 1 / depth, 1.0])
    fine[:3, 3] += affine[:3, 2] * (1 / depth - 1) / 2
    grid = Volume(np.broadcast_to(np.float32(0), (shape[0], shape[1], shape[2] * depth)), fine)
    image = resample(scan, grid).data.reshape(*shape, depth).mean(axis=-1)
    level = np.percentile(image[image > 0], 75)
    field = np.exp(ndimage.zoom(rng.normal(0, 0.08, (4, 4, 4)), shape / 4, order=3))
    image = level * (np.maximum(image, 0) * field / level) ** rng.uniform(0.9, 1.1)
    noisy = np.where(image > 0, np.maximum(image + rng.normal(0, 0.03 * level, image.shape), 0), 0)
    # The scanner's own frame: the head lies elsewhere in it.
    affine[:3, 3] += rng.uniform(-10, 10, 3)
    return Volume((rng.uniform(0.5, 2) * noisy).astype(np.float32), affine), slice_mm


if __name__ == "__main__":
    main()
