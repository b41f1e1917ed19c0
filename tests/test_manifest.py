"""run.json tells what went in, what came out and what it cost."""

from __future__ import annotations

import json
import mmap
import platform
import subprocess
import sys
import time

import numpy as np
import pytest

from msrim import __version__
from msrim.files import write_text
from msrim.manifest import Manifest, StepRecord, measured, package_versions

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_run_json(tmp_path):
    flair = write_text("abc", tmp_path / "in" / "FLAIR.nii.gz")
    folder = tmp_path / "out" / "sub-1"
    mask = write_text("abc", folder / "anat" / "mask.nii.gz")
    shared = write_text("abc", tmp_path / "out" / "dataset_description.json")
    manifest = Manifest(recipe={"model": "allnet"}, inputs={"FLAIR": flair})
    manifest.steps.append(StepRecord("find_brain", 1.5, 1.2, 300.0, kept=False))
    manifest.remarks += ["lesion 3: reaches the edge", "no CUDA device; using the CPU"]
    manifest.fallbacks.append("no CUDA device; using the CPU")
    content = json.loads(manifest.write(folder / "run.json", outputs=[mask, shared]).read_text())
    assert content["inputs"] == {"FLAIR": {"path": str(flair), "sha256": ABC}}
    assert content["outputs"] == {"../dataset_description.json": ABC, "anat/mask.nii.gz": ABC}
    assert content["steps"] == [
        {"name": "find_brain", "seconds": 1.5, "processor_seconds": 1.2, "peak_mib": 300.0, "kept": False}
    ]
    assert content["recipe"] == {"model": "allnet"}
    assert content["warnings"] == ["lesion 3: reaches the edge"]
    assert content["fallbacks"] == ["no CUDA device; using the CPU"]
    assert content["versions"]["msrim"] == __version__
    assert content["versions"]["python"] == platform.python_version()


def test_versions_are_those_that_are_imported():
    assert package_versions()["numpy"] == np.__version__
    assert "missing" not in package_versions().values()


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is told by Linux alone")
def test_each_block_has_a_peak_of_its_own():
    # Fresh pages from the system: the heap may still hold 200 MiB that earlier tests used and gave back.
    with measured() as large, mmap.mmap(-1, 200 * 2**20) as pages:
        for start in range(0, len(pages), mmap.PAGESIZE):
            pages[start] = 1
    with measured() as small:
        pass
    assert large.peak_mib - small.peak_mib == pytest.approx(200, abs=40)
    assert large.seconds > 0


def test_processor_time_is_that_of_work_here_and_in_programs():
    with measured() as asleep:
        time.sleep(0.3)
    assert asleep.processor_seconds < 0.2 < asleep.seconds
    with measured() as busy:
        subprocess.run([sys.executable, "-c", "while __import__('time').process_time() < 0.4: pass"], check=True)
    assert busy.processor_seconds >= 0.4


def test_failing_block_is_measured_too():
    with pytest.raises(ZeroDivisionError), measured() as cost:
        raise ZeroDivisionError
    assert cost.seconds >= 0
