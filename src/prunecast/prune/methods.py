"""What a pruning method is, the methods by name, and what their parts get and give. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from prunecast.errors import UserError, near
from prunecast.recipe import NARROWING, NO_RECOVERY, PruneConfig
from prunecast.records import BudgetOf, GroupKind, Pruning
from prunecast.registry import RECOVERIES

if TYPE_CHECKING:  # `prunecast list methods` answers without torch
    from torch import Tensor

    from prunecast.batch import Batch
    from prunecast.models.base import ForecasterConfig, ForecastModel, Group, Keep

Family = Literal["structured", "unstructured", "blocks", "training", "control"]

FAMILIES: Mapping[str, str] = {
    "structured": "Structured: units are cut out, the model becomes smaller",
    "unstructured": "Unstructured: single weights become zero",
    "blocks": "Unstructured, in blocks or patterns",
    "training": "In training: asked for with epochs of fine-tuning",
    "control": "Controls: at random, to be beaten",
}
"""What methods are listed under, in this order."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A recipe: score x granularity x allocation, and a schedule where it prunes in training.

    Attributes:
        name: as in `registry.METHODS`.
        summary: one line for people.
        score: what tells weights or units apart, a name in `registry.SCORES`.
        granularity: what is removed, a name in `registry.GRANULARITIES`.
        allocation: how the budget is spread, a name in `registry.ALLOCATIONS`.
        default_of: what a share is a share of, unless the recipe says so.
        control: the method that removes as much at random, which a study sets beside this one; None without one.
        is_control: whether this is such a method itself: its models are compared with, not shipped.
        budget: how an amount is asked for: as a share, an N:M pattern, or a latency.
        schedule: how masks change in training, a name in `registry.SCHEDULES`; None for a method without training.
        searches: whether it makes several choices, tunes them and takes the best, see `stages.train`.
        needs_data: whether its score looks at batches of the training part.
        needs_targets: whether it has no use for a model's own forecasts in the place of what came true.
        per_cost: whether units compare by their scores per what they cost, in the unit of the budget. That is for
            scores that are estimates of one damage: the least is done where the damage per saving is least.
        kinds: of units that may go, unless the recipe says so.
    """

    name: str
    summary: str
    score: str
    granularity: str
    allocation: str
    default_of: BudgetOf
    control: str | None = None
    is_control: bool = False
    budget: Literal["share", "pattern", "latency"] = "share"
    schedule: str | None = None
    searches: bool = False
    needs_data: bool = False
    needs_targets: bool = False
    blocks: str = "1x1"
    recovery: str = NO_RECOVERY
    per_cost: bool = False
    kinds: tuple[GroupKind, ...] = NARROWING

    @property
    def trains(self) -> bool:
        """Whether the method itself needs training steps."""
        return self.schedule is not None or self.searches

    @property
    def family(self) -> Family:
        """What it is listed under."""
        if self.is_control:
            return "control"
        if self.schedule is not None:
            return "training"
        if self.default_of == "operations":
            return "structured"
        return "unstructured" if self.budget == "share" and self.blocks == "1x1" else "blocks"

    def check_epochs(self, epochs: int) -> None:
        """Checks that a method that prunes in training has epochs of fine-tuning to do it in.

        Raises:
            UserError: when it has none.
        """
        if self.trains and not epochs:
            raise UserError(
                f"method {self.name!r} prunes in training, expected epochs of fine-tuning, found 0; "
                "give --finetune-epochs (in a recipe finetune.epochs)"
            )

    def check_recovery(self, recovery: str | None) -> None:
        """Checks that a recovery, where one is asked for, is known and has something to make good.

        Raises:
            UserError: when it is not, or when training makes good what goes.
        """
        known = (NO_RECOVERY, *RECOVERIES.names())
        if recovery is not None and recovery not in known:
            raise UserError(f"unknown recovery {recovery!r}; {near(recovery, known)}")
        if recovery is not None and self.trains:
            raise UserError(
                f"method {self.name!r} prunes in training, which makes good what goes: expected no recovery, found "
                f"{recovery!r}; leave it out"
            )


@dataclass(frozen=True, kw_only=True)
class Granularity:
    """What goes at once: an entry of `registry.GRANULARITIES`.

    Attributes:
        prune: does it.
        shrinks: whether the model becomes physically smaller, so that a dense one of its size can be trained.
        updates: whether what stays makes good what went already: there is nothing left for a recovery to do.
        check: refuses a budget that no weights could meet, before any are trained; None where every share can be met.
    """

    prune: Callable[[Task], Pruned]
    shrinks: bool = False
    updates: bool = False
    check: Callable[[Task], None] | None = None


Scores: TypeAlias = "Mapping[str, Tensor]"
"""What matters more scores higher: parameter name -> tensor of its shape, or group name -> (size of the group,)."""

Masks: TypeAlias = "Mapping[str, Tensor]"
"""Parameter name -> boolean tensor of its shape, True where a weight stays."""

Cost: TypeAlias = "Callable[[ForecasterConfig], int]"
"""The dense MACs of one forecast of the model that a config describes."""

WeightCost: TypeAlias = "Callable[[ForecastModel], Mapping[str, float]]"
"""Parameter name -> the MACs of one forecast that each of its weights takes part in; one in no product is absent."""


@dataclass(frozen=True)
class Statistics:
    """What a score may look at besides the model.

    Attributes:
        seed: of whatever it draws, from a generator of its own.
        data: windows of the training part, to be read through `batches`; None where nobody has any.
        accumulated: what a schedule has summed up in training, by parameter; None where nothing was.
        kinds: of the units that may go: a score of units may leave out all others.
    """

    seed: int
    data: Iterable[Batch] | None = None
    accumulated: Scores | None = None
    kinds: tuple[GroupKind, ...] = get_args(GroupKind)

    @property
    def batches(self) -> Iterator[Batch]:
        """Gives the windows of the training part, from the first one at each call.

        Raises:
            UserError: when there are none: a score of no data at all would prune by index.
        """
        empty = True
        for batch in self.data or ():
            empty = False
            yield batch
        if empty:
            raise UserError("the method's score looks at data, expected batches of the training part, found none")


Score: TypeAlias = "Callable[[ForecastModel, Statistics], Scores]"
"""A pure function; of single weights it scores at least `model.prunable()`, of units all of `statistics.kinds`."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One pruning step: what a granularity is asked to do."""

    model: ForecastModel
    config: PruneConfig
    method: Method
    statistics: Statistics
    cost: Cost
    weight_cost: WeightCost
    masks: Masks

    @property
    def of(self) -> BudgetOf:
        """What the share is a share of."""
        return self.config.of or self.method.default_of

    @property
    def recovery(self) -> str:
        """How what stays makes good what went: as the recipe says, or else the method."""
        return self.config.recovery or self.method.recovery

    @property
    def needs_data(self) -> bool:
        """Whether there have to be batches of the training part."""
        return self.method.needs_data or self.recovery != NO_RECOVERY

    def refuse(self, option: str) -> None:
        """Checks that an option without meaning for the method was left alone.

        Raises:
            UserError: when it was set.
        """
        default = self.method.kinds if option == "kinds" else PruneConfig.model_fields[option].default
        if getattr(self.config, option) != default:
            raise UserError(f"method {self.method.name!r} has no use for prune.{option}; leave it out")


