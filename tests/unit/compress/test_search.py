"""The search: what it chooses, that it goes on after any end, and what it answers where a budget is out of reach."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from tests.support import small_search
from tests.support.series_files import write_table
from tests.support.small_search import SIZES, TRAIN, found, search

import prunecast.compress.cost as costing
import prunecast.compress.search as searching
import prunecast.stages.measure as measuring
from prunecast import api
from prunecast.compress.budget import Budgets, TimeUp, time_limit
from prunecast.compress.candidates import How, Shape, Tried
from prunecast.compress.cost import Point
from prunecast.compress.search import ALIKE, Compression
from prunecast.errors import UserError
from prunecast.inference import open_artifact
from prunecast.measure.machine_lock import beside_others
from prunecast.recipe import RECIPE_FILE, load_recipe
from prunecast.report.statistics import Interval
from prunecast.results import Compressed
from prunecast.stages.job import Job
from prunecast.stages.run import Chain
from prunecast.stages.train import tuning_rungs
from prunecast.store import read_record
from prunecast.study.executor import Monitor
from prunecast.train.evaluate import score

LOOSE = Budgets(max_loss_increase=0.05)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("compress") / "own.csv")


@pytest.fixture(scope="module")
def dense(data: Path) -> Path:
    api.train("transformer", str(data), out=data.parent / "dense", settings=TRAIN, **SIZES)
    return data.parent / "dense"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    _make_small(monkeypatch)


def _make_small(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(searching, "FRONT", 5)
    for module in (measuring, costing):
        patch.setattr(module, "time_against", small_search.counted)


@pytest.fixture(scope="module")
def whole(dense: Path, data: Path) -> tuple[Compressed, Path]:
    """A search that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        _make_small(patch)
        return found(search(dense, data, data.parent / "whole", LOOSE)), data.parent / "whole"


def test_the_choice_is_the_fastest_of_all_that_keep_within_the_budget(whole: tuple[Compressed, Path]) -> None:
    result, _ = whole
    assert result.met
    assert result.exit_code == 0
    [chosen] = [row for row in result.tried if row["name"] == result.chosen and row["latency_ms"] is not None]
    assert chosen["increase"]["high"] <= 0.05
    within = [row["latency_ms"] or row["predicted_ms"] for row in result.tried if row["increase"]["high"] <= 0.05]
    assert chosen["latency_ms"] <= min(within) * (1 + 2 * ALIKE)
    alike = [row for row in result.tried if row["parameters"] == chosen["parameters"] and row["met"]]
    assert chosen["increase"]["value"] == min(row["increase"]["value"] for row in alike), "one shape has one time"
    assert {row["how"] for row in result.tried} == {"dense", "repaired", "tuned", "scratch", "uniform"}
    assert result.compressed is not None
    assert result.compressed["mse"] > 0
    assert result.dense["latency_ms"]["median"] >= result.compressed["latency_ms"]["median"]
    assert result.dlinear is not None


def test_the_same_share_cut_everywhere_is_among_the_tried_and_told(whole: tuple[Compressed, Path]) -> None:
    result, out = whole
    rows = [row for row in result.tried if row["how"] == "uniform"]
    assert [row["name"].rpartition(", ")[2] for row in rows] == ["repaired", "tuned for 1 epoch"]
    assert rows[0]["parameters"] == rows[1]["parameters"]
    [told] = [sentence for sentence in result.verdict if sentence.startswith("With the same share cut everywhere")]
    assert any(row["name"] in told for row in rows)
    assert rows[0]["name"] in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (0, []),
        (1, [(1, 6)]),
        (3, [(1, 6), (3, 3)]),
        (10, [(1, 6), (3, 3), (10, 3)]),
    ],
)
def test_tuning_goes_on_with_ever_fewer_for_ever_longer(epochs: int, expected: list[tuple[int, int]]) -> None:
    assert tuning_rungs(16, 3, epochs) == expected


