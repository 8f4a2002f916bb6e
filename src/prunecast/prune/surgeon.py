"""Optimal brain surgery on units: in which order they go, and what each number of them costs in error.

A consumer is a linear map that reads the units of a group: y = W h, with the moments H = E[h h^T] + lambda of what it
reads. When units go, the columns that stay take over what they can of those that go; of all units the one goes next
whose loss leaves the least error. All numbers of units come from one pass (ZipLM, Kurtic et al. 2023, arXiv
2302.04089; OSSCAR, Meng et al. 2024, arXiv 2403.12983; after Hassibi and Stork 1993).

U units, E inputs of each, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STEPS = 128
"""Of so many units or fewer one goes at a time; of more that share of them, or the largest layers take minutes."""


@dataclass(frozen=True)
class Consumer:
    """A linear map that reads units.

    Attributes:
        weight_OI: float64.
        moments_II: E[h h^T] + lambda of its inputs, positive definite, float64; centred where the map has a bias.
        index_UE: inputs that each unit owns.
    """

    weight_OI: Tensor
    moments_II: Tensor
    index_UE: Tensor


@dataclass(frozen=True)
class Removal:
    """The order in which units go.

    Attributes:
        order: (U,) units, the first to go first.
        damage: (U + 1,) the error of the outputs once so many are gone: sum of squares, mean over tokens.
    """

    order: Tensor
    damage: Tensor


def removal(consumers: Sequence[Consumer], first: Sequence[int] = ()) -> Removal:
    """Returns the order in which the units of a group leave its consumers.

    Args:
        consumers: all that read the group, at least one; what they lose adds up.
        first: units that go before all others, in this order.
    """
    states = [_State(consumer) for consumer in consumers]
    remaining = torch.arange(len(consumers[0].index_UE))
    order, damages = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(1, dtype=torch.float64)]
    early = list(first)
    while len(remaining):
        if early:
            leaving = (remaining == early.pop(0)).nonzero().squeeze(1)
        else:
            alone = sum((state.losses() for state in states), torch.zeros(len(remaining), dtype=torch.float64))
            leaving = alone.argsort(stable=True)[: max(1, len(remaining) // STEPS)]
        loss = sum(state.remove(leaving) for state in states)
        shares = torch.arange(1, len(leaving) + 1, dtype=torch.float64) / len(leaving)
        damages.append(damages[-1][-1:] + shares * loss)
        order.append(remaining[leaving])
        stays = torch.ones(len(remaining), dtype=torch.bool)
        stays[leaving] = False
        remaining = remaining[stays]
    return Removal(torch.cat(order), torch.cat(damages))


class _State:
    """A consumer without the inputs of the units that are gone: their rows and columns are zero, now and then cut."""

    def __init__(self, consumer: Consumer) -> None:
        self.inverse_II = torch.cholesky_inverse(torch.linalg.cholesky(consumer.moments_II))
        self.weight_OI, self.index_UE = consumer.weight_OI.clone(), consumer.index_UE
        self.stays_I = torch.ones(len(self.inverse_II), dtype=torch.bool)

    def losses(self) -> Tensor:
        """Returns what each unit would cost if it went alone: the trace of W_E (H^-1_EE)^-1 W_E^T, (U,)."""
        inverse_UEE = self.inverse_II[self.index_UE.unsqueeze(2), self.index_UE.unsqueeze(1)]
        weight_UEO = self.weight_OI.T[self.index_UE]
        losses_U: Tensor = (torch.linalg.solve(inverse_UEE, weight_UEO) * weight_UEO).sum((1, 2))
        return losses_U

    def remove(self, units: Tensor) -> float:
        """Takes units out, adjusts the rest, and returns what that costs."""
        goes = self.index_UE[units].flatten()
        rows_EI, weight_OE = self.inverse_II[goes], self.weight_OI[:, goes]
        solved_EI = torch.linalg.solve(rows_EI[:, goes], rows_EI)
        loss = float((torch.linalg.solve(rows_EI[:, goes], weight_OE.T) * weight_OE.T).sum())
        self.weight_OI.addmm_(weight_OE, solved_EI, alpha=-1)
        self.inverse_II.addmm_(rows_EI.T, solved_EI, alpha=-1)
        left = torch.ones(len(self.index_UE), dtype=torch.bool)
        left[units] = False
        self.index_UE, self.stays_I[goes] = self.index_UE[left], False
        if self.stays_I.sum() < len(self.stays_I) / 2:
            self.weight_OI = self.weight_OI[:, self.stays_I]
            self.inverse_II = self.inverse_II[self.stays_I][:, self.stays_I]
            self.index_UE = (self.stays_I.cumsum(0) - 1)[self.index_UE]
            self.stays_I = self.stays_I[self.stays_I]
        return loss
