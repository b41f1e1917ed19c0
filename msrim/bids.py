"""Patients on disk: which file is which contrast on the way in, and what results are called on the way out.

Names follow BIDS 1.10 and its derivatives; plain folders with names that anybody would guess are understood too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from msrim import __version__
from msrim.errors import InputError
from msrim.files import write_text

# In the order in which they are tried: scanners call a FLAIR "T2-FLAIR" or "t2_dark-fluid", so it goes before T2w.
CONTRASTS = {
    "FLAIR": r".*flair.*|darkfluid|tirm",
    "T1w": r"t1w?|t1weighted|t1mprage|mprage|t1spgr|spgr|t1tfe",
    "T2w": r"t2w?|t2weighted|t2tse|t2fse",
    "PDw": r"pdw?|pdweighted|protondensity|pdtse|pdfse",
}
# Of these, what only networks that were trained with it look at.
MORE = ("PDw",)
QSM = re.compile(r"(.*[^a-z0-9])?(chimap|qsm|chi|susceptibility)([^a-z0-9].*)?")
# What lies beside an image under its name: masks, results, and T1w after gadolinium, which shows other things.
NOT_A_CONTRAST = (
    r".*mask|.*seg|labels?|lesions?|truth|gt|consensus|manual|expert|bias|biasfield|pve|prob|warp|xfm|gd|gado|gadolinium|post|"
    r"t1ce|t1c|t1gd"
)
# What BIDS has no names for.
NOT_BIDS = ["work", "**/work", "logs", "**/logs", "**/rims", "**/ses-*_to_ses-*", "**/xfm", "cohort*"]
NOT_BIDS += ["**/report.html", "**/run.json", "**/*_desc-lesions.*", "**/*_desc-summary.json", "**/*_desc-changes.tsv"]
NOT_BIDS += ["simulation.json"]
# What BIDS asks of images in spaces that it does not know.
SPACES = {
    "orig": "FLAIR of the same visit, as it was given",
    "Chimap": "Susceptibility map of the same visit, as it was given",
}


@dataclass(frozen=True)
class Subject:
    """One visit of one patient.

    Attributes
    ----------
    label : str
        Without ``sub-``.
    session : str or None
        Without ``ses-``.
    contrasts : dict of str to Path
        Absolute paths by "FLAIR" (always there), "T1w", "T2w".
    more : dict of str to list of Path
        What may be the "PDw", which nobody looks at but networks that know it.
    """

    label: str
    session: str | None
    contrasts: dict[str, Path]
    more: dict[str, list[Path]] = field(default_factory=dict)

    def for_network(self, contrasts: Iterable[str]) -> Subject:
        """The visit with what a network of these contrasts looks at besides FLAIR, T1w and T2w.

        Raises
        ------
        InputError
            Several files for one contrast.

        Examples
        --------
        >>> subject = Subject("12", None, {"FLAIR": Path("flair.nii")}, {"PDw": [Path("pd.nii")]})
        >>> list(subject.for_network(["FLAIR", "PDw"]).contrasts), list(subject.for_network(["FLAIR"]).contrasts)
        (['FLAIR', 'PDw'], ['FLAIR'])
        """
        known = {name: _only(files, contrast=name) for name, files in self.more.items() if name in contrasts}
        return replace(self, contrasts=self.contrasts | known)

    def folder(self, out: Path) -> Path:
        """Folder of this visit's results.

        Examples
        --------
        >>> Subject("12", "01", {}).folder(Path("out")).as_posix()
        'out/sub-12/ses-01'
        """
        folder = out / f"sub-{self.label}"
        return folder / f"ses-{self.session}" if self.session else folder

    def output(self, out: Path, suffix: str) -> Path:
        """Path of a result: transforms go to ``xfm/``, everything else to ``anat/``.

        Examples
        --------
        >>> Subject("12", None, {}).output(Path("out"), "space-orig_label-L_mask.nii.gz").as_posix()
        'out/sub-12/anat/sub-12_space-orig_label-L_mask.nii.gz'
        """
        return self.below(self.folder(out), suffix)

    def below(self, folder: Path, suffix: str) -> Path:
        """Path of a result of this visit in another folder, sorted as :meth:`output` does."""
        session = f"_ses-{self.session}" if self.session else ""
        kind = "xfm" if suffix.endswith("_xfm.txt") else "anat"
        return folder / kind / f"sub-{self.label}{session}_{suffix}"


def find_subject(path: Path) -> Subject:
    """Find the contrasts of one visit in a folder.

    Parameters
    ----------
    path : Path
        A BIDS subject with one session, a BIDS session, its ``anat`` folder, or a plain folder of NIfTI files.

    Raises
    ------
    InputError
        No such folder, several sessions, no FLAIR, or several files for one contrast.
    """
    path = Path(path).absolute()
    if not path.is_dir():
        what = "is a file, not a folder; name files with --flair, --t1, --t2" if path.exists() else "no such folder"
        raise InputError(f"{path}: {what}")
    folder = _image_folder(path)
    images = sorted(file for file in folder.iterdir() if re.search(r"\.nii(\.gz)?$", file.name.lower()))
    found: dict[str, list[Path]] = {}
    for image in images:
        found.setdefault(contrast_of(image.name), []).append(image)
    contrasts = {name: _only(found[name], contrast=name) for name in CONTRASTS if name in found and name not in MORE}
    if "FLAIR" not in found:
        names = ", ".join(file.name for file in images) or "no NIfTI files"
        raise InputError(f"{folder}: no FLAIR among {names}; msrim needs one, name it with --flair")
    return replace(_named(contrasts), more={name: found[name] for name in MORE if name in found})


def find_qsm(path: Path) -> Path:
    """The susceptibility map in a subject's folder: ``*_Chimap.nii.gz``, or a name that says QSM or chi.

    Raises
    ------
    InputError
        None, or several.
    """
    folder = _image_folder(Path(path).absolute())
    maps = [file for file in sorted(folder.glob("*.nii*")) if QSM.fullmatch(file.name.lower())]
    if len(maps) == 1:
        return maps[0]
    if maps:
        raise InputError(
            f"{folder}: several files may be the QSM ({', '.join(f.name for f in maps)}); name it with --qsm"
        )
    raise InputError(f"{folder}: no QSM (a file called *_Chimap.nii.gz); name it with --qsm")


def subject_from_files(flair: Path, *, t1: Path | None = None, t2: Path | None = None) -> Subject:
    """One visit from files named one by one.

    Examples
    --------
    >>> subject_from_files(Path("/data/Smith, J/flair.nii.gz")).label
    'SmithJ'
    """
    given = {"FLAIR": flair, "T1w": t1, "T2w": t2}
    return _named({contrast: Path(file).absolute() for contrast, file in given.items() if file is not None})


def contrast_of(name: str) -> str | None:
    """The contrast that a file's name tells, or None.

    Examples
    --------
    >>> contrast_of("sub-12_ses-01_T1w.nii.gz"), contrast_of("t2_tse_dark-fluid.nii"), contrast_of("FLAIR_mask.nii")
    ('T1w', 'FLAIR', None)
    """
    words = re.split(r"[^a-z0-9]+", name.lower().replace("dark-fluid", "darkfluid").replace("dark_fluid", "darkfluid"))
    if any(re.fullmatch(NOT_A_CONTRAST, word) for word in words):
        return None
    for contrast, pattern in CONTRASTS.items():
        if any(re.fullmatch(pattern, word) for word in words):
            return contrast
    return None


def write_dataset_description(out: Path, *, name: str = "msrim", kind: str = "derivative") -> Path:
    """Write ``dataset_description.json``, which makes a folder a BIDS dataset, and what its validator needs.

    Parameters
    ----------
    out : Path
        The images are there already: a space is described only if there is an image in it.
    name : str
        Of the dataset.
    kind : str
        "derivative" or "raw".

    Returns
    -------
    Path
        The description.

    Raises
    ------
    OutputError
        The folder cannot be written to.
    """
    write_text("\n".join(NOT_BIDS) + "\n", out / ".bidsignore")
    images = [path.name for folder in ("sub-*", "sub-*/ses-*") for path in out.glob(f"{folder}/anat/*.nii.gz")]
    for (space, reference), suffix in product(SPACES.items(), ("mask", "dseg", "probseg")):
        if any(f"_space-{space}_" in image and image.endswith(f"_{suffix}.nii.gz") for image in images):
            described = json.dumps({"SpatialReference": reference}, indent=2) + "\n"
            write_text(described, out / f"space-{space}_{suffix}.json")
    content = {
        "Name": name,
        "BIDSVersion": "1.10.0",
        "DatasetType": kind,
        "GeneratedBy": [{"Name": "msrim", "Version": __version__}],
    }
    return write_text(json.dumps(content, indent=2) + "\n", out / "dataset_description.json")


def _image_folder(path: Path) -> Path:
    sessions = sorted(child for child in path.glob("ses-*") if child.is_dir())
    if len(sessions) > 1:
        names = ", ".join(session.name for session in sessions)
        raise InputError(f"{path}: has several sessions ({names}); give one of them, for example {sessions[0]}")
    folder = sessions[0] if sessions else path
    return folder / "anat" if (folder / "anat").is_dir() else folder


def _only(files: list[Path], *, contrast: str) -> Path:
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise InputError(
            f"{files[0].parent}: several files may be the {contrast} ({names}); name the files with --flair, --t1, --t2"
        )
    return files[0]


def _named(contrasts: dict[str, Path]) -> Subject:
    """Take label and session from the FLAIR's name, else from the folders above it, innermost first."""
    flair = contrasts["FLAIR"]
    folders = [folder.name for folder in flair.parents if folder.name]
    label = _entity("sub", [flair.name, *folders])
    if label is None:
        plain = next((name for name in folders if name != "anat" and not name.startswith("ses-")), "")
        label = re.sub(r"[^A-Za-z0-9]", "", plain) or "unnamed"
    return Subject(label, _entity("ses", [flair.name, *folders]), contrasts)


def _entity(key: str, names: list[str]) -> str | None:
    matches = (re.match(rf"(?:.*_)?{key}-([A-Za-z0-9]+)(?:_|$)", name) for name in names)
    return next((match[1] for match in matches if match), None)
