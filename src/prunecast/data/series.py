"""Series: times, channels and covariates of one data set, checked, whole and in order.

T rows, C channels, K covariates (columns that are known for the future).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from prunecast.data import catalog, synthetic
from prunecast.data.calendar import Times, from_wall, grid_of, local_times, season_of
from prunecast.data.download import locate, verified
from prunecast.data.files import Table, exists, parsed, read_content, read_table, table_of
from prunecast.data.frames import Frame, frame_of_table
from prunecast.data.gaps import (
    FORECAST_ADVICE,
    MIN_ROWS,
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
    repeats_note,
    without_empty_tail,
)
from prunecast.data.splits import SplitRule
from prunecast.data.times import texts_of, time_of
from prunecast.errors import UserError, near
from prunecast.recipe import DataConfig, ReadOptions, check_settings, load_recipe
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

    def frame(self) -> pd.DataFrame:
        """Returns the rows as a data frame: its index are the times in the file's zone, its columns also covariates."""
        values_TN = np.hstack([self.raw_TC, self.raw_covariates_TK[: len(self.times)]])
        index = pd.DatetimeIndex(local_times(self.times, self.reading.zone), name=self.time_name)
        return pd.DataFrame(values_TN, index, [*self.channels, *self.covariates])

    def select(self, channels: Sequence[str], targets: Sequence[str]) -> Series:
        """Returns the series with only these channels, in this order, and these targets; all of them must be there."""
        columns = [self.channels.index(channel) for channel in channels]
        return replace(
            self,
            raw_TC=np.ascontiguousarray(self.raw_TC[:, columns]),
            channels=tuple(channels),
            targets=None if tuple(targets) == tuple(channels) else tuple(channels.index(target) for target in targets),
        )


def load_series(data: DataConfig | str | Path | pd.DataFrame | pd.Series[Any], settings: Sequence[str] = ()) -> Series:
    """Returns a series as training reads it, whole and in order; `Series.frame` shows it.

    Args:
        data: a name of the catalogue, a CSV, Parquet or Feather file (a bare file name is looked for in the current
            folder, then in `$PRUNECAST_DATA`), a data frame, or a recipe's data section.
        settings: "data.key=value" texts, any key of the data section; none beside one.

    Raises:
        UserError: in one line, whatever is wrong with the name, the file or its content, or with a setting.
    """
    if isinstance(data, pd.DataFrame | pd.Series):
        table = table_of(data)
        return series_of(table, _section(table.name, settings))
    config = data if isinstance(data, DataConfig) else _section(str(data), settings)
    if config.name in catalog.names():
        return _from_catalog(config)
    return series_of(read_table(own_file(config.name), config), config)


def table_named(name: str, options: ReadOptions, known: Reading | None = None) -> Table:
    """Returns the table of a set of the catalogue or of a file, looked for as `load_series` does, for its known rows.

    Args:
        name: of the set or the file.
        options: how a file is read.
        known: what was found out about a model's own file.

    Raises:
        UserError: when it cannot be found or read.
    """
    if name not in catalog.names():
        return read_table(own_file(name), options, known)
    entry = catalog.entry(name)
    return table_of(synthetic.generate(), name) if entry.file is None else read_table(locate(entry), options, known)


def _section(name: str, settings: Sequence[str]) -> DataConfig:
    check_settings(settings, frozenset({"data"}))
    return load_recipe(settings=settings, base={"data": {"name": name}}).data


def own_file(name: str) -> Path:
    """Returns where a file lies: as named, else in `$PRUNECAST_DATA`: written recipes name no folder.

    Raises:
        UserError: when there is none.
    """
    path = Path(name)
    return _first_there(name, [path, *_given(path.name)] if path.name == name else [path])


def _given(name: str) -> list[Path]:
    folder = os.environ.get("PRUNECAST_DATA")
    return [Path(folder) / name] if folder else []