def test_predictions_are_corrected_by_what_was_timed(whole: tuple[Compressed, Path]) -> None:
    result, _ = whole
    assert result.prediction is not None
    assert result.prediction["residual"] < 0.01
    errors = [row["error"] for row in result.prediction["candidates"]]
    assert errors, "the clock of candidates shows 5 % more than the one of the table"
    assert errors[0] == pytest.approx(1 / 1.05 - 1, abs=0.01)
    assert all(abs(error) < 0.01 for error in errors[1:])


def test_the_recipe_repeats_the_choice_and_the_record_is_the_one_it_gives(
    whole: tuple[Compressed, Path], dense: Path, data: Path
) -> None:
    _, out = whole
    record, recipe = read_record(out / "model"), load_recipe(out / RECIPE_FILE)
    assert record.test is not None
    assert recipe.prune is not None
    assert recipe == load_recipe(out / "model" / RECIPE_FILE)
    jobs = Chain(recipe, record.data.sha256, str(data)).prune(read_record(dense).fingerprint, "again")
    assert record.fingerprint in {job.fingerprint for job in jobs} or record.role == "small-dense"


def test_the_page_and_the_json_tell_the_same(whole: tuple[Compressed, Path]) -> None:
    result, out = whole
    assert json.loads((out / "compress.json").read_text()) == json.loads(json.dumps(result.to_json()))
    page = (out / "report.html").read_text(encoding="utf-8")
    assert all(title in page for title in ("Budgets", "What was tried", "What each cut gave", "Predicted against"))
    assert "<script" not in page


def test_the_test_part_is_scored_at_the_end_alone(whole: tuple[Compressed, Path], dense: Path) -> None:
    _, out = whole
    records = [read_record(path.parent) for path in out.glob("search/store/??/*/record.json")]
    given = read_record(dense).fingerprint
    assert all(record.test is None and not record.examples for record in records if record.fingerprint != given)
    assert len([*out.glob("search/test-*.json")]) == 3


class Ends(Monitor):
    """Ends the search after some stages, as an interruption or as the clock does."""

    def __init__(self, stages: int, error: type[BaseException]) -> None:
        self.left, self.error = stages, error

    def done(self, job: Job) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error


