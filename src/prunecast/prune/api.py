"""What the parts of a pruning method get and give: the contracts of this room."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from prunecast.batch import Batch
from prunecast.errors import UserError
from prunecast.models.base import Forecaster, ForecasterConfig
from prunecast.prune.methods import Method
from prunecast.recipe import PruneConfig
from prunecast.records import BudgetOf, Pruning

Scores = Mapping[str, Tensor]
"""What matters more scores higher: parameter name -> tensor of its shape, or group name -> (size of the group,)."""

Masks = Mapping[str, Tensor]
"""Parameter name -> boolean tensor of its shape, True where a weight stays."""

Cost = Callable[[ForecasterConfig], int]
"""The dense MACs of one forecast of the model that a config describes."""

WeightCost = Callable[[Forecaster], Mapping[str, float]]
"""Parameter name -> the MACs of one forecast that each of its weights takes part in; one in no product is absent."""


@dataclass(frozen=True)
class Statistics:
    """What a score may look at besides the model.

    Attributes:
        seed: of whatever it draws, from a generator of its own.
        batches: windows of the training part.
    """

    seed: int
    batches: Iterable[Batch] = ()


Score = Callable[[Forecaster, Statistics], Scores]
"""A pure function; of single weights it scores at least `model.prunable()`, of units all of `model.groups()`."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One pruning step: what a granularity is asked to do."""

    model: Forecaster
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

    def refuse(self, option: str) -> None:
        """Checks that an option without meaning for the method was left alone.

        Raises:
            UserError: when it was set.
        """
        if getattr(self.config, option) != PruneConfig.model_fields[option].default:
            raise UserError(f"method {self.method.name!r} has no use for prune.{option}; leave it out")


@dataclass(frozen=True)
class Pruned:
    """A pruned model, the masks to hold through fine-tuning, and what was asked for and done."""

    model: Forecaster
    masks: Masks = field(repr=False)
    outcome: Pruning
