"""Records as tables: nothing is lost, Parquet gives them back, and trackers take them where they are installed."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from tests.support.study_records import study

from prunecast.cli.main import main
from prunecast.errors import MissingExtra, UserError
from prunecast.records import Epoch, Fit, RunRecord
from prunecast.study import trackers
from prunecast.study.frame import DESCRIBES, StudyFrame, concat, frame_of, read_frame, runtimes, write_frame
from prunecast.study.study import open_study
from prunecast.study.trackers import to_mlflow, to_parquet, to_wandb

RESULTS = Path(__file__).parents[3] / "results" / "etth1-small"


EPOCHS = tuple(
    Epoch(epoch=epoch, steps=10, learning_rate=0.1, train_loss=1 / epoch, validation_loss=2 / epoch)
    for epoch in (1, 2, 3)
)
FIT = Fit(epochs=EPOCHS, best_epoch=3, steps=30, stopped_early=False)


@pytest.fixture(scope="module")
def records() -> Sequence[RunRecord]:
    found = study(models=("transformer", "dlinear"), seeds=(1, 2))
    found[0] = found[0].model_copy(update={"fit": FIT})
    timed = next(record for record in found if record.stage == "measure")
    timing = timed.timing.model_copy(update={"runtimes": ()})
    return [*found, timed.model_copy(update={"stage": "export", "fingerprint": "ab12", "timing": timing})]


@pytest.fixture(scope="module")
def frame(records: Sequence[RunRecord]) -> StudyFrame:
    return frame_of(records)


def same(found: Any, expected: float | None) -> bool:
    return bool(pd.isna(found)) if expected is None else bool(found == expected)


def test_a_row_has_the_numbers_of_its_record(records: Sequence[RunRecord], frame: StudyFrame) -> None:
    for record, row in zip(records, frame.stages.to_dict("records"), strict=True):
        assert row["fingerprint"] == record.fingerprint
        assert row["dataset"] == record.data.name
        assert same(row["test_mse"], record.test.mse if record.test else None)
        assert same(row["validation_mae"], record.validation.mae if record.validation else None)
        assert same(row["budget_realised"], record.pruning.realised if record.pruning else None)
        assert row["machine"] == record.environment.machine
        assert json.loads(row["recipe"]) == record.recipe
        method = (record.recipe["prune"] or {}).get("method", "")
        assert row["method_is_control"] == (method in ("random", "structured-random"))
        for timing in record.timing.runtimes:
            assert row[f"{timing.runtime}_latency_ms"] == timing.latency.median
            assert same(row[f"{timing.runtime}_speedup"], timing.speedup.ratio if timing.speedup else None)
        for artefact in record.artefacts:
            assert row[f"{artefact.runtime}_bytes"] == artefact.bytes


def test_arrays_are_those_of_the_records(records: Sequence[RunRecord], frame: StudyFrame) -> None:
    for record in records:
        if record.test is not None:
            assert record.test.blocks is not None
            found = frame.values(record.fingerprint, "block_mse", "test")
            assert found is not None
            assert tuple(found) == record.test.blocks.mse
        for timing in record.timing.runtimes:
            found = frame.values(record.fingerprint, "latency_ms", timing.runtime)
            assert found is not None
            assert tuple(found) == timing.latency.samples
        kept = frame.forecasts(record.fingerprint)
        assert [(one.channel, one.window, one.start) for one in kept] == [
            (example.channel, example.window, example.start) for example in record.examples
        ]
        for one, example in zip(kept, record.examples, strict=True):
            assert tuple(one.history) == example.history
            assert tuple(one.truth) == example.truth
            assert tuple(one.forecast) == example.forecast
    held = frame.arrays["kind"].value_counts()
    windows = {(example.window, example.start) for record in records for example in record.examples}
    assert held["truth"] == held["history"] == len(windows)
    assert held["forecast"] > 10 * len(windows)


def test_parquet_gives_the_tables_back(tmp_path: Path, frame: StudyFrame) -> None:
    write_frame(frame, tmp_path)
    back = read_frame(tmp_path)
    pd.testing.assert_frame_equal(frame.stages, back.stages)
    columns = ["kind", "fingerprint", "key"]
    one, other = (table.arrays.sort_values(columns, ignore_index=True) for table in (frame, back))
    pd.testing.assert_frame_equal(one[columns], other[columns], check_dtype=False)
    assert all(map(np.array_equal, one["values"], other["values"]))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1_000_000  # 9 MB as records


def test_what_is_not_a_study_in_parquet_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no whole records\.parquet"):
        read_frame(tmp_path)
    (tmp_path / "records.parquet").write_text("x")
    with pytest.raises(UserError, match=r"no whole records\.parquet"):
        read_frame(tmp_path)


def test_tables_are_joined_without_doubles(records: Sequence[RunRecord], frame: StudyFrame) -> None:
    joined = concat([frame_of(records[:200]), frame_of(records[100:])])
    assert list(joined.stages["fingerprint"]) == list(frame.stages["fingerprint"])
    assert len(joined.arrays) == len(frame.arrays)
    assert frame_of([]).stages.empty
    assert concat([]).arrays.empty


def test_runtimes_are_read_off_the_columns() -> None:
    columns = ["a_latency_ms", "a_bytes", "a_zip_bytes", "a_reference_ms", "raw_bytes", "zip_bytes", "b_2_bytes"]
    assert runtimes(columns, "latency_ms") == ("a",)
    assert runtimes(columns, "bytes") == ("a", "b_2")
    assert runtimes(columns, "zip_bytes") == ("a",)


def test_parquet_holds_one_row_for_each_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a committed study, by the command line."""
    out = tmp_path / "records.parquet"
    assert main(["--json", "study", "export", str(RESULTS), "--to", "parquet", str(out)]) == 0
    answer = json.loads(capsys.readouterr().out)
    stages = open_study(RESULTS).stages
    assert answer == {"to": str(out), "records": len(stages), "written": len(stages)}
    table = pq.read_table(out)
    assert table.column("fingerprint").to_pylist() == [stage.fingerprint for stage in stages]
    assert table.schema.field("test_mse").type == "double"
    assert table.schema.field("parameters").type == "int64"
    timed = [row for row in table.to_pylist() if row["stage"] == "measure"]
    assert all(row["onnxruntime_latency_ms"] > 0 for row in timed)


