"""Autoformer: season and trend apart, the season mixed at the delays at which it repeats.

Wu et al. 2021, "Autoformer: Decomposition Transformers with Auto-Correlation for Long-Term Series Forecasting";
numerically equal to Time-Series-Library's `Autoformer`, and by configuration to the original, which differs only in
streams of an odd number of steps.

Auto-correlation (section 3.2): a stream meets a memory at a few delays, instead of step by step. No Fourier transform
is needed: delays are chosen and weighed by the mean correlation over all heads and features, which is the sum along the
wrapped diagonals of one matrix product. A memory that is shorter than the stream is continued by zeros, a longer one is
cut.

B batch, Q steps of the stream, S memory steps (at most Q), D width of the stream, M width of the memory, A features of
all heads, N delays to choose from, K chosen delays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from prunecast.kernels import chosen_correlation, linear, rolling_sum, takes_fast_path
from prunecast.models.base import Units
from prunecast.models.layers.blocks import Projections
from prunecast.models.layers.decomposition import (
    DecompositionConfig,
    DecompositionDecoderLayer,
    DecompositionEncoderLayer,
    DecompositionModel,
    Window,
)


class AutoformerConfig(DecompositionConfig):
    """Defaults are the published run's at paper size."""

    name: Literal["autoformer"] = "autoformer"
    moving_avg: Window = Field(25, description="steps of the moving average that gives the trend")
    factor: int = Field(3, ge=1, description="int(factor * ln(steps)) delays are chosen")
    odd_lengths: Literal["resampled", "exact"] = Field(
        "resampled",
        description="streams of an odd number of steps: correlate at one delay less, as Time-Series-Library, or at all",
    )


@dataclass(frozen=True)
class Delays:
    """How delays are chosen and weighed, for streams of one length.

    Attributes:
        steps: of the stream, Q.
        factor: int(factor * ln Q) delays are chosen, and all of them where that is more.
        features: of all heads before any pruning: what the sum over features is divided by.
        resampled: with an odd number of steps the correlation is resampled to one delay less, by an inverse
            transform that is not told the length, as in Time-Series-Library.
    """

    steps: int
    factor: int
    features: int
    resampled: bool = False

    @property
    def candidates(self) -> int:
        """Delays among which is chosen."""
        return self.steps - 1 if self.resampled and self.steps % 2 and self.steps > 1 else self.steps

    @property
    def chosen(self) -> int:
        """Delays that are chosen."""
        return min(int(self.factor * math.log(self.steps)), self.candidates)

    @property
    def plain(self) -> bool:
        """Whether there are any, and each is the sum of one diagonal."""
        return self.chosen > 0 and self.candidates == self.steps


