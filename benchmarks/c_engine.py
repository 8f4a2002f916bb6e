"""The C engine beside dense ONNX Runtime and CSR: whole models at several shares of zeros, in one run, in turn.

    python benchmarks/c_engine.py --out results/c-engine/c_engine.csv         # paper size, as the docs quote it
    python benchmarks/c_engine.py [MODEL...] [--zeros 0.5 0.8 0.9 0.95] [--set d_model=64 ...] [--rounds 30]
    python benchmarks/c_engine.py --kernels [--shape 512 512 96]

One thread, one window, untrained weights of which the smallest of each prunable tensor are zero. A round calls every
runtime once; the table has the median time of each and the median over rounds of ONNX Runtime's time over the C's.
`--kernels` has the time of each kernel on one weight (outputs, inputs, columns): the points of the model of costs.
Hosts differ by a factor of two: only ratios of one run say something.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch

from prunecast.export.base import Inputs, Predictor
from prunecast.export.c.kernels import MOST_COLUMNS, Kernel
from prunecast.export.c.lower import lower
from prunecast.export.c.program import Code, Operation, Program
from prunecast.export.c.runtime import Compiled
from prunecast.export.c.source import source_of
from prunecast.export.eager import csr_predictor
from prunecast.export.onnxruntime import RUNTIME
from prunecast.models.base import build, config_from
from prunecast.models.io import SavedModel
from untrained import as_saved, noise

SIZES = {"lookback": 96, "horizon": 96, "label_len": 48, "channels": 7, "marks": 4}
Row = dict[str, str | float]
MODELS = ("transformer", "informer", "crossformer", "autoformer", "fedformer", "patchtst", "itransformer")


def saved_model(name: str, settings: Sequence[str]) -> SavedModel:
    """Returns an untrained model of the paper's size, where nothing else is set."""
    changed = {key: float(value) if "." in value else int(value) for key, value in (one.split("=") for one in settings)}
    torch.manual_seed(1)
    return as_saved(build(config_from(SIZES | {"name": name} | changed)).eval())


def with_zeros(saved: SavedModel, share: float) -> SavedModel:
    """Returns a copy whose prunable tensors have this share of zeros, each of them."""
    found = SavedModel(copy.deepcopy(saved.model), saved.metadata)
    for name in found.model.prunable():
        weight = found.model.get_parameter(name).data
        order = weight.abs().flatten().argsort()[: int(share * weight.numel())]
        weight.view(-1)[order] = 0.0
    return found


def in_turn(calls: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Returns the times of each, in ms, after a first call that does not count."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds + 1):
        for at, call in enumerate(calls):
            clock = time.perf_counter()
            call()
            if turn:
                times[at].append((time.perf_counter() - clock) * 1e3)
    return times


def models(names: Sequence[str], zeros: Sequence[float], settings: Sequence[str], rounds: int) -> Iterator[Row]:
    """Yields a row for each model and share of zeros."""
    for name in names:
        saved = saved_model(name, settings)
        inputs = noise(saved.model)
        with tempfile.TemporaryDirectory() as folder:
            onnx = RUNTIME.load(RUNTIME.export(saved, Path(folder) / "model.onnx"), 1)
        for share in zeros:
            sparse = with_zeros(saved, share)
            built = compiled(lower(sparse))
            csr = csr_predictor(sparse, 1)
            ort, by_csr, by_c = in_turn([bound(one, inputs) for one in (onnx, csr, built)], rounds)
            ratio, over_csr = (median(a / b for a, b in zip(one, by_c, strict=True)) for one in (ort, by_csr))
            yield {
                "model": name,
                "zeros": share,
                "onnxruntime_dense_ms": round(median(ort), 3),
                "csr_ms": round(median(by_csr), 3),
                "c_ms": round(median(by_c), 3),
                "over_onnxruntime": round(ratio, 3),
                "over_csr": round(over_csr, 3),
                "flash_bytes": built.source.flash_bytes,
                "memory_bytes": built.source.memory_bytes,
            }


def table(rows: Iterable[Row]) -> Iterator[str]:
    """Yields the lines of a table, as rows come."""
    for number, row in enumerate(rows):
        if not number:
            yield "| " + " | ".join(row) + " |"
            yield "|---" * len(row) + "|"
        yield "| " + " | ".join(map(str, row.values())) + " |"


def compiled(program: Program) -> Compiled:
    """Returns a program's C, compiled for this processor."""
    return Compiled(source_of(program), program)


def bound(predict: Predictor, inputs: Inputs) -> Callable[[], object]:
    """Returns a call without arguments."""
    return lambda: predict(inputs)


def kernels(shape: tuple[int, int, int], zeros: Sequence[float], rounds: int) -> Iterator[str]:
    """Yields a table: the time of one product by each kernel."""
    outputs, inputs, columns = shape
    generator = np.random.default_rng(1)
    history = generator.normal(size=(inputs, columns)).astype(np.float32)
    whole = -(-inputs // -(-inputs // MOST_COLUMNS))
    ways: list[tuple[Kernel, int]] = [("product", inputs)]
    ways += [(kernel, block) for kernel in ("jammed", "rowwise") for block in (64, 96, 128, whole)]
    yield f"us of ({outputs} x {inputs}) x ({inputs} x {columns}), fastest of {rounds} calls less that of an empty one"
    yield "| zeros | " + " | ".join(f"{kernel} {block}" for kernel, block in ways) + " |"
    yield "|---" * (len(ways) + 1) + "|"
    for share in zeros:
        weight = generator.normal(size=(outputs, inputs)) * (generator.random((outputs, inputs)) >= share)
        calls = []
        for way in [*ways, None]:
            turned = Operation(op="permute", inputs=("history",), output="x", numbers=(1, 0))
            # what is not the product costs the same in all: the last is without
            last = Operation(op="linear", inputs=("x", "w"), output="y")
            code = [turned, last, Operation(op="sum", inputs=("y",), output="s", numbers=(1,))]
            code.append(Operation(op="reshape", inputs=("s",), output="forecast", numbers=(columns, 1)))
            if way is None:
                code = [turned, Operation(op="reshape", inputs=("x",), output="forecast", numbers=(columns, inputs))]
            constants = {"w": weight.astype(np.float32)} if way else {}
            program = Program(Code(inputs={"history": history.shape}, operations=tuple(code)), constants)
            source = source_of(program, choose=lambda *_, way=way: way)
            calls.append(bound(Compiled(source, program), {"history": history}))
        *times, empty = (min(one) * 1e3 for one in in_turn(calls, rounds))
        yield f"| {share} | " + " | ".join(f"{one - empty:.0f}" for one in times) + " |"


def main() -> None:
    """Prints one of the two tables, and writes that of models where it is told to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--zeros", nargs="+", type=float, default=[0, 0.5, 0.8, 0.9, 0.95])
    parser.add_argument("--set", nargs="+", default=[], dest="settings")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--kernels", action="store_true")
    parser.add_argument("--shape", nargs=3, type=int, default=(512, 512, 96))
    parser.add_argument("--out", type=Path, help="a CSV of the models; a quiet machine is what it takes")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    if asked.kernels:
        lines = kernels(tuple(asked.shape), asked.zeros, asked.rounds)
    else:
        found = models(asked.models, asked.zeros, asked.settings, asked.rounds)
        lines = table(rows.append(row) or row for row in found)
    for line in lines:
        print(line, flush=True)
    if asked.out and rows:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_csv(asked.out, index=False)


if __name__ == "__main__":
    main()
