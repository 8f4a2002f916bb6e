"""Contracts of a forecaster: its config, its call, and its prunable structure.

Structure is declared once, by each layer: which units its tensors belong to (`Layer.streams`) and which units are its
own (`Layer.units`). What is removed together follows from that for any model (`Group`).

B batch, L look-back, H horizon, C channels, F calendar features and known covariates, T = label_len + H.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, ClassVar, Literal, NamedTuple, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from prunecast.batch import Batch
from prunecast.errors import UserError
from prunecast.records import GroupKind, Strict

PAPER_OUTPUTS = 7
"""The number of outputs by which the study's code tells an output layer."""

Keep = Mapping[str, Tensor]
"""Group name -> sorted indices (int64) of the units that stay; groups that are not named stay whole."""


class ForecasterConfig(Strict):
    """What every model's config has. Frozen, unknown keys fail; widths after pruning are ordinary values here."""

    name: str
    lookback: int = Field(96, ge=1)
    horizon: int = Field(96, ge=1)
    label_len: int = Field(48, ge=0, description="known steps that a decoder starts from")
    channels: int = Field(ge=1)
    marks: int = Field(4, ge=0, description="F: calendar features and known covariates")
    targets: tuple[int, ...] | None = Field(None, description="channels that are returned; all when absent")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.label_len > self.lookback:
            raise ValueError(f"label_len: expected at most lookback ({self.lookback}), found {self.label_len}")
        if self.targets is not None and not set(self.targets) <= set(range(self.channels)):
            raise ValueError(f"targets: expected channels below {self.channels}, found {self.targets}")
        return self

    @property
    def outputs(self) -> int:
        """How many channels are returned."""
        return self.channels if self.targets is None else len(self.targets)

    def shrunk(self, keep: Keep) -> Self:
        """Returns the config with only the kept units; group names are those of the model's groups."""
        assert not keep, f"{self.name} has no groups"
        return self


def kept(keep: Keep, group: str, size: int) -> int:
    """Returns how many of a group's units stay."""
    return len(keep[group]) if group in keep else size


@dataclass(frozen=True)
class Member:
    """A tensor that a group cuts.

    Attributes:
        name: of a parameter or buffer in the state dict.
        dim: the dimension that is cut.
        index: (size of the group, positions per unit): row u holds the positions along `dim` that unit u owns.
    """

    name: str
    dim: int
    index: Tensor


@dataclass(frozen=True)
class Group:
    """Coupled units that are removed together, across all their members.

    Attributes:
        name: unique in the model, for instance "encoder.layers.0.ffn".
        kind: head, ffn, width, layer, mode or router.
        size: number of units.
        members: what a unit owns; for a layer group empty, see `stack`.
        normalised: the units pass a normalisation over themselves, so that removing one changes its statistics.
        minimum: how many units must stay.
        stack: layer groups only: the module list whose entries are the units.
        softmax_of: the attention whose memory the units are: its softmax goes over those that stay. None elsewhere.
        unused_units: units that never reach the forecast, whatever they hold: the first to go.
        gate: see `Units`.
    """

    name: str
    kind: GroupKind
    size: int
    members: tuple[Member, ...] = ()
    normalised: bool = False
    minimum: int = 1
    stack: str | None = None
    softmax_of: str | None = None
    unused_units: tuple[int, ...] = ()
    gate: tuple[str, ...] = ()


@dataclass(frozen=True)
class Units:
    """Units that a layer has for its own; attributes as those of the `Group` that they become.

    Those of kind layer are the entries of the module list whose name they have.

    A factor on the columns of all weights that read a unit is a gate: 1 leaves the model as it is, 0 removes the unit.
    Where no weight reads the units by columns, or they meet before anything reads them, `gate` names the parts or
    tensors whose rows the factor has to be on too.
    """

    kind: GroupKind
    minimum: int = 1
    softmax_of: str | None = None
    unused_units: tuple[int, ...] = ()
    gate: tuple[str, ...] = ()


Target = str | tuple[str, Tensor]
"""Units by name; with an index (units, positions) where a unit owns other positions than the one of its number."""

