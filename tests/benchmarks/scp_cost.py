"""What SCP and its comparators cost, beside the paper's Table 1.

    python -m tests.benchmarks.scp_cost

Ratios are to Base (128), the paper's in brackets; input (3, 160, 224). Operations are those of the convolutions, a
multiplication and an addition counting as two. Memory is what the paper's ratios turn out to be made of: every layer's
result, activations in place, with the input and the weights, in float32. Peak is the most that torch holds at any
moment of a training step with Adam, weights and Adam's moments included. Seconds are of that step and of a forward pass
on one thread, the best of five, batches of one slice.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from msrim.models import build

SIZE = (3, 160, 224)
# Memory, operations and parameters as ratios to Base (128) (Table 1 of the paper).
PAPER = {
    ("base", 128): (1.00, 1.00, 1.00),
    ("base-f", 128): (1.06, 1.02, 1.00),
    ("base-b", 128): (1.17, 1.02, 1.00),
    ("scp", 128): (1.78, 1.42, 1.02),
    ("base", 256): (2.13, 3.96, 4.02),
    ("base-f", 256): (2.19, 4.00, 4.02),
    ("base-b", 256): (2.43, 4.00, 4.02),
    ("scp", 256): (3.69, 5.51, 4.06),
    ("base", 512): (4.84, 15.71, 16.06),
    ("base-f", 512): (4.90, 15.80, 16.08),
    ("base-b", 512): (5.39, 15.82, 16.08),
    ("scp", 512): (7.94, 21.76, 16.22),
}


class ResultBytes(TorchDispatchMode):
    """Adds up the bytes of every tensor that an operation makes; views and changes in place make none."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, Tensor] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        # Indices of the maximum belong to max-pooling's backward pass, not to its result.
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self.made[tensor.untyped_storage().data_ptr()] = tensor
        return result

    @property
    def bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self.made.values())


def cost(head: str, channels: int) -> tuple[int, int, int]:
    """Bytes of memory, operations, parameters."""
    network, image = build("scp", head=head, channels=channels).eval(), torch.zeros(1, *SIZE)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            network(image)
        with ResultBytes() as results:
            network(image)
    return results.bytes + image.nbytes + 4 * parameters, counter.get_total_flops(), parameters


def trainer(network: nn.Module, image: Tensor) -> Callable[[], None]:
    """One training step of the network, as a function."""
    optimiser = torch.optim.Adam(network.parameters())
    truth = torch.zeros(1, 1, *SIZE[1:])

    def step() -> None:
        optimiser.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(network(image), truth).backward()
        optimiser.step()

    step()  # makes Adam's moments
    optimiser.zero_grad()
    return step


def peak_bytes(step: Callable[[], None]) -> int:
    """Most bytes that torch held at any moment of a step, beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    held = peak = 0
    for event in sorted(record.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def best_seconds(function: Callable, *arguments: Tensor) -> float:
    runs = []
    for _ in range(5):
        start = perf_counter()
        function(*arguments)
        runs.append(perf_counter() - start)
    return min(runs)


def main() -> None:
    torch.set_num_threads(1)
    table = Table("head", "N_c", "parameters", "GFLOP", "memory MiB", "peak MiB", "forward s", "step s")
    costs = {key: cost(*key) for key in PAPER}
    reference = costs["base", 128]
    for key, (memory, flops, parameters) in costs.items():
        network, image = build("scp", head=key[0], channels=key[1]), torch.zeros(1, *SIZE)
        ratios = [value / base for value, base in zip((memory, flops, parameters), reference, strict=True)]
        beside = [f"{ratio:.2f} [{paper:.2f}]" for ratio, paper in zip(ratios, PAPER[key], strict=True)]
        train_step = trainer(network, image)
        # Weights and two moments of four bytes each are held before the step begins.
        peak, seconds = peak_bytes(train_step) + 12 * parameters, best_seconds(train_step)
        with torch.inference_mode():
            forward = best_seconds(network.eval(), image)
        table.add_row(
            key[0],
            str(key[1]),
            f"{parameters:,} {beside[2]}",
            f"{flops / 1e9:.2f} {beside[1]}",
            f"{memory / 2**20:.1f} {beside[0]}",
            f"{peak / 2**20:.0f}",
            f"{forward:.3f}",
            f"{seconds:.3f}",
        )
    page = Console(width=130, markup=False)
    page.print(table)
    small, large = costs["scp", 256], costs["base", 512]
    saved = [f"{100 * (a / b - 1):+.1f} %" for a, b in zip(small, large, strict=True)]
    page.print("SCP (256) against Base (512): memory {}, FLOPs {}, parameters {}".format(*saved))
    page.print("in the paper: memory -23.8 %, FLOPs -64.9 %, parameters -74.7 %")


if __name__ == "__main__":
    main()
