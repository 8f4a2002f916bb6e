"""What the clock confirms of saved operations: eight models at paper size, dense and cut, in every runtime.

    python benchmarks/savings.py --out results/savings              # all, in hours; it goes on where it stopped
    python benchmarks/savings.py --out runs/x --models patchtst --cuts 4 --runtimes onnxruntime --quick
    python benchmarks/savings.py --out results/savings --picture    # draws savings.svg again, and times nothing

Weights are untrained: they change no time. Each model is cut to 1/4, 1/8 and 1/16 of its operations, the same share of
heads, feed-forward units and widths everywhere, and timed in turn with its dense parent: one thread, batch 1. A row of
`savings.csv` has both times, the speed-up with its interval, and the realised share: the speed-up over the cut.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch

from prunecast.errors import MissingExtra, UserError
from prunecast.export.base import Runtime
from prunecast.measure.latency import time_against
from prunecast.measure.machine_lock import alone
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.models.base import ForecastModel, build, config_from
from prunecast.models.io import save_model
from prunecast.prune.apply import prune_model
from prunecast.recipe import MeasureConfig, PruneConfig
from prunecast.records import Timing
from prunecast.registry import MODELS as REGISTERED
from prunecast.registry import RUNTIMES
from prunecast.report.style import MODEL_NAMES
from untrained import as_saved, noise

TABLE, PICTURE = "savings.csv", "savings.svg"
KEY = ["model", "runtime", "cut"]
DECODES = ("transformer", "informer", "autoformer", "fedformer")
MODELS = (*DECODES, "crossformer", "patchtst", "itransformer", "dlinear")
CUTS = (4, 8, 16)


def main() -> None:
    """Fills the table, row by row, and draws its picture."""
    arguments = _arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.picture:
        quick = {"warmup": 2, "min_count": 10, "min_time_s": 0.05}
        config = MeasureConfig(
            threads=1, batch=1, **(quick if arguments.quick else {"min_count": 200, "min_time_s": 5})
        )
        for name in arguments.models:
            _time_model(name, arguments, config)
    draw(pd.read_csv(arguments.out / TABLE), arguments.out / PICTURE)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the table and the picture")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES.names(), default=list(RUNTIMES.names()))
    parser.add_argument("--cuts", nargs="+", type=int, default=CUTS)
    parser.add_argument("--quick", action="store_true", help="few calls: to see that all goes well")
    parser.add_argument("--set", nargs="+", default=[], help="sizes of all models, as in d_model=32 lookback=24")
    parser.add_argument("--picture", action="store_true", help="draw the picture alone")
    return parser.parse_args()


def _time_model(name: str, arguments: argparse.Namespace, config: MeasureConfig) -> None:
    """Times what the table does not have yet of a model."""
    table = arguments.out / TABLE
    done = set(pd.read_csv(table)[KEY].itertuples(index=False, name=None)) if table.is_file() else set()
    asked = [(runtime, cut) for runtime in arguments.runtimes for cut in (1, *arguments.cuts)]
    if all((name, runtime, cut) in done for runtime, cut in asked):
        return
    torch.manual_seed(1)
    sizes = {key: int(value) for key, value in (entry.split("=") for entry in arguments.set)}
    known = {"name": name, "lookback": 96, "horizon": 96, "channels": 7} | (
        {"label_len": 48} if name in DECODES else {}
    )
    fields = REGISTERED.load(name).Config.model_fields
    dense = build(config_from(known | {key: value for key, value in sizes.items() if key in fields})).eval()
    macs = dense_macs(dense.config)
    with tempfile.TemporaryDirectory() as folder:
        for cut, model in _models(dense, (1, *arguments.cuts)):
            left = dense_macs(model.config)
            for runtime in arguments.runtimes:
                if (name, runtime, cut) in done:
                    continue
                row = {"model": name, "runtime": runtime, "cut": cut, "dense_macs": macs, "macs": left}
                try:
                    paths = [
                        _written(RUNTIMES.load(runtime), one, Path(folder), at)
                        for one, at in ((model, cut), (dense, 1))
                    ]
                except (MissingExtra, UserError) as error:
                    print(f"{name:12} {runtime:12} {cut:3}  {error}", flush=True)
                    continue
                with alone(0):
                    found = time_against(runtime, paths[0], paths[1] if cut > 1 else None, noise(model), config)
                row |= _numbers(found.model_copy(update={"operation_cut": macs / left if cut > 1 else None}))
                pd.DataFrame([row]).to_csv(table, mode="a", header=not table.is_file(), index=False)
                print(f"{name:12} {runtime:12} {cut:3}  {row}", flush=True)


def _models(dense: ForecastModel, cuts: tuple[int, ...]) -> Iterator[tuple[int, ForecastModel]]:
    """Yields the dense model and its cut ones; a model without units to cut has none of these."""
    for cut in cuts:
        if cut == 1:
            yield cut, dense
            continue
        request = PruneConfig(method="structured-magnitude", sparsity=1 - 1 / cut)
        try:
            known = {"masks": {}, "batches": [], "cost": dense_macs, "weight_cost": macs_per_weight}
            yield cut, prune_model(dense, request, seed=1, **known).model.eval()
        except UserError as error:
            print(f"{dense.config.name:12} {'':12} {cut:3}  {error}", flush=True)


def _written(runtime: Runtime, model: ForecastModel, folder: Path, cut: int) -> Path:
    """Returns what a runtime loads: its artefact, or the model's folder; written once."""
    runtime.start()
    reason = runtime.unsupported(model)
    if reason is not None:
        raise UserError(reason)
    path = folder / f"{cut}{runtime.suffix}"
    if not path.exists():
        if runtime.suffix:
            runtime.export(as_saved(model), path)
        else:
            path.mkdir()
            save_model(as_saved(model), path)
    return path


