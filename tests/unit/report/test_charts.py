from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import numpy as np
import pytest
import vl_convert
from hypothesis import example, given
from hypothesis import strategies as st
from tests.support.study_records import ERROR, Maker, study

from prunecast.report import style
from prunecast.report.charts import (
    CostAxis,
    costs,
    error_by_cost,
    error_by_sparsity,
    forecast_chart,
    fronts_chart,
    ratio_curves,
    speed_chart,
    thresholds_chart,
    time_chart,
    ways_charts,
)
from prunecast.report.context import Context
from prunecast.report.pages import forecast_charts
from prunecast.report.style import (
    CONFIG,
    LOOKS,
    MODEL_LOOKS,
    Chart,
    beside,
    error_axis,
    file_stem,
    runtime_name,
    spread_out,
)
from prunecast.study.frame import Forecast, frame_of

ZIP = CostAxis("zip", "zip_bytes", "Error against bytes", "bytes")


@pytest.fixture(scope="module")
def context() -> Context:
    return Context(frame_of(study()))


def words(chart: Chart) -> list[str]:
    """What is said at each mark of a chart."""
    return [row["words"] for rows in chart.data.values() for row in rows if row.get("words")]


def drawn(chart: Chart) -> ET.Element:
    return ET.fromstring(vl_convert.vegalite_to_svg(chart.spec, config=CONFIG))


def texts(chart: Chart) -> list[str]:
    return [element.text or "" for element in drawn(chart).iter("{http://www.w3.org/2000/svg}text")]


def every_chart(context: Context) -> Iterator[Chart | None]:
    (case,) = context.study.cases
    yield error_by_sparsity("a", context.rows, "Transformer", context.looks)
    yield error_by_sparsity("b", context.rows, "Transformer", context.looks, close=True)
    yield error_by_cost("c", context.rows, ZIP, context.looks)
    yield thresholds_chart(context, "d")
    yield time_chart(context, "e")
    yield speed_chart(context, "f", "t", context.speeds)
    yield from forecast_charts(context, "g", case, "Transformer", most=2)


def test_every_chart_is_drawn_says_what_is_seen_and_has_no_hole(context: Context) -> None:
    charts = list(every_chart(context))
    assert len(charts) == 8
    for chart in charts:
        assert chart is not None
        assert len(chart.label) > 40
        assert "NaN" not in json.dumps(chart.spec)
        assert chart.title in texts(chart)
        tags = {element.tag.rpartition("}")[2] for element in drawn(chart).iter()}
        assert {"path", "text"} <= tags


def test_charts_of_one_kind_share_their_template(context: Context) -> None:
    rows = context.rows
    one, other = (error_by_cost("c", rows, ZIP, context.looks) for _ in range(2))
    assert one is not None
    assert other is not None
    assert one.template is other.template


def test_curves_start_at_the_dense_model_and_at_the_one_trained_on(context: Context) -> None:
    chart = error_by_sparsity("name", context.rows, "Transformer", context.looks)
    assert chart is not None
    for series, tuning, origin in (
        ("magnitude", "without fine-tuning", "dense"),
        ("magnitude", "fine-tuned", "dense-continued"),
    ):
        mse = next(row["test_mse"] for key, row in context.rows.items() if key.full_name == f"Transformer {origin}")
        line = [p for p in chart.data["lines"] if (p["series"], p["tuning"]) == (series, tuning)]
        assert (line[0]["x"], line[0]["y"]) == (0, mse)
        assert [p["x2"] for p in line[:-1]] == [p["x"] for p in line[1:]]
        marks = [p["x"] for p in chart.data["points"] if (p["series"], p["tuning"]) == (series, tuning)]
        assert marks == [p["x2"] for p in line]
        assert f"{series}{', fine-tuned' if tuning == 'fine-tuned' else ''}: {mse:.3g} rising to" in chart.label


def test_controls_are_lines_with_names_that_do_not_meet(context: Context) -> None:
    chart = error_by_sparsity("name", context.rows, "Transformer", context.looks)
    assert chart is not None
    named = {" ".join(line["name"].split()[:-1]): line for line in chart.data["controls"]}
    assert {*named} >= {"dense", "dense-continued", "zeroed body", "DLinear", "last value", "seasonal naive"}
    axis = style.Axis(chart.params["y_low"], chart.params["y_high"], "y_ticks" in chart.params)
    places = sorted(axis.place(line["label_y"]) * style.HEIGHT for line in named.values())
    assert min(np.diff(places)) > 12


