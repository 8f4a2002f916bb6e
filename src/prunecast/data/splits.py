"""Where training ends and testing begins, exactly as in the published runs."""

from __future__ import annotations

from typing import NamedTuple

from prunecast.records import Strict

DAYS_PER_MONTH = 30


class SplitLengths(NamedTuple):
    """Rows per part, in the order of time; rows after the three parts are not used."""

    train: int
    validation: int
    test: int


class SplitRule(Strict):
    """Months of 30 days each, rows, or shares of the rows.

    Attributes:
        months: for train, validation and test (the ETT sets: 12, 4, 4).
        rows: for each, counted between dates.
        shares: used when neither is given; validation gets what rounding leaves.
    """

    months: tuple[int, int, int] | None = None
    rows: tuple[int, int, int] | None = None
    shares: tuple[float, float, float] = (0.7, 0.1, 0.2)

    def lengths(self, rows: int, frequency: str) -> SplitLengths:
        """Returns the rows of the three parts.

        Args:
            rows: how many the series has.
            frequency: its step, as pandas writes it; only months need it.
        """
        if self.rows is not None:
            return SplitLengths(*self.rows)
        if self.months is not None:
            per_month = _steps_per_month(frequency)
            train, validation, test = (month * per_month for month in self.months)
            return SplitLengths(train, validation, test)
        train, test = int(rows * self.shares[0]), int(rows * self.shares[2])
        return SplitLengths(train, rows - train - test, test)


def _steps_per_month(frequency: str) -> int:
    import pandas as pd

    first, second = pd.date_range("2001-01-01", periods=2, freq=frequency)
    return int(pd.Timedelta(days=DAYS_PER_MONTH) // (second - first))
