"""What a forecast of a published study's models takes: dense and pruned, in ONNX Runtime and as C, in turn in one run.

    python benchmarks/error_time.py results/pruning-pjm-tuned --out results/pjm-times [--models transformer]
    python benchmarks/error_time.py results/pruning-pjm-tuned --out results/pjm-times --picture    # times nothing

A study that was run on many cores says nothing of time, and its models are not kept. What time depends on is nearly
all in its records: how many units of each group stay, how many operations that leaves, how many weights of each tensor
are zero. Models of these shapes are built for the first seed, with random weights and with zeros at random places, and
called in turn: one thread, one window. A row has the median time and how many times faster than the dense model in
ONNX Runtime it is, with its 95 % interval over rounds. Zeros are timed as C, since ONNX Runtime gains nothing by them.
Take a quiet machine. The picture has the study's test error after fine-tuning against these times.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from c_engine import bound, compiled, in_turn
from prunecast.errors import UserError
from prunecast.export.base import Predictor
from prunecast.export.c.lower import lower
from prunecast.export.onnxruntime import RUNTIME
from prunecast.measure.machine_lock import alone
from prunecast.measure.operations import dense_macs
from prunecast.models.base import ForecastModel, Keep, build, config_from
from prunecast.models.io import SavedModel
from prunecast.prune.shrink import shrink
from prunecast.report.style import MODEL_NAMES
from prunecast.study.frame import StudyFrame, read_frame
from untrained import as_saved, noise

Case = tuple[str, float, str, SavedModel]
"""A way of pruning, the share it was asked for, what went by it (units or zeros), and a model of that shape."""

TABLE, PICTURE = "times.csv", "times.svg"
RESAMPLES = 500
RUNTIME_NAMES = {"onnxruntime": "ONNX Runtime", "c": "C"}
COLOURS = {
    "dense, ONNX Runtime": "#222222",
    "dense, C": "#888888",
    "structured-magnitude, ONNX Runtime": "#d55e00",
    "structured-magnitude, C": "#e8a06a",
    "structured, ONNX Runtime": "#0072b2",
    "structured, C": "#00805e",
    "unstructured, C": "#cc79a7",
}
"""Of the ways in the picture; the study's own way has reds."""


