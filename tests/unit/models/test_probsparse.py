"""Parts of Informer, each against its definition: attention of chosen queries, distilling, feed-forward in training."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunecast.kernels.dropout import dropped_positions
from prunecast.models.informer import Distilling, Heads, ProbSparse, Sampling, distilled_steps
from prunecast.models.layers.blocks import FeedForward


@pytest.mark.parametrize(
    ("count", "several"), [(1, 1), (2, 2), (3, 3), (9, 9), (21, 12), (24, 12), (96, 15), (720, 21)]
)
def test_how_many_keys_are_sampled_and_queries_chosen(count: int, several: int) -> None:
    assert Sampling(count, 50, 3).chosen == several
    assert Sampling(50, count, 3).draw().shape == (50, several)


@torch.no_grad()
def _by_hand(layer: ProbSparse, x_QD: Tensor, memory_SD: Tensor, causal: bool) -> Tensor:
    """Algorithm 1 of the paper, query by query: what each head makes of each query, (heads, Q, E)."""
    size, queries, steps = layer.head_size, len(x_QD), len(memory_SD)
    result = []
    for head in range(layer.heads):
        part = slice(head * size, (head + 1) * size)
        q, k, v = (
            F.linear(x, projection.weight[part], projection.bias[part])
            for x, projection in ((x_QD, layer.query), (memory_SD, layer.key), (memory_SD, layer.value))
        )
        measures = []
        for query, keys in zip(q, layer.sampled, strict=True):
            scores = [(query @ k[key]).item() for key in keys]
            measures.append(max(scores) - sum(scores) / steps)
        chosen = sorted(range(queries), key=lambda query: -measures[query])[: layer.sampling.chosen]
        rows = []
        for query in range(queries):
            seen = query + 1 if causal else steps
            weights = (k[:seen] @ q[query] / math.sqrt(size)).softmax(0)
            others = v[:seen].sum(0) if causal else v.mean(0)
            rows.append(weights @ v[:seen] if query in chosen else others)
        result.append(torch.stack(rows))
    return torch.stack(result)


def _layer(
    places: tuple[int, ...], *, mixed: bool, queries: int, steps: int, read: int | None = None, size: int = 3
) -> ProbSparse:
    heads = Heads(places, 4, size, mixed, read or queries)
    return ProbSparse(7, 5 if steps != queries else 7, heads, Sampling(queries, steps, 1)).double()


LAYERS = pytest.mark.parametrize("mixed", [True, False])
SHAPES = pytest.mark.parametrize(("queries", "steps", "causal"), [(10, 10, False), (10, 10, True), (10, 6, False)])
PLACES = pytest.mark.parametrize("places", [(0, 1, 2, 3), (1,), (0, 3), (1, 2, 3)], ids=str)


@LAYERS
@SHAPES
@PLACES
def test_attention_is_that_of_the_paper(
    places: tuple[int, ...], queries: int, steps: int, causal: bool, mixed: bool
) -> None:
    torch.manual_seed(2)
    layer = _layer(places, mixed=mixed, queries=queries, steps=steps).eval()
    x = torch.randn(2, queries, 7, dtype=torch.float64)
    memory = x if steps == queries else torch.randn(2, steps, 5, dtype=torch.float64)
    contexts = torch.zeros(2, 4 if mixed else len(places), queries, 3, dtype=torch.float64)
    for window in range(2):
        where = list(places) if mixed else slice(None)
        contexts[window, where] = _by_hand(layer, x[window], memory[window], causal)
    rows = contexts.reshape(2, queries, -1) if mixed else contexts.transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer(x, memory, causal), layer.out(rows))


@LAYERS
@SHAPES
@PLACES
@pytest.mark.parametrize("read", [10, 4])
@pytest.mark.parametrize("size", [3, 8, 21])
def test_compiled_kernels_are_the_same_function(
    places: tuple[int, ...], queries: int, steps: int, causal: bool, mixed: bool, read: int, size: int
) -> None:
    torch.manual_seed(3)
    plain = _layer(places, mixed=mixed, queries=queries, steps=steps, read=read, size=size)
    fast = deepcopy(plain).float()
    x = torch.randn(16, queries, 7, dtype=torch.float64)
    memory = x if steps == queries else torch.randn(16, steps, 5, dtype=torch.float64)
    gradient, found = torch.randn(16, read, 7, dtype=torch.float64), []
    for layer, training in ((plain, True), (fast, True), (fast, False)):
        number = next(layer.parameters()).dtype
        own_x = x.to(number).requires_grad_()
        own_memory = own_x if memory is x else memory.to(number).requires_grad_()
        every = [own_x, *([] if memory is x else [own_memory]), *layer.parameters()]
        y = layer.train(training)(own_x, own_memory, causal)
        gradients = torch.autograd.grad(y, every, gradient.to(number), allow_unused=True, materialize_grads=True)
        found.append([tensor.double() for tensor in (y, *gradients)])
    for expected, trained, evaluated in zip(*found, strict=True):
        torch.testing.assert_close(trained, expected, rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(evaluated, trained, rtol=1e-7, atol=1e-7)


def test_who_listens_to_a_projection_hears_it() -> None:
    layer, heard = _layer((0, 1, 2, 3), mixed=True, queries=10, steps=10).float(), []
    layer.key.register_forward_hook(lambda module, inputs, output: heard.append(output.shape))
    x = torch.randn(20, 10, 7)
    layer.eval()(x, x)
    layer.train()(x, x)
    assert heard == [(20, 10, 12)] * 2


def test_only_the_rows_that_are_read_come_out() -> None:
    torch.manual_seed(4)
    for places in ((0, 1, 2, 3), (0, 2), (3,), (1,)):
        for mixed in (True, False):
            every = _layer(places, mixed=mixed, queries=10, steps=10).eval()
            last = _layer(places, mixed=mixed, queries=10, steps=10, read=4).eval()
            last.load_state_dict(every.state_dict())
            x = torch.randn(2, 10, 7, dtype=torch.float64)
            torch.testing.assert_close(last(x, x), every(x, x)[:, -4:])


@pytest.mark.parametrize("padding", [1, 2])
@pytest.mark.parametrize("steps", [3, 4, 7, 96])
def test_distilling_is_the_published_chain_of_layers(steps: int, padding: int) -> None:
    torch.manual_seed(6)
    ours = Distilling(5, 4, padding)
    convolution = nn.Conv1d(5, 4, 3, padding=padding, padding_mode="circular")
    convolution.load_state_dict(ours.convolution.state_dict())
    chain = nn.Sequential(convolution, nn.BatchNorm1d(4), nn.ELU(), nn.MaxPool1d(3, stride=2, padding=1))
    for _ in range(2):
        x = torch.randn(6, steps, 5)
        y = ours(x)
        torch.testing.assert_close(y, chain(x.mT).mT)
        assert y.shape == (6, distilled_steps(steps, padding), 4)
    torch.testing.assert_close(ours.norm.variance, chain[1].running_var)
    torch.testing.assert_close(ours.eval()(x), chain.eval()(x.mT).mT)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("numbers", [torch.float32, torch.float64], ids=["compiled", "plain"])
def test_feed_forward_drops_as_the_plain_operators_would(
    activation: Literal["gelu", "relu"], bias: bool, numbers: torch.dtype
) -> None:
    torch.manual_seed(7)
    layer = FeedForward(5, 40, activation, 0.3, bias=bias).to(numbers).train()
    x = torch.randn(6, 9, 5, dtype=numbers, requires_grad=True)
    torch.manual_seed(8)
    found = layer(x)
    hidden = layer.activation(layer.up(x))
    kept = torch.ones_like(hidden).flatten()
    torch.manual_seed(8)
    kept[dropped_positions(hidden.numel(), 0.3)] = 0
    expected = layer.down(hidden * kept.view_as(hidden) / 0.7)
    torch.testing.assert_close(found, expected)
    every, gradient = [x, *layer.parameters()], torch.randn_like(found)
    pairs = zip(
        torch.autograd.grad(found, every, gradient), torch.autograd.grad(expected, every, gradient), strict=True
    )
    for ours, plain in pairs:
        torch.testing.assert_close(ours, plain)
    assert 0.6 < kept.mean() < 0.8
