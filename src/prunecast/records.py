"""Typed results. Each number says its unit in its name, its raw samples, and how many there were.

A record lies on disk in two parts: JSON of scalars, at most 4 KB, and arrays beside it (`taken_apart`). Whatever may
differ between two runs of the same recipe lies under the keys `timing` and `environment`; everything else is equal
byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION: Final = 2

RECORD_BYTES: Final = 4096
"""The most that the scalars of a record take, as JSON."""

BUSY_SHARE: Final = 0.05
"""Share of the processors' time from which a timing says that others ran beside it."""

# Every closed vocabulary of the package stands here, once.

Scoring = Literal["full", "paper"]
"""Which windows count: every one, or whole batches of 32 as in the published tables."""

Split = Literal["train", "validation", "test"]
"""The parts of a series."""

Stage = Literal["train", "prune", "zero", "finetune", "export", "measure"]
"""What a study plans. An import is a stage too, but no study has one."""

Role = Literal["dense", "naive", "small-dense", "zeroed-body", "dense-continued", "pruned", "pruned+finetuned"]
"""What a model is in a comparison. `dense-continued` is the dense model trained on for as long as fine-tuning took."""

Control = Literal["naive", "dlinear", "random", "zeroed-body", "dense-continued", "small-dense"]
"""What a study compares its pruned models with besides their dense parents."""

Quantizer = Literal["static", "dynamic", "nncf", "weights"]
"""How a model comes to 8 bits: inputs of products scaled by real windows, in each forecast anew, or by NNCF."""

BudgetOf = Literal["prunable", "model", "operations"]
"""What a share is a share of: the prunable weights, all parameters, or the dense multiply-adds."""

BudgetUnit = Literal["weights", "parameters", "MACs"]
"""What a budget counts; one unit for each `BudgetOf`, in its order."""

GroupKind = Literal["head", "ffn", "width", "layer", "mode", "router"]
"""What can be removed as a whole."""


class Strict(BaseModel):
    """Base of whatever is read from a file: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Record(Strict):
    """Base of all results."""


class Blocks(Record):
    """Errors of blocks of `length` consecutive windows (L + H), the unit of the bootstrap; the last may be shorter.

    Their mean, weighted by `windows`, is the error of the part. Of a root of a mean, a block has what it adds to that
    to first order, (m_b + m) / (2 sqrt(m)) for the block's mean m_b and the mean m of all.
    """

    length: int
    windows: tuple[int, ...]
    mse: tuple[float, ...]
    mae: tuple[float, ...]
    metrics: dict[str, tuple[float, ...]] = Field(
        default_factory=dict, exclude_if=lambda metrics: not metrics, description="in other metrics that were asked for"
    )


class Accuracy(Record):
    """Forecast error in standardised units over all windows, steps and scored channels."""

    split: Split
    scoring: Scoring
    windows: int
    mse: float
    mae: float
    metrics: dict[str, float] = Field(
        default_factory=dict, exclude_if=lambda metrics: not metrics, description="in other metrics that were asked for"
    )
    blocks: Blocks | None = None


class Size(Record):
    """How much there is to store.

    `nonzero` counts parameters (not buffers), and all dead ones; a complex number counts as two.
    """

    parameters: int
    nonzero: int
    prunable: int
    dead: int = Field(0, description="of the parameters, those that the published model has and never uses")
    raw_bytes: int = Field(description="tensors of model.safetensors without masks, header included")
    zip_bytes: int = Field(description="the same bytes, DEFLATE level 9")


class Operations(Record):
    """Multiply-adds of one forecast (batch 1), counted at the dispatcher.

    `dense` counts every product; `effective` only those with a non-zero weight; `executed` is what the runtime
    that was asked for really does (dense for a runtime that does not skip zeros).
    """

    dense_macs: int
    effective_macs: int
    executed_macs: int


class Pruning(Record):
    """What a pruning step was asked for and what it did, in whole units of the budget.

    All counts are of the model that it was given, which may have been pruned before: weights that masks hold at zero
    count in `total` and as removed, units that were cut out earlier are no part of it.
    """

    method: str
    of: BudgetOf
    unit: BudgetUnit
    total: int = Field(description="units of the given model")
    requested: int = Field(description="units to remove")
    realised: int = Field(description="units removed")
    removed_weights: dict[str, int] = Field(default_factory=dict, description="zeros per parameter")
    kept_units: dict[str, tuple[int, int]] = Field(default_factory=dict, description="group -> (kept, of)")
    given_nonzero: int | None = Field(
        None,
        exclude_if=lambda count: count is None,
        description="parameters other than zero of the given model, where it had been pruned before",
    )


class Epoch(Record):
    """One epoch of training or fine-tuning; losses are MSE in standardised units."""

    epoch: int
    steps: int
    learning_rate: float
    train_loss: float
    validation_loss: float


class Fit(Record):
    """What the training loop did."""

    epochs: tuple[Epoch, ...]
    best_epoch: int
    steps: int
    stopped_early: bool
    validation: Accuracy | None = Field(None, exclude=True, repr=False)
    """The full score of the weights that are kept, for who would compute it next; it is not written down here."""


class Latency(Record):
    """Time of one call, in milliseconds, over `n` raw samples."""

    unit: Literal["ms"] = "ms"
    median: float
    p95: float
    n: int
    samples: tuple[float, ...]


class Ratio(Record):
    """A ratio of medians with its 95 % bootstrap interval; above 1 means faster than the reference."""

    ratio: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out 1: only then it may be called a speed-up or a slow-down."""
        return self.low > 1.0 or self.high < 1.0