def test_a_line_that_leaves_a_close_up_is_cut_off_at_its_edge(context: Context) -> None:
    chart = error_by_sparsity("name", context.rows, "Transformer", context.looks, close=True)
    assert chart is not None
    high = chart.params["y_high"]
    ends = [end for line in chart.data["lines"] for end in (line["y"], line["y2"])]
    assert max(ends) == high
    assert all(point["y"] <= high for point in chart.data["points"])
    assert all(bar["low"] < bar["high"] <= high for bar in chart.data["bars"])
    assert "url(" not in vl_convert.vegalite_to_svg(chart.spec, config=CONFIG)


def test_a_close_up_is_drawn_only_where_it_shows_more(context: Context) -> None:
    assert error_by_sparsity("name", context.rows, "Transformer", context.looks, close=True) is not None
    near = {
        key: row
        for key, row in context.rows.items()
        if key.model == "DLinear" and key.method != "random" and (row["sparsity_requested"] == 0.5 or not key.pruned)
        if key.role != "zeroed-body"
    }
    assert error_by_sparsity("name", near, "DLinear", context.looks) is not None
    assert error_by_sparsity("name", near, "DLinear", context.looks, close=True) is None


def test_a_model_that_was_not_pruned_has_no_curve(context: Context) -> None:
    assert error_by_sparsity("name", context.rows, "last value", context.looks) is None


def test_what_is_saturated_says_so_at_its_mark(context: Context) -> None:
    chart = error_by_sparsity("name", context.rows, "Transformer", context.looks)
    assert chart is not None
    marked = [said for said in words(chart) if "saturated: not better than" in said]
    flagged = [
        row for key, row in context.rows.items() if key.model == "Transformer" and key.pruned and row["saturated"]
    ]
    assert len(marked) == len(flagged) > 0


def test_the_front_is_what_no_other_beats(context: Context) -> None:
    chart = error_by_cost("name", context.rows, ZIP, context.looks)
    assert chart is not None
    front = [said.splitlines()[0] for said in words(chart) if said.endswith("on the front")]
    rows = {key.full_name: row for key, row in context.rows.items()}
    assert min(rows, key=lambda name: rows[name]["test_mse"]) in front
    for name in front:
        cheaper = [other for other in rows.values() if other["zip_bytes"] < rows[name]["zip_bytes"]]
        assert all(other["test_mse"] > rows[name]["test_mse"] for other in cheaper)


def test_a_cost_that_was_not_measured_has_no_chart(context: Context) -> None:
    assert (
        error_by_cost("name", context.rows, CostAxis("time", "openvino_latency_ms", "t", "ms"), context.looks) is None
    )
    one = dict([next(iter(context.rows.items()))])
    assert error_by_cost("name", one, ZIP, context.looks) is None
    assert [cost.name for cost in costs(context.timings)] == ["time", "zip", "macs", "file"]


def test_the_fronts_offer_every_variant_and_every_runtime_that_was_timed() -> None:
    found = Context(frame_of(study(seeds=(1,), unstructured=(0.5,), structured=(0.75,))))
    chart = fronts_chart(found, dict.fromkeys(found.study.cases, "page"))
    (titles,) = (param["value"] for param in chart.template["params"] if param["name"] == "titles")
    others = [runtime_name(label) for label in found.timings.labels if label != found.timings.main]
    assert others
    assert [name for name in titles if "measured time, " in name] == [f"measured time, {other}" for other in others]
    points = chart.data["points"]
    measured = [point for point in points if point["where"] != "all, relative to dense"]
    assert {point["label"] for point in measured} == {key.full_name for key in found.rows}
    for point in measured:
        assert {f"c{number}" for number in range(len(titles))} <= {*point}
    dense = next(p for p in points if (p["label"], p["where"]) == ("Transformer dense", "all, relative to dense"))
    assert {value for name, value in dense.items() if name == "error" or name.startswith("c0")} == {1.0}
    assert "front" in json.dumps(chart.template)
    said = texts(chart)
    assert "test MSE" in said  # one data set: as measured
    assert any(line.endswith(": median ms per forecast") for line in said)
    assert {"Models", "Transformer", "DLinear"} <= {*said}


