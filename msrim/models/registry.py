"""The networks, and the cards that state what their weights can do. Imports no torch."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from math import exp, log
from pathlib import Path
from typing import Any

from msrim.errors import InputError, ModelError

MODELS = {
    "allnet": "msrim.models.networks.allnet:AllNet",
    "allnet-tiramisu": "msrim.models.networks.tiramisu:TiramisuAllNet",
    "head": "msrim.models.networks.head:HeadNet",
    "synthstrip": "msrim.models.networks.synthstrip:SynthStrip",
    "coactseg": "msrim.models.networks.coactseg:CoactSeg",
    "scp": "msrim.models.networks.scp:SCP",
    "datrnet": "msrim.models.networks.datrnet:DATRNet",
    "qsmrimnet": "msrim.models.networks.qsmrimnet:QSMRimNet",
    "rimnet": "msrim.models.networks.rimnet:RimNet",
    "aprl-rf": "msrim.models.networks.aprl:Forest",
    "aprl-nn": "msrim.models.networks.qsmrimnet:RadiomicNet",
    "ensemble": "msrim.models.networks.ensemble:Ensemble",
}
CARDS = Path(__file__).parent / "cards"
WEIGHTS = Path(__file__).parent / "weights"


# From this slice thickness on, in millimetres, a FLAIR has thick slices; 3-D ones have 1, good 2-D ones 3.
THICK_SLICES_MM = 5.0
# A 3-D FLAIR has slices no thicker than this, mm.
THIN_SLICES_MM = 2.0
# Tasks of models that mark lesions in one visit.
LESION_TASKS = ("lesions", "slices")
# Tasks whose models find all lesions of a single visit; they decide alone or with their like.
SEGMENTING_TASKS = (*LESION_TASKS, "longitudinal")


@dataclass(frozen=True)
class Card:
    """Facts about a set of weights that must be known before it is trusted: one ``cards/<name>.toml`` each.

    Attributes
    ----------
    name, version : str
        ``name@version`` is how recipes, manifests and reports quote a model.
    network : str
        Key of MODELS.
    settings : dict
        Arguments of the network.
    task : str
        ``lesions``, ``slices``, ``head``, ``longitudinal`` or ``rims``.
    summary : str
        One line.
    contrasts : tuple of str
        Order of the image channels.
    required : tuple of str
        The contrasts that must be there; any other may be missing.
    spacing_mm : float, or list of three
        Of the grid on which the network works; one number for an isotropic one.
    normalisation : str
        How intensities and coordinates are scaled.
    threshold : float
        On the probability, above which a voxel is a lesion, or a lesion is rim+.
    thick_slice_model : str or None
        The packaged model, or models joined by ``+``, in this lesion model's place where the FLAIR's slices are thicker
        than THIN_SLICES_MM: those of a 2-D scan show bright caps and flow around the ventricles.
    thick_slice_threshold : float or None
        In place of ``threshold`` for a lesion model where the FLAIR's slices are THICK_SLICES_MM thick or more: lesions
        and what is bright beside ventricles run into each other there, and networks are too sure of both.
    sensitive_threshold : float or None
        A lower one for a rim network, by which few rims are missed and many are seen that are none.
    view_shift_mm : float
        A rim network also looks at each lesion from so far beside the middle of its patch, to each side in the plane of
        the slices, and the highest probability counts; 0, in the middle alone, in the papers.
    sha256 : str
        Of the weights file.
    licence, training, limits : str
    intensity_range : (float, float) or None
        Normalised intensities of a lesion model are cut to it: the darkness of CSF has nothing to do with lesions, but
        decides the contrast of all else where there is much of it.
    threshold_range : (float, float) or None
        Where given, a visit whose lesions are faint and doubtful gets a threshold above ``threshold`` within it, see
        :func:`msrim.lesions.threshold.undoubted_threshold`.
    metrics : dict
        Measured figures, each with its command.
    weights : Path
        The safetensors file beside the card, or in the package.
    members : tuple of Card
        Of several models that decide together; the combined card has no weights of its own.
    """

    name: str
    version: str
    network: str
    settings: dict[str, Any]
    task: str
    summary: str
    contrasts: tuple[str, ...]
    required: tuple[str, ...]
    spacing_mm: float | list[float]
    normalisation: str
    threshold: float
    sha256: str
    licence: str
    training: str
    limits: str
    metrics: dict[str, Any] = field(default_factory=dict)
    thick_slice_model: str | None = None
    thick_slice_threshold: float | None = None
    sensitive_threshold: float | None = None
    view_shift_mm: float = 0.0
    intensity_range: tuple[float, float] | None = None
    threshold_range: tuple[float, float] | None = None
    weights: Path = Path()
    members: tuple[Card, ...] = ()

    @property
    def label(self) -> str:
        """``name@version``, of several models with ``+`` between them."""
        return "+".join(f"{card.name}@{card.version}" for card in self.single)

    @property
    def voxel_mm(self) -> tuple[float, float, float]:
        """Voxel size along each axis."""
        if isinstance(self.spacing_mm, list):
            x, y, z = self.spacing_mm
            return x, y, z
        return self.spacing_mm, self.spacing_mm, self.spacing_mm

    @property
    def single(self) -> tuple[Card, ...]:
        """The models that decide: the card itself, or those that it joins."""
        return self.members or (self,)

    def threshold_for(self, slice_mm: float) -> float:
        """From which probability on a voxel is lesion, by the FLAIR's slice thickness in millimetres."""
        if self.thick_slice_threshold is None or slice_mm < THICK_SLICES_MM:
            return self.threshold
        return self.thick_slice_threshold

    def rim_threshold(self, wanted: str) -> float:
        """The probability from which on a lesion is rim+.

        Parameters
        ----------
        wanted : str
            "f1" and "sensitive" are the card's; or a number between 0 and 1.

        Raises
        ------
        InputError
            None of these, or a card without sensitive threshold.
        """
        if wanted == "f1":
            return self.threshold
        if wanted == "sensitive":
            if self.sensitive_threshold is None:
                raise InputError(f"{self.label}: its card has no sensitive threshold; give a number")
            return self.sensitive_threshold
        try:
            value = float(wanted)
        except ValueError:
            value = -1.0
        if not 0 < value < 1:
            raise InputError(f"threshold {wanted}: give f1, sensitive or a number between 0 and 1")
        return value


