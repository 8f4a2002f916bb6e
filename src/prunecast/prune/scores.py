"""What a weight, or a unit of coupled weights, is worth. Scores are pure: what matters more scores higher.

Scores of units that look at data estimate how much the loss rises when a unit is removed: the mean squared error
against what came, as in training, in eval mode. Estimates of all groups are in this one unit, so they compare across
kinds. They see the loss as a function of gates, a factor for each unit: 1 as the model is, 0 as if the unit were
removed. A gate is

- on the columns of the weights that read the unit: what reads a unit's output times the gate. So it is for feed-forward
  units, heads, and the width of a stream. (A factor on both what a unit reads and what it gives would count twice.)
- on the rows that the model names (`Units.gate`) where units meet before anything reads them, as heads do that choose
  their delays together, or where nothing reads them by columns;
- in each normalisation over the units, whose mean and variance weigh them by their gates: of the features of a stream
  that are left it takes the statistics over those that are left, and their slope counts;
- in the softmax over the units, whose weights are multiplied by the gates before they are normalised.

B batch, N windows, U units of a group, D features of a norm.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from prunecast.batch import Batch
from prunecast.errors import UserError
from prunecast.kernels import plain_operators
from prunecast.models.base import ForecastModel, Group, Member
from prunecast.prune.methods import Scores, Statistics
from prunecast.prune.regression import MapName, maps_of
from prunecast.prune.shrink import shrink
from prunecast.records import GroupKind

DECAY = 0.2
"""Weight of the newest batch in a moving average; the published runs choose among 0.1, 0.2, 0.4, 0.5 and 0.8."""

MODULES: tuple[GroupKind, ...] = ("head", "ffn")
"""Kinds of units that together are a module which adds to a stream: without all of them it adds a constant."""

HARMLESS = 1e-9
"""Increase of the loss that a module is taken to make which makes none: its units keep their order."""

GateValues = Mapping[str, Tensor]
"""Group name -> the factor of each unit (U,)."""

SIDE_BY_SIDE = 2**25
"""Numbers in the gradients of the weights that windows have on the way, each its own, when slopes of several are
computed at once: 128 MB."""


def magnitude(model: ForecastModel, statistics: Statistics) -> Scores:
    """Scores each prunable weight w with abs(w) (Han et al. 2015, "Learning both weights and connections")."""
    return {name: model.get_parameter(name).detach().abs() for name in model.prunable()}


def random(model: ForecastModel, statistics: Statistics) -> Scores:
    """Scores each prunable weight with a uniform draw, the same for a seed on every device."""
    generator = torch.Generator().manual_seed(statistics.seed)
    weights = {name: model.get_parameter(name) for name in model.prunable()}
    return {name: torch.rand(weight.shape, generator=generator).to(weight.device) for name, weight in weights.items()}


def movement(model: ForecastModel, statistics: Statistics) -> Scores:
    """Scores each prunable weight with what training has summed up (Sanh et al. 2020, "Movement pruning").

    Raises:
        UserError: when nothing was: the score has a meaning in training alone.
    """
    if statistics.accumulated is None:
        raise UserError("the score 'movement' sums up over training, expected a method with a schedule, found none")
    return statistics.accumulated


def unit_magnitude(model: ForecastModel, statistics: Statistics) -> Scores:
    """Scores each unit with the L2 norm over all it owns, so scaled that groups compare.

    The norm is taken per weight (root mean square), then divided by the mean of its group: 1 is a unit as
    strong as its neighbours, whatever its kind.
    """
    unused = set(model.unused_parameters())  # what they hold says nothing about a unit
    every = model.named_parameters(remove_duplicate=False)
    weights = {name: weight.detach() for name, weight in every if name not in unused}
    scores = {}
    for group in model.groups():
        squares, counts = _entry_sums(group.stack, group.size, weights) if group.stack else _unit_sums(group, weights)
        strength = torch.where(counts > 0, squares / counts, 1).sqrt()  # units without weights are worth the same
        scores[group.name] = strength / strength.mean().clamp_min(torch.finfo(strength.dtype).tiny)
    return scores


def unit_random(model: ForecastModel, statistics: Statistics) -> Scores:
    """Scores each unit with a uniform draw."""
    generator = torch.Generator().manual_seed(statistics.seed)
    return {group.name: torch.rand(group.size, generator=generator) for group in model.groups()}


def unit_taylor(model: ForecastModel, statistics: Statistics) -> Scores:
    """Scores each unit with the size of the mean slope of the loss by its gate (Molchanov et al. 2019).

    That is the first-order estimate of what its removal changes. Layers, which have no gate, score what theirs adds.
    """
    slopes = _slopes(model, statistics)
    first_order = {name: torch.cat(parts).mean(0).abs() for name, parts in slopes.items()}
    return first_order | _increases(model, statistics, first_order)


def unit_fisher(model: ForecastModel, statistics: Statistics) -> Scores:
    """Scores each unit with half the mean square, over windows, of the slope of the loss by its gate.

    That is the second-order estimate of what its removal adds to the loss, the mean of squared gradients of single
    windows (the empirical Fisher information) in the place of the second derivative (Theis et al. 2018, "Faster gaze
    prediction with dense networks and Fisher pruning"). Layers, which have no gate, score what theirs adds.
    """
    slopes = _slopes(model, statistics)
    second_order = {name: torch.cat(parts).square().mean(0) / 2 for name, parts in slopes.items()}
    return second_order | _increases(model, statistics, second_order)


def unit_gauss_newton(model: ForecastModel, statistics: Statistics) -> Scores:
    """Scores each unit with how far its removal moves the forecast: the mean square, to first order in its gate.

    That is half the second derivative of the loss by Gauss and Newton, which is the Fisher information of errors with a
    normal distribution; like an increase of the loss it is in squared units of the data, so that units and layers
    compare. The squared length of a window's derivative is estimated along one direction of random signs (Hutchinson
    1990). Layers, which have no gate, score what theirs adds to the loss.
    """
    generator, gates = torch.Generator().manual_seed(statistics.seed), Gates(model, statistics.kinds)
    sums: dict[str, Tensor] = {}
    windows = 0
    for batch in statistics.batches:
        signs_BHC = torch.randint(2, batch.y_BHC.shape, generator=generator).to(batch.y_BHC) * 2 - 1
        windows += len(signs_BHC)
        for name, slope_NU in gates.projected_slopes(batch, signs_BHC).items():
            sums[name] = sums.get(name, 0) + slope_NU.square().sum(0) / batch.y_BHC[0].numel()
    moved = {name: total_U / windows for name, total_U in sums.items()}
    return moved | _increases(model, statistics, moved)


def unit_ema_taylor(model: ForecastModel, statistics: Statistics) -> Scores:
    """Scores each unit with a moving average, over batches, of the second-order estimate of what its removal adds.

    Of one window with slope g that is -g + g^2 / 2, with the squared slope for the second derivative; the average
    starts from the first batch, and its size is the score (Zhao et al. 2025, "Less is More: Unlocking Specialization of
    Time Series Foundation Models via Structured Pruning", arXiv 2505.23195, as its code computes it). Two things differ
    from that code: slopes are those of each window's own error, where it squares those of its share in the batch's
    mean; and units go after the pass (or in the steps of `prune.step`), where it lets some go after every batch. A pass
    over a whole epoch is a matter of `prune.calibration_batches`. Layers, which have no gate, score what theirs adds.
    """
    averages: dict[str, Tensor] = {}
    for name, parts in _slopes(model, statistics).items():
        for slope_NU in parts:
            estimate_U = (slope_NU.square() / 2 - slope_NU).mean(0)
            averages[name] = torch.lerp(averages.get(name, estimate_U), estimate_U, DECAY)
    return {name: average.abs() for name, average in averages.items()} | _increases(model, statistics, averages)


def unit_leave_one_out(model: ForecastModel, statistics: Statistics) -> Scores:
    """Scores units so that those of an attention or feed-forward module add up to what leaving it out adds to the loss.

    That is exact: a pass over the windows without each module, and without each layer. Within a module, units differ as
    their second-order estimates do (`unit_gauss_newton`), which are all that there is for the width of a stream. A
    module that the loss falls without goes first, its units in their order. SPAT (Guo et al. 2025, arXiv 2505.08768)
    removes whole attention modules by an estimate of this.
    """
    scores = dict(unit_gauss_newton(model, statistics))
    gates = Gates(model, statistics.kinds)
    dense = _mean_loss(partial(gates.losses, gates.ones()), statistics)
    for group in gates.groups:
        if group.kind in MODULES:
            without = gates.ones() | {group.name: torch.zeros_like(gates.ones()[group.name])}
            increase = _mean_loss(partial(gates.losses, without), statistics) - dense
            estimated = scores[group.name].sum().clamp_min(torch.finfo(torch.double).tiny)
            scores[group.name] = scores[group.name] / estimated * max(increase, HARMLESS)
    return scores


def unit_fluctuation(model: ForecastModel, statistics: Statistics) -> Scores:
    """Scores each unit with how much what it gives varies, times the squares of the weights that read it (FLAP).

    That is the error where a unit is replaced by its mean, Var(h_j) ||W_:,j||^2, summed over its positions and over all
    maps that read it; then less the mean of its group, over the deviation in it, so that layers compare (An et al.
    2024, "Fluctuation-based Adaptive Structured Pruning for Large Language Models"). The means themselves go into
    biases when the pruned model is repaired (`recovery: ridge`), whose moments are centred: the paper's b + W_R m_R is
    what that gives where the weights that are left are not solved too.

    Raises:
        UserError: when units may go that no linear map reads, such as layers.
    """
    weights = {*model.prunable()} - {*model.unused_parameters()}
    errors, scores = _replacement_errors(model, statistics), {}
    for group in (group for group in model.groups() if group.kind in statistics.kinds):
        members = [member for member in _gated(model, group, weights) if member.name in errors]
        if not members:
            raise UserError(
                f"score unit-fluctuation knows no map that reads {group.name}; leave {group.kind!r} out of prune.kinds"
            )
        error_U = torch.zeros(group.size, dtype=torch.double)
        for member in members:
            error = errors[member.name]
            by_position = error.movedim(member.dim, 0).reshape(error.shape[member.dim], -1).sum(1)
            error_U += by_position[member.index].sum(1).cpu()
        spread, mean = torch.var_mean(error_U, correction=0)
        scores[group.name] = (error_U - mean) / spread.sqrt().clamp_min(torch.finfo(torch.double).tiny)
    return scores


def _replacement_errors(model: ForecastModel, statistics: Statistics) -> dict[str, Tensor]:
    """Returns the error that each weight passes on when what it reads is replaced by its mean, parameter -> its shape.

    That is w^2 Var(x), in float64, of all weights of linear maps; over all tokens, and all calls of a shared layer.
    """
    model = copy.deepcopy(model).eval()
    maps = maps_of(model)
    counts = dict.fromkeys(maps, 0)
    sums: dict[MapName, tuple[Tensor | float, Tensor | float]] = dict.fromkeys(maps, (0.0, 0.0))

    def hear(layer: str, _: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        for key in (key for key in maps if key[0] == layer):
            x_GNI = maps[key].features(*arguments).double()
            total_GI, squares_GI = sums[key]
            counts[key] += x_GNI.shape[1]
            sums[key] = total_GI + x_GNI.sum(1), squares_GI + x_GNI.square().sum(1)

    for layer in dict.fromkeys(layer for layer, _ in maps):
        model.get_submodule(layer).register_forward_pre_hook(partial(hear, layer))
    for batch in statistics.batches:
        with torch.no_grad():
            model(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF)
    errors: dict[str, Tensor] = {}
    for key, own in maps.items():
        (layer, _), (total_GI, squares_GI) = key, sums[key]
        if counts[key]:
            variance_GI = torch.as_tensor(squares_GI / counts[key] - (total_GI / counts[key]) ** 2)
            full = {name: f"{layer}.{name}".removeprefix(".") for name in own.parameters}
            matrix_GOI = own.matrix({name: model.get_parameter(full[name]).double() for name in full})
            of_weights = own.tensors(matrix_GOI.square() * variance_GI.clamp_min(0).unsqueeze(1))
            errors |= {full[name]: error for name, error in of_weights.items()}
    return errors


def _slopes(model: ForecastModel, statistics: Statistics) -> dict[str, list[Tensor]]:
    """Returns the slopes of the loss by each gate, group name -> (N, U) of each batch."""
    gates = Gates(model, statistics.kinds)
    slopes: dict[str, list[Tensor]] = {group.name: [] for group in gates.groups}
    for batch in statistics.batches:
        for name, slope_NU in gates.slopes(batch).items():
            slopes[name].append(slope_NU)
    return slopes


def _increases(model: ForecastModel, statistics: Statistics, scored: Scores) -> dict[str, Tensor]:
    """Returns how much the loss rises without each unit of the groups that may go and have no score yet."""
    groups = [group for group in model.groups() if group.kind in statistics.kinds and group.name not in scored]
    dense = _mean_loss(_losses_of(model), statistics) if groups else 0.0
    increases = {}
    for group in groups:
        increases[group.name] = torch.zeros(group.size, dtype=torch.double)
        for unit in range(group.size) if group.size > group.minimum else ():
            others = torch.tensor([other for other in range(group.size) if other != unit])
            without = shrink(model, {group.name: others})
            increases[group.name][unit] = _mean_loss(_losses_of(without), statistics) - dense
    return increases


def _losses_of(model: ForecastModel) -> Callable[[Batch], Tensor]:
    return partial(window_losses, copy.deepcopy(model).eval())


@torch.no_grad()
def _mean_loss(losses: Callable[[Batch], Tensor], statistics: Statistics) -> float:
    return torch.cat([losses(batch).double() for batch in statistics.batches]).mean().item()


def window_losses(forecast: Callable[..., Tensor], batch: Batch) -> Tensor:
    """Returns the mean squared error of each window (N,), of a model or what forecasts like one."""
    forecast_BHC = forecast(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF)
    return (forecast_BHC - batch.y_BHC).square().mean(dim=(1, 2))


class Gates:
    """The loss of a model as a function of gates on its units.

    Attributes:
        groups: those that have gates. Layers have none, nor have units that own no weight.
    """

    def __init__(self, model: ForecastModel, kinds: Sequence[GroupKind]) -> None:
        """Prepares a copy of a model, with gates on the units of some kinds; the model itself is left as it is."""
        every = [group for group in model.groups() if group.kind in kinds]
        unused = set(model.unused_parameters())
        weights = {name for name in model.prunable() if name not in unused}
        self._model = copy.deepcopy(model).eval().requires_grad_(False)
        self._members = {group.name: _gated(self._model, group, weights) for group in every}
        self._values: GateValues = {}
        self.groups = tuple(group for group in every if self._members[group.name] or group.softmax_of is not None)
        for group in self.groups:
            if group.normalised:
                self._gate_norms(group)
            if group.softmax_of is not None:
                attention = self._model.get_submodule(group.softmax_of)
                attention.get_submodule("dropout").register_forward_hook(partial(self._softmax, group.name))

    def ones(self) -> dict[str, Tensor]:
        """Returns the gates of the model as it is."""
        parameter = next(self._model.parameters())
        return {group.name: parameter.new_ones(group.size) for group in self.groups}

    def losses(self, values: GateValues, batch: Batch) -> Tensor:
        """Returns the mean squared error of each window (N,) with these gates."""
        return window_losses(partial(self._forecast, values), batch)

    def slopes(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the derivative of each window's loss by each gate at 1, group name -> (N, U), float64."""
        return self._slopes(self.losses, batch)

    def projected_slopes(self, batch: Batch, directions_BHC: Tensor) -> dict[str, Tensor]:
        """Returns the derivative by each gate at 1 of each window's forecast along a direction, (N, U), float64."""

        def along(values: GateValues, batch: Batch) -> Tensor:
            # the direction lies where the truth would
            forecast_BHC = self._forecast(values, batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF)
            return (forecast_BHC * batch.y_BHC).sum(dim=(1, 2))

        return self._slopes(along, batch._replace(y_BHC=directions_BHC))

    def _slopes(self, of_batch: Callable[[GateValues, Batch], Tensor], batch: Batch) -> dict[str, Tensor]:
        def of_window(values: dict[str, Tensor], *window: Tensor) -> Tensor:
            return of_batch(values, Batch(*(part.unsqueeze(0) for part in window))).squeeze(0)

        numbers = sum(parameter.numel() for parameter in self._model.parameters())
        of_windows = vmap(grad(of_window), in_dims=(None, 0, 0, 0, 0), chunk_size=max(1, SIDE_BY_SIDE // numbers))
        with plain_operators(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # the LSTM's windows come one by one
            slopes: dict[str, Tensor] = of_windows(self.ones(), *batch)
        return {name: slope_NU.cpu().double() for name, slope_NU in slopes.items()}

    def _forecast(self, values: GateValues, *inputs: Tensor) -> Tensor:
        scaled: dict[str, Tensor] = {}
        for group in self.groups:
            for member in self._members[group.name]:
                weight = scaled.get(member.name, self._model.get_parameter(member.name))
                gate = values[group.name][_owners(member)]
                shape = [1] * weight.dim()
                shape[member.dim] = -1
                scaled[member.name] = weight * gate.view(shape)
        self._values = values
        forecast_BHC: Tensor = functional_call(self._model, scaled, inputs)
        self._values = {}
        return forecast_BHC

    def _gate_norms(self, group: Group) -> None:
        for member in group.members:
            holder, _, tensor = member.name.rpartition(".")
            norm = self._model.get_submodule(holder)
            if isinstance(norm, nn.LayerNorm) and tensor == "weight":
                norm.register_forward_hook(partial(self._norm, group.name, _owners(member)))

    def _norm(self, group: str, owners_D: Tensor, norm: nn.LayerNorm, inputs: tuple[Tensor], _: Tensor) -> Tensor:
        """Returns what the norm gives of its input when each feature counts as much as its gate says."""
        x, share_D = inputs[0], self._values[group][owners_D]
        share_D = share_D / share_D.sum()
        centred = x - (x * share_D).sum(-1, keepdim=True)
        variance = (centred.square() * share_D).sum(-1, keepdim=True)
        return centred * (variance + norm.eps).rsqrt() * norm.weight + norm.bias

    def _softmax(self, group: str, _: nn.Module, inputs: Any, weights: Tensor) -> Tensor:
        gated = weights * self._values[group]
        return gated / gated.sum(-1, keepdim=True)


def _gated(model: ForecastModel, group: Group, weights: set[str]) -> tuple[Member, ...]:
    """Returns the tensors that a gate is on; none where it is in a softmax."""
    if group.softmax_of is not None:
        return ()

    def is_gated(member: Member) -> bool:
        # of a weight, the first dimension is what it writes
        reads = member.name in weights and member.dim % model.get_parameter(member.name).dim() > 0
        return reads or not set(group.gate).isdisjoint(member.name.split("."))

    return tuple(filter(is_gated, group.members))


def _owners(member: Member) -> Tensor:
    """Returns which unit owns each position along the dimension."""
    owners = torch.empty(member.index.numel(), dtype=torch.int64)
    owners[member.index] = torch.arange(len(member.index)).unsqueeze(1).expand_as(member.index)
    return owners


def _unit_sums(group: Group, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Returns the sum of squares of what each unit owns, and of how many weights, in float64.

    Sums over a wide unit lose digits in float32.
    """
    squares, counts = torch.zeros((2, group.size), dtype=torch.double)
    for member in group.members:
        if member.name in weights:  # buffers may be members, but carry no weight
            weight = weights[member.name]
            by_position = weight.movedim(member.dim, 0).reshape(weight.shape[member.dim], -1)
            norms = torch.linalg.vector_norm(by_position, dim=1).double().cpu()
            squares += norms.square()[member.index.cpu()].sum(1)
            counts += by_position.shape[1] * member.index.shape[1]
    return squares, counts


def _entry_sums(stack: str, size: int, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Returns the sum of squares of all weights below each entry of a module list, and how many they are."""
    squares, counts = torch.zeros((2, size), dtype=torch.double)
    for name, weight in weights.items():
        if name.startswith(f"{stack}."):
            entry = int(name.removeprefix(f"{stack}.").partition(".")[0])
            squares[entry] += weight.norm().double().square().cpu()
            counts[entry] += weight.numel()
    return squares, counts
