"""Allocation by damage per cost: which numbers of units, of all kinds, let the forecast deviate least for a budget.

Damage is what the forecast of the dense model and that of a smaller, repaired one differ by, mean square, on training
windows. Heads, feed-forward units, modes and routers do damage that nearly adds up, and so do their costs: a knapsack
chooses among them. Widths and whole layers change what all others cost, so they are the outer loop: for each number of
layers and each share of the widths a knapsack of the rest. The best of these proposals are carried out, repaired and
compared.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from prunecast.batch import Batch
from prunecast.models.base import ForecastModel, Group, Keep
from prunecast.prune.allocate import Order
from prunecast.prune.knapsack import Choice, choose
from prunecast.prune.methods import Scores, Statistics, UnitRequest
from prunecast.prune.regression import reconstruct
from prunecast.prune.second_order import ridge
from prunecast.prune.shrink import shrink

WIDTH_SHARES = (1, 7 / 8, 3 / 4, 1 / 2, 1 / 4, 1 / 8)
"""Shares of every residual stream that may stay."""

LEVELS = 32
"""Numbers of units of a group that a knapsack chooses from."""

TRIED = 8
"""Proposals that are carried out and compared."""

FEW = 8
"""Of so many families of groups or fewer the damage is measured twice, of more once: time grows with them."""

TRIAL_BATCHES = 1
"""Of windows to repair on, and twice as many to compare on, which costs less."""

Counts = Mapping[str, int]
"""Group name -> how many of its units go, the first in its order."""


@dataclass(frozen=True)
class Proposal:
    """A choice that costs what is asked for.

    Attributes:
        counts: of groups other than layers.
        layers: stacks that lose layers -> those that stay.
        damage: as the sum of what its parts do alone.
    """

    counts: Counts
    layers: Keep
    damage: float


def by_damage(scores: Scores, request: UnitRequest) -> Order:
    """Returns an order of units whose first ones, as many as the request needs, do least damage.

    Args:
        scores: the order in which the units of a group go, and by their sums how much more damage a number of units of
            it does than another.
        request: the budget, and windows to measure on.

    Raises:
        UserError: without windows.
    """
    search = _Search(scores, request)
    proposals = search.proposals()
    if not proposals:
        return search.order(search.smallest())
    tried = [(search.trial.harm(search.keep(proposal)), proposal) for proposal in proposals]
    return search.order(min(tried, key=lambda pair: pair[0])[1])


class Trial:
    """A dense model's forecast, from which that of smaller ones deviates once they are repaired."""

    def __init__(self, model: ForecastModel, statistics: Statistics) -> None:
        """Takes the first batches to repair on and the next ones to compare on; all for both where they are few."""
        batches = list(islice(statistics.batches, 3 * TRIAL_BATCHES))
        self.model = model
        self._repair = Statistics(statistics.seed, batches[:TRIAL_BATCHES])
        self._windows = _joined(batches[TRIAL_BATCHES:] or batches)
        self._forecast_BHC = _forecast(model, self._windows)
        self._error = self._loss(self._forecast_BHC)

    def damage(self, keep: Keep) -> float:
        """Returns the mean squared deviation of the forecast when only `keep` stays."""
        return self._compared(keep)[0]

    def harm(self, keep: Keep) -> float:
        """Returns the deviation and the increase of the error: a deviation towards the truth is none to fear."""
        return sum(self._compared(keep))

    def _compared(self, keep: Keep) -> tuple[float, float]:
        small = shrink(self.model, keep)
        reconstruct(self.model, small, ridge, self._repair, keep=keep)
        forecast_BHC = _forecast(small, self._windows)
        return float((forecast_BHC - self._forecast_BHC).square().mean()), self._loss(forecast_BHC) - self._error

    def _loss(self, forecast_BHC: Tensor) -> float:
        return float((forecast_BHC - self._windows.y_BHC).square().mean())


@torch.inference_mode()
def _forecast(model: ForecastModel, windows: Batch) -> Tensor:
    forecast_BHC: Tensor = model.eval()(windows.x_BLC, windows.x_mark_BLF, windows.y_mark_BTF)
    return forecast_BHC


def _joined(batches: Sequence[Batch]) -> Batch:
    return Batch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