def read_card(name: str | Path) -> Card:
    """The card of a packaged model by name, or that of a folder holding ``card.toml`` and ``weights.safetensors``.

    Models that mark lesions in one visit decide together when ``+`` joins them, as in ``allnet+scp``: by the mean of
    their log odds, of the probabilities and of the thresholds alike. A folder that happens to be called like a packaged
    model is meant by ``./name`` alone.

    Raises
    ------
    ModelError
        No such model, its card is not complete, or the models cannot decide together.
    """
    if len(names := _names(str(name))) > 1:
        return _joined([read_card(part) for part in names])
    if _is_packaged(name):
        return _parse(CARDS / f"{name}.toml", WEIGHTS / f"{name}.safetensors")
    folder = Path(name)
    if not (str(name) and folder.is_dir()):
        known = ", ".join(card.name for card in packaged_cards())
        raise ModelError(
            f"{name}: no such model; choose one of {known}, or a folder with card.toml and weights.safetensors"
        )
    return _parse(folder / "card.toml", folder / "weights.safetensors")


def for_slices(name: str, slice_mm: float) -> str:
    """The model that takes the place of one where the FLAIR's slices are of this thickness, mm; most often the same.

    Nothing takes the place of a model of the user's own, whatever its card says.

    Raises
    ------
    ModelError
        See :func:`read_card`.

    Examples
    --------
    >>> for_slices("allnet", 1.0), for_slices("allnet", 3.0), for_slices("allnet+scp", 3.0)
    ('allnet', 'allnet-thick+scp-thick', 'allnet-thick+scp-thick')
    """
    if slice_mm <= THIN_SLICES_MM:
        return name
    # Names that cannot decide together are refused before others take their place.
    read_card(name)
    others = [(_is_packaged(part) and read_card(part).thick_slice_model) or part for part in _names(name)]
    # Two models may give way to the same one.
    return "+".join(dict.fromkeys(each for other in others for each in _names(other)))