def _numbers(timing: Timing) -> dict[str, float]:
    """Returns the columns of a timing, to four digits."""
    found: dict[str, float] = {"ms": timing.latency.median, "p95_ms": timing.latency.p95}
    if timing.reference is not None:
        found["dense_ms"] = timing.reference.median
    for column, ratio in (("speedup", timing.speedup), ("realised", timing.realised_share)):
        low, middle, high = (float("nan"),) * 3 if ratio is None else (ratio.low, ratio.ratio, ratio.high)
        found |= {column: middle, f"{column}_low": low, f"{column}_high": high}
    found.setdefault("dense_ms", float("nan"))
    found["others_share"] = timing.beside.others_share + timing.beside.steal_share if timing.beside else float("nan")
    return {name: float(f"{found[name]:.4g}") for name in sorted(found)}


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draws speed-up against cut of operations, both on scales of doublings, in ONNX Runtime where it was timed."""
    import altair as alt

    runtime = "onnxruntime" if (table["runtime"] == "onnxruntime").any() else table["runtime"].iloc[0]
    shown = table[(table["runtime"] == runtime) & table["speedup"].notna()]
    shown = shown.assign(operations=shown["dense_macs"] / shown["macs"], model=shown["model"].map(MODEL_NAMES))
    if shown.empty:
        return
    scale = alt.Scale(type="log", base=2)
    base = alt.Chart(shown).encode(
        x=alt.X("operations", scale=scale, title="operations cut, times"),
        color=alt.Color("model", title=None, sort=[MODEL_NAMES[name] for name in MODELS]),
    )
    most = float(max(shown["operations"].max(), shown["speedup"].max()))
    promise = alt.Chart(pd.DataFrame({"x": [1, most], "y": [1, most]})).mark_line(strokeDash=[4, 4], color="gray")
    layers = (
        promise.encode(x=alt.X("x", scale=scale), y=alt.Y("y", scale=scale)),
        base.mark_rule().encode(y=alt.Y("speedup_low", scale=scale, title="faster, times"), y2="speedup_high"),
        base.mark_line(point=True).encode(y=alt.Y("speedup", scale=scale)),
    )
    title = f"What the clock confirms of saved operations: {runtime}, one thread, batch 1"
    alt.layer(*layers).properties(width=520, height=360, title=title).save(path)


if __name__ == "__main__":
    main()
