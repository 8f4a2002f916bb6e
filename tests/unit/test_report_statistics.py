from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prunecast.report.statistics import paired_difference, pareto_front

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
    interval = paired_difference(own, other, np.array([3.0, 1.0]))
    assert interval is not None
    assert interval.value == pytest.approx(((0 * 3 + 3) / 4 + (2 * 3 + 3) / 4) / 2)
    assert interval.low <= interval.value <= interval.high


def test_a_constant_difference_has_an_interval_without_width() -> None:
    hard = np.abs(errors(3, 0.1, 0.5, 0.1, 1)) + 1
    interval = paired_difference(hard + 0.25, hard, WINDOWS)
    assert interval is not None
    assert (interval.low, interval.high) == (pytest.approx(0.25), pytest.approx(0.25))
    assert interval.leaves_out_zero


def test_pairing_removes_what_both_share() -> None:
    hard = np.abs(errors(3, 0.1, 0.5, 0.1, 2)) + 1
    noise = errors(3, 0.0, 0.0, 0.01, 3)
    paired = paired_difference(hard + noise, hard, WINDOWS)
    unpaired = paired_difference(hard + noise, hard[:, ::-1], WINDOWS)
    assert paired is not None
    assert unpaired is not None
    assert paired.high - paired.low < 0.1 * (unpaired.high - unpaired.low)


def test_the_interval_is_wider_than_one_that_takes_blocks_of_all_seeds_for_independent() -> None:
    differences = errors(3, 0.0, 1.0, 0.05, 4)
    interval = paired_difference(differences, np.zeros_like(differences), WINDOWS)
    naive = 2 * 1.96 * differences.std(ddof=1) / np.sqrt(differences.size)
    assert interval is not None
    assert interval.high - interval.low > 1.5 * naive


@pytest.mark.parametrize(("by_seed", "by_block"), [(1.0, 0.2), (0.1, 2.0), (0.7, 1.5)])
@pytest.mark.parametrize("seeds", [3, 5])
def test_nineteen_in_twenty_intervals_hold_the_truth(seeds: int, by_seed: float, by_block: float) -> None:
    held = 0
    for draw in range(200):
        differences = errors(seeds, by_seed, by_block, 0.3, draw)
        interval = paired_difference(differences, np.zeros_like(differences), WINDOWS, resamples=300, seed=draw)
        assert interval is not None
        held += not interval.leaves_out_zero
    assert held >= 180  # the plain percentile interval holds it 140 times or fewer where seeds matter


def test_the_same_input_gives_the_same_interval() -> None:
    differences = errors(3, 0.3, 1.0, 0.1, 5)
    zeros = np.zeros_like(differences)
    assert paired_difference(differences, zeros, WINDOWS) == paired_difference(differences, zeros, WINDOWS)


def test_one_block_says_nothing() -> None:
    assert paired_difference(np.array([[0.4]]), np.array([[0.3]]), np.array([10.0])) is None


points = hnp.arrays(np.float64, (12, 2), elements=st.floats(0.0, 3.0).map(lambda value: round(value, 1)))


@given(points)
def test_the_front_is_what_no_point_beats(points_N2: np.ndarray) -> None:
    front = pareto_front(points_N2[:, 0], points_N2[:, 1])
    assert front.any()
    for index, point in enumerate(points_N2):
        beaten = any((other <= point).all() and (other < point).any() for other in points_N2)
        assert front[index] == (not beaten)
