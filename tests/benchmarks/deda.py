"""What the directed accumulator and the fused rim transformation cost, beside the ways that plain torch has.

    python -m tests.benchmarks.deda --threads 2
    python -m tests.benchmarks.deda --device cuda

Forward, and forward with the gradient to the values, each the best of several runs: seconds of the clock, or of the
processor with one thread, so that a busy machine counts less. Memory is the peak beyond what was there before.

Ways of torch: scatter_add_ looped over the grids; index_add_ looped, channels innermost; scatter_add_ of all grids in
one shot; for one grid, the backward of grid_sample. For the rim transformation: grids made, each radius on its own (the
twin), and grids made, one pass over them with a copy at each radius.

The floor: every input read once, every output written once, at the speed of a copy measured in the same run. For B x C
maps of S pixels to T cells by K grids of D components in float32 that is 4 (B C S + B C T + B K D S) bytes; the
additions are B C K S, or 2^D times as many multiplications and additions for bilinear votes. The rim transformation
with R radii up to N moves 4 (1 + 2 R) bytes a voxel and makes 2 N additions, and finds N cells.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from msrim.ops import accumulate, reference, rim_transform

# Batch items, channels, side of the plane, grids. The first is 64 patches of 8 slices.
SIZES = [(512, 24, 32, 15), (64, 8, 64, 32), (8, 8, 128, 64), (1, 4, 256, 256)]
RADII = (5, 7, 9, 11, 13, 15)
ADJOINT = "grid_sample's backward"
EACH_RADIUS = "grids made, each radius"


def cells_of(grids: Tensor, side: int) -> Tensor:
    at = torch.floor(grids + 0.5)
    inside = ((at >= 0) & (at < side)).all(2)
    return torch.where(inside, (at[:, :, 0] * side + at[:, :, 1]).long(), side * side).flatten(2)


def corners_of(grids: Tensor, side: int):
    """Cells (B, K, S) and weights of each corner of bilinear votes."""
    low = torch.floor(grids)
    for corner in torch.cartesian_prod(torch.arange(2), torch.arange(2)).to(grids.device):
        at = low + corner[:, None, None]
        weight = (1 - (grids - at).abs()).prod(2)
        inside = ((at >= 0) & (at < side)).all(2)
        cell = torch.where(inside, (at[:, :, 0] * side + at[:, :, 1]).long(), side * side)
        yield cell.flatten(2), weight.flatten(2)


def votes_of(grids: Tensor, side: int, *, kernel: str):
    return [(cells_of(grids, side), None)] if kernel == "nearest" else corners_of(grids, side)


def looped_scatter(u: Tensor, grids: Tensor, size: tuple[int, int], *, kernel: str) -> Tensor:
    values, side = u.flatten(2), size[0]
    out = values.new_zeros(*u.shape[:2], side * side + 1)
    for grid in grids.split(1, 1):
        for cell, weight in votes_of(grid, side, kernel=kernel):
            out.scatter_add_(2, cell.expand_as(values), values if weight is None else values * weight)
    return out[..., :-1].view(*u.shape[:2], *size)


def looped_index_add(u: Tensor, grids: Tensor, size: tuple[int, int], *, kernel: str) -> Tensor:
    (batch, channels), side = u.shape[:2], size[0]
    values = u.flatten(2).transpose(1, 2).reshape(-1, channels)
    out = values.new_zeros(batch * (side * side + 1), channels)
    first = torch.arange(batch, device=u.device)[:, None, None] * (side * side + 1)
    for grid in grids.split(1, 1):
        for cell, weight in votes_of(grid, side, kernel=kernel):
            out.index_add_(0, (cell + first).flatten(), values if weight is None else values * weight.view(-1, 1))
    return out.view(batch, -1, channels)[:, :-1].transpose(1, 2).reshape(*u.shape[:2], *size)


def one_shot(u: Tensor, grids: Tensor, size: tuple[int, int], *, kernel: str) -> Tensor:
    values, side = u.flatten(2)[:, :, None], size[0]
    out = values.new_zeros(*u.shape[:2], side * side + 1)
    for cell, weight in votes_of(grids, side, kernel=kernel):
        votes = values.expand(-1, -1, grids.shape[1], -1) if weight is None else values * weight[:, None]
        out.scatter_add_(2, cell.flatten(1)[:, None].expand(-1, u.shape[1], -1), votes.flatten(2))
    return out[..., :-1].view(*u.shape[:2], *size)


def grid_sample_backward(u: Tensor, grids: Tensor, size: tuple[int, int]) -> Tensor:
    places = (2 * grids[:, 0].movedim(1, -1) / (size[0] - 1) - 1).flip(-1)
    target = u.new_empty(*u.shape[:2], *size)
    return torch.ops.aten.grid_sampler_2d_backward(u, target, places, 0, 0, True, [True, False])[0]


def rim_twin(x: Tensor, radii: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    return reference.rim_transform(x, radii)


def rim_in_one_pass(x: Tensor, radii: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    planes = x.permute(0, 1, 4, 2, 3).flatten(0, 2)
    gradient, side = reference.sobel(planes), x.shape[2]
    strength = reference.magnitude(gradient)
    unit = (gradient / (strength + 1e-6)[:, None]).detach()
    mesh = torch.stack(torch.meshgrid(*[torch.arange(side).to(unit)] * 2, indexing="ij"))
    grids = torch.stack([k * unit + mesh for k in range(1, max(radii) + 1)], 1)
    maps, cells = torch.stack([planes, strength], 1).flatten(2), cells_of(grids, side)
    sums, found = maps.new_zeros(*maps.shape[:2], side * side + 1), []
    for k, cell in enumerate(cells.unbind(1), start=1):
        sums.scatter_add_(2, cell[:, None].expand_as(maps), maps)
        if k in radii:
            found.append(sums[..., :-1].clone())
    out = torch.stack(found, 1).unflatten(3, (side, side)).unflatten(0, (*x.shape[:2], x.shape[4]))
    return tuple(out.permute(4, 0, 1, 3, 5, 6, 2).contiguous())


class Meter:
    """Best time of several runs, and peak memory of the first."""

    def __init__(self, device: str, threads: int) -> None:
        self.cuda = device == "cuda"
        self.clock = time.process_time if threads == 1 and not self.cuda else time.perf_counter
        block = torch.rand(2**26, device=device)
        other = torch.empty_like(block)
        self.copy_speed = 2 * block.nbytes / self(lambda: other.copy_(block))[1]

    def __call__(self, run: Callable, *, runs: int = 5) -> tuple[float, float]:
        """MiB and seconds."""
        return self.peak(run), min(self.seconds(run) for _ in range(runs))

    def seconds(self, run: Callable) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        start = self.clock()
        run()
        if self.cuda:
            torch.cuda.synchronize()
        return self.clock() - start

    def peak(self, run: Callable) -> float:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run()
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        # What earlier runs freed goes back to the system, and the kernel's record of the peak starts anew.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        run()
        return resident("VmHWM") - before


def resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def rays(batch: int, side: int, steps: int, *, device: str) -> Tensor:
    """Grids (B, K, 2, side, side) of one walk from every pixel, up to 15 voxels in a direction of its own."""
    angle = 2 * torch.pi * torch.rand(batch, 1, side, side, device=device)
    mesh = torch.stack(torch.meshgrid(*[torch.arange(side, device=device)] * 2, indexing="ij"))
    step = torch.arange(1, steps + 1, device=device).view(-1, 1, 1, 1) * min(1, 15 / steps)
    return (step * torch.stack([angle.cos(), angle.sin()], 2) + mesh).contiguous()


def compare(meter: Meter, console: Console, title: str, ways: dict[str, Callable], u: Tensor, *, floor: int) -> None:
    """One table of ways to do the same to u, the first ours."""
    table = Table("way", "forward s", "MiB", "of copy", "and backward s", "MiB", "ratios to msrim", title=title)
    ours: list[float] = []
    with torch.no_grad():
        first = next(iter(ways.values()))(u)
    grads = [torch.ones_like(v) for v in (first if isinstance(first, tuple) else (first,))]
    for way, op in ways.items():
        runs = 1 if ours else 5

        def backward(op=op):
            torch.autograd.grad(op(u), u, grads)

        if not ours:
            backward()
        with torch.no_grad():
            mib, seconds = meter(lambda op=op: op(u), runs=runs)
        mib_both, seconds_both = (
            meter(backward, runs=runs) if way not in (ADJOINT, EACH_RADIUS) else (math.nan, math.nan)
        )
        ours = ours or [seconds, seconds_both]
        table.add_row(
            way,
            f"{seconds:.4f}",
            f"{mib:.0f}",
            f"{floor / meter.copy_speed / seconds:.0%}",
            f"{seconds_both:.4f}",
            f"{mib_both:.0f}",
            f"{seconds / ours[0]:.1f} / {seconds_both / ours[1]:.1f}",
        )
    console.print(table)


def compare_votes(
    meter: Meter, console: Console, shape: tuple[int, int, int, int], *, kernel: str, device: str
) -> None:
    batch, channels, side, steps = shape
    u = torch.randn(batch, channels, side, side, device=device, requires_grad=True)
    grids, size = rays(batch, side, steps, device=device), (side, side)
    ops = {"msrim": accumulate, "scatter_add_ looped": looped_scatter, "index_add_ looped": looped_index_add}
    if steps > 1:
        ops["scatter_add_ in one shot"] = one_shot
    ways = {way: partial(op, grids=grids, size=size, kernel=kernel) for way, op in ops.items()}
    if steps == 1 and kernel == "bilinear":
        ways[ADJOINT] = partial(grid_sample_backward, grids=grids, size=size)
    title = f"{kernel}: {batch} x {channels} x {side} x {side}, {steps} grids"
    compare(meter, console, title, ways, u, floor=2 * u.nbytes + grids.nbytes)


def compare_rim(meter: Meter, console: Console, batch: int, *, device: str) -> None:
    x = torch.randn(batch, 24, 32, 32, 8, device=device, requires_grad=True)
    ways = {"msrim": rim_transform, "grids made, one pass": rim_in_one_pass, EACH_RADIUS: rim_twin}
    title = f"rim transformation: {batch} x 24 x 32 x 32 x 8, radii 5 to 15"
    compare(meter, console, title, {k: partial(v, radii=RADII) for k, v in ways.items()}, x, floor=x.nbytes * 13)


def show_linear_cost(meter: Meter, console: Console, *, device: str) -> None:
    table = Table("pixels", "grids", "forward s", "ns a pixel, grid and channel", title="8 channels, nearest")
    for side in (32, 64, 128, 256):
        for steps in (16, 64, 256):
            u, grids = torch.randn(1, 8, side, side, device=device), rays(1, side, steps, device=device)
            _, seconds = meter(partial(accumulate, u, grids, (side, side)))
            table.add_row(f"{side}x{side}", f"{steps}", f"{seconds:.5f}", f"{seconds / u.numel() / steps * 1e9:.3f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64, help="patches of the rim's table; torch needs 0.2 GB for each")
    parser.add_argument("--only", choices=["votes", "rim", "linear"])
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="how many of the sizes, the first ones")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device, console = arguments.device, Console(width=110)
    meter = Meter(device, arguments.threads)
    console.print(f"copy {meter.copy_speed / 1e9:.1f} GB/s; {arguments.threads} threads, {device}")
    if arguments.only in (None, "votes"):
        for shape in SIZES[: arguments.sizes]:
            for kernel in ("nearest", "bilinear"):
                compare_votes(meter, console, shape, kernel=kernel, device=device)
            compare_votes(meter, console, (*shape[:3], 1), kernel="bilinear", device=device)
    if arguments.only in (None, "rim"):
        compare_rim(meter, console, arguments.batch, device=device)
    if arguments.only in (None, "linear"):
        show_linear_cost(meter, console, device=device)


if __name__ == "__main__":
    main()
