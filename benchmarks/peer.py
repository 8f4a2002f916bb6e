"""Ours beside the one peer that a user can install: onnxsim, which prunes ONNX files, on the same model and windows.

    pip install onnxsim==0.8.1
    python benchmarks/peer.py STUDY [--models NAME...] [--seeds N...] [--shares 0.5 0.8 0.9] [--out table.md]

STUDY is a folder that `prunecast study run` filled, with its dense models in it. Each is exported; onnxsim prunes the
file (magnitude, Wanda, SparseGPT) with the calibration windows that ours look at; what it makes of each weight is read
back into the model, so that all are scored alike. "The same layers": of both, only those count that both prune, the
output layer spared; a share is that of each layer for theirs, of all of these layers together for ours.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from prunecast.data.series import load_series
from prunecast.data.windows import DrawnBatches, Prepared
from prunecast.export.raw import raw_inputs
from prunecast.inference import window_shape
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.models.base import ForecastModel
from prunecast.models.io import SavedModel, load_model
from prunecast.prune.apply import prune_model
from prunecast.recipe import RECIPE_FILE, PruneConfig, load_recipe
from prunecast.registry import RUNTIMES
from prunecast.stages.run import cut_windows
from prunecast.train.evaluate import evaluate_model

OURS = ("magnitude", "sparsegpt", "obc", "unstructured")
THEIRS = ("magnitude", "wanda", "sparsegpt")
BATCHES, WINDOWS = 8, 32


def main() -> None:
    """Prints a table of validation errors against the dense model, a row for each model, share and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--seeds", nargs="*", type=int, default=[])
    parser.add_argument("--shares", nargs="*", type=float, default=[0.5, 0.8, 0.9])
    parser.add_argument("--out", type=Path, help="also write the table there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    changes: dict[tuple[str, float, str], list[tuple[float, float]]] = {}
    for name, seed, saved, prepared in _dense_models(arguments.study):
        if (arguments.models and name not in arguments.models) or (arguments.seeds and seed not in arguments.seeds):
            continue
        dense = _errors(saved.model, prepared)
        for share in arguments.shares:
            for method, model in _pruned(saved, prepared, share, seed):
                found = _errors(model, prepared)
                both = tuple(100 * (mine / other - 1) for mine, other in zip(found, dense, strict=True))
                changes.setdefault((name, share, method), []).append((both[0], both[1]))
                print(f"{name} seed {seed} {share:g} {method}: {both[0]:+.1f} % / {both[1]:+.1f} %", flush=True)
    table = _table(changes)
    print(table)
    if arguments.out is not None:
        arguments.out.write_text(table)


def _dense_models(study: Path) -> Iterator[tuple[str, int, SavedModel, Prepared]]:
    for path in sorted(study.glob("store/**/record.json")):
        record = json.loads(path.read_text())
        if record["stage"] == "train" and record["role"] == "dense":
            saved, recipe = load_model(path.parent), load_recipe(path.parent / RECIPE_FILE)
            yield (
                record["model"],
                record["seed"],
                saved,
                cut_windows(load_series(recipe.data), recipe.data, window_shape(recipe.model)),
            )


def _errors(model: ForecastModel, prepared: Prepared) -> tuple[float, float]:
    """Returns the MSE of validation and test."""
    validation = evaluate_model(model, prepared.validation, "validation").mse
    return validation, evaluate_model(model, prepared.test, "test").mse


def _pruned(saved: SavedModel, prepared: Prepared, share: float, seed: int) -> Iterator[tuple[str, ForecastModel]]:
    windows = DrawnBatches(prepared.train, WINDOWS, BATCHES, seed)
    theirs = {method: _theirs(saved, windows, method, share) for method in THEIRS}
    common = set.intersection(*(set(weights) for weights in theirs.values()))
    for method, weights in theirs.items():
        model = copy.deepcopy(saved.model)
        for name in common:
            model.get_parameter(name).data.copy_(weights[name])
        yield f"onnxsim {method}", model
    # ours on the same layers
    saved.model.prunable, prunable = (lambda: tuple(sorted(common))), saved.model.prunable  # type: ignore[method-assign]
    try:
        for method in OURS:
            config = PruneConfig(method=method, sparsity=share)
            yield (
                f"ours {method}",
                prune_model(
                    saved.model, config, seed=seed, cost=dense_macs, weight_cost=macs_per_weight, batches=windows
                ).model,
            )
    finally:
        saved.model.prunable = prunable  # type: ignore[method-assign]


def _theirs(saved: SavedModel, windows: DrawnBatches, method: str, share: float) -> dict[str, Tensor]:
    """Returns what onnxsim makes of each weight that it prunes, by the name of the parameter; no output layer."""
    pruning = importlib.import_module("onnxsim.pruning")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dense.onnx"
        RUNTIMES.load("onnxruntime").export(saved, path)
        before, _ = importlib.import_module("onnxsim").simplify(onnx.load(path))  # else no weight is a constant
    inputs = {node.name for node in before.graph.input}
    data = [
        {name: values for name, values in raw_inputs(saved.metadata, batch).items() if name in inputs}
        for batch in windows
    ]
    dense = _products(before)
    own: dict[str, Callable[[], onnx.ModelProto]] = {
        "magnitude": lambda: pruning.apply_magnitude_pruning(before, sparsity=share),
        "wanda": lambda: pruning.apply_wanda_pruning(before, calibration_data=data, sparsity=share),
        "sparsegpt": lambda: pruning.apply_sparsegpt_pruning(before, calibration_data=data, sparsity=share),
    }
    after = _products(own[method]())
    assert len(after) == len(dense), "a product for a product, in the same order"
    spared, found = saved.model.output_layer(), {}
    for parameter in saved.model.prunable():
        weight = saved.model.get_parameter(parameter).detach().numpy()
        for old, new in zip(dense, after, strict=True):
            if parameter in spared or np.array_equal(old, new):
                continue
            if old.shape == weight.shape and np.array_equal(old, weight):
                found[parameter] = torch.from_numpy(new.copy())
            elif old.T.shape == weight.shape and np.array_equal(old.T, weight):
                found[parameter] = torch.from_numpy(new.T.copy())
    return found


def _products(model: onnx.ModelProto) -> list[np.ndarray]:
    """Returns the constant matrix of each product with one, in the order of the graph."""
    constants = {each.name: each for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = next(own.t for own in node.attribute)
    return [
        numpy_helper.to_array(constants[name]).copy()
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm")
        for name in node.input[:2]
        if name in constants
    ]


def _table(changes: dict[tuple[str, float, str], list[tuple[float, float]]]) -> str:
    methods = list(dict.fromkeys(method for _, _, method in changes))
    cells = list(dict.fromkeys((model, share) for model, share, _ in changes))
    lines = [f"| model | share | {' | '.join(methods)} |", f"|---|---|{'---|' * len(methods)}"]
    for model, share in cells:
        values = [_mean(changes[model, share, method]) for method in methods]
        lines.append(f"| {model} | {share:g} | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def _mean(pairs: Sequence[tuple[float, float]]) -> str:
    validation, test = (sum(values) / len(values) for values in zip(*pairs, strict=True))
    return f"{validation:+.1f} / {test:+.1f}"


if __name__ == "__main__":
    main()
