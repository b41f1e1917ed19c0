"""Steps and graphs that survive being killed: the layer between plain functions and Nipype.

A step is a function at the top level of a module. It runs in a folder of its own, writes its files there under relative
names (or elsewhere under absolute ones) and returns them::

    def find_brain(flair: Path, *, radius_mm: float) -> Path:
        return write_volume(..., Path("brain.nii.gz"))

    brain = step(find_brain, outputs=["mask"], flair=subject.contrasts["FLAIR"], radius_mm=3.0)
    lesions = step(find_lesions, outputs=["mask", "volume_mm3"])
    workflow = nipype.Workflow("segment")
    workflow.connect(brain, "mask", lesions, "brain")
    results = run_graph(workflow, folder=subject.folder(out), console=console, manifest=manifest)
    results["find_lesions"]["mask"]          # a Path
    results["find_lesions"]["volume_mm3"]    # a number

Values between steps are paths (``Path``) and plain values (text, numbers, None, lists and dicts of them); arrays go
through files. A step is done again unless all of these are as they were: the bytes of its input files, its other
inputs, msrim's code, the bytes of its output files. A function with several outputs returns a tuple in their order.

A step that replaces something by something else says so with ``warnings.warn(text, Fallback)``; the console shows it
and the manifest keeps it, also when the step is kept from an earlier run.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import nipype
from nipype.interfaces.base import BaseInterface, BaseInterfaceInputSpec, DynamicTraitedSpec, isdefined
from nipype.interfaces.io import add_traits

import msrim
from msrim.console import Console
from msrim.errors import Fallback, OutputError
from msrim.files import locked, remove_partial_files, sha256_of, unless_disk_full
from msrim.manifest import Manifest, StepRecord, measured


def step(function: Callable, *, outputs: list[str], name: str | None = None, **inputs: Any) -> nipype.Node:
    """Make a function a step of a graph.

    Parameters
    ----------
    function : callable
        At the top level of an importable module.
    outputs : list of str
        Names of what it returns.
    name : str, optional
        Name in the graph and on the console; the function's own if not given.
    **inputs
        Its fixed arguments; the others come through ``workflow.connect``. Files as Path.
    """
    node = _Step(_Call(function, outputs), name or function.__name__)
    for key, value in inputs.items():
        node.set_input(key, _packed(value))
    return node


def run_graph(
    workflow: nipype.Workflow, *, folder: Path, console: Console, manifest: Manifest
) -> dict[str, dict[str, Any]]:
    """Run what is not done yet, in order and in this process.

    Parameters
    ----------
    workflow : nipype.Workflow
        Of :func:`step` nodes.
    folder : Path
        Of the results. The steps' own folders go to ``work/`` below it and make the run resumable, Nipype's log and
        tracebacks to ``logs/``; what a killed run left half written anywhere below is removed.
    console : Console
    manifest : Manifest
        Gets a record of every step, and the fallbacks.

    Returns
    -------
    dict
        Outputs by step name.

    Raises
    ------
    OutputError
        The folder cannot be written to, or another run is using it.
    Exception
        Whatever a step raised, as it was raised.
    """
    results: dict[str, dict[str, Any]] = {}
    failures: list[BaseException] = []

    def follow(node: nipype.Node, status: str) -> None:
        if status == "start":
            console.started(_words(node.name))
        elif status == "end":
            values = _unpacked(node.result.outputs.trait_get())
            record = values.pop("record")
            results[node.name] = values
            kept = not node.interface.ran
            manifest.steps.append(StepRecord(node.name, record["seconds"], record["peak_mib"], kept))
            manifest.fallbacks.extend(record["fallbacks"])
            for text in record["fallbacks"]:
                console.say(f"note: {text}")
            console.finished(_words(node.name), "kept" if kept else f"{record['seconds']:.1f} s")
        elif node.interface.failure is not None:
            failures.append(node.interface.failure)

    logs = folder / "logs"
    workflow.base_dir = str((folder / "work").absolute())
    with locked(folder / "work"), logged(logs), console.progress(len(workflow.list_node_names())):
        remove_partial_files(folder)
        _configure(workflow, logs)
        try:
            workflow.run(plugin="Linear", plugin_args={"status_callback": follow})
        except Exception as error:
            failures.append(error)
    if failures:
        raise unless_disk_full(failures[0], folder)
    return results


class _Inputs(DynamicTraitedSpec, BaseInterfaceInputSpec):
    """Whatever arguments the function has."""


class _Call(BaseInterface):
    """The interface through which Nipype calls a function."""

    input_spec = _Inputs
    output_spec = DynamicTraitedSpec

    def __init__(self, function: Callable, outputs: list[str]) -> None:
        super().__init__()
        self.function = function
        self.names = outputs
        self.ran = False
        self.failure: BaseException | None = None
        self._values: dict[str, Any] = {}
        add_traits(self.inputs, [*signature(function).parameters, "code"])
        self.inputs.code = f"{_code_version()} {function.__module__}.{function.__qualname__}"

    def _outputs(self) -> DynamicTraitedSpec:
        return add_traits(DynamicTraitedSpec(), [*self.names, "record"])

    def _run_interface(self, runtime: Any) -> Any:
        self.ran = True
        # Nipype stores the runtime; the user's environment may hold secrets and does not belong beside results.
        runtime.environ = {}
        given = {key: value for key, value in self.inputs.trait_get().items() if isdefined(value) and key != "code"}
        try:
            with measured() as cost, _fallbacks() as fallbacks:
                returned = self.function(**_unpacked(given))
            values = (returned,) if len(self.names) == 1 else returned
            self._values = {name: _packed(value) for name, value in zip(self.names, values, strict=True)}
            self._values["record"] = {
                **asdict(cost),
                "fallbacks": fallbacks,
                "sha256": {path: sha256_of(Path(path)) for path in _files(self._values)},
            }
        except BaseException as error:  # Nipype swallows even Ctrl-C here and would raise its own text instead.
            self.failure = error
            raise
        return runtime

    def _list_outputs(self) -> dict[str, Any]:
        return self._values


class _Step(nipype.Node):
    """A node whose cache also knows what it wrote: a deleted or damaged result is made again."""

    def is_cached(self, rm_outdated: bool = False) -> tuple[bool, bool]:
        cached, updated = super().is_cached(rm_outdated)
        return cached, updated and self._intact()

    def _intact(self) -> bool:
        try:
            written = self.result.outputs.record["sha256"]
            return all(sha256_of(Path(path)) == digest for path, digest in written.items())
        except (OSError, EOFError, zlib.error, pickle.UnpicklingError):
            return False


@contextmanager
def _fallbacks() -> Iterator[list[str]]:
    """Collect the fallbacks that the block warns of; warnings of libraries go to the log."""
    fallbacks: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Fallback)
        yield fallbacks
    for note in caught:
        if issubclass(note.category, Fallback):
            fallbacks.append(str(note.message))
        else:
            logging.getLogger("nipype.interface").warning("%s: %s", note.category.__name__, note.message)


@cache
def _code_version() -> str:
    """Version and digest of msrim's sources, so that results of other code are never taken for this one's."""
    digest = hashlib.sha256()
    for source in sorted(Path(msrim.__file__).parent.rglob("*")):
        if source.suffix in {".py", ".toml", ".jinja"}:
            digest.update(source.read_bytes())
    return f"{msrim.__version__}+{digest.hexdigest()[:12]}"


def _packed(value: Any) -> Any:
    """A value as Nipype takes it: absolute paths as text, which it hashes by the content of the file they name."""
    if isinstance(value, Path):
        return str(value.absolute())
    if isinstance(value, dict):
        return {key: _packed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_packed(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"a step takes and gives files and plain values, not {type(value).__name__}; write it to a file")


def _unpacked(value: Any) -> Any:
    """The inverse: a text that is an absolute path comes out as a Path."""
    if isinstance(value, str):
        return Path(value) if value.startswith(os.sep) else value
    if isinstance(value, dict):
        return {key: _unpacked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unpacked(item) for item in value]
    return value


def _files(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value.startswith(os.sep) and Path(value).is_file():
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _files(item)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _configure(workflow: nipype.Workflow, logs: Path) -> None:
    workflow.config["execution"] = {
        "hash_method": "content",
        "stop_on_first_crash": "true",
        "remove_unnecessary_outputs": "false",
        "create_report": "false",
        "crashdump_dir": str(logs.absolute()),
        "crashfile_format": "txt",
    }
    # Interfaces read this one from the package's own settings.
    nipype.config.set("execution", "check_version", "false")


class _Log(logging.FileHandler):
    """A full disk is told once, by whoever could not write a result, and not by every line of the log."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


@contextmanager
def logged(logs: Path) -> Iterator[None]:
    """Send Nipype's log, and whatever libraries print, to a file: stdout belongs to the result."""
    try:
        logs.mkdir(parents=True, exist_ok=True)
        handler = _Log(logs / "nipype.log", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{logs}: cannot be written ({error.strerror}); choose another output folder") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s: %(message)s"))
    logger = logging.getLogger("nipype")
    handlers, logger.handlers = logger.handlers, [handler]
    stdout = os.dup(1)
    sys.stdout.flush()
    os.dup2(handler.stream.fileno(), 1)
    try:
        yield
    finally:
        with suppress(OSError):
            sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)
        logger.handlers = handlers
        with suppress(OSError):
            handler.close()
