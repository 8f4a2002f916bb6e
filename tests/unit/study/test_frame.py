"""Records handed on: to a Parquet file for real, to MLflow and Weights & Biases where they are installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from prunecast.cli.main import main
from prunecast.errors import MissingExtra, UserError
from prunecast.records import RunRecord
from prunecast.study import trackers
from prunecast.study.frame import Row, rows_of
from prunecast.study.study import open_study
from prunecast.study.trackers import to_mlflow, to_parquet, to_wandb

RESULTS = Path(__file__).parents[3] / "results" / "etth1-small"


@pytest.fixture(scope="module")
def records() -> Sequence[RunRecord]:
    return open_study(RESULTS).results()[0]


def test_a_row_has_the_numbers_of_its_record(records: Sequence[RunRecord]) -> None:
    for record, row in zip(records, rows_of(records), strict=True):
        columns = row.columns
        assert columns["fingerprint"] == record.fingerprint
        assert columns["dataset"] == record.data.name
        assert columns["test_mse"] == (record.test.mse if record.test else None)
        assert columns["pruned"] == (record.pruning.realised if record.pruning else None)
        assert columns["machine"] == record.environment.machine
        for timing in record.timing.runtimes:
            assert columns[f"{timing.runtime}_ms"] == timing.latency.median
            assert columns[f"{timing.runtime}_speedup"] == (timing.speedup.ratio if timing.speedup else None)
        for artefact in record.artefacts:
            assert columns[f"{artefact.runtime}_bytes"] == artefact.bytes
        assert all(value is None or isinstance(value, str | int | float) for value in columns.values())


def test_parquet_holds_one_row_for_each_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a committed study, by the command line."""
    out = tmp_path / "records.parquet"
    assert main(["--json", "study", "export", str(RESULTS), "--to", "parquet", str(out)]) == 0
    answer = json.loads(capsys.readouterr().out)
    stages = json.loads((RESULTS / "stages.json").read_text())
    assert answer == {"to": str(out), "records": len(stages), "written": len(stages)}
    table = pq.read_table(out)
    assert table.column("fingerprint").to_pylist() == [stage["fingerprint"] for stage in stages]
    first = json.loads(
        (RESULTS / "store" / stages[0]["fingerprint"][:2] / stages[0]["fingerprint"] / "record.json").read_text()
    )
    assert table.column("test_mse")[0].as_py() == first["test"]["mse"]
    assert table.schema.field("test_mse").type == "double"
    assert table.schema.field("parameters").type == "int64"
    timed = [row for row in table.to_pylist() if row["stage"] == "measure"]
    assert all(row["onnxruntime_ms"] > 0 for row in timed)


def test_a_file_that_exists_is_kept(tmp_path: Path, records: Sequence[RunRecord]) -> None:
    (tmp_path / "there").write_text("precious")
    with pytest.raises(UserError, match="exists"):
        to_parquet(rows_of(records), str(tmp_path / "there"), "title")
    with pytest.raises(UserError, match="found none"):
        to_parquet([], str(tmp_path / "empty"), "title")
    assert (tmp_path / "there").read_text() == "precious"


def test_what_does_not_fit_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, hint in (
        (["study", "export", str(tmp_path), "--to", "parquet", str(tmp_path / "x")], "not a study's folder"),
        (["study", "export", str(RESULTS), "--to", "parkuet", str(tmp_path / "x")], "did you mean 'parquet'?"),
        (["study", "export", str(RESULTS), "--to", "parquet"], "requires 2 arguments"),
    ):
        assert main(arguments) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert hint in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("send", "package"), [(to_mlflow, "mlflow"), (to_wandb, "wandb")])
def test_a_tracker_that_is_not_installed_is_one_line(send: Any, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'prunecast\[{package}\]'"):
        send([], "nowhere", "title")


def scored(records: Sequence[RunRecord]) -> list[Row]:
    """Returns the rows of a model that was trained, one that was timed and one that was exported."""
    rows = rows_of(records)
    return [next(row for row in rows if row.columns["stage"] == stage) for stage in ("train", "measure", "export")]


@pytest.mark.filterwarnings("default")
def test_mlflow_gets_each_record_once(
    tmp_path: Path, records: Sequence[RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database or a server needs more packages
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    uri, rows = (tmp_path / "mlflow").as_uri(), scored(records)
    assert to_mlflow(rows[:1], uri, "A study") == 1
    assert to_mlflow(rows, uri, "A study") == 2
    assert to_mlflow(rows, uri, "A study") == 0
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("A study")
    runs = {run.data.tags[trackers.FINGERPRINT_TAG]: run for run in client.search_runs([experiment.experiment_id])}
    assert len(runs) == 3
    for row in rows:
        run = runs[row.columns["fingerprint"]]
        assert run.info.status == "FINISHED"
        assert run.data.params["model"] == row.columns["model"]
        for name, value in row.measures.items():
            assert value is None or run.data.metrics[name] == pytest.approx(value)
    curve = client.get_metric_history(runs[rows[0].columns["fingerprint"]].info.run_id, "validation_loss")
    assert [(point.step, point.value) for point in curve] == [(e.epoch, e.validation_loss) for e in rows[0].epochs]


@pytest.mark.filterwarnings("default")
def test_wandb_takes_each_record_offline(
    tmp_path: Path, records: Sequence[RunRecord], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    assert to_wandb(scored(records), "prunecast-test", "A study") == 3
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 3
    assert capfd.readouterr().out == ""
