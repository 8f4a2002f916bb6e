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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import torch
from torch import Tensor

from prunecast.batch import Batch
from prunecast.errors import UserError
from prunecast.models.base import ForecastModel, Group, Keep
from prunecast.prune.allocate import Order
from prunecast.prune.knapsack import Choice, choose
from prunecast.prune.methods import Scores, Statistics, UnitRequest
from prunecast.prune.regression import Reference
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

KEPT_BYTES = 2**30
"""What the dense model computes on the windows to repair on is kept where it takes no more, for all trials."""

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
    search = Search(scores, request)
    return search.order(search.best(search.total - request.requested) or search.smallest())


def choices_by_damage(scores: Scores, request: UnitRequest, count: int) -> list[Order]:
    """Returns such orders for several choices, at most so many, by the damage that each is thought to do.

    Raises:
        UserError: without windows.
    """
    search = Search(scores, request)
    proposals = search.proposals(search.total - request.requested, count)
    return [search.order(proposal) for proposal in proposals or [search.smallest()]]


class Trial:
    """A dense model's forecast, from which that of smaller ones deviates once they are repaired."""

    def __init__(self, model: ForecastModel, statistics: Statistics) -> None:
        """Takes the first batches to repair on and the next ones to compare on; all for both where they are few."""
        batches = list(islice(statistics.batches, 3 * TRIAL_BATCHES))
        self._dense = Reference(model, Statistics(statistics.seed, batches[:TRIAL_BATCHES]), KEPT_BYTES)
        self._windows = _joined(batches[TRIAL_BATCHES:] or batches)
        self._forecast_BHC = _forecast(self._dense.model, self._windows)
        self._error = self._loss(self._forecast_BHC)

    def damage(self, keep: Keep) -> float:
        """Returns the mean squared deviation of the forecast when only `keep` stays."""
        return self._compared(keep)[0]

    def harm(self, keep: Keep) -> float:
        """Returns the deviation and the increase of the error: a deviation towards the truth is none to fear."""
        return sum(self._compared(keep))

    def _compared(self, keep: Keep) -> tuple[float, float]:
        small = shrink(self._dense.model, keep, self._dense.groups)
        forecast_BHC = _forecast(self._dense.compare(small, ridge, keep).model, self._windows)
        return float((forecast_BHC - self._forecast_BHC).square().mean()), self._loss(forecast_BHC) - self._error

    def _loss(self, forecast_BHC: Tensor) -> float:
        return float((forecast_BHC - self._windows.y_BHC).square().mean())


@torch.inference_mode()
def _forecast(model: ForecastModel, windows: Batch) -> Tensor:
    forecast_BHC: Tensor = model(windows.x_BLC, windows.x_mark_BLF, windows.y_mark_BTF)
    return forecast_BHC


def _joined(batches: Sequence[Batch]) -> Batch:
    return Batch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


@dataclass(frozen=True)
class Limit:
    """A further budget: `price` says what is left costs, and that may be `most`."""

    price: Callable[[Keep], int]
    most: int


