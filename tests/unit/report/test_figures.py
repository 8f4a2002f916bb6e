from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.study_records import study

from prunecast.report import svg, theme
from prunecast.report.curves import error_by_sparsity, ratio_curves, ratio_lines
from prunecast.report.explorer import explorer_data
from prunecast.report.figure import Figure, Key, beside, legend
from prunecast.report.forecasts import Said, forecast_figure, forecasts
from prunecast.report.format import runtime_name
from prunecast.report.fronts import Cost, costs, error_by_cost
from prunecast.report.material import Material, file_stem
from prunecast.report.reachplot import reach_figure, time_figure
from prunecast.report.scales import Scale, error_scale, kept_within, spread_out, tick_text
from prunecast.report.speeds import speed_figure
from prunecast.report.theme import LOOKS

ZIP = Cost("zip", "zip_bytes", "Error against bytes", "bytes")
NAMES = st.text(max_size=20)


@pytest.fixture(scope="module")
def material() -> Material:
    return Material.of(study())


def tips(figure: Figure) -> list[str]:
    """The words at each mark of a chart."""
    return [element.text or "" for element in drawn(figure).iter("{http://www.w3.org/2000/svg}title")]


def drawn(figure: Figure) -> ET.Element:
    return ET.fromstring(figure.file)


def texts(figure: Figure) -> list[str]:
    return [element.text or "" for element in drawn(figure).iter("{http://www.w3.org/2000/svg}text")]


def every_figure(material: Material) -> Iterator[Figure | None]:
    (case,) = material.study.cases
    yield error_by_sparsity("a", material.rows, "Transformer", material.looks)
    yield error_by_sparsity("b", material.rows, "Transformer", material.looks, close=True)
    yield error_by_cost("c", material.rows, ZIP, material.looks)
    yield reach_figure("d", material.ladders, material.looks)
    yield time_figure("e", material.ladders, material.rows, "onnxruntime", material.looks)
    yield speed_figure("f", "t", material.speeds, "onnxruntime", looks=material.looks)
    yield from forecasts("g", material.study, case, "Transformer", rows=material.rows, ladders=material.ladders, most=2)


def test_every_chart_is_whole_says_what_is_seen_and_stays_in_its_frame(material: Material) -> None:
    figures = list(every_figure(material))
    assert len(figures) == 8
    for figure in figures:
        assert figure is not None
        root = drawn(figure)
        assert root.get("role") == "img"
        assert len(root.get("aria-label") or "") > 40
        for element in root.iter("{http://www.w3.org/2000/svg}text"):
            assert 0 <= float(element.get("x", "0")) <= figure.width
            assert 0 <= float(element.get("y", "0")) <= figure.height + 40
        assert "nan" not in figure.content


def test_curves_start_at_the_dense_model_and_at_the_one_trained_on(material: Material) -> None:
    figure = error_by_sparsity("name", material.rows, "Transformer", material.looks)
    assert figure is not None
    starts = {line.split()[0][1:] + " " + line.split()[1].split("L")[0] for line in lines(figure)}
    assert len(starts) == 2
    for name, origin in (("magnitude", "dense"), ("magnitude, fine-tuned", "trained on")):
        mse = next(row["mse"] for key, row in material.rows.items() if key.full_name == f"Transformer {origin}")
        assert f"{name}: {mse:.3g} rising to" in figure.label


def lines(figure: Figure) -> list[str]:
    """The paths of a chart's curves."""
    paths = drawn(figure).iter("{http://www.w3.org/2000/svg}path")
    return [path.get("d") or "" for path in paths if path.get("stroke-linejoin") == "round"]


def test_controls_are_lines_with_names(material: Material) -> None:
    figure = error_by_sparsity("name", material.rows, "Transformer", material.looks)
    assert figure is not None
    named = {" ".join(text.split()[:-1]) for text in texts(figure)}
    assert named >= {"dense", "trained on", "zeroed body", "DLinear", "last value", "seasonal naive"}


def test_a_close_up_is_drawn_only_where_it_shows_more(material: Material) -> None:
    assert error_by_sparsity("name", material.rows, "Transformer", material.looks, close=True) is not None
    near = {
        key: row
        for key, row in material.rows.items()
        if key.model == "DLinear" and key.method != "random" and (row["requested"] == 0.5 or not key.pruned)
        if key.role != "zeroed-body"
    }
    assert error_by_sparsity("name", near, "DLinear", material.looks) is not None
    assert error_by_sparsity("name", near, "DLinear", material.looks, close=True) is None


def test_a_model_that_was_not_pruned_has_no_curve(material: Material) -> None:
    assert error_by_sparsity("name", material.rows, "last value", material.looks) is None


