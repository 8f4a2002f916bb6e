from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.report_records import study

from prunecast.report import theme
from prunecast.report.compare import comparisons
from prunecast.report.figures import Cost, error_by_cost, error_by_sparsity, forecast
from prunecast.report.gallery import file_stem, forecast_figures
from prunecast.report.marks import spread_out
from prunecast.report.tables import Clocks, Frame, by_variant, runs_table, summary_table
from prunecast.report.variants import collect

ZIP = Cost("zip", "zip_bytes", "Error against bytes", "bytes", "~s")


def case_of(records: list) -> Frame:
    found = collect(records)
    summary = summary_table(runs_table(found, Clocks(found)), comparisons(found))
    colours = theme.colours(key.series for key in summary.index)
    return summary.assign(colour=[colours[key.series] for key in summary.index])


@pytest.fixture(scope="module")
def case() -> Frame:
    return case_of(study(measured=False))


def drawn(figure: object, mark: str) -> list[pd.DataFrame]:
    """The data of a chart's layers of one mark."""
    spec = figure.file_spec()  # type: ignore[attr-defined]
    layers = [layer for layer in spec["layer"] if layer["mark"]["type"] == mark]
    return [pd.DataFrame(spec["datasets"][layer["data"]["name"]]) for layer in layers]


def test_curves_start_at_the_dense_model_and_at_the_one_trained_on(case: Frame) -> None:
    figure = error_by_sparsity("name", case, "Transformer")
    assert figure is not None
    (lines,) = drawn(figure, "line")
    origins = lines[lines["sparsity"] == 0]
    rows = {key.full_name: row for key, row in by_variant(case).items()}
    for tuning, origin in (("without fine-tuning", "dense"), ("fine-tuned", "trained on")):
        starts = origins[origins["tuning"] == tuning]
        assert set(starts["series"]) == {"magnitude", "random", "structured-magnitude"}
        assert starts["mse"].tolist() == [pytest.approx(rows[f"Transformer {origin}"]["mse"])] * 3


def test_controls_are_lines_with_names(case: Frame) -> None:
    figure = error_by_sparsity("name", case, "Transformer")
    assert figure is not None
    (names,) = drawn(figure, "text")
    shown = {" ".join(text.split()[:-1]) for text in names["text"]}
    assert shown == {"dense", "trained on", "zeroed body", "DLinear", "last value", "seasonal naive"}
    places = np.sort(names["place"])
    assert np.diff(places).min() > 13


def test_a_close_up_is_drawn_only_where_it_shows_more(case: Frame) -> None:
    assert error_by_sparsity("name", case, "Transformer", close=True) is not None
    near = case[[row["role"] in ("dense", "trained-on") or row["requested"] == 0.5 for _, row in case.iterrows()]]
    near = near[(near["model"] == "DLinear") & (near["method"] != "random")]
    assert error_by_sparsity("name", near, "DLinear") is not None
    assert error_by_sparsity("name", near, "DLinear", close=True) is None


def test_a_model_that_was_not_pruned_has_no_curve(case: Frame) -> None:
    assert error_by_sparsity("name", case, "last value") is None


def test_the_front_of_a_cost_chart_falls_with_cost(case: Frame) -> None:
    figure = error_by_cost("name", case, ZIP)
    assert figure is not None
    (front,) = drawn(figure, "line")
    assert front["cost"].is_monotonic_increasing
    assert front["mse"].is_monotonic_decreasing
    assert front["mse"].min() == case["mse"].min()


def test_a_cost_that_was_not_measured_has_no_chart(case: Frame) -> None:
    assert error_by_cost("name", case, Cost("time", "onnxruntime_ms", "t", "ms", "~g")) is None
    assert error_by_cost("name", case.iloc[:1], ZIP) is None


def test_spread_over_seeds_is_drawn_only_for_several(case: Frame) -> None:
    bars = drawn(error_by_sparsity("name", case, "DLinear"), "rule")[1]
    assert (bars["high"] - bars["low"]).to_numpy() == pytest.approx(2 * bars["mse_sd"].to_numpy())
    one_seed = case_of(study(seeds=(1,), measured=False))
    assert len(drawn(error_by_sparsity("name", one_seed, "DLinear"), "rule")) == 1


def test_forecasts_show_dense_pruned_and_the_better_naive(case: Frame) -> None:
    found = collect(study(measured=False))
    (only,) = found.cases
    figures = forecast_figures("stem", found, only, by_variant(case), comparisons(found))
    assert [figure.title.split(",")[0] for figure in figures] == [
        "Transformer on load_north",
        "Transformer on load_south",
    ]
    said = drawn(figures[0], "line")[1]
    assert list(said["series"].unique()) == ["dense", "magnitude 95 %, fine-tuned", "seasonal naive"]
    assert len(said) == 3 * 96


def test_a_forecast_shows_as_much_past_as_future() -> None:
    example = next(r for r in study(seeds=(1,), measured=False) if r.examples).examples[0]
    short = example.model_copy(update={"truth": example.truth[:24], "forecast": example.forecast[:24]})
    truth = drawn(forecast("name", "Transformer", [("dense", "#000000", short)]), "line")[0]
    assert (truth["step"].min(), truth["step"].max()) == (-24, 23)


@given(st.lists(st.floats(0, 300), max_size=12), st.floats(1, 20))
def test_names_are_moved_apart_and_keep_their_order(places: list[float], gap: float) -> None:
    moved = spread_out(np.array(places), gap)
    order = np.argsort(places, kind="stable")
    assert (np.diff(moved[order]) >= gap - 0.1).all()
    assert np.mean(moved) == pytest.approx(np.mean(places), abs=1e-6) if places else moved.size == 0


def test_places_with_room_stay() -> None:
    assert spread_out(np.array([50.0, 10.0, 90.0]), 14).tolist() == [50.0, 10.0, 90.0]


def test_colours_of_known_series_never_change_and_all_differ() -> None:
    few, many = theme.colours(["magnitude"]), theme.colours(["new-a", "magnitude", "new-b", "dense"])
    assert few["magnitude"] == many["magnitude"] == theme.COLOURS["magnitude"]
    assert len(set(many.values())) == 4
    assert theme.colours(["new-b", "new-a"])["new-a"] == many["new-a"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "a b%&#</script>", "ETTh1", "CON\n"])
def test_file_names_are_made_not_taken(name: str) -> None:
    assert set(file_stem(1, name, 96)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
