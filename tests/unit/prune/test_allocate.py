from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunecast.prune.allocate import (
    global_masks,
    global_priorities,
    largest_remainder,
    layer_masks,
    lowest,
    removal_order,
    shares_of,
    uniform_priorities,
)

SCORE = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0]) | st.floats(0, 4, width=32)
LAYERS = st.lists(st.lists(SCORE, min_size=1, max_size=12), min_size=1, max_size=5)


def _scores(layers: list[list[float]]) -> dict[str, torch.Tensor]:
    return {f"layer{place}": torch.tensor(values) for place, values in enumerate(layers)}


def _flat(masks) -> torch.Tensor:
    return torch.cat([mask.flatten() for mask in masks.values()])


@settings(deadline=None)
@given(LAYERS, st.data())
def test_global_masks_remove_the_lowest_scores_first_of_equals_first(layers, data) -> None:
    everything = [value for layer in layers for value in layer]
    count = data.draw(st.integers(0, len(everything)))
    removed = (~_flat(global_masks(_scores(layers), count))).nonzero().squeeze(1).tolist()
    in_order = sorted(range(len(everything)), key=lambda place: (everything[place], place))
    assert removed == sorted(in_order[:count])


@settings(deadline=None)
@given(LAYERS, st.data())
def test_a_smaller_global_budget_removes_a_subset(layers, data) -> None:
    scores = _scores(layers)
    total = sum(score.numel() for score in scores.values())
    small, large = sorted(data.draw(st.tuples(st.integers(0, total), st.integers(0, total))))
    assert not (~_flat(global_masks(scores, small)) & _flat(global_masks(scores, large))).any()


@settings(deadline=None)
@given(LAYERS, st.data())
def test_layer_masks_meet_the_budget_and_take_each_layers_lowest(layers, data) -> None:
    scores = _scores(layers)
    total = sum(score.numel() for score in scores.values())
    count = data.draw(st.integers(0, total))
    masks = layer_masks(scores, count)
    assert (~_flat(masks)).sum() == count
    for name, mask in masks.items():
        removed = int((~mask).sum())
        assert abs(removed - scores[name].numel() * count / total) < 1
        assert torch.equal(~mask, lowest(scores[name], removed))


@settings(deadline=None)
@given(LAYERS, st.data())
def test_what_is_gone_already_goes_first_even_where_a_layer_lost_more_than_its_share(layers, data) -> None:
    scores = _scores(layers)
    total = sum(score.numel() for score in scores.values())
    gone = data.draw(st.lists(st.booleans(), min_size=total, max_size=total))
    parts = torch.tensor(gone).split([score.numel() for score in scores.values()])
    held = dict(zip(scores, parts, strict=True))
    marked = {name: score.masked_fill(held[name], -torch.inf) for name, score in scores.items()}
    count = data.draw(st.integers(sum(gone), total))
    for allocate in (global_masks, layer_masks):
        masks = allocate(marked, count)
        assert (~_flat(masks)).sum() == count
        assert not any((masks[name] & held[name]).any() for name in masks)


def test_masks_own_their_memory() -> None:
    torch.manual_seed(1)
    masks = global_masks({"a": torch.rand(4), "b": torch.rand(2, 3)}, 5)
    assert [mask.untyped_storage().nbytes() for mask in masks.values()] == [4, 6]
    assert [tuple(mask.shape) for mask in masks.values()] == [(4,), (2, 3)]


@settings(deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=20), st.floats(0, 1))
def test_largest_remainder_adds_up_and_stays_within_one_of_the_share(sizes, share) -> None:
    count = round(share * sum(sizes))
    shares = largest_remainder(sizes, count)
    assert sum(shares) == count
    assert all(abs(part - size * count / sum(sizes)) < 1 for part, size in zip(shares, sizes, strict=True))
    assert all(0 <= part <= size for part, size in zip(shares, sizes, strict=True))


def test_largest_remainder_gives_the_rest_to_the_largest_remainders_then_by_place() -> None:
    assert largest_remainder([5, 3, 2], 4) == [2, 1, 1]
    assert largest_remainder([1, 1, 1], 2) == [1, 1, 0]


def test_a_layer_that_lost_more_than_its_share_keeps_its_loss() -> None:
    assert shares_of([100, 100, 100], 150, [0, 0, 0]) == [50, 50, 50]
    assert shares_of([100, 100, 100], 150, [90, 0, 0]) == [90, 30, 30]
    assert shares_of([100, 100, 100], 150, [90, 40, 0]) == [90, 40, 20]


def test_uniform_order_takes_the_same_share_of_each_group() -> None:
    torch.manual_seed(1)
    scores = {"a": torch.rand(4), "b": torch.rand(16) + 5}
    order = removal_order(uniform_priorities(scores), {"a": 1, "b": 1})
    for count in range(1, len(order) + 1):
        kept = order.keep(count)
        lost = [len(scores[name]) - len(kept.get(name, scores[name])) for name in scores]
        assert sum(lost) == count
        assert abs(lost[0] / 4 - lost[1] / 16) <= 1 / 4


def test_global_order_takes_the_weakest_wherever_they_are() -> None:
    scores = {"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([2.0, 0.5, 4.0])}
    order = removal_order(global_priorities(scores), {"a": 1, "b": 1})
    assert list(zip(order.group.tolist(), order.unit.tolist(), strict=True)) == [(1, 1), (0, 0), (1, 0)]
    assert {name: units.tolist() for name, units in order.keep(2).items()} == {"a": [1], "b": [0, 2]}


@settings(deadline=None)
@given(LAYERS, st.sampled_from([uniform_priorities, global_priorities]), st.integers(0, 3))
def test_an_order_nests_keeps_the_strongest_and_respects_the_minimum(layers, priorities, least) -> None:
    scores = _scores(layers)
    order = removal_order(priorities(scores), dict.fromkeys(scores, least))
    assert len(order) == sum(max(0, score.numel() - least) for score in scores.values())
    before = {name: set(range(score.numel())) for name, score in scores.items()}
    for count in range(1, len(order) + 1):
        kept = {name: set(units.tolist()) for name, units in order.keep(count).items()}
        now = {name: kept.get(name, set(range(score.numel()))) for name, score in scores.items()}
        assert all(now[name] <= before[name] and len(now[name]) >= min(least, len(scores[name])) for name in scores)
        assert sum(len(before[name] - now[name]) for name in scores) == 1
        before = now
    for name, score in scores.items():
        strongest = score.argsort(stable=True)[-least:].tolist() if least else []
        assert before[name] == set(strongest if score.numel() > least else range(score.numel()))
