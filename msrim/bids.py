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
from typing import Any

from msrim import __version__
from msrim.errors import InputError, OutputError
from msrim.files import write_json, write_text

# Words of plain names, in the order in which they are tried: a "T2-FLAIR" is no T2w.
CONTRASTS = {
    "FLAIR": r".*flair.*|darkfluid|tirm|t2f",
    "T1w": r"s?t1w?i?|t1n|t1weighted|t1mprage|(me)?mprage|t1spgr|f?spgr|bravo|t1tfe",
    "T2w": r"s?t2w?i?|t2weighted|t2tse|t2fse",
    "PDw": r"pdw?i?|pdweighted|protondensity|pdtse|pdfse",
}
# Of these, used only by networks trained with it.
MORE = ("PDw",)
QSM = r"chimap|qsm(map)?|susceptibility(map)?"
# A QSM as well, or a patient's name.
CHI = r"chi"
# Words of a plain name that exclude such an image. Masks and results:
NOT_AN_IMAGE = (
    r".*masks?\d*|.*seg\d*|labels?\d*|lesions?\d*|[bp]?les|wmh.*|annot.*|(ground)?truth|ground|gt|consensus|manual|experts?\d*|"
    r"raters?\d*|readers?\d*|bias|biasfield|pve|prob.*|pred(ict.*)?|uncertainty|entropy|overlay|heatmap|thr|thresh.*|binary|"
    r"distance.*|.*filled|inpaint.*|.*warp|inverse.*|xfm|field|coeffs?|jac.*|rois?\d*|rims?|atlas|.*parc|ribbon|thickness|mixeltype|"
    # SPM's tissue classes and what has been done to them:
    r"[mwr]*[cp][1-6][mrsw]*(t1|t2|pd|flair).*"
)
# The same, other series and contrast agents, where they stand behind another word: in front they are somebody's name.
BEHIND = r"[wg]m|csf|ph\d*|sd|std|t?snr|ratio|edges?|rho|mdc"
# SPM's deformations begin so.
DEFORMATION = r"i?y"
# T1w after gadolinium, which shows other things:
AFTER_CONTRAST_AGENT = (
    r"gd\d*|gad.*|post.*|(pos)?contrast[eo]?|enh(anced)?|(nach|mit)?(km|kontrast.*)|ce|(plus)?c|inj(ect.*)?|"
    r"t1w?(c|ce|gd|km|post)|dotarem|clariscan|prohance|multihance|"
    r"magnevist|omniscan|vueway|elucirem"
)
# Fields of a sidecar that tell of one.
CONTRAST_AGENT = ("ContrastBolusIngredient", "ContrastBolusAgent")
# In front of a contrast agent they say that there was none.
WITHOUT = ("no", "non", "not", "pre", "before", "without", "wo", "ohne", "vor", "sans", "sin", "senza", "zonder")
# Series of other kinds that carry a contrast's name: T2*, maps, echoes, diffusion, angiography, scouts, other organs:
ANOTHER_SERIES = (
    r"ha?em[eo].*|swi([23]d|p)?|swan|.*star|t2s|medic|me[23]d|r2s?|.*maps?|inv\d?|pha(se)?|imag|imaginary|real|dwi|dti|diff.*|adc|"
    r"trace.*|ep2d|epi|asl|pcasl|perf.*|dsc|bold|fmri|tof|mra|angio.*|loc|locali[sz]er|scout|survey|mip|stir|psir|dir|"
    r"sub|subtr.*|mtr|mtsat|mton|ciss|fiesta.*|trufi.*|"
    r"mese|msme|grase|relax.*|mwf|mapit|molli|vfa|fa\d+|cest|afi|"
    r"ia[cm]|khbw|cistern.*|hippo(campus)?|wirbel.*|rachis|moelle|medulla|spin(e|al)|cord|csp|[hbl]ws|cerv.*|thor.*|lumb.*|neck|orbit.*|optic.*|"
    r"nerve|sella|pituitary|hypophys.*|abdomen.*|liver|pelvis|knee"
)
# Gradient echoes: a T2w of them is a T2*, a T1w is one.
GRADIENT_ECHO = r"gre|ffe|fl2d|fl3d|mag(n(itude)?)?\d*"
# One of several echoes, such as programs that convert DICOM name them.
ECHO = r"e\d+|echo\d+"
NOT_A_QSM = (
    r"mag(n(itude)?)?\d*|pha?\d*|phase|.*field|rdf|r2.*|unwrapped|swi|swan|smwi|weight(s|ed)?|"
    r"pos(itive)?|neg(ative)?|para(magnetic)?|dia(magnetic)?|" + ECHO
)
# Images that msrim does not read.
OTHER_FORMATS = (".img", ".hdr", ".mgz", ".mgh", ".nrrd", ".mha", ".mhd", ".dcm", ".ima", ".par", ".nii.bz2")
# Keys of BIDS names (and derivatives): their values are labels, whatever they say; but these few change what a file is.
BIDS_KEYS = (
    r"sub|ses|sample|task|tracksys|acq|nuc|voi|ce|trc|stain|rec|dir|run|mod|echo|flip|inv|mt|part|proc|hemi|space|split|"
    r"recording|chunk|seg|res|den|label|desc|atlas|scale|from|to|mode|cohort|stat"
)
NOT_THE_IMAGE_KEYS = {"ce", "label", "seg", "part", "mod", "from", "inv", "mt", "atlas", "stat"}
# ... unless they say this, of what would be taken without them.
STILL_THE_IMAGE = {("part", "mag"), ("mt", "off")}
# Behind these stands what an image was registered to, if anything.
TOWARDS = ("to", "2", "in", "on", "onto", "into", "reg2", "regto")
REGISTERED = ("reg", "coreg", "registered", "aligned")
# Which result is which file: of a visit's anatomy, of its lesions, of its rims, ...
TEMPLATE = "MNI152NLin2009aSym"
ANATOMY = {
    "brain": "space-orig_desc-brain_mask.nii.gz",
    "tissue": "space-orig_dseg.nii.gz",
    "tissue_table": "space-orig_dseg.tsv",
    "labels": "space-orig_desc-head_dseg.nii.gz",
}
LESIONS = {
    "mask": "space-orig_label-L_mask.nii.gz",
    "mask_sidecar": "space-orig_label-L_mask.json",
    "probability": "space-orig_label-L_probseg.nii.gz",
    "probability_sidecar": "space-orig_label-L_probseg.json",
    "network": "space-orig_label-L_desc-network_probseg.nii.gz",
    "network_sidecar": "space-orig_label-L_desc-network_probseg.json",
    "instances": "space-orig_seg-lesions_dseg.nii.gz",
    "instance_table": "space-orig_seg-lesions_dseg.tsv",
    "table": "desc-lesions.tsv",
    "table_columns": "desc-lesions.json",
    "summary": "desc-summary.json",
}
# ... how well lesions of known size and contrast are found, ...
GRADE = {"table": "desc-grade.tsv", "table_columns": "desc-grade.json"}
# A person's correction of the mask, beside it.
EDITED = {
    "mask": "space-orig_label-L_desc-edited_mask.nii.gz",
    "sidecar": "space-orig_label-L_desc-edited_mask.json",
}
# Measured on it, below the visit's (the patient's) folder, under the names of the results that were found.
CORRECTED_FOLDER = "corrected"
# Below the visit's folder, so that a later `msrim segment` finds its own results as it left them.
RIM_FOLDER = "rims"
RIMS = {
    "rims": "space-orig_seg-rims_dseg.nii.gz",
    "instances": "space-orig_seg-lesions_dseg.nii.gz",
    "table": "desc-lesions.tsv",
    "table_columns": "desc-lesions.json",
    "summary": "desc-summary.json",
}
# ... of each of two visits that are compared, ...
COMPARED_VISIT = {
    "instances": "space-orig_seg-lesions_dseg.nii.gz",
    "table": "desc-lesions.tsv",
    "midway": "space-midway_desc-matched_FLAIR.nii.gz",
    "transform": "from-FLAIR_to-midway_mode-image_xfm.txt",
}
VANISHED_AT_BASELINE = {
    "changed": "space-orig_label-L_desc-vanished_mask.nii.gz",
    "changed_sidecar": "space-orig_label-L_desc-vanished_mask.json",
}
NEW_AT_FOLLOWUP = {
    "changed": "space-orig_label-L_desc-new_mask.nii.gz",
    "changed_sidecar": "space-orig_label-L_desc-new_mask.json",
}
# ... and of the pair.
PAIR = {
    "changes": "desc-changes.tsv",
    "changes_columns": "desc-changes.json",
    "table_columns": "desc-lesions.json",
    "summary": "desc-summary.json",
    "tracked": "space-midway_seg-lesions_dseg.nii.gz",
    "difference": "space-midway_stat-z_desc-difference_statmap.nii.gz",
    "difference_t2w": "space-midway_stat-z_desc-differenceT2w_statmap.nii.gz",
    "log_jacobian": "space-midway_stat-logjacobian_desc-expansion_statmap.nii.gz",
}
# ... and of a patient, beside the visits' folders: all that is known of each lesion in one row.
PATIENT = {
    "table": "desc-patient.tsv",
    "table_columns": "desc-patient.json",
    "changes": PAIR["changes"],
}
# Results without names in BIDS.
NOT_BIDS = ["work", "**/work", "logs", "**/logs", "**/rims", "**/ses-*_to_ses-*", "**/xfm", "cohort*"]
NOT_BIDS += ["**/corrected"]
NOT_BIDS += ["**/report.html", "**/run.json", "**/*_desc-lesions.*", "**/*_desc-summary.json", "**/*_desc-changes.tsv"]
NOT_BIDS += ["**/*_desc-grade.*"]
NOT_BIDS += ["**/patient.html", "**/*_desc-patient.*"]
NOT_BIDS += ["simulation.json", "rims.png", "rims.json"]
# BIDS requires these of images in spaces that it does not know.
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
        Absolute paths by "FLAIR" (always there, and first), "T1w", "T2w".
    more : dict of str to list of Path
        Candidates for the "PDw", which is used only by networks trained with it.
    left_out : list of Path
        Images of the folder that were not taken.
    """

    label: str
    session: str | None
    contrasts: dict[str, Path]
    more: dict[str, list[Path]] = field(default_factory=dict)
    left_out: list[Path] = field(default_factory=list)

    def chosen(self) -> str:
        """Which file was taken for which contrast, and which images beside them were not.

        Examples
        --------
        >>> Subject("12", None, {"FLAIR": Path("/data/flair.nii"), "T1w": Path("/data/t1.nii")}).chosen()
        'FLAIR: /data/flair.nii, T1w: /data/t1.nii'
        """
        taken = ", ".join(f"{contrast}: {path}" for contrast, path in self.contrasts.items())
        others = ", ".join(path.name for path in self.left_out if path not in self.contrasts.values())
        return f"{taken}; left out: {others}" if others else taken

    def contradictions(self) -> list[str]:
        """What names and JSON sidecars of the images say against what they are taken for; a sentence each.

        A sidecar that cannot be read says nothing.

        Examples
        --------
        >>> Subject("12", None, {"FLAIR": Path("t1.nii"), "T1w": Path("t1_gd.nii")}).contradictions()
        ['t1.nii: is called like a T1w and taken as FLAIR', 't1_gd.nii: taken after contrast agent by its name']
        """
        told = []
        for contrast, path in self.contrasts.items():
            told += other_labels(path, self.contrasts.get("FLAIR", path))
            sidecar = _sidecar(path)
            series = str(sidecar.get("SeriesDescription") or sidecar.get("ProtocolName") or "")
            named, described = contrast_of(path.name), contrast_of(series)
            if named not in (contrast, None):
                told.append(f"{path}: is called like a {named} and taken as {contrast}")
            elif described not in (contrast, None):
                told.append(f"{path}: its sidecar calls it '{series}', a {described}; taken as {contrast}")
            if contrast == "T1w" and any(sidecar.get(key) for key in CONTRAST_AGENT):
                told.append(f"{path}: taken after contrast agent by its sidecar")
            elif contrast == "T1w" and _is_enhanced(_parts(path.name)[2]):
                told.append(f"{path}: taken after contrast agent by its name")
            if contrast == "T2w" and _echo(path.name)[1] == 1:
                told.append(f"{path}: a first echo by its name, as a rule proton-density weighted; taken as T2w")
        return told

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

    def outputs(self, out: Path, suffixes: dict[str, str]) -> dict[str, Path]:
        """Paths of several results by name, see :meth:`output`."""
        return {name: self.output(out, suffix) for name, suffix in suffixes.items()}

    def below(self, folder: Path, suffix: str) -> Path:
        """Path of a result of this visit in another folder, sorted as :meth:`output` does."""
        session = f"_ses-{self.session}" if self.session else ""
        kind = "xfm" if suffix.endswith("_xfm.txt") else "anat"
        return folder / kind / f"sub-{self.label}{session}_{suffix}"


def transform_name(contrast: str) -> str:
    """File name of a contrast's transform: the FLAIR's to MNI152, any other's to the FLAIR.

    Examples
    --------
    >>> transform_name("T1w")
    'from-T1w_to-FLAIR_mode-image_xfm.txt'
    """
    return f"from-{contrast}_to-{TEMPLATE if contrast == 'FLAIR' else 'FLAIR'}_mode-image_xfm.txt"


def pair_folder(baseline: Subject, followup: Subject, out: Path, *, corrected: bool = False) -> Path:
    """Folder of the results between two visits, or of those with manually corrected lesions.

    Examples
    --------
    >>> pair_folder(Subject("12", "01", {}), Subject("12", "02", {}), Path("out")).as_posix()
    'out/sub-12/ses-01_to_ses-02'
    """
    patient = out / f"sub-{baseline.label}"
    return (patient / CORRECTED_FOLDER if corrected else patient) / f"ses-{baseline.session}_to_ses-{followup.session}"


def entity_of(path: Path, key: str) -> str | None:
    """Label of an entity that a file's name carries, or else the folders above it, innermost first.

    Examples
    --------
    >>> entity_of(Path("/data/sub-12/ses-01/anat/lesions.nii.gz"), "sub"), entity_of(Path("/data/mask.nii"), "sub")
    ('12', None)
    """
    return _entity(key, [path.name, *(folder.name for folder in path.parents if folder.name)])


def other_labels(image: Path, flair: Path) -> list[str]:
    """Where an image is of another patient or visit than the FLAIR, by their names and folders; a sentence each.

    Examples
    --------
    >>> other_labels(Path("/d/sub-2_QSM.nii"), Path("/d/sub-1_FLAIR.nii"))
    ['/d/sub-2_QSM.nii: is of sub-2 by its name, the FLAIR of sub-1']
    """
    labels = [(key, entity_of(image, key), entity_of(flair, key)) for key in ("sub", "ses")]
    return [
        f"{image}: is of {key}-{own} by its name, the FLAIR of {key}-{other}"
        for key, own, other in labels
        if own is not None and other is not None and own != other
    ]


def patient_file(visit: Subject, out: Path, suffix: str, *, corrected: bool = False) -> Path:
    """Path of a result about all visits of a patient, or of the one with manually corrected lesions.

    Examples
    --------
    >>> patient_file(Subject("12", "01", {}), Path("out"), "desc-changes.tsv").as_posix()
    'out/sub-12/sub-12_desc-changes.tsv'
    """
    folder = out / f"sub-{visit.label}"
    return (folder / CORRECTED_FOLDER if corrected else folder) / f"sub-{visit.label}_{suffix}"


def patient_page(visit: Subject, out: Path) -> Path:
    """Path of the page that leads to all results of a patient.

    Examples
    --------
    >>> patient_page(Subject("12", "01", {}), Path("out")).as_posix()
    'out/sub-12/patient.html'
    """
    return out / f"sub-{visit.label}" / "patient.html"


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
    try:
        is_folder = path.is_dir()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path and its rights") from error
    if not is_folder:
        what = "is a file, not a folder; name files with --flair, --t1, --t2" if path.exists() else "no such folder"
        raise InputError(f"{path}: {what}")
    folder = image_folder(path)
    images = images_in(folder)
    found: dict[str, list[Path]] = {}
    for image in images:
        if contrast := contrast_of(image.name):
            found.setdefault(contrast, []).append(image)
    contrasts = {name: _only(found[name], contrast=name) for name in CONTRASTS if name in found and name not in MORE}
    if "FLAIR" not in found:
        names = ", ".join(file.name for file in images) or _nothing_in(folder)
        raise InputError(f"{folder}: no FLAIR among {names}; msrim needs one, name it with --flair")
    for image in contrasts.values():
        _check_labels(image, beside=contrasts["FLAIR"])
    return replace(
        _named(contrasts),
        more={name: found[name] for name in MORE if name in found},
        left_out=[image for image in images if image not in contrasts.values()],
    )


def find_qsm(path: Path) -> Path:
    """The susceptibility map in a subject's folder: ``*_Chimap.nii.gz``, or a name with QSM or chi.

    Raises
    ------
    InputError
        None, or several.
    """
    path = Path(path).absolute()
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; name the QSM with --qsm")
    folder = image_folder(path)
    maps = [file for file in images_in(folder) if is_qsm(file.name)]
    if len(maps) == 1:
        _check_labels(maps[0])
        return maps[0]
    if maps:
        raise InputError(
            f"{folder}: several files may be the QSM ({', '.join(f.name for f in maps)}); name it with --qsm"
        )
    raise InputError(f"{folder}: no QSM (a file called *_Chimap.nii.gz); name it with --qsm")


def images_in(folder: Path) -> list[Path]:
    """NIfTI files of a folder by their names, in order; hidden ones, such as macOS's twins, are no images.

    Raises
    ------
    InputError
        The folder cannot be read.
    """
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}); check its rights") from error
    return [
        file
        for file in files
        if re.search(r"\.nii(\.gz)?$", file.name.lower()) and not file.name.startswith(".") and not file.is_dir()
    ]


def subject_from_files(flair: Path, *, t1: Path | None = None, t2: Path | None = None) -> Subject:
    """One visit from files named one by one.

    Examples
    --------
    >>> subject_from_files(Path("/data/Smith, J/flair.nii.gz")).label
    'SmithJ'
    """
    given = {"FLAIR": flair, "T1w": t1, "T2w": t2}
    return _named({contrast: Path(file).absolute() for contrast, file in given.items() if file is not None})


def default_results_folder(subject: Subject) -> Path:
    """Where results go unless the user names a folder: to the dataset's derivatives, or beside a plain folder.

    Examples
    --------
    >>> default_results_folder(Subject("1", None, {"FLAIR": Path("/data/sub-1/anat/sub-1_FLAIR.nii.gz")})).as_posix()
    '/data/derivatives/msrim'
    >>> default_results_folder(Subject("jane", None, {"FLAIR": Path("/data/jane/FLAIR.nii.gz")})).as_posix()
    '/data/msrim-results'
    """
    folders = subject.contrasts["FLAIR"].parents
    patient = next((folder for folder in folders if re.fullmatch(r"sub-[A-Za-z0-9]+", folder.name)), None)
    return folders[1] / "msrim-results" if patient is None else patient.parent / "derivatives" / "msrim"


def contrast_of(name: str) -> str | None:
    """The contrast by a file's name, or None.

    Examples
    --------
    >>> contrast_of("sub-12_ses-01_T1w.nii.gz"), contrast_of("t2_tse_dark-fluid.nii"), contrast_of("FLAIR_mask.nii")
    ('T1w', 'FLAIR', None)
    """
    entities, rest, words, after = _parts(name)
    if _is_of_another_kind(entities - STILL_THE_IMAGE):
        return None
    if entities and len(rest) == 1 and rest[0] in CONTRASTS:
        return rest[0]
    if _is_derived([*words, *after]) or _is_enhanced(words):
        return None
    # A "sub" in front is half of "sub-12" with another sign.
    if _says(words, QSM) or _says(words[words[:1] == ["sub"] :], ANOTHER_SERIES):
        return None
    said = [contrast for contrast, pattern in CONTRASTS.items() if _says(words, pattern)]
    if {"T1w", "FLAIR"} <= set(said):
        # An inversion recovery with the contrast of a T1w, as GE calls it; in the other order it may be either.
        return "T1w" if _first(words, CONTRASTS["T1w"]) < _first(words, CONTRASTS["FLAIR"]) else None
    if {"T2w", "PDw"} <= set(said) or (said == ["T2w"] and _says(words, GRADIENT_ECHO)):
        # Two echoes in one file, or a T2*.
        return None
    return said[0] if said else None


def is_qsm(name: str) -> bool:
    """Whether a file is a susceptibility map by its name.

    Examples
    --------
    >>> is_qsm("sub-12_Chimap.nii.gz"), is_qsm("QSM_mask.nii.gz"), is_qsm("sub-12_acq-qsm_GRE.nii.gz")
    (True, False, False)
    """
    entities, rest, words, after = _parts(name)
    if _is_of_another_kind(entities):
        return False
    if entities and rest == ["Chimap"]:
        return True
    if "echo" in dict(entities):
        return False
    if not (_says(words, QSM) or (_says(words, CHI) and contrast_of(name) is None)):
        return False
    # Programs put their own name in front: "QSM_T2star", but "T2star_QSM" is a QSM.
    behind = words[_first(words, QSM) :]
    return not (_is_derived([*words, *after]) or _says(words, NOT_A_QSM) or _says(behind, ".*star"))


def _says(words: list[str], pattern: str) -> bool:
    return any(re.fullmatch(pattern, word) for word in words)


def _first(words: list[str], pattern: str) -> int:
    return next((index for index, word in enumerate(words) if re.fullmatch(pattern, word)), len(words))


def _is_of_another_kind(entities: set[tuple[str, str]]) -> bool:
    return any(key in NOT_THE_IMAGE_KEYS for key, _ in entities)


def _is_derived(words: list[str]) -> bool:
    """Whether a name is that of a mask, a map or a deformation made from an image."""
    return _says(words, NOT_AN_IMAGE) or _says(words[1:], BEHIND) or _says(words[:1], DEFORMATION)


def _is_enhanced(words: list[str]) -> bool:
    """Whether a name says that there was a contrast agent, and not that there was none."""
    said = [word for index, word in enumerate(words) if not (index and words[index - 1] in WITHOUT)]
    return _says(said, AFTER_CONTRAST_AGENT)


def _parts(name: str) -> tuple[set[tuple[str, str]], list[str], list[str], list[str]]:
    """Entities of a BIDS name, its parts that are no entities, and their words in lower case.

    Returns
    -------
    entities : set of (str, str)
        Keys and labels.
    rest : list of str
    words : list of str
        Those that say what the image is.
    after : list of str
        Those behind a "to", "in" or the like, but for the name of what the image was registered to.
    """
    stem = re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)
    entities, rest = set(), []
    for part in stem.split("_"):
        entity = re.fullmatch(rf"({BIDS_KEYS})-([^_]+)", part)
        if entity:
            entities.add((entity[1], entity[2]))
        else:
            rest.append(part)
    words = _words("_".join(rest))
    any_contrast = "|".join([*CONTRASTS.values(), QSM, CHI])
    for index, word in enumerate(words):
        if word in (*TOWARDS, *REGISTERED) and _says(words[:index], any_contrast):
            after = words[index:]
            named = {place + 1 for place, each in enumerate(after) if each in TOWARDS}
            return entities, rest, words[:index], [each for place, each in enumerate(after) if place not in named]
    return entities, rest, words, []


def _words(plain: str) -> list[str]:
    """Words of a plain name in lower case, those that are often written together taken apart.

    Examples
    --------
    >>> _words("3DT1_to-FLAIR"), _words("T1toFLAIR"), _words("T2* dark-fluid")
    (['3d', 't1', 'to', 'flair'], ['t1', 'to', 'flair'], ['t2star', 'darkfluid'])
    """
    text = re.sub(r"dark[-_ ]fluid", "darkfluid", plain.lower())
    text = re.sub(r"echo[-_ ]?(?=\d)", "echo", text)
    # "T1+" and "T1 C-": with and without contrast agent.
    text = re.sub(r"(t1w?|mprage)[-_ ]?\+", r"\1 plusc ", text)
    text = re.sub(r"(?<![a-z0-9])c-(?=[^a-z0-9]|$)", " ", text)
    text = re.sub(r"(t2|flair)[-_ ]?\*", r"\1star ", text)
    text = re.sub(r"(t[12]w?|flair|qsm)(to|2|in|on)(?=t[12]|flair|mni)", r"\1 \2 ", text)
    text = re.sub(r"(t[12]w?)(?=flair)|([23]d)(?=t[12]|flair|pd)|(?<=t[12])(?=[23]d)", r"\1\2 ", text)
    return [word for word in re.split(r"[^a-z0-9]+", text) if word]


def check_description(out: Path, *, kind: str = "derivative") -> dict[str, Any]:
    """Content of an output folder's ``dataset_description.json``, empty if there is none.

    Raises
    ------
    OutputError
        msrim has not written it, or it describes another kind of dataset.
    """
    path = out / "dataset_description.json"
    if not path.is_file():
        if not set(_lines(out / ".bidsignore")) <= set(NOT_BIDS):
            raise OutputError(f"{out}: holds a dataset that msrim has not written; choose another folder")
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        own = any(program.get("Name") == "msrim" for program in content.get("GeneratedBy", []))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        content, own = {}, False
    if not own or content.get("DatasetType") != kind:
        what = f"a {content.get('DatasetType')} dataset" if own else "a dataset that msrim has not written"
        raise OutputError(f"{out}: holds {what}; choose another folder, for example {out / 'derivatives' / 'msrim'}")
    return content


def write_dataset_description(out: Path, *, name: str = "msrim", kind: str = "derivative") -> Path:
    """Write ``dataset_description.json``, which makes a folder a BIDS dataset, and what its validator needs.

    Of an earlier description by msrim, and of a ``.bidsignore``, additions by hand stay.

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
        The folder cannot be written to, or there is a description that msrim has not written.
    """
    before = check_description(out, kind=kind)
    _write_bidsignore(out / ".bidsignore")
    images = [path.name for folder in ("sub-*", "sub-*/ses-*") for path in out.glob(f"{folder}/anat/*.nii.gz")]
    for (space, reference), suffix in product(SPACES.items(), ("mask", "dseg", "probseg")):
        if any(f"_space-{space}_" in image and image.endswith(f"_{suffix}.nii.gz") for image in images):
            write_json({"SpatialReference": reference}, out / f"space-{space}_{suffix}.json")
    others = [program for program in before.get("GeneratedBy", []) if program.get("Name") != "msrim"]
    content = {
        "Name": name,
        "BIDSVersion": "1.10.0",
        "DatasetType": kind,
        **before,
        "GeneratedBy": [{"Name": "msrim", "Version": __version__}, *others],
    }
    return write_json(content, out / "dataset_description.json")


def _write_bidsignore(path: Path) -> None:
    lines = _lines(path)
    if missing := [line for line in NOT_BIDS if line not in lines]:
        write_text("\n".join([*lines, *missing]) + "\n", path)


def _lines(path: Path) -> list[str]:
    """Of a text file in an output folder; none if there is no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror}); choose another output folder") from error