def located(name: str) -> str:
    """Name of a model that :func:`read_card` resolves from any folder: a step runs in a folder of its own.

    Examples
    --------
    >>> located("allnet+scp")
    'allnet+scp'
    """
    parts = [
        part if _is_packaged(part) or not Path(part).is_dir() else str(Path(part).absolute()) for part in _names(name)
    ]
    return "+".join(parts)


def packaged_cards() -> Iterator[Card]:
    """The cards of the package, by name."""
    for path in sorted(CARDS.glob("*.toml")):
        yield _parse(path, WEIGHTS / f"{path.stem}.safetensors")


def _names(name: str) -> list[str]:
    """Of the models that ``+`` joins; a folder may have one in its name, if it is not called like packaged models."""
    parts = name.split("+")
    if "" in parts:
        raise ModelError(f"{name}: no name on one side of +; give the names of models or folders, as allnet+scp")
    return [name] if Path(name).is_dir() and not all(map(_is_packaged, parts)) else parts


def _joined(cards: list[Card]) -> Card:
    for card in cards:
        if card.task not in LESION_TASKS:
            raise ModelError(
                f"{card.label}: its task is {card.task}; only models for lesions of one visit decide together"
            )
    if len({card.sha256 for card in cards}) < len(cards):
        raise ModelError(f"{'+'.join(card.label for card in cards)}: one model twice; name each once")
    ranges = [card.threshold_range for card in cards if card.threshold_range is not None]
    return replace(
        cards[0],
        name="+".join(card.name for card in cards),
        contrasts=tuple(dict.fromkeys(name for card in cards for name in card.contrasts)),
        required=tuple(dict.fromkeys(name for card in cards for name in card.required)),
        threshold=_mean_in_odds([card.threshold for card in cards]),
        thick_slice_model=None,
        thick_slice_threshold=_mean_in_odds([card.threshold_for(THICK_SLICES_MM) for card in cards]),
        threshold_range=(_mean_in_odds([low for low, _ in ranges]), _mean_in_odds([high for _, high in ranges]))
        if len(ranges) == len(cards)
        else None,
        sha256="+".join(card.sha256 for card in cards),
        limits=_joined_limits(cards),
        metrics={},
        members=tuple(cards),
    )


def _joined_limits(cards: list[Card]) -> str:
    """A paragraph for the limits of each card; sentences that all have come once, in a paragraph of their own."""
    sentences = {card.label: re.split(r"(?<=[.]) ", " ".join(card.limits.split())) for card in cards}
    of_all = [text for text in sentences[cards[0].label] if all(text in own for own in sentences.values())]
    own = {label: [text for text in texts if text not in of_all] for label, texts in sentences.items()}
    paragraphs = own | {"+".join(sentences): of_all}
    return "\n\n".join(f"{label}: {' '.join(texts)}" for label, texts in paragraphs.items() if texts)


def _mean_in_odds(probabilities: Sequence[float]) -> float:
    """The probability whose log odds are the mean of these probabilities'.

    Examples
    --------
    >>> _mean_in_odds([0.5, 0.9])
    0.75
    """
    mean = sum(log(p / (1 - p)) for p in probabilities) / len(probabilities)
    return round(1 / (1 + exp(-mean)), 6)


def _is_packaged(name: str | Path) -> bool:
    path = CARDS / f"{name}.toml"
    return str(name) == path.stem and path.is_file()


def _parse(path: Path, weights: Path) -> Card:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ModelError(
            f"{path}: cannot be read as a model card ({error}); restore the card that came with it"
        ) from error
    needed = {f.name for f in fields(Card) if f.default is MISSING and f.default_factory is MISSING}
    missing = sorted(needed - values.keys())
    unknown = sorted(values.keys() - ({f.name for f in fields(Card)} - {"weights", "members"}))
    if missing or unknown:
        raise ModelError(
            f"{path}: the card lacks {missing or 'nothing'} and has unknown {unknown or 'nothing'}; complete it"
        )
    for name in {"contrasts", "required", "intensity_range", "threshold_range"} & values.keys():
        values[name] = tuple(values[name])
    return Card(**values, weights=weights)
