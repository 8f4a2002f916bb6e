"""The recipe: every choice that determines a result, frozen, checked, and named by its fingerprint.

A recipe file is YAML and holds only differences from the defaults below; its resolved form is written beside
every result. An unknown key fails with the nearest known one. The `model` section is checked by the config class
of the model that it names.

First the sections, then how they are read: a file and `--set key=value`, strictly, with one clear line for whatever
is wrong.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, cast, get_args
from zoneinfo import available_timezones

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PositiveFloat,
    ValidationError,
    field_validator,
)

from prunecast.errors import UserError, near, shown
from prunecast.records import BudgetOf, Control, GroupKind, Quantizer, Scoring, Stage, Strict
from prunecast.registry import METHODS, METRICS

RECIPE_FILE = "recipe.yaml"
"""The name of the resolved recipe beside every result."""

LONGEST_RECIPE = 500_000
"""Characters; the longest of ours has 9,000, and this many take seconds to read."""

Model = TypeVar("Model", bound=BaseModel)


class Section(Strict):
    """Base of all sections.

    A key that recipes did not always have is left out where it changes nothing (`exclude_if`): older results keep
    their names.
    """

    model_config = ConfigDict(allow_inf_nan=False)


def _plain(value: object) -> object:
    """Takes a column that is named by a number for its name: YAML reads `[0]` as numbers."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Name = Annotated[str, BeforeValidator(_plain)]
"""The name of a column."""


def _listed(value: object) -> object:
    """Takes one name for the list of it, as in `--set data.drop=region`."""
    return (value,) if isinstance(value, str) or _plain(value) is not value else value


ColumnNames = Annotated[tuple[Name, ...], BeforeValidator(_listed)]
"""The names of columns."""


KeptUnits = Annotated[
    tuple[tuple[str, int | tuple[int, ...]], ...],
    BeforeValidator(lambda value: tuple(sorted(value.items())) if isinstance(value, Mapping) else value),
    PlainSerializer(dict, return_type=Any),  # a mapping in the file; here what can be hashed
]
"""Group name -> how many of its units stay, or which."""


Parts = Annotated[
    tuple[float, float, float] | tuple[str, str],
    PlainSerializer(lambda parts: parts, return_type=Any),  # pydantic's own warns of the two kinds of tuple
]
"""Train, validation and test: shares, or the dates on which the last two begin."""


def _not(default: object) -> Callable[[object], bool]:
    return lambda value: value == default


class ReadOptions(Section):
    """Which series, and how its file is read. What is not said here is found out from the file, or asked for."""

    name: str = Field("synthetic-load", description="a catalogue name, or a CSV or Parquet file")
    time_column: Name | tuple[Name, ...] | None = Field(
        None, description="found by itself when absent; several that make up the time: [date, time]"
    )
    fill: str = Field("refuse", pattern=r"^(refuse|ffill|interpolate:[1-9]\d*)$", description="what to do with gaps")
    date_format: str | None = Field(
        None,
        exclude_if=_not(None),
        description="of the times, as strptime has it (%d/%m/%Y %H:%M); or iso, quarter, excel, s, ms, us, ns",
    )
    timezone: str | None = Field(
        None, exclude_if=_not(None), description="whose clocks the times tell, as Europe/Berlin; else the file's own"
    )
    decimal: Literal[".", ","] | None = Field(None, exclude_if=_not(None), description="mark before the decimals")
    thousands: Literal[".", ",", " ", "'"] | None = Field(
        None, exclude_if=_not(None), description="mark between groups of three digits"
    )
    delimiter: str | None = Field(
        None, min_length=1, max_length=1, exclude_if=_not(None), description="between the columns of a CSV file"
    )
    drop: ColumnNames = Field((), exclude_if=_not(()), description="columns that are left out")
    channels: ColumnNames | None = Field(
        None, exclude_if=_not(None), description="columns that are channels, in this order; all others are left out"
    )
    series_column: Name | None = Field(
        None,
        exclude_if=_not(None),
        description="of a long table: the column that names the series; each becomes a channel",
    )
    order: Literal["refuse", "sort"] = Field(
        "refuse", exclude_if=_not("refuse"), description="what to do where times go back"
    )
    duplicates: Literal["refuse", "mean", "first", "last"] = Field(
        "refuse", exclude_if=_not("refuse"), description="which values to take where a time stands more than once"
    )
    tail: Literal["refuse", "cut"] = Field(
        "refuse", exclude_if=_not("refuse"), description="what to do with empty rows at the end"
    )

    @field_validator("time_column")
    @classmethod
    def _some_column(cls, columns: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if columns == ():
            raise ValueError("expected at least one column")
        return columns

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, zone: str | None) -> str | None:
        if (
            zone is not None
            and not re.fullmatch(r"[+-](0\d|1[0-4]):[0-5]\d", zone)
            and zone not in available_timezones()
        ):
            raise ValueError(f"no time zone {zone!r}; {near(zone, available_timezones())[:80]}")
        return zone


