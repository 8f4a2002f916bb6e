"""Which weights of a linear map go, chosen and repaired by least squares. Pure numerics: nothing here knows a model.

The objective of all is that of `regression`: over the tokens, mean ||y - W x - b||^2 + lambda ||W - W0||^2. Without
constraints its minimum is W* = right^T H^-1 with H = xx + lambda I, and any other W costs the sum over its rows of
(w - w*) H (w - w*)^T more: its damage. So each row is a small quadratic of its own.

Letters: G maps side by side, O outputs, I inputs, R rows (outputs that lose the same inputs), B blocks of a row,
C inputs of a block, M outputs of a block, D = B x C inputs of a row, filled up to whole blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from prunecast.prune.allocate import lowest, shares_of
from prunecast.prune.regression import Problem, Solution

_CHUNK_BYTES = 2**26
"""What the matrices of the rows in flight may take; more is slower, as no cache holds them."""

_PENDING = 128
"""So many eliminated inputs wait until their effect is worked into the matrices of all rows in one product, which runs
at full speed; until then it is worked out for what is read. Of 16 to 512, the fastest at 512 inputs."""


_WORK = 2e10
"""The multiply-adds that `least_damage` spends on exchanges: some seconds of one core. The steps of `obc` and `forward`
run at an eighth of that speed, so they get an eighth."""


_TRACE_WORK = 4e9
"""The multiply-adds that `damage_steps` spends on a map."""


@dataclass(frozen=True)
class BlockShape:
    """What goes at once: `rows` outputs by `columns` inputs, fewer at the edges; (1, 1) are single weights."""

    rows: int = 1
    columns: int = 1


@dataclass(frozen=True)
class Amount:
    """So many blocks go, those that cost least; those that are gone already count and go first."""

    count: int
    blocks: BlockShape = BlockShape()


@dataclass(frozen=True)
class Pattern:
    """Of `of` inputs beside each other at most `keep` stay in each row (N:M, as 2:4)."""

    keep: int
    of: int


Quota: TypeAlias = Amount | Pattern
"""What is to go from a map."""

Solver: TypeAlias = Callable[[Problem, Quota], Solution]
"""Chooses what goes and gives the weights that stay."""


def damage(problem: Problem, weight_GOI: Tensor) -> float:
    """Returns by how much the objective of weights is above its minimum over all weights."""
    hessian_GII = problem.hessian_GII
    change_GOI = weight_GOI - _solve(hessian_GII, problem.right_GIO.mT)
    return float((change_GOI @ hessian_GII * change_GOI).sum())


def ridge(problem: Problem) -> Solution:
    """Minimises the objective over the weights of the support, exactly: a Cholesky factor per row."""
    hessian_GII, target_GOI, support_GOI = problem.hessian_GII, problem.right_GIO.mT, problem.support_GOI
    if support_GOI is None:
        return problem.solution(_solve(hessian_GII, target_GOI))
    full_GO1 = support_GOI.sum(2, keepdim=True) * 2 > support_GOI.shape[2]
    weight_GOI = _solve_on(support_GOI & ~full_GO1, hessian_GII, target_GOI)
    if full_GO1.any():  # where more stays than goes, the multipliers of what goes are the smaller system
        free_GOI, inverse_GII = _solve(hessian_GII, target_GOI), _inverse(hessian_GII)
        multiplier_GOI = _solve_on(~support_GOI & full_GO1, inverse_GII, free_GOI)
        weight_GOI = torch.where(support_GOI & full_GO1, free_GOI - multiplier_GOI @ inverse_GII, weight_GOI)
    return problem.solution(weight_GOI, support_GOI)


def least_damage(problem: Problem, quota: Quota) -> Solution:
    """Takes the best of `alps` and, where a map of this size affords them in seconds, `obc` and `forward`; improves it.

    Single weights are then exchanged as long as that helps and is affordable (`swapped`); with at most 12 inputs each
    row gets the best of all supports of as many weights as it has (`best_of_size`).
    """
    outputs, inputs = problem.weight_GOI.shape[0] * problem.weight_GOI.shape[1], problem.weight_GOI.shape[2]
    blocks = BlockShape() if isinstance(quota, Pattern) else quota.blocks
    rows = outputs / blocks.rows
    kept = inputs - quota.count * blocks.rows * blocks.columns / outputs if isinstance(quota, Amount) else inputs / 2
    solvers: list[Solver] = [alps]
    if rows * inputs**3 / 3 <= _WORK / 8:
        solvers.append(obc)
    if rows * 2 * kept**2 * inputs <= _WORK / 8:
        solvers.append(forward)
    best = min((solve(problem, quota) for solve in solvers), key=lambda found: damage(problem, found.weight_GOI))
    if best.mask_GOI is None or blocks != BlockShape() or isinstance(quota, Pattern):
        return best
    if inputs <= 12:
        return best_of_size(problem, best.mask_GOI)
    rounds = _WORK / (outputs * inputs * max(1, int(best.mask_GOI.sum(2).max())) ** 2)
    return swapped(problem, best.mask_GOI, min(10, int(rounds)))


def obc(problem: Problem, quota: Quota) -> Solution:
    """Removes weights one by one, each time the one that costs least once the others have made up for it.

    A step is the best single removal with the best update of all that stays (Hassibi and Stork 1993, "optimal brain
    surgeon"); the steps of all rows are merged by their costs (Frantar and Alistarh 2022, "Optimal brain compression").
    The weights are the minimum on what stays. The greedy way need not end at the best support of its size: of small
    correlated problems it does in six of ten, and `least_damage` looks further.
    """
    if isinstance(quota, Amount):
        return _on_support(problem, obc_trace(problem, quota.blocks).mask(quota.count))
    layout = _Layout(problem.weight_GOI.shape, BlockShape(), quota.of)
    alive_RB, rank_RB, _ = _backward(problem, layout, quota)
    return _on_support(problem, layout.mask(alive_RB & (rank_RB == _NEVER)))


def obc_trace(problem: Problem, blocks: BlockShape) -> Trace:
    """Removes all blocks one by one as `obc` does, and keeps the order and what each removal costs."""
    layout = _Layout(problem.weight_GOI.shape, blocks, blocks.columns)
    alive_RB, rank_RB, cost_RB = _backward(problem, layout)
    return Trace.of(layout, rank_RB.where(alive_RB, -1), cost_RB, ~alive_RB)


def damage_steps(problem: Problem, blocks: BlockShape) -> Tensor:
    """Returns what each further block that goes adds to the damage (N,), never falling, those gone already first.

    All rows of a map that are affordable in about a second are traced by `obc`, evenly spread over the map; the others
    are taken to be like them.
    """
    maps, outputs, inputs = problem.weight_GOI.shape
    groups = -(-outputs // blocks.rows)
    affordable = max(8, int(_TRACE_WORK / (inputs**3 / 3)) // maps)
    chosen = torch.arange(min(groups, affordable)) * groups // min(groups, affordable)
    rows = (chosen[:, None] * blocks.rows + torch.arange(blocks.rows)).flatten()
    rows = rows[rows < outputs].to(problem.weight_GOI.device)
    moments, support_GOI = problem.moments, problem.support_GOI
    part = replace(
        problem,
        weight_GOI=problem.weight_GOI[:, rows],
        bias_O=None if problem.bias_O is None else problem.bias_O[rows],
        support_GOI=None if support_GOI is None else support_GOI[:, rows],
        moments=replace(
            moments,
            target_mean_GO=moments.target_mean_GO[:, rows],
            xy_GIO=moments.xy_GIO[:, :, rows],
        ),
    )
    steps = obc_trace(part, blocks).damage_by_count().diff().cummax(0).values
    whole = len(steps) // len(chosen) * groups
    return steps[torch.arange(whole, device=steps.device) * len(steps) // whole]


def forward(problem: Problem, quota: Quota) -> Solution:
    """Adds weights one by one to none, each time the one that helps most once all have adapted to it.

    The dual of `obc` (orthogonal least squares, Chen, Billings and Luo 1989), cheap where few weights of many stay. A
    row gets at most twice as many as the mean row.
    """
    if isinstance(quota, Amount):
        layout = _Layout(problem.weight_GOI.shape, quota.blocks, quota.blocks.columns)
        kept = layout.rows * layout.width - quota.count
        alive_RB, rank_RB, gain_RB = _forward(problem, layout, min(layout.width, 2 * -(-kept // layout.rows) or 1))
        # Read backwards it is an order of removal: what was never added goes first and costs nothing.
        order_RB = torch.where(rank_RB == _NEVER, -layout.width, -rank_RB)
        trace = Trace.of(layout, order_RB.where(alive_RB, -layout.width - 1), gain_RB, ~alive_RB)
        return _on_support(problem, trace.mask(quota.count))
    layout = _Layout(problem.weight_GOI.shape, BlockShape(), quota.of)
    _, rank_RB, _ = _forward(problem, layout, layout.width // quota.of * quota.keep, quota)
    return _on_support(problem, layout.mask(rank_RB != _NEVER))


def swapped(problem: Problem, mask_GOI: Tensor, rounds: int = 10) -> Solution:
    """Exchanges, in each row, one weight that stays for one that does not, as long as that lowers the damage.

    In a round each row makes the best of all its exchanges, told exactly for all pairs (the local search of OSSCAR,
    Meng et al. 2024, for single weights). Where no exchange helps, the support need still not be the best of its size.

    Args:
        problem: with the weights that may stay.
        mask_GOI: where to start.
        rounds: how many exchanges a row makes at most.
    """
    hessian_GII, target_GOI, stays_RI = problem.hessian_GII, problem.right_GIO.mT, mask_GOI.flatten(0, 1).clone()
    may_RI = torch.ones_like(stays_RI) if problem.support_GOI is None else problem.support_GOI.flatten(0, 1)
    sizes_R = stays_RI.sum(1)
    rows = (sizes_R > 0).nonzero().squeeze(1)
    bytes_each = 128 * mask_GOI.shape[2] * max(1, int(sizes_R.max()))  # several arrays of all pairs
    for _ in range(rounds):
        parts = _slices(len(rows), bytes_each)
        better = [_swap(hessian_GII, target_GOI, may_RI, stays_RI, rows[part]) for part in parts]
        if not better:
            break
        rows = rows[torch.cat(better)]
    return ridge(replace(problem, support_GOI=stays_RI.view_as(mask_GOI)))


def best_of_size(problem: Problem, mask_GOI: Tensor) -> Solution:
    """Returns for each row the best of all supports of as many weights, by trying all: for up to 12 inputs or so.

    Args:
        problem: with the weights that may stay.
        mask_GOI: how many weights of each row stay.
    """
    hessian_GII, target_RI = problem.hessian_GII, problem.right_GIO.mT.flatten(0, 1)
    free_RI, stays_RI = ridge(problem).weight_GOI.flatten(0, 1), mask_GOI.flatten(0, 1).clone()
    may_RI = torch.ones_like(stays_RI) if problem.support_GOI is None else problem.support_GOI.flatten(0, 1)
    bits = torch.arange(stays_RI.shape[1], device=stays_RI.device)
    kept_SI = (torch.arange(2 ** len(bits), device=bits.device)[:, None] >> bits) % 2 > 0
    sizes_R = stays_RI.sum(1)
    for size in sorted(set(sizes_R.tolist())):
        kept_TI = kept_SI[kept_SI.sum(1) == size]
        same_size = (sizes_R == size).nonzero().squeeze(1)
        for part in _slices(len(same_size), 64 * kept_TI.numel()):
            rows = same_size[part]
            hessian_RII = hessian_GII[rows // mask_GOI.shape[1]]
            shape_RTI = (len(rows), *kept_TI.shape)
            weight_RTI = _solve_on(kept_TI.expand(shape_RTI), hessian_RII, target_RI[rows][:, None].expand(shape_RTI))
            change_RTI = weight_RTI - free_RI[rows][:, None]
            damage_RT = (change_RTI @ hessian_RII * change_RTI).sum(2)
            damage_RT.masked_fill_((kept_TI & ~may_RI[rows][:, None]).any(2), torch.inf)
            stays_RI[rows] = kept_TI[damage_RT.argmin(1)]
    return ridge(replace(problem, support_GOI=stays_RI.view_as(mask_GOI)))


@dataclass(frozen=True)
class Trace:
    """In which order each row of a map loses its blocks, and what each removal adds to the damage.

    Attributes:
        order_RB: which block of a row goes as the first, second, ...
        cost_RB: what that removal costs, in the same order.
        gone_RB: whether that block was gone already, in the same order.
    """

    layout: _Layout
    order_RB: Tensor
    cost_RB: Tensor
    gone_RB: Tensor

    @classmethod
    def of(cls, layout: _Layout, rank_RB: Tensor, cost_RB: Tensor, gone_RB: Tensor) -> Trace:
        """Sorts by rank what is told block by block."""
        order_RB = rank_RB.argsort(dim=1, stable=True)
        return cls(layout, order_RB, cost_RB.gather(1, order_RB), gone_RB.gather(1, order_RB))

    def __len__(self) -> int:
        """Returns how many blocks there are, those that are gone included."""
        return self.order_RB.numel()

    def mask(self, count: int) -> Tensor:
        """Returns (G, O, I), False where `count` blocks are gone: the cheapest of all rows, the first of equals."""
        going_RB = lowest(self._keys(), count).view_as(self.order_RB)
        return self.layout.mask(torch.ones_like(going_RB).scatter(1, self.order_RB, ~going_RB))

    def damage_by_count(self) -> Tensor:
        """Returns the damage when 0, 1, ... all blocks are gone (len + 1,), beyond that of what was gone already."""
        order = self._keys().argsort(stable=True)
        return F.pad(self.cost_RB.flatten()[order].cumsum(0), (1, 0))

    def _keys(self) -> Tensor:
        """Returns what to sort removals by: a cheap one that has to wait for a dear one goes together with it."""
        return self.cost_RB.masked_fill(self.gone_RB, -torch.inf).cummax(1).values.flatten()


def keep_highest(score_GOI: Tensor, quota: Quota, support_GOI: Tensor | None = None) -> Tensor:
    """Returns (G, O, I), False where a quota of lowest scores is gone, the first of equals first.

    A block's score is the sum of its weights'. What is outside of the support goes first.
    """
    support_GOI = torch.ones_like(score_GOI, dtype=torch.bool) if support_GOI is None else support_GOI
    blocks, multiple = (BlockShape(), quota.of) if isinstance(quota, Pattern) else (quota.blocks, quota.blocks.columns)
    layout = _Layout(score_GOI.shape, blocks, multiple)
    alive_RB = layout.spread(support_GOI).reshape(layout.rows, layout.width, -1).any(2)
    score_RB = layout.spread(score_GOI * support_GOI).reshape(layout.rows, layout.width, -1).sum(2)
    score_RB = score_RB.masked_fill(~alive_RB, -torch.inf)
    if isinstance(quota, Amount):
        kept_RB = ~lowest(score_RB.flatten(), quota.count).view_as(alive_RB)
    else:
        order = score_RB.view(layout.rows, -1, quota.of).argsort(dim=2, stable=True)
        kept_RB = (order.argsort(dim=2) >= quota.of - quota.keep).view_as(alive_RB)
    return layout.mask(kept_RB) & support_GOI


def wanda(problem: Problem) -> Tensor:
    """Scores weights (G, O, I) by abs(w) times the root mean square of what they read (Sun et al. 2023, "Wanda").

    The paper compares within each output.
    """
    return problem.weight_GOI.abs() * _root_mean_square(problem)


def ria(problem: Problem, power: float = 0.5) -> Tensor:
    """Scores weights by relative importance and activation (Zhang et al. 2024, "Plug-and-play", equation 4).

    That is abs(w) as a share of its output's weights and as a share of its input's, times a power of the root mean
    square of what it reads.
    """
    size_GOI = problem.weight_GOI.abs()
    tiny = torch.finfo(size_GOI.dtype).tiny
    shares_GOI = size_GOI / size_GOI.sum(1, keepdim=True).clamp(min=tiny)
    shares_GOI = shares_GOI + size_GOI / size_GOI.sum(2, keepdim=True).clamp(min=tiny)
    return shares_GOI * _root_mean_square(problem) ** power


def sparse_gpt(problem: Problem, quota: Quota) -> Solution:
    """Goes through the inputs once, 128 at a time, and lets those to the right make up for what goes.

    Frantar and Alistarh 2023, "SparseGPT", algorithm 1: weights are chosen by w^2 / U_jj^2, U the upper Cholesky
    factor of H^-1, the same share of each 128 inputs. Exact in number: of equals the first goes.
    """
    weight_GOI = ridge(problem).weight_GOI.clone()
    support_GOI = torch.ones_like(weight_GOI, dtype=torch.bool) if problem.support_GOI is None else problem.support_GOI
    factor_GII = torch.linalg.cholesky(_inverse(problem.hessian_GII), upper=True)
    diagonal_G1I = factor_GII.diagonal(dim1=1, dim2=2)[:, None]
    unit, inputs = quota.of if isinstance(quota, Pattern) else quota.blocks.columns, weight_GOI.shape[2]
    step = max(unit, 128 // unit * unit)
    parts = [slice(first, first + step) for first in range(0, inputs, step)]
    quotas = _spread_quota(quota, [support_GOI[:, :, part] for part in parts])
    mask_GOI = support_GOI.clone()
    for part, own in zip(parts, quotas, strict=True):
        now_GOK, factor_GKK = weight_GOI[:, :, part], factor_GII[:, part, part]
        error_GOK, diagonal_G1K = torch.zeros_like(now_GOK), diagonal_G1I[:, :, part]
        if isinstance(own, Amount):
            mask_GOI[:, :, part] = keep_highest((now_GOK / diagonal_G1K).square(), own, support_GOI[:, :, part])
        for j in range(now_GOK.shape[2]):
            if isinstance(own, Pattern) and j % unit == 0:
                beside = slice(j, j + unit)
                score_GOK = (now_GOK[:, :, beside] / diagonal_G1K[:, :, beside]).square()
                mask_GOI[:, :, part][:, :, beside] = keep_highest(score_GOK, own, support_GOI[:, :, part][:, :, beside])
            lost_GO = now_GOK[:, :, j] * ~mask_GOI[:, :, part][:, :, j]
            error_GOK[:, :, j] = lost_GO / diagonal_G1K[:, :, j]
            now_GOK[:, :, j:] -= error_GOK[:, :, j, None] * factor_GKK[:, None, j, j:]
        weight_GOI[:, :, part.stop :] -= error_GOK @ factor_GII[:, part, part.stop :]
    return problem.solution(weight_GOI * mask_GOI, mask_GOI)


def alps(problem: Problem, quota: Quota, rounds: int = 300) -> Solution:
    """Finds the support by splitting: a ridge towards what stays, and what stays chosen anew from it, in turn.

    Meng et al. 2024, "ALPS: improved optimization for highly sparse one-shot pruning": ADMM on inputs scaled to unit
    norm, with a penalty that grows as the support settles. The weights are then solved for exactly, where the paper
    takes ten steps of conjugate gradients. One decomposition for a map and two products a round: for many inputs.
    """
    scale_G1I = problem.hessian_GII.diagonal(dim1=1, dim2=2).sqrt()[:, None]
    free_GOI = ridge(problem).weight_GOI * scale_G1I
    values_GI, vectors_GII = torch.linalg.eigh(problem.hessian_GII / (scale_G1I * scale_G1I.mT))
    target_GOI = problem.right_GIO.mT / scale_G1I

    def chosen(weight_GOI: Tensor) -> Tensor:
        return keep_highest(weight_GOI.square(), quota, problem.support_GOI)

    mask_GOI = before_GOI = chosen(free_GOI)
    sparse_GOI, dual_GOI = free_GOI * mask_GOI, torch.zeros_like(free_GOI)
    penalty, settled = 0.1, False  # settled: the penalty is large enough to move the support
    for turn in range(1, rounds + 1):
        pulled_GOI = (target_GOI - dual_GOI + penalty * sparse_GOI) @ vectors_GII
        dense_GOI = pulled_GOI / (values_GI[:, None] + penalty) @ vectors_GII.mT
        wanted_GOI = dense_GOI + dual_GOI / penalty
        mask_GOI = chosen(wanted_GOI)
        sparse_GOI = wanted_GOI * mask_GOI
        dual_GOI = penalty * (wanted_GOI - sparse_GOI)
        if turn % 3:
            continue
        change = int((mask_GOI != before_GOI).sum()) / max(1, int(mask_GOI.sum()))
        if (settled and change == 0) or (turn > 30 and change < 3e-4):
            break
        if settled or change > 0.005:
            settled = True
            penalty *= 1.3 if change > 0.1 else 1.2 if change > 0.005 else 1.1
        else:
            penalty /= 5
            if change > 0:
                sparse_GOI, dual_GOI = free_GOI * chosen(free_GOI), torch.zeros_like(free_GOI)
        before_GOI = mask_GOI
    return ridge(replace(problem, support_GOI=mask_GOI))


def _root_mean_square(problem: Problem) -> Tensor:
    """Returns that of each input (G, 1, I), its mean included."""
    square_GI = problem.moments.xx_GII.diagonal(dim1=1, dim2=2)
    if problem.bias_O is not None:  # the moments are centred
        square_GI = square_GI + problem.moments.mean_GI.square()
    return square_GI.sqrt()[:, None]


def _spread_quota(quota: Quota, supports: Sequence[Tensor]) -> list[Quota]:
    """Returns the quota of each of several parts of a map: the same share, more where more is gone already."""
    if isinstance(quota, Pattern):
        return [quota] * len(supports)
    layouts = [_Layout(support.shape, quota.blocks, quota.blocks.columns) for support in supports]
    alive = [
        int(layout.spread(support).reshape(layout.rows, layout.width, -1).any(2).sum())
        for layout, support in zip(layouts, supports, strict=True)
    ]
    sizes = [layout.rows * layout.width for layout in layouts]
    gone = [size - number for size, number in zip(sizes, alive, strict=True)]
    return [Amount(count, quota.blocks) for count in shares_of(sizes, quota.count, gone)]


_NEVER = 2**62
"""The rank of a block that no step picks."""


@dataclass(frozen=True)
class _Layout:
    """How the weights (G, O, I) of a map lie in rows of whole blocks, filled up with weights that are not there."""

    shape: torch.Size
    blocks: BlockShape
    multiple: int
    """Of what the inputs of a row are a multiple: a block's columns, or a pattern's."""

    @property
    def rows(self) -> int:
        """How many rows of blocks there are."""
        return self.shape[0] * -(-self.shape[1] // self.blocks.rows)

    @property
    def width(self) -> int:
        """How many blocks a row has."""
        return -(-self.shape[2] // self.multiple) * self.multiple // self.blocks.columns

    def spread(self, values_GOI: Tensor) -> Tensor:
        """Returns values as (R, D, M)."""
        more_O, more_I = -self.shape[1] % self.blocks.rows, -self.shape[2] % self.multiple
        filled_GOI = F.pad(values_GOI, (0, more_I, 0, more_O))
        return filled_GOI.reshape(self.rows, self.blocks.rows, -1).mT

    def fill(self, hessian_GII: Tensor) -> Tensor:
        """Returns the matrices as (G, D, D); what is filled up has to do with nothing."""
        more = -self.shape[2] % self.multiple
        filled_GDD = F.pad(hessian_GII, (0, more, 0, more))
        filled_GDD.diagonal(dim1=1, dim2=2)[:, self.shape[2] :] = 1.0
        return filled_GDD

    def mask(self, kept_RB: Tensor) -> Tensor:
        """Returns (G, O, I), True where a weight's block is kept."""
        maps, outputs, inputs = self.shape
        kept_RD = kept_RB.repeat_interleave(self.blocks.columns, 1)
        return kept_RD.repeat_interleave(self.blocks.rows, 0).view(maps, -1, kept_RD.shape[1])[:, :outputs, :inputs]


def _backward(problem: Problem, layout: _Layout, pattern: Pattern | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Removes blocks until none may go: what is there at first, the step at which a block goes, and its cost."""
    return _run(problem, layout, ridge(problem).weight_GOI, pattern, steps=layout.width, forward=False)


def _forward(
    problem: Problem, layout: _Layout, steps: int, pattern: Pattern | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Adds `steps` blocks to each row: what may come, the step at which a block comes, and its gain."""
    return _run(problem, layout, problem.right_GIO.mT, pattern, steps=steps, forward=True)


def _run(
    problem: Problem,
    layout: _Layout,
    vector_GOI: Tensor,
    pattern: Pattern | None,
    *,
    steps: int,
    forward: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Eliminates blocks of all rows, as many rows at once as memory allows."""
    support_GOI = torch.ones_like(vector_GOI, dtype=torch.bool) if problem.support_GOI is None else problem.support_GOI
    there_RDM, vector_RDM = layout.spread(support_GOI), layout.spread(vector_GOI * support_GOI)
    alive_RB = there_RDM.reshape(layout.rows, layout.width, -1).any(2)
    room_RU, open_RB = None, alive_RB
    if pattern is not None:  # how many of each U neighbours may go, or come
        alive_RU = alive_RB.view(layout.rows, -1, pattern.of).sum(2)
        room_RU = alive_RU.clamp(max=pattern.keep) if forward else (alive_RU - pattern.keep).clamp(min=0)
        open_RB = alive_RB & (room_RU > 0).repeat_interleave(pattern.of, 1)
    matrix_GDD = layout.fill(problem.hessian_GII)
    own = problem.support_GOI is not None and (not forward or layout.blocks.columns > 1)
    if not own and not forward:
        matrix_GDD = _inverse(matrix_GDD)
    size = matrix_GDD.shape[1]
    pending = steps * layout.blocks.columns if forward else max(_PENDING, layout.blocks.columns)
    parts = []
    for rows in _slices(layout.rows, 8 * size * (size if own or not forward else pending)):
        map_R = torch.arange(layout.rows, device=vector_GOI.device)[rows] // (layout.rows // layout.shape[0])
        matrix_NDD, where_R = matrix_GDD, map_R
        if own:  # a weight that is gone has to do with nothing
            there_RD = there_RDM[rows].any(2)
            matrix_NDD = matrix_GDD[map_R] * (there_RD[:, :, None] & there_RD[:, None, :])
            matrix_NDD.diagonal(dim1=1, dim2=2).masked_fill_(~there_RD, 1.0)
            matrix_NDD = matrix_NDD if forward else _inverse(matrix_NDD)
            where_R = torch.arange(len(map_R), device=map_R.device)
        room = None if room_RU is None else room_RU[rows].clone()
        parts.append(
            _eliminate(
                matrix_NDD,
                where_R,
                vector_RDM[rows],
                open_RB[rows].clone(),
                room,
                steps=steps,
                pending=pending,
                sign=-1 if forward else 1,
            )
        )
    return alive_RB, torch.cat([rank for rank, _ in parts]), torch.cat([cost for _, cost in parts])


def _eliminate(
    matrix_NDD: Tensor,
    where_R: Tensor,
    vector_RDM: Tensor,
    open_RB: Tensor,
    room_RU: Tensor | None,
    *,
    steps: int,
    pending: int,
    sign: int,
) -> tuple[Tensor, Tensor]:
    """Eliminates in each row, step by step, the block whose v_B^T A_BB^-1 v_B is least (most, if `sign` is -1).

    With A = H^-1 and v = w that is the damage of removing a block, with A = H and v = H w* the gain of adding it; and
    what follows for the others is in both cases v -= A_:B A_BB^-1 v_B and A -= A_:B A_BB^-1 A_B:.

    Args:
        matrix_NDD: A, of several rows perhaps.
        where_R: which of them is a row's.
        vector_RDM: v.
        open_RB: which blocks may be picked; changed.
        room_RU: how many of neighbouring blocks may be picked; changed.
        steps: how many blocks a row loses at most.
        pending: how many inputs are eliminated before A is brought up to date.
        sign: 1 or -1.

    Returns:
        The step at which each block was picked (`_NEVER` if it was not), and its value.
    """
    rows, width = open_RB.shape
    size = vector_RDM.shape[1] // width
    here_R, inside_C = torch.arange(rows, device=where_R.device), torch.arange(size, device=where_R.device)
    rank_RB = torch.full((rows, width), _NEVER, device=where_R.device)
    cost_RB = torch.zeros_like(rank_RB, dtype=vector_RDM.dtype)
    names_RB = torch.arange(width, device=where_R.device).expand(rows, width)
    vector = vector_RDM.reshape(rows, width, size, -1).clone()
    blocks_NBCBC = matrix_NDD.view(-1, width, size, width, size)
    diagonal = blocks_NBCBC.diagonal(dim1=1, dim2=3).movedim(3, 1)[where_R]
    waiting_RPD, waits = matrix_NDD.new_empty(rows, pending, matrix_NDD.shape[1]), 0
    for step in range(steps):
        score_RB = sign * _whiten(diagonal, vector).square().sum((2, 3))
        score_R, pick_R = score_RB.masked_fill_(~open_RB, torch.inf).min(1)
        found_R = score_R.isfinite()
        if not found_R.any():
            break
        # Row B of A as it is now, in units in which A_BB is the identity.
        inputs_RC = pick_R[:, None] * size + inside_C
        row_RCD = matrix_NDD[where_R[:, None], inputs_RC]
        if waits:
            row_RCD = row_RCD.baddbmm(waiting_RPD[here_R[:, None], :waits, inputs_RC], waiting_RPD[:, :waits], alpha=-1)
        picked_RCC = diagonal[here_R, pick_R]
        row_RCD = _whiten(picked_RCC, row_RCD) * found_R[:, None, None]
        vector -= (row_RCD.mT @ _whiten(picked_RCC, vector[here_R, pick_R])).view_as(vector)
        for row_RBC in row_RCD.view(rows, size, -1, size).unbind(1):
            diagonal.addcmul_(row_RBC[..., None], row_RBC[..., None, :], value=-1)
        waiting_RPD[:, waits : waits + size] = row_RCD
        waits += size
        # The block itself: told, and out of the way.
        name_R = names_RB[here_R, pick_R]
        rank_RB[here_R[found_R], name_R[found_R]] = step
        cost_RB[here_R[found_R], name_R[found_R]] = sign * score_R[found_R]
        vector[here_R, pick_R], diagonal[here_R, pick_R] = 0.0, torch.eye(size).to(diagonal)
        open_RB[here_R, pick_R] = False
        if room_RU is not None:
            neighbours = width // room_RU.shape[1]
            room_RU[here_R, name_R // neighbours] -= found_R.long()
            open_RB &= room_RU.gather(1, names_RB // neighbours) > 0
        if waits + size > pending and step + 1 < steps:
            # Bring A up to date, without what can no longer be picked.
            left = max(1, int(open_RB.sum(1).max()))
            keep_RB = (~open_RB).byte().argsort(dim=1, stable=True)[:, :left]
            keep_RD = (keep_RB[:, :, None] * size + inside_C).flatten(1)
            waiting_RPD = waiting_RPD.gather(2, keep_RD[:, None].expand(-1, pending, -1))
            matrix_NDD = matrix_NDD[where_R[:, None], keep_RD].gather(2, keep_RD[:, None].expand(-1, left * size, -1))
            matrix_NDD.baddbmm_(waiting_RPD[:, :waits].mT, waiting_RPD[:, :waits], alpha=-1)
            where_R, waits = here_R, 0
            open_RB, names_RB = open_RB.gather(1, keep_RB), names_RB.gather(1, keep_RB)
            vector, diagonal = vector[here_R[:, None], keep_RB], diagonal[here_R[:, None], keep_RB]
    return rank_RB, cost_RB


def _whiten(square: Tensor, values: Tensor) -> Tensor:
    """Returns L^-1 values for square = L L^T (..., C, C), values (..., C, any)."""
    if square.shape[-1] == 1:
        return values / square.sqrt()
    whitened: Tensor = torch.linalg.solve_triangular(torch.linalg.cholesky(square), values, upper=False)
    return whitened


def _swap(hessian_GII: Tensor, target_GOI: Tensor, may_RI: Tensor, stays_RI: Tensor, rows: Tensor) -> Tensor:
    """Makes the best exchange of each of some rows, in place, and returns in which there was one."""
    here, stays = torch.arange(len(rows), device=rows.device), stays_RI[rows]
    place, target_RI = rows // target_GOI.shape[1], target_GOI.flatten(0, 1)[rows]
    inputs_RK, real_RK = _places(stays)
    columns_RKI = hessian_GII[place[:, None], inputs_RK] * real_RK[..., None]
    inverse_RKK = _inverse(_between(hessian_GII, place, inputs_RK, real_RK))
    weight_RK = (inverse_RKK @ (target_RI.gather(1, inputs_RK) * real_RK)[..., None])[..., 0]
    shadow_RKI = inverse_RKK @ columns_RKI
    # With weight k gone, what an input i would explain of what is missing, and how much of it is its own.
    missing_RI = target_RI - (weight_RK[:, None] @ columns_RKI)[:, 0]
    own_RI = hessian_GII.diagonal(dim1=1, dim2=2)[place] - (shadow_RKI * columns_RKI).sum(1)
    own_RK = inverse_RKK.diagonal(dim1=1, dim2=2)
    gain_RKI = (missing_RI[:, None] + shadow_RKI * (weight_RK / own_RK)[..., None]).square_()
    gain_RKI /= own_RI[:, None] + shadow_RKI.square() / own_RK[..., None]
    gain_RKI -= (weight_RK.square() / own_RK)[..., None]
    free_RI = may_RI[rows] & ~stays
    gain_R, best_R = gain_RKI.masked_fill_(~free_RI[:, None] | ~real_RK[..., None], -torch.inf).flatten(1).max(1)
    better_R = gain_R > 1e-10 * (weight_RK.square() / own_RK).sum(1)
    goes_R, comes_R = inputs_RK[here, best_R // stays.shape[1]], best_R % stays.shape[1]
    stays_RI[rows[better_R], goes_R[better_R]] = False
    stays_RI[rows[better_R], comes_R[better_R]] = True
    return better_R


def _on_support(problem: Problem, mask_GOI: Tensor) -> Solution:
    """Returns the minimum over the weights that stay."""
    if problem.support_GOI is not None:
        mask_GOI = mask_GOI & problem.support_GOI  # of a block that stays some may be gone already
    return ridge(replace(problem, support_GOI=mask_GOI))


def _solve(hessian_GII: Tensor, target_GOI: Tensor) -> Tensor:
    """Returns target H^-1."""
    return torch.cholesky_solve(target_GOI.mT, torch.linalg.cholesky(hessian_GII)).mT


def _solve_on(support_GOI: Tensor, hessian_GII: Tensor, target_GOI: Tensor) -> Tensor:
    """Returns target_S H_SS^-1 of each row, zero outside its support S; rows of like size are solved together."""
    support_RI, target_RI = support_GOI.flatten(0, 1), target_GOI.flatten(0, 1)
    sizes = support_RI.sum(1)
    by_size = sizes.argsort(descending=True, stable=True)
    weight_RI = torch.zeros_like(target_RI)
    first, filled = 0, int((sizes > 0).sum())
    while first < filled:
        most = int(sizes[by_size[first]])
        rows = by_size[first : min(filled, first + max(1, _CHUNK_BYTES // (8 * most * most)))]
        inputs_RK, real_RK = _places(support_RI[rows])
        hessian_RKK = _between(hessian_GII, rows // support_GOI.shape[1], inputs_RK, real_RK)
        values_RK = target_RI[rows[:, None], inputs_RK] * real_RK
        weight_RI[rows[:, None], inputs_RK] = _solve(hessian_RKK, values_RK[:, None])[:, 0]
        first += len(rows)
    return weight_RI.view_as(target_GOI)


def _places(support_RI: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the inputs of each support (R, K), in order, and which of them are no filling: K is the largest size."""
    sizes = support_RI.sum(1)
    inputs_RK = (~support_RI).byte().argsort(dim=1, stable=True)[:, : int(sizes.max())]
    return inputs_RK, torch.arange(inputs_RK.shape[1], device=sizes.device) < sizes[:, None]


def _between(hessian_NII: Tensor, where_R: Tensor, inputs_RK: Tensor, real_RK: Tensor) -> Tensor:
    """Returns each row's part H_SS of its matrix (R, K, K); filling has to do with nothing."""
    hessian_RKK = hessian_NII[where_R[:, None, None], inputs_RK[:, :, None], inputs_RK[:, None, :]]
    hessian_RKK *= real_RK[:, :, None] & real_RK[:, None, :]
    hessian_RKK.diagonal(dim1=1, dim2=2).masked_fill_(~real_RK, 1.0)
    return hessian_RKK


def _inverse(matrix: Tensor) -> Tensor:
    """Returns the inverses of symmetric positive definite matrices."""
    return torch.cholesky_inverse(torch.linalg.cholesky(matrix))


def _slices(rows: int, bytes_each: int) -> Iterator[slice]:
    """Cuts rows into parts that fit into memory."""
    step = max(1, _CHUNK_BYTES // bytes_each)
    return (slice(first, first + step) for first in range(0, rows, step))
