from __future__ import annotations

import io
import math

import numpy as np
import pandas as pd
import pytest
from tests.unit.report_records import ENVIRONMENT, study

from prunecast.records import Ratio, RunRecord
from prunecast.report.columns import columns, to_latex, to_texts
from prunecast.report.compare import comparisons
from prunecast.report.tables import Clocks, by_variant, runs_table, summary_table, tables, to_csv
from prunecast.report.variants import collect

SMALL = {"unstructured": (0.5,), "structured": (0.75,)}


class Tables:
    """All tables of some records."""

    def __init__(self, records: list[RunRecord]) -> None:
        self.study = collect(records)
        self.compared = comparisons(self.study)
        self.clocks = Clocks(self.study)
        self.runs = runs_table(self.study, self.clocks)
        self.summary = summary_table(self.runs, self.compared)
        self.rows = {key.full_name: row for key, row in by_variant(self.summary).items()}


@pytest.fixture(scope="module")
def small() -> Tables:
    return Tables(study(**SMALL))


def with_speedup(record: RunRecord, *, low: float, high: float) -> RunRecord:
    ratio = Ratio(ratio=(low + high) / 2, low=low, high=high)
    timings = [t if t.reference is None else t.model_copy(update={"speedup": ratio}) for t in record.timing.runtimes]
    return record.model_copy(update={"timing": record.timing.model_copy(update={"runtimes": tuple(timings)})})


def test_sparsity_counts_what_is_gone_of_the_dense_parent(small: Tables) -> None:
    structured = small.rows["Transformer structured-magnitude 75 %"]
    assert structured["parameters"] == structured["nonzero"] == pytest.approx(0.25 * 842_631, abs=1)
    assert structured["sparsity"] == pytest.approx(0.75, abs=1e-5)
    assert small.rows["Transformer magnitude 50 %"]["sparsity"] == pytest.approx(0.5, abs=1e-5)
    assert small.rows["Transformer dense"]["sparsity"] == 0
    assert math.isnan(small.rows["last value"]["sparsity"])


def test_means_and_spread_are_over_seeds(small: Tables) -> None:
    runs = small.runs[(small.runs["variant"] == "trained on") & (small.runs["model"] == "DLinear")]
    row = small.rows["DLinear trained on"]
    assert row["seeds"] == len(runs) == 3
    assert row["mse"] == pytest.approx(runs["mse"].mean())
    assert row["mse_sd"] == pytest.approx(np.std(runs["mse"], ddof=1))


def test_speed_ups_of_several_seeds_cover_all_their_intervals(small: Tables) -> None:
    name = "structured-magnitude 75 %, fine-tuned"
    runs, row = small.runs[small.runs["variant"] == name], small.rows[f"Transformer {name}"]
    assert row["onnxruntime_speedup"] == pytest.approx(np.prod(runs["onnxruntime_speedup"]) ** (1 / 3))
    assert row["onnxruntime_speedup_low"] == runs["onnxruntime_speedup_low"].min()
    assert row["onnxruntime_speedup_high"] == runs["onnxruntime_speedup_high"].max()


@pytest.mark.parametrize(
    ("low", "high", "text"), [(1.01, 2.0, "1.50 ×"), (0.99, 2.0, "none shown"), (0.5, 0.9, "slower, 0.70 ×")]
)
def test_a_speed_up_is_called_one_only_when_its_interval_leaves_out_1(low: float, high: float, text: str) -> None:
    records = [with_speedup(r, low=low, high=high) for r in study(seeds=(1,), **SMALL)]
    found = Tables(records)
    shown = columns(by_variant(found.summary), found.clocks.runtimes, found.clocks.main)
    speedup = next(column for column in shown if column.header == "speed-up")
    assert speedup.cell(found.rows["Transformer magnitude 50 %, fine-tuned"]).text == text


def test_timings_of_another_machine_are_left_out() -> None:
    records = study(seeds=(1,), **SMALL)
    first = next(i for i, r in enumerate(records) if r.stage == "measure")
    other = ENVIRONMENT.model_copy(update={"machine": "another"})
    records[first] = records[first].model_copy(update={"environment": other})
    found = Tables(records)
    assert found.clocks.left_out == 1
    assert math.isnan(found.rows["Transformer dense"]["onnxruntime_ms"])
    assert found.rows["DLinear dense"]["onnxruntime_ms"] > 0


