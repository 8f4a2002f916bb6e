from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prunecast.report.statistics import (
    Interval,
    LogRatio,
    difference,
    geometric_mean,
    pareto_front,
    pooled_ratio,
)

WINDOWS = np.array([192.0] * 11 + [57.0])


def errors(seeds: int, by_seed: float, by_block: float, own: float, draw: int) -> np.ndarray:
    """Differences with a known true mean of 0, built from effects of seeds, of blocks, and of both."""
    rng = np.random.default_rng(draw)
    blocks = len(WINDOWS)
    return (
        rng.normal(0, by_seed, (seeds, 1)) + rng.normal(0, by_block, (1, blocks)) + rng.normal(0, own, (seeds, blocks))
    )


def test_the_value_is_the_difference_of_means_weighted_by_windows() -> None:
    own, other = np.array([[1.0, 4.0], [3.0, 4.0]]), np.array([[1.0, 1.0], [1.0, 1.0]])
    interval = difference(own, other, np.array([3.0, 1.0])).interval()
    assert interval is not None
    assert interval.value == pytest.approx(((0 * 3 + 3) / 4 + (2 * 3 + 3) / 4) / 2)
    assert interval.low <= interval.value <= interval.high


def test_a_constant_difference_has_an_interval_without_width() -> None:
    hard = np.abs(errors(3, 0.1, 0.5, 0.1, 1)) + 1
    interval = difference(hard + 0.25, hard, WINDOWS).interval()
    assert interval is not None
    assert (interval.low, interval.high) == (pytest.approx(0.25), pytest.approx(0.25))
    assert interval.leaves_out_zero


def test_pairing_removes_what_both_share() -> None:
    hard = np.abs(errors(3, 0.1, 0.5, 0.1, 2)) + 1
    noise = errors(3, 0.0, 0.0, 0.01, 3)
    paired = difference(hard + noise, hard, WINDOWS).interval()
    unpaired = difference(hard + noise, hard[:, ::-1], WINDOWS).interval()
    assert paired is not None
    assert unpaired is not None
    assert paired.high - paired.low < 0.1 * (unpaired.high - unpaired.low)


def test_the_interval_is_wider_than_one_that_takes_blocks_of_all_seeds_for_independent() -> None:
    differences = errors(3, 0.0, 1.0, 0.05, 4)
    interval = difference(differences, np.zeros_like(differences), WINDOWS).interval()
    naive = 2 * 1.96 * differences.std(ddof=1) / np.sqrt(differences.size)
    assert interval is not None
    assert interval.high - interval.low > 1.5 * naive


@pytest.mark.parametrize(("by_seed", "by_block"), [(1.0, 0.2), (0.1, 2.0), (0.7, 1.5)])
@pytest.mark.parametrize("seeds", [3, 5])
def test_nineteen_in_twenty_intervals_hold_the_truth(seeds: int, by_seed: float, by_block: float) -> None:
    held = 0
    for draw in range(200):
        differences = errors(seeds, by_seed, by_block, 0.3, draw)
        interval = difference(differences, np.zeros_like(differences), WINDOWS).interval(count=300, seed=draw)
        assert interval is not None
        held += not interval.leaves_out_zero
    assert held >= 180  # the plain percentile interval holds it 140 times or fewer where seeds matter


def test_the_same_input_gives_the_same_interval() -> None:
    differences = errors(3, 0.3, 1.0, 0.1, 5)
    zeros = np.zeros_like(differences)
    assert difference(differences, zeros, WINDOWS).interval() == difference(differences, zeros, WINDOWS).interval()


def test_one_block_says_nothing() -> None:
    assert difference(np.array([[0.4]]), np.array([[0.3]]), np.array([10.0])).interval() is None


points = hnp.arrays(np.float64, (12, 2), elements=st.floats(0.0, 3.0).map(lambda value: round(value, 1)))


@given(points)
def test_the_front_is_what_no_point_beats(points_N2: np.ndarray) -> None:
    front = pareto_front(points_N2[:, 0], points_N2[:, 1])
    assert front.any()
    for index, point in enumerate(points_N2):
        beaten = any((other <= point).all() and (other < point).any() for other in points_N2)
        assert front[index] == (not beaten)


