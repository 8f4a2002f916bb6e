from __future__ import annotations

import io
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tests.support.study_records import ENVIRONMENT, study

from prunecast.records import Ratio, RunRecord
from prunecast.report.context import Context
from prunecast.report.sheets import speed_table, to_texts, variants_table
from prunecast.report.summary import comparison_table, speeds
from prunecast.report.tables import Cell, Head, ReportTable, TableRow, escape_latex, frame_to_csv, to_csv, to_latex
from prunecast.study.frame import frame_of

SMALL = {"unstructured": (0.5,), "structured": (0.75,)}


class Tables(Context):
    """All tables of some records."""

    def __init__(self, records: list[RunRecord]) -> None:
        super().__init__(frame_of(records))
        self.by_name = {key.full_name: row for key, row in self.rows.items()}

    @property
    def table(self) -> ReportTable:
        return variants_table(self, "name", self.study.cases[0])

    def headers(self) -> list[str]:
        return [head.header for head in self.table.heads]


@pytest.fixture(scope="module")
def small() -> Tables:
    return Tables(study(**SMALL))


def with_speedup(record: RunRecord, *, low: float, high: float) -> RunRecord:
    ratio = Ratio(ratio=(low + high) / 2, low=low, high=high)
    timings = [t if t.reference is None else t.model_copy(update={"speedup": ratio}) for t in record.timing.runtimes]
    return record.model_copy(update={"timing": record.timing.model_copy(update={"runtimes": tuple(timings)})})


def test_sparsity_counts_what_is_gone_of_the_dense_parent(small: Tables) -> None:
    structured = small.by_name["Transformer structured-magnitude 75 %"]
    assert structured["parameters"] == structured["nonzero"] == pytest.approx(0.25 * 842_631, abs=1)
    assert structured["sparsity_realised"] == pytest.approx(0.75, abs=1e-5)
    assert small.by_name["Transformer magnitude 50 %"]["sparsity_realised"] == pytest.approx(0.5, abs=1e-5)
    assert small.by_name["Transformer dense"]["sparsity_realised"] == 0
    assert math.isnan(small.by_name["last value"]["sparsity_realised"])


def test_means_and_spread_are_over_seeds(small: Tables) -> None:
    runs = small.runs[(small.runs["variant"] == "dense-continued") & (small.runs["model"] == "DLinear")]
    row = small.by_name["DLinear dense-continued"]
    assert row["seeds"] == len(runs) == 3
    assert row["test_mse"] == pytest.approx(runs["test_mse"].mean())
    assert row["test_mse_sd"] == pytest.approx(np.std(runs["test_mse"], ddof=1))


def test_speed_ups_of_several_seeds_cover_all_their_intervals(small: Tables) -> None:
    name = "structured-magnitude 75 %, fine-tuned"
    runs, row = small.runs[small.runs["variant"] == name], small.by_name[f"Transformer {name}"]
    assert row["onnxruntime_speedup"] == pytest.approx(np.prod(runs["onnxruntime_speedup"]) ** (1 / 3))
    assert row["onnxruntime_speedup_low"] == runs["onnxruntime_speedup_low"].min()
    assert row["onnxruntime_speedup_high"] == runs["onnxruntime_speedup_high"].max()


@pytest.mark.parametrize(
    ("low", "high", "text"), [(1.01, 2.0, "1.50 ×"), (0.99, 2.0, "none shown"), (0.5, 0.9, "slower, 0.70 ×")]
)
def test_a_speed_up_is_called_one_only_when_its_interval_leaves_out_1(low: float, high: float, text: str) -> None:
    records = [with_speedup(r, low=low, high=high) for r in study(seeds=(1,), **SMALL)]
    found = Tables(records)
    row = next(one for one in found.table.rows if one.values[0].order == "Transformer magnitude 50 %, fine-tuned")
    assert next(cell for head, cell in row.cells.items() if head.header == "speed-up").text == text


def test_timings_of_another_machine_stand_in_columns_of_their_own() -> None:
    records = study(seeds=(1,), **SMALL)
    first = next(i for i, r in enumerate(records) if r.stage == "measure")
    other = ENVIRONMENT.model_copy(update={"machine": "another", "accelerator": "NVIDIA H200"})
    records[first] = records[first].model_copy(update={"environment": other})
    found = Tables(records)
    assert found.timings.main == "onnxruntime"
    assert found.timings.labels[:2] == ("eager", "onnxruntime")
    assert "onnxruntime on NVIDIA H200" in found.timings.labels
    assert math.isnan(found.by_name["Transformer dense"]["onnxruntime_latency_ms"])
    assert found.by_name["Transformer dense"]["onnxruntime on NVIDIA H200_latency_ms"] > 0
    assert found.by_name["DLinear dense"]["onnxruntime_latency_ms"] > 0


