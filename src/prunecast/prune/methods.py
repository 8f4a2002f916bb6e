"""The pruning methods by name: each is a recipe of registered parts. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prunecast.records import BudgetOf


@dataclass(frozen=True, kw_only=True)
class Method:
    """A recipe: score x granularity x allocation x schedule x recovery.

    Attributes:
        name: as in `registry.METHODS`.
        summary: one line for people.
        score: what tells weights or units apart, a name in `registry.SCORES`.
        granularity: what is removed, a name in `registry.GRANULARITIES`.
        allocation: how the budget is spread, a name in `registry.ALLOCATIONS`.
        schedule: when it is removed; one-shot: all at once, before any fine-tuning.
        recovery: what repairs the rest at once, before any fine-tuning.
        default_of: what a share is a share of, unless the recipe says so.
        budget: how an amount is asked for: as a share, an N:M pattern, or a latency.
        trains: whether the method itself needs training data and steps.
    """

    name: str
    summary: str
    score: str
    granularity: str
    allocation: str
    schedule: Literal["one-shot"] = "one-shot"
    recovery: Literal["none"] = "none"
    default_of: BudgetOf
    budget: Literal["share", "pattern", "latency"] = "share"
    trains: bool = False


MAGNITUDE = Method(
    name="magnitude",
    summary="the smallest weights of the whole model become zero",
    score="magnitude",
    granularity="element",
    allocation="global",
    default_of="prunable",
)
MAGNITUDE_LAYER = Method(
    name="magnitude-layer",
    summary="the smallest weights of each layer become zero, the same share everywhere",
    score="magnitude",
    granularity="element",
    allocation="layer",
    default_of="prunable",
)
RANDOM = Method(
    name="random",
    summary="weights drawn at random become zero (a control)",
    score="random",
    granularity="element",
    allocation="global",
    default_of="prunable",
)
STRUCTURED_MAGNITUDE = Method(
    name="structured-magnitude",
    summary="the heads, feed-forward units and widths of smallest norm are cut out",
    score="unit-magnitude",
    granularity="unit",
    allocation="unit-uniform",
    default_of="operations",
)
STRUCTURED_RANDOM = Method(
    name="structured-random",
    summary="heads, feed-forward units and widths drawn at random are cut out (a control)",
    score="unit-random",
    granularity="unit",
    allocation="unit-uniform",
    default_of="operations",
)
