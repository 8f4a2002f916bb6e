"""Auto-correlation: a stream meets a memory at a few delays, instead of step by step.

Wu et al. 2021, "Autoformer: Decomposition Transformers with Auto-Correlation for Long-Term Series Forecasting",
section 3.2. No Fourier transform is needed: delays are chosen and weighed by the mean correlation over all heads and
features, which is the sum along the wrapped diagonals of one matrix product; to roll by those delays, weigh and add is
the product with a circulant matrix of as many diagonals. A memory shorter than the stream is continued by zeros, a longer
one is cut.

B batch, Q steps of the stream, S memory steps (at most Q), D width of the stream, M width of the memory, A features of
all heads, N delays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from prunecast.models.api import Group, Member
from prunecast.models.layers.coupling import inputs, outputs, unit_index
from prunecast.models.layers.linear import Linear, linear


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


class AutoCorrelation(nn.Module):
    """Rolls the memory's values by the delays at which stream and memory correlate most, and adds them by weight.

    All heads and features share their delays: per sample in eval mode, and for a whole batch in training.
    """

    resampling_QN: Tensor | None

    def __init__(self, width: int, memory_width: int, heads: int, head_size: int, delays: Delays) -> None:
        super().__init__()
        self.heads, self.head_size, self.delays = heads, head_size, delays
        self.query = Linear(width, heads * head_size)
        self.key = Linear(memory_width, heads * head_size)
        self.value = Linear(memory_width, heads * head_size)
        self.out = Linear(heads * head_size, width)
        resampling_QN = resampling(delays.steps) if delays.candidates < delays.steps else None
        self.register_buffer("resampling_QN", resampling_QN, persistent=False)

    def forward(self, x_BQD: Tensor, memory_BSM: Tensor) -> Tensor:
        """Returns (B, Q, D)."""
        memory_BSM = memory_BSM[:, : self.delays.steps]
        if self.training and self._merging_pays(x_BQD, memory_BSM):
            key_BSD, value_BSD = self._merged(memory_BSM)
            return self._mix(x_BQD, key_BSD, value_BSD) + self.out.bias
        mixed_BQA = self._mix(self.query(x_BQD), self.key(memory_BSM), self.value(memory_BSM))
        return cast("Tensor", self.out(mixed_BQA))

    def _mix(self, query_BQA: Tensor, key_BSA: Tensor, value_BSA: Tensor) -> Tensor:
        sums, matrix = (_differentiable_sums, _differentiable_circulant) if self.training else (wrapped_sums, circulant)
        weights_BQ = self._weights(backwards(sums(query_BQA @ key_BSA.mT)) / self.delays.features)
        return matrix(weights_BQ, key_BSA.shape[1]) @ value_BSA

    def _weights(self, correlation_BQ: Tensor) -> Tensor:
        """Returns the weight of each delay, zero for those that are not chosen."""
        if self.resampling_QN is None:
            correlation_BN = correlation_BQ
        else:
            correlation_BN = correlation_BQ @ self.resampling_QN.to(correlation_BQ.dtype)
        if self.training:
            delays_K = correlation_BN.mean(0).topk(self.delays.chosen).indices
            chosen_BK, delays_BK = correlation_BN[:, delays_K], delays_K.expand(len(correlation_BN), -1)
        else:
            chosen_BK, delays_BK = correlation_BN.topk(self.delays.chosen)
        return torch.zeros_like(correlation_BQ).scatter(1, delays_BK, chosen_BK.softmax(1))

    def _merging_pays(self, x_BQD: Tensor, memory_BSM: Tensor) -> bool:
        """Whether merged layers take fewer multiply-adds in training."""
        (batch, steps, width), (_, memory_steps, memory_width) = x_BQD.shape, memory_BSM.shape
        features = self.query.out_features
        apart = 2 * batch * features * (steps * width + memory_steps * (memory_width + steps))
        merged = 2 * width * (memory_width * features + batch * memory_steps * (memory_width + steps))
        return merged < apart

    def _merged(self, memory_BSM: Tensor) -> tuple[Tensor, Tensor]:
        """Returns keys for the stream itself, and values that have been through the output layer, both (B, S, D).

        Heads only share a sum over features, so two layers in a row are one: its weight is their product. That saves
        half of the work on a batch. One sample would have to pay the products of the weights alone.
        """
        into_DA = torch.stack([self.query.weight.T, self.out.weight])
        from_AM = torch.stack([self.key.weight, self.value.weight])
        bias_A1 = torch.stack([self.key.bias, self.value.bias]).unsqueeze(2)
        weight, bias = (into_DA @ from_AM).flatten(0, 1), (into_DA @ bias_A1).flatten()
        # the query's bias adds the same to every delay, which a softmax does not see: a gradient of zero, not none
        bias = bias + 0 * self.query.bias.sum()
        key_BSD, value_BSD = linear(memory_BSM, weight, bias).chunk(2, dim=2)
        return key_BSD, value_BSD

    def groups(self, name: str) -> tuple[Group, ...]:
        """Returns the group of this layer's heads."""
        index = unit_index(self.heads, self.head_size)
        written = (member for part in ("query", "key", "value") for member in outputs(f"{name}.{part}", index))
        return (Group(f"{name}.heads", "head", self.heads, (*written, *inputs(f"{name}.out", index))),)

    def width_members(self, name: str) -> tuple[Member, ...]:
        """Returns what each unit of the stream owns here."""
        index = unit_index(self.query.in_features)
        return (*inputs(f"{name}.query", index), *outputs(f"{name}.out", index))

    def memory_members(self, name: str) -> tuple[Member, ...]:
        """Returns what each unit of the memory's stream owns here."""
        index = unit_index(self.key.in_features)
        return (*inputs(f"{name}.key", index), *inputs(f"{name}.value", index))


