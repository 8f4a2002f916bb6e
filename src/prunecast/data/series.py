"""Series: times, channels and covariates of one data set, checked, whole and in order.

T rows, C channels, K covariates (columns that are known for the future).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from prunecast.data import catalog, synthetic
from prunecast.data.calendar import Times, from_wall, grid_of, season_of
from prunecast.data.download import locate, verified
from prunecast.data.files import Table, exists, parsed, read_content, read_table
from prunecast.data.frames import Frame, frame_of
from prunecast.data.gaps import (
    REFUSE,
    Break,
    breaks_of,
    check_fill,
    empty_tail,
    filled,
    in_order,
    interpolated,
    iso,
    on_grid,
    order_problems,
)
from prunecast.data.splits import SplitRule
from prunecast.errors import UserError, near
from prunecast.recipe import DataConfig, ReadOptions
from prunecast.records import Reading


@dataclass(frozen=True, eq=False)
class Series:
    """A multivariate series that can be cut into windows.

    Attributes:
        name: catalogue name, or file name without its folder.
        times: (T,) datetime64[ns].
        raw_TC: channels in raw units, no missing value.
        channels: their names.
        raw_covariates_TK: in raw units; with further rows after the last time where a file knows them for the future.
        covariates: their names.
        targets: which channels are forecast; None for all.
        frequency: the step, as pandas writes it.
        season: steps after which the series repeats itself best.
        split: into train, validation and test.
        breaks: where the times leave the step (published sets only: other files are refused or filled).
        sha256: of the content it came from.
        reading: how its file was read; `times` are in UTC where it has a zone.
        time_name: what the file calls its times.
    """

    name: str
    times: Times
    raw_TC: NDArray[np.float64]
    channels: tuple[str, ...]
    raw_covariates_TK: NDArray[np.float64]
    covariates: tuple[str, ...]
    targets: tuple[int, ...] | None
    frequency: str
    season: int
    split: SplitRule
    breaks: tuple[Break, ...]
    sha256: str
    reading: Reading = field(default_factory=Reading)
    time_name: str = "date"

    def select(self, channels: Sequence[str], targets: Sequence[str]) -> Series:
        """Returns the series with only these channels, in this order, and these targets; all of them must be there."""
        columns = [self.channels.index(channel) for channel in channels]
        return replace(
            self,
            raw_TC=np.ascontiguousarray(self.raw_TC[:, columns]),
            channels=tuple(channels),
            targets=None if tuple(targets) == tuple(channels) else tuple(channels.index(target) for target in targets),
        )


def load_series(config: DataConfig) -> Series:
    """Returns the series that a recipe's data section names.

    Args:
        config: its name is one of the catalogue or the path of a CSV or Parquet file; a bare file name is looked for
            in the current folder, then in `$PRUNECAST_DATA`.

    Raises:
        UserError: in one line, whatever is wrong with the name, the file or its content.
    """
    if config.name in catalog.names():
        return _from_catalog(config)
    path = _own_file(config.name)
    if not exists(path) and not path.suffix and path.name == config.name:
        catalog.entry(config.name)  # says which name is near
    return series_of(read_table(path, config.delimiter), config)


def _own_file(name: str) -> Path:
    """Returns where a file lies: as named, else in `$PRUNECAST_DATA`: written recipes name no folder."""
    path, given = Path(name), os.environ.get("PRUNECAST_DATA")
    if given and path.name == name and not exists(path) and exists(Path(given) / name):
        return Path(given) / name
    return path


def series_of(table: Table, config: DataConfig) -> Series:
    """Returns the series in a table that is no catalogue set.

    Raises:
        UserError: in one line, whatever is wrong with its content.
    """
    wanted = None if config.channels is None else (*config.channels, *config.covariates)
    try:
        found = _sound(frame_of(table, config, wanted), config)
        frame, zone = found.values_TN, found.reading.zone
        empty = empty_tail(frame, config.covariates)
        if empty and config.tail == REFUSE:
            raise UserError(
                f"rows {len(frame) - empty + 1} to {len(frame)}, the last, are empty in every channel; "
                "set data.tail=cut, or cut them off"
            )
        frame, step = on_grid(frame.iloc[: len(frame) - empty], config.fill, zone)
        whole = replace(found, values_TN=filled(frame, config.fill))
        return _series(table.name, table.sha256, whole, config, step)
    except UserError as error:
        raise UserError(f"{table.name}: {error}") from None


def history_of(
    table: Table,
    channels: Sequence[str],
    covariates: Sequence[str] = (),
    *,
    options: ReadOptions | None = None,
    known: Reading | None = None,
    step: str | None = None,
    lookback: int | None = None,
    fill: str = REFUSE,
) -> Series:
    """Returns the rows of a table that a forecast starts from, by column name; other columns are left out.

    Rows at the end in which all channels are empty are no history: with covariates they tell of the future.

    Args:
        table: of a file or a data frame.
        channels: names of the model's channels, in its order.
        covariates: names of the model's covariates, in its order.
        options: how the model's own file was read.
        known: what was found out about that file.
        step: of the model, looked for first.
        lookback: of the model; gaps before so many last steps do not matter.
        fill: what to do with gaps.

    Raises:
        UserError: in one line, whatever is wrong with the content, a missing column included.
    """
    check_fill(fill)
    options = (options or ReadOptions()).model_copy(update={"tail": "cut"})
    config = DataConfig(name=table.name, covariates=tuple(covariates))
    try:
        found = _sound(frame_of(table, options, (*channels, *covariates), known), options)
        if known is not None and known.zone is not None:
            found = replace(found, reading=_at_home(found.reading, known.zone))
        frame, zone = found.values_TN, found.reading.zone
        if not covariates:
            frame = frame.iloc[: len(frame) - empty_tail(frame)]
            if fill == REFUSE and lookback is not None:
                frame = _last_steps(frame, max(lookback, 2), zone, step)
        frame, step = on_grid(frame, fill, zone, step)
        rows = len(frame) - (empty_tail(frame, covariates) if covariates else 0)
        past = replace(found, values_TN=filled(frame.iloc[:rows], fill))
        series = _series(table.name, table.sha256, past, config, step)
        return replace(series, raw_covariates_TK=_raw(filled(frame[list(covariates)], fill)))
    except UserError as error:
        raise UserError(f"{table.name}: {error}") from None


def _at_home(reading: Reading, zone: str) -> Reading:
    """Returns how new rows were read, by the clocks of the zone that a model was trained in.

    Raises:
        UserError: when they have no zone, or another offset than one of which more is not known.
    """
    if reading.zone is None:
        raise UserError(f"times have no offset from UTC, and those the model was trained on have one ({zone})")
    if reading.zone != zone and zone.startswith(("+", "-")):
        raise UserError(
            f"expected times at {zone}, as in training, found {reading.zone}; train with data.timezone to name the zone"
        )
    return reading.model_copy(update={"zone": zone})


def _last_steps(frame: pd.DataFrame, steps: int, zone: str | None, step: str | None) -> pd.DataFrame:
    """Returns the last steps of a frame, or the whole one where some of them are not there."""
    grid = grid_of(frame.index.to_numpy(), zone, step)
    if grid is None or len(frame) < steps or grid.step != (step or grid.step):
        return frame
    return frame.iloc[-steps:] if grid.places[-steps] == grid.places[-1] + 1 - steps else frame


# Catalogue sets: as they were published, found or downloaded, checked by hash and shape, and nothing else changed


def _from_catalog(config: DataConfig) -> Series:
    entry = catalog.entry(config.name)
    usual = DataConfig()
    for key in ReadOptions.model_fields.keys() - {"name", "time_column"}:
        default, found = getattr(usual, key), getattr(config, key)
        if found != default:
            raise UserError(f"data.{key}: {entry.name} is used as published; expected {default!r}, found {found!r}")
    if config.time_column not in (None, entry.time_column):
        raise UserError(
            f"data.time_column: expected {entry.time_column!r} for {entry.name}, found {config.time_column!r}"
        )
    if entry.file is None:
        generated = synthetic.generate()
        sha256 = synthetic.sha256_of(generated)
        frame = Frame(generated, Reading(), entry.time_column, (), ())
    else:
        path = locate(entry)
        content = read_content(path)
        sha256 = verified(entry, content, path)
        frame = _published(entry, parsed(content, path.name, sha256), path)
    series = _series(entry.name, sha256, frame, config, entry.frequency)
    return replace(series, season=entry.season, split=_split(config, entry.split, series.times, series.reading.zone))


def _published(entry: catalog.Entry, table: Table, path: Path) -> Frame:
    """Returns the rows of a set's file.

    Raises:
        UserError: when they are not what was published.
    """
    wanted = None if entry.select is None else re.compile(entry.select.columns)
    found = frame_of(table, ReadOptions(time_column=entry.time_column), wanted)
    frame, problems = found.values_TN, list(found.problems)
    if entry.select is not None:
        few = frame.isna().mean() <= entry.select.max_missing
        frame = interpolated(frame.loc[:, few], ends=True)
    rows, channels = frame.shape
    if entry.rows not in (None, rows) or entry.channels not in (None, channels):
        expected = f"expected {entry.rows} rows of {entry.channels} channels"
        problems.append(f"not {entry.name} as published: {expected}, found {rows} of {channels}")
    if channels == 0 or frame.isna().to_numpy().any():
        problems.append(f"not {entry.name} as published: values are missing")
    if problems:
        raise UserError(f"{path}: {problems[0]}")
    return replace(found, values_TN=frame)


def _sound(found: Frame, options: ReadOptions) -> Frame:
    """Returns the frame with its rows in order, when its columns could be read.

    Raises:
        UserError: with the first problem.
    """
    frame, zone = found.values_TN, found.reading.zone
    problem = next(iter((*found.problems, *order_problems(frame, options, zone))), None)
    if problem is not None:
        raise UserError(problem)
    return replace(found, values_TN=in_order(frame, options, zone))


def _series(name: str, sha256: str, found: Frame, config: DataConfig, frequency: str) -> Series:
    frame = found.values_TN
    columns = tuple(frame.columns)
    _check_known("covariates", config.covariates, columns)
    channels = tuple(column for column in columns if column not in config.covariates)
    if not channels:
        raise UserError("data.covariates: expected to leave at least one channel, found none left")
    if config.targets == ():
        raise UserError("data.targets: expected at least one channel, found none")
    _check_known("targets", config.targets or (), channels)
    times = _times(frame)
    return Series(
        name=name,
        times=times,
        raw_TC=_raw(frame[list(channels)]),
        channels=channels,
        raw_covariates_TK=_raw(frame[list(config.covariates)]),
        covariates=config.covariates,
        targets=None if config.targets is None else tuple(channels.index(target) for target in config.targets),
        frequency=frequency,
        season=season_of(frequency),
        split=_split(config, SplitRule(), times, found.reading.zone),
        breaks=breaks_of(times, found.reading.zone),
        sha256=sha256,
        reading=found.reading,
        time_name=found.time_name if isinstance(found.time_name, str) else " ".join(found.time_name),
    )


def _check_known(key: str, asked: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise UserError(f"data.{key}: no column {unknown[0]!r}; {near(unknown[0], known)}")
    if len(set(asked)) < len(asked):
        raise UserError(f"data.{key}: expected each column once, found {', '.join(asked)}")


def _split(config: DataConfig, published: SplitRule, times: Times, zone: str | None) -> SplitRule:
    if config.split is None:
        return published
    if len(config.split) == 3:
        return SplitRule(shares=config.split)
    begins = from_wall(np.array(config.split, dtype="datetime64[ns]"), zone)
    validation, test = (int(row) for row in np.searchsorted(times, begins))
    if not 0 < validation < test < len(times):
        span = f"{iso(times[0], zone)} to {iso(times[-1], zone)}"
        raise UserError(
            f"data.split: expected rows before, between and after {' and '.join(config.split)}, found {span}"
        )
    return SplitRule(rows=(validation, test - validation, len(times) - test))


def _times(frame: pd.DataFrame) -> Times:
    return np.array(frame.index.to_numpy(), dtype="datetime64[ns]")


def _raw(frame: pd.DataFrame) -> NDArray[np.float64]:
    # row after row in memory, whatever order pandas keeps: the last digit of a mean over rows depends on it
    return np.array(frame.to_numpy(), dtype=np.float64, order="C")
