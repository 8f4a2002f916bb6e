"""A search for a budget on a tiny model, with clocks that count operations: seconds, and the same each time.

    python -m tests.support.small_search MODEL DATA OUT

runs it in a process of its own, which can be killed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import prunecast.compress.cost as costing
import prunecast.compress.search as searching
import prunecast.stages.measure as measuring
from prunecast.compress.budget import Budgets, Costs
from prunecast.compress.candidates import question_of
from prunecast.compress.cost import Anatomy, Point
from prunecast.compress.outcome import out_of_reach, outcome
from prunecast.compress.search import Compression
from prunecast.export.base import Inputs
from prunecast.models.base import Keep
from prunecast.models.io import load_model
from prunecast.recipe import MeasureConfig
from prunecast.records import Latency, Ratio, Timing
from prunecast.registry import RUNTIMES
from prunecast.results import Compressed
from prunecast.stages.model import TrainedModel
from prunecast.study.executor import Monitor
from prunecast.study.local import InProcess

SIZES = {"horizon": 6, "lookback": 24}
TRAIN = (
    "model.d_model=16",
    "model.n_heads=2",
    "model.d_ff=24",
    "model.encoder_layers=2",
    "train.max_steps=10",
    "train.threads=1",
    "train.device=cpu",
    "train.learning_rate=0.005",
)
QUICK = ("finetune.max_steps=3", "finetune.epochs=2", "train.max_steps=3")


def milliseconds(anatomy: Anatomy, keep: Keep) -> float:
    """A clock that counts multiply-adds, layers and nothing else."""
    amounts = dict(zip(anatomy.parts, anatomy.amounts(keep), strict=True))
    return float(0.02 + amounts["MMACs of weights"] + 0.01 * amounts.get("encoder.layers", 0.0))


def counted(runtime: str, path: Path, reference: Path | None, inputs: Inputs, config: MeasureConfig) -> Timing:
    """In the place of `time_against`: 5 % more than the table of costs is made of."""

    def latency(artefact: Path) -> Latency:
        saved = load_model(artefact) if artefact.is_dir() else RUNTIMES.load(runtime).read(artefact)
        ms = 1.05 * milliseconds(Anatomy(saved.model), {})
        return Latency(median=ms, p95=ms, n=1, samples=(ms,))

    ours, other = latency(path), None if reference is None else latency(reference)
    ratio = None if other is None else other.median / ours.median
    return Timing(
        runtime=runtime,
        threads=config.threads,
        batch=config.batch,
        latency=ours,
        reference=other,
        speedup=None if ratio is None else Ratio(ratio=ratio, low=ratio, high=ratio),
        peak_memory_bytes=10**7,
    )


def search(
    model: Path,
    data: Path,
    out: Path,
    budgets: Budgets,
    monitor: Monitor | None = None,
    device: Sequence[Point] = (),
    runtime: str = "eager",
    **others: Any,
) -> Compression:
    """A search of few candidates; `install` puts its clocks in their place."""
    parent = TrainedModel.opened(model, str(data))
    anatomy = Anatomy(parent.saved.model)

    def stopwatch(keep: Keep) -> Costs:
        return Costs(latency_ms=milliseconds(anatomy, keep), bytes=anatomy.bytes(keep) + 2000, memory_bytes=10**7)

    question = question_of(parent, budgets, runtime=runtime, threads=1, settings=QUICK)
    return Compression(
        parent,
        str(data),
        question,
        out,
        InProcess,
        monitor or Monitor(),
        device=device,
        **{"wait_s": 0.1, "stopwatch": stopwatch, **others},
    )


def found(one: Compression) -> Compressed:
    """Runs a search to its result."""
    return outcome(one) if one.run() else out_of_reach(one)


def install() -> None:
    """Makes the search small and its clocks count; a test that calls it puts them back by `monkeypatch`."""
    searching.FRONT = 5
    measuring.time_against = costing.time_against = counted


if __name__ == "__main__":
    install()
    paths = [Path(argument) for argument in sys.argv[1:4]]
    found(search(paths[0], paths[1], paths[2], Budgets(max_loss_increase=0.05)))
