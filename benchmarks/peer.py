"""Ours beside the one peer that a user can install: onnxsim, which prunes ONNX files, on the same model and windows.

    pip install onnxsim==0.8.1
    python benchmarks/peer.py runs/pruning-etth1 --out results/peer-etth1
    make results

The first folder is one that `prunecast study run` filled, with its dense models in it. Each is exported; onnxsim
prunes the file (magnitude, Wanda, SparseGPT) with the calibration windows that ours look at; what it makes of each
weight is read back into the model, so that all are scored alike, on the windows of validation. "The same layers": of
both, only those count that all its three methods prune, the output layer spared; a share is that of each layer for
theirs, of all of these layers together for ours.

The second folder holds `peer.json`, from which `docs/results.md` has its table. It is written after each cell, and what
stands there is not computed again; after a change of ours `--again` computes ours anew, without onnxsim.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.metadata
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from prunecast import environment
from prunecast.data.series import load_series
from prunecast.data.windows import DrawnBatches
from prunecast.errors import UserError
from prunecast.export.raw import raw_inputs
from prunecast.inference import window_shape
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.models.base import ForecastModel
from prunecast.models.io import SavedModel, load_model
from prunecast.prune.apply import prune_model
from prunecast.recipe import RECIPE_FILE, PruneConfig, load_recipe
from prunecast.registry import RUNTIMES
from prunecast.stages.prune import CALIBRATION_BATCH
from prunecast.stages.run import cut_windows
from prunecast.train.evaluate import evaluate_model

OURS = ("unstructured",)
THEIRS = ("magnitude", "wanda", "sparsegpt")
SHARES = (0.5, 0.8, 0.9)
FILE = "peer.json"
PEER = "onnxsim"

Row = dict[str, Any]


def main() -> None:
    """Fills the table of validation errors: a part for each dense model, in it a row for each share and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--out", type=Path, required=True, help=f"folder for {FILE}")
    parser.add_argument("--models", nargs="*", default=[], help="only these")
    parser.add_argument("--seeds", nargs="*", type=int, default=[], help="only these")
    parser.add_argument("--again", action="store_true", help="compute ours anew")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    target = arguments.out / FILE
    parts: list[Row] = json.loads(target.read_text()) if target.exists() else []
    for path, record in _dense_models(arguments.study):
        name, seed = record["model"], record["seed"]
        if (arguments.models and name not in arguments.models) or (arguments.seeds and seed not in arguments.seeds):
            continue
        part = next((part for part in parts if part["dense"] == record["fingerprint"]), None)
        if part is None:
            part = {"model": name, "dataset": record["data"]["name"], "seed": seed, "dense": record["fingerprint"]}
            part |= {"validation_mse": record["validation"]["mse"], "rows": []}
            parts.append(part)
        if arguments.again:
            part["rows"] = [row for row in part["rows"] if row["tool"] == PEER]
        for _ in _filled(part, path):
            parts.sort(key=lambda part: (part["model"], part["seed"]))
            target.write_text(json.dumps(parts, indent=1) + "\n", encoding="utf-8")


def _dense_models(study: Path) -> Iterator[tuple[Path, Row]]:
    records = ((path.parent, json.loads(path.read_text())) for path in sorted(study.glob("store/**/record.json")))
    found = [(path, record) for path, record in records if record["stage"] == "train" and record["role"] == "dense"]
    return iter(sorted(found, key=lambda pair: (pair[1]["seed"], pair[1]["model"])))


