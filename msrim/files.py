"""Files appear whole or not at all, and one run at a time writes them."""

from __future__ import annotations

import csv
import errno
import fcntl
import fnmatch
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast
from zipfile import BadZipFile

from msrim.errors import InputError, OutputError

Row = TypeVar("Row")
# Marks the temporary names, which begin with a dot as well.
PARTIAL = "-partial-"
# A file that was written longer ago cannot be written again at the same time, by any file system's clock.
SETTLED_S = 0.1


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; rename it to ``path`` when the block ends well, remove it otherwise.

    The temporary name keeps every suffix of ``path``, because writers choose their format (.nii.gz, .txt) by it.

    Raises
    ------
    OutputError
        The folder cannot be made or written to, or the disk is full.
    """
    path = Path(path)
    suffix = path.name[path.name.index(".", 1) :] if "." in path.name[1:] else ""
    temporary = None
    try:
        path = path.absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name.removesuffix(suffix)}{PARTIAL}", suffix=suffix, dir=path.parent
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); check the folder's rights and space"
        ) from error
    finally:
        if temporary is not None and temporary.exists():
            # A writer that failed may still hold it open, and would keep a full disk full.
            os.truncate(temporary, 0)
            temporary.unlink()


def remove_partial_files(folder: Path) -> None:
    """Remove what writers that were killed have left below ``folder``; nobody may be writing there."""
    for path in folder.rglob(f".*{PARTIAL}*"):
        path.unlink()


def files_below(folder: Path, pattern: str) -> list[Path]:
    """Files whose name matches a pattern in a folder and all below it, sorted; links to folders are followed.

    Labs gather a study from links into their archive. A folder counts once, under its own name if it lies in the tree,
    else under the first link to it, so that links may lead in a circle.
    """
    found, seen, starts = [], set(), [folder]
    for start in starts:
        for root, folders, names in os.walk(start):
            place = os.path.realpath(root)
            if place in seen:
                folders.clear()
                continue
            seen.add(place)
            found += [Path(root, name) for name in fnmatch.filter(names, pattern)]
            # Walked when all real folders have been.
            starts += sorted(path for name in folders if (path := Path(root, name)).is_symlink())
    return sorted(found)


def write_text(text: str, path: Path) -> Path:
    """Write a text file whole or not at all; names of files that are no UTF-8 stay what they are."""
    with written_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
    return path


def write_json(content: dict[str, Any], path: Path) -> Path:
    """Write a JSON file whole or not at all."""
    return write_text(json.dumps(content, indent=2) + "\n", path)


def write_tsv(rows: Iterable[Iterable[Any]], path: Path, *, columns: Iterable[str]) -> Path:
    """Write a table as BIDS has it, whole or not at all.

    Parameters
    ----------
    rows : iterable of iterable
        None, an empty text and an empty tuple become "n/a", truth values "true" and "false", tuples lists with commas.
    path : Path
    columns : iterable of str
        The header, which stands alone where there is no row.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_tsv([(1, None), (True, (2, 3))], Path(folder) / "table.tsv", columns=["id", "of"]).read_text().split()
    ['id', 'of', '1', 'n/a', 'true', '2,3']
    """
    lines = [columns, *([_cell(value) for value in row] for row in rows)]
    return write_text("".join("\t".join(line) + "\n" for line in lines), path)


def read_tsv(path: Path, kind: type[Row]) -> list[Row]:
    """Rows of a table that :func:`write_tsv` has written of dataclasses, whose fields are its columns.

    Raises
    ------
    InputError
        The file is missing or damaged, or holds another table.

    Examples
    --------
    >>> from dataclasses import make_dataclass
    >>> from tempfile import TemporaryDirectory
    >>> Part = make_dataclass("Part", [("id", "int"), ("of", "tuple[int, ...]"), ("rim", "bool | None")])
    >>> with TemporaryDirectory() as folder:
    ...     path = write_tsv([(1, (2, 3), None)], Path(folder) / "table.tsv", columns=["id", "of", "rim"])
    ...     read_tsv(path, Part)
    [Part(id=1, of=(2, 3), rim=None)]
    """
    types = {field.name: str(field.type) for field in fields(cast(Any, kind))}
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            rows = csv.DictReader(stream, delimiter="\t")
            return [kind(**{name: _value(row[name], types[name]) for name in types}) for row in rows]
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise InputError(f"{path}: not a table that msrim has written ({error}); run msrim again") from error


def _value(cell: str, kind: str) -> Any:
    if kind.startswith("tuple"):
        return () if cell == "n/a" else tuple(map(int, cell.split(",")))
    if cell == "n/a":
        return None
    if kind.startswith("bool"):
        return cell == "true"
    return {"int": int, "float": float, "str": str}[kind.split()[0]](cell)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    # A tab or a line end would shift the columns.
    return "n/a" if value is None or value == "" else " ".join(str(value).split())


def as_output_error(error: BaseException, folder: Path) -> BaseException:
    """Turn a full disk (ENOSPC, EDQUOT) into an OutputError; any other error is returned as it is.

    Examples
    --------
    >>> str(as_output_error(OSError(errno.ENOSPC, "No space left on device"), Path("out")))
    'out: cannot be written (No space left on device); make room and run again'
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{folder}: cannot be written ({error.strerror}); make room and run again")
    return error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second run out of a folder; the system lifts the lock however this process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / ".lock").open("w")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); choose another output folder") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"{folder}: another msrim run is working here; wait for it to end") from error
        yield


def read_arrays(path: Path, *names: str) -> list[Any]:
    """Arrays of an ``.npz`` file by their names.

    Raises
    ------
    InputError
        The file is missing, damaged, or holds no such array.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, BadZipFile) as error:
        raise InputError(f"{path}: not an .npz file with {', '.join(names)}; check the path") from error


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes.

    It is remembered in this process: most images are the input of several steps. A file that has another size, time of
    change or place on the disk is read again.
    """
    state = path.stat()
    # Written twice within a tick of the file system's clock it would look the same.
    if time.time() - state.st_mtime < SETTLED_S:
        return _digest(path)
    return _remembered_digest(path, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@lru_cache(maxsize=1024)
def _remembered_digest(path: Path, *state: int) -> str:
    return _digest(path)


def _digest(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _umask() -> int:
    # The mask can only be read by setting it; mkstemp's 0600 would lock a group out of shared results.
    mask = os.umask(0)
    os.umask(mask)
    return mask