def test_the_front_over_all_data_sets_names_its_relative_units() -> None:
    small = {"seeds": (1,), "unstructured": (0.5,), "structured": ()}
    found = Context(frame_of([*study("ETTh1", **small), *study("ETTh2", **small)]))
    said = texts(fronts_chart(found, dict.fromkeys(found.study.cases, "page")))
    assert "test MSE, relative to the dense model (×)" in said
    assert "measured time, relative to the dense model (×)" in said


def test_error_ratios_have_a_line_for_each_method_with_and_without_tuning(context: Context) -> None:
    chart = ratio_curves(context, "name", "title", [("DLinear", method) for method in ("magnitude", "random")])
    assert chart is not None
    rows = {key.full_name: row["test_mse"] for key, row in context.rows.items()}
    continued = rows["DLinear dense-continued"] / rows["DLinear dense"]
    starts = [(line["series"], line["tuning"], line["y"]) for line in chart.data["lines"] if line["x"] == 0]
    assert starts == [
        ("magnitude", "without fine-tuning", 1.0),
        ("magnitude", "fine-tuned", pytest.approx(continued)),
        ("random", "without fine-tuning", 1.0),
        ("random", "fine-tuned", pytest.approx(continued)),
    ]
    assert sum("magnitude 50 %" in said for said in words(chart)) == 2
    by_model = ratio_curves(context, "name", "title", [("DLinear", "magnitude")], by_model=True)
    assert by_model is not None
    assert {line["series"] for line in by_model.data["lines"]} == {"DLinear"}
    assert ratio_curves(context, "name", "title", []) is None


def test_the_picture_of_the_study_tells_reach_and_time_of_each_method_but_controls(context: Context) -> None:
    reach, time = thresholds_chart(context, "thresholds"), time_chart(context, "time")
    assert reach is not None
    assert time is not None
    assert "Transformer by magnitude: 0 %, fine-tuned 95 %" in reach.label
    assert "Transformer by structured-magnitude: " in time.label
    assert not any("random" in text for text in texts(reach) + texts(time))
    together = vl_convert.vegalite_to_svg(beside([reach, time]), config=CONFIG)
    assert all(chart.title in together for chart in (reach, time))
    assert float(ET.fromstring(together).get("width", 0)) > 600


def test_promised_and_measured_stand_in_one_chart(context: Context) -> None:
    chart = speed_chart(context, "s", "t", context.speeds)
    assert chart is not None
    for point in chart.data["points"]:
        assert point["low"] <= point["y"] <= point["high"]
        assert point["filled"] == (point["low"] > 1 or point["high"] < 1)
    assert speed_chart(context, "s", "t", []) is None


def test_a_forecast_is_drawn_beside_the_truth() -> None:
    values = np.arange(6.0)
    forecast = Forecast("</script>", 7, "2018-03-04 07:00:00", values, values + 1, values + 2)
    chart = forecast_chart("f", "m", [("dense", "dense", forecast), ("magnitude 50 %", "pruned", forecast)])
    truth = [point for point in chart.data["lines"] if point["series"] == "truth"]
    assert [point["x"] for point in truth] == list(range(-6, 6))
    assert chart.title == "m on </script>, test window 7"
    root = drawn(chart)
    assert "script" not in {element.tag.rpartition("}")[2] for element in root.iter()}


def test_a_forecast_shows_as_much_past_as_future() -> None:
    long, short = np.arange(48.0), np.arange(24.0)
    chart = forecast_chart("f", "m", [("dense", "dense", Forecast("a", 1, "2018-03-04", long, short, short))])
    shown = {name: [point for point in chart.data["lines"] if point["series"] == name] for name in ("truth", "dense")}
    assert {name: len(points) for name, points in shown.items()} == {"truth": 48, "dense": 24}
    assert [point["y"] for point in shown["truth"]] == [*long[24:], *short]


