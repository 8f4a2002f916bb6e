from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunecast.errors import UserError
from prunecast.prune.budget import Budget, budget_for, nearest_count
from prunecast.recipe import PruneConfig, checked


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.data())
def test_nearest_count_finds_the_nearest_saving(steps, data) -> None:
    savings = [0]
    for step in steps:
        savings.append(savings[-1] + step)
    requested = data.draw(st.integers(0, savings[-1]))
    least = data.draw(st.integers(1, len(steps)))
    count = nearest_count(savings.__getitem__, least, len(steps), requested)
    assert least <= count <= len(steps)
    assert abs(savings[count] - requested) == min(abs(saved - requested) for saved in savings[least:])


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.75, 0.95])
def test_nearest_count_asks_rarely_on_a_smooth_cost(share: float) -> None:
    most, asked = 1_000_000, set()

    def saved(count: int) -> float:
        asked.add(count)
        return 1e9 * (1 - (1 - count / most) ** 2)

    count = nearest_count(saved, 1, most, round(share * 1e9))
    assert count == pytest.approx(most * (1 - (1 - share) ** 0.5), abs=1)
    assert len(asked) <= 15


def test_a_share_becomes_a_whole_number_half_to_even() -> None:
    assert budget_for("prunable", 1000, 0.5) == Budget("prunable", 1000, 500)
    assert budget_for("model", 5, 0.5).requested == 2
    assert budget_for("operations", 7, 0.5).requested == 4
    assert str(budget_for("operations", 8, 0.5)) == "removing 4 of 8 MACs"


@pytest.mark.parametrize(("share", "rounded"), [(0.01, 0), (0.99, 10)])
def test_a_share_that_rounds_to_nothing_or_everything_is_refused(share: float, rounded: int) -> None:
    with pytest.raises(UserError, match=rf"sparsity {share} of 10 weights rounds to {rounded}; expected at least 1"):
        budget_for("prunable", 10, share)


def test_a_budget_out_of_reach_names_the_largest_share_and_that_share_is_within_reach() -> None:
    with pytest.raises(UserError, match=r"removing 950 of 1000 parameters cannot be met: at most 912 .* 0\.912$"):
        budget_for("model", 1000, 0.95).check(912)
    budget_for("model", 1000, 0.912).check(912)


def test_a_budget_below_what_is_gone_says_both_numbers() -> None:
    with pytest.raises(UserError, match=r"removing 300 of 1000 weights cannot be met: 400 are gone already"):
        budget_for("prunable", 1000, 0.3).check(1000, 400)


@pytest.mark.parametrize("sparsity", [1.0, -0.1, "half"])
def test_a_sparsity_that_is_no_share_is_one_clear_line(sparsity: object) -> None:
    with pytest.raises(UserError) as caught:
        checked(PruneConfig, {"sparsity": sparsity}, "prune")
    message = str(caught.value)
    assert message.startswith("prune.sparsity: input should be")
    assert message.endswith(f"found {sparsity!r}")
    assert "\n" not in message