def image_folder(path: Path) -> Path:
    """Folder of a visit's images, from that of a BIDS subject with one session, of a session, or their own.

    Raises
    ------
    InputError
        Several sessions, or one and images beside it.
    """
    sessions = sorted(child for child in path.glob("ses-*") if child.is_dir())
    if len(sessions) > 1:
        names = ", ".join(session.name for session in sessions)
        raise InputError(f"{path}: has several sessions ({names}); give one of them, for example {sessions[0]}")
    if sessions and (beside := images_beside_sessions(path)):
        raise InputError(
            f"{beside[0]}: lies beside the session {sessions[0].name} in {path}; give the folder of the session or anat"
        )
    folder = sessions[0] if sessions else path
    return folder / "anat" if (folder / "anat").is_dir() else folder


def images_beside_sessions(path: Path) -> list[Path]:
    """FLAIRs of a patient's folder that are in none of its sessions."""
    anat = path / "anat"
    return [image for image in images_in(anat) if contrast_of(image.name) == "FLAIR"] if anat.is_dir() else []


def _sidecar(image: Path) -> dict[str, Any]:
    """What the JSON beside an image says; nothing if there is none that can be read."""
    path = image.with_name(re.sub(r"\.nii(\.gz)?$", "", image.name, flags=re.IGNORECASE) + ".json")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _nothing_in(folder: Path) -> str:
    """What to say of a folder without NIfTI files."""
    others = sorted(path.name for path in folder.iterdir() if path.name.lower().endswith(OTHER_FORMATS))
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        return f"no NIfTI files, but {others[0]}{more}, which must be converted to .nii.gz"
    below = next((child.name for child in sorted(folder.iterdir()) if child.is_dir() and images_in(child)), None)
    return "no NIfTI files" + (f", but there are some in its folder {below}" if below else "")