def test_machines_of_one_name_are_told_apart() -> None:
    records = study(seeds=(1,), **SMALL)
    first = next(i for i, r in enumerate(records) if r.stage == "measure")
    twin = ENVIRONMENT.model_copy(update={"machine": "0123456789ab"})
    records[first] = records[first].model_copy(update={"environment": twin})
    assert "eager on AMD EPYC 9B14 96-Core Processor [012345]" in Tables(records).timings.labels


def test_a_runtime_timed_in_two_ways_is_two_runtimes() -> None:
    records = study(seeds=(1,), **SMALL)
    first = next(r for r in records if r.stage == "measure")
    two = tuple(t.model_copy(update={"threads": 2}) for t in first.timing.runtimes)
    timing = first.timing.model_copy(update={"runtimes": two})
    records.append(first.model_copy(update={"fingerprint": "another", "timing": timing}))
    labels = Tables(records).timings.labels
    assert "eager (1 threads, batch 1)" in labels
    assert "eager (2 threads, batch 1)" in labels


def test_tables_survive_csv(small: Tables) -> None:
    runs = pd.read_csv(io.StringIO(frame_to_csv(small.runs)))
    assert list(runs.columns) == list(small.runs.columns)
    assert runs["variant"].tolist() == small.runs["variant"].tolist()
    for column in ("test_mse", "sparsity_realised", "onnxruntime_latency_ms", "zip_bytes"):
        np.testing.assert_allclose(runs[column], small.runs[column].astype(float), rtol=1e-12)
    compared = pd.read_csv(io.StringIO(frame_to_csv(comparison_table([small.mse]))))
    assert compared["difference"].tolist() == pytest.approx([c.difference for c in small.mse.every])
    assert compared["records"].tolist() == [" ".join(own for own, _ in c.fingerprints) for c in small.mse.every]


@pytest.mark.parametrize(
    ("text", "written"),
    [("=cmd()", "'=cmd()"), ("+1", "'+1"), ("-1", "'-1"), ("@sum", "'@sum"), ("\t=x", "' =x"), ("a\r=x", "a =x")],
)
def test_no_text_in_a_csv_is_a_formula(text: str, written: str) -> None:
    table = pd.DataFrame({text: [text, "plain"], "number": [-1.5, 2.0]})
    back = pd.read_csv(io.StringIO(frame_to_csv(table)))
    assert back.columns[0] == back.iloc[0, 0] == written
    assert back["number"].tolist() == [-1.5, 2.0]


def test_the_latex_table_has_every_variant_and_no_raw_character(small: Tables) -> None:
    text = to_latex(small.table)
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    head = text.split(r"\toprule")[1].split(r"\midrule")[0].strip().splitlines()
    width = text.splitlines()[0].removeprefix(r"\begin{tabular}{").rstrip("}")
    assert len(body) == len(small.summary)
    assert {line.replace(r"\&", "").count("&") + 1 for line in body} == {len(width)}
    assert head[-1].count("&") + 1 == len(width)
    assert sum(int(span) for span in re.findall(r"\\multicolumn\{(\d+)\}", head[0])) == len(width)
    assert text.isascii()


def test_names_in_latex_are_escaped() -> None:
    records = study("a_b%&#$", seeds=(1,), **SMALL)
    renamed = [r.model_copy(update={"model": "m_x%&#$"}) if r.model == "dlinear" else r for r in records]
    text = to_latex(Tables(renamed).table)
    assert r"m\_x\%\&\#\$" in text
    assert "m_x" not in text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("\\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        ("[1ex]*", "{[}1ex]{*}"),
        ("a\nb\x00c", "a b c"),
        ("~^<>|", r"\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\textbar{}"),
    ],
)
def test_no_text_is_a_command_to_latex(text: str, written: str) -> None:
    assert escape_latex(text) == written


def made_up() -> ReportTable:
    heads = (Head("", "=name", numeric=False, name=True), Head("error", "MSE"), Head("", "records", paper=False))
    cells = (
        Cell("=cmd()", "-note"),
        Cell("0.12 ±", "0.1 … 0.2", 0.123456789, "worse"),
        Cell(records=(("1", "ab"), ("2", "cd"))),
    )
    rows = (cells, (Cell("b"), Cell(), Cell()))
    return ReportTable("s", "t", [TableRow(dict(zip(heads, row, strict=True))) for row in rows])


