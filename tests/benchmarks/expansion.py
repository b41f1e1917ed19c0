"""Growth of known size in small simulated heads, recovered by msrim (Greedy) and by SyN.

    python -m tests.benchmarks.expansion [--heads 4]

Prints for each: slope of recovered by injected growth (logarithms of volumes' ratios; 15, 25 and 40 %, three lesions a
head), the mean size of what is found where nothing grew, the brain's volume change there, and seconds for both ways.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from msrim.image import Volume
from msrim.preprocess import ants
from msrim.preprocess.deform import halfway_deformation, log_jacobian
from tests.preprocess.test_deform import BRAIN, LESIONS, POINTS, brain_change, followed

RATIOS = ((1.15, 1.25, 1.4), (1.4, 1.15, 1.25), (1.25, 1.4, 1.15))


def of_msrim(one: Volume, other: Volume) -> np.ndarray:
    return halfway_deformation([(one, other)], brain=BRAIN)


def of_both_ways(register: Callable[[Volume, Volume], np.ndarray]) -> Callable[[Volume, Volume], np.ndarray]:
    """Half of the mean of a displacement from the first to the second and of the opposite of that back."""
    return lambda one, other: (register(one, other) - register(other, one)) / 2


def syn(fixed: Volume, moving: Volume) -> np.ndarray:
    warp = ants.register_deformable(moving, fixed, iterations=(40, 20, 20))
    return np.moveaxis(warp.displacement, -1, 0)


def growth(moved: np.ndarray) -> tuple[list[float], float]:
    """Logarithms of each lesion's ratio of volumes, and the brain's volume change in percent."""
    found = log_jacobian(moved)
    at_baseline = POINTS - np.moveaxis(moved, 0, -1) / 2
    inside = [np.linalg.norm(at_baseline - centre, axis=-1) <= radius for centre, radius in LESIONS]
    return [float(found[mask].mean()) for mask in inside], brain_change(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--heads", type=int, default=4)
    heads = parser.parse_args().heads
    methods = {"msrim (Greedy)": of_msrim, "SyN (antspyx)": of_both_ways(syn)}
    print("| | slope | growth found where there is none | brain volume change there | s |\n|---|---|---|---|---|")
    for name, method in methods.items():
        injected, recovered, still, brains, seconds = [], [], [], [], []
        for seed in range(heads):
            ratios = RATIOS[seed % len(RATIOS)]
            start = time.perf_counter()
            recovered += growth(method(*followed(ratios, seed=seed)))[0]
            injected += list(np.log(ratios))
            nothing, brain = growth(method(*followed((1.0, 1.0, 1.0), seed=100 + seed)))
            seconds.append((time.perf_counter() - start) / 2)
            still += nothing
            brains.append(brain)
        slope = np.dot(injected, recovered) / np.dot(injected, injected)
        print(
            f"| {name} | {slope:.2f} | {100 * np.mean(np.abs(still)):.1f} % (n = {len(still)}) | "
            f"{np.mean(np.abs(brains)):.2f} % (n = {heads}) | {np.mean(seconds):.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
