"""One run of a command: its steps are called at once, cached, and survive being killed.

A step is a function at the top level of a module. It runs in a folder of its own, writes its files there under relative
names (or elsewhere under absolute ones) and returns them, alone or in a dataclass::

    def find_brain(flair: Path, *, radius_mm: float) -> Path:
        return write_volume(..., Path("brain.nii.gz"))

    with Run(subject.folder(out), console, recipe=recipe.model_dump(), inputs=subject.contrasts) as run:
        brain = run(find_brain, subject.contrasts["FLAIR"], radius_mm=3.0)      # a Path
        lesions = run(find_lesions, brain)                                      # whatever find_lesions returns
        run.write_manifest([brain, lesions.mask])

Arguments and results are files (``Path``), text, numbers, None, and lists, tuples, dicts and dataclasses of them;
arrays go through files. A step is done again unless all of these are as they were: the bytes of its input files, its
other arguments, msrim's code, the bytes of its output files. Nipype keeps the hashes.

A step addresses the reader with ``warnings.warn(text, Remark)``; the console shows it and the manifest keeps
it, also when the step is kept from an earlier run. It is a ``Fallback`` where something was replaced by something else,
and a ``Doubt`` where the results need visual inspection before they are trusted.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import os
import pickle
import sys
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, fields, is_dataclass, replace
from functools import cache
from inspect import signature
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import msrim
from msrim.console import Console
from msrim.errors import Doubt, Fallback, OutputError, Remark
from msrim.files import as_output_error, locked, remove_partial_files, sha256_of
from msrim.manifest import Cost, Manifest, StepRecord, measured
from msrim.preprocess.backends import find_backend, versions_of
from msrim.workflows.plan import costs
from msrim.workflows.quiet_nipype import (
    BaseInterface,
    BaseInterfaceInputSpec,
    DynamicTraitedSpec,
    add_traits,
    nipype,
)

P = ParamSpec("P")
T = TypeVar("T")


class Run:
    """One run of a command in its folder: lock, log, cached steps and run.json.

    Parameters
    ----------
    folder : Path
        Of the results. The steps' own folders go to ``work/`` below it and make the run resumable, Nipype's log goes to
        ``logs/``. Half-written files of a killed run anywhere below are removed.
    console : Console
    recipe : dict
        Every setting as it is used, for run.json.
    inputs : dict of str to Path
        The user's files, for run.json.
    remarks : sequence of str
        Remarks from before the run, for run.json.
    steps : sequence of str
        Names of those to come, for the progress bar; see :mod:`msrim.workflows.plan`.
    work : Path, optional
        Where the steps' own folders go, that of another run whose steps this one shares; ``work/`` below the folder if
        not given.

    Raises
    ------
    OutputError
        When the block begins: the folder cannot be written to, or another run is using it. When it ends: the disk is
        full.
    """

    def __init__(
        self,
        folder: Path,
        console: Console,
        *,
        recipe: dict[str, Any],
        inputs: dict[str, Path],
        remarks: Sequence[str] = (),
        steps: Sequence[str] = (),
        work: Path | None = None,
    ) -> None:
        self.folder = folder
        self.work = folder / "work" if work is None else work
        self.console = console
        self.manifest = Manifest(recipe=recipe, inputs=inputs, remarks=list(remarks))
        self._planned = costs(steps)
        self._open = ExitStack()

    def __enter__(self) -> Run:
        with ExitStack() as opened:
            opened.enter_context(locked(self.work))
            opened.enter_context(logged(self.folder / "logs"))
            opened.enter_context(self.console.progress(self._planned))
            remove_partial_files(self.folder)
            self._open = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        if error is not None and (told := as_output_error(error, self.folder)) is not error:
            raise told from error

    def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function as a step of its own name, see :meth:`step`."""
        return self.step(function.__name__, function, *args, **kwargs)

    def step(self, name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function as a step, or take what an earlier run's call of it returned if that is still valid.

        Parameters
        ----------
        name : str
            In the run and on the console.
        function : callable
            At the top level of an importable module.
        *args, **kwargs
            Its arguments.

        Raises
        ------
        Exception
            Whatever the function raises, as it is raised.
        """
        node = cached_call(name, function, *args, **kwargs)
        node.base_dir = str(self.work.absolute())
        node.config = {"execution": EXECUTION}
        words = name.replace("_", " ")
        self.console.started(words)
        try:
            node.run()
        except Exception as error:
            failure = node.interface.failure or error
            logging.getLogger("nipype.workflow").error("%s failed", name, exc_info=failure)
            raise failure from None
        finally:
            _give_back_memory()
        outputs, kept = node.result.outputs, not node.interface.ran
        record = outputs.record
        cost = {field.name: record[field.name] for field in fields(Cost)}
        self.manifest.steps.append(StepRecord(name=name, kept=kept, **cost))
        manifest = self.manifest
        for text in record["remarks"]:
            # One remark about a file is one note, however many steps read it.
            if text not in manifest.remarks:
                manifest.remarks.append(text)
                self.console.note(text)
        manifest.fallbacks += [text for text in record["fallbacks"] if text not in manifest.fallbacks]
        manifest.doubts += [text for text in record["doubts"] if text not in manifest.doubts]
        self.console.finished(words, "kept" if kept else f"{record['seconds']:.1f} s", kept=kept)
        return outputs.value

    def prepared_by(self, name: str) -> str:
        """Find the backend of a recipe, show which it is, and keep its name and version for run.json.

        Parameters
        ----------
        name : str
            As in the recipe; "auto" is resolved.

        Returns
        -------
        str
            See :func:`msrim.preprocess.backends.find_backend`.
        """
        backend = find_backend(name)
        self.manifest.backend = backend
        self.manifest.versions |= versions_of(backend)
        self.console.say(f"backend: {backend}")
        return backend

    @property
    def all_kept(self) -> bool:
        """Whether no step has been done anew."""
        return all(record.kept for record in self.manifest.steps)

    @property
    def is_finished(self) -> bool:
        """Whether every step was kept and the report of that run still stands in the folder as it was written."""
        report, told = self.folder / "report.html", self.folder / "run.json"
        if not self.all_kept or not (report.is_file() and told.is_file()):
            return False
        return json.loads(told.read_text(encoding="utf-8"))["outputs"].get(report.name) == sha256_of(report)

    def write_manifest(self, outputs: Iterable[Path]) -> Path:
        """Write run.json into the folder."""
        return self.manifest.write(self.folder / "run.json", outputs=list(outputs))


def _give_back_memory() -> None:
    """Give the system what was freed.

    The command line keeps it within a step. From step to step blocks of other sizes would pile up: by 600 MiB for each
    image whose brain was extracted without bfloat16.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def cached_call(name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> nipype.Node:
    """A call as a node of Nipype, not run yet, with the outputs ``value`` (what is returned) and ``record``.

    Whatever is connected to its input ``after`` comes before it, and is not looked at.
    """
    given = signature(function).bind(*args, **kwargs)
    return _Step(_Call(function, {key: _absolute(value) for key, value in given.arguments.items()}), name)


def files_in(value: Any) -> Iterator[Path]:
    """Every Path in lists, tuples, dicts and dataclasses.

    Examples
    --------
    >>> [path.name for path in files_in({"mask": Path("mask.nii.gz"), "rows": [1, 2], "more": [Path("table.tsv")]})]
    ['mask.nii.gz', 'table.tsv']
    """
    if isinstance(value, Path):
        yield value
    elif isinstance(value, dict):
        yield from files_in(list(value.values()))
    elif is_dataclass(value) and not isinstance(value, type):
        yield from files_in([getattr(value, field.name) for field in fields(value)])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from files_in(item)


EXECUTION = {"hash_method": "content", "remove_unnecessary_outputs": "false", "create_report": "false"}


class _Inputs(DynamicTraitedSpec, BaseInterfaceInputSpec):
    """Inputs of the cache's hash: the function's arguments, and the code."""

    def _get_sorteddict(self, objekt: Any, dictwithhash: bool = False, **how: Any) -> Any:
        # Nipype would read every file again for every step that takes it.
        # Path.is_file fails on a text that is too long for a path.
        if how.get("hash_files", True) and isinstance(objekt, str) and os.path.isfile(objekt):  # noqa: PTH113
            digest = sha256_of(Path(objekt))
            return (objekt, digest) if dictwithhash else digest
        return super()._get_sorteddict(objekt, dictwithhash, **how)


class _Call(BaseInterface):
    """The interface through which Nipype calls a function."""

    input_spec = _Inputs
    output_spec = DynamicTraitedSpec

    def __init__(self, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
        super().__init__()
        self.function = function
        self.arguments = arguments
        self.ran = False
        self.failure: BaseException | None = None
        self._outcome: dict[str, Any] = {}
        add_traits(self.inputs, [*arguments, "code", "after"])
        for key, value in arguments.items():
            setattr(self.inputs, key, _plain(value))
        self.inputs.code = f"{_code_version()} {function.__module__}.{function.__qualname__}"

    def _outputs(self) -> DynamicTraitedSpec:
        return add_traits(DynamicTraitedSpec(), ["value", "record"])

    def _run_interface(self, runtime: Any) -> Any:
        self.ran = True
        # Nipype stores the runtime; the user's environment may hold secrets and does not belong beside results.
        runtime.environ = {}
        try:
            with measured() as cost, _remarks() as remarks:
                value = _absolute(self.function(**self.arguments))
            digests = {str(path): sha256_of(path) for path in files_in(value) if path.is_file()}
            record = {**asdict(cost), **remarks, "sha256": digests}
            self._outcome = {"value": value, "record": record}
        except BaseException as error:  # Nipype swallows even Ctrl-C here and would raise its own text instead.
            self.failure = error
            raise
        return runtime

    def _list_outputs(self) -> dict[str, Any]:
        return self._outcome


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
def _remarks() -> Iterator[dict[str, list[str]]]:
    """Collect the remarks that the block warns of, and by kind; warnings of libraries go to the log."""
    found: dict[str, list[str]] = {"remarks": [], "fallbacks": [], "doubts": []}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Remark)
        yield found
    for note in caught:
        if not issubclass(note.category, Remark):
            logging.getLogger("nipype.interface").warning("%s: %s", note.category.__name__, note.message)
            continue
        for name, kind in (("remarks", Remark), ("fallbacks", Fallback), ("doubts", Doubt)):
            if issubclass(note.category, kind):
                found[name].append(str(note.message))


@cache
def _code_version() -> str:
    """Version and digest of msrim's sources, so that results of other code are never taken for this one's."""
    digest = hashlib.sha256()
    for source in sorted(Path(msrim.__file__).parent.rglob("*")):
        if source.suffix in {".py", ".toml", ".jinja"}:
            digest.update(source.read_bytes())
    return f"{msrim.__version__}+{digest.hexdigest()[:12]}"


def _absolute(value: Any) -> Any:
    """The same with every Path absolute: a step runs in a folder of its own."""
    if isinstance(value, Path):
        return value.absolute()
    if isinstance(value, dict):
        return {key: _absolute(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_absolute(item) for item in value])
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _absolute(getattr(value, field.name)) for field in fields(value)})
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"a step takes and gives files and plain values, not {type(value).__name__}; write it to a file")


def _plain(value: Any) -> Any:
    """A value as Nipype hashes it: files by their content, dataclasses as dicts."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value


class _Log(logging.FileHandler):
    """A full disk is reported once, where a result could not be written, and not by every line of the log."""

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
    assert handler.stream is not None  # It is opened at once.
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
