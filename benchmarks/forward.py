"""Times one forecast of ours and of Time-Series-Library in one run, in turn: batch 1, one thread, eager.

    python benchmarks/forward.py --against DIR                    # every model, at paper size
    python benchmarks/forward.py --against DIR --models informer --onnxruntime

Both start from the same weights. With --onnxruntime our model is also timed as an ONNX file, in turn with the others.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from prunecast.batch import Batch
from prunecast.export.onnxruntime import RUNTIME
from prunecast.measure.operations import dense_macs
from prunecast.models.base import ForecastModel
from published import MODULES, add_sizes, call_published, config_of, median_ratio, pair, peak_gmacs_per_s, random_batch
from untrained import as_saved

WARM_UP = 5

Forecast = Callable[[], object]


def main() -> None:
    """Prints one line for each model."""
    arguments = _arguments()
    torch.set_num_threads(1)
    peak = peak_gmacs_per_s()
    print(f"batch {arguments.batch}, 1 thread, {arguments.count} turns; load average {os.getloadavg()[0]:.1f}")
    print(f"{'model':14}{'published':>12}{'ours':>12}{'ratio':>24}{'limit':>10}{'ONNX Runtime':>14}")
    for model in arguments.models:
        print(_line(model, arguments, peak), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODULES, default=list(MODULES))
    parser.add_argument("--count", type=int, default=60, help="forecasts of each")
    parser.add_argument("--onnxruntime", action="store_true")
    add_sizes(parser, d_model=512, d_ff=2048, batch=1)
    return parser.parse_args()


def _line(name: str, arguments: argparse.Namespace, peak: float) -> str:
    config = config_of(name, arguments)
    ours, theirs = (model.eval() for model in pair(config, arguments.against, arguments.seed))
    batch = random_batch(config, arguments.batch)
    contestants: list[Forecast] = [
        lambda: call_published(theirs, config, batch),
        lambda: ours(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF),
    ]
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        if arguments.onnxruntime:
            contestants.append(_onnx(ours, batch, Path(folder)))
        published_ms, our_ms, *onnx_ms = _times_ms(contestants, arguments.count)
    ratio, low, high = median_ratio(published_ms, our_ms)
    limit_ms = arguments.batch * dense_macs(config) / peak / 1e6
    text = f"{name:14}{np.median(published_ms):9.2f} ms{np.median(our_ms):9.2f} ms{ratio:9.2f} [{low:.2f}, {high:.2f}]"
    return f"{text:62}{limit_ms:7.2f} ms" + (f"{np.median(onnx_ms[0]):11.2f} ms" if onnx_ms else "")


def _times_ms(contestants: list[Forecast], count: int) -> list[np.ndarray]:
    times: list[list[float]] = [[] for _ in contestants]
    for turn in range(WARM_UP + count):
        for number in np.roll(np.arange(len(contestants)), turn):
            started = time.perf_counter()
            contestants[number]()
            times[number].append((time.perf_counter() - started) * 1e3)
    return [np.array(samples[WARM_UP:]) for samples in times]


def _onnx(model: ForecastModel, batch: Batch, folder: Path) -> Forecast:
    predict = RUNTIME.load(RUNTIME.export(as_saved(model), folder / "model.onnx"), 1)
    inputs = {"history": batch.x_BLC, "x_mark": batch.x_mark_BLF, "y_mark": batch.y_mark_BTF}
    return lambda: predict({name: tensor.numpy() for name, tensor in inputs.items()})


if __name__ == "__main__":
    main()
