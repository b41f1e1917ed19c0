"""What each way of running a lesion model on a whole brain costs, and what it changes.

    python -m tests.benchmarks.inference --scan DIR [--model allnet] [--threads 2]

DIR holds a brain-extracted FLAIR in MNI space, and perhaps T1w and T2w. Every way runs in a process of its own. First:
seconds until the first answer, with compiling and converting; then: the best of three more. Peak: memory of the process
at its largest beyond what it held with torch and the network loaded. Dice: of the mask at the card's threshold with
that of eager float32.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from msrim.bids import find_subject
from msrim.image import Volume, read_volume, resample, to_ras
from msrim.models import load_model, read_card
from msrim.models.inference import csf_of, parse_head
from msrim.models.registry import Card
from msrim.preprocess.anatomy import anatomical_coordinates
from msrim.preprocess.normalise import normalise_intensity

MULTIPLE = 16
WAYS = (
    "eager float32",
    "eager float32, channels last",
    "eager bfloat16",
    "eager bfloat16, channels last",
    "torch.compile float32",
    "torch.compile bfloat16, channels last",
    "OpenVINO float32",
    "OpenVINO bfloat16",
)


def whole_brain(folder: Path, card: Card) -> np.ndarray:
    """Input of a lesion network, (1, contrasts + 6, X, Y, Z), cut to the brain as `msrim segment` does."""
    files = find_subject(folder).contrasts
    flair = to_ras(read_volume(files["FLAIR"]))
    inside = np.argwhere(flair.data > 0)
    low = np.maximum(inside.min(axis=0) - 2, 0)
    size = np.ceil((inside.max(axis=0) + 3 - low) / MULTIPLE).astype(int) * MULTIPLE
    affine = flair.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    grid = Volume(np.zeros(size, np.float32), affine)
    images = {name: resample(read_volume(path), grid) for name, path in files.items() if name in card.contrasts}
    brain = grid.like(images["FLAIR"].data > 0)
    head = parse_head(images["FLAIR"], contrast="FLAIR", card=read_card("head"))
    csf = csf_of(resample(head, grid, nearest=True))
    empty = grid.data
    channels = [normalise_intensity(images[n], brain).data if n in images else empty for n in card.contrasts]
    coordinates = anatomical_coordinates(brain, mni_from_world=np.eye(4), csf=csf, brain=brain)
    return np.concatenate([np.stack(channels), coordinates])[None].astype(np.float32)


def prepared(way: str, network: nn.Module, stack: Tensor) -> Callable[[], np.ndarray]:
    """The way as a function that gives logits."""
    if way.startswith("OpenVINO"):
        import openvino

        model = openvino.convert_model(network, example_input=stack, input=[list(stack.shape)])
        hints = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        if "bfloat16" in way:
            hints["INFERENCE_PRECISION_HINT"] = "bf16"
        compiled = openvino.compile_model(model, "CPU", hints)
        return lambda: compiled(stack.numpy())[0]
    if "channels last" in way:
        network = network.to(memory_format=torch.channels_last_3d)
        stack = stack.contiguous(memory_format=torch.channels_last_3d)
    run = torch.compile(network) if "compile" in way else network

    def forward() -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in way):
            return run(stack).float().numpy()

    return forward


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(way: str, model: str, brain: Path, out: Path) -> None:
    """Run one way; writes logits and prints its figures as JSON."""
    network = load_model(read_card(model))
    stack = torch.from_numpy(np.load(brain))
    held = peak_mib()
    start = perf_counter()
    forward = prepared(way, network, stack)
    logits = forward()
    first = perf_counter() - start
    seconds = []
    for _ in range(3):
        start = perf_counter()
        forward()
        seconds.append(perf_counter() - start)
    np.save(out, logits)
    print(json.dumps({"first": first, "then": min(seconds), "peak": peak_mib() - held}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=Path, help="folder with a brain-extracted FLAIR in MNI space")
    parser.add_argument("--model", default="allnet")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", nargs=3, metavar=("WAY", "BRAIN", "OUT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.measure:
        way, brain, out = given.measure
        measure(way, given.model, Path(brain), Path(out))
        return
    card = read_card(given.model)
    cut = np.log(card.threshold / (1 - card.threshold))
    table = Table("way", "first s", "then s", "peak MiB", "Dice")
    with tempfile.TemporaryDirectory() as folder:
        brain, reference = Path(folder) / "brain.npy", None
        np.save(brain, stack := whole_brain(given.scan, card))
        for number, way in enumerate(WAYS):
            out = Path(folder) / f"{number}.npy"
            command = [sys.executable, "-m", "tests.benchmarks.inference", "--threads", str(given.threads)]
            command += ["--model", given.model, "--measure", way, str(brain), str(out)]
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode:
                table.add_row(way, "failed", run.stderr.strip().splitlines()[-1][:60], "", "")
                continue
            found = json.loads(run.stdout.splitlines()[-1])
            mask = np.load(out)[0, 0] > cut
            reference = mask if reference is None else reference
            dice = 2 * np.count_nonzero(mask & reference) / max(1, mask.sum() + reference.sum())
            table.add_row(way, f"{found['first']:.1f}", f"{found['then']:.2f}", f"{found['peak']:.0f}", f"{dice:.4f}")
    page = Console(width=100)
    size = " x ".join(map(str, stack.shape[2:]))
    page.print(f"{card.label}, {size} voxels, {given.threads} threads, {reference.sum() / 1000:.1f} ml found")
    page.print(table)


if __name__ == "__main__":
    main()
