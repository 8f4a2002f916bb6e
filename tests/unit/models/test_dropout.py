"""Dropout that draws positions: the distribution of independent draws, and the arithmetic of the plain operators."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunecast.kernels import attention
from prunecast.kernels.dropout import Dropout, dropout_set, dropped_positions
from prunecast.models.layers.blocks import Attention


@settings(deadline=None)  # the first call compiles
@given(st.integers(1, 3000), st.floats(0.001, 0.99), st.integers(0, 2**31))
def test_positions_are_sorted_distinct_and_in_range(count: int, p: float, seed: int) -> None:
    torch.manual_seed(seed)
    positions = dropped_positions(count, p)
    assert positions.dtype == torch.int64
    assert bool((positions.diff() > 0).all())
    assert bool(((positions >= 0) & (positions < count)).all())


@pytest.mark.parametrize("p", [0.05, 0.3, 0.9])
def test_each_position_and_each_pair_is_hit_as_by_independent_draws(p: float) -> None:
    torch.manual_seed(1)
    trials, count = 6000, 5
    hits = torch.zeros(trials, count, dtype=torch.float64)
    for trial in range(trials):
        hits[trial, dropped_positions(count, p)] = 1
    moments = hits.T @ hits / trials
    expected = torch.full((count, count), p * p, dtype=torch.float64).fill_diagonal_(p)
    five_deviations = 5 * (expected * (1 - expected) / trials).sqrt()
    assert bool(((moments - expected).abs() < five_deviations).all())


def test_a_long_draw_has_the_right_share_in_every_stretch() -> None:
    torch.manual_seed(2)
    count, p, stretches = 2_000_000, 0.05, 100
    found = torch.bincount(dropped_positions(count, p) * stretches // count, minlength=stretches).double()
    expected = count / stretches * p
    deviations = (found - expected) / (expected * (1 - p)) ** 0.5
    assert deviations.abs().max() < 5
    assert 0.6 < deviations.var() < 1.6


def test_too_few_draws_are_followed_by_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda draws, dtype: torch.zeros(2, dtype=dtype))
    assert dropped_positions(7, 0.5).tolist() == list(range(7))


def test_dropout_scales_what_stays_and_the_gradient_goes_the_same_way() -> None:
    torch.manual_seed(3)
    layer, x = Dropout(0.25).train(), torch.randn(40, 30, dtype=torch.float64).T.requires_grad_()
    y = layer(x)
    stays = y != 0
    assert 0.6 < stays.double().mean() < 0.9
    torch.testing.assert_close(y, torch.where(stays, x / 0.75, 0.0))
    y.backward(x.detach())
    torch.testing.assert_close(x.grad, torch.where(stays, x / 0.75, 0.0).detach())
    assert layer.eval()(x) is x


def test_a_sum_with_dropout_is_the_sum_of_both() -> None:
    layer = Dropout(0.3).train()
    x, y = (torch.randn(5, 4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def added(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(6)
        return layer.added(x, y)

    found = added(x, y)
    torch.manual_seed(6)
    torch.testing.assert_close(found, x + layer(y))
    assert torch.autograd.gradcheck(added, (x, y))
    torch.testing.assert_close(added(x.mT, y.mT), added(x.mT.contiguous(), y.mT.contiguous()))
    assert added(x.detach().bfloat16(), y.detach().float()).dtype == torch.float32
    assert torch.equal(layer.eval().added(x, y), x + y)


@pytest.mark.parametrize(("batch", "heads", "queries", "causal"), [(3, 4, 5, False), (3, 4, 7, True), (1, 1, 4, True)])
@pytest.mark.parametrize("piece", [1, 100, 2**20])
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_training_attention_equals_plain_operators_with_the_same_mask(
    monkeypatch: pytest.MonkeyPatch, batch: int, heads: int, queries: int, causal: bool, piece: int, p: float
) -> None:
    monkeypatch.setattr(attention, "PIECE", piece)
    torch.manual_seed(4)
    steps, layer = 7, Attention(6, 6, heads, 2, p).double()
    memory = torch.randn(batch, steps, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(batch, queries, 6, dtype=torch.float64)
    inputs = (memory, *layer.parameters())

    torch.manual_seed(5)
    with monkeypatch.context() as patch:
        patch.setattr(attention, "MANY", 1)
        fast = layer.train()(memory[:, -queries:], memory, causal)
    assert "_ToStream" in fast.grad_fn.name()
    fast_gradients = torch.autograd.grad((fast * weight).sum(), inputs, retain_graph=True)
    again = torch.autograd.grad((fast * weight).sum(), inputs)

    torch.manual_seed(5)
    mask = torch.full((batch * heads * queries * steps,), 1 / (1 - p), dtype=torch.float64)
    mask[dropped_positions(len(mask), p)] = 0
    layer.dropout.forward = lambda weights: weights * mask.view(weights.shape)
    plain = layer.eval()(memory[:, -queries:], memory, causal)
    plain_gradients = torch.autograd.grad((plain * weight).sum(), inputs)

    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-13)
    for mine, twice, theirs in zip(fast_gradients, again, plain_gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-13)
        assert torch.equal(mine, twice)


def test_a_probability_is_set_for_a_while_where_there_is_one() -> None:
    ours, usual, without = Dropout(0.3), torch.nn.Dropout1d(0.2), Dropout(0.0)
    model = torch.nn.Sequential(ours, usual, without, torch.nn.Linear(2, 2))
    with dropout_set(model, 0.1):
        assert (ours.p, usual.p, without.p) == (0.1, 0.1, 0)
        with dropout_set(model, None):
            assert (ours.p, usual.p, without.p) == (0.1, 0.1, 0)
    assert (ours.p, usual.p, without.p) == (0.3, 0.2, 0)
