"""What msrim makes of inputs damaged at random: it takes them, or refuses them in one line that names the file.

``python -m tests.benchmarks.mangled --seed S [--inputs 1000] [--whole N]`` makes a small patient for every input
(FLAIR, T1w, QSM, lesions, sidecars), damages one to three things, and gives it to a command. Whatever the checks and
the reading of the images take counts as taken; ``--whole`` runs so many of the taken ones to their end, in processes of
their own. Prints every fault as it is met (a traceback, more than a minute, a refusal of no line or several, or one
that names no file of the user's), how far it is, and how often each damage was taken and refused, also when it is
stopped before its end. The exit code is 1 if there is any fault.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
from torch import nn
from typer import testing

from msrim import models
from msrim.cli.main import app
from msrim.models import brain, inference
from msrim.models.registry import Card
from msrim.workflows import anatomy, rims

SHAPE = (40, 44, 36)
AFFINE = np.array([[4.0, 0, 0, -80], [0, 4, 0, -88], [0, 0, 4, -72], [0, 0, 0, 1]])
# Of the processor's time, and of a clock's on a machine that does other things besides.
LIMIT_S, CLOCK_LIMIT_S = 60, 600
PROGRESS = 25
BEGUN = ("FLAIR: ", "QSM: ", "visit ", "note: ")
COMMANDS = ("preprocess", "segment", "longitudinal", "rim-classify", "rim-classify --lesions", "evaluate")


class TakenError(Exception):
    """The checks have passed and the images are read: what comes now takes a minute."""


class SlowError(Exception):
    """More than LIMIT_S."""


@dataclass
class Patient:
    """The files of one input, as they will be written."""

    folder: Path
    rng: np.random.Generator
    images: dict[str, nib.Nifti1Image]
    names: dict[str, str]
    # What is done to a file's bytes before it is written, by its key.
    bytes_of: dict[str, Callable[[bytes], bytes]]
    # Whole files besides, by name.
    beside: dict[str, bytes]

    def any_image(self) -> str:
        return str(self.rng.choice(list(self.images)))

    def write(self) -> dict[str, Path]:
        """Write everything; where each file went."""
        self.folder.mkdir(parents=True)
        paths = {}
        for key, image in self.images.items():
            path = self.folder / self.names[key]
            content = self.bytes_of.get(key, lambda content: content)(image.to_bytes())
            path.write_bytes(gzip.compress(content, 1) if path.name.lower().endswith(".gz") else content)
            paths[key] = path
        for name, content in self.beside.items():
            (self.folder / name).write_bytes(content)
        return paths


def patient(folder: Path, rng: np.random.Generator) -> Patient:
    """An egg with texture, whose QSM and lesions lie on the FLAIR's grid."""
    i, j, k = (np.indices(SHAPE).T - (np.array(SHAPE) - 1) / 2).T
    inside = (i / 16) ** 2 + (j / 19) ** 2 + (k / 13) ** 2 < 1
    noise = rng.normal(0, 1, (3, *SHAPE)).astype(np.float32)
    lesions = np.zeros(SHAPE, np.int16)
    for number, place in enumerate(rng.integers((12, 12, 12), (26, 30, 22), (5, 3)), start=1):
        lesions[tuple(slice(start, start + 3) for start in place)] = number
    data = {
        "FLAIR": np.where(inside, 100 + 20 * noise[0], 0).clip(0),
        "T1w": np.where(inside, 300 - 40 * noise[1], 0).clip(0),
        "QSM": np.where(inside, -0.004 + 0.016 * noise[2], 0).astype(np.float32),
        "lesions": lesions,
    }
    images = {}
    for key, values in data.items():
        images[key] = nib.Nifti1Image(values if key == "lesions" else values.astype(np.float32), AFFINE)
        images[key].set_qform(AFFINE, code=1)
        images[key].set_sform(AFFINE, code=1)
    return Patient(folder, rng, images, {key: f"{key}.nii.gz" for key in images}, {}, {})


# Damages: each takes a patient and changes something of it.


def _header(patient: Patient, field: str, *values: object) -> None:
    image = patient.images[patient.any_image()]
    value = values[patient.rng.integers(len(values))]
    image.header[field] = value


def _bytes(patient: Patient, change: Callable[[bytes], bytes]) -> None:
    patient.bytes_of[patient.any_image()] = change


