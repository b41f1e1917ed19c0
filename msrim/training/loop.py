"""The training loop, and the record that every training keeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sized
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import DataLoader, Dataset

from msrim.files import written_atomically
from msrim.models import channels_innermost, write_weights
from msrim.models.inference import has_bfloat16
from msrim.recipe import ONE_CYCLE, Optimiser

# Samples from which batch norm's statistics are taken in the end.
MEASURED = 100
# Norm of a gradient beyond which a step is left out: on a CPU, bfloat16 convolutions of a few voxels give 1e15 or
# infinity at times, and differently when repeated (seen with torch 2.13; not in float32).
MAX_GRADIENT_NORM = 1e6
# After so many seconds a checkpoint is due however few steps they were: on a shared machine 250 can take ten minutes.
CHECKPOINT_S = 120.0


@dataclass(frozen=True)
class Fitting:
    """How a network is fitted.

    Attributes
    ----------
    batch_size : int
    learning_rate : float
    optimiser : Optimiser
        Averaging stands in for a long decay of the learning rate.
    fine_tuning : bool
        The network is a trained one, whose batch norm keeps its statistics: few cases measure them badly, and a lesion
        model then finds twice as much as there is.
    workers : int
        Processes that make samples.
    report_every : int
        Steps.
    """

    batch_size: int = 1
    learning_rate: float = 2e-3
    optimiser: Optimiser = ONE_CYCLE
    fine_tuning: bool = False
    workers: int = 1
    report_every: int = 25


def fit(
    network: nn.Module,
    samples: Dataset[tuple[Tensor, ...]],
    *,
    loss: Callable[..., Tensor],
    out: Path,
    how: Fitting,
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Train for one pass over ``samples`` and write the weights.

    Parameters
    ----------
    samples : Dataset
        Gives (input, *targets). One pass over it is the whole training, because samples are synthesised and none is
        seen twice.
    loss : callable
        ``loss(logits, *targets)``.
    out : Path
        Folder for ``weights.safetensors``, ``checkpoint.pt`` and ``loss.csv``. A checkpoint found there is continued.
    how : Fitting
    report : callable
        Gets a line now and then.

    Returns
    -------
    Path
        The weights file.
    """
    device = next(network.parameters()).device
    if how.optimiser.precision == "bfloat16" and not has_bfloat16(device):
        report("this processor has no instructions for bfloat16: training in float32, which is faster here")
    channels_innermost(network)
    batch_size = how.batch_size
    # Torch's Dataset has no length of its own.
    steps = len(cast(Sized, samples)) // batch_size
    descent = Descent(network, how.optimiser, learning_rate=how.learning_rate, steps=steps)
    record = Record(out, descent.parts, steps=steps, report_every=how.report_every, report=report)
    remaining = torch.utils.data.Subset(samples, range(record.first * batch_size, steps * batch_size))
    # Spawned workers: a forked one dies if a threaded kernel has run in the parent.
    loader = DataLoader(
        remaining,
        batch_size,
        num_workers=how.workers,
        multiprocessing_context="spawn" if how.workers else None,
        prefetch_factor=4 if how.workers else None,
    )
    network.train()
    if how.fine_tuning:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eval()
    for step, (image, *targets) in enumerate(loader, start=record.first):
        with descent.rounded():
            logits = network(image.to(device, memory_format=torch.channels_last_3d))
        value = loss(logits.float(), *(target.to(device) for target in targets))
        descent.step(step, value)
        record.add(step, value.item())
    if descent.averaged is None:
        return write_weights(network, out / "weights.safetensors")
    if not how.fine_tuning:
        with descent.rounded():
            _measure_batch_norm(descent.averaged.module, samples, batch_size=batch_size)
    return write_weights(descent.averaged.module, out / "weights.safetensors")