def test_a_file_that_exists_is_kept(tmp_path: Path, frame: StudyFrame) -> None:
    (tmp_path / "there").write_text("precious")
    with pytest.raises(UserError, match="exists"):
        to_parquet(frame, str(tmp_path / "there"), "title")
    with pytest.raises(UserError, match="found none"):
        to_parquet(frame_of([]), str(tmp_path / "empty"), "title")
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
        send(frame_of([]), "nowhere", "title")


def scored(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Returns the records of a model that was trained, one that was timed and one that was exported."""
    return [next(record for record in records if record.stage == stage) for stage in ("train", "measure", "export")]


@pytest.mark.filterwarnings("default")
def test_mlflow_gets_each_record_once(
    tmp_path: Path, records: Sequence[RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database or a server needs more packages
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    uri, sent = (tmp_path / "mlflow").as_uri(), scored(records)
    assert to_mlflow(frame_of(sent[:1]), uri, "A study") == 1
    assert to_mlflow(frame_of(sent), uri, "A study") == 2
    assert to_mlflow(frame_of(sent), uri, "A study") == 0
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("A study")
    runs = {run.data.tags[trackers.FINGERPRINT_TAG]: run for run in client.search_runs([experiment.experiment_id])}
    assert len(runs) == 3
    for row in frame_of(sent).stages.to_dict("records"):
        run = runs[row["fingerprint"]]
        assert run.info.status == "FINISHED"
        assert run.data.params["model"] == row["model"]
        for name, value in row.items():
            if isinstance(value, int | float) and not math.isnan(value) and name not in DESCRIBES:
                assert name == "method_is_control" or run.data.metrics[name] == pytest.approx(value)
    assert sent[0].fit is not None
    curve = client.get_metric_history(runs[sent[0].fingerprint].info.run_id, "validation_loss")
    assert [(point.step, point.value) for point in curve] == [(e.epoch, e.validation_loss) for e in sent[0].fit.epochs]


@pytest.mark.filterwarnings("default")
def test_wandb_takes_each_record_offline(
    tmp_path: Path, records: Sequence[RunRecord], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    assert to_wandb(frame_of(scored(records)), "prunecast-test", "A study") == 3
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 3
    assert capfd.readouterr().out == ""