Binding = dict[str | int, Target | Sequence[Target]]
"""Of a module: its streams -> units here. Of a tensor: dimension -> units here."""

Streams = Mapping[str, Binding]
"""Name of a module or tensor below a layer -> whose units it reads and writes."""


def reads(units: Target | Sequence[Target]) -> Binding:
    """Says that the units are what a linear layer or convolution reads: they own columns of its weight."""
    return {"inputs": units}


def writes(units: Target | Sequence[Target]) -> Binding:
    """Says that the units are what a linear layer or convolution writes: rows of its weight, entries of its bias."""
    return {"outputs": units}


def unit_index(size: int, positions: int = 1) -> Tensor:
    """Returns the index map (size, positions) of units that own consecutive positions."""
    return torch.arange(size * positions).view(size, positions)


@dataclass(frozen=True, kw_only=True)
class LinearMap:
    """How a layer is a linear map of what it is called with, or several side by side: what a regression needs.

    G maps side by side, N tokens (windows times steps), I inputs and O outputs of each. The result is
    features @ matrix.mT + bias.

    Attributes:
        parameters: names from the layer of what makes up the matrix.
        bias: name from the layer; None where there is none, or where it is a column of the matrix.
        features: the positional arguments of the layer's call -> (G, N, I).
        matrix: tensors of the parameters' shapes, by their names from the layer -> (G, O, I).
        tensors: the way back, from (G, O, I).
    """

    parameters: tuple[str, ...]
    bias: str | None
    features: Callable[..., Tensor]
    matrix: Callable[[Mapping[str, Tensor]], Tensor]
    tensors: Callable[[Tensor], dict[str, Tensor]]


def linear_map(layer: nn.Linear) -> LinearMap:
    """Returns the one map that a linear layer is."""
    return LinearMap(
        parameters=("weight",),
        bias=None if layer.bias is None else "bias",
        features=lambda x: x.reshape(1, -1, x.shape[-1]),
        matrix=lambda tensors: tensors["weight"].unsqueeze(0),
        tensors=lambda matrix_GOI: {"weight": matrix_GOI[0]},
    )


class Counted(NamedTuple):
    """Mean and variance of each unit as counted in training, and what is added to the variance."""

    mean_D: Tensor
    variance_D: Tensor
    epsilon: float


class Layer(nn.Module):
    """A part of a model that says which units its tensors belong to.

    A unit is a position in a stream that layers read and write: a feature of the residual stream, a head, a hidden
    unit. Its rows, columns and entries in all tensors are removed together.
    """

    prunable_weights: ClassVar[tuple[str, ...]] = ()
    """Own parameters whose single weights may be pruned; those of linear layers and convolutions are so already."""

    unprunable: ClassVar[tuple[str, ...]] = ()
    """Parameters of layers below that are never pruned."""

    def streams(self) -> Streams:
        """Returns what the parts of this layer read and write.

        A stream of a part that is not bound is one of this layer's by the same name; those that are neither bound on
        the way up nor anybody's units are not cut. Members come in the order of this mapping; parts that are not in it
        (layers below with streams of their own) keep their place between the parts that are.
        """
        return {}

    def units(self) -> Mapping[str, Units]:
        """Returns the units that no layer above has: name, which the group's ends in -> what they are."""
        return {}

    def unused(self) -> tuple[str, ...]:
        """Returns the names, from here, of the parameters that never reach the forecast."""
        return ()

    scales_units: ClassVar[bool] = False
    """Whether the last it does is to scale each unit by its `weight` and to shift it by its `bias`, as LayerNorm."""

    def counted(self) -> Counted | None:
        """Returns what this layer has counted in training and standardises its units by in eval mode, if it does so."""
        return None

    def linear_maps(self) -> Mapping[str, LinearMap]:
        """Returns the linear maps that this layer computes itself: name -> map; its linear layers below are known."""
        return {}

    def unit_energies(self, *arguments: Any) -> Mapping[str, Tensor]:
        """Returns the mean square of what each unit adds to what this layer gives when it is called with `arguments`.

        Group name -> (U,), for the groups whose units add up in what this layer gives, as Fourier modes do.
        """
        return {}