def test_what_is_saturated_says_so_at_its_mark(material: Material) -> None:
    figure = error_by_sparsity("name", material.rows, "Transformer", material.looks)
    assert figure is not None
    marked = [tip for tip in tips(figure) if "saturated: not better than" in tip]
    flagged = [
        row for key, row in material.rows.items() if key.model == "Transformer" and key.pruned and row["saturated"]
    ]
    assert len(marked) == len(flagged) > 0


def test_the_front_is_what_no_other_beats(material: Material) -> None:
    figure = error_by_cost("name", material.rows, ZIP, material.looks)
    assert figure is not None
    front = [tip.splitlines()[0] for tip in tips(figure) if tip.endswith("on the front")]
    rows = {key.full_name: row for key, row in material.rows.items()}
    best = min(rows, key=lambda name: rows[name]["mse"])
    assert best in front
    for name in front:
        cheaper = [other for other in rows.values() if other["zip_bytes"] < rows[name]["zip_bytes"]]
        assert all(other["mse"] > rows[name]["mse"] for other in cheaper)


def test_a_cost_that_was_not_measured_has_no_chart(material: Material) -> None:
    assert error_by_cost("name", material.rows, Cost("time", "openvino_ms", "t", "ms"), material.looks) is None
    one = dict([next(iter(material.rows.items()))])
    assert error_by_cost("name", one, ZIP, material.looks) is None
    assert [cost.name for cost in costs(material.clocks)] == ["time", "zip", "macs", "file"]


def test_the_fronts_offer_every_runtime_that_was_timed() -> None:
    found = Material.of(study(seeds=(1,), unstructured=(0.5,), structured=(0.75,)))
    data = explorer_data(found, dict.fromkeys(found.study.cases, ""), {})
    names = [cost["name"] for cost in data["costs"]]
    assert names[:4] == [cost.title for cost in costs(found.clocks)]
    others = [runtime_name(label) for label in found.clocks.runtimes if label != found.clocks.main]
    assert others
    assert [name for name in names if "measured time, " in name] == [
        f"Error against measured time, {o}" for o in others
    ]
    for row in data["rows"]:
        assert len(row) == 5 + 2 + 2 * len(names)


def test_error_ratios_have_a_line_for_each_method_with_and_without_tuning(material: Material) -> None:
    found = [
        line
        for method in ("magnitude", "random")
        for line in ratio_lines(
            material.ladders, material.compared, "DLinear", method, name=method, look=material.looks[method]
        )
    ]
    assert [(line.name, line.ladder.line.finetuned) for line in found] == [
        ("magnitude", False),
        ("magnitude", True),
        ("random", False),
        ("random", True),
    ]
    assert {line.origin for line in found if not line.ladder.line.finetuned} == {1.0}
    tuned = next(line.origin for line in found if line.ladder.line.finetuned)
    rows = {key.full_name: row["mse"] for key, row in material.rows.items()}
    assert tuned == pytest.approx(rows["DLinear trained on"] / rows["DLinear dense"])
    figure = ratio_curves("name", "title", found)
    assert figure is not None
    assert sum("magnitude 50 %" in tip for tip in tips(figure)) == 2
    assert ratio_curves("name", "title", []) is None


def test_the_picture_of_the_study_tells_reach_and_time_of_each_method_but_controls(material: Material) -> None:
    reach = reach_figure("reach", material.ladders, material.looks)
    time = time_figure("time", material.ladders, material.rows, "onnxruntime", material.looks)
    assert reach is not None
    assert time is not None
    assert "Transformer by magnitude: 0 %, fine-tuned 95 %" in reach.label
    assert "Transformer by structured-magnitude: " in time.label
    assert not any("random" in text for text in texts(reach) + texts(time))
    together = beside("both", [reach, time])
    assert together.width == reach.width + time.width
    assert set(texts(reach)[1:]) <= set(texts(together))
    assert time_figure("time", material.ladders, material.rows, None, material.looks) is None


def test_forecasts_show_dense_pruned_before_and_after_tuning_and_the_better_naive(material: Material) -> None:
    (case,) = material.study.cases
    figures = forecasts("g", material.study, case, "Transformer", rows=material.rows, ladders=material.ladders, most=4)
    assert [figure.title.split(",")[0] for figure in figures] == [
        "Transformer on load_north",
        "Transformer on load_south",
    ]
    assert tips(figures[0]) == ["dense", "magnitude 95 %", "magnitude 95 %, fine-tuned", "seasonal naive"]


