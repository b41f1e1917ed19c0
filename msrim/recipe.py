"""Recipes: the settings of a run as data, read from TOML and checked before anything else happens."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from msrim.errors import InputError

Settings = TypeVar("Settings", bound=BaseModel)
Backend = Literal["auto", "embedded", "fsl", "ants"]


class Recipe(BaseModel):
    """Settings of ``msrim segment`` and ``msrim preprocess``.

    Attributes
    ----------
    model : str
        Name in the table of ``msrim models``, or folder of a card and its weights; ``+`` joins several.
    backend : str
        Who registers, corrects the bias field, extracts the brain and finds the tissues: msrim itself ("embedded"), FSL
        or ANTs, see :mod:`msrim.preprocess.backends`; "auto" takes the embedded one.
    device : str
        Where networks run; "auto" takes CUDA if there is one.
    brain_extracted : bool
        The images show the brain alone.
    threshold : float or None
        Probability from which on a voxel is lesion; if None the patient's own, or the model card's, by the card.
    min_lesion_mm3 : float, mm3
        Smaller lesions are left out.
    grade : bool
        Paint lesions of known size and contrast into the images, and report how many are found; of two visits, changes
        too.
    stride : int
        Of CoactSeg's windows of 80 voxels, from one to the next; 20 in the paper, which takes nine times as long.
    plain : bool
        Changes are CoactSeg's own, as in its paper: no rule on what the images show clearly, none on
        the brain's surface, and the visits are not exchanged for a second answer.
    expansion : bool
        Measure between visits how much each lesion and the brain expand or shrink.

    Examples
    --------
    >>> Recipe(device="cpu").model
    'allnet'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(default="allnet", min_length=1)
    backend: Backend = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    brain_extracted: bool = False
    threshold: float | None = Field(default=None, gt=0, lt=1)
    min_lesion_mm3: float = Field(default=3.0, ge=0, allow_inf_nan=False)
    grade: bool = False
    stride: int = Field(default=60, ge=1, le=80)
    plain: bool = False
    expansion: bool = False

    def as_toml(self) -> str:
        """The recipe as a file that ``--recipe`` reads.

        Examples
        --------
        >>> Recipe().as_toml().splitlines()[0]
        'model = "allnet"'
        """
        # Every value is text, a number or a truth value, and JSON writes those as TOML does.
        fields = self.model_dump(exclude_none=True)
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items())


Side = Annotated[int, Field(gt=0, multiple_of=16)]
Depth = Annotated[int, Field(gt=0)]


Probability = Annotated[float, Field(gt=0, lt=1)]


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _three(sides: Any) -> Any:
    return sides if isinstance(sides, list | tuple) else (sides,) * 3


def _ascending(low_high: tuple[float, float] | None) -> tuple[float, float] | None:
    if low_high is not None and low_high[0] >= low_high[1]:
        raise ValueError("the lower end comes first")
    return low_high