_OF_TORCH: Mapping[type[nn.Module], Streams] = {
    nn.Linear: {"weight": {0: "outputs", 1: "inputs"}, "bias": {0: "outputs"}},
    nn.Conv1d: {"weight": {0: "outputs", 1: "inputs"}, "bias": {0: "outputs"}},
    nn.LayerNorm: {"weight": {0: "stream"}, "bias": {0: "stream"}},
}
"""What layers of torch read and write."""


def groups_of(model: Layer) -> tuple[Group, ...]:
    """Returns the groups of a model, from what its layers declare."""
    units: dict[str, Units] = {}
    members = _collect(model, "", units)
    return tuple(_group(model, name, own, tuple(members.get(name, ()))) for name, own in units.items())


def _group(model: nn.Module, name: str, own: Units, members: tuple[Member, ...]) -> Group:
    if own.kind == "layer":
        size = len(cast("nn.ModuleList", model.get_submodule(name)))
        return Group(name, "layer", size, minimum=own.minimum, stack=name, unused_units=own.unused_units)
    assert members, f"{name}: no layer reads or writes these units"
    size = len(members[0].index)
    holders = {member.name.rpartition(".")[0] for member in members}
    return Group(
        name=name,
        kind=own.kind,
        size=size,
        members=members,
        normalised=any(isinstance(model.get_submodule(holder), nn.LayerNorm) for holder in holders),
        minimum=min(own.minimum, size),
        softmax_of=own.softmax_of,
        unused_units=own.unused_units,
        gate=own.gate,
    )


def _collect(module: nn.Module, prefix: str, units: dict[str, Units]) -> dict[str, list[Member]]:
    """Returns what the units of each stream of a module own in it.

    Its own units are added to `units` under their full names, which begin with `prefix`.
    """
    found: dict[str, list[Member]] = {}
    for name, binding in _parts(module):
        part, below = attrgetter(name)(module), cast("Mapping[Any, list[Member]]", {})
        if isinstance(part, Tensor):
            below = {
                dim: [Member(prefix + name, dim, unit_index(part.shape[dim]))] for dim in cast("Iterable[int]", binding)
            }
        elif part is not None:  # a part may be absent
            below = _collect(part, f"{prefix}{name}.", units)
        for stream, members in below.items():
            if stream not in binding and stream in {"inputs", "outputs"}:
                continue  # nobody says whose units a linear layer reads or writes
            target = binding.get(stream, stream)
            for one in target if isinstance(target, list) else [cast("Target", target)]:
                unit, index = (one, None) if isinstance(one, str) else one
                cut = members if index is None else [replace(member, index=index) for member in members]
                found.setdefault(unit, []).extend(cut)
    for name, own in module.units().items() if isinstance(module, Layer) else ():
        units[prefix + name] = replace(own, softmax_of=own.softmax_of and prefix + own.softmax_of)
        if prefix and name in found:
            found[prefix + name] = found.pop(name)
    return found


def _parts(module: nn.Module) -> Iterator[tuple[str, Binding]]:
    """Yields the parts of a module and what they are bound to, in the order of `Layer.streams`."""
    of_torch = (streams for kind, streams in _OF_TORCH.items() if isinstance(module, kind))
    declared = module.streams() if isinstance(module, Layer) else next(of_torch, {})
    place = {name: number for number, (name, _) in enumerate(module.named_children())}
    roots = {name.partition(".")[0] for name in declared}
    others = [name for name in place if name not in roots]
    for name, binding in declared.items():
        while others and place[others[0]] < place.get(name.partition(".")[0], 0):
            yield others.pop(0), {}
        yield name, binding
    yield from ((name, {}) for name in others)


