"""The notebook's object: fit, predict, prune, export, save, load."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pandas as pd
import pytest
import torch
from tests.support.series_files import write_table

import prunecast
from prunecast import api
from prunecast.errors import UserError
from prunecast.store import read_record, write_sums

SETTINGS = ("train.max_steps=5", "train.threads=1")


@pytest.fixture
def table() -> pd.DataFrame:
    times = pd.date_range("2024-01-01", periods=600, freq="h", name="when")
    hours = pd.Series(range(600), dtype=float)
    return pd.DataFrame({"when": times, "load": (hours % 24 - 12).abs(), "sun": (hours % 24).clip(6, 18)})


def test_the_whole_way(table: pd.DataFrame, tmp_path: Path) -> None:
    model = prunecast.Forecaster("dlinear", horizon=12, lookback=24, settings=SETTINGS).fit(table)
    pruned = model.prune("magnitude", 0.5)
    assert pruned.numbers.pruning is not None
    assert pruned.numbers.nonzero == model.numbers.nonzero - pruned.numbers.pruning.realised
    forecast = pruned.predict(table)
    assert list(forecast.columns) == ["when", "load", "sun"]
    assert forecast["when"].iloc[0] == table["when"].iloc[-1] + pd.Timedelta("1h")
    assert pruned.export("onnxruntime", tmp_path / "p.onnx").bytes > 0
    assert "ONNX Runtime 1.15" in pruned.export("onnxruntime", tmp_path / "old.onnx", opset=19).needs
    with pytest.raises(UserError, match=r"export\.opset"):
        pruned.export("onnxruntime", tmp_path / "x.onnx", opset=3)
    pruned.save(tmp_path / "saved")
    loaded = prunecast.Forecaster.load(tmp_path / "saved")
    assert loaded.predict(table).equals(forecast)
    assert loaded.numbers == pruned.numbers
    module = prunecast.load(tmp_path / "saved")
    assert not module.training
    assert module(torch.zeros(2, 24, 2)).shape == (2, 12, 2)


def test_files_are_written_by_save_and_export_alone(
    table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mkdtemp", "mkstemp", "NamedTemporaryFile"):
        monkeypatch.setattr(tempfile, name, lambda *_, **__: pytest.fail("a temporary file"))
    model = prunecast.Forecaster("dlinear", horizon=12, lookback=24, settings=SETTINGS).fit(table)
    before = model.predict(table)
    tuned = model.prune("magnitude", 0.5, finetune_epochs=1, settings=["finetune.max_steps=2"])
    assert not tuned.predict(table).equals(before)
    assert model.predict(table).equals(before), "the pruned one is another"
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_rewritten_is_read_anew(table: pd.DataFrame, tmp_path: Path) -> None:
    model = prunecast.Forecaster("repeat", horizon=12, lookback=24, settings=("train.threads=1",))
    errors = []
    for factor in (1, 2, 3):
        table.assign(sun=table["sun"] * factor).to_csv(tmp_path / "own.csv", index=False)
        errors.append(model.fit(tmp_path / "own.csv").numbers.mse)
        model.save(tmp_path / str(factor))
        assert prunecast.load(tmp_path / str(factor)).config == model.module.config
    assert errors[0] == pytest.approx(errors[1]), "a factor goes with the scaler"
    facts = [read_record(tmp_path / str(factor)).data for factor in (1, 2, 3)]
    assert len({data.sha256 for data in facts}) == 3


def test_what_was_saved_is_gone_on_from(table: pd.DataFrame, tmp_path: Path) -> None:
    table.to_csv(tmp_path / "own.csv", index=False)
    model = prunecast.Forecaster("dlinear", horizon=12, lookback=24, settings=SETTINGS).fit(tmp_path / "own.csv")
    model.save(tmp_path / "saved")
    loaded = prunecast.Forecaster.load(tmp_path / "saved")
    with pytest.raises(UserError, match="say where it is"):
        loaded.prune("magnitude", 0.5)
    found = prunecast.Forecaster.load(tmp_path / "saved", tmp_path / "own.csv").prune("magnitude", 0.5)
    assert found.numbers == model.prune("magnitude", 0.5).numbers


def test_nothing_works_before_fit(table: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="call fit first"):
        prunecast.Forecaster().predict(table)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError):
        prunecast.nothing  # noqa: B018


def test_a_file_that_was_rewritten_is_read_again(tmp_path: Path) -> None:
    path = write_table(tmp_path / "own.csv")
    model = prunecast.Forecaster("repeat", horizon=6, lookback=24).fit(path)
    write_table(path, first=0.5)
    again = prunecast.Forecaster("repeat", horizon=6, lookback=24).fit(path)
    assert model.fit(path).numbers == again.numbers


def test_a_record_that_is_no_models_is_damage(table: pd.DataFrame, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    prunecast.Forecaster("repeat", horizon=12, lookback=24).fit(table).save(folder)
    text = (folder / "record.json").read_text()
    (folder / "record.json").write_text(json.dumps(json.loads(text) | {"size": None}))
    write_sums(folder)
    with pytest.raises(UserError, match="damaged: its record is no model's"):
        prunecast.Forecaster.load(folder)


@pytest.mark.parametrize("kind", ["column", "index", "periods", "zone"])
def test_a_backtest_of_a_table_as_people_have_it(kind: str, table: pd.DataFrame) -> None:
    table = table.rename(columns={"load": 1})
    indexed = table.set_index("when")
    given = {
        "column": table,
        "index": indexed,
        "periods": indexed.set_axis(indexed.index.to_period("h").rename("when")),
        "zone": indexed.tz_localize("UTC").tz_convert("Europe/Berlin"),
    }[kind]
    model = prunecast.Forecaster("dlinear", horizon=12, lookback=24, settings=SETTINGS).fit(given)
    found = model.backtest(given, 3)
    frame = found.frame()
    assert list(frame.columns) == ["origin", "when", "1", "sun"]
    assert (len(frame), frame["origin"].nunique()) == (36, 3)
    last = given["when"].iloc[-1] if kind == "column" else given.index[-1]
    assert str(frame["when"].iloc[-1]) == str(last if kind != "periods" else last.start_time)
    mae = (frame["sun"] - table["sun"].iloc[-36:].to_numpy()).abs().mean()
    assert found.errors[1].raw["mae"] == pytest.approx(mae)
    single = model.predict(given, origin=str(frame["origin"].iloc[-1]))
    pd.testing.assert_frame_equal(single, frame.iloc[-12:, 1:].reset_index(drop=True))


def test_load_series_reads_a_frame_as_its_file(table: pd.DataFrame, tmp_path: Path) -> None:
    table.loc[7, "sun"] = None
    table.to_csv(tmp_path / "own.csv", index=False)
    settings = ["data.fill=interpolate:1", "data.channels=[sun]"]
    of_file = prunecast.load_series(tmp_path / "own.csv", settings).frame()
    of_frame = prunecast.load_series(table, settings).frame()
    pd.testing.assert_frame_equal(of_frame, of_file)
    assert (of_frame.index.name, list(of_frame.columns), of_frame["sun"].iloc[7]) == ("when", ["sun"], 7)
    with pytest.raises(UserError, match="missing values"):
        prunecast.load_series(table)
    with pytest.raises(UserError, match="'train' has no effect here"):
        prunecast.load_series(table, ["train.epochs=1"])
    model = prunecast.Forecaster("repeat", horizon=2, lookback=4, settings=(*SETTINGS, *settings)).fit(table)
    assert model.predict(table, "interpolate:1")["sun"].iloc[0] == table["sun"].iloc[-1]


def test_an_index_that_does_more_than_count_is_a_column(table: pd.DataFrame) -> None:
    indexed = table.set_index("when")
    texts = indexed.set_axis(indexed.index.astype(str))
    assert prunecast.load_series(texts.rename_axis(None)).time_name == "date"
    assert list(prunecast.load_series(texts.rename_axis("stamp")).frame().index) == list(indexed.index)
    both = pd.concat({"A": indexed[["sun"]], "B": 2 * indexed[["sun"]]}, names=["meter", "when"])
    wide = prunecast.load_series(both, ["data.series_column=meter"]).frame()
    assert wide["B"].equals(2 * wide["A"])
    zoned = prunecast.load_series(indexed.tz_localize("Europe/Berlin")).frame()
    assert str(zoned.index[0]) == "2024-01-01 00:00:00+01:00"
    with pytest.raises(UserError, match="has no time column"):
        prunecast.load_series(indexed.reset_index(drop=True))


def test_data_check_takes_a_frame(table: pd.DataFrame) -> None:
    check = api.data_check(table.set_index("when")).check
    assert (check.rows, check.frequency, check.problems) == (len(table), "h", ())


def test_a_series_is_a_frame_of_one_column(table: pd.DataFrame) -> None:
    load = table.set_index("when")["load"]
    model = prunecast.Forecaster("repeat", horizon=2, lookback=4, settings=SETTINGS).fit(load)
    assert model.predict(load).equals(model.predict(load.to_frame()))
    assert list(model.predict(load).columns) == ["when", "load"]
    with pytest.raises(UserError, match="data frame: has no time column"):
        model.fit(load.reset_index(drop=True))