def test_a_forecast_shows_as_much_past_as_future() -> None:
    example = next(r for r in study(seeds=(1,), measured=False) if r.examples).examples[0]
    short = example.model_copy(update={"truth": example.truth[:24], "forecast": example.forecast[:24]})
    figure = forecast_figure("name", "Transformer", [Said("dense", "#000000", None, short)])
    truth, said = lines(figure)
    assert truth.count("L") + 1 == 48
    assert said.count("L") + 1 == 24


@given(st.floats(1e-6, 1e9), st.floats(1e-6, 1e9), st.booleans(), st.integers(3, 8))
def test_ticks_are_few_round_and_on_the_axis(one: float, other: float, logarithmic: bool, most: int) -> None:
    low, high = sorted((one, other))
    if high < low * 1.05:
        high = low * 1.05
    scale = Scale(low, high, 0, 100, logarithmic)
    ticks = scale.ticks(most)
    assert 1 <= len(ticks) <= most + 2
    assert ticks == sorted(set(ticks))
    for tick in ticks:
        assert -0.01 <= scale(tick) <= 100.01
        digits = f"{tick:.4e}".split("e")[0].rstrip("0").replace(".", "")
        assert len(digits) <= 2 or not logarithmic or len(scale.ticks(most)) < 3 or high < 3 * low


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9), st.floats(1, 100))
def test_an_error_axis_holds_all_errors_below_its_ceiling(errors: list[float], times: float) -> None:
    ceiling = times * min(errors)
    scale = error_scale(errors, 200, 0, ceiling)
    assert all(scale.holds(error) for error in errors if error <= ceiling)
    assert all(0 <= scale(error) <= 200 for error in errors if error <= ceiling)


@given(st.lists(st.floats(0, 300), max_size=12), st.floats(1, 20))
def test_names_are_moved_apart_and_keep_their_order(places: list[float], gap: float) -> None:
    moved = spread_out(np.array(places), gap)
    order = np.argsort(places, kind="stable")
    assert (np.diff(moved[order]) >= gap - 0.1).all()
    assert np.mean(moved) == pytest.approx(np.mean(places), abs=1e-6) if places else moved.size == 0


def test_places_with_room_stay() -> None:
    assert spread_out(np.array([50.0, 10.0, 90.0]), 14).tolist() == [50.0, 10.0, 90.0]
    assert kept_within([50.0, 110.0], 0, 100) == [40.0, 100.0]
    assert kept_within([], 0, 100) == []


@pytest.mark.parametrize(
    ("value", "text"), [(0.05, "0.05"), (1, "1"), (250, "250"), (30_000, "30 k"), (2e6, "2 M"), (-5, "−5")]
)
def test_numbers_on_axes_are_short(value: float, text: str) -> None:
    assert tick_text(value) == text


@given(NAMES, NAMES, NAMES)
def test_no_name_breaks_out_of_a_chart(name: str, label: str, tip: str) -> None:
    hostile = '"><script>alert(1)</script>'
    content = svg.text((0, 0), name + hostile) + svg.tipped(svg.marker("square", (1, 1), "#000"), tip + hostile)
    head, _ = legend([Key(label + hostile, "", 1)], 200)
    root = ET.fromstring(svg.picture(content + head, 10, 10, label + hostile))
    assert {element.tag.rpartition("}")[2] for element in root.iter()} == {"svg", "text", "g", "title", "path"}


def test_looks_of_known_series_never_change_and_marks_differ_in_shape() -> None:
    few, many = theme.looks(["magnitude"]), theme.looks(["new-a", "magnitude", "new-b", "dense"])
    assert few["magnitude"] == many["magnitude"] == LOOKS["magnitude"]
    assert len({look.colour for look in many.values()}) == 4
    assert theme.looks(["new-b", "new-a"])["new-a"] == many["new-a"]
    for known in (theme.LOOKS, theme.MODEL_LOOKS):  # in black and white the shape alone tells
        assert len({look.shape for look in known.values()}) == len(known)
        assert {look.shape for look in known.values()} <= set(svg.SHAPES)
    corners = {tuple(shape) for shape in svg.SHAPES.values()}
    assert len(corners) == len(svg.SHAPES)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a b%&#</script>", "ETTh1", "CON\n", "x" * 500])
def test_file_names_are_made_not_taken(name: str) -> None:
    stem = file_stem(1, name, 96)
    assert set(stem) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert len(stem) <= 80


def test_coordinates_are_short() -> None:
    assert [svg.number(value) for value in (1.0, -0.04, 2.345, -3.25, 100)] == ["1", "0", "2.3", "-3.2", "100"]
    assert math.isclose(svg.width_of("abcd", 10), 21.6)
