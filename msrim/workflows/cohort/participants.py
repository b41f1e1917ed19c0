"""A whole BIDS dataset: every visit segmented, its rims classified, its patient followed over time, one graph over all.

A node of the graph is one workflow of one visit, so a cluster sees a job for each. Finished work is known by the
visits' own graphs: a node always runs and repeats nothing that is still valid.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from getpass import getuser
from pathlib import Path
from typing import Any

from msrim.bids import write_dataset_description
from msrim.console import Console
from msrim.errors import InputError, MsrimError
from msrim.files import as_output_error, locked
from msrim.models.registry import located
from msrim.recipe import Recipe
from msrim.workflows.cohort.processes import Processes
from msrim.workflows.cohort.tasks import (
    MISNAMED,
    Task,
    Visit,
    by_names,
    copies_among,
    failure_reason,
    record_failure,
    tasks_of,
)
from msrim.workflows.inputs import check_output_folder
from msrim.workflows.patient import WAITING, do_task
from msrim.workflows.patient_page import check_patient_page, write_pages
from msrim.workflows.quiet_nipype import Merge, nipype, plugins
from msrim.workflows.run import cached_call, logged

# A visit's peak is 3.0 GiB, of SynthStrip and the lesion networks in float32, and 0.9 GiB between two; each of the
# three workflows segments first whatever is not segmented yet.
MEMORY_GIB = 3.5
# Patients beside each other use cores better than threads within one.
CORES = 1


@dataclass(frozen=True)
class Plugin:
    """How Nipype runs the tasks.

    Attributes
    ----------
    name : str
        Linear, MultiProc, SLURM, SLURMGraph, PBS, SGE and so on.
    arguments : dict
        As Nipype's documentation has them for that plugin.
    """

    name: str = "Linear"
    arguments: dict[str, Any] = field(default_factory=dict)


LINEAR = Plugin()


def run_cohort(
    visits: Sequence[Visit],
    recipe: Recipe,
    out: Path,
    *,
    console: Console,
    rim_model: str = "datrnet",
    plugin: Plugin = LINEAR,
    work: Path | None = None,
) -> Path:
    """Run every visit through what its images allow; a task that fails stops only those that need it.

    Parameters
    ----------
    visits : sequence of Visit
        Of :func:`find_cohort`; those of folders whose names are no labels are told and left out.
    recipe : Recipe
    out : Path
        Folder of the derivative dataset.
    console : Console
    rim_model : str
        For visits with a ``*_Chimap.nii.gz``.
    plugin : Plugin
    work : Path, optional
        For the nodes' own files, ``work/`` of the results if not given. The steps of a visit stay beside its results.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    MsrimError
        Something is wrong with all, before anything ran; or with some, after the others are done.
    """
    out = Path(out).absolute()
    if not hasattr(plugins, f"{plugin.name}Plugin"):
        raise InputError(
            f"plugin {plugin.name}: Nipype has none of that name; give Linear, MultiProc, SLURM, PBS or SGE"
        )
    visits, misnamed = by_names(visits)
    bids = visits[0].folder if visits[0].session is None else visits[0].folder.parent
    if out == bids.parent:
        raise InputError(f"{out}: holds the images; choose another folder for the results")
    if out.is_relative_to(bids.parent) and out.relative_to(bids.parent).parts[0].startswith("sub-"):
        raise InputError(f"{out}: lies among the images of a patient; choose another folder for the results")
    if work is not None and Path(work).absolute() in (bids.parent, *bids.parent.glob("sub-*")):
        raise InputError(f"{work}: holds the images; choose another folder with --work-dir")
    check_output_folder(out)
    for visit in visits:
        check_patient_page(visit, out)
    for copy in copies_among(visits):
        console.note(copy)
    for visit in misnamed:
        console.note(f"{visit.folder}: left out: {MISNAMED}")
    tasks = tasks_of(visits)
    graph = cohort_graph(tasks, recipe, out, rim_model=rim_model, plugin=plugin, quiet=console.quiet)
    graph.base_dir = str((out / "work" if work is None else Path(work)).absolute())
    with _locked_for({task.participant for task, _ in tasks}, out), logged(out / "logs"):
        write_dataset_description(out)
        for task, _ in tasks:
            record_failure(task, out, WAITING)
        error = _run(graph, plugin, logs=out / "logs", console=console)
    if plugin.name.endswith("Graph") and error is None:
        console.say(f"{len(tasks)} jobs submitted; run the level `group` when they have ended")
        return out
    failed = [(task, reason) for task, _ in tasks if (reason := failure_reason(task, out))]
    write_pages(visits, out, console=console)
    if error is not None and not any(reason != WAITING for _, reason in failed):
        raise as_output_error(error, out)
    for task, reason in failed:
        console.say(f"{task.name}: {reason}")
    if failed:
        task, reason = failed[0]
        raise MsrimError(f"{len(failed)} of {len(tasks)} steps failed, the others are done; {task.name}: {reason}")
    if misnamed:
        what = "folder was" if len(misnamed) == 1 else "folders were"
        raise MsrimError(f"{len(misnamed)} {what} left out, the others are done; {misnamed[0].folder}: {MISNAMED}")
    return out


def cohort_graph(
    tasks: Sequence[tuple[Task, Sequence[Visit]]],
    recipe: Recipe,
    out: Path,
    *,
    rim_model: str,
    plugin: Plugin,
    quiet: bool,
) -> nipype.Workflow:
    """A node for each task; rims come after their visit, the comparison after all visits of the patient."""
    graph = nipype.Workflow("cohort")
    before: dict[str, list[nipype.Node]] = {}
    for task, visits in tasks:
        node = cached_call(
            task.name.replace("-", ""),
            run_task,
            task,
            visits=list(visits),
            recipe=recipe.model_copy(update={"model": located(recipe.model)}).model_dump_json(),
            out=out,
            rim_model=located(rim_model),
            quiet=quiet or plugin.name != "Linear",
            threads=None if plugin.name == "Linear" else CORES,
        )
        node.overwrite, node.n_procs, node._mem_gb = True, CORES, MEMORY_GIB
        if plugin.name.startswith("SLURM"):
            node.plugin_args = {"sbatch_args": _sbatch(plugin.name, plugin.arguments.get("sbatch_args", ""))}
        graph.add_nodes([node])
        if task.step == "longitudinal":
            own = before[task.participant]
            gather = nipype.Node(Merge(len(own)), f"{node.name}_after", run_without_submitting=True)
            for number, earlier in enumerate(own, 1):
                graph.connect(earlier, "value", gather, f"in{number}")
            graph.connect(gather, "out", node, "after")
        elif task.step == "rims":
            segmented = next(e for e in before[task.participant] if e.name == node.name.replace("_rims", "_segment"))
            graph.connect(segmented, "value", node, "after")
        before.setdefault(task.participant, []).append(node)
    return graph


def run_task(
    task: Task,
    *,
    visits: list[Visit],
    recipe: str,
    out: Path,
    rim_model: str,
    quiet: bool,
    threads: int | None = None,
) -> str:
    """Work of a node."""
    console = Console(quiet=quiet)
    if threads is not None:
        _limit_threads(threads)
    console.say(task.name)
    do_task(task, visits, Recipe.model_validate_json(recipe), out, rim_model=rim_model, console=console)
    return task.name


def _run(graph: nipype.Workflow, plugin: Plugin, *, logs: Path, console: Console) -> BaseException | None:
    """Run the graph; what Nipype raised at its end, because of a node or for itself."""

    def follow(node: nipype.Node, status: str) -> None:
        failure = getattr(node.interface, "failure", None)
        if failure is not None and not isinstance(failure, Exception):
            raise failure  # Ctrl-C ends all patients, not one.
        if plugin.name != "Linear" and status != "start":
            console.say(f"{node.name}: {'ended' if status == 'end' else 'failed'}")

    graph.config["execution"] = {
        "stop_on_first_crash": "false",
        "remove_unnecessary_outputs": "false",
        "create_report": "false",
        "crashdump_dir": str(logs),
        "crashfile_format": "txt",
    }
    # Nipype names cluster jobs by it; containers often go without.
    os.environ.setdefault("LOGNAME", user_name())
    arguments = plugin.arguments if plugin.name.endswith("Graph") else plugin.arguments | {"status_callback": follow}
    runner: Any = plugin.name
    if plugin.name == "MultiProc":
        import torch  # noqa: F401  once here and not in every process that comes from this one

        runner = Processes(arguments)
    try:
        graph.run(plugin=runner, plugin_args=arguments)
    except Exception as error:
        # Of several, Nipype gives the first as the cause of an error of its own.
        return error.__cause__ if type(error) is RuntimeError and error.__cause__ else error
    return None


def user_name() -> str:
    """The user's name, or number: containers run under numbers that have no name."""
    try:
        return getuser()
    except (KeyError, OSError):
        return f"user{os.getuid()}"


def _sbatch(plugin: str, given: str) -> str:
    """Options of a job that the user has not set. A job waits for one of its name that a killed run left behind."""
    needs = {"--mem": f"{MEMORY_GIB * 1024:.0f}M", "--cpus-per-task": str(CORES)}
    if plugin == "SLURM":
        needs["--dependency"] = "singleton"
    return " ".join(f"{option}={value}" for option, value in needs.items() if option not in given)


@contextmanager
def _locked_for(participants: set[str], out: Path) -> Iterator[None]:
    """Keep others off these participants; the tasks of a job array may share the folder, each with its own."""
    with ExitStack() as locks:
        for label in sorted(participants):
            locks.enter_context(locked(out / "work" / f"sub-{label}"))
        yield


def _limit_threads(threads: int) -> None:
    import SimpleITK as sitk
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    threadpool_limits(threads)