class DataConfig(ReadOptions):
    """Which series, and how it becomes windows."""

    freq: Literal["s", "t", "h", "d", "w", "m"] = Field(
        "h", description="set of calendar features; published runs use h"
    )
    targets: ColumnNames | None = Field(None, description="channels that are forecast; all when absent")
    covariates: ColumnNames = Field((), description="columns known for the future; they ride in the marks")
    split: Parts | None = Field(
        None, description="train, validation, test shares, or the dates on which the last two begin; else the published"
    )
    scoring: Scoring = Field("full", description="full: every window; paper: whole batches of 32 only")
    score_test: bool = Field(
        True, exclude_if=_not(True), description="whether the test part is scored; whoever selects leaves it alone"
    )
    metrics: tuple[str, ...] = Field(
        (), exclude_if=lambda names: not names, description="what errors are given in besides MSE and MAE, by name"
    )

    @field_validator("metrics")
    @classmethod
    def _registered(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        for name in metrics:
            METRICS.check(name)
            if name in ("mse", "mae") or metrics.count(name) > 1:
                raise ValueError(f"{name!r} is given anyway; leave it out")
        return metrics

    @field_validator("split", mode="before")
    @classmethod
    def _parts(cls, split: Any) -> Parts | None:
        parts = split if isinstance(split, list | tuple) else ()
        try:
            if len(parts) == 2:  # as they stand in YAML, where a date is a date, or in a text
                first, second = (datetime.fromisoformat(str(part)) for part in parts)
                if first.tzinfo is second.tzinfo is None and first < second:
                    return first.isoformat(), second.isoformat()
            train, validation, test = (float(part) for part in parts)
            if min(train, validation, test) > 0 and abs(train + validation + test - 1) <= 1e-9:
                return train, validation, test
        except (TypeError, ValueError, OverflowError):
            if split is None:
                return None
        raise ValueError("expected three positive shares that add up to 1, or the two dates of validation and test")


class FitConfig(Section):
    """Training and fine-tuning; the defaults are those of the published runs."""

    epochs: int = Field(10, ge=0)
    max_steps: int | None = Field(None, ge=1, description="stop after so many steps, whatever the epoch")
    batch_size: int = Field(32, ge=1)
    learning_rate: float | None = Field(None, gt=0, description="the model's published rate when absent")
    schedule: Literal["halving", "constant", "cosine"] = Field(
        "halving", description="halving: each epoch, as published"
    )
    patience: int = Field(3, ge=1, description="epochs without a better validation loss before stopping")
    weight_decay: float = Field(0.0, ge=0)
    threads: int = Field(2, ge=1, description="processor threads; part of the result, so part of the recipe")
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["no", "bf16", "fp16"] = "no"
    compile: bool = Field(
        False,
        exclude_if=lambda compiled: not compiled,
        description="let torch.compile fuse the step (CUDA graphs on a GPU); costs a minute, pays in long runs",
    )

    @property
    def dropout_held(self) -> float | None:
        """Probability of dropout meanwhile; None: that of each layer."""
        return None


class TrainConfig(FitConfig):
    """Training from scratch, and what of it is kept for a fine-tuning that goes back to it."""

    keep_step: int | None = Field(
        None,
        ge=0,
        exclude_if=_not(None),
        description="keep the weights after so many steps (0: before the first), for finetune.rewind",
    )


LOOKS_BACK = ("distill", "rewind")
"""Keys of fine-tuning that go back to the model as it was before pruning."""


class FinetuneConfig(FitConfig):
    """Fine-tuning, and what it may go back to: the model as it was before pruning."""

    epochs: int = Field(0, ge=0)
    dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["own"] = Field(
        0.0, description="probability of dropout meanwhile, where the model has any; own: what it was trained with"
    )
    distill: float = Field(
        0.0,
        ge=0,
        le=1,
        exclude_if=_not(0.0),
        description="share of the loss that is the distance to the forecast of the model before pruning",
    )

    rewind: bool = Field(
        False, exclude_if=_not(False), description="begin with the weights that train.keep_step kept, masks held"
    )

    @property
    def dropout_held(self) -> float | None:
        """Probability of dropout meanwhile; None: that of each layer."""
        return None if self.dropout == "own" else self.dropout

    def plain(self) -> Self:
        """Returns the same training without a look back."""
        return self.model_copy(update={key: type(self).model_fields[key].default for key in LOOKS_BACK})

    @property
    def looks_back(self) -> bool:
        """Whether the model before pruning has a part in it."""
        return self != self.plain()


NO_RECOVERY = "none"
"""What stays keeps its weights."""

CALIBRATION_BATCHES = 8
TRAINING_SHARE = 0.75
TRAINING_UPDATES = 20


NARROWING: tuple[GroupKind, ...] = ("head", "ffn", "width")
"""Kinds of units that make layers narrower, and take none away."""


def _kinds(method: str) -> tuple[GroupKind, ...]:
    """Returns the kinds that a method takes by itself; an unknown method is refused elsewhere."""
    kinds: tuple[GroupKind, ...] = METHODS.load(method).kinds if method in METHODS.entries else NARROWING
    return kinds


class PruneConfig(Section):
    """What to remove, by what method, and how much of what."""

    method: str = "magnitude"
    sparsity: float = Field(0.5, gt=0, lt=1, description="share removed, of what `of` says of the given model")
    of: BudgetOf | None = Field(None, description="the method's own when absent")
    kinds: tuple[GroupKind, ...] = Field(
        default_factory=lambda data: _kinds(data.get("method", "")),
        description="structured: which kinds may go; the method's own when absent",
    )
    candidates: Literal["body", "all", "study"] = Field(
        "body",
        description="unstructured: without the output layer, with it, or those that the study of arXiv 2412.12883 took",
    )
    step: float | None = Field(
        None, gt=0, lt=1, description="share removed at a time, scores renewed in between; all at once when absent"
    )
    keep: KeptUnits | None = Field(
        None,
        exclude_if=_not(None),
        description="structured: group -> how many of its units stay, or which, as a search has found; the others stay "
        "whole, and `sparsity` is what that comes to",
    )
    recovery: str | None = Field(
        None,
        exclude_if=lambda recovery: recovery is None,
        description="how what stays makes good what went: ridge, none; the method's own when absent",
    )
    calibration_batches: int = Field(
        CALIBRATION_BATCHES,
        ge=1,
        exclude_if=lambda count: count == CALIBRATION_BATCHES,
        description="methods that look at data: batches of 32 windows of the training part, drawn at random",
    )
    calibration_seed: int | None = Field(
        None,
        ge=0,
        exclude_if=lambda seed: seed is None,
        description="methods that look at data: of that draw; the recipe's seed when absent",
    )
    training_share: float = Field(
        TRAINING_SHARE,
        gt=0,
        le=1,
        exclude_if=_not(TRAINING_SHARE),
        description="methods that prune in training: share of its steps after which no mask changes",
    )
    training_updates: int = Field(
        TRAINING_UPDATES,
        ge=1,
        exclude_if=_not(TRAINING_UPDATES),
        description="methods that prune in training: how often masks change until then, evenly spread",
    )


def with_recovery(method: str, recovery: str | None) -> str:
    """Returns a method with a recovery that is not its own: "magnitude + ridge", "obc without recovery"."""
    if recovery is None:
        return method
    return f"{method} without recovery" if recovery == NO_RECOVERY else f"{method} + {recovery}"


def read_by_control(method: str, settings: Mapping[str, Any], recovery: str | None) -> dict[str, Any]:
    """Returns what of a method's settings its random control reads too: it prunes at once, and looks at no score.

    Args:
        method: name of the method; the kinds that are its own when none are given are no setting.
        settings: keys of the prune section.
        recovery: of the method, and so of its control, which looks at data for that alone.
    """
    unread = ("training_",) if recovery != NO_RECOVERY else ("training_", "calibration_")
    own = tuple(settings.get("kinds") or ()) == _kinds(method)
    if settings.get("keep"):  # a shape may cut kinds that a control leaves alone by itself
        settings, own = {"kinds": _kinds(method), **settings}, False
    return {
        key: value for key, value in settings.items() if not key.startswith(unread) and not (own and key == "kinds")
    }


class MeasureConfig(Section):
    """How latency is taken; see the protocol."""

    runtimes: tuple[str, ...] = ("eager", "onnxruntime")
    threads: int = Field(1, ge=1)
    batch: int = Field(1, ge=1)
    warmup: int = Field(10, ge=1)
    min_count: int = Field(100, ge=5)
    min_time_s: float = Field(0.5, gt=0)


class ExportConfig(Section):
    """How a model is written for its runtime."""

    runtime: str = "onnxruntime"
    int8: bool = False
    quantizer: Quantizer | None = Field(
        None, exclude_if=lambda name: name is None, description="how a model comes to 8 bits; static when absent"
    )
    max_mse_increase: float | None = Field(
        None,
        ge=0,
        exclude_if=lambda share: share is None,
        description="share of the validation MSE that 8 bits may cost; weights that cost more stay in float32",
    )
    opset: Literal[18, 19, 20, 21] | None = Field(
        None, exclude_if=lambda opset: opset is None, description="version of ONNX operators; 20 when absent"
    )
    batch: int | None = Field(
        None,
        ge=1,
        exclude_if=lambda batch: batch is None,
        description="windows in one call, of a graph of fixed shapes; any when absent",
    )
    parity_windows: int = Field(64, ge=1, description="test windows compared against eager")


class PruneGrid(Section):
    """A line of a study's grid: methods x sparsities for some models (all when none is named)."""

    methods: tuple[str, ...]
    sparsities: tuple[float, ...]
    models: tuple[str, ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict, description="other keys of the prune section")


class ModelEntry(Section):
    """One model of a study, as differences from the recipe's own sections."""

    model: dict[str, Any]
    train: dict[str, Any] = Field(default_factory=dict)
    finetune: dict[str, Any] = Field(default_factory=dict)


class DatasetEntry(Section):
    """One data set of a study, as differences from the recipe's own sections, for every model on it."""

    data: dict[str, Any]
    horizons: tuple[int, ...] = Field((), description="instead of the study's")
    model: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)
    finetune: dict[str, Any] = Field(default_factory=dict)