@dataclass
class Search:
    """What is known of a model: orders, damages and costs of all numbers of units of each group.

    Attributes:
        scores: units of low scores go first, see `by_damage`.
        request: the model, what may go, and windows.
        price: what is left costs; by the request's cost of its config when absent.
        limits: budgets besides that which a proposal is asked to meet.
        tile: of feed-forward units and widths so many stay, or a multiple of it: what a processor computes at once.
        stacks: groups of layers that can lose some.
        streams: the widths of residual streams.
        inner: all other groups that can lose units.
        orders: (U,) of each group but layers, the first to go first.
        damages: (most that may go + 1,) of each inner group, alone.
        unit_costs: of a unit of each inner group, with all else in place; of the price, then of each limit.
    """

    scores: Scores
    request: UnitRequest
    price: Callable[[Keep], int] | None = None
    limits: Sequence[Limit] = ()
    tile: int = 1
    stacks: list[Group] = field(default_factory=list)
    streams: list[Group] = field(default_factory=list)
    inner: list[Group] = field(default_factory=list)
    orders: dict[str, Tensor] = field(default_factory=dict)
    damages: dict[str, Tensor] = field(default_factory=dict)
    unit_costs: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.trial = Trial(self.request.model, self.request.statistics)
        self.total = self.cost({})
        for group in (group for group in self.request.groups if self.removable(group)):
            kind = self.stacks if group.stack else self.streams if group.normalised else self.inner
            kind.append(group)
        for group in (*self.streams, *self.inner):
            self.orders[group.name] = self.scores[group.name].argsort(stable=True)
        whole = [(limit, limit.price({})) for limit in self._prices(self.total)]
        for group in self.inner:
            gone, count = self.cut({group.name: self.removable(group)}), self.removable(group)
            self.unit_costs[group.name] = tuple((high - limit.price(gone)) / count for limit, high in whole)
        families: dict[str, list[Group]] = {}  # the same part of every layer is measured together
        for group in self.inner:
            families.setdefault(re.sub(r"\d+", "", group.name), []).append(group)
        for family in families.values():
            self._measure(family, (0.5, 1.0) if len(families) <= FEW else (0.75,))

    def cost(self, keep: Keep) -> int:
        """Returns what is left costs."""
        if self.price is not None:
            return self.price(keep)
        return self.request.cost(self.request.model.shrunk_config(keep))

    def removable(self, group: Group) -> int:
        """Returns how many units of a group may go, of those that come in tiles all but one tile."""
        return group.size - least_units(group, self.tile)

    def _levels(self, group: Group) -> list[int]:
        """Returns numbers of units that may go, from none to all, few enough for a knapsack."""
        most, tile = self.removable(group), tile_of(group, self.tile)
        whole = [0, *(count for count in range(1, most + 1) if (group.size - count) % tile == 0)]
        return sorted({whole[round((len(whole) - 1) * step / LEVELS)] for step in range(LEVELS + 1)})

    def _prices(self, target: int) -> list[Limit]:
        """Returns all that proposals have to meet."""
        return [Limit(self.cost, target), *self.limits]

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
            sums[group.name] = torch.cat([score.new_zeros(1), score.cumsum(0)])[: self.removable(group) + 1]
        scales = []
        for share in shares:
            counts = {group.name: max(1, round(share * self.removable(group))) for group in family}
            expected = sum(float(sums[name][count]) for name, count in counts.items())
            found = max(self.trial.damage(self.cut(counts)), 1e-12)
            scales.append(math.log(found / max(expected, 1e-15)))
        for group in family:
            share_K = torch.arange(self.removable(group) + 1) / self.removable(group)
            scale_K = scales[0] + (scales[-1] - scales[0]) * (2 * share_K - 1).clamp_min(0)
            self.damages[group.name] = (sums[group.name] * scale_K.exp()).cummax(0).values

    def best(self, target: int, tried: int = TRIED) -> Proposal | None:
        """Returns the proposal that harms least when it is carried out, of so many that cost at most the target.

        None where not even the smallest model costs so little, or meets all limits.
        """
        proposals = self.proposals(target, tried)
        harms = [self.trial.harm(self.keep(proposal)) for proposal in proposals]
        return min(zip(harms, proposals, strict=True), key=lambda pair: pair[0])[1] if proposals else None

    def proposals(self, target: int, tried: int = TRIED) -> list[Proposal]:
        """Returns the best proposals that cost at most the target.

        At most one for each number of layers and each share of the widths.
        """
        outer = [
            Proposal(counts, layers, damage + alone)
            for layers, damage in self._chain
            if self.cost(layers) >= target  # of whole layers none goes that is too much
            for counts, alone in self._widths
        ]
        found: list[Proposal] = []
        for proposal in sorted(outer, key=lambda proposal: proposal.damage):
            if len(found) >= tried and proposal.damage > found[tried - 1].damage:
                break  # what goes besides cannot make it better
            inner = [group for group in self.inner if not is_gone(group, proposal.layers)]
            whole = self._knapsack(inner, proposal, target)
            found = sorted([*found, *([] if whole is None else [whole])], key=lambda other: other.damage)
        return found[:tried]

    @cached_property
    def _widths(self) -> list[tuple[Counts, float]]:
        """Counts of the streams' units that go, for each share of the widths, and their damage."""
        widths = [self._narrowed(share) for share in (WIDTH_SHARES if self.streams else (1,))]
        return [(counts, self.trial.damage(self.cut(counts)) if counts else 0.0) for counts in widths]

    def _narrowed(self, share: float) -> dict[str, int]:
        counts = {}
        for group in self.streams if share < 1 else ():
            stay = round(share * group.size / tile_of(group, self.tile)) * tile_of(group, self.tile)
            counts[group.name] = min(self.removable(group), max(0, group.size - stay))
        return counts

    @cached_property
    def _chain(self) -> list[tuple[Keep, float]]:
        """Stacks with ever fewer layers, and their damage: those go first that do least for what they cost."""
        alone = []
        for group in self.stacks:
            for layer in range(group.size):
                keep = {group.name: torch.tensor([other for other in range(group.size) if other != layer])}
                damage = self.trial.damage(keep)
                alone.append((damage / max(self.total - self.cost(keep), 1), damage, group, layer))
        chain: list[tuple[Keep, float]] = [({}, 0.0)]
        for _, damage, group, layer in sorted(alone, key=lambda step: step[0]):
            stay = chain[-1][0].get(group.name, torch.arange(group.size))
            if len(stay) > group.minimum:
                keep = {**chain[-1][0], group.name: stay[stay != layer]}
                chain.append((keep, damage if len(chain) == 1 else self.trial.damage(keep)))
        return chain

    def _knapsack(self, inner: Sequence[Group], outer: Proposal, target: int) -> Proposal | None:
        """Returns a proposal with as much of the inner groups as the budgets need; None where that is not enough."""
        limits = self._prices(target)
        smallest = {**self.keep(outer), **self.cut({group.name: self.removable(group) for group in inner})}
        whole, least = ([limit.price(keep) for limit in limits] for keep in (self.keep(outer), smallest))
        if any(low > limit.most for low, limit in zip(least, limits, strict=True)):
            return None
        units = [
            [self.unit_costs[group.name][k] * self.removable(group) for group in inner] for k in range(len(limits))
        ]
        # narrower streams make all units cheaper, roughly alike
        scales = [(high - low) / max(1, sum(of)) for high, low, of in zip(whole, least, units, strict=True)]
        levels = [self._levels(group) for group in inner]
        choices = []
        for group, counts in zip(inner, levels, strict=True):
            prices = [price * scale for price, scale in zip(self.unit_costs[group.name], scales, strict=True)]
            damage, most = self.damages[group.name], self.removable(group)
            costs = [tuple(round(price * (most - count)) for price in prices) for count in counts]
            choices.append(
                [
                    Choice(float(damage[n]), first, tuple(others))
                    for n, (first, *others) in zip(counts, costs, strict=True)
                ]
            )
        budgets, found = [limit.most - low for limit, low in zip(limits, least, strict=True)], outer
        for _ in range(3):
            try:
                chosen = choose(choices, *(max(budget, 0) for budget in budgets)) if inner else ()
            except UserError:  # no choice meets all limits
                return None
            picked = zip(inner, levels, choices, chosen, strict=True)
            taken = [(group.name, counts[place], options[place].damage) for group, counts, options, place in picked]
            of_all = dict(outer.counts) | {name: count for name, count, _ in taken}
            found = Proposal(of_all, outer.layers, outer.damage + sum(damage for *_, damage in taken))
            excesses = [limit.price(self.keep(found)) - limit.most for limit in limits]
            near = abs(excesses[0]) < 0.005 * self.total and all(excess <= 0 for excess in excesses[1:])
            if near or all(budget <= 0 for budget in budgets):
                break
            # where costs do not add up: modes times heads, say; what is met already is no reason to spend more
            budgets = [
                budget - (excess if not k else max(excess, 0))
                for k, (budget, excess) in enumerate(zip(budgets, excesses, strict=True))
            ]
        return found

    def smallest(self) -> Proposal:
        """Returns what is left when as much goes as the search would take."""
        most = self._narrowed(WIDTH_SHARES[-1]) | {group.name: self.removable(group) for group in self.inner}
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
            left += [(math.inf, group.name, unit) for unit in units[count : self.removable(group)]]
        for group in self.inner:
            units, damage = self.orders[group.name].tolist(), self.damages[group.name]
            count = self.removable(group) if is_gone(group, proposal.layers) else proposal.counts.get(group.name, 0)
            price = max(self.unit_costs[group.name][0], 1e-9)
            for place, unit in enumerate(units[: self.removable(group)]):
                worth = 0.0 if is_gone(group, proposal.layers) else float(damage[place + 1] - damage[place]) / price
                (gone if place < count else left).append((worth, group.name, unit))
        ordered = [*sorted(gone, key=lambda unit: unit[0]), *sorted(left, key=lambda unit: unit[0])]
        places = {group.name: place for place, group in enumerate(self.request.groups)}
        sizes = {group.name: group.size for group in self.request.groups}
        of_group = torch.tensor([places[name] for _, name, _ in ordered])
        return Order(sizes, of_group, torch.tensor([unit for *_, unit in ordered]))


def tile_of(group: Group, tile: int) -> int:
    """Returns of how many units those of a group stay a multiple, where a processor computes `tile` at once."""
    return tile if group.kind in ("ffn", "width") else 1


def least_units(group: Group, tile: int) -> int:
    """Returns how many units of a group stay at the least."""
    return max(group.minimum, min(tile_of(group, tile), group.size))


def is_gone(group: Group, layers: Keep) -> bool:
    """Returns whether the layer that a group belongs to is among those that go."""
    for stack, stay in layers.items():
        if group.name.startswith(f"{stack}."):
            return int(group.name.removeprefix(f"{stack}.").partition(".")[0]) not in stay.tolist()
    return False