def test_forecasts_show_dense_pruned_before_and_after_tuning_and_the_better_naive(context: Context) -> None:
    (case,) = context.study.cases
    found = forecast_charts(context, "g", case, "Transformer", most=4)
    assert [chart.title.split(",")[0] for chart in found] == ["Transformer on load_north", "Transformer on load_south"]
    said = dict.fromkeys(point["series"] for point in found[0].data["lines"])
    assert list(said) == ["truth", "dense", "magnitude 95 %", "magnitude 95 %, fine-tuned", "seasonal naive"]


def test_no_forecasts_where_none_were_kept() -> None:
    bare = [record.model_copy(update={"examples": ()}) for record in study(seeds=(1,), measured=False)]
    found = Context(frame_of(bare))
    (case,) = found.study.cases
    assert not forecast_charts(found, "f", case, "Transformer", most=2)


def test_every_series_is_told_apart_in_black_and_white() -> None:
    for known in (LOOKS, MODEL_LOOKS):
        assert len({look.shape for look in known.values()}) == len(known)
    found = style.looks(["magnitude", "zeta", "alpha", "beta"])
    assert found["magnitude"] == LOOKS["magnitude"]
    assert len(set(found.values())) == 4
    assert style.looks(["zeta", "beta", "alpha"])["alpha"] == found["alpha"]


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20))
@example([0.001, 0.0010000000000000002])
def test_an_axis_of_errors_holds_all_of_them(errors: list[float]) -> None:
    axis = error_axis(errors)
    assert axis.low < min(errors) <= max(errors) < axis.high
    for error in errors:
        assert axis.at(axis.place(error)) == pytest.approx(error)
    if axis.logarithmic:
        ticks = axis.params("y")["y_ticks"]
        assert 2 <= len(ticks) <= 7
        assert all(axis.low * 0.999 <= tick <= axis.high * 1.001 for tick in ticks)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_names_are_kept_apart_in_their_order(places: list[float]) -> None:
    moved = spread_out(places, 0.06)
    order = np.argsort(places, kind="stable")
    assert (np.diff(np.array(moved)[order]) > 0.06 - 1e-4).all()


@given(st.text(max_size=200))
@example("../../etc/passwd")
@example("a b%&#</script>")
@example("CON\n")
@example("x" * 500)
def test_file_names_are_made_of_safe_letters(name: str) -> None:
    stem = file_stem(name, 96)
    assert stem
    assert set(stem) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert len(stem) <= 80


def test_three_ways_to_prune_without_training_are_drawn_beside_each_other(context: Context) -> None:
    assert ways_charts(context) == [], "two methods remove weights, one operations"
    maker = Maker()
    for seed, model in ((seed, model) for seed in (1, 2) for model in ("transformer", "informer")):
        dense = maker.dense(model, seed)
        maker.pruned(dense, "random", 0.9, finetuned=False)
        for level, sparsity in ((1.0, 0.5), (1.3, 0.9)):
            bare = maker.pruned(dense, "magnitude", sparsity, finetuned=False)
            same = {"parent": dense, "pruning": bare.pruning, "size": bare.size, "operations": bare.operations}
            recipe = maker.recipe(model, seed, {"method": "magnitude", "sparsity": sparsity, "of": None})
            recipe["prune"]["recovery"] = "ridge"
            maker.add("prune", "pruned", model, seed, level=level * ERROR[model], recipe=recipe, **same)
    (chart,) = ways_charts(Context(frame_of(maker.records)))
    looks = {row["series"]: row["look"] for row in chart.data["mean_weights"]}
    assert looks == {"magnitude": "bare", "magnitude + ridge": "repaired", "random": "bare"}
    assert len({row["colour"] for row in chart.data["mean_weights"]}) == 2, "repair changes the line, not the colour"
    line = [(row["x"], row["y_weights"]) for row in chart.data["mean_weights"] if row["series"] == "magnitude + ridge"]
    assert line == [(0, 0), (0.5, pytest.approx(0, abs=3)), (0.9, pytest.approx(30, abs=3))]
    single = [row for row in chart.data["single_weights"] if row["series"] == "magnitude + ridge" and row["x"] == 0.9]
    assert len(single) == 2
    assert single[0]["words"].startswith("Informer, magnitude + ridge 90 %\nMSE +")
    assert sum("%" in text and "magnitude" in text for text in texts(chart)) == 2