def wrapped_sums(matrix_BQS: Tensor) -> Tensor:
    """Returns (B, Q): for each j the sum of the entries (t, t + j), columns wrapped at Q.

    Rows that are 2 Q - 1 long, read as rows of Q, have those entries below each other.
    """
    batch, steps, memory_steps = matrix_BQS.shape
    zeros = matrix_BQS.new_zeros(batch, steps, 2 * steps - 1 - memory_steps)
    return torch.cat([matrix_BQS, zeros], dim=2).view(batch, 2 * steps - 1, steps).sum(1)


def circulant(weights_BQ: Tensor, memory_steps: int) -> Tensor:
    """Returns (B, Q, S): at (t, t + j) the j-th weight, columns wrapped at Q; what it sums, `wrapped_sums` spreads."""
    batch, steps = weights_BQ.shape
    return weights_BQ.repeat(1, 2 * steps - 1).view(batch, steps, 2 * steps - 1)[:, :, :memory_steps]


def backwards(x_BQ: Tensor) -> Tensor:
    """Returns x[-j] at j, wrapped: delays for advances and the other way round."""
    return torch.cat([x_BQ[:, :1], x_BQ[:, 1:].flip(1)], dim=1)


def resampling(steps: int) -> Tensor:
    """Returns (Q, Q - 1): the inverse transform to one step less of a transform, as one matrix; Q is odd."""
    spectrum = torch.fft.rfft(torch.eye(steps, dtype=torch.float64), dim=1)
    matrix_QN: Tensor = torch.fft.irfft(spectrum, dim=1)
    return matrix_QN


def _differentiable_sums(matrix_BQS: Tensor) -> Tensor:
    return cast("Tensor", _WrappedSums.apply(matrix_BQS))  # type: ignore[no-untyped-call]


def _differentiable_circulant(weights_BQ: Tensor, memory_steps: int) -> Tensor:
    return cast("Tensor", _Circulant.apply(weights_BQ, memory_steps))  # type: ignore[no-untyped-call]


class _WrappedSums(torch.autograd.Function):
    """`wrapped_sums` and its gradient, which is a circulant matrix."""

    @staticmethod
    def forward(ctx: Any, matrix_BQS: Tensor) -> Tensor:
        ctx.memory_steps = matrix_BQS.shape[2]
        return wrapped_sums(matrix_BQS)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BQ: Tensor) -> Tensor:
        return circulant(gradient_BQ, ctx.memory_steps)


class _Circulant(torch.autograd.Function):
    """`circulant` and its gradient, which sums along the diagonals."""

    @staticmethod
    def forward(ctx: Any, weights_BQ: Tensor, memory_steps: int) -> Tensor:
        return circulant(weights_BQ, memory_steps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BQS: Tensor) -> tuple[Tensor, None]:
        return wrapped_sums(gradient_BQS), None