class AutoCorrelation(Projections):
    """Rolls the memory's values by the delays at which stream and memory correlate most, and adds them by weight.

    All heads and features share their delays: per sample in eval mode, and for a whole batch in training.
    """

    resampling_QN: Tensor | None

    def __init__(self, width: int, memory_width: int, heads: int, head_size: int, delays: Delays) -> None:
        super().__init__(width, memory_width, heads, head_size)
        self.delays = delays
        resampling_QN = resampling(delays.steps) if delays.candidates < delays.steps else None
        self.register_buffer("resampling_QN", resampling_QN, persistent=False)

    def forward(self, x_BQD: Tensor, memory_BSM: Tensor) -> Tensor:
        """Returns (B, Q, D)."""
        memory_BSM = memory_BSM[:, : self.delays.steps]
        if self.training and self._merging_pays(x_BQD, memory_BSM):
            return self._mix(x_BQD, *self._merged(memory_BSM)) + self.out.bias
        mixed_BQA = self._mix(self.query(x_BQD), self.key(memory_BSM), self.value(memory_BSM))
        return cast("Tensor", self.out(mixed_BQA))

    def _mix(self, query_BQA: Tensor, key_BSA: Tensor, value_BSA: Tensor) -> Tensor:
        few = takes_fast_path(query_BQA, training=self.training) and self.delays.plain
        choose = partial(chosen_correlation, choose=self._choose) if few else self._choose
        delays_BK, chosen_BK = choose(query_BQA, key_BSA)
        weights_BK = (chosen_BK / self.delays.features).softmax(1)
        if few:
            return rolling_sum(value_BSA, weights_BK, delays_BK, query_BQA.shape[1])
        weights_BQ = query_BQA.new_zeros(query_BQA.shape[:2]).scatter(1, delays_BK, weights_BK)
        return circulant(weights_BQ, key_BSA.shape[1]) @ value_BSA

    def _choose(self, query_BQA: Tensor, key_BSA: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the chosen delays and the correlation at them, summed over all features, both (B, K)."""
        advances_BQ = wrapped_sums(query_BQA @ key_BSA.mT)
        correlation_BN = torch.cat([advances_BQ[:, :1], advances_BQ[:, 1:].flip(1)], dim=1)
        if self.resampling_QN is not None:
            correlation_BN = correlation_BN @ self.resampling_QN.to(correlation_BN.dtype)
        if not self.training:
            chosen_BK, delays_BK = correlation_BN.topk(self.delays.chosen)
            return delays_BK, chosen_BK
        delays_K = correlation_BN.mean(0).topk(self.delays.chosen).indices
        return delays_K.expand(len(correlation_BN), -1), correlation_BN[:, delays_K]

    def _merging_pays(self, x_BQD: Tensor, memory_BSM: Tensor) -> bool:
        """Whether merged layers take fewer multiply-adds."""
        (batch, steps, width), (_, memory_steps, memory_width) = x_BQD.shape, memory_BSM.shape
        features, rows, memory_rows = self.query.out_features, batch * steps, batch * memory_steps
        apart = features * (2 * rows * width + 2 * memory_rows * memory_width + rows * memory_steps)
        merged = width * (2 * memory_width * features + 2 * memory_rows * memory_width + rows * memory_steps)
        return merged < apart

    def _merged(self, memory_BSM: Tensor) -> tuple[Tensor, Tensor]:
        """Returns keys for the stream itself, and values that have been through the output layer, both (B, S, D).

        Heads only share a sum over features, so two layers in a row are one: its weight is their product. That saves
        half of the work on a batch; a single sample would have to pay for the product of the weights.
        """
        key_DM, value_DM = self.query.weight.T @ self.key.weight, self.out.weight @ self.value.weight
        # the query's bias adds the same to every delay, which a softmax does not see: a gradient of zero, not none
        key_bias_D = self.query.weight.T @ self.key.bias + 0 * self.query.bias.sum()
        value_bias_D = self.out.weight @ self.value.bias
        return linear(memory_BSM, key_DM, key_bias_D), linear(memory_BSM, value_DM, value_bias_D)

    def units(self) -> dict[str, Units]:
        """The heads, which choose their delays together."""
        return {"heads": Units("head", gate=("query",))}


def wrapped_sums(matrix_BQS: Tensor) -> Tensor:
    """Returns (B, Q): for each j the sum of the entries (t, t + j), columns wrapped at Q.

    Rows of Q - 1 entries, read on as rows of Q, have those entries below each other.
    """
    batch, steps, memory_steps = matrix_BQS.shape
    if memory_steps == steps:
        body_BQR, last_BQ = matrix_BQS[:, :, :-1], matrix_BQS[:, :, -1]
        return body_BQR.reshape(batch, steps - 1, steps).sum(1) + last_BQ.flip(1)
    zeros = matrix_BQS.new_zeros(batch, steps, steps - 1 - memory_steps)
    return torch.cat([matrix_BQS, zeros], dim=2).view(batch, steps - 1, steps).sum(1)


def circulant(weights_BQ: Tensor, memory_steps: int) -> Tensor:
    """Returns (B, Q, S): at (t, t + j) the j-th weight, columns wrapped at Q."""
    batch, steps = weights_BQ.shape
    return weights_BQ.repeat(1, 2 * steps - 1).view(batch, steps, 2 * steps - 1)[:, :, :memory_steps]


def resampling(steps: int) -> Tensor:
    """Returns (Q, Q - 1): a transform of Q steps and the inverse one to a step less, as one matrix; Q is odd."""
    spectrum = torch.fft.rfft(torch.eye(steps, dtype=torch.float64), dim=1)
    matrix_QN: Tensor = torch.fft.irfft(spectrum, dim=1)
    return matrix_QN


class Autoformer(DecompositionModel):
    """The published encoder-decoder; every width is in its config."""

    Config = AutoformerConfig

    def __init__(self, config: AutoformerConfig) -> None:
        widths, ahead, size = config.encoder_widths, config.decoder_widths, config.size_per_head

        def correlation(width: int, memory_width: int, heads: int, steps: int) -> AutoCorrelation:
            delays = Delays(steps, config.factor, config.n_heads * size, config.odd_lengths == "resampled")
            return AutoCorrelation(width, memory_width, heads, size, delays)

        encoder = (
            DecompositionEncoderLayer(
                config, correlation(widths.width, widths.width, layer.heads, config.lookback), layer.d_ff
            )
            for layer in widths.layers
        )
        steps = config.label_len + config.horizon
        decoder = (
            DecompositionDecoderLayer(
                config,
                correlation(ahead.width, ahead.width, layer.heads, steps),
                correlation(ahead.width, widths.width, layer.cross_heads, steps),
                layer.d_ff,
            )
            for layer in ahead.layers
        )
        super().__init__(config, encoder, decoder, position=False)
