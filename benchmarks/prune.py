"""How long it takes to plan and apply a structured prune at paper size, in a process that has pruned nothing yet.

    python benchmarks/prune.py [--sparsity 0.5] [--model NAME]

`first` is the first prune of a fresh process, with all that is loaded for it, `next` the fastest of two more
(target: less than 1 s for every model; a dependency graph needed more than ten minutes for Informer).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import torch

from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.models.base import ForecastModel, build, config_from
from prunecast.prune.apply import prune_model
from prunecast.recipe import PruneConfig

MODELS = ("transformer", "informer", "autoformer", "fedformer", "crossformer", "patchtst", "itransformer")
SIZES = {"patchtst": {"d_model": 512, "n_heads": 8, "d_ff": 2048, "encoder_layers": 2}}
"""Where the published defaults are smaller than those of the other models."""


def main() -> None:
    """Runs one model here, or each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--sparsity", type=float, default=0.5)
    arguments = parser.parse_args()
    if arguments.model is not None:
        print(_line(arguments.model, arguments.sparsity))
        return
    print(f"structured-magnitude, sparsity {arguments.sparsity:g} of the operations, {torch.get_num_threads()} threads")
    for name in MODELS:
        command = [sys.executable, __file__, "--model", name, "--sparsity", str(arguments.sparsity)]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="", flush=True)


def _line(name: str, sparsity: float) -> str:
    model = build(config_from({"name": name, "channels": 7} | SIZES.get(name, {}))).eval()
    first, *others = (_elapsed_s(model, sparsity) for _ in range(3))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"{name:12s} {parameters:>11,} parameters   first {first:5.2f} s   next {min(others):5.2f} s"


def _elapsed_s(model: ForecastModel, sparsity: float) -> float:
    dense_macs.cache_clear()
    config = PruneConfig(method="structured-magnitude", sparsity=sparsity)
    started = time.perf_counter()
    prune_model(model, config, seed=1, cost=dense_macs, weight_cost=macs_per_weight)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