@dataclass(frozen=True, kw_only=True)
class UnitRequest:
    """What an allocation of units is asked for.

    Attributes:
        model: whose units go.
        groups: those of its groups that may lose units.
        statistics: windows of the training part.
        cost: what a model of a config costs, in the unit of the budget.
        requested: how much is to be saved of that.
    """

    model: ForecastModel
    groups: Sequence[Group]
    statistics: Statistics
    cost: Cost
    requested: int

    @property
    def minimum(self) -> dict[str, int]:
        """How many units of each group have to stay."""
        return {group.name: group.minimum for group in self.groups}


@dataclass(frozen=True)
class Pruned:
    """A pruned model, the masks to hold through fine-tuning, and what was asked for and done.

    Attributes:
        model: the pruned one.
        masks: of its parameters.
        outcome: for the record.
        keep: which units of the given model it has, where some were cut out.
    """

    model: ForecastModel
    masks: Masks = field(repr=False)
    outcome: Pruning
    keep: Keep = field(default_factory=dict, repr=False)


MAGNITUDE = Method(
    name="magnitude",
    summary="the smallest weights of the whole model become zero",
    score="magnitude",
    granularity="element",
    allocation="global",
    default_of="prunable",
    control="random",
)
MAGNITUDE_LAYER = replace(
    MAGNITUDE,
    name="magnitude-layer",
    summary="the smallest weights of each layer become zero, the same share everywhere",
    allocation="layer",
)
GRADUAL_MAGNITUDE = replace(
    MAGNITUDE,
    name="gradual-magnitude",
    summary="the smallest weights become zero a little at a time while the model trains, fast at first",
    schedule="gradual",
)
GRADUAL_MAGNITUDE_LAMP = replace(
    GRADUAL_MAGNITUDE,
    name="gradual-magnitude-lamp",
    summary="the same with LAMP scores, which leave no layer empty",
    allocation="lamp",
)
MOVEMENT = replace(
    GRADUAL_MAGNITUDE,
    name="movement",
    summary="weights that training moves towards zero become zero a little at a time, and come back when it turns",
    score="movement",
    schedule="movement",
)
ACDC = replace(
    GRADUAL_MAGNITUDE,
    name="acdc",
    summary="training is sparse, by magnitude with LAMP scores, and dense in turn (AC/DC)",
    allocation="lamp",
    schedule="alternating",
)
RIGL = replace(
    GRADUAL_MAGNITUDE,
    name="rigl",
    summary="from masks by magnitude, the smallest weights are dropped and those of largest gradient grow (RigL)",
    allocation="erk",
    schedule="rigged",
)
RANDOM = replace(
    MAGNITUDE,
    name="random",
    summary="weights drawn at random become zero (a control)",
    score="random",
    control=None,
    is_control=True,
)
STRUCTURED_MAGNITUDE = Method(
    name="structured-magnitude",
    summary="the heads, feed-forward units and widths of smallest norm are cut out",
    score="unit-magnitude",
    granularity="unit",
    allocation="unit-uniform",
    default_of="operations",
    control="structured-random",
)
STRUCTURED_RANDOM = replace(
    STRUCTURED_MAGNITUDE,
    name="structured-random",
    summary="heads, feed-forward units and widths drawn at random are cut out (a control)",
    score="unit-random",
    control=None,
    is_control=True,
)
STRUCTURED_TAYLOR = Method(
    name="structured-taylor",
    summary="the units go whose removal changes the loss least per operation, by its slope (first order)",
    score="unit-taylor",
    granularity="unit",
    allocation="unit-global",
    default_of="operations",
    control="structured-random",
    needs_data=True,
    needs_targets=True,
    per_cost=True,
)
STRUCTURED_FISHER = replace(
    STRUCTURED_TAYLOR,
    name="structured-fisher",
    summary="structured-taylor by the mean square of the slopes of single windows (second order)",
    score="unit-fisher",
)
STRUCTURED_GAUSS_NEWTON = replace(
    STRUCTURED_TAYLOR,
    name="structured-gauss-newton",
    summary="the units go whose removal moves the forecast least per operation (second order)",
    score="unit-gauss-newton",
    recovery="ridge",
)
STRUCTURED_EMA_TAYLOR = replace(
    STRUCTURED_TAYLOR,
    name="structured-ema-taylor",
    summary="structured-taylor by a moving average of both orders over batches (Prune-then-Finetune)",
    score="unit-ema-taylor",
)
STRUCTURED_FLAP = replace(
    STRUCTURED_TAYLOR,
    name="structured-flap",
    summary="the units go that vary least, as what reads them weighs it, each against its layer (FLAP)",
    score="unit-fluctuation",
    needs_targets=False,
    per_cost=False,
)
STRUCTURED_LEAVE_ONE_OUT = replace(
    STRUCTURED_GAUSS_NEWTON,
    name="structured-loo",
    summary="structured-gauss-newton, units of a module adding up to what leaving it out adds to the loss",
    score="unit-leave-one-out",
)
STRUCTURED = Method(
    name="structured",
    summary="the best of its kind: layers, heads, units, modes and widths by what they cost the forecast once repaired",
    score="unit-obs",
    granularity="unit",
    allocation="unit-damage",
    default_of="operations",
    control="structured-random",
    needs_data=True,
    recovery="ridge",
    kinds=get_args(GroupKind),
)
COMPRESS = replace(
    STRUCTURED,
    name="compress",
    summary="of several choices of structured, repaired and tuned in rungs, the one of smallest validation error",
    searches=True,
)
OBC = Method(
    name="obc",
    summary="the weights go whose loss costs the forecast least once their layer has made up for it, layer by layer",
    score="obc",
    granularity="update",
    allocation="map-damage",
    default_of="prunable",
    control="random",
    needs_data=True,
    recovery="ridge",
)
UNSTRUCTURED = replace(
    OBC,
    name="unstructured",
    summary="the best of its kind: obc, or splitting where layers are wide",
    score="least-damage",
)
OBC_LAYER = replace(OBC, name="obc-layer", summary="obc, the same share everywhere", allocation="map-uniform")
SPARSEGPT = replace(
    OBC_LAYER, name="sparsegpt", summary="one pass over a layer's inputs (SparseGPT)", score="sparsegpt"
)
ALPS = replace(OBC_LAYER, name="alps", summary="weights and zeros settle in turn (ALPS)", score="alps")
FORWARD = replace(
    OBC_LAYER, name="forward", summary="weights are added to none, the one that helps most first", score="forward"
)
OBC_2_4 = replace(
    OBC_LAYER,
    name="obc-2:4",
    summary="obc, two of four weights beside each other stay",
    budget="pattern",
    blocks="2:4",
)
SPARSEGPT_2_4 = replace(OBC_2_4, name="sparsegpt-2:4", summary="SparseGPT, two of four stay", score="sparsegpt")
WANDA_2_4 = replace(
    OBC_2_4,
    name="wanda-2:4",
    summary="Wanda, two of four stay, no update",
    score="wanda",
    recovery=NO_RECOVERY,
)
MAGNITUDE_2_4 = replace(WANDA_2_4, name="magnitude-2:4", summary="the two larger of four stay", score="magnitude")
OBC_1X4 = replace(OBC, name="obc-1x4", summary="obc, four weights of an output at once", blocks="1x4")
OBC_1X16 = replace(OBC, name="obc-1x16", summary="obc, sixteen weights of an output at once", blocks="1x16")
OBC_16X1 = replace(OBC, name="obc-16x1", summary="obc, the weights of sixteen outputs at once", blocks="16x1")
MAGNITUDE_1X16 = replace(
    OBC_1X16,
    name="magnitude-1x16",
    summary="sixteen weights of an output at once by their norm, the same share everywhere",
    score="magnitude",
    allocation="map-uniform",
    recovery=NO_RECOVERY,
)
WANDA = replace(
    MAGNITUDE,
    name="wanda",
    summary="weight times the norm of what it reads, the same share of each output (Wanda)",
    score="wanda",
    allocation="row",
    needs_data=True,
)
RIA = replace(WANDA, name="ria", summary="relative importance and activations (RIA)", score="ria")
WANDA_OWL = replace(
    WANDA, name="wanda-owl", summary="Wanda, fewer where more weights are outliers (OWL)", allocation="owl"
)
MAGNITUDE_ERK = replace(
    MAGNITUDE, name="magnitude-erk", summary="magnitude, more from layers that are wide (ERK)", allocation="erk"
)
MAGNITUDE_LAMP = replace(
    MAGNITUDE,
    name="magnitude-lamp",
    summary="magnitude as a share of what stays in the layer (LAMP)",
    allocation="lamp",
)