def main() -> None:
    """Times the models one after another, and writes the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="a published study's folder")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of table and picture; models that are there stay"
    )
    parser.add_argument("--picture", action="store_true", help="draw the picture alone")
    parser.add_argument("--models", nargs="+", help="some of the study's")
    parser.add_argument("--rounds", type=int, default=300)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    try:
        study = read_frame(asked.study)
    except UserError as error:
        parser.error(str(error))
    pruned = study.stages[study.stages["stage"] == "prune"]["model"].unique()
    unknown = [name for name in asked.models or () if name not in pruned]
    if unknown:
        parser.error(f"expected models of {', '.join(pruned)}, found {', '.join(unknown)}")
    if len(study.stages[["dataset", "horizon"]].drop_duplicates()) > 1:
        parser.error(f"expected a study of one data set and horizon, found several in {asked.study}")
    asked.out.mkdir(parents=True, exist_ok=True)
    table = asked.out / TABLE
    known = pd.read_csv(table) if table.is_file() else pd.DataFrame({"model": []})
    for model in () if asked.picture else asked.models or pruned:
        if model in set(known["model"]):
            continue
        rows = pd.DataFrame(timed(model, list(cases(study, model)), asked.rounds))
        print(rows.to_string(index=False), flush=True)
        known = pd.concat([known, rows]).astype({"macs": int})
        known.to_csv(table, index=False)
    if known.empty:
        parser.error(f"expected times in {table}, found none; leave out --picture")
    draw(known, study.stages, asked.out / PICTURE)


def cases(study: StudyFrame, name: str) -> Iterator[Case]:
    """Yields the dense model and each pruned one of the first seed, as far as time goes by it."""
    stages = study.stages[study.stages["model"] == name]
    first = stages[stages["seed"] == stages["seed"].min()]
    dense = first[first["role"] == "dense"].iloc[0]
    torch.manual_seed(1)
    model = build(config_from(json.loads(dense["recipe"])["model"])).eval()
    yield "dense", 0.0, "dense", as_saved(model)
    chosen = first[(first["stage"] == "prune") & ~first["method_is_control"].fillna(value=True).astype(bool)]
    for row in chosen.to_dict("records"):
        arrays = study.arrays[study.arrays["fingerprint"] == row["fingerprint"]].set_index("kind")
        gone = "units" if "kept_units" in arrays.index else "zeros"
        if gone == "units":
            pruned = shrink(model, units_left(model, counts(arrays, "kept_units"), int(row["dense_macs"])))
        else:
            pruned = with_zeros(model, counts(arrays, "removed_weights"))
        repaired = row["method"] == "structured-magnitude" and row["recovery"] != "none"
        if not repaired:  # a repair changes no shape
            yield row["method"], row["sparsity_requested"], gone, as_saved(pruned)


def units_left(model: ForecastModel, kept: dict[str, int], macs: int) -> Keep:
    """Returns which units stay: those layers, of so many, whose operations are nearest to the recorded ones."""
    sizes = {group.name: group.size for group in model.groups()}
    stacks = [name for name, units in kept.items() if name.endswith("layers") and units < sizes[name]]
    choices = [itertools.combinations(range(sizes[name]), kept[name]) for name in stacks]
    whole: Keep = {name: torch.arange(units) for name, units in kept.items()}
    found = [
        whole | {name: torch.tensor(own) for name, own in zip(stacks, chosen, strict=True)}
        for chosen in itertools.product(*choices)
    ]
    best = min(found, key=lambda keep: abs(dense_macs(model.shrunk_config(keep)) - macs))
    off = dense_macs(model.shrunk_config(best)) / macs - 1
    print(f"{model.config.name}: {off:+.1%} of the recorded operations")
    return best


def counts(arrays: pd.DataFrame, kind: str) -> dict[str, int]:
    """Returns what stands in an array of a stage: group or parameter -> how many."""
    found = arrays.loc[kind]
    return {name: int(count) for name, count in zip(json.loads(found["key"]), found["values"], strict=True)}


def with_zeros(model: ForecastModel, zeros: dict[str, int]) -> ForecastModel:
    """Returns a copy with so many zeros in each parameter, at random places."""
    sparse = shrink(model, {})
    generator = torch.Generator().manual_seed(1)
    for name, count in zeros.items():
        weight = sparse.get_parameter(name).data
        weight.view(-1)[torch.randperm(weight.numel(), generator=generator)[:count]] = 0
    return sparse


def timed(name: str, found: list[Case], rounds: int) -> Iterator[dict[str, object]]:
    """Yields a row for each case and runtime."""
    inputs = noise(found[0][3].model)
    runs: list[tuple[Case, str, Predictor]] = []
    with tempfile.TemporaryDirectory() as folder:
        for place, case in enumerate(found):
            if case[2] != "zeros":
                onnx = RUNTIME.load(RUNTIME.export(case[3], Path(folder) / f"{place}.onnx"), 1)
                runs.append((case, "onnxruntime", onnx))
            runs.append((case, "c", compiled(lower(case[3]))))
    with alone(60):
        times = in_turn([bound(predict, inputs) for _, _, predict in runs], rounds)
    dense = np.array(times[0])
    draws = np.random.default_rng(1).integers(0, rounds, (RESAMPLES, rounds))
    for ((way, share, gone, model), runtime, _), own in zip(runs, times, strict=True):
        ratios = dense / np.array(own)
        low, high = np.quantile(np.median(ratios[draws], axis=1), (0.025, 0.975))
        measured = {"ms": np.median(own), "faster": np.median(ratios), "faster_low": low, "faster_high": high}
        yield {
            "model": name,
            "method": way,
            "sparsity": share,
            "gone": gone,
            "runtime": runtime,
            "macs": dense_macs(model.model.config),
            **{column: float(f"{value:.4g}") for column, value in measured.items()},
        }


def draw(times: pd.DataFrame, stages: pd.DataFrame, path: Path) -> None:
    """Draws for each model the test error after fine-tuning, mean over seeds, against the time of a forecast."""
    import altair as alt

    tuned = stages[stages["role"].isin(("pruned+finetuned", "dense-continued"))]
    tuned = tuned[(tuned["method"] != "structured-magnitude") | (tuned["recovery"] == "none")]
    tuned = tuned.assign(method=tuned["method"].fillna("dense"), sparsity=tuned["sparsity_requested"].fillna(0.0))
    errors = tuned.groupby(["model", "method", "sparsity"])["test_mse"].mean().reset_index()
    shown = times.merge(errors, on=["model", "method", "sparsity"])
    shown["way"] = shown["method"] + ", " + shown["runtime"].map(RUNTIME_NAMES)
    linear = stages[(stages["model"] == "dlinear") & (stages["role"] == "dense-continued")]["test_mse"].mean()
    charts = []
    for model, own in shown.groupby("model", sort=False):
        scale = alt.Scale(zero=False)
        x = alt.X("ms", scale=alt.Scale(type="log"), title="ms, one core")
        y = alt.Y("test_mse", scale=scale, title="test MSE")
        colour = alt.Color(
            "way", title=None, sort=list(COLOURS), scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values()))
        )
        points = alt.Chart(own).encode(x=x, y=y, color=colour)
        lines = points.mark_line(opacity=0.5).encode(order="sparsity")
        names = points.mark_text(dy=-9, fontSize=9).encode(text=alt.Text("sparsity", format=".0%"))
        rule = alt.Chart(pd.DataFrame({"test_mse": [linear]})).mark_rule(strokeDash=[4, 3], color="gray").encode(y=y)
        layers = alt.layer(rule, lines, points.mark_point(filled=True, size=60), names)
        charts.append(layers.properties(width=250, height=190, title=MODEL_NAMES[str(model)]))
    title = "Test error after fine-tuning against the time of a forecast; shares removed, and DLinear (dashed)"
    alt.concat(*charts, columns=3, title=title).configure_legend(labelLimit=0).save(path)


if __name__ == "__main__":
    main()
