"""Files that people had, each with what is right for it: a reading of which a few numbers are known, or one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from prunecast import api
from prunecast.cli.main import main
from prunecast.data.series import load_series
from prunecast.errors import UserError
from prunecast.inference import open_artifact
from prunecast.models.io import load_model
from prunecast.recipe import DataConfig, load_recipe

HERE = Path(__file__).parents[1] / "data"
FIELD, ATTACK = HERE / "field", HERE / "attack"

READ = {
    "ampm_midnight.csv": ("2024-01-01T00:00", "2024-01-02T23:00", "h"),
    "dayfirst_train.csv": ("2024-04-05T00:00", "2024-06-18T23:00", "h"),
    "dec_comma_quoted.csv": ("2024-01-01T00:00", "2024-01-02T23:00", "h"),
    "epoch_5hz.csv": ("2022-09-29T13:39:31", "2022-09-29T13:39:40.4", "200ms"),
    "excel_serial.csv": ("2020-01-01", "2020-02-17", "D"),
    "header_commas.csv": ("2024-01-01T00:00", "2024-01-02T23:00", "h"),
    "short_bday_train.csv": ("2023-01-02", "2023-06-16", "B"),
    "thousands_de.csv": ("2024-01-01T00:00", "2024-01-02T23:00", "h"),
    "utf16.csv": ("2024-01-01T00:00", "2024-01-02T23:00", "h"),
    "ymdhm_int.csv": ("2024-01-01T00:00", "2024-01-01T00:47", "min"),
    "tz_yfinance.csv": ("2024-03-01T05:00", "2024-03-28T04:00", "B"),
    "tz_daily_dst.csv": ("2023-10-19T22:00", "2023-11-07T23:00", "D"),
}
"""File: its first and last time (UTC where it has a zone) and its step."""

SETTLED = {
    "dayfirst_new_one_day.csv": ("may be", {"date_format": "%d/%m/%Y %H:%M"}, "2024-06-05", "h"),
    "bday_holiday.csv": ("missing time steps: 1, the first after row 60", {"fill": "ffill"}, "2023-10-02", "B"),
    "hole_month.csv": (
        "missing time steps: 1, the first after row 20 (1981-08-01", {"fill": "ffill"}, "1980-01-01", "MS",
    ),
    "year2_us.csv": ("a year of two digits; set data.date_format", {"date_format": "%m/%d/%y %H:%M"}, None, "h"),
    "date_and_time.csv": ("data.time_column=[Date, Time]", {"time_column": ["Date", "Time"]}, "2024-01-01", "h"),
    "future_rows_empty.csv": ("are empty in every channel; set data.tail=cut", {"tail": "cut"}, "2024-01-01", "h"),
    "time_not_named_blank_tail.csv": ("row 49 and all after it are empty", {"tail": "cut"}, None, "h"),
    "categorical.csv": ("data.drop=[region]", {"drop": ["region"]}, None, "h"),
    "long_single.csv": ("data.series_column=unique_id", {"series_column": "unique_id"}, None, None),
}  # fmt: skip
"""File: what is said about it, the option that settles it, then its first day and its step."""

REFUSED = {
    FIELD / "huge_4e39.csv": "column 'v', row 391: 6.21e+39 is beyond 32-bit numbers",
    FIELD / "no_header.csv": "has no header",
    ATTACK / "huge-values-forecast.csv": "column 'HUFL', row 4: 2e+200 is beyond 32-bit numbers",
    ATTACK / "scale-1e-300.csv": "column 'c0', row 240: -3.89942e-300 is beyond 32-bit numbers",
    ATTACK / "test-1e300.csv": "column 'c0', row 352: -2.51634e+300 is beyond 32-bit numbers",
    ATTACK / "string-bomb-749B.parquet": "holds a text of 10000000 characters, expected at most 1000",
}


def data(path: Path, **options: object) -> DataConfig:
    return DataConfig.model_validate({"name": str(path), **options})


@pytest.mark.parametrize("name", READ)
def test_what_can_be_read_is_read_rightly(name: str) -> None:
    series = load_series(data(FIELD / name))
    first, last, step = READ[name]
    found = (series.times[0], series.times[-1], series.frequency)
    assert found == (np.datetime64(first), np.datetime64(last), step)


def test_marks_and_names_are_those_of_the_file() -> None:
    german = load_series(data(FIELD / "thousands_de.csv"))
    last = german.raw_TC[:, german.channels.index("Last")]
    assert last.min() > 799, "1.002 beside 999 is a thousand and two"
    assert last.max() < 1300
    assert load_series(data(FIELD / "header_commas.csv")).channels == ("load, total, gross", "price, spot, net")


@pytest.mark.parametrize("name", SETTLED)
def test_what_a_file_leaves_open_is_said_and_settled_by_the_option_that_is_named(name: str) -> None:
    said, options, first, step = SETTLED[name]
    with pytest.raises(UserError) as raised:
        load_series(data(FIELD / name))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    series = load_series(data(FIELD / name, **options))
    assert first is None or str(series.times[0]).startswith(first)
    assert step is None or series.frequency == step
    assert np.isfinite(series.raw_TC).all()


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: path.name)
def test_what_no_model_can_compute_with_is_one_line(path: Path) -> None:
    with pytest.raises(UserError) as raised:
        load_series(data(path))
    assert REFUSED[path] in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("train", "new", "lookback", "horizon", "settings", "expected"),
    [
        ("dayfirst_train.csv", "dayfirst_new_one_day.csv", 24, 3, (), "06/06/2024 00:00"),
        ("short_bday_train.csv", "short_bday_new_mon_fri.csv", 5, 2, (), "2023-06-19"),
        ("future_train.csv", "future_rows_empty.csv", 24, 3, (), "2024-01-09 02:00"),
    ],
)
def test_new_rows_are_read_as_training_found(
    train: str, new: str, lookback: int, horizon: int, settings: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    settings = ("train.max_steps=2", "train.threads=1", *settings)
    api.train(
        "dlinear", str(FIELD / train), lookback=lookback, horizon=horizon, settings=settings, out=tmp_path / "model"
    )
    api.forecast(tmp_path / "model", FIELD / new, out=tmp_path / "forecast.csv")
    row = (tmp_path / "forecast.csv").read_text().splitlines()[1].split(",")
    assert row[0].startswith(expected)
    assert all(map(str.strip, row))


def test_a_level_of_a_billion_costs_nothing(tmp_path: Path) -> None:
    settings = ("train.max_steps=30", "train.threads=1")
    source = str(FIELD / "level_1e9.csv")
    api.train("dlinear", source, lookback=24, horizon=12, settings=settings, out=tmp_path / "model")
    api.export(tmp_path / "model", out=tmp_path / "model.onnx", data=source)
    for model, out in ((tmp_path / "model", "a.csv"), (tmp_path / "model.onnx", "b.csv")):
        api.forecast(model, Path(source), out=tmp_path / out)
    folder, artefact = (
        np.genfromtxt(tmp_path / out, delimiter=",", skip_header=1, usecols=1) for out in ("a.csv", "b.csv")
    )
    assert len(set(folder)) == 12, "no constant"
    deviation = load_series(data(Path(source))).raw_TC.std()
    assert abs(folder - artefact).max() < 1e-4 * deviation


@pytest.mark.parametrize("name", ["prune_orig_mask.pth", "lightning_prefix.pth"])
def test_checkpoints_in_the_words_of_other_tools_are_taken(name: str, tmp_path: Path) -> None:
    api.import_checkpoint(FIELD / name, "transformer", source="tslib", out=tmp_path / "model")
    saved = load_model(tmp_path / "model")
    assert bool(saved.masks) == name.startswith("prune")


@pytest.mark.parametrize("path", sorted(FIELD.glob("*.csv")), ids=lambda path: path.stem)
def test_data_check_shows_each_on_one_screen(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["data", "check", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", ["nan-init.onnx", "bad-utf8.onnx", "bytes-name.onnx"])
def test_damaged_artefacts_are_one_line(name: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    lines = (ATTACK / "huge-values-forecast.csv").read_text().splitlines()
    rows.write_text("\n".join(line for line in lines if "e+" not in line) + "\n")
    for act in (
        lambda: api.forecast(ATTACK / name, rows, out=tmp_path / "out.csv", fill="ffill"),
        lambda: api.evaluate(ATTACK / name, data=str(HERE / "ETTh1-2000.csv")),
    ):
        with pytest.raises(UserError) as raised:
            act()
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "out.csv").exists()


def test_an_artefact_whose_scaler_is_no_number_is_refused_on_load() -> None:
    with pytest.raises(UserError, match=r"nan-init.onnx: mean_C: expected finite numbers"):
        open_artifact(ATTACK / "nan-init.onnx")


def test_tags_of_yaml_are_refused() -> None:
    assert (ATTACK / "tag.yaml").read_text().startswith("seed: !!bool")
    with pytest.raises(UserError) as raised:
        load_recipe(ATTACK / "tag.yaml")
    assert "\n" not in str(raised.value)
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load("seed: !!python/name:os.system x")
