"""Times a training step of ours and of Time-Series-Library in one run, step by step in turn.

    python benchmarks/train_step.py --against DIR --model informer             # DIR: a checkout of Time-Series-Library
    python benchmarks/train_step.py --against DIR --epoch     # also trains both for one epoch of ETTh1

A step is forward, backward and Adam. Both models start from the same weights and see the same batches; only the
random numbers of dropout differ.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from prunecast.batch import Batch
from prunecast.data.series import load_series
from prunecast.data.windows import prepare
from prunecast.measure.operations import dense_macs
from prunecast.models.base import ForecasterConfig
from prunecast.recipe import DataConfig, FitConfig
from prunecast.train.fit import adam, keep_freed_memory
from published import MODULES, add_sizes, call_published, config_of, median_ratio, pair, peak_gmacs_per_s, random_batch

CHUNKS = 16
WARM_UP = 3

Step = Callable[[Batch], float]


@dataclass(frozen=True)
class Contestant:
    """A model with its optimiser, as a function from a batch to its loss."""

    name: str
    step: Step


def main() -> None:
    """Runs the comparison that the command line asks for."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as `fit` does; both contestants gain
    config = config_of(arguments.model, arguments)
    ours, theirs = _contestants(config, arguments)
    print(f"{config.name}: {_settings(arguments)}; load average {os.getloadavg()[0]:.1f}")
    _compare_steps(ours, theirs, config, arguments)
    if arguments.epoch:
        _compare_epoch(*_contestants(config, arguments), config, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODULES, default="transformer")
    add_sizes(parser, d_model=64, d_ff=256, batch=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--epoch", action="store_true", help="compare the loss curves over one epoch of ETTh1")
    return parser.parse_args()


def _settings(arguments: argparse.Namespace) -> str:
    names = ("d_model", "d_ff", "n_heads", "batch", "dropout", "threads", "seed")
    return ", ".join(f"{name} {getattr(arguments, name)}" for name in names)


def _contestants(config: ForecasterConfig, arguments: argparse.Namespace) -> tuple[Contestant, Contestant]:
    """Returns ours and the published, with the same weights."""
    ours, published = pair(config, arguments.against, arguments.seed)
    ours.train()
    published.train()
    our_optimizer = adam(ours, FitConfig(learning_rate=arguments.learning_rate))
    their_optimizer = torch.optim.Adam(published.parameters(), lr=arguments.learning_rate)

    def their_forecast(batch: Batch) -> Tensor:
        return call_published(published, config, batch)

    def our_forecast(batch: Batch) -> Tensor:
        return ours(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF)

    return (
        Contestant("ours", _step(our_forecast, our_optimizer)),
        Contestant("published", _step(their_forecast, their_optimizer)),
    )


def _step(forecast: Callable[[Batch], Tensor], optimizer: torch.optim.Optimizer) -> Step:
    def step(batch: Batch) -> float:
        optimizer.zero_grad()
        loss = F.mse_loss(forecast(batch), batch.y_BHC)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _compare_steps(
    ours: Contestant, theirs: Contestant, config: ForecasterConfig, arguments: argparse.Namespace
) -> None:
    batch = random_batch(config, arguments.batch)
    our_ms, their_ms, peaks = [], [], []
    for turn in range(WARM_UP + arguments.steps):
        first, second = (ours, theirs) if turn % 2 else (theirs, ours)
        times = {contestant.name: _elapsed_ms(contestant.step, batch) for contestant in (first, second)}
        our_ms.append(times["ours"])
        their_ms.append(times["published"])
        if turn % 8 == 0:
            peaks.append(peak_gmacs_per_s())
    gmacs = 3 * arguments.batch * dense_macs(config) / 1e9
    _report_steps(np.array(our_ms[WARM_UP:]), np.array(their_ms[WARM_UP:]), gmacs, max(peaks))


def _report_steps(our_ms: np.ndarray, their_ms: np.ndarray, gmacs: float, peak: float) -> None:
    ratio, low, high = median_ratio(their_ms, our_ms)
    print(f"published  {np.median(their_ms):8.1f} ms a step (median of {len(their_ms)}; fastest {their_ms.min():.1f})")
    print(f"ours       {np.median(our_ms):8.1f} ms a step (median of {len(our_ms)}; fastest {our_ms.min():.1f})")
    print(f"ratio      {ratio:8.2f}    (95 % interval {low:.2f} to {high:.2f})")
    limit_ms = gmacs / peak * 1e3
    print(
        f"limit      {limit_ms:8.1f} ms: {gmacs:.2f} GMAC (three times the forward's) at {peak:.0f} GMAC/s, "
        f"the rate of a large matrix product here; ours reaches {limit_ms / np.median(our_ms):.0%} of it, "
        f"the published {limit_ms / np.median(their_ms):.0%}"
    )


def _elapsed_ms(step: Step, batch: Batch) -> float:
    started = time.perf_counter()
    step(batch)
    return (time.perf_counter() - started) * 1e3


def _compare_epoch(
    ours: Contestant, theirs: Contestant, config: ForecasterConfig, arguments: argparse.Namespace
) -> None:
    torch.manual_seed(arguments.seed)
    losses = [(ours.step(batch), theirs.step(batch)) for batch in _epoch(config, arguments)]
    curves = [
        np.array([chunk.mean() for chunk in np.array_split(curve, CHUNKS)]) for curve in zip(*losses, strict=True)
    ]
    print(f"\none epoch of ETTh1, {len(losses)} steps; mean training loss of each sixteenth")
    print("  part      ours  published  difference")
    for part, (our_loss, their_loss) in enumerate(zip(*curves, strict=True), start=1):
        print(f"  {part:4d}  {our_loss:8.4f}   {their_loss:8.4f}  {our_loss - their_loss:+10.4f}")
    paired = np.array(losses)
    difference = paired[:, 0] - paired[:, 1]
    error = difference.std(ddof=1) / len(difference) ** 0.5
    print(f"  mean  {paired[:, 0].mean():8.4f}   {paired[:, 1].mean():8.4f}  {difference.mean():+10.4f} +- {error:.4f}")


def _epoch(config: ForecasterConfig, arguments: argparse.Namespace) -> Iterable[Batch]:
    data = DataConfig(name="ETTh1")
    prepared = prepare(
        load_series(data), data, lookback=config.lookback, horizon=config.horizon, label_len=config.label_len
    )
    return prepared.train.batches(arguments.batch, shuffle_seed=arguments.seed)


if __name__ == "__main__":
    main()