class Beside(Record):
    """What others took of the processors that a timing was pinned to, while its clock ran."""

    others_share: float = Field(description="of the processors' time, by other processes")
    steal_share: float = Field(description="of the processors' time, by the host for its other guests")

    @property
    def busy(self) -> bool:
        """Whether that is enough to lengthen times: more than `BUSY_SHARE`."""
        return self.others_share + self.steal_share > BUSY_SHARE


class Energy(Record):
    """What the processor packages took for one call, whoever else ran on them included; or why it is not known."""

    millijoules: float | None = None
    absent: str | None = Field(None, description="why there is no number")


class OperatorTime(Record):
    """Time of all nodes of one kind in one call."""

    operator: str
    count: float = Field(description="nodes of the kind that ran in a call")
    ms: float


class Profile(Record):
    """Time per kind of operator, by the runtime's own clock, which lengthens each a little; largest first.

    Of each node and of the whole call the median over the calls counts, or the mean where a runtime has that alone.
    """

    calls: int
    whole_ms: float
    operators: tuple[OperatorTime, ...]

    @property
    def accounted(self) -> float:
        """The operators' times together, over that of the whole call; what lacks is between them."""
        return sum(entry.ms for entry in self.operators) / self.whole_ms

    @classmethod
    def of(cls, whole_us: Sequence[float], nodes: Mapping[tuple[str, str], Sequence[float]]) -> Profile:
        """Returns the profile of calls.

        Args:
            whole_us: of each call.
            nodes: (kind, name) of a node -> its time in each call in us.
        """
        kinds: dict[str, list[float]] = {}
        for (kind, _), times_us in nodes.items():
            kinds.setdefault(kind, []).append(float(np.median(times_us)))
        found = [OperatorTime(operator=kind, count=len(us), ms=sum(us) / 1e3) for kind, us in kinds.items()]
        operators = tuple(sorted(found, key=lambda entry: -entry.ms))
        return cls(calls=len(whole_us), whole_ms=float(np.median(whole_us)) / 1e3, operators=operators)


class Timing(Record):
    """One runtime's times: of this model, of the reference timed in turn with it, and their ratio.

    A cold start is the import of the runtime, the load of the model, and its first forecast.
    """

    runtime: str
    threads: int
    batch: int
    latency: Latency
    reference: Latency | None = None
    speedup: Ratio | None = None
    operation_cut: float | None = Field(
        None,
        description="the reference's multiply-adds over this model's with a non-zero weight: the promised speed-up",
    )
    peak_memory_bytes: int | None = Field(None, description="most memory the process held, loading and forecasting")
    baseline_memory_bytes: int | None = Field(None, description="of that, held before the model was loaded")
    start_ms: float | None = Field(None, description="import of the runtime in a new process")
    load_ms: float | None = None
    first_forecast_ms: float | None = Field(None, description="the first call after the load")
    beside: Beside | None = None
    energy: Energy | None = None

    @property
    def cold_start_ms(self) -> float | None:
        """From the import of the runtime to the first forecast; None where a part was not measured."""
        if self.start_ms is None or self.load_ms is None or self.first_forecast_ms is None:
            return None
        return self.start_ms + self.load_ms + self.first_forecast_ms

    @property
    def realised_share(self) -> Ratio | None:
        """The speed-up over the cut of the operations, with its interval: 1 where all that was promised came true."""
        if self.speedup is None or self.operation_cut is None:
            return None
        ends = (self.speedup.ratio, self.speedup.low, self.speedup.high)
        ratio, low, high = (value / self.operation_cut for value in ends)
        return Ratio(ratio=ratio, low=low, high=high)

    @property
    def windows_per_s(self) -> float:
        """Throughput: windows forecast in a second of calls as long as the median one."""
        return 1e3 * self.batch / self.latency.median

    @property
    def model_memory_bytes(self) -> int | None:
        """What the model needs beside the runtime; None where it was not measured."""
        if self.peak_memory_bytes is None or self.baseline_memory_bytes is None:
            return None
        return self.peak_memory_bytes - self.baseline_memory_bytes