def _first_there(name: str, places: Sequence[Path]) -> Path:
    """Returns the first place where a file lies.

    Raises:
        UserError: when there is none; it names the places, or the set of the catalogue that was meant.
    """
    found = next((place for place in places if exists(place)), None)
    if found is not None:
        return found
    if not Path(name).suffix and Path(name).name == name:
        catalog.entry(name)  # says which name is near
    looked = [str(folder) for folder in dict.fromkeys(place.parent for place in places)]
    looked = ["the current folder" if folder == "." else folder for folder in looked]
    where = f" in {', '.join(looked[:-1])} or {looked[-1]}" if len(looked) > 1 else ""
    raise UserError(f"{name[:200]}: no such file{where}")


def find_beside(name: str, folder: Path) -> str:
    """Returns what a recipe in `folder` means by the name of its data: the path of the file, or the name as it is.

    A relative path is taken as given, then from the recipe's folder, then for a file of that name beside the recipe,
    then in the current folder and in `$PRUNECAST_DATA`.

    Raises:
        UserError: when it is in none of these places.
    """
    path, base = Path(name), Path(name).name
    if name in catalog.names() or path.is_absolute():
        return name
    found = _first_there(name, [path, folder / path, folder / base, Path(base), *_given(base)])
    return base if found in _given(base) else str(found)


def series_of(table: Table, config: DataConfig) -> Series:
    """Returns the series in a table that is no catalogue set.

    Raises:
        UserError: in one line, whatever is wrong with its content.
    """
    wanted = None if config.channels is None else (*config.channels, *config.covariates)
    name, sha256 = table.name, table.sha256
    try:
        found = _sound(frame_of_table(table, config, wanted), config)
        del table  # as much as the frame, where nobody else holds it
        frame, zone = found.values_TN, found.reading.zone
        frame, step = on_grid(without_empty_tail(frame, config), config.fill, zone)
        whole = replace(found, values_TN=filled(frame, config.fill))
        series = _series(name, sha256, whole, config, step)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    _tell(name, found.notes)
    return series


