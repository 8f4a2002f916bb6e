"""What a search came to: as a typed result, in words, and as one page that works offline."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

import altair as alt
import jinja2
import vl_convert
from torch import Tensor

from prunecast.compress.candidates import Tried
from prunecast.compress.search import Compression
from prunecast.records import Accuracy, GroupKind, RunRecord
from prunecast.report.statistics import Interval
from prunecast.report.style import (
    CONFIG,
    INK,
    PALE,
    between,
    count,
    percent,
    runtime_name,
    signed_percent,
    size,
    three_digits,
)
from prunecast.results import Compressed
from prunecast.store import new_file

REPORT_FILE, RESULT_FILE = "report.html", "compress.json"

CUTS_TOLD: Mapping[GroupKind, str] = {
    "layer": "layers",
    "head": "heads",
    "ffn": "feed-forward units",
    "mode": "Fourier modes",
    "router": "routers",
    "width": "widths",
}
"""In the order in which their cuts are told."""

assert {*CUTS_TOLD} == {*get_args(GroupKind)}


def outcome(search: Compression) -> Compressed:
    """Returns the result of a search that has ended, and writes it beside the artefact: as JSON and as a page."""
    best = search.best
    lines = search.lines(best)
    dlinear = search.tests.get(search.dlinear.fingerprint)
    found = Compressed(
        path=search.delivery.artefact,
        folder=search.out / "model",
        report=search.out / REPORT_FILE,
        met=all(line.met for line in lines),
        sure=round(best.sure, 3),
        verdict=tuple(_verdict(search, best)),
        budgets=_budgets(search, best),
        chosen=best.name,
        tried=tuple(_row(search, tried) for tried in search.tried),
        dense=_model(search.dense, _test_of(search, search.dense)),
        compressed=_model(best, search.test),
        dlinear=None if dlinear is None else _scores(search.store.record(search.dlinear.fingerprint), dlinear[0]),
        steps=tuple(_steps(search, best)),
        prediction=_prediction(search),
    )
    _write_json(search, found)
    with new_file(search.out / REPORT_FILE, replace=True) as path:
        path.write_text(page(search, found), encoding="utf-8")
    return found


def out_of_reach(search: Compression) -> Compressed:
    """Returns the answer where a budget is beyond the smallest model, which was written; nothing was trained."""
    nearest, words = search.nearest, search.missed
    if search.busy:
        words.append("Other stages ran on this machine: on a quiet one times are shorter.")
    if nearest is None:
        words.append("The time was over before it was written.")
    else:
        words.append(f"It was written: {nearest.name}. Its loss is {_interval(nearest.increase)}.")
    found = Compressed(
        path=None if nearest is None else search.delivery.artefact,
        folder=None if nearest is None else search.out / "model",
        report=None,
        met=nearest is not None and all(line.met for line in search.lines(nearest)),
        sure=None if nearest is None else round(nearest.sure, 3),
        verdict=tuple(words),
        budgets=_budgets(search, nearest),
        chosen=None if nearest is None else nearest.name,
        tried=() if nearest is None else (_row(search, nearest),),
        dense=_scores(search.parent.record, search.parent.record.test),
        compressed=None if nearest is None else _model(nearest, search.test or nearest.record.test),
    )
    if nearest is not None:
        _write_json(search, found)
    return found


def _write_json(search: Compression, found: Compressed) -> None:
    with new_file(search.out / RESULT_FILE, replace=True) as path:
        path.write_text(json.dumps(found.to_json(), indent=1, allow_nan=False) + "\n")


# Rows


def _budgets(search: Compression, best: Tried | None) -> tuple[dict[str, Any], ...]:
    return tuple(
        {
            "name": line.name,
            "asked": line.asked,
            "reached": line.reached,
            "met": line.met,
            "cheapest": line.cheapest,
            "dense": line.dense,
        }
        for line in search.lines(best)
    )


def _row(search: Compression, tried: Tried) -> dict[str, Any]:
    budgets, record = search.question.budgets, tried.record
    assert record.size is not None
    within = tried.increase.high <= budgets.max_loss_increase and budgets.holds(search.costs_of(tried))
    return {
        "name": tried.name,
        "how": tried.how,
        "fingerprint": tried.fingerprint,
        "val_mse": tried.validation_mse,
        "increase": {"value": tried.increase.value, "low": tried.increase.low, "high": tried.increase.high},
        "sure": round(tried.sure, 3),
        "predicted_ms": tried.predicted.latency_ms,
        "predicted_bytes": tried.predicted.bytes,
        "latency_ms": None if tried.timing is None else tried.costs.latency_ms,
        "bytes": tried.artefact_bytes,
        "parameters": record.size.parameters,
        "nonzero": record.size.nonzero,
        "met": within,
        "exceeded": [] if within else [line.name for line in search.lines(tried) if not line.met],
        "refused": tried.refused,
    }


def _scores(record: RunRecord, test: Accuracy | None) -> dict[str, Any]:
    assert record.size is not None
    return {
        "mse": None if test is None else test.mse,
        "mae": None if test is None else test.mae,
        "val_mse": None if record.validation is None else record.validation.mse,
        "parameters": record.size.parameters,
        "nonzero": record.size.nonzero,
    }


def _model(tried: Tried, test: Accuracy | None) -> dict[str, Any]:
    timing, operations = tried.timing, tried.record.operations
    assert timing is not None
    known = _scores(tried.record, test) | {"val_mse": tried.validation_mse, "bytes": tried.artefact_bytes}
    known |= {
        "macs": None if operations is None else operations.dense_macs,
        "latency_ms": timing.latency.model_dump(include={"median", "p95", "n"}),
        "peak_memory_bytes": timing.peak_memory_bytes,
    }
    if tried.on_device:
        known["device_latency_ms"] = tried.costs.latency_ms
    if timing.speedup is not None:
        known["speedup"] = timing.speedup.model_dump()
    if timing.realised_share is not None:
        known |= {"operation_cut": timing.operation_cut, "realised_share": timing.realised_share.model_dump()}
    return known


def _test_of(search: Compression, tried: Tried) -> Accuracy | None:
    return search.tests[tried.fingerprint][0]


def _steps(search: Compression, best: Tried) -> list[dict[str, Any]]:
    """Returns costs when the cuts are made one kind after the other, as predicted, and those that were measured."""
    if best.shape is None:
        return []
    table, units = search.corrected(), best.shape.units
    keep: dict[str, Tensor] = {}
    costs = table.costs(keep)
    rows = [{"step": "the given model", "latency_ms": costs.latency_ms, "bytes": costs.bytes, "measured": False}]
    for kind, name in CUTS_TOLD.items():
        cut = {group: stay for group, stay in units.items() if search.anatomy.groups[group].kind == kind}
        if cut:
            keep |= cut
            costs = table.costs(keep)
            rows.append({"step": name, "latency_ms": costs.latency_ms, "bytes": costs.bytes, "measured": False})
    last = {"zeros": "zeros", "int8": "8 bits"}.get(best.how, "measured")
    rows.append({"step": last, "latency_ms": best.costs.latency_ms, "bytes": best.costs.bytes, "measured": True})
    return rows


def _prediction(search: Compression) -> dict[str, Any]:
    """Returns how good the predictions are: on the models that they were fitted to, and of the candidates since."""
    timed = [tried for tried in search.tried if tried.timing is not None and tried.shape is not None and tried.plain]
    rows = [
        {
            "name": tried.name,
            "predicted_ms": before.latency_ms,
            "latency_ms": tried.costs.latency_ms,
            "error": before.latency_ms / tried.costs.latency_ms - 1,
        }
        for tried in timed
        if (before := tried.first_predicted) is not None
    ]
    return {"fitted_to": len(search.points), "residual": search.table.latency.residual, "candidates": rows}


# In words


def _verdict(search: Compression, best: Tried) -> list[str]:
    lines = search.lines(best)
    said = [
        f"{line.name} {line.text(line.asked)}: {'met' if line.met else 'not met'}, "
        f"{'at most ' if line.cheapest is None else ''}{line.text(line.reached)}"
        for line in lines
    ]
    asked, sure = percent(search.question.budgets.max_loss_increase), percent(best.sure)
    words = [f"{best.name}. {'; '.join(said)}.", f"The loss rises by at most {asked} with a certainty of {sure}."]
    dense = search.dense
    if best is not dense:
        faster, smaller = dense.costs.latency_ms / best.costs.latency_ms, dense.costs.bytes / best.costs.bytes
        share = None if best.timing is None else best.timing.realised_share
        if best.timing is not None and best.timing.speedup is not None and not best.on_device:
            faster = best.timing.speedup.ratio  # in turn with the given model, as the share of the cut is
        promised = "" if share is None else f" ({percent(share.ratio)} of what the cut of the operations promises)"
        runtime = runtime_name(search.question.runtime)
        words.append(
            f"Against the given model {faster:.2f} times faster in {runtime}{promised} and {smaller:.2f} times smaller."
        )
    faster_ones = [
        tried for tried in search.tried if tried.costs.latency_ms < best.costs.latency_ms and tried is not best
    ]
    nearest = min(faster_ones, key=lambda tried: tried.increase.high, default=None)
    if nearest is not None:
        words.append(
            f"Of {len(faster_ones)} candidates that are thought to be faster the one that loses least is "
            f"{nearest.name}: {three_digits(nearest.costs.latency_ms)} ms, loss {_interval(nearest.increase)}."
        )
    if search.device:
        words.append("Times are those that the profile of the device predicts; the artefact is to be timed there.")
    if search.uniform is not None:  # it may be one of the front, too
        alike = [
            tried
            for tried in search.tried
            if tried.shape is not None and tried.shape.keep == search.uniform.keep and tried.how != "scratch"
        ]
        reference = min(alike, key=lambda tried: tried.increase.high, default=None)
        if reference is not None:  # the time may have been over before it was made
            words.append(
                f"With the same share cut everywhere, for reference: {three_digits(reference.costs.latency_ms)} ms, "
                f"loss {_interval(reference.increase)} ({reference.name})."
            )
    if search.stopped is not None:
        words.append(search.stopped)
    if search.ended_early:
        words.append("The time was over before the last rung: the same command goes on.")
    name = search.dlinear.fingerprint
    if search.store.has(name):
        validation = search.store.record(name).validation
        assert validation is not None
        if validation.mse < best.validation_mse:
            words.append(
                f"DLinear, trained on the same data, has the smaller validation error ({three_digits(validation.mse)} "
                f"against {three_digits(best.validation_mse)}): it may be all that this forecast needs."
            )
    return words


def _interval(increase: Interval) -> str:
    return f"{signed_percent(increase.value)} ({between(increase.low, increase.high)})"


# The page


class _Table(NamedTuple):
    title: str
    rows: Sequence[Mapping[str, str]]
    note: str = ""
    picture: str | None = None


def page(search: Compression, found: Compressed) -> str:
    """Returns the page; every text is escaped in it."""
    tables = [
        _Table(
            "Budgets",
            [_line(line) for line in search.lines(search.best)],
            "Reachable is what the smallest and the given model cost; of a loss nobody knows it before.",
        ),
        _Table(
            "What was tried",
            [_tried_row(row, chosen=row["name"] == found.chosen) for row in found.tried],
            "Times in the runtime: measured where a "
            "candidate was timed, else predicted (in brackets). The loss is the increase of the validation error, "
            "with its 95 % interval by blocks of windows.",
            _picture(search, found),
        ),
        _Table(
            "What each cut gave",
            [_step_row(row) for row in found.steps],
            "Predicted, one after the other; the last row was measured.",
        ),
        _Table(
            "Predicted against measured",
            [_error_row(row) for row in (found.prediction or {})["candidates"]],
            f"The table of costs was fitted to {(found.prediction or {})['fitted_to']} measured models, with a "
            f"residual of {percent((found.prediction or {})['residual'])}.",
        ),
        _Table(
            "Errors, once, on the test part",
            [
                _error_of(name, model)
                for name, model in (
                    ("the given model", found.dense),
                    ("compressed", found.compressed),
                    ("DLinear", found.dlinear),
                )
                if model
            ],
        ),
    ]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("prunecast.report", "assets"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    config, facts = search.model.config, search.parent.windows.facts
    return environment.get_template("compress.html.j2").render(
        title=f"{config.name}, {facts.name}, horizon {config.horizon}, within a budget",
        meta=f"{runtime_name(search.question.runtime)}, {search.recipe.measure.threads} thread(s), batch "
        f"{search.recipe.measure.batch} · {len(found.tried)} candidates",
        sentences=found.verdict,
        tables=[table for table in tables if table.rows],
    )


def _line(line: Any) -> dict[str, str]:
    return {
        "budget": line.name,
        "asked": line.text(line.asked),
        "reached": line.text(line.reached),
        "met": "yes" if line.met else "no",
        "smallest model": line.text(line.cheapest),
        "given model": line.text(line.dense),
    }


def _tried_row(row: Mapping[str, Any], *, chosen: bool) -> dict[str, str]:
    predicted = f"({three_digits(row['predicted_ms'])})"
    return {
        "candidate": row["name"],
        "ms": predicted if row["latency_ms"] is None else three_digits(row["latency_ms"]),
        "bytes": f"({size(row['predicted_bytes'])})" if row["bytes"] is None else size(row["bytes"]),
        "parameters": count(row["parameters"]),
        "loss": signed_percent(row["increase"]["value"]),
        "interval": between(row["increase"]["low"], row["increase"]["high"]),
        "sure": percent(row["sure"]),
        "budgets": row["refused"] or ("met" if row["met"] else f"over {', '.join(row['exceeded'])}"),
        "": "chosen" if chosen else "",
    }


def _step_row(row: Mapping[str, Any]) -> dict[str, str]:
    return {"step": row["step"], "ms": three_digits(row["latency_ms"]), "bytes": size(row["bytes"])}


def _error_row(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "candidate": row["name"],
        "predicted ms": three_digits(row["predicted_ms"]),
        "measured ms": three_digits(row["latency_ms"]),
        "error": signed_percent(row["error"]),
    }


def _error_of(name: str, model: Mapping[str, Any]) -> dict[str, str]:
    known = {key: "-" if model[key] is None else three_digits(model[key]) for key in ("mse", "mae", "val_mse")}
    return {"model": name, "test MSE": known["mse"], "test MAE": known["mae"], "validation MSE": known["val_mse"]}


def _picture(search: Compression, found: Compressed) -> str:
    """Returns the front as SVG in base64: time against the increase of the loss, the budget as a rule."""
    most, chosen = search.question.budgets.max_loss_increase, (search.best.fingerprint, search.best.name)
    points = [
        {
            "ms": row["latency_ms"] or row["predicted_ms"],
            "loss": 100 * row["increase"]["value"],
            "low": 100 * row["increase"]["low"],
            "high": 100 * row["increase"]["high"],
            "what": "chosen" if (row["fingerprint"], row["name"]) == chosen else row["how"],
        }
        for row in found.tried
    ]
    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("ms:Q", title="time of a forecast, ms", scale=alt.Scale(type="log", nice=False, padding=20))
    )
    spread = base.mark_rule(color=PALE).encode(
        y=alt.Y("low:Q", title="increase of the validation error, %"), y2="high:Q"
    )
    marks = base.mark_point(filled=True, size=60, opacity=0.9).encode(
        y="loss:Q", color=alt.Color("what:N", title=None), shape=alt.Shape("what:N", title=None)
    )
    rule = alt.Chart(alt.Data(values=[{"most": 100 * most}])).mark_rule(color=INK, strokeDash=[4, 3]).encode(y="most:Q")
    chart = (spread + marks + rule).properties(width=640, height=300)
    svg = vl_convert.vegalite_to_svg(chart.to_dict(), config=CONFIG)
    return base64.b64encode(svg.encode()).decode()