class Parity(Record):
    """An exported model against eager PyTorch on real windows."""

    windows: int
    max_deviation: float = Field(description="largest difference, in each channel's training standard deviations")
    mse_change: float = Field(description="MSE of the export minus MSE of eager, relative to the latter")
    tolerance: float

    @property
    def within(self) -> bool:
        """Whether the deviation is inside the tolerance; never where a forecast is not a number."""
        return self.max_deviation <= self.tolerance


class Artefact(Record):
    """A model as one runtime stores it. `name` is the file inside the stage's folder, None for eager."""

    runtime: str
    name: str | None = None
    bytes: int
    zip_bytes: int
    parity: Parity | None = None
    sparse: tuple[str, ...] = Field(
        (), exclude_if=lambda names: not names, description="weights of whose zeros the runtime's products read none"
    )
    test: Accuracy | None = Field(
        None, exclude_if=lambda test: test is None, description="of an 8-bit artefact, in its own runtime"
    )
    float32: tuple[str, ...] = Field(
        (), exclude_if=lambda names: not names, description="weights that stay in float32 because 8 bits cost too much"
    )
    flash_bytes: int | None = Field(
        None,
        exclude_if=lambda size: size is None,
        description="of constants on a device, where the runtime is for some",
    )
    memory_bytes: int | None = Field(
        None, exclude_if=lambda size: size is None, description="that a forecast takes on a device beside its inputs"
    )

    @property
    def stored_bytes(self) -> int:
        """What it takes where it is kept: of a runtime for devices the constants in flash, else the file."""
        return self.bytes if self.flash_bytes is None else self.flash_bytes


class Example(Record):
    """One forecast beside the truth, in raw units, for one channel."""

    channel: str
    window: int
    start: str = Field(description="time of the first forecast step")
    history: tuple[float, ...]
    truth: tuple[float, ...]
    forecast: tuple[float, ...]


class DataFacts(Record):
    """Which data a stage saw: by content, never by path; no name and no rows for an import without data."""

    name: str
    sha256: str
    rows: int
    channels: tuple[str, ...]
    windows: dict[str, int]


class Reading(Record):
    """How the times and numbers of a file were read; a forecast from new rows goes by it where they leave a choice.

    Attributes:
        form: of the times, as `data.date_format` has it; None where the file itself holds times.
        zone: whose clock they tell: a name or an offset ("Europe/Berlin", "+01:00"); None for times without a zone.
        decimal: the mark before the decimals.
        thousands: the mark between groups of three digits; empty for none.
    """

    form: str | None = None
    zone: str | None = None
    decimal: str = "."
    thousands: str = ""


class Environment(Record):
    """The machine and the versions. `machine` is the hash that timings are kept under."""

    machine: str
    processor: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    versions: dict[str, str]
    commit: str | None = None
    dirty: bool | None = None
    accelerator: str | None = None


class StageTiming(Record):
    """Everything about a stage that a clock said."""

    started_at: str
    elapsed_s: float
    runtimes: tuple[Timing, ...] = ()
    machine_busy: bool = Field(
        False,
        description="whether other stages ran beside a timing, or others took its processors' time",
    )


class Imported(Record):
    """A foreign checkpoint, and where each value of its model's config comes from."""

    source: str = Field(description="whose implementation: tslib or original")
    checkpoint: str = Field(description="name of the file")
    sha256: str = Field(description="of the file")
    modes: str | None = Field(None, description="where Fourier modes come from that are not in the file")
    from_tensors: dict[str, Any]
    from_source: dict[str, Any] = Field(description="what makes this implementation out of several")
    from_data: dict[str, Any]
    from_user: dict[str, Any]
    defaults: dict[str, Any] = Field(description="no tensor shows them, and nobody gave them")
    notes: tuple[str, ...]


