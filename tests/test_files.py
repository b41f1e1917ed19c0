"""Files appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys

import pytest

from msrim import files
from msrim.errors import OutputError
from msrim.files import files_below, remove_partial_files, sha256_of, write_text, written_atomically


def test_file_appears_at_the_end_and_under_its_suffix(tmp_path):
    path = tmp_path / "new" / "sub-1_x.nii.gz"
    with written_atomically(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.endswith(".nii.gz")
        assert temporary.name.startswith(".")
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_failure_leaves_the_old_file(tmp_path):
    path = write_text("old", tmp_path / "x.txt")
    with pytest.raises(ZeroDivisionError), written_atomically(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_failed_keeps_no_space(tmp_path):
    with pytest.raises(ZeroDivisionError), written_atomically(tmp_path / "x.bin") as temporary:
        stream = temporary.open("wb", buffering=0)
        stream.write(b"half")
        raise ZeroDivisionError
    with stream:
        assert os.fstat(stream.fileno()).st_size == 0


def test_being_killed_leaves_the_old_file(tmp_path):
    path = write_text("old", tmp_path / "x.txt")
    code = (
        "import os, sys, signal, pathlib; from msrim.files import written_atomically\n"
        "with written_atomically(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / ".x-my-own").touch()
    remove_partial_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x-my-own", "x.txt"]


def test_rights_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        path = write_text("x", tmp_path / "x.txt")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_unwritable_place_is_named(tmp_path):
    write_text("x", tmp_path / "file")
    with pytest.raises(OutputError, match=r"file/y\.txt: cannot be written"):
        write_text("x", tmp_path / "file" / "y.txt")


def test_sha256(tmp_path):
    path = write_text("abc", tmp_path / "x")
    assert sha256_of(path) == hashlib.sha256(b"abc").hexdigest()
    assert sha256_of(path).startswith("ba7816bf")


def test_sha256_is_remembered_and_a_changed_file_read_again(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    os.utime(path, (1e9, 1e9))
    first = sha256_of(path)
    with monkeypatch.context() as patched:
        patched.setattr(files, "_digest", lambda _: "read again")
        assert sha256_of(path) == first
    # Same size, same time of modification: the time of the inode's change gives it away.
    path.write_bytes(b"xyz")
    os.utime(path, (1e9, 1e9))
    assert sha256_of(path) == hashlib.sha256(b"xyz").hexdigest()
    # Just written, it is never remembered.
    for content in (b"uvw", b"rst"):
        path.write_bytes(content)
        assert sha256_of(path) == hashlib.sha256(content).hexdigest()


def test_links_to_folders_are_followed_once(tmp_path):
    study, archive = tmp_path / "study", tmp_path / "archive" / "site" / "sub-1"
    archive.mkdir(parents=True)
    study.mkdir()
    for name in ("a.nii.gz", "b.txt"):
        (archive / name).touch()
    (study / "site").symlink_to(archive.parent)
    (study / "site-again").symlink_to(archive.parent)
    (archive / "up").symlink_to(study)
    (study / "c.nii").symlink_to(archive / "a.nii.gz")
    (study / "ses-2").mkdir()
    (study / "ses-2" / "d.nii").touch()
    # A link beside a visit doesn't take its name.
    (study / "latest").symlink_to(study / "ses-2")
    found = [study / "c.nii", study / "ses-2" / "d.nii", study / "site" / "sub-1" / "a.nii.gz"]
    assert files_below(study, "*.nii*") == found
    assert files_below(study / "nothing", "*") == []