@dataclass
class _Search:
    """What is known of a model: orders, damages and costs of all numbers of units of each group.

    Attributes:
        stacks: groups of layers that can lose some.
        streams: the widths of residual streams.
        inner: all other groups that can lose units.
        orders: (U,) of each group but layers, the first to go first.
        damages: (removable + 1,) of each inner group, alone.
        unit_costs: of a unit of each inner group, with all else in place.
    """

    scores: Scores
    request: UnitRequest
    stacks: list[Group] = field(default_factory=list)
    streams: list[Group] = field(default_factory=list)
    inner: list[Group] = field(default_factory=list)
    orders: dict[str, Tensor] = field(default_factory=dict)
    damages: dict[str, Tensor] = field(default_factory=dict)
    unit_costs: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.trial = Trial(self.request.model, self.request.statistics)
        self.total = self.cost({})
        for group in (group for group in self.request.groups if group.size > group.minimum):
            kind = self.stacks if group.stack else self.streams if group.normalised else self.inner
            kind.append(group)
        for group in (*self.streams, *self.inner):
            self.orders[group.name] = self.scores[group.name].argsort(stable=True)
        for group in self.inner:
            saved = self.total - self.cost(self.cut({group.name: removable(group)}))
            self.unit_costs[group.name] = saved / removable(group)
        families: dict[str, list[Group]] = {}  # the same part of every layer is measured together
        for group in self.inner:
            families.setdefault(re.sub(r"\d+", "", group.name), []).append(group)
        for family in families.values():
            self._measure(family, (0.5, 1.0) if len(families) <= FEW else (0.75,))

    def cost(self, keep: Keep) -> int:
        """Returns what is left costs."""
        return self.request.cost(self.request.model.shrunk_config(keep))

    def cut(self, counts: Counts) -> dict[str, Tensor]:
        """Returns which units stay when so many go."""
        return {name: self.orders[name][count:].sort().values for name, count in counts.items() if count}

    def keep(self, proposal: Proposal) -> Keep:
        """Returns which units a proposal leaves."""
        return {**self.cut(proposal.counts), **proposal.layers}

    def _measure(self, family: Sequence[Group], shares: Sequence[float]) -> None:
        """Finds the damages of all numbers of units of some groups: their scores' sums, to the scale of trials.

        Repair makes up for more of a large cut than of a small one, so of two trials, of half and of all of the units,
        the scale goes from one to the other.
        """
        sums = {}
        for group in family:
            score = self.scores[group.name][self.orders[group.name]].double().clamp_min(0)
            sums[group.name] = torch.cat([score.new_zeros(1), score.cumsum(0)])[: removable(group) + 1]
        scales = []
        for share in shares:
            counts = {group.name: max(1, round(share * removable(group))) for group in family}
            expected = sum(float(sums[name][count]) for name, count in counts.items())
            found = max(self.trial.damage(self.cut(counts)), 1e-12)
            scales.append(math.log(found / max(expected, 1e-15)))
        for group in family:
            share_K = torch.arange(removable(group) + 1) / removable(group)
            scale_K = scales[0] + (scales[-1] - scales[0]) * (2 * share_K - 1).clamp_min(0)
            self.damages[group.name] = (sums[group.name] * scale_K.exp()).cummax(0).values

    def proposals(self) -> list[Proposal]:
        """Returns the best proposals: at most one for each number of layers and each share of the widths."""
        widths = [self._narrowed(share) for share in (WIDTH_SHARES if self.streams else (1,))]
        harm = [self.trial.damage(self.cut(counts)) if counts else 0.0 for counts in widths]
        outer = [
            Proposal(counts, layers, damage + alone)
            for layers, damage in self._chain()
            if self.cost(layers) >= self.total - self.request.requested  # of whole layers none goes that is too much
            for counts, alone in zip(widths, harm, strict=True)
        ]
        found: list[Proposal] = []
        for proposal in sorted(outer, key=lambda proposal: proposal.damage):
            if len(found) >= TRIED and proposal.damage > found[TRIED - 1].damage:
                break  # what goes besides cannot make it better
            inner = [group for group in self.inner if not _is_gone(group, proposal.layers)]
            whole = self._knapsack(inner, proposal)
            found = sorted([*found, *([] if whole is None else [whole])], key=lambda other: other.damage)
        return found[:TRIED]

    def _narrowed(self, share: float) -> dict[str, int]:
        return {
            group.name: min(removable(group), group.size - round(share * group.size))
            for group in self.streams
            if share < 1
        }

    def _chain(self) -> list[tuple[Keep, float]]:
        """Returns stacks with ever fewer layers, and their damage: those go first that do least for what they cost."""
        alone = []
        for group in self.stacks:
            for layer in range(group.size):
                keep = {group.name: torch.tensor([other for other in range(group.size) if other != layer])}
                alone.append((self.trial.damage(keep) / max(self.total - self.cost(keep), 1), group, layer))
        chain: list[tuple[Keep, float]] = [({}, 0.0)]
        for _, group, layer in sorted(alone, key=lambda step: step[0]):
            stay = chain[-1][0].get(group.name, torch.arange(group.size))
            if len(stay) > group.minimum:
                keep = {**chain[-1][0], group.name: stay[stay != layer]}
                chain.append((keep, self.trial.damage(keep)))
        return chain

    def _knapsack(self, inner: Sequence[Group], outer: Proposal) -> Proposal | None:
        """Returns a proposal with as much of the inner groups as the budget needs; None where that is not enough."""
        target = self.total - self.request.requested
        whole = self.cost(self.keep(outer))
        least = self.cost({**self.keep(outer), **self.cut({group.name: removable(group) for group in inner})})
        if least > target:
            return None
        # narrower streams make all units cheaper, roughly alike
        scale = (whole - least) / max(1, sum(self.unit_costs[group.name] * removable(group) for group in inner))
        levels = [_levels(removable(group)) for group in inner]
        choices = []
        for group, counts in zip(inner, levels, strict=True):
            price, damage = self.unit_costs[group.name] * scale, self.damages[group.name]
            choices.append([Choice(float(damage[n]), round(price * (removable(group) - n))) for n in counts])
        budget, found = target - least, outer
        for _ in range(3):
            chosen = choose(choices, max(budget, 0)) if inner else ()
            picked = zip(inner, levels, choices, chosen, strict=True)
            taken = [(group.name, counts[place], options[place].damage) for group, counts, options, place in picked]
            of_all = dict(outer.counts) | {name: count for name, count, _ in taken}
            found = Proposal(of_all, outer.layers, outer.damage + sum(damage for *_, damage in taken))
            excess = self.cost(self.keep(found)) - target
            if abs(excess) < 0.005 * self.total or budget <= 0:
                break
            budget -= excess  # where costs do not add up: modes times heads, say
        return found

    def smallest(self) -> Proposal:
        """Returns what is left when as much goes as the search would take."""
        most = self._narrowed(WIDTH_SHARES[-1]) | {group.name: removable(group) for group in self.inner}
        return Proposal(most, {group.name: torch.arange(group.minimum) for group in self.stacks}, math.inf)

    def order(self, proposal: Proposal) -> Order:
        """Returns the units of a proposal, then all others; single units that are cheap are near the border."""
        gone: list[tuple[float, str, int]] = []
        left: list[tuple[float, str, int]] = []
        for group in self.stacks:
            stay = proposal.layers.get(group.name, torch.arange(group.size)).tolist()
            gone += [(-2.0, group.name, layer) for layer in range(group.size) if layer not in stay]
            left += [(math.inf, group.name, layer) for layer in stay[: len(stay) - group.minimum]]
        for group in self.streams:
            units, count = self.orders[group.name].tolist(), proposal.counts.get(group.name, 0)
            gone += [(-1.0, group.name, unit) for unit in units[:count]]
            left += [(math.inf, group.name, unit) for unit in units[count : removable(group)]]
        for group in self.inner:
            units, damage = self.orders[group.name].tolist(), self.damages[group.name]
            count = removable(group) if _is_gone(group, proposal.layers) else proposal.counts.get(group.name, 0)
            price = max(self.unit_costs[group.name], 1e-9)
            for place, unit in enumerate(units[: removable(group)]):
                worth = 0.0 if _is_gone(group, proposal.layers) else float(damage[place + 1] - damage[place]) / price
                (gone if place < count else left).append((worth, group.name, unit))
        ordered = [*sorted(gone, key=lambda unit: unit[0]), *sorted(left, key=lambda unit: unit[0])]
        places = {group.name: place for place, group in enumerate(self.request.groups)}
        sizes = {group.name: group.size for group in self.request.groups}
        of_group = torch.tensor([places[name] for _, name, _ in ordered])
        return Order(sizes, of_group, torch.tensor([unit for *_, unit in ordered]))


def removable(group: Group) -> int:
    """Returns how many units of a group may go."""
    return group.size - group.minimum


def _levels(most: int) -> list[int]:
    """Returns numbers of units from none to all, few enough for a knapsack."""
    return sorted({round(most * step / LEVELS) for step in range(LEVELS + 1)})


def _is_gone(group: Group, layers: Keep) -> bool:
    """Returns whether the layer that a group belongs to is among those that go."""
    for stack, stay in layers.items():
        if group.name.startswith(f"{stack}."):
            return int(group.name.removeprefix(f"{stack}.").partition(".")[0]) not in stay.tolist()
    return False