def _filled(part: Row, path: Path) -> Iterator[Row]:
    """Adds the rows to a part that it lacks, and yields each."""
    done = {(row["share"], row["tool"], row["method"]) for row in part["rows"]}
    asked = [(share, PEER, method) for share in SHARES for method in THEIRS]
    asked += [(share, "prunecast", method) for share in SHARES for method in OURS]
    if done >= set(asked):
        return
    saved, recipe = load_model(path), load_recipe(path / RECIPE_FILE)
    prepared = cut_windows(load_series(recipe.data), recipe.data, window_shape(recipe.model))
    windows = DrawnBatches(prepared.train, CALIBRATION_BATCH, PruneConfig().calibration_batches, part["seed"])
    if "refused" not in part and "layers" not in part:
        peer = Peer(saved, windows)
        try:
            found = [peer.pruned(method, SHARES[0]) for method in THEIRS]
        except UserError as error:
            found, part["refused"] = [{}], str(error)
        part["layers"] = sorted(set.intersection(*(set(weights) for weights in found)))
        part["weights"] = sum(saved.model.get_parameter(name).numel() for name in part["layers"])
        part["prunable"] = sum(saved.model.get_parameter(name).numel() for name in saved.model.prunable())
        if not part["layers"] and "refused" not in part:
            part["refused"] = "it prunes none of the layers that ours prune"
        yield part
    if "refused" in part:
        return
    peer = None
    for share, tool, method in asked:
        if (share, tool, method) in done:
            continue
        if tool == PEER:
            peer = peer or Peer(saved, windows)
            model, version = _with_weights(saved.model, peer.pruned(method, share), part["layers"]), peer.version
        else:
            model, version = _ours(saved, windows, method, share, part), environment.describe().commit
        zeros = sum(int((model.get_parameter(name) == 0).sum()) for name in part["layers"]) / part["weights"]
        row = {"share": share, "tool": tool, "method": method, "version": version, "zeros": round(zeros, 6)}
        row["validation_mse"] = evaluate_model(model, prepared.validation, "validation").mse
        part["rows"].append(row)
        change = 100 * (row["validation_mse"] / part["validation_mse"] - 1)
        print(f"{part['model']} seed {part['seed']}, {share:g}, {tool} {method}: {change:+.1f} %", flush=True)
        yield row


def _with_weights(dense: ForecastModel, weights: dict[str, Tensor], names: Sequence[str]) -> ForecastModel:
    model = copy.deepcopy(dense)
    for name in names:
        model.get_parameter(name).data.copy_(weights[name])
    return model


def _ours(saved: SavedModel, windows: DrawnBatches, method: str, share: float, part: Row) -> ForecastModel:
    """Returns the model with as many of the same layers' weights gone, by one of our methods."""
    layers = tuple(part["layers"])
    saved.model.prunable, prunable = (lambda: layers), saved.model.prunable  # type: ignore[method-assign]
    try:
        return prune_model(
            saved.model,
            PruneConfig(method=method, sparsity=share),
            seed=part["seed"],
            cost=dense_macs,
            weight_cost=macs_per_weight,
            batches=windows,
        ).model
    finally:
        saved.model.prunable = prunable  # type: ignore[method-assign]


class Peer:
    """What onnxsim makes of one model: exported and simplified once, pruned as often as asked."""

    def __init__(self, saved: SavedModel, windows: DrawnBatches) -> None:
        self.version = importlib.metadata.version(PEER)
        self._pruning = importlib.import_module(f"{PEER}.pruning")
        self._model = saved.model
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "dense.onnx"
            RUNTIMES.load("onnxruntime").export(saved, path)
            self._file, _ = importlib.import_module(PEER).simplify(onnx.load(path))  # else no weight is a constant
        inputs = {node.name for node in self._file.graph.input}
        self._data = [
            {name: values for name, values in raw_inputs(saved.metadata, batch).items() if name in inputs}
            for batch in windows
        ]

    def pruned(self, method: str, share: float) -> dict[str, Tensor]:
        """Returns what it makes of each weight that it prunes, by the name of the parameter; no output layer.

        Raises:
            UserError: when it makes other products of the model.
        """
        own: dict[str, Callable[[], onnx.ModelProto]] = {
            "magnitude": lambda: self._pruning.apply_magnitude_pruning(self._file, sparsity=share),
            "wanda": lambda: self._pruning.apply_wanda_pruning(self._file, calibration_data=self._data, sparsity=share),
            "sparsegpt": lambda: self._pruning.apply_sparsegpt_pruning(
                self._file, calibration_data=self._data, sparsity=share
            ),
        }
        dense, after = _products(self._file), _products(own[method]())
        if len(after) != len(dense):
            raise UserError(f"it makes {len(after)} products of the {len(dense)} of the file")
        spared, found = self._model.output_layer(), {}
        for parameter in self._model.prunable():
            weight = self._model.get_parameter(parameter).detach().numpy()
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


if __name__ == "__main__":
    main()