class ForecastModel(Layer, ABC):
    """A model of the house: standardised values in, standardised values out; deterministic in eval mode."""

    Config: ClassVar[type[ForecasterConfig]]
    uses_marks: ClassVar[bool] = False
    """Whether calendar features and known covariates reach the forecast."""
    trainable: ClassVar[bool] = True
    """False for the naive forecasts: there is nothing to fit."""

    last_layer_computes: ClassVar[Literal["first", "last", "all"]] = "last"
    """Which steps the last layer of a stack computes, where it leaves out those that nobody reads."""

    learning_rate: ClassVar[float] = 1e-4
    """What it is trained at when the recipe says nothing: the published rate."""

    def __init__(self, config: ForecasterConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, x_BLC: Tensor, x_mark_BLF: Tensor | None = None, y_mark_BTF: Tensor | None = None) -> Tensor:
        """Returns y_BHC, C the channels that are returned; the decoder input, where there is one, is built inside.

        Raises:
            UserError: when a shape is not the one of the config; of the marks that a model uses, those may be left out
                of which the config has none.
        """

    def prunable(self) -> tuple[str, ...]:
        """Names of the parameters whose single weights may be pruned, the output layer's included.

        The weights of linear layers and convolutions, and what other layers declare; no bias, no normalisation, nothing
        that never reaches the forecast.
        """
        spared = {*self.unused_parameters()}
        names = []
        for name, module in self.named_modules():
            prefix = f"{name}." if name else ""
            if isinstance(module, Layer):
                names += [prefix + weight for weight in module.prunable_weights]
                spared.update(prefix + weight for weight in module.unprunable)
            elif isinstance(module, nn.Linear | nn.Conv1d):
                names.append(f"{prefix}weight")
        return tuple(name for name in names if name not in spared)

    def output_layer(self) -> tuple[str, ...]:
        """Names among `prunable` that make up the output layer; `candidates: body` leaves them alone."""
        return ()

    def paper_candidates(self) -> tuple[str, ...]:
        """Names among `prunable` that arXiv 2412.12883 pruned: linear layers and convolutions but those of 7 outputs.

        Its code tells output layers by that number, so it spares them on data of 7 channels and on no other.
        """
        return tuple(name for name in self.prunable() if self.get_parameter(name).shape[0] != PAPER_OUTPUTS)

    def unused_parameters(self) -> tuple[str, ...]:
        """Names of the parameters that never reach the forecast: kept, since the published model has them."""
        layers = ((name, module) for name, module in self.named_modules() if isinstance(module, Layer))
        return tuple(f"{name}.{unused}".removeprefix(".") for name, layer in layers for unused in layer.unused())

    def groups(self) -> tuple[Group, ...]:
        """The prunable structure; every group can be cut without touching another."""
        return groups_of(self)

    def shrunk_config(self, keep: Keep) -> ForecasterConfig:
        """Returns the config of the smaller model that remains when only `keep` stays."""
        return self.config.shrunk(keep)

    def emptied(self, keep: Keep) -> ForecastModel:
        """Returns the smaller model that remains when only `keep` stays, of this device and type; to be filled."""
        small, mine = blank(self.shrunk_config(keep)), next(self.parameters())
        theirs = next(small.parameters())
        alike = (theirs.device, theirs.dtype) == (mine.device, mine.dtype)
        return small if alike else small.to(mine.device, mine.dtype)

    def maps_of_part(self, name: str, part: nn.Module) -> Mapping[str, LinearMap]:
        """Returns the linear maps that a layer below computes which is not of the house: name -> map."""
        return {"": linear_map(part)} if isinstance(part, nn.Linear) else {}

    def select(self, y_BHC: Tensor) -> Tensor:
        """Returns the target channels of a forecast of all channels."""
        if self.config.targets is None:
            return y_BHC
        return y_BHC[..., list(self.config.targets)]


class TrainingHook:
    """What may take part in the training loop: held masks, schedules, movement, distillation.

    A hook has those of these methods that it needs; the others do nothing.
    """

    def on_start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Called once, before the first step (also after a resume, when `restore` came before)."""

    def loss(self, forecast_BHC: Tensor, batch: Batch, loss: Tensor) -> Tensor:
        """Returns the loss to minimise, given the model's forecast of a batch and the loss so far."""
        return loss

    def after_backward(self, step: int) -> None:
        """Called when gradients are there, before the optimiser's step; steps are counted from 0."""

    def after_step(self, step: int) -> None:
        """Called after the optimiser's step."""

    def settled(self, steps: int) -> bool:
        """Whether the weights after so many steps may be those that the run ends with: an epoch before is no best."""
        return True

    def state(self) -> dict[str, Tensor]:
        """Returns the tensors that a checkpoint must keep."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave."""