Share = Annotated[float, Field(gt=0, le=1)]


def _for_each_stage(default: float) -> BeforeValidator:
    """Takes one value for all stages, or some of them by name; the others have the default."""

    def filled(given: Any) -> dict[str, Any]:
        stages = get_args(Stage)
        return dict.fromkeys(stages, default) | given if isinstance(given, dict) else dict.fromkeys(stages, given)

    return BeforeValidator(filled)


class StudyConfig(Section):
    """A grid of pipelines that share their dense parents.

    Controls are always on unless they are named one by one: the naive forecasts, DLinear, random pruning of the
    same amounts, the model with its body zeroed, the dense model trained on for as long as fine-tuning takes, and
    dense models of the structurally pruned sizes, trained from scratch.
    """

    title: str = ""
    seeds: tuple[int, ...] = Field((1,), min_length=1)
    timed: tuple[int, ...] = Field((), description="seeds whose models are exported and timed; all when empty")
    datasets: tuple[DatasetEntry, ...] = ()
    horizons: tuple[int, ...] = ()
    models: tuple[ModelEntry, ...] = ()
    prune: tuple[PruneGrid, ...] = ()
    finetune: tuple[bool, ...] = Field((False, True), description="without, with fine-tuning, or both")
    controls: tuple[Control, ...] = ("naive", "dlinear", "random", "zeroed-body", "dense-continued", "small-dense")
    stage_memory_gib: Annotated[dict[Stage, PositiveFloat], _for_each_stage(2.0)] = Field(
        {}, validate_default=True, description="memory that a stage is promised (all, or by kind); changes no result"
    )
    keep_files: bool = Field(
        True, description="whether models and exported files stay when no stage waits for them; changes no result"
    )
    stage_gpus: Annotated[dict[Stage, Share], _for_each_stage(1.0)] = Field(
        {}, validate_default=True, description="share of a GPU that a stage on one takes (likewise); changes no result"
    )


