"""All rows of a table as the history of one forecast."""

from __future__ import annotations

from collections.abc import Sequence

from prunecast.data.files import Table
from prunecast.data.series import Series, known_rows
from prunecast.records import Reading


def history_of(
    table: Table,
    channels: Sequence[str],
    covariates: Sequence[str] = (),
    *,
    known: Reading | None = None,
    step: str | None = None,
    fill: str = "refuse",
) -> Series:
    """Returns the rows up to the last in which a channel stands, and all covariates after it."""
    rows = known_rows(table, channels, covariates, known=known, step=step)
    [series] = rows.histories(rows.last + 1, len(rows.found.values_TN), fill)
    return series