@dataclass(frozen=True, eq=False)
class KnownRows:
    """What a table knows of a model's channels and covariates: forecasts start from it, and are held against it.

    Attributes:
        table: of a file or a data frame.
        found: its rows in order, gaps and all.
        covariates: of the model, in its order.
        step: of the model, looked for first.
    """

    table: Table
    found: Frame
    covariates: tuple[str, ...]
    step: str | None

    @property
    def last(self) -> int:
        """The last row in which something of the channels stands; those after it tell of the future at most."""
        frame = self.found.values_TN
        return len(frame) - empty_tail(frame, self.covariates) - 1

    def histories(
        self, lookback: int, horizon: int, fill: str, *, origin: str | None = None, origins: int | None = None
    ) -> list[Series]:
        """Returns the L rows before each forecast, with the covariates of the H steps after them. Only they are filled.

        Args:
            lookback: L.
            horizon: H.
            fill: what to do with gaps.
            origin: the last known time of the only forecast; that of the table when absent.
            origins: how many forecasts end where the table ends, H steps apart; one after it when absent.

        Raises:
            UserError: in one line, when rows are missing, or lack a value that `fill` does not give.
        """
        check_fill(fill)
        frame, zone = self.found.values_TN, self.found.reading.zone
        try:
            time = frame.index[self.last] if origin is None else self._origin(origin)
            end, needed = int(frame.index.searchsorted(time, side="right")), lookback + (origins or 0) * horizon
            first = _whole_before(frame, max(0, end - max(needed, MIN_ROWS)), fill)
            # the row after an origin shows a gap between them
            after = max(end + (horizon if self.covariates else int(origin is not None)), first + MIN_ROWS)
            known = frame.iloc[first : after if self.covariates else min(after, self.last + 1)]
            regular, step = on_grid(known, "ffill", zone, self.step, first)
            end = int(regular.index.searchsorted(time, side="right"))
            if origins is not None and end < needed:
                raise UserError(f"expected {needed} rows for {origins} origins (look-back and horizons), found {end}")
            ends = [end] if origins is None else [end - number * horizon for number in range(origins, 0, -1)]
            parts = [(max(0, end - lookback), end, end + horizon) for end in ends]
            return [self._history(regular, step, part, fill, first) for part in parts]
        except UserError as error:
            raise UserError(f"{self.table.name}: {error}") from None

    def _origin(self, text: str) -> np.datetime64:
        times, zone, time = self.found.values_TN.index, self.found.reading.zone, time_of(text, self.found.reading)
        if not times[0] <= time <= times[self.last]:
            span = f"{iso(times[0], zone)} to {iso(times[self.last], zone)}"
            raise UserError(f"--origin: expected a time from {span}, found {text!r}")
        return time

    def _history(self, regular: pd.DataFrame, step: str, part: tuple[int, int, int], fill: str, first: int) -> Series:
        """Returns a part of a regular frame: history, and what comes. It begins at row `first` of the table."""
        start, end, after = part
        put_in = regular.index[start:end].difference(self.found.values_TN.index)
        if fill == REFUSE and len(put_in):
            self._check_own_step(regular.index[start:end].difference(put_in).to_numpy(), step)
            where = f"{len(put_in)}, the first at {iso(put_in[0], self.found.reading.zone)}, at the step {step}"
            raise UserError(f"missing time steps in the look-back: {where}; {FORECAST_ADVICE}")
        whole = _whole_before(regular, start, fill)
        past = filled(regular.iloc[whole:end], fill, first + whole, FORECAST_ADVICE).iloc[start - whole :]
        config = DataConfig(name=self.table.name, covariates=self.covariates)
        series = _series(self.table.name, self.table.sha256, replace(self.found, values_TN=past), config, step)
        ahead = filled(regular[list(self.covariates)].iloc[start:after], fill, first + start, FORECAST_ADVICE)
        return replace(series, raw_covariates_TK=_raw(ahead, self.covariates))

    def _check_own_step(self, times: Times, step: str) -> None:
        """Refuses rows that lack none of their own steps, but of the model's: a coarser file is no file with gaps."""
        own = grid_of(times, self.found.reading.zone) if len(times) >= MIN_ROWS else None
        models = grid_of(times, self.found.reading.zone, step)  # Tuesday to Friday lacks neither days nor business days
        if own is not None and not own.missing and own.step != step and models is not None and models.missing:
            raise UserError(f"expected the model's step {step!r}, found {own.step!r}")

    def texts_of(self, times: Times) -> pd.Index[Any]:
        """Returns times as they would stand in the table, those of several columns joined by blanks."""
        return texts_of(times, self.found.reading, (self.found.time_cell or "").strip())

    def before(self, time: np.datetime64) -> pd.DataFrame:
        """Returns what is known up to a time, a row for each step as far as there is one; NaN where it is missing."""
        frame = self.found.values_TN.loc[:time]
        grid = grid_of(frame.index.to_numpy(), self.found.reading.zone, self.step)
        return frame if grid is None else frame.set_axis(grid.places).reindex(range(int(grid.places[-1]) + 1))


def known_rows(
    table: Table,
    channels: Sequence[str],
    covariates: Sequence[str] = (),
    *,
    options: ReadOptions | None = None,
    known: Reading | None = None,
    step: str | None = None,
) -> KnownRows:
    """Returns the rows of a table, by column name; other columns are left out.

    Args:
        table: of a file or a data frame.
        channels: names of the model's channels, in its order.
        covariates: names of the model's covariates, in its order.
        options: how the model's own file was read.
        known: what was found out about that file.
        step: of the model, looked for first.

    Raises:
        UserError: in one line, whatever is wrong with the content, a missing column included.
    """
    options = (options or ReadOptions()).model_copy(update={"tail": "cut"})
    try:
        found = _sound(frame_of_table(table, options, (*channels, *covariates), known), options)
        if known is not None and known.zone is not None:
            found = replace(found, reading=_at_home(found.reading, known.zone))
    except UserError as error:
        raise UserError(f"{table.name}: {error}") from None
    _tell(table.name, found.notes)
    return KnownRows(table, found, tuple(covariates), step)


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