def log_ratio(differences_SB: np.ndarray, reference_mse: float = 1.0) -> LogRatio:
    return LogRatio.of(difference(differences_SB, np.zeros_like(differences_SB), WINDOWS), reference_mse)


@pytest.mark.parametrize("draw", range(30))
def test_a_ratio_leaves_out_1_exactly_where_the_difference_leaves_out_0(draw: int) -> None:
    own = 1 + errors(3, 0.01, 0.06, 0.05, draw) + 0.02
    other = np.ones_like(own)
    of_difference = difference(own, other, WINDOWS).interval()
    ratio = pooled_ratio([[LogRatio.of(difference(own, other, WINDOWS), 1.0)]])
    assert of_difference is not None
    assert ratio.value == pytest.approx(1 + of_difference.value)
    assert (ratio.low > 1, ratio.high < 1) == (of_difference.low > 0, of_difference.high < 0)


def test_the_pooled_ratio_is_the_geometric_mean_and_data_sets_weigh_the_same() -> None:
    constant = [np.full((3, 12), value) for value in (0.1, 0.3, -0.2)]
    of_two_horizons = [log_ratio(constant[0]), log_ratio(constant[1])]
    ratio = pooled_ratio([of_two_horizons, [log_ratio(constant[2])]])
    expected = np.sqrt(np.sqrt(1.1 * 1.3) * 0.8)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((expected, expected, expected))


def test_data_sets_are_independent_and_horizons_are_not() -> None:
    noise = [log_ratio(errors(3, 0.02, 0.05, 0.02, draw)) for draw in range(8)]
    widths = [np.log(ratio.high / ratio.low) for ratio in (pooled_ratio([[one]]) for one in noise)]
    apart, together = pooled_ratio([[one] for one in noise]), pooled_ratio([noise])
    assert np.log(together.high / together.low) == pytest.approx(np.mean(widths), rel=0.02)
    assert 0.5 < np.log(apart.high / apart.low) / (np.mean(widths) / np.sqrt(8)) < 0.9  # eight times the freedom, too


def test_a_data_set_that_makes_all_the_doubt_lends_no_freedom_to_itself() -> None:
    loud, quiet = errors(3, 0.05, 0.1, 0.02, 1), [errors(3, 5e-6, 1e-5, 2e-6, draw) for draw in range(2, 6)]
    alone = pooled_ratio([[log_ratio(loud)]])
    among = pooled_ratio([[log_ratio(loud)], *([log_ratio(one)] for one in quiet)])
    assert np.log(among.high / among.low) == pytest.approx(np.log(alone.high / alone.low) / 5, rel=0.02)


@pytest.mark.parametrize("datasets", [2, 5])
def test_nineteen_in_twenty_pooled_intervals_hold_the_truth(datasets: int) -> None:
    held = 0
    for draw in range(150):
        found = [[log_ratio(errors(3, 0.02, 0.05, 0.02, 1000 * draw + number))] for number in range(datasets)]
        ratio = pooled_ratio(found)
        held += ratio.low <= 1 <= ratio.high
    assert held >= 138


def test_one_ratio_without_an_interval_leaves_the_mean_without_one() -> None:
    one_block = LogRatio.of(difference(np.array([[0.2]]), np.array([[0.1]]), np.array([10.0])), 0.1)
    ratio = pooled_ratio([[one_block], [log_ratio(np.full((3, 12), 0.5))]])
    assert ratio.value == pytest.approx(np.sqrt(2 * 1.5))
    assert np.isnan(ratio.low)
    assert np.isnan(ratio.high)


def test_an_error_that_all_but_vanishes_has_a_ratio_still() -> None:
    ratio = pooled_ratio([[log_ratio(-1 + 1e-9 * np.abs(errors(3, 0.1, 0.1, 0.1, 1)))]])
    assert 0 < ratio.low <= ratio.value <= ratio.high < 0.1


def test_a_mean_of_speed_ups_is_geometric_and_so_are_its_ends() -> None:
    mean = geometric_mean([Interval(2.0, 1.0, 4.0), Interval(8.0, 4.0, 9.0)])
    assert (mean.value, mean.low, mean.high) == pytest.approx((4.0, 2.0, 6.0))