def _check_labels(image: Path, *, beside: Path | None = None) -> None:
    """Refuse an image that is of another patient or visit by its name than by its folders or the FLAIR beside it."""
    for key, what in (("sub", "patient"), ("ses", "visit")):
        named = _entity(key, [image.name])
        others = {"its folder": _entity(key, [folder.name for folder in image.parents])}
        if beside is not None:
            others[beside.name] = _entity(key, [beside.name])
        for where, other in others.items():
            if named is not None and other is not None and named != other:
                raise InputError(
                    f"{image}: is of {what} {key}-{named} by its name and of {key}-{other} by {where}; "
                    "correct the one that is wrong"
                )


def _only(files: list[Path], *, contrast: str) -> Path:
    echoes = sorted((_echo(file.name) for file in files), key=lambda echo: echo[1])
    if contrast == "T2w" and len({name for name, _ in echoes}) == 1 and [number for _, number in echoes] == [1, 2]:
        # Of a double echo the first is proton-density weighted.
        return max(files, key=lambda file: _echo(file.name)[1])
    if len({file.resolve() for file in files}) > 1:
        names = ", ".join(file.name for file in files)
        raise InputError(
            f"{files[0].parent}: several files may be the {contrast} ({names}); name the files with --flair, --t1, --t2"
        )
    return files[0]