def _whole_before(frame: pd.DataFrame, row: int, fill: str) -> int:
    """Returns the row from which gaps after `row` are filled: the last up to it that is whole."""
    whole = np.flatnonzero(frame.iloc[: row + 1].notna().all(axis=1)) if fill != REFUSE else np.array([])
    return int(whole[-1]) if whole.size else row


# Catalogue sets: as they were published, found or downloaded, checked by hash and shape, and nothing else changed


def _from_catalog(config: DataConfig) -> Series:
    entry, frame, sha256 = published_rows(config)
    series = _series(entry.name, sha256, frame, config, entry.frequency)
    return replace(series, season=entry.season, split=split_of(config, entry.split, series.times, series.reading.zone))


def published_rows(config: DataConfig) -> tuple[catalog.Entry, Frame, str]:
    """Returns what the catalogue says of a set, its rows, and the SHA-256 of the content that they came from.

    Raises:
        UserError: when a setting would change the set, or it cannot be found, or is not what was published.
    """
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
        missing = (0,) * generated.shape[1]
        return entry, Frame(generated, Reading(), entry.time_column, missing, ()), synthetic.sha256_of(generated)
    path = locate(entry)
    content = read_content(path)
    sha256 = verified(entry, content, path)
    return entry, _as_published(entry, parsed(content, path.name, sha256), path), sha256


def _as_published(entry: catalog.Entry, table: Table, path: Path) -> Frame:
    """Returns the rows of a set's file.

    Raises:
        UserError: when they are not what was published.
    """
    wanted = None if entry.select is None else re.compile(entry.select.columns)
    found = frame_of_table(table, ReadOptions(time_column=entry.time_column), wanted)
    frame, problems = found.values_TN, list(found.problems)
    if entry.select is not None:
        few = frame.isna().mean() <= entry.select.max_missing
        missing = tuple(count for count, some in zip(found.missing, few, strict=True) if some)
        found, frame = replace(found, missing=missing), interpolated(frame.loc[:, few], ends=True)
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
    note = repeats_note(frame, zone)
    return replace(
        found, values_TN=in_order(frame, options, zone), notes=(*found.notes, *([] if note is None else [note]))
    )


def _tell(name: str, notes: Sequence[str]) -> None:
    """Writes what was mended in a file to stderr."""
    for note in notes:
        sys.stderr.write(f"{name}: {note}\n")


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
    breaks = breaks_of(times, found.reading.zone)  # before the values are copied: it takes much memory for a while
    return Series(
        name=name,
        times=times,
        raw_TC=_raw(frame, channels),
        channels=channels,
        raw_covariates_TK=_raw(frame, config.covariates),
        covariates=config.covariates,
        targets=None if config.targets is None else tuple(channels.index(target) for target in config.targets),
        frequency=frequency,
        season=season_of(frequency),
        split=split_of(config, SplitRule(), times, found.reading.zone),
        breaks=breaks,
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


def split_of(config: DataConfig, published: SplitRule, times: Times, zone: str | None) -> SplitRule:
    """Returns how a series is split: as it was published, by shares, or by dates.

    Raises:
        UserError: when the dates leave a part without rows.
    """
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
    return np.asarray(frame.index.to_numpy(), dtype="datetime64[ns]")


def _raw(frame: pd.DataFrame, names: Sequence[str]) -> NDArray[np.float64]:
    # row after row in memory, whatever order pandas keeps: the last digit of a mean over rows depends on it
    raw_TN = np.empty((len(frame), len(names)))
    for position, name in enumerate(names):
        raw_TN[:, position] = frame[name]
    return raw_TN