def _replace(patient: Patient, key: str, data: np.ndarray, affine: np.ndarray | None = None) -> None:
    image = nib.Nifti1Image(data, patient.images[key].affine if affine is None else affine)
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    patient.images[key] = image


def header_bytes(p: Patient) -> None:
    places, width = p.rng.integers(0, 348, p.rng.integers(1, 8)), int(p.rng.choice([1, 2, 4]))
    new = p.rng.bytes(width)

    def change(content: bytes) -> bytes:
        changed = bytearray(content)
        for place in places:
            changed[place : place + width] = new
        return bytes(changed)

    _bytes(p, change)


def header_bits(p: Patient) -> None:
    bits = p.rng.integers(0, 348 * 8, 3)

    def change(content: bytes) -> bytes:
        changed = bytearray(content)
        for bit in bits:
            changed[bit // 8] ^= 1 << (bit % 8)
        return bytes(changed)

    _bytes(p, change)


def header_fields(p: Patient) -> None:
    """Values that are possible for their type and wrong for an image."""
    width = {"f4": [np.nan, np.inf, -1.0, 0.0, 1e30, 1e-30], "i2": [0, -1, 32767, 7, 2]}
    offset, kind, count = [
        (40, "i2", 8), (70, "i2", 1), (72, "i2", 1), (76, "f4", 8), (108, "f4", 1), (112, "f4", 1), (116, "f4", 1),
        (252, "i2", 1), (254, "i2", 1), (256, "f4", 6), (280, "f4", 12),
    ][p.rng.integers(11)]  # fmt: skip
    size = int(kind[1])
    place = offset + size * int(p.rng.integers(count))
    value = np.array([p.rng.choice(width[kind])], f"<{kind}").tobytes()
    _bytes(p, lambda content: content[:place] + value + content[place + size :])


def pose(p: Patient) -> None:
    for field in ("qform_code", "sform_code"):
        _header(p, field, 0, 1, 2, 4)


def units(p: Patient) -> None:
    _header(p, "xyzt_units", 0, 1, 2, 3, 10, 255)


def size_of_voxels(p: Patient) -> None:
    key = p.any_image()
    scale = np.diag([*p.rng.choice([1e-3, 0.1, 0.5, 1, 1, 1, 2, 10, 1e3], 3), 1.0])
    _replace(p, key, np.asarray(p.images[key].dataobj), AFFINE @ scale)


def shear(p: Patient) -> None:
    key = p.any_image()
    matrix = np.eye(4)
    matrix[:3, :3] += p.rng.normal(0, 0.05, (3, 3))
    image = nib.Nifti1Image(np.asarray(p.images[key].dataobj), matrix @ AFFINE)
    image.set_sform(image.affine, code=1)
    p.images[key] = image


def place(p: Patient) -> None:
    key = p.any_image()
    moved = AFFINE.copy()
    moved[:3, 3] += p.rng.choice([1e-4, 1e-2, 1, 50, 1000, 1e6], 3) * p.rng.choice([-1, 0, 1], 3)
    _replace(p, key, np.asarray(p.images[key].dataobj), moved)


def order(p: Patient) -> None:
    key = p.any_image()
    axes = "".join(p.rng.choice([pair[p.rng.integers(2)] for pair in ("RL", "AP", "IS")], 3, replace=False))
    codes = nib.orientations.axcodes2ornt(axes)
    p.images[key] = p.images[key].as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(p.images[key].affine), codes)
    )