class Recipe(Section):
    """All sections. `model` holds the raw difference until the config class of the model has checked it."""

    seed: int = Field(1, ge=0, le=10**12)
    data: DataConfig = DataConfig()
    model: dict[str, Any] = Field(default_factory=lambda: {"name": "transformer"})
    train: TrainConfig = TrainConfig()
    prune: PruneConfig | None = None
    finetune: FinetuneConfig = FinetuneConfig()
    measure: MeasureConfig = MeasureConfig()
    export: ExportConfig = ExportConfig()
    study: StudyConfig | None = None


def fingerprint(content: Mapping[str, Any]) -> str:
    """Returns 20 hexadecimal digits that name the content: SHA-256 of its canonical JSON."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:20]


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML without aliases (a small file cannot grow large), without tags and without duplicate keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise UserError(f"line {line}: YAML aliases are not allowed in a recipe")
        if getattr(event, "tag", None) is not None:
            raise UserError(f"line {line}: not valid YAML in a recipe: a tag, {event.tag}; leave it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: set[Any] = set()
        for key in (self.construct_object(key, deep=True) for key, _ in node.value):
            if isinstance(key, Hashable):  # of others, the parser says that they cannot be keys
                if key in found:
                    raise UserError(f"line {node.start_mark.line + 1}: key {key!r} stands twice")
                found.add(key)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, source: str) -> Any:
    """Returns the value of a YAML text; `source` names it in errors."""
    if len(text) > LONGEST_RECIPE:
        raise UserError(f"{source}: expected at most {LONGEST_RECIPE} characters, found {len(text)}")
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none is a ValueError
        raise UserError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None


def load_recipe(
    path: Path | None = None, settings: Iterable[str] = (), base: Mapping[str, Any] | None = None
) -> Recipe:
    """Returns the recipe of a file (or of `base`) with `--set` differences on top.

    Args:
        path: a YAML file that holds differences from the defaults.
        settings: "section.key=value" texts; the value is YAML.
        base: differences from the defaults that the file and the settings override.

    Raises:
        UserError: on a file that cannot be read, an unknown key or a value that does not fit.
    """
    values: dict[str, Any] = dict(base or {})
    if path is not None:
        values = merged(values, read_mapping(path))
    for setting in settings:
        values = merged(values, parse_setting(setting))
    return checked(Recipe, values, "recipe")


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Writes a resolved recipe, every default spelled out, so that it can be run again as it is.

    A file of the user's own stands in a model's recipe by its name; it has to lie in the current folder or in
    `$PRUNECAST_DATA`. In a study's it stands by the path where it was found.
    """
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def read_mapping(path: Path) -> dict[str, Any]:
    """Returns the mapping that a YAML file holds."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:  # UnicodeDecodeError, or a path with a zero in it
        raise UserError(f"{path}: expected a YAML text in UTF-8") from None
    values = parse_yaml(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of sections, found {type(values).__name__}")
    return values


def parse_setting(setting: str) -> dict[str, Any]:
    """Returns {"a": {"b": value}} for "a.b=value"; the value is YAML, or a text that YAML has no value for.

    Such are the form of a date, which begins with a percent sign, and a mark of one character: `,` or `|` or a tab.
    """
    key, equals, value = setting.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {setting!r}: expected section.key=value")
    is_text = value.startswith("%") or (len(value) == 1 and value != "~" and not value.isalnum())
    nested: Any = value if is_text else parse_yaml(value, f"--set {key}")
    for part in reversed(key.strip().split(".")):
        nested = {part: nested}
    return cast("dict[str, Any]", nested)


def check_settings(settings: Iterable[str], sections: frozenset[str]) -> None:
    """Refuses settings that a verb would not use.

    Raises:
        UserError: naming the section and those that can be set.
    """
    for setting in settings:
        foreign = parse_setting(setting).keys() & Recipe.model_fields.keys() - sections
        if foreign:
            raise UserError(
                f"--set {setting}: {foreign.pop()!r} has no effect here; expected {', '.join(sorted(sections))}"
            )


def merged(base: Mapping[str, Any], difference: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `base` with the difference laid over it; mappings merge, all else replaces."""
    result = dict(base)
    for key, value in difference.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def checked(kind: type[Model], values: Mapping[str, Any], source: str) -> Model:
    """Returns the validated model; the first mistake becomes one clear line.

    Raises:
        UserError: naming the key, what was expected and what was found.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(_one_line(error, kind, source)) from None


def _one_line(error: ValidationError, kind: type[BaseModel], source: str) -> str:
    errors = error.errors()
    # A misspelt key is also a missing one: the spelling is what helps.
    first = next((mistake for mistake in errors if mistake["type"] == "extra_forbidden"), errors[0])
    path = [str(part) for part in first["loc"]]
    key = ".".join([source, *path]) if source != "recipe" else ".".join(path)
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}; {near(path[-1], _known_keys(kind, path[:-1]))}"
    if first["type"] == "missing":
        return f"{key}: expected a value, found none"
    message = first["msg"].removeprefix("Value error, ")
    return f"{key}: {message[0].lower() + message[1:]}, found {shown(first['input'])}" if path else message


def _known_keys(kind: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        if part in kind.model_fields:
            kind = _model_in(kind.model_fields[part].annotation) or kind
    return list(kind.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Returns the section class inside an annotation such as `Section | None` or `tuple[Section, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)