def test_a_runtime_timed_in_two_ways_is_two_runtimes() -> None:
    records = study(seeds=(1,), **SMALL)
    first = next(i for i, r in enumerate(records) if r.stage == "measure")
    timing = records[first].timing
    two = tuple(t.model_copy(update={"threads": 2}) for t in timing.runtimes)
    records[first] = records[first].model_copy(
        update={"timing": timing.model_copy(update={"runtimes": timing.runtimes + two})}
    )
    labels = Tables(records).clocks.runtimes
    assert "eager (1 threads, batch 1)" in labels
    assert "eager (2 threads, batch 1)" in labels


def test_tables_survive_csv(small: Tables) -> None:
    files = tables(small.runs, small.summary, small.compared)
    runs = pd.read_csv(io.StringIO(files["runs.csv"]))
    assert list(runs.columns) == list(small.runs.columns)
    assert runs["variant"].tolist() == small.runs["variant"].tolist()
    for column in ("mse", "sparsity", "onnxruntime_ms", "zip_bytes"):
        np.testing.assert_allclose(runs[column], small.runs[column].astype(float), rtol=1e-12)
    compared = pd.read_csv(io.StringIO(files["comparisons.csv"]))
    assert compared["difference"].tolist() == pytest.approx([c.difference for c in small.compared])


@pytest.mark.parametrize(
    ("text", "written"),
    [("=cmd()", "'=cmd()"), ("+1", "'+1"), ("-1", "'-1"), ("@sum", "'@sum"), ("\t=x", "' =x"), ("a\r=x", "a =x")],
)
def test_no_text_in_a_csv_is_a_formula(text: str, written: str) -> None:
    table = pd.DataFrame({text: [text, "plain"], "number": [-1.5, 2.0]})
    back = pd.read_csv(io.StringIO(to_csv(table)))
    assert back.columns[0] == back.iloc[0, 0] == written
    assert back["number"].tolist() == [-1.5, 2.0]


def test_the_latex_table_has_every_variant_and_no_raw_character(small: Tables) -> None:
    text = to_latex(by_variant(small.summary), small.clocks.main)
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    width = text.split(r"\toprule")[1].split(r"\\")[0].count("&")
    assert len(body) == len(small.summary)
    assert {line.replace(r"\&", "").count("&") for line in body} == {width}
    assert text.isascii()


def test_names_in_latex_are_escaped() -> None:
    records = study("a_b%&#$", seeds=(1,), **SMALL)
    renamed = [r.model_copy(update={"model": "m_x%&#$"}) if r.model == "dlinear" else r for r in records]
    found = Tables(renamed)
    text = to_latex(by_variant(found.summary), found.clocks.main)
    assert r"m\_x\%\&\#\$" in text
    assert "m_x" not in text


def test_seeds_are_shown_where_one_is_lacking() -> None:
    records = [r for r in study(**SMALL) if not (r.seed == 2 and r.role == "trained-on")]
    found = Tables(records)
    shown = [column.header for column in columns(by_variant(found.summary), (), None)]
    assert "seeds" in shown
    assert found.rows["Transformer trained on"]["seeds"] == 2
    whole = Tables(study(**SMALL))
    assert "seeds" not in [column.header for column in columns(by_variant(whole.summary), (), None)]


def test_columns_without_numbers_are_left_out() -> None:
    found = Tables(study(seeds=(1,), unstructured=(0.5,), structured=(), measured=False))
    headers = {column.header for column in columns(by_variant(found.summary), found.clocks.runtimes, found.clocks.main)}
    assert found.clocks.main is None
    assert headers.isdisjoint({"small dense", "time", "speed-up"})


def test_a_terminal_gets_every_variant_with_the_same_columns(small: Tables) -> None:
    texts = to_texts(by_variant(small.summary), small.clocks.main)
    assert len(texts) == len(small.summary)
    assert len({tuple(row) for row in texts}) == 1
    assert "case" not in texts[0]


def test_a_terminal_names_the_case_where_there_are_several() -> None:
    bare = SMALL | {"seeds": (1,), "measured": False}
    found = Tables(study(**bare) + study("ETTh1", 192, **bare))
    texts = to_texts(by_variant(found.summary), None)
    assert {row["case"] for row in texts} == {"ETTh1, horizon 192", "synthetic-load, horizon 96"}
