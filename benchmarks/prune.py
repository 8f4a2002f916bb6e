"""How long pruning takes, choice and repair: of every model in two sizes, by the default methods and by magnitude.

    python benchmarks/prune.py [--size small|paper] [--method NAME] [--model NAME] [--threads 1]

Each line is a process of its own, which has pruned nothing yet, and a model that was never trained. It tells the
seconds of the clock and those of the processor, with all that is loaded on the way. The clock is worth something on an
idle machine alone: threads that wait for each other make narrow models thirty times slower on a busy one.

Targets: structured and unstructured 5 s at width 32 and 3 min at paper size, on 2 cores; structured-magnitude 1 s (a
dependency graph needed more than ten minutes for Informer).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch

from prunecast.batch import Batch
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.models.base import build, config_from, input_shapes
from prunecast.prune.apply import prune_model
from prunecast.recipe import PruneConfig

MODELS = ("transformer", "informer", "autoformer", "fedformer", "crossformer", "patchtst", "itransformer")
METHODS = {"structured-magnitude": 0.5, "structured": 0.75, "unstructured": 0.9}
"""And the share that goes."""

SMALL = {"d_model": 32, "n_heads": 4, "d_ff": 64}
LARGE = {"patchtst": {"d_model": 512, "n_heads": 8, "d_ff": 2048, "encoder_layers": 2}}
"""Where the published defaults are smaller than those of the other models."""

BATCHES, WINDOWS = 8, 32
"""As many windows as a recipe takes when it says nothing."""


def main() -> None:
    """Runs one model here, or each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "paper"))
    parser.add_argument("--method", choices=METHODS)
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    if asked.size and asked.method and asked.model:
        torch.set_num_threads(asked.threads)
        print(_line(asked.model, asked.size, asked.method))
        return
    print(
        f"{'model':12s} {'size':5s} {'parameters':>11s}  {'method':20s} {'share':>5s} {'clock':>9s} {'processor':>11s}"
    )
    for size in [asked.size] if asked.size else ["small", "paper"]:
        for method in [asked.method] if asked.method else METHODS:
            for name in [asked.model] if asked.model else MODELS:
                command = [sys.executable, __file__, "--threads", str(asked.threads)]
                command += ["--size", size, "--method", method, "--model", name]
                print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="", flush=True)


def _line(name: str, size: str, method: str) -> str:
    values: Mapping[str, Any] = SMALL if size == "small" else LARGE.get(name, {})
    torch.manual_seed(0)
    model = build(config_from({"name": name, "channels": 7, **values})).eval()
    draw = torch.Generator().manual_seed(1)
    x, x_mark, y_mark = (
        torch.randn(BATCHES, WINDOWS, *shape, generator=draw) for shape in input_shapes(model.config).values()
    )
    y = torch.randn(BATCHES, WINDOWS, model.config.horizon, 7, generator=draw)
    batches = [Batch(*parts) for parts in zip(x.cumsum(2) / 10, y, x_mark, y_mark, strict=True)]
    config = PruneConfig(method=method, sparsity=METHODS[method])
    started, used = time.perf_counter(), time.process_time()
    prune_model(model, config, seed=1, cost=dense_macs, weight_cost=macs_per_weight, batches=batches)
    elapsed_s, processor_s = time.perf_counter() - started, time.process_time() - used
    parameters = sum(parameter.numel() for parameter in model.parameters())
    share = f"{config.sparsity:5.2f}"
    return f"{name:12s} {size:5s} {parameters:>11,}  {method:20s} {share} {elapsed_s:7.1f} s {processor_s:9.1f} s"


if __name__ == "__main__":
    main()
