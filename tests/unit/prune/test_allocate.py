from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunecast.prune.allocate import (
    erk_masks,
    global_masks,
    global_priorities,
    lamp,
    lamp_masks,
    largest_remainder,
    layer_masks,
    lowest,
    owl_masks,
    removal_order,
    row_masks,
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


ALLOCATIONS = [global_masks, layer_masks, row_masks, lamp_masks, erk_masks, owl_masks]
SHAPES = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=4)


@pytest.mark.parametrize("allocate", ALLOCATIONS)
@settings(deadline=None, max_examples=60)
@given(shapes=SHAPES, seed=st.integers(0, 1000), share=st.floats(0, 1), held=st.floats(0, 1))
def test_an_allocation_meets_any_budget_to_one_weight_and_takes_what_is_gone_first(
    allocate, shapes, seed, share, held
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = {
        f"layer{place}": torch.rand(shape, generator=generator).masked_fill(
            torch.rand(shape, generator=generator) < held / 2, -torch.inf
        )
        for place, shape in enumerate(shapes)
    }
    size, gone = _flat(scores).numel(), int(_flat(scores).isneginf().sum())
    count = gone + round(share * (size - gone))
    masks = allocate(scores, count)
    assert int((~_flat(masks)).sum()) == count
    assert not _flat(masks)[_flat(scores).isneginf()].any()


def _kept(masks) -> list[int]:
    return [int(mask.sum()) for mask in masks.values()]


def test_lamp_by_hand() -> None:
    """Lee et al. 2021, equation 4; of the two weights of magnitude 2 the first counts as the smaller."""
    score = torch.tensor([[1.0, 3.0], [2.0, 2.0]])
    expected = torch.tensor([[1 / 18, 9 / 9], [4 / 17, 4 / 13]], dtype=torch.double)
    torch.testing.assert_close(lamp(score), expected)
    masks = lamp_masks({"small": 0.01 * score, "large": 100 * score}, 6)  # no layer's scale matters
    assert masks["small"].tolist() == masks["large"].tolist() == [[False, True], [False, False]]


def test_lamp_of_zeros_and_of_what_is_gone() -> None:
    lowest_float = torch.finfo(torch.float32).min
    assert lamp(torch.tensor([-torch.inf, lowest_float, 2.0])).tolist() == [-torch.inf, 0.0, 1.0]
    assert lamp(torch.zeros(2)).tolist() == [0.0, 0.0]


def test_erk_densities_by_hand() -> None:
    """(in + out) / (in x out): 1/2 of (4, 4), 1/8 of (16, 16), 3/16 of (8, 16); of a kernel (4, 4, 2) 10/32."""
    scores = {name: torch.rand(shape) for name, shape in (("a", (16, 16)), ("b", (8, 16)), ("c", (4, 4, 2)))}
    # One factor for all: 256 x 1/8 + 128 x 3/16 + 32 x 10/32 = 66 weights at factor 1.
    assert _kept(erk_masks(scores, 416 - 66)) == [32, 24, 10]
    assert _kept(erk_masks(scores, 416 - 132)) == [64, 48, 20]


def test_erk_keeps_a_layer_whole_that_would_be_more_than_dense() -> None:
    scores = {"small": torch.rand(4, 4), "a": torch.rand(16, 16), "b": torch.rand(8, 16)}
    # With small's 16 dense, 32 + 24 = 56 weights at factor 1 are left to the others: twice that is asked for.
    assert _kept(erk_masks(scores, 400 - 16 - 112)) == [16, 64, 48]


def test_owl_densities_by_hand() -> None:
    """Outlier shares 2 % and 0 %: densities 0.08 above and below the common one."""
    spiky = torch.ones(10, 10)
    spiky[0, :2] = 1000.0
    spiky[1:, 0] = 0.5
    even = torch.linspace(1, 2, 100).view(10, 10)
    masks = owl_masks({"spiky": spiky, "even": even}, 100)
    assert _kept(masks) == [58, 42]
    assert masks["spiky"][0, :2].all()
    assert _kept(owl_masks({"spiky": spiky, "even": even}, 100, spread=0.2)) == [70, 30]
    assert _kept(owl_masks({"even": even, "also": even}, 100)) == [50, 50]


def test_owl_meets_the_budget_over_layers_of_unlike_size() -> None:
    spiky, even = torch.ones(20, 10), torch.linspace(1, 2, 100).view(10, 10)
    spiky[0, :2] = 1000.0
    kept = _kept(owl_masks({"spiky": spiky, "even": even}, 150))
    assert sum(kept) == 150
    assert kept[0] / 200 - kept[1] / 100 == pytest.approx(0.16, abs=0.01)


def test_row_masks_take_the_same_share_of_each_row() -> None:
    masks = row_masks({"layer": torch.tensor([[1.0, 2, 3, 4], [40, 30, 20, 10]])}, 4)
    assert masks["layer"].tolist() == [[False, False, True, True], [True, True, False, False]]