def dtype(p: Patient) -> None:
    key = p.any_image()
    data = np.asarray(p.images[key].dataobj)
    kind = [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float64, np.complex64, "rgb"]
    chosen = kind[p.rng.integers(len(kind))]
    if chosen == "rgb":
        _replace(p, key, np.zeros(data.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")]))
    else:
        with np.errstate(all="ignore"):
            image = nib.Nifti1Image(data.astype(chosen), p.images[key].affine, dtype=chosen)
        p.images[key] = image


def dimensions(p: Patient) -> None:
    key = p.any_image()
    data = np.asarray(p.images[key].dataobj)
    choices = [data[..., :1], data[..., 0], data[..., None], np.stack([data] * 2, -1), data[:0], data[:3, :3, :3],
               data[::4, ::4, ::4], data[:-1]]  # fmt: skip
    _replace(p, key, choices[p.rng.integers(len(choices))])


def values(p: Patient) -> None:
    key = p.any_image()
    data = np.asarray(p.images[key].dataobj).astype(np.float32)
    spread = data.std() or 1
    spoilt = data.copy()
    spoilt[5, 5, 5] = p.rng.choice([np.nan, np.inf, -np.inf, 3e38])
    choices = [data * 0, data * 0 + 7, (data - data.mean()) / spread, -data, data + 1000, data - 1024, spoilt,
               np.where(data == 0, np.nan, data), data * 1e-30, data * 1e30, data > 0, np.round(data / spread),
               np.abs(p.rng.normal(0, spread, data.shape)), np.where(data == 0, -1, data)]  # fmt: skip
    _replace(p, key, np.asarray(choices[p.rng.integers(len(choices))], np.float32))


def cut(p: Patient) -> None:
    share = p.rng.random()
    _bytes(p, lambda content: content[: int(len(content) * share)])


def more_bytes(p: Patient) -> None:
    extra = p.rng.bytes(int(p.rng.integers(1, 2000)))
    _bytes(p, lambda content: content + extra)


def no_image(p: Patient) -> None:
    contents = [
        b"",
        b"hello",
        bytes(1000),
        p.rng.bytes(5000),
        b"\x1f\x8b",
        gzip.compress(b"x"),
        b"\x89PNG\r\n",
        b"DICM" * 99,
    ]
    content = contents[p.rng.integers(len(contents))]
    _bytes(p, lambda _: content)


def swapped(p: Patient) -> None:
    key = p.any_image()
    image = p.images[key]
    big = nib.Nifti1Image(np.asarray(image.dataobj), None, image.header.as_byteswapped(">"))
    p.bytes_of[key] = lambda _: big.to_bytes()


def compressed_bits(p: Patient) -> None:
    """In the file itself, after compression."""
    key, bit = p.any_image(), int(p.rng.integers(0, 8 * 20_000))
    name = p.names[key]
    content = bytearray(gzip.compress(p.images[key].to_bytes(), 1))
    content[min(bit // 8, len(content) - 1)] ^= 1 << (bit % 8)
    p.beside[name] = bytes(content)


def compression(p: Patient) -> None:
    key = p.any_image()
    content, zipped = p.images[key].to_bytes(), p.names[key].endswith(".gz")
    p.beside[p.names[key]] = content if zipped else gzip.compress(content)


def endings(p: Patient) -> None:
    key = p.any_image()
    p.names[key] = key + str(
        p.rng.choice([".nii", ".NII", ".NII.GZ", ".Nii.gz", ".nii.GZ", ".img", ".mgz", ".nii.bz2", ""])
    )


def names(p: Patient) -> None:
    key = p.any_image()
    words = ["post", "gd", "T2", "t2_tse", "hemo", "star", "FLAIR", "T1", "brain", "mask", "äöü", "x" * 150,
             "ł", "a b", "new\nline", "\tq", "'\"", "-", "--out", "%s", "[red]", "\u202e", "\udcff"]  # fmt: skip
    chosen = [str(word) for word in p.rng.choice(words, p.rng.integers(1, 3))]
    p.names[key] = "_".join([*chosen, key][:: int(p.rng.choice([1, -1]))]).strip(".") + ".nii.gz"


def twins(p: Patient) -> None:
    key = p.any_image()
    for name in p.rng.choice([f"._{p.names[key]}", f"{key}_mask.nii.gz", f"{key} copy.nii.gz", f".{key}.nii.gz"], 2):
        p.beside[str(name)] = p.rng.bytes(100)


def sidecars(p: Patient) -> None:
    contents = [b"", b"{", b"[1]", b"null", b"7", b"\xff\xfe", b"[" * 50_000, bytes(300),
                b'{"AcquisitionDate": {"a": 1}}', b"\xef\xbb\xbf{}", b"\x00\t\x00\n" * 9,
                '{"a": "ü", "AcquisitionDate": "20200101"}'.encode("latin-1"), b'{"AcquisitionDateTime": "9999-99-99"}',
                b"filename\tacq_time\nFLAIR.nii.gz\t2020-01-01\textra\n"]  # fmt: skip
    for name in p.rng.choice(["FLAIR.json", "../sub-1_scans.tsv", "../._sub-1_scans.tsv", "T1w.json"], 2):
        p.beside[str(name)] = contents[p.rng.integers(len(contents))]


def qsm_units(p: Patient) -> None:
    data = np.asarray(p.images["QSM"].dataobj)
    changed = data * p.rng.choice([1e-6, 1e-3, 0.1, 1, 3, 16, 42.6, 127.7, 1e3, 3e3, 1e5]) * p.rng.choice([-1, 1])
    changed = changed + p.rng.choice([0, 0, 1, 100]) * p.rng.choice([data != 0, np.ones(SHAPE)])
    _replace(p, "QSM", np.asarray(changed, np.float32))


def lesion_masks(p: Patient) -> None:
    data = np.asarray(p.images["lesions"].dataobj)
    inside, image = data > 0, np.asarray(p.images["FLAIR"].dataobj)
    choices = [data * 0.1, inside, data * 0, inside * 0.4, inside * 0.9, data * 10_000, -1 * inside, data % 2 + inside,
               data + 0.5, data * 1e9, image, 1 - inside]  # fmt: skip
    chosen = choices[p.rng.integers(len(choices))]
    with np.errstate(invalid="ignore"):
        _replace(p, "lesions", np.asarray(chosen).astype(np.float32 if p.rng.random() < 0.7 else np.int32))


def same_twice(p: Patient) -> None:
    one, other = p.rng.choice(list(p.images), 2, replace=False)
    p.images[str(one)] = p.images[str(other)]


DAMAGES = {
    "header": (header_bytes, header_bits, header_fields, pose, swapped),
    "size and place": (units, size_of_voxels, shear, place, order, dimensions),
    "type": (dtype,),
    "values": (values,),
    "file": (cut, more_bytes, no_image, compressed_bits, compression),
    "names": (endings, names, twins, same_twice),
    "sidecars": (sidecars,),
    "QSM units": (qsm_units,),
    "masks": (lesion_masks,),
}


def arguments(command: str, paths: dict[str, Path], other: dict[str, Path], rng: np.random.Generator) -> list[object]:
    """A command line of a user with these files."""
    flair = paths["FLAIR"].parent if rng.random() < 0.6 else None
    by_name = ["--flair", paths["FLAIR"]]
    if command in ("preprocess", "segment"):
        return [command, *([flair] if flair else [*by_name, "--t1", paths["T1w"]])]
    if command == "longitudinal":
        visits = [paths["FLAIR"], other["FLAIR"]]
        return [command, *[visit.parent if flair else visit for visit in visits[:: int(rng.choice([1, -1]))]]]
    if command == "evaluate":
        pair = ["--truth", paths["lesions"], "--prediction", other["lesions"]]
        return ["evaluate", "segmentation", *pair]
    lesions = ["--lesions", paths["lesions"]] if command.endswith("--lesions") else []
    return ["rim-classify", *([flair] if flair else [*by_name, "--qsm", paths["QSM"]]), *lesions]


def outcome(given: list[str], folder: Path) -> tuple[str, str]:
    """Whether an input was taken or refused or what is wrong, and what was shown."""
    signal.alarm(CLOCK_LIMIT_S)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    try:
        shown = testing.CliRunner().invoke(app, given)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    error = shown.exception
    if isinstance(error, TakenError):
        return "taken", shown.stderr
    if isinstance(error, SlowError):
        return "took more than a minute", shown.stderr
    if error is not None and not isinstance(error, SystemExit):
        return "traceback", "".join(traceback.format_exception(error)[-6:])
    return judge(shown.exit_code, shown.stderr, folder)


def judge(code: int, stderr: str, folder: Path) -> tuple[str, str]:
    """What a run has come to by its exit code and what it said."""
    if "Traceback" in stderr or "Warning" in stderr:
        return "traceback", stderr
    if code == 0:
        return "taken", stderr
    # A run that has begun says what it does until it is refused.
    *before, last = stderr.splitlines() or [""]
    if code != 2 or not last.startswith("msrim: error: ") or (before and not before[0].startswith(BEGUN)):
        return f"exit code {code} with {len(before) + 1} lines", stderr
    return ("refused" if str(folder) in last else "names no file of the user's"), stderr


def stop_after_reading() -> None:
    """Let the commands go as far as the images are read."""

    def stop(*_: object, **__: object) -> None:
        raise TakenError

    inference.parse_head = brain.extract_brain = anatomy.is_brain_alone = stop
    # Commands and networks are the same for all.
    testing._get_command = cache(testing._get_command)
    load, loaded = models.load_model, {}

    def load_once(card: Card) -> nn.Module:
        if card.label not in loaded:
            loaded[card.label] = load(card)
        return loaded[card.label]

    models.load_model = load_once
    # What has been checked of QSM and lesions is all that is read of them.
    for module, name in ((rims, "preprocess_visit"), (rims, "segment_visit")):
        setattr(module, name, stop)


def mangle(seed: int, number: int, folder: Path) -> tuple[str, list[str], str, list[str]] | None:
    """One input: its command, the kinds of damage, what was done and the command line; None if it cannot be written."""
    rng = np.random.default_rng([seed, number])
    one, other = patient(folder / "in" / "visit-1", rng), patient(folder / "in" / "visit-2", rng)
    other.names = dict(one.names)
    kinds = [str(kind) for kind in rng.choice(list(DAMAGES), rng.integers(1, 4), replace=False)]
    command = str(rng.choice(COMMANDS))
    done = []
    for kind in kinds:
        damage = DAMAGES[kind][rng.integers(len(DAMAGES[kind]))]
        try:
            damage(one)
            done.append(damage.__name__)
        except (ValueError, TypeError, OverflowError, nib.spatialimages.HeaderDataError) as error:
            done.append(f"{damage.__name__} (cannot be made: {error})")
    try:
        paths, others = one.write(), other.write()
    except Exception:
        return None
    out = [] if command == "evaluate" else ["--out", folder / "out", "--brain-extracted"]
    given = [os.fspath(argument) for argument in [*arguments(command, paths, others, rng), *out]]
    return command, kinds, ", ".join(done), given


def run_whole(given: list[str], folder: Path) -> tuple[str, str]:
    """What a command comes to when it runs to its end, in a process of its own, and what it said."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    command = [sys.executable, "-m", "msrim", *given]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=3 * CLOCK_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return "did not end", ""
    return judge(run.returncode, run.stderr, folder / "in")


@dataclass
class Tally:
    """What has come out so far; a fault is printed as it is met."""

    seed: int
    tried: int
    counts: Counter[tuple[str, str]]
    faults: list[str]

    def add(self, kinds: list[str], result: str, told: str) -> None:
        good = result in ("taken", "refused")
        self.counts.update((kind, result if good else "fault") for kind in kinds)
        if not good:
            self.faults.append(told)
            print(told, flush=True)

    def print_table(self) -> None:
        print(f"\nseed {self.seed}, {self.tried} inputs\n{'damage':<20}{'taken':>8}{'refused':>8}{'faults':>8}")
        for kind in dict.fromkeys([*DAMAGES, *(kind for kind, _ in self.counts)]):
            row = [self.counts[kind, result] for result in ("taken", "refused", "fault")]
            print(f"{kind:<20}{row[0]:>8}{row[1]:>8}{row[2]:>8}", flush=True)


def try_all(tally: Tally, inputs: int, whole: int, work: Path) -> None:
    """Give every input to its command, and ``whole`` of those taken to the end."""
    taken = []
    for number in range(inputs):
        folder = work / str(number)
        made = mangle(tally.seed, number, folder)
        tally.tried += 1
        if made is None:
            tally.counts["cannot be written", "left out"] += 1
            continue
        command, kinds, done, given = made
        result, shown = outcome(given, folder / "in")
        tally.add([*kinds, "all"], result, f"{number} {command} after {done}: {result}\n{shown}")
        if result == "taken" and command != "evaluate" and len(taken) < whole:
            taken.append((number, given, folder))
        else:
            shutil.rmtree(folder)
        if tally.tried % PROGRESS == 0:
            print(f"{tally.tried} of {inputs} inputs, {len(tally.faults)} faults", flush=True)
    for number, given, folder in taken:
        result, shown = run_whole(given, folder)
        tally.add(["run to the end"], result, f"{number} {' '.join(given)}: {result}\n{shown}")
        shutil.rmtree(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--whole", type=int, default=0, help="so many of the taken ones are run to their end")
    options = parser.parse_args()
    for signum in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(signum, _too_slow)
    # A run that is ended leaves its table, as one that is interrupted from the keyboard does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stop_after_reading()
    tally = Tally(options.seed, 0, Counter(), [])
    with tempfile.TemporaryDirectory(prefix="mangled-", ignore_cleanup_errors=True) as work:
        try:
            try_all(tally, options.inputs, options.whole, Path(work))
        finally:
            tally.print_table()
    return 1 if tally.faults else 0


def _too_slow(*_: object) -> None:
    raise SlowError


if __name__ == "__main__":
    sys.exit(main())