def _echo(name: str) -> tuple[str, int]:
    """A file's name without the number of its echo, and that number, 0 if it has none.

    Examples
    --------
    >>> _echo("sub-1_echo-2_T2w.nii.gz"), _echo("t2_tse_e1.nii"), _echo("t2_tse.nii")
    (('sub-1_T2w.nii.gz', 2), ('t2_tse.nii', 1), ('t2_tse.nii', 0))
    """
    found = re.search(r"[_ -](?:e|echo-?)0*(\d+)(?=[_. -])", name, flags=re.IGNORECASE)
    return (name[: found.start()] + name[found.end() :], int(found[1])) if found else (name, 0)


def _named(contrasts: dict[str, Path]) -> Subject:
    """Take label and session from the FLAIR's name, else from the folders above it, innermost first."""
    flair = contrasts["FLAIR"]
    folders = [folder.name for folder in flair.parents if folder.name]
    label = entity_of(flair, "sub")
    if label is None:
        plain = next((name for name in folders if name != "anat" and not name.startswith("ses-")), "")
        label = re.sub(r"[^A-Za-z0-9]", "", plain.removeprefix("sub-")) or "unnamed"
    return Subject(label, entity_of(flair, "ses"), contrasts)


def _entity(key: str, names: list[str]) -> str | None:
    matches = (re.match(rf"(?:.*_)?{key}-([A-Za-z0-9]+)(?:_|$)", name) for name in names)
    return next((match[1] for match in matches if match), None)