class Optimiser(BaseModel):
    """How a network's weights move, the table ``[optimiser]`` of a recipe of ``msrim train``.

    Attributes
    ----------
    name : str
        "adam", whose weight decay is part of the gradient, or "adamw", whose is not.
    betas : (float, float)
    weight_decay : float
    schedule : str
        Of the learning rate: "constant"; "milestones", at which it is multiplied by ``factor``; "one-cycle", up to the
        recipe's rate and down to nothing as a cosine.
    milestones : tuple of float
        Shares of all steps.
    factor : float or None
        0.5 halves the rate.
    warm_up : float or None
        Share of the steps in which "one-cycle" rises.
    beta1_range : (float, float) or None
        "one-cycle" moves the first beta against the learning rate, between these; None leaves it where it is.
    restarts : tuple of float
        Shares of all steps at which "one-cycle" begins anew from the averaged weights (warm restarts, Loshchilov and
        Hutter 2017), with an optimiser and an average that remember nothing.
    averaging : float or None
        Decay of the exponential moving average of the weights, which then is what is written, with batch norm's
        statistics measured for it; None writes the weights of the last step.
    clipping : float or None
        Norm to which gradients are cut.
    precision : str
        Of the network's products: "float32" or "bfloat16", float32 on a processor without instructions for it; weights
        are float32 always.

    Examples
    --------
    >>> Optimiser(name="adam", weight_decay=1e-6, schedule="milestones", milestones=(0.5, 0.9), factor=0.5).betas
    (0.9, 0.999)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["adam", "adamw"]
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    weight_decay: float = Field(ge=0, allow_inf_nan=False)
    schedule: Literal["constant", "milestones", "one-cycle"]
    milestones: tuple[Probability, ...] = ()
    factor: Probability | None = None
    warm_up: Probability | None = None
    beta1_range: Annotated[tuple[Probability, Probability] | None, AfterValidator(_ascending)] = None
    restarts: tuple[Probability, ...] = ()
    averaging: Probability | None = None
    clipping: Positive | None = None
    precision: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _only_what_the_schedule_knows(self) -> Optimiser:
        given = {name for name in SCHEDULES_OF if getattr(self, name) not in (None, ())}
        if unknown := sorted(name for name in given if SCHEDULES_OF[name] != self.schedule):
            raise ValueError(f'the schedule "{self.schedule}" has no {" and no ".join(unknown)}')
        needed = {"milestones": {"milestones", "factor"}, "one-cycle": {"warm_up"}}.get(self.schedule, set())
        if missing := sorted(needed - given):
            raise ValueError(f'the schedule "{self.schedule}" needs {" and ".join(missing)}')
        for name in ("milestones", "restarts"):
            if list(getattr(self, name)) != sorted(set(getattr(self, name))):
                raise ValueError(f"{name} ascend")
        return self


# The schedule that a setting belongs to.
SCHEDULES_OF = {
    "milestones": "milestones",
    "factor": "milestones",
    "warm_up": "one-cycle",
    "beta1_range": "one-cycle",
    "restarts": "one-cycle",
}
# Of a recipe without [optimiser]: rim networks have the papers', all others that of the packaged models.
ONE_CYCLE = Optimiser(
    name="adamw",
    weight_decay=1e-2,
    schedule="one-cycle",
    warm_up=0.1,
    beta1_range=(0.85, 0.95),
    averaging=0.995,
    clipping=5.0,
    precision="bfloat16",
)
MILESTONES = Optimiser(
    name="adam", weight_decay=0.0, schedule="milestones", milestones=(0.5, 0.7, 0.9), factor=0.1, precision="float32"
)


class TrainingRecipe(BaseModel):
    """Settings of ``msrim train``.

    Attributes
    ----------
    name, version, task, summary, normalisation : str
        For the card of the result, see :class:`msrim.models.registry.Card`.
    network : str
        Key of MODELS, with its ``settings``.
    contrasts, required : tuple of str
        Order of the image channels, and those that a patient must have.
    steps, batch_size : int
    crop : int, or list of three
        Sides of the crops from left to right, back to front and bottom to top, voxels of 1 mm; one number for a cube.
        Rim networks and SCP know their own.
    learning_rate : float
        The highest of the schedule.
    optimiser : Optimiser
        If a recipe has none: MILESTONES for rim networks, ONE_CYCLE for all others.
    seed : int
    workers : int
        Processes that make samples; 0 makes them in the training process.
    device : str
    backend : str
        Who prepares the patients' images, as in :class:`Recipe`: that of the runs the model is meant for, because
        it finds the tissues and makes the distances to CSF.
    brain_extracted : bool
        The images show the brain alone.
    intensity_range : (float, float) or None
        Normalised intensities are cut to it, in training and ever after (see :class:`msrim.models.registry.Card`).
    threshold_range : (float, float) or None
        For the card of a lesion model: its threshold, and the highest that a visit may get whose lesions are doubtful.
    thick_slice_threshold : float or None
        For the card of a lesion model: its threshold where the FLAIR has thick slices.
    caps : bool
        Bright caps and bands are painted around the ventricles, which are no lesions: thick slices show many.
    lesion_bank : Path or None
        Lesion maps to paint into the images; none are painted without it.
    lesion_masks : Path or None
        Folder of whole patients' lesion masks in MNI space, NIfTI, to paint beside those maps.
    head_labels : Path or None
        Folder of whole-head label maps with FreeSurfer values, to synthesise brains from; none without it.
    start : str or None
        Model whose weights are the first ones, to fine-tune it with a tenth of the learning rate; a name or a folder as
        in :class:`Recipe`.
    rim_share : float
        Of a rim network's batches, how much is rim+; 0 draws lesions as the cohort has them, as the papers do.
    max_angle_deg : float
        A rim network's patches are turned by as much at most about the normal of the slices; 5 in the papers.
    max_shift_mm : float
        Their lesions lie off the middle by as much at most along each axis; 0 in the papers.
    view_shift_mm : float
        For the card of a rim network (see :class:`msrim.models.registry.Card`): how far beside the middle it also looks
        when it is used; nothing of its training.
    flair_gain : float
        Their FLAIR is multiplied or divided by as much at most; 1, not at all, in the papers.
    les_loss : bool
        Whether a lesion network's sphere head is taught (ALL-Net, Table 4).
    samples : str
        Training samples of a "longitudinal" network: pairs of visits, single visits, or as many of each.
    relation_loss, relation_warmup : bool
        The loss of the relations between its heads, and whether it joins in the second half only (CoactSeg, Table 3).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    version: str = Field(min_length=1)
    task: Literal["lesions", "head", "rims", "longitudinal", "slices"]
    summary: str
    normalisation: str
    network: str
    settings: dict[str, bool | int | float | str | list[int]] = {}
    contrasts: tuple[str, ...]
    required: tuple[str, ...] = ()
    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    crop: Annotated[tuple[Side, Side, Depth], BeforeValidator(_three)] = (32, 32, 32)
    learning_rate: Positive
    optimiser: Optimiser = Field(default_factory=lambda known: MILESTONES if known.get("task") == "rims" else ONE_CYCLE)
    seed: int = 0
    workers: int = Field(default=1, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    backend: Backend = "auto"
    brain_extracted: bool = False
    intensity_range: Annotated[tuple[float, float] | None, AfterValidator(_ascending)] = None
    threshold_range: Annotated[tuple[Probability, Probability] | None, AfterValidator(_ascending)] = None
    thick_slice_threshold: Probability | None = None
    caps: bool = False
    lesion_bank: Path | None = None
    lesion_masks: Path | None = None
    head_labels: Path | None = None
    start: str | None = None
    rim_share: float = Field(default=0.0, ge=0, lt=1)
    max_angle_deg: float = Field(default=5.0, ge=0, le=180)
    max_shift_mm: float = Field(default=0.0, ge=0, le=6)
    view_shift_mm: float = Field(default=0.0, ge=0, le=3)
    flair_gain: float = Field(default=1.0, ge=1)
    les_loss: bool = True
    samples: Literal["both", "pairs", "singles"] = "both"
    relation_loss: bool = True
    relation_warmup: bool = True

    @model_validator(mode="after")
    def _rims_are_neither_averaged_nor_rounded(self) -> TrainingRecipe:
        if self.task == "rims" and (self.optimiser.averaging is not None or self.optimiser.precision != "float32"):
            raise ValueError("rim networks are trained in float32 and without averaging; see msrim/training/rims.py")
        return self


class Sweep(BaseModel):
    """Rows of a table: one recipe with some settings changed in each, all trained and judged alike.

    Attributes
    ----------
    name, summary : str
    recipe : str
        File, or name of a packaged one.
    seeds : tuple of int
        Trainings of every row that decide by majority: an odd number.
    folds : int
        Patients are dealt into so many; each fold is judged by what was trained on the others.
    rows : dict of str to dict
        Fields of :class:`TrainingRecipe` that a row changes; of ``settings`` and ``optimiser`` only those given. The
        first row is what the others are compared with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    summary: str
    recipe: str = Field(min_length=1)
    seeds: tuple[int, ...] = (1,)
    folds: int = Field(default=5, ge=2)
    rows: dict[Annotated[str, Field(pattern=r"^[\w+ ,.()-]+$")], dict[str, Any]] = Field(min_length=1)

    @model_validator(mode="after")
    def _seeds_can_vote(self) -> Sweep:
        if len(set(self.seeds)) % 2 == 0 or len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds: give an odd number of different ones, so that they can vote")
        return self

    def recipe_of(self, row: str, **overrides: Any) -> TrainingRecipe:
        """The recipe of a row; overrides as :func:`read_recipe` takes them.

        Raises
        ------
        InputError
            As of :func:`read_recipe`.
        """
        given = _read_toml(_found(Path(self.recipe)))
        for field, value in self.rows[row].items():
            given[field] = given.get(field, {}) | value if isinstance(value, dict) else value
        return _checked(TrainingRecipe, f"{self.name}, row {row}", given, overrides)


def packaged_sweeps() -> dict[str, Path]:
    """The sweeps that come with msrim, by name.

    Examples
    --------
    >>> packaged_sweeps()["allnet-table4"].name
    'allnet-table4.toml'
    """
    return {path.stem: path for path in sorted((_pipelines() / "sweeps").glob("*.toml"))}


def packaged_recipes() -> dict[str, Path]:
    """The recipes that come with msrim, by name: in a wheel inside the package, in a clone beside it.

    Examples
    --------
    >>> packaged_recipes()["allnet"].name
    'allnet.toml'
    """
    return {path.stem: path for path in sorted(_pipelines().glob("*.toml"))}


def _pipelines() -> Path:
    package = Path(__file__).parent
    return next((f for f in (package / "pipelines", package.parent / "pipelines") if f.is_dir()), package)


def read_recipe(path: Path | None = None, **overrides: Any) -> Recipe:
    """Read a recipe and lay the options given on the command line over it.

    Parameters
    ----------
    path : Path, optional
        A TOML file, or the name of one of :func:`packaged_recipes`; the defaults if not given.
    **overrides
        Fields by name; those that are None are as if not given.

    Raises
    ------
    InputError
        The file is missing, not TOML, or a field is unknown or has an impossible value.

    Examples
    --------
    >>> read_recipe(device="cpu", threshold=None).device
    'cpu'
    """
    return _read(Recipe, path, overrides)


def read_training_recipe(path: Path, **overrides: Any) -> TrainingRecipe:
    """Read a recipe of ``msrim train``; parameters and errors as :func:`read_recipe`."""
    return _read(TrainingRecipe, path, overrides)


def read_sweep(path: Path, **overrides: Any) -> Sweep:
    """Read a sweep, a file or the name of one of :func:`packaged_sweeps`; errors as of :func:`read_recipe`."""
    known = packaged_sweeps()
    found = path if Path(path).is_file() else known.get(str(path))
    if found is None:
        raise InputError(f"{path}: no such sweep; give a TOML file or one of {', '.join(known)}")
    return _checked(Sweep, str(path), _read_toml(found), overrides)


def _read(kind: type[Settings], path: Path | None, overrides: dict[str, Any]) -> Settings:
    settings = {} if path is None else _read_toml(_found(Path(path)))
    return _checked(kind, str(path or "settings"), settings, overrides)


def _checked(kind: type[Settings], source: str, settings: dict[str, Any], overrides: dict[str, Any]) -> Settings:
    settings = settings | {name: value for name, value in overrides.items() if value is not None}
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        table = Optimiser if len(problem["loc"]) > 1 else kind
        known = ", ".join(table.model_fields)
        what = f"unknown field; known are {known}" if problem["type"] == "extra_forbidden" else problem["msg"]
        raise InputError(f"{source}: {field}: {what}") from error


def _found(path: Path) -> Path:
    """The file, or the packaged recipe of that name where there is no such file."""
    return path if path.is_file() else packaged_recipes().get(str(path), path)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: cannot be read as a recipe: it is not UTF-8; give a TOML file, saved as UTF-8"
        ) from error
    except OSError as error:
        names = ", ".join(packaged_recipes())
        raise InputError(f"{path}: cannot be read as a recipe; give a TOML file or one of {names}") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not a TOML file: {error}") from error
