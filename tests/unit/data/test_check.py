"""`data check`: what a file is like is found, every fault is named with its place and remedy, and repairs are taken."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from prunecast import api
from prunecast.cli.main import main
from prunecast.data.check import DataCheck, check_data
from prunecast.data.series import load_series
from prunecast.data.windows import prepare
from prunecast.errors import UserError
from prunecast.recipe import DataConfig

PUBLISHED = Path(os.environ.get("PRUNECAST_DATA", "not-there"))
REAL = ("ETTh1", "ETTh2", "exchange_rate", "national_illness", "weather", "pjm_load")
ROWS = 400


def written(path: Path, **columns: np.ndarray) -> Path:
    times = pd.date_range("2024-01-01", periods=ROWS, freq="h")
    pd.DataFrame({"date": times, **columns}).to_csv(path, index=False)
    return path


def day(seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=ROWS)
    return np.asarray(5 + 3 * np.sin(np.arange(ROWS) * 2 * np.pi / 24) + noise)


def hint(check: DataCheck, column: str) -> str:
    (found,) = [text for text in check.hints if text.startswith(f"column {column!r}")]
    return found


def test_what_a_file_is_like_is_found(tmp_path: Path) -> None:
    first, shifted = day(), day(3)
    shifted[-80:] += 100
    marked = day(4)
    marked[[7, 9]] = -9999
    check = check_data(
        written(
            tmp_path / "own.csv",
            a=first, later=np.append(day(9)[:5], 32 + 1.8 * first[:-5]), still=np.full(ROWS, 3.0),
            counter=np.arange(ROWS), marked=marked, shifted=shifted,
        )
    )  # fmt: skip
    assert check.problems == ()
    assert check.seasons[0].steps == check.channels[0].season == 24
    assert "constant" in hint(check, "still")
    assert "data.drop=[counter]" in hint(check, "counter")
    assert "-9999 stands in 2 rows, the first row 8" in hint(check, "marked")
    assert "drifts" in hint(check, "shifted")
    assert "repeats 'a' 5 steps later" in hint(check, "later")
    assert len(check.hints) == 5, "nothing is said of a sound column"


def test_windows_and_errors_are_those_of_the_models(tmp_path: Path) -> None:
    path = written(tmp_path / "own.csv", a=day(1), b=10 * day(2))
    check = check_data(path)
    config = DataConfig(name=str(path))
    counts = {(count.lookback, count.horizon): count for count in check.windows}
    prepared = prepare(load_series(config), config, lookback=24, horizon=24, label_len=0)
    assert counts[24, 24].model_dump() == {"lookback": 24, "horizon": 24, **prepared.facts.windows}
    assert counts[96, 720].train == counts[96, 720].test == 0
    errors = {item.forecast: item for item in check.to_beat}
    for model, forecast in (("repeat", "last value"), ("seasonal_naive", "seasonal naive")):
        horizon = errors[forecast].horizon
        trained = api.train(model, str(path), lookback=24, horizon=horizon, out=tmp_path / model).to_json()
        assert (errors[forecast].windows, errors[forecast].mse) == (
            trained["windows"], pytest.approx(trained["mse"], rel=1e-5),
        )  # fmt: skip
    first, second = check.channels
    assert first.last_value_mae is not None
    assert second.last_value_mae == pytest.approx(10 * first.last_value_mae, rel=0.2), "in real units"


def test_all_problems_are_said_with_their_remedies(tmp_path: Path) -> None:
    frame = pd.read_csv(written(tmp_path / "own.csv", a=day(1), b=day(2), c=day(3)), dtype=object)
    frame.loc[3, "a"] = frame.loc[5, "b"] = None
    frame.loc[8, "c"] = "?"
    frame = frame.drop(index=20)
    frame.to_csv(tmp_path / "own.csv", index=False)
    found = check_data(tmp_path / "own.csv").problems
    for place in ("column 'c', row 9", "missing time steps: 1, the first after row 20", "'a'", "'b'"):
        assert any(place in problem for problem in found)
    assert check_data(tmp_path / "own.csv", "ffill", ["data.drop=[c]"]).problems == ()
    with pytest.raises(UserError, match="no effect here"):
        api.data_check(tmp_path / "own.csv", settings=["train.epochs=2"])


def test_the_picture_is_drawn_and_never_over_another_file(tmp_path: Path) -> None:
    path = written(tmp_path / "own.csv", a=day(1))
    check_data(path, plot=tmp_path / "own.png")
    assert (tmp_path / "own.png").read_bytes().startswith(b"\x89PNG")
    for name in ("own.png", "own.svg"):
        with pytest.raises(UserError, match="png"):
            check_data(path, plot=tmp_path / name)


def test_drift_is_told_only_where_the_test_part_has_a_season(tmp_path: Path) -> None:
    path = written(tmp_path / "own.csv", a=day(1) + np.repeat([0.0, 20.0], [320, ROWS - 320]))
    assert any("drifts" in text for text in check_data(path).hints)
    pd.read_csv(path).iloc[-100:].to_csv(path, index=False)
    check = check_data(path)
    assert check.parts.test == 20, "hours"
    assert not any("drifts" in text for text in check.hints)


def screen(
    source: str | Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *options: str
) -> list[str]:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["data", "check", str(source), *options]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_terminal_shows_one_screen_and_counts_what_is_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {f"a meter with a rather long name {number}": day(number) for number in range(60)}
    for values in columns.values():
        values[5] = np.nan
    values[9] = np.nan
    lines = screen(written(tmp_path / "wide.csv", **columns), capsys, monkeypatch)
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    assert any("channels (10 of 60; --json has all)" in line for line in lines)
    assert any("a meter w\N{HORIZONTAL ELLIPSIS}g name 9" in line for line in lines), "its end tells it from others"
    (more,) = (int(found[1]) for line in lines if (found := re.search(r"and (\d+) more; --json has all", line)))
    assert more + sum("missing values" in line for line in lines) == 60, "problems"


def test_a_short_file_says_what_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "own.csv", a=day(1))
    pd.read_csv(path).iloc[:60].to_csv(path, index=False)
    hints = check_data(path).hints
    assert hints[0] == (
        "60 rows (training 42, validation 6, test 12) are too few for a look-back of 24 and a horizon of 24; "
        "the longest that fit are --horizon 6 --lookback 36"
    )
    assert any(line.split() == ["windows", "none"] for line in screen(path, capsys, monkeypatch))
    for lookback in (36, 37):
        arguments = {"lookback": lookback, "horizon": 6, "out": tmp_path / str(lookback)}
        if lookback == 36:
            assert api.train("repeat", str(path), **arguments).windows == 7
        else:
            with pytest.raises(UserError, match="too short for look-back 37 and horizon 6"):
                api.train("repeat", str(path), **arguments)
    pd.read_csv(path).iloc[:4].to_csv(path, index=False)
    assert "too few for any look-back and horizon" in check_data(path).hints[0]


def test_a_set_of_the_catalogue_is_checked_by_its_name_as_it_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check, series = check_data("synthetic-load"), load_series(DataConfig(name="synthetic-load"))
    assert (check.rows, check.problems) == (len(series.times), ())
    assert [channel.name for channel in check.channels] == list(series.channels)
    assert tuple(check.parts.model_dump().values()) == series.split.lengths(check.rows, series.frequency)
    assert check.to_beat[1].period == series.season
    assert len(screen("synthetic-load", capsys, monkeypatch)) <= 40
    with pytest.raises(UserError, match="did you mean 'synthetic-load'"):
        check_data("synthetic-laod")
    with pytest.raises(UserError, match=r"data.fill: synthetic-load is used as published"):
        check_data("synthetic-load", "ffill")
    written(tmp_path / "own.csv", a=day(1))
    monkeypatch.setenv("PRUNECAST_DATA", str(tmp_path))
    assert check_data("own.csv").rows == ROWS, "a bare name is looked for where the other verbs look"


# The published files


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="published files are not there")
@pytest.mark.parametrize("name", REAL)
def test_real_files_are_checked_at_once(name: str) -> None:
    started = time.process_time()
    check = check_data(PUBLISHED / f"{name}.csv", "ffill")
    assert time.process_time() - started < 2
    assert check.problems == ()
    assert len(check.to_beat) == 2


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="published files are not there")
@pytest.mark.parametrize(("name", "hint"), [("ETTh1", "rows equal to the row before"), ("PJM", "hours of each zone")])
def test_published_sets_have_one_screen_with_what_is_known_of_them(
    name: str, hint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert any(hint in line for line in check_data(name).hints)
    assert not any("data." in line for line in check_data(name).hints), "no remedy: it is used as published"
    lines = screen(name, capsys, monkeypatch)
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="published files are not there")
def test_the_weather_file_under_its_own_path_needs_one_option(tmp_path: Path) -> None:
    path = str(PUBLISHED / "weather.csv")
    with pytest.raises(UserError, match=r"missing time steps: 9, .* set data.fill"):
        load_series(DataConfig(name=path))
    settings = ("data.fill=interpolate:9", "train.max_steps=2", "train.threads=1")
    assert api.train("dlinear", path, settings=settings, out=tmp_path / "model").to_json()["mse"] > 0
    check = check_data(Path(path), "ffill")
    assert any("times that stand twice: 1" in text for text in check.hints)
    assert sum("-9999" in text for text in check.hints) == 3


# Damage: one fault alone, and each pair

Cells = list[list[str]]


def _cell(column: int, text: str) -> Callable[[Cells, random.Random], tuple[str, ...]]:
    def fault(cells: Cells, draw: random.Random) -> tuple[str, ...]:
        row = draw.randrange(50, 90)
        cells[row][column] = text
        return (cells[0][column], f"row {row}")

    return fault


def _bad_time(cells: Cells, draw: random.Random) -> tuple[str, ...]:
    row = draw.randrange(100, 120)
    cells[row][0] = "2016-13-45 00:00:00"
    return ("'date'", f"row {row}")


def _missing_rows(cells: Cells, draw: random.Random) -> tuple[str, ...]:
    del cells[150 : 150 + draw.randrange(1, 4)]
    return ("missing time steps", "row 149")


def _row_twice(cells: Cells, draw: random.Random) -> tuple[str, ...]:
    cells.insert(201, [cells[200][0], *(str(draw.random()) for _ in cells[0][1:])])
    return ("repeats",)


def _rows_swapped(cells: Cells, draw: random.Random) -> tuple[str, ...]:
    row = draw.randrange(250, 260)
    cells[row], cells[row + 1] = cells[row + 1], cells[row]
    return ("goes back",)


def _empty_end(cells: Cells, draw: random.Random) -> tuple[str, ...]:
    for row in cells[-2:]:
        row[1:] = [""] * (len(row) - 1)
    return ("the last, are empty",)


FAULTS: dict[str, Callable[[Cells, random.Random], tuple[str, ...]]] = {
    "empty": _cell(1, ""), "word": _cell(2, "broken"), "infinite": _cell(3, "inf"), "too large": _cell(4, "1e60"),
    "time": _bad_time, "gap": _missing_rows, "twice": _row_twice, "swapped": _rows_swapped, "end": _empty_end,
}  # fmt: skip
CURED = {"empty", "gap", "twice", "swapped", "end"}
CURES = {"fill": "ffill", "order": "sort", "duplicates": "first", "tail": "cut"}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("faults", [*((name,) for name in FAULTS), *combinations(FAULTS, 2)], ids="+".join)
def test_damage_is_named_with_its_place_or_repaired_as_asked(
    tmp_path: Path, faults: tuple[str, ...], seed: int
) -> None:
    """135 variants of ETTh1 (of a table like it, where it is not there)."""
    path, draw = tmp_path / "ETTh1.csv", random.Random(f"{faults} {seed}")
    if PUBLISHED.is_dir():
        lines = (PUBLISHED / "ETTh1.csv").read_text().splitlines()[: ROWS + 1]
    else:
        names = ("HUFL", "HULL", "MUFL", "OT")
        lines = written(path, **{name: day(n) for n, name in enumerate(names)}).read_text().splitlines()
    cells = [line.split(",") for line in lines]
    # later rows first: what puts rows in or takes them out must not move the place of another fault
    expected = [FAULTS[name](cells, draw) for name in sorted(faults, key=list(FAULTS).index, reverse=True)]
    path.write_text("\n".join(",".join(row) for row in cells) + "\n")
    problems = check_data(path).problems
    order_hides = {"time"} & set(faults)  # where a time is unknown, order and gaps cannot be told
    for name, parts in zip(sorted(faults, key=list(FAULTS).index, reverse=True), expected, strict=True):
        if order_hides and name in ("gap", "twice", "swapped"):
            continue
        assert any(all(part in problem for part in parts) for problem in problems), (name, parts, problems)
    assert all("\n" not in problem for problem in problems)
    with pytest.raises(UserError) as refused:
        load_series(DataConfig(name=str(path)))
    assert str(refused.value) == f"ETTh1.csv: {problems[0]}", "verbs refuse a file with the first problem"
    if set(faults) <= CURED:
        settings = [f"data.{key}={value}" for key, value in CURES.items() if key != "fill"]
        assert check_data(path, "ffill", settings).problems == ()
        assert np.isfinite(load_series(DataConfig.model_validate({"name": str(path), **CURES})).raw_TC).all()
