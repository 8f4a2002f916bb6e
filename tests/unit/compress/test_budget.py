"""Budgets as they are written, and what holds them."""

from __future__ import annotations

import pytest

from prunecast.compress.budget import Budgets, Costs
from prunecast.errors import UserError

DENSE, SMALL = Costs(latency_ms=4.0, bytes=4_000_000), Costs(latency_ms=1.0, bytes=100_000, memory_bytes=9_000_000)


def test_amounts_with_their_units() -> None:
    found = Budgets.parsed("1%", "2ms", "1.5 MB", "256KB")
    assert found == Budgets(max_loss_increase=0.01, max_latency_ms=2, max_bytes=1_500_000, max_memory_bytes=256_000)
    assert Budgets.parsed("0%", "500us", "1MiB").max_latency_ms == 0.5
    assert Budgets.parsed("0%", max_size="1MiB").max_bytes == 2**20


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("1",), r"--max-loss-increase: expected a share in per cent, as in 1%; found '1'"),
        (("-1%",), "--max-loss-increase"),
        (("1%", "2"), r"--max-latency: expected an amount above 0 with its unit \(us, ms, s\), as in 2ms; found '2'"),
        (("1%", "0ms"), "--max-latency: expected an amount above 0"),
        (("1%", None, "1 M"), r"--max-size: .*\(B, KB, MB, GB, KiB, MiB, GiB\), as in 1MB; found '1 M'"),
        (("1%", None, None, "nan MB"), "--max-memory"),
    ],
)
def test_what_is_no_amount_is_named_in_one_line(texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Budgets.parsed(*texts)


def test_what_is_met_and_by_how_much_the_worst_is_not() -> None:
    budgets = Budgets(max_loss_increase=0.01, max_latency_ms=2.0, max_bytes=50_000)
    assert not budgets.holds(SMALL)
    assert budgets.excess(SMALL) == pytest.approx(1.0)
    assert Budgets(max_loss_increase=0.01).holds(DENSE)
    assert Budgets(max_loss_increase=0.01, max_memory_bytes=1.0).holds(DENSE), "nobody knows its memory"
    lines = budgets.lines(DENSE, SMALL, SMALL, 0.002)
    assert [(line.name, line.met) for line in lines] == [
        ("max-loss-increase", True),
        ("max-latency", True),
        ("max-size", False),
    ]
    assert [line.text(line.cheapest) for line in lines] == ["unknown", "1.00 ms", "100 kB"]