@pytest.mark.parametrize("stages", [1, 4, 9])
def test_an_interrupted_search_goes_on_to_the_same_choice(
    stages: int, whole: tuple[Compressed, Path], dense: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        search(dense, data, out, LOOSE, Ends(stages, KeyboardInterrupt)).run()
    again = found(search(dense, data, out, LOOSE)).to_json()
    expected = whole[0].to_json()
    paths = ("path", "folder", "report")
    assert {key: value for key, value in again.items() if key not in paths} == {
        key: value for key, value in expected.items() if key not in paths
    }


def test_when_the_time_is_over_the_best_so_far_is_the_result(dense: Path, data: Path, tmp_path: Path) -> None:
    one = search(dense, data, tmp_path / "out", LOOSE, Ends(5, TimeUp))
    result = found(one)
    assert one.ended_early
    assert 2 <= len(result.tried) <= 5
    assert any("the same command goes on" in sentence for sentence in result.verdict)
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()


def test_the_time_is_over_though_the_alarm_went_unheard(
    dense: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "time_limit", lambda _: nullcontext())
    one = search(dense, data, tmp_path / "out", LOOSE, time_limit_s=100.0)
    one.started_s -= 101
    result = found(one)
    assert one.ended_early
    assert [row["how"] for row in result.tried] == ["dense"]


def test_the_clock_ends_what_runs() -> None:
    with pytest.raises(TimeUp), time_limit(0.05):
        signal.pause()
    with time_limit(math.inf):
        pass


class Hears(Monitor):
    """Keeps what is said, and when."""

    def __init__(self) -> None:
        self.said: list[tuple[float, str]] = []

    def note(self, line: str) -> None:
        self.said.append((time.monotonic(), line))


def test_a_budget_out_of_reach_is_answered_at_once_though_the_machine_is_busy_and_the_nearest_written(
    dense: Path, data: Path, tmp_path: Path
) -> None:
    heard, asked = Hears(), Budgets(max_loss_increase=0.05, max_latency_ms=0.001)
    started_s = time.monotonic()
    with beside_others():
        result = found(search(dense, data, tmp_path / "out", asked, heard, wait_s=600.0))
    [(said_s, line)] = heard.said
    assert said_s - started_s < 10
    assert line.startswith("max-latency 0.00100 ms is out of reach: the smallest model of this search costs")
    assert (result.met, result.exit_code, result.chosen) == (False, 3, result.tried[0]["name"])
    assert "Other stages ran on this machine" in result.verdict[1]
    assert result.folder is not None
    assert result.compressed is not None
    assert result.compressed["parameters"] < result.dense["parameters"] / 3
    assert read_record(result.folder).test is not None
    assert json.loads((tmp_path / "out" / "compress.json").read_text()) == json.loads(json.dumps(result.to_json()))
    again = found(search(dense, data, tmp_path / "out", asked))
    assert again.compressed == result.compressed, "the same command answers the same"


def test_most_of_a_memory_that_is_out_of_reach_is_the_runtimes(dense: Path, data: Path, tmp_path: Path) -> None:
    one = search(dense, data, tmp_path / "out", Budgets(max_loss_increase=0.05, max_memory_bytes=256_000))
    assert not one.within_reach()
    [sentence] = one.missed
    assert sentence.startswith(
        "max-memory 256 kB is out of reach: the smallest model of this search costs 10.0 MB (the"
    )
    assert "runtime c" in sentence


def test_a_budget_of_bytes_needs_no_clock(
    dense: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("nothing is to be timed before the answer")

    class Answered(Exception):
        pass

    class Ready(Monitor):
        def note(self, line: str) -> None:
            assert line.startswith("max-size 10 B is out of reach")
            raise Answered

    asked = Budgets(max_loss_increase=0.05, max_bytes=10)
    with monkeypatch.context() as patch:
        patch.setattr(costing, "time_against", forbidden)
        with pytest.raises(Answered):
            search(dense, data, tmp_path / "out", asked, Ready(), stopwatch=None).run()
    [row] = found(search(dense, data, tmp_path / "out", asked, stopwatch=None)).tried
    assert row["latency_ms"] == row["predicted_ms"]


def test_a_budget_of_bytes_that_only_8_bits_meet_is_met_in_8_bits(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = ("model.d_model=64", "model.d_ff=128", "model.encoder_layers=1", "train.max_steps=2")
    api.train("itransformer", str(data), out=tmp_path / "wide", settings=(*TRAIN, *wide), **SIZES)
    assessed = Compression._assessed

    def dear(self: Compression, how: How, shape: Shape, jobs: tuple[Job, ...]) -> Tried:
        """Whatever is cut costs as much of the loss."""
        loss = Interval(shape.share, shape.share, shape.share)
        return replace(assessed(self, how, shape, jobs), increase=loss)

    monkeypatch.setattr(Compression, "_assessed", dear)
    monkeypatch.setattr(searching, "FRONT", 3)
    monkeypatch.setattr(searching, "SHIPPED", 1)
    given = api.export(tmp_path / "wide", out=tmp_path / "given.onnx", data=str(data)).bytes
    asked = Budgets(max_loss_increase=0.25, max_bytes=0.65 * given)
    one = search(tmp_path / "wide", data, tmp_path / "out", asked, runtime="onnxruntime")
    result = found(one)
    assert any(tried.predicted.bytes > asked.max_bytes for tried in one.tried if tried.shape), "such are on the front"
    assert result.met
    assert result.chosen.endswith(", 8 bits")
    assert result.path.stat().st_size == one.best.costs.bytes <= asked.max_bytes < one.dense.costs.bytes
    assert (
        result.compressed["mse"] == score(open_artifact(result.path).predictor(), one.parent.windows.test, "test").mse
    )
    hoped = one.table.costs(one.best.shape.units if one.best.shape else {}).int8_bytes
    assert hoped == pytest.approx(one.best.costs.bytes, rel=0.05)


def test_a_glance_on_a_busy_machine_is_not_believed_to_the_last(dense: Path, data: Path, tmp_path: Path) -> None:
    one = search(dense, data, tmp_path / "out", LOOSE)
    assert one.stopwatch is not None
    near = Budgets(max_loss_increase=0.05, max_latency_ms=one.stopwatch(one.extremes[-1]).latency_ms / 1.5)
    for busy, measured in ((True, 2), (False, 0)):
        with beside_others() if busy else nullcontext():
            one = search(dense, data, tmp_path / "out", near)
            assert not one.within_reach()
        assert len(one.points) == measured, "the clock decides where a glance may be wrong"


def test_waits_for_the_clock_count_towards_the_time_limit(dense: Path, data: Path, tmp_path: Path) -> None:
    one = search(dense, data, tmp_path / "out", LOOSE, wait_s=60.0, time_limit_s=40.0)
    assert 9 < one.patience_s <= 10
    one.started_s -= 41
    assert one.patience_s == 0.0
    assert search(dense, data, tmp_path / "out", LOOSE, wait_s=60.0).patience_s == 60.0
    with pytest.raises(UserError, match=r"^--time-limit: expected a time with its unit"):
        api.compress(dense, max_loss_increase="1%", out=tmp_path / "out", time_limit="40")


def test_where_no_candidate_is_within_the_budgets_the_nearest_is_written(
    dense: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "PATIENCE", 1)
    one = search(dense, data, tmp_path / "out", Budgets(max_loss_increase=0.0, max_latency_ms=0.055))
    result = found(one)
    assert one.stopped in result.verdict
    assert result.exit_code == (0 if result.met else 3)
    assert result.path is not None
    assert result.path.exists()
    assert {row["name"] for row in result.budgets} == {"max-loss-increase", "max-latency"}


def test_the_costs_of_a_device_count_where_it_has_a_profile(
    whole: tuple[Compressed, Path], dense: Path, data: Path, tmp_path: Path
) -> None:
    here = TypeAdapter(list[Point]).validate_json((whole[1] / "search" / "costs.json").read_bytes())
    slower = [
        point.model_copy(update={"costs": point.costs.model_copy(update={"latency_ms": 10 * point.costs.latency_ms})})
        for point in here
    ]
    one = search(dense, data, tmp_path / "out", LOOSE, Ends(5, TimeUp), device=slower)
    result = found(one)
    assert result.compressed is not None
    timed_here = result.compressed["latency_ms"]["median"]
    assert result.compressed["device_latency_ms"] == pytest.approx(10 * timed_here / 1.05, rel=0.02)
    assert any("profile of the device" in sentence for sentence in result.verdict)
    foreign = [Point(keep={"nobody's": 3}, costs=slower[0].costs)]
    with pytest.raises(UserError, match="--profile: expected the costs of this model"):
        search(dense, data, tmp_path / "other", LOOSE, device=foreign).run()


def test_a_model_without_units_to_cut_is_its_own_answer(data: Path, tmp_path: Path) -> None:
    cut = ("train.max_steps=5", "train.threads=1", "train.device=cpu")
    api.train("dlinear", str(data), out=tmp_path / "dlinear", settings=cut, **SIZES)
    result = found(search(tmp_path / "dlinear", data, tmp_path / "out", LOOSE))
    assert result.met
    assert result.chosen == "the given model"
    assert result.steps == ()
    assert read_record(tmp_path / "out" / "model").fingerprint == read_record(tmp_path / "dlinear").fingerprint


def test_another_question_in_the_same_folder_is_refused(
    whole: tuple[Compressed, Path], dense: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="is the result of another question"):
        search(dense, data, whole[1], Budgets(max_loss_increase=0.02)).run()
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="taken exists; give another --out"):
        search(dense, data, tmp_path / "taken", LOOSE).run()


@pytest.mark.slow
def test_it_is_killed_again_and_again_and_comes_to_the_same_choice(
    whole: tuple[Compressed, Path], dense: Path, data: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.support.small_search", str(dense), str(data), str(tmp_path / "out")]
    draw, kills = random.Random(1), 0
    for _ in range(20):
        running = subprocess.Popen(command)
        try:
            running.wait(timeout=draw.uniform(4, 30))
            break
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
            kills += 1
        if (tmp_path / "out" / "model").exists():
            assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
    else:
        subprocess.run(command, check=True)
    assert kills
    again = json.loads((tmp_path / "out" / "compress.json").read_text())
    assert (again["chosen"], again["met"]) == (whole[0].chosen, whole[0].met)
