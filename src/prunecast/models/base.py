"""Contracts of a forecaster: its config, its call, and its prunable structure.

B batch, L look-back, H horizon, C channels, F calendar features and known covariates, T = label_len + H.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from prunecast.batch import Batch
from prunecast.records import GroupKind, Strict

PAPER_OUTPUTS = 7
"""The number of outputs by which the study's code tells an output layer."""


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
        attended: the attention whose memory the units are: its softmax goes over those that stay. None elsewhere.
        unused_units: units that never reach the forecast, whatever they hold: the first to go.
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


Keep = Mapping[str, Tensor]
"""Group name -> sorted indices (int64) of the units that stay; groups that are not named stay whole."""


class ForecastModel(nn.Module, ABC):
    """A model of the house: standardised values in, standardised values out; deterministic in eval mode."""

    Config: ClassVar[type[ForecasterConfig]]
    uses_marks: ClassVar[bool] = False
    """Whether calendar features and known covariates reach the forecast."""
    trainable: ClassVar[bool] = True
    """False for the naive forecasts: there is nothing to fit."""

    learning_rate: ClassVar[float] = 1e-4
    """What it is trained at when the recipe says nothing: the published rate."""

    config: ForecasterConfig

    @abstractmethod
    def forward(self, x_BLC: Tensor, x_mark_BLF: Tensor | None = None, y_mark_BTF: Tensor | None = None) -> Tensor:
        """Returns y_BHC; the decoder input, where there is one, is built inside."""

    def prunable(self) -> tuple[str, ...]:
        """Names of the parameters whose single weights may be pruned, the output layer's included."""
        return ()

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
        return ()

    def groups(self) -> tuple[Group, ...]:
        """The prunable structure; every group can be cut without touching another."""
        return ()

    def shrunk_config(self, keep: Keep) -> ForecasterConfig:
        """Returns the config of the smaller model that remains when only `keep` stays."""
        assert not keep, f"{type(self).__name__} declares no groups"
        return self.config

    def select(self, y_BHC: Tensor) -> Tensor:
        """Returns the target channels of a forecast of all channels."""
        if self.config.targets is None:
            return y_BHC
        return y_BHC[..., list(self.config.targets)]


class TrainingHook(Protocol):
    """What may take part in the training loop: held masks, schedules, movement, distillation."""

    def on_start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Called once, before the first step (also after a resume)."""

    def loss(self, model: nn.Module, batch: Batch, loss: Tensor) -> Tensor:
        """Returns the loss to minimise, given the plain one."""

    def after_backward(self, step: int) -> None:
        """Called when gradients are there, before the optimiser's step."""

    def after_step(self, step: int) -> None:
        """Called after the optimiser's step."""

    def state(self) -> dict[str, Tensor]:
        """Tensors that a checkpoint must keep."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave."""


def build(config: ForecasterConfig) -> ForecastModel:
    """Returns the untrained model of a config; weights are drawn from torch's default generator."""
    from prunecast.registry import MODELS

    model: ForecastModel = MODELS.load(config.name)(config)
    return model


def blank(config: ForecasterConfig) -> ForecastModel:
    """Returns the model of a config with parameters of zero: for those who count, or who have values of their own.

    No parameter is drawn, and torch's default generator is put back. A model without memory (on torch's meta device)
    would do for counting, but what torch imports for one takes seconds.
    """
    with torch.random.fork_rng(devices=[]), _Undrawn():
        model = build(config)
    for parameter in model.parameters():
        parameter.data.zero_()
    return model


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


def example_inputs(config: ForecasterConfig, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Returns x_BLC, x_mark_BLF and y_mark_BTF of zeros, in the shapes that a model of this config takes."""
    steps = config.label_len + config.horizon
    return (
        torch.zeros(batch, config.lookback, config.channels),
        torch.zeros(batch, config.lookback, config.marks),
        torch.zeros(batch, steps, config.marks),
    )


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
