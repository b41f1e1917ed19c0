"""Installed and missing parts of this machine, and the consequences for the user."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from msrim.errors import BackendError, ModelError
from msrim.manifest import package_versions
from msrim.preprocess.fsl import find_fsl

MIN_MEMORY_GIB = 6


@dataclass(frozen=True)
class Finding:
    """One thing looked at: "ok", "missing" (msrim runs without it) or "broken" (it does not)."""

    state: Literal["ok", "missing", "broken"]
    what: str
    meaning: str


def examine() -> list[Finding]:
    """Look at packages, models, memory, GPU and FSL.

    Examples
    --------
    >>> examine()[0].what
    'python'
    """
    findings = [Finding("ok", "python", f"{sys.version.split()[0]} at {sys.executable}")]
    for name, number in package_versions().items():
        if number == "missing":
            findings.append(Finding("broken", name, "not installed; install msrim again with `make`"))
        elif name != "python":
            findings.append(Finding("ok", name, number))
    broken = any(finding.state == "broken" for finding in findings)
    return [*findings, *([] if broken else [*_models(), _gpu()]), _radiomics(), _memory(), _fsl()]


def _models() -> list[Finding]:
    from msrim.models import load_model
    from msrim.models.registry import packaged_cards

    findings = []
    for card in packaged_cards():
        try:
            load_model(card)
        except ModelError as error:
            findings.append(Finding("broken", f"model {card.label}", str(error)))
        else:
            findings.append(Finding("ok", f"model {card.label}", "weights are there and whole"))
    return findings


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("ok", "GPU", torch.cuda.get_device_name())
    return Finding("missing", "GPU", "networks run on the CPU, in seconds to a minute; --device cuda cannot be used")


def _radiomics() -> Finding:
    # The fork is what Python 3.12 and later can build.
    for name in ("pyradiomics", "pyradiomics-bhklab"):
        with suppress(PackageNotFoundError):
            return Finding("ok", name, version(name))
    return Finding(
        "missing",
        "pyradiomics",
        "the rim networks qsmrimnet, aprl-rf and aprl-nn cannot be used; `make` installs it, see pipelines/README.md",
    )


def _memory() -> Finding:
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    if gib < MIN_MEMORY_GIB:
        return Finding("missing", "memory", f"{gib:.0f} GiB; a run may need {MIN_MEMORY_GIB} and be killed for it")
    return Finding("ok", "machine", f"{cores} cores, {gib:.0f} GiB of memory")


def _fsl() -> Finding:
    try:
        found = find_fsl()
    except BackendError as error:
        return Finding("missing", "FSL", f"{error}; without it --backend fsl cannot be used")
    return Finding("ok", "FSL", f"{found.version} at {found.folder}")
