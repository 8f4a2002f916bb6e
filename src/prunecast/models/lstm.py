"""A small LSTM: it reads the look-back step by step, and its last state gives the whole horizon at once.

Hochreiter and Schmidhuber 1997, "Long Short-Term Memory", with the forget gates of Gers et al. 2000, "Learning to
Forget", section 3; the direct forecast of all steps from the last state is the usual baseline of the field. Windows are
forecast in units of their own deviation (Kim et al. 2022, "Reversible Instance Normalization") unless told otherwise.
The calendar features of the look-back are read beside the channels; those of the horizon are not used.

B batch, L look-back, H horizon, C channels, O targets, F calendar features and known covariates,
I inputs of a layer, U units of a layer.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from prunecast.kernels import Dropout, Linear
from prunecast.models.base import (
    ForecasterConfig,
    ForecastModel,
    Keep,
    Layer,
    LinearMap,
    Streams,
    Units,
    check_inputs,
    kept,
    reads,
    unit_index,
    writes,
)
from prunecast.models.layers.transforms import standardised

GATES = 4
"""Input, forget, cell and output, in this order."""


class LSTMConfig(ForecasterConfig):
    """Defaults make a model of about 80,000 weights for 7 channels and 96 steps."""

    name: Literal["lstm"] = "lstm"
    d_model: int = Field(64, ge=1, description="width of the embedding and units of each layer")
    encoder_layers: int = Field(1, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1, description="of the embedding and of what each layer hands on")
    instance_norm: bool = Field(True, description="forecast each window in units of its own deviation")
    embedding: int | None = Field(None, ge=1, description="width after pruning; d_model when absent")
    units: tuple[int, ...] | None = Field(None, description="of each layer after pruning; d_model when absent")

    @model_validator(mode="after")
    def _units_fit(self) -> Self:
        if self.units is not None and len(self.units) != self.encoder_layers:
            raise ValueError(f"encoder_layers: expected {len(self.units)}, as units, found {self.encoder_layers}")
        if min(self.layer_units) < 1:
            raise ValueError(f"units: expected at least 1 in each layer, found {list(self.layer_units)}")
        return self

    @property
    def embedding_width(self) -> int:
        """Width of the embedding, given or derived."""
        return self.embedding or self.d_model

    @property
    def layer_units(self) -> tuple[int, ...]:
        """Units of each layer, given or derived."""
        return self.units or (self.d_model,) * self.encoder_layers

    def shrunk(self, keep: Keep) -> Self:
        """Returns the config with the widths that `keep` leaves."""
        units = tuple(kept(keep, f"layers.{i}.units", size) for i, size in enumerate(self.layer_units))
        embedding = kept(keep, "embedding.width", self.embedding_width)
        return self.model_copy(update={"embedding": embedding, "units": units})


class LSTMLayer(Layer):
    """One layer of cells, from the first step to the last, starting from zeros."""

    prunable_weights = ("input_weight", "recurrent_weight")
    no_bias: Tensor

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.input_weight = nn.Parameter(torch.empty(GATES * units, width))
        self.recurrent_weight = nn.Parameter(torch.empty(GATES * units, units))
        self.bias = nn.Parameter(torch.empty(GATES * units))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(units), 1 / math.sqrt(units))
        # torch's operator adds a second bias, which would say nothing new
        self.register_buffer("no_bias", torch.zeros(GATES * units), persistent=False)

    def forward(self, x_BLI: Tensor) -> Tensor:
        """Returns the state after each step, (B, L, U)."""
        zeros_1BU = x_BLI.new_zeros(1, x_BLI.shape[0], self.recurrent_weight.shape[1])
        weights = [self.input_weight, self.recurrent_weight, self.bias, self.no_bias]
        states_BLU, _, _ = torch.lstm(x_BLI, (zeros_1BU, zeros_1BU), weights, True, 1, 0.0, self.training, False, True)
        return states_BLU

    def linear_maps(self) -> dict[str, LinearMap]:
        """Returns the map from each step's input, and the state before it, to the gates."""
        width = self.input_weight.shape[1]
        names = ("input_weight", "recurrent_weight")

        def features(x_BLI: Tensor) -> Tensor:
            states_BLU = self.forward(x_BLI)
            before_BLU = torch.cat([torch.zeros_like(states_BLU[:, :1]), states_BLU[:, :-1]], dim=1)
            return torch.cat([x_BLI, before_BLU], dim=2).flatten(0, 1).unsqueeze(0)

        return {
            "": LinearMap(
                parameters=names,
                bias="bias",
                features=features,
                matrix=lambda tensors: torch.cat([tensors[name] for name in names], dim=1).unsqueeze(0),
                tensors=lambda matrix_1OI: dict(zip(names, matrix_1OI[0].tensor_split([width], dim=1), strict=True)),
            )
        }

    def streams(self) -> Streams:
        """A unit has its row in every gate and its column of the recurrence; the layer below is read by columns."""
        rows = ("units", unit_index(GATES, self.recurrent_weight.shape[1]).T)
        return {
            "input_weight": {0: rows, 1: "below"},
            "recurrent_weight": {0: rows, 1: "units"},
            "bias": {0: rows},
        }


class LSTM(ForecastModel):
    """Embedding of each step, layers of cells, linear map from the last state to the whole horizon."""

    Config = LSTMConfig
    uses_marks = True
    learning_rate = 1e-3
    config: LSTMConfig

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        widths = (config.embedding_width, *config.layer_units)
        self.embedding = Linear(config.channels + config.marks, widths[0])
        self.layers = nn.ModuleList(LSTMLayer(*pair) for pair in pairwise(widths))
        self.head = Linear(widths[-1], config.horizon * config.outputs)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BLC: Tensor, x_mark_BLF: Tensor | None = None, y_mark_BTF: Tensor | None = None) -> Tensor:
        """Returns the forecast (B, H, O); the marks of the horizon are not used."""
        check_inputs(self.config, x_BLC, x_mark_BLF)
        if not self.config.instance_norm:
            return self._forecast(x_BLC, x_mark_BLF)
        x_BLC, mean_B1C, std_B1C = standardised(x_BLC)
        return self._forecast(x_BLC, x_mark_BLF) * self.select(std_B1C) + self.select(mean_B1C)

    def _forecast(self, x_BLC: Tensor, mark_BLF: Tensor | None) -> Tensor:
        features = x_BLC if mark_BLF is None else torch.cat([x_BLC, mark_BLF], dim=2)
        x_BLU = self.embedding(features)
        for layer in self.layers:
            x_BLU = layer(self.dropout(x_BLU))
        return cast("Tensor", self.head(self.dropout(x_BLU[:, -1])).unflatten(1, (self.config.horizon, -1)))

    def output_layer(self) -> tuple[str, ...]:
        """The map from the last state to the horizon."""
        return ("head.weight",)

    def streams(self) -> Streams:
        """Each layer reads the one below; the head reads the last."""
        names = list(self.units())
        layers: Streams = {
            f"layers.{layer}": {"below": below, "units": units} for layer, (below, units) in enumerate(pairwise(names))
        }
        return {"embedding": writes(names[0]), **layers, "head": reads(names[-1])}

    def units(self) -> dict[str, Units]:
        """The width of the embedding and the units of each layer; a unit without weights stays at zero."""
        names = ("embedding.width", *(f"layers.{layer}.units" for layer in range(len(self.layers))))
        return dict.fromkeys(names, Units("width"))