def build(config: ForecasterConfig) -> ForecastModel:
    """Returns the untrained model of a config; weights are drawn from torch's default generator."""
    from prunecast.registry import MODELS

    model: ForecastModel = MODELS.load(config.name)(config)
    return model


def blank(config: ForecasterConfig) -> ForecastModel:
    """Returns the model of a config with parameters of zero: for those who count, or who have values of their own.

    No parameter is drawn, and torch's default generator is put back. A model without memory (`outline`) would do for
    counting, but what torch imports for one takes seconds.
    """
    with torch.random.fork_rng(devices=[]), _Undrawn():
        model = build(config)
    for parameter in model.parameters():
        parameter.data.zero_()
    return model


def outline(config: ForecasterConfig) -> ForecastModel:
    """Returns the blank model of a config that nobody has vouched for: on the meta device no width takes memory.

    Raises:
        UserError: when a length or a width is beyond what a tensor can have.
    """
    try:
        with torch.device("meta"):
            return blank(config)
    except (RuntimeError, OverflowError, TypeError):  # what torch raises for sizes beyond 64 bits
        raise UserError("model: expected lengths and widths that a tensor can have, found larger ones") from None


class _Undrawn(TorchFunctionMode):
    """Gives zeros in the place of random numbers, and leaves tensors as they are that would be filled with them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS or getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        if func in _NEW:
            return torch.zeros(*args, **{name: value for name, value in kwargs.items() if name != "generator"})
        return func(*args, **kwargs)


_NEW = frozenset({torch.rand, torch.randn})
_DRAWS = frozenset({Tensor.normal_, Tensor.uniform_})


def input_shapes(config: ForecasterConfig) -> dict[str, tuple[int, int]]:
    """Returns the steps and features of x, x_mark and y_mark, in this order."""
    return {
        "x": (config.lookback, config.channels),
        "x_mark": (config.lookback, config.marks),
        "y_mark": (config.label_len + config.horizon, config.marks),
    }


def example_inputs(config: ForecasterConfig, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Returns x_BLC, x_mark_BLF and y_mark_BTF of zeros, in the shapes that a model of this config takes."""
    x_BLC, x_mark_BLF, y_mark_BTF = (torch.zeros(batch, *shape) for shape in input_shapes(config).values())
    return x_BLC, x_mark_BLF, y_mark_BTF


def config_from(values: Mapping[str, Any]) -> ForecasterConfig:
    """Returns the checked config of a `model` section that is whole (channels and marks included).

    Raises:
        UserError: on an unknown model, an unknown key or a value out of range.
    """
    from prunecast.recipe import checked
    from prunecast.registry import MODELS

    name = str(values.get("name", "transformer"))
    config: ForecasterConfig = checked(MODELS.load(name).Config, values, "model")
    return config


def check_inputs(config: ForecasterConfig, x_BLC: Tensor, *marks: Tensor | None) -> None:
    """Checks the inputs of a model: the look-back, and of `x_mark_BLF` and `y_mark_BTF` as many as it uses.

    Raises:
        UserError: when a shape is not the one of the config; marks may be left out only where it has none.
    """
    for (name, (steps, features)), tensor in zip(input_shapes(config).items(), (x_BLC, *marks), strict=False):
        if tensor is None and features:
            raise UserError(f"{name}: expected calendar features (batch, {steps}, {features}), found none")
        if tensor is not None and tuple(tensor.shape[1:]) != (steps, features):
            raise UserError(f"{name}: expected (batch, {steps}, {features}), found {tuple(tensor.shape)}")


def decoder_input(config: ForecasterConfig, x_BLC: Tensor) -> Tensor:
    """Returns (B, T, C): the last `label_len` steps of the look-back, then zeros."""
    known = x_BLC[:, config.lookback - config.label_len :]
    return torch.cat([known, x_BLC.new_zeros(x_BLC.shape[0], config.horizon, x_BLC.shape[2])], dim=1)