def test_a_sheet_as_csv_has_numbers_in_full_notes_apart_and_no_formula() -> None:
    back = pd.read_csv(io.StringIO(to_csv(made_up())))
    assert list(back.columns) == ["'=name", "'=name, note", "error: MSE", "error: MSE, note", "records"]
    first = back.iloc[0]
    assert (first.iloc[0], first.iloc[1]) == ("'=cmd()", "'-note")
    assert first["error: MSE"] == 0.123456789
    assert first["error: MSE, note"] == "worse 0.1 … 0.2"
    assert first["records"] == "ab cd"


def test_a_page_does_not_repeat_what_is_the_same_in_all_rows() -> None:
    sheet = made_up()
    same = replace(sheet, rows=[sheet.rows[0], sheet.rows[0]])
    assert [head.header for head in sheet.narrowed.heads] == ["=name", "MSE", "records"]
    assert [head.header for head in same.narrowed.heads] == ["=name", "MSE", "records"]
    two = replace(
        same,
        rows=[
            replace(row, cells={Head("", "model", name=True): Cell(text), **row.cells})
            for text, row in zip("ab", same.rows, strict=True)
        ],
    )
    assert [head.header for head in two.narrowed.heads] == ["model", "MSE", "records"]


def test_each_row_leads_to_its_records(small: Tables) -> None:
    by_name = {row.values[0].order: row.values[-1].records for row in small.table.rows}
    records = by_name["Transformer magnitude 50 %, fine-tuned"]
    assert [text for text, _ in records] == ["1", "2", "3", "t1", "t2", "t3"]
    assert {small.study.frame.rows[fingerprint]["stage"] for _, fingerprint in records} == {"finetune", "measure"}


def test_promised_and_measured_speed_ups_are_means_over_cases() -> None:
    found = Tables(study("ETTh1", **SMALL) + study("ETTh2", **SMALL))
    timed = speeds(found.rows, found.timings.labels)
    speed = next(one for one in timed if one.method == "structured-magnitude")
    assert (speed.model, speed.sparsity_requested, speed.cases) == ("Transformer", 0.75, 2)
    assert speed.promised == pytest.approx(4.0, rel=1e-4)
    each = [
        row["onnxruntime_speedup"]
        for key, row in found.rows.items()
        if key.method == "structured-magnitude" and key.pruned
    ]
    each = [ratio for ratio in each if not math.isnan(ratio)]
    assert speed.measured["onnxruntime"].value == pytest.approx(np.exp(np.mean(np.log(each))))
    sheet = speed_table(found, "speeds", timed)
    assert len(sheet.rows) == len(timed)
    zeros = next(row for row in sheet.rows if row.values[1].text == "magnitude")
    assert "none shown" in [cell.text for cell in zeros.values]
    for row in sheet.rows:
        stages = {found.study.frame.rows[fingerprint]["stage"] for _, fingerprint in row.values[-1].records}
        assert stages == {"measure"}
    tuned = sum(len(of) for key, of in found.study.runs.items() if key.series == "structured-magnitude" and key.pruned)
    assert 0 < len(sheet.rows[timed.index(speed)].values[-1].records) <= tuned


def test_seeds_are_shown_where_one_is_lacking() -> None:
    records = [r for r in study(**SMALL) if not (r.seed == 2 and r.role == "dense-continued")]
    found = Tables(records)
    assert "seeds" in found.headers()
    assert found.by_name["Transformer dense-continued"]["seeds"] == 2
    assert "seeds" not in Tables(study(**SMALL)).headers()


def test_columns_without_numbers_are_left_out() -> None:
    found = Tables(study(seeds=(1,), unstructured=(0.5,), structured=(), measured=False))
    assert found.timings.main is None
    assert {*found.headers()}.isdisjoint({"small dense", "time", "speed-up"})


def test_a_terminal_gets_every_variant_with_the_same_columns(small: Tables) -> None:
    texts = to_texts(small)
    assert len(texts) == len(small.summary)
    assert len({tuple(row) for row in texts}) == 1
    assert "case" not in texts[0]


def test_a_terminal_names_the_case_where_there_are_several() -> None:
    bare = SMALL | {"seeds": (1,), "measured": False}
    found = Tables(study(**bare) + study("ETTh1", 192, **bare))
    texts = to_texts(found)
    assert {row["case"] for row in texts} == {"ETTh1, horizon 192", "synthetic-load, horizon 96"}
