"""A cohort on a real Slurm: one node of two cores, started here from the programs of Debian's slurm-wlm and munge."""

from __future__ import annotations

import csv
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from getpass import getuser
from pathlib import Path

import pytest

from msrim.workflows.cohort.tasks import Task, failure_reason

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/node
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=6000
PartitionName=test Nodes=ALL Default=YES State=UP
"""


@pytest.fixture
def slurm(tmp_path_factory, monkeypatch) -> Iterator[None]:
    """A cluster that sbatch finds."""
    missing = [name for name in NEEDED if _program(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install slurm-wlm munge")
    folder, host = tmp_path_factory.mktemp("slurm"), socket.gethostname().split(".")[0]
    for name in ("controller", "node"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(64))
    key.chmod(0o600)
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(host=host, ports=_free_ports(), user=getuser(), folder=folder))
    monkeypatch.setenv("SLURM_CONF", str(configuration))
    munge = [
        f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("pid-file", "log-file", "seed-file", "socket")
    ]
    with ExitStack() as daemons:
        _start(daemons, ["munged", "--foreground", "--force", f"--key-file={key}", *munge], folder)
        _wait_for(lambda: (folder / "munge.socket").exists(), seconds=20)
        _start(daemons, ["slurmctld", "-D", "-f", str(configuration)], folder)
        _start(daemons, ["slurmd", "-D", "-f", str(configuration)], folder)
        _wait_for(lambda: "idle" in _said("sinfo", "--noheader"), seconds=60)
        yield
        _said("scancel", "--user", getuser())
        _wait_for(lambda: not _said("squeue", "--noheader"), seconds=30)


def test_a_cohort_outlives_the_program_that_submitted_it(slurm, phantom_dataset, tmp_path):
    bids, out = tmp_path / "bids", tmp_path / "out"
    other = ("*_T1w.nii.gz", "*_T2w.nii.gz", "*_Chimap.nii.gz")
    shutil.copytree(phantom_dataset(11), bids, ignore=shutil.ignore_patterns(*other))
    for label in ("empty", "text", "void"):
        (bids / f"sub-{label}" / "anat").mkdir(parents=True)
    (bids / "sub-text" / "anat" / "sub-text_FLAIR.nii.gz").write_text("hello")
    command = [sys.executable, "-m", "msrim", "cohort", str(bids), str(out), "participant", "--skip-bids-validation"]
    submit = [*command, "--plugin", "SLURM"]
    first = subprocess.Popen(submit, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    phantom = Task("segment", "phantom", None)
    _wait_for(lambda: (failure_reason(phantom, out) or "").startswith("did not end"), seconds=300)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not (out / "sub-phantom" / "run.json").exists()
    second = subprocess.run(submit, capture_output=True, text=True, timeout=900, check=False)
    assert second.returncode == 2
    assert "msrim: error: 3 of 4 steps failed" in second.stderr
    subprocess.run([*command[:6], "group", "--skip-bids-validation"], check=True, capture_output=True)
    with (out / "cohort.tsv").open(encoding="utf-8", newline="") as stream:
        rows = {row["participant_id"]: row for row in csv.DictReader(stream, delimiter="\t")}
    assert {name: row["segment"] for name, row in rows.items()} == {
        "sub-empty": "failed",
        "sub-phantom": "done",
        "sub-text": "failed",
        "sub-void": "failed",
    }
    assert "not a NIfTI image" in rows["sub-text"]["reason"]
    assert int(rows["sub-phantom"]["lesions"]) > 5
    # One job a subject and call, no more than one of a name at a time.
    jobs = list((out / "work" / "cohort" / "batch").glob("slurm-*.out"))
    assert len(jobs) == 8


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _free_ports() -> list[int]:
    with ExitStack() as sockets:
        found = [sockets.enter_context(socket.socket()) for _ in range(2)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


def _start(daemons: ExitStack, command: list[str], folder: Path) -> None:
    log = daemons.enter_context((folder / f"{command[0]}.out").open("w"))
    process = subprocess.Popen([_program(command[0]), *command[1:]], stdout=log, stderr=log)
    daemons.callback(process.wait)
    daemons.callback(process.terminate)


def _said(*command: str) -> str:
    return subprocess.run([_program(command[0]), *command[1:]], capture_output=True, text=True, check=False).stdout


def _wait_for(happened: Callable[[], bool], *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"waited {seconds:g} s in vain"
        time.sleep(0.2)