class RunRecord(Record):
    """The record of one stage. `timing` and `environment` alone may differ between two runs."""

    schema_version: Literal[2] = SCHEMA_VERSION
    stage: Stage | Literal["import"]
    fingerprint: str
    parent: str | None = Field(default=None, description="fingerprint of the stage whose model this one took")
    reference: str | None = Field(default=None, description="measure: the stage whose model it was timed against")
    compared_with: str | None = Field(default=None, description="small-dense: the pruned stage whose size it has")
    role: Role = Field(description="what the model is in its study; export, measure: the role of the model taken")
    label: str = Field(default="", description="the stage in a few words, for people")
    model: str
    seed: int
    recipe: dict[str, Any] = Field(description="the resolved recipe, whole")
    data: DataFacts
    validation: Accuracy | None = None
    test: Accuracy | None = None
    test_paper: Accuracy | None = Field(None, description="the same forecasts in paper scoring, where `test` is full")
    size: Size | None = None
    operations: Operations | None = None
    pruning: Pruning | None = None
    fit: Fit | None = None
    imported: Imported | None = None
    artefacts: tuple[Artefact, ...] = ()
    unsupported: dict[str, str] = Field(default_factory=dict, description="runtime -> why it cannot run this model")
    examples: tuple[Example, ...] = ()
    files: dict[str, int] = Field(default_factory=dict, description="what the stage made beside it: name -> bytes")
    timing: StageTiming
    environment: Environment


class Failure(Record):
    """A stage that did not come to its end, and why."""

    schema_version: int = SCHEMA_VERSION
    stage: Stage
    fingerprint: str
    label: str
    reason: str


Arrays = Mapping[str, NDArray[Any]]
"""Place in a record, with slashes -> what stands there: a list of numbers, or bytes that are JSON in UTF-8."""

_TEXTS = ("imported", "data/channels", "pruning/removed_weights", "pruning/kept_units")
"""Places of what can grow long and is no list of numbers; it lies with the arrays, as JSON."""

_ARTEFACT_TEXTS = {"sparse", "float32"}
"""The same of each artefact."""


def taken_apart(record: RunRecord) -> tuple[str, dict[str, NDArray[Any]]]:
    """Returns a record as compact JSON of its scalars, with sorted keys and a final newline, and its arrays.

    The recipe is with the scalars unless they would grow too long with it (it can name hundreds of channels).
    """
    values = record.model_dump(mode="json", exclude_none=True)
    arrays: dict[str, NDArray[Any]] = {}
    if record.fit is not None:
        epochs = values["fit"]["epochs"]
        values["fit"]["epochs"] = {name: [epoch[name] for epoch in epochs] for name in Epoch.model_fields}
    for place in _TEXTS:
        *above, name = place.split("/")
        holder = values.get(above[0], {}) if above else values
        if holder.get(name):
            arrays[place] = _as_bytes(holder.pop(name))
    for number, artefact in enumerate(values.get("artefacts", ())):
        for name in _ARTEFACT_TEXTS & artefact.keys():
            arrays[f"artefacts/{number}/{name}"] = _as_bytes(artefact.pop(name))
    recipe = values.pop("recipe")
    _take_numbers(values, "", arrays)
    text = _compact(values | {"recipe": recipe})
    if len(text) > RECORD_BYTES:
        text, arrays["recipe"] = _compact(values), _as_bytes(recipe)
    return text, arrays


def put_together(text: str | bytes, arrays: Arrays) -> RunRecord:
    """Returns the record that was taken apart.

    Raises:
        ValueError: when it is none of this schema (of pydantic, or of the JSON reader).
    """
    try:
        values = json.loads(text)
        for place, array in arrays.items():
            *above, name = place.split("/")
            holder = values
            for part in above:
                holder = holder[int(part)] if isinstance(holder, list) else holder.setdefault(part, {})
            holder[name] = json.loads(array.tobytes()) if array.dtype == np.uint8 else array.tolist()
        if "fit" in values:
            columns = values["fit"]["epochs"]
            rows = zip(*columns.values(), strict=True)
            values["fit"]["epochs"] = [dict(zip(columns, row, strict=True)) for row in rows]
    except (LookupError, TypeError, AttributeError, RecursionError):  # another kind of value than a record has there
        raise ValueError("its parts do not fit each other") from None
    return RunRecord.model_validate(values)


def _take_numbers(values: Any, place: str, arrays: dict[str, NDArray[Any]]) -> None:
    """Moves every list of numbers out of nested values, to the arrays under the name of its place."""
    entries = list(values.items() if isinstance(values, dict) else enumerate(values))
    for key, value in entries:
        if not isinstance(value, dict | list):
            continue
        if isinstance(value, list) and value and isinstance(value[0], int | float):
            arrays[f"{place}{key}"] = np.array(value)
            del values[key]
        else:
            _take_numbers(value, f"{place}{key}/", arrays)


def _as_bytes(values: Any) -> NDArray[np.uint8]:
    return np.frombuffer(_compact(values).encode(), dtype=np.uint8)


def _compact(values: Any) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n"