class Descent:
    """A network's weights on their way down, as a recipe's optimiser has it.

    Parameters
    ----------
    network : nn.Module
    settings : Optimiser
    learning_rate : float
    steps : int
        Of the whole training.

    Attributes
    ----------
    averaged : AveragedModel or None
    parts : dict
        All that has a state, by name, for :class:`Record`.
    """

    def __init__(self, network: nn.Module, settings: Optimiser, *, learning_rate: float, steps: int) -> None:
        self.network, self.settings, self.learning_rate = network, settings, learning_rate
        # The first step of each cycle, and the end of the last one.
        self.cycles = sorted({0, *(round(steps * part) for part in settings.restarts), steps})
        self.averaged: AveragedModel | None = None
        self.parts: dict[str, Any] = {"network": network}
        self._begin(self.cycles[1])

    def _begin(self, steps: int) -> None:
        """Begin a cycle: nothing is left of one before but the weights."""
        settings = self.settings
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.name]
        self.optimiser = kind(
            self.network.parameters(), lr=self.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay
        )
        self.schedule = _schedule(self.optimiser, settings, learning_rate=self.learning_rate, steps=steps)
        self.parts |= {"optimiser": self.optimiser, "schedule": self.schedule}
        if settings.averaging is not None:
            self.averaged = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(settings.averaging))
            self.parts["averaged"] = self.averaged

    def rounded(self) -> torch.autocast:
        """Context in which the network calculates in the recipe's precision, as far as its device has it."""
        device = next(self.network.parameters()).device
        rounded = self.settings.precision == "bfloat16" and has_bfloat16(device)
        return torch.autocast(device.type, torch.bfloat16, enabled=rounded)

    def step(self, number: int, loss: Tensor) -> None:
        """One step down a loss, the first is number 0."""
        self.optimiser.zero_grad()
        loss.backward()
        highest = inf if self.settings.clipping is None else self.settings.clipping
        # Also true for NaN. Without a gradient the optimiser changes nothing.
        if not nn.utils.clip_grad_norm_(self.network.parameters(), highest) < MAX_GRADIENT_NORM:
            self.optimiser.zero_grad()
        self.optimiser.step()
        self.schedule.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)
        done = number + 1
        if done in self.cycles[1:-1]:
            if self.averaged is not None:
                with torch.no_grad():
                    for weight, mean in zip(self.network.parameters(), self.averaged.module.parameters(), strict=True):
                        weight.copy_(mean)
            self._begin(self.cycles[self.cycles.index(done) + 1] - done)


def _schedule(optimiser: torch.optim.Optimizer, settings: Optimiser, *, learning_rate: float, steps: int) -> Any:
    """How the learning rate goes."""
    rates = torch.optim.lr_scheduler
    if settings.schedule == "one-cycle":
        low, high = settings.beta1_range or (0.0, 0.0)
        # Torch divides by zero where the rate rises for a single step.
        warm_up = 0.0 if settings.warm_up is None or settings.warm_up * steps == 1 else settings.warm_up
        return rates.OneCycleLR(
            optimiser,
            learning_rate,
            total_steps=steps,
            pct_start=warm_up,
            cycle_momentum=settings.beta1_range is not None,
            base_momentum=low,
            max_momentum=high,
        )
    # A constant rate has no milestones.
    return rates.MultiStepLR(optimiser, [int(steps * part) for part in settings.milestones], settings.factor or 1.0)


class Record:
    """A training's folder: its loss curve, and the checkpoint from which it goes on.

    Parameters
    ----------
    out : Path
        Gets ``checkpoint.pt`` and ``loss.csv``; a checkpoint found there is loaded, and the curve ends with it.
    parts : dict
        Content of a checkpoint: network, optimiser and all else with a state, by name.
    steps : int
        Of the whole training.
    report_every : int
        Steps between two points of the curve; a checkpoint is written at every tenth, and after CHECKPOINT_S.

    Attributes
    ----------
    first : int
        The step to begin with.
    """

    def __init__(
        self, out: Path, parts: dict[str, Any], *, steps: int, report_every: int, report: Callable[[str], None]
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.parts, self.steps = out, parts, steps
        self.report_every, self.report = report_every, report
        self.first, self.began = 0, time.perf_counter()
        self.losses: list[float] = []
        if (out / "checkpoint.pt").exists():
            saved = torch.load(out / "checkpoint.pt", weights_only=True, map_location="cpu")
            for name, part in parts.items():
                part.load_state_dict(saved[name])
            self.first = saved["step"]
        self.written = self.began
        self.curve = out / "loss.csv"
        if self.curve.exists():
            points = self.curve.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [point for point in points if int(point.partition(",")[0]) <= self.first]
            self.curve.write_text("".join(kept), encoding="utf-8")

    def add(self, step: int, loss: float) -> None:
        """Note a finished step; write what is due."""
        done, now = step + 1, time.perf_counter()
        self.losses.append(loss)
        if done % self.report_every and done != self.steps:
            return
        mean, seconds = sum(self.losses) / len(self.losses), now - self.began
        with open(self.curve, "a", encoding="utf-8") as curve:
            curve.write(f"{done},{mean:.5f},{seconds:.0f}\n")
        self.report(f"step {done}/{self.steps} loss {mean:.4f} after {seconds:.0f} s")
        self.losses.clear()
        if done % (10 * self.report_every) == 0 or done == self.steps or now - self.written > CHECKPOINT_S:
            with written_atomically(self.out / "checkpoint.pt") as temporary:
                torch.save({"step": done, **{name: part.state_dict() for name, part in self.parts.items()}}, temporary)
            self.written = now


def _measure_batch_norm(network: nn.Module, samples: Dataset[tuple[Tensor, ...]], *, batch_size: int) -> None:
    """Batch norm's statistics for these very weights; those kept while training belong to the last steps' weights."""
    device = next(network.parameters()).device
    some = torch.utils.data.Subset(samples, range(min(len(cast(Sized, samples)), MEASURED)))
    images = (
        image.to(device, memory_format=torch.channels_last_3d) for image, *_ in DataLoader(some, batch_size=batch_size)
    )
    with torch.no_grad():
        update_bn(images, network)
