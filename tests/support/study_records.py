"""A made-up but plausible study, as records: what a report is built from, without running one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from prunecast.recipe import fingerprint
from prunecast.records import (
    Accuracy,
    Artefact,
    Blocks,
    DataFacts,
    Environment,
    Example,
    Failure,
    Fit,
    Latency,
    Operations,
    Parity,
    Pruning,
    Ratio,
    Role,
    RunRecord,
    Size,
    Stage,
    StageTiming,
    Timing,
)

PARAMETERS = {
    "transformer": 842_631,
    "informer": 901_400,
    "autoformer": 842_631,
    "fedformer": 1_310_720,
    "crossformer": 1_204_224,
    "dlinear": 18_624,
    "repeat": 0,
    "seasonal_naive": 0,
}
MACS = {
    "transformer": 61_400_000,
    "informer": 52_300_000,
    "autoformer": 61_400_000,
    "fedformer": 88_100_000,
    "crossformer": 94_700_000,
    "dlinear": 130_368,
    "repeat": 0,
    "seasonal_naive": 0,
}
ERROR = {
    "transformer": 0.402,
    "informer": 0.47,
    "autoformer": 0.38,
    "fedformer": 0.37,
    "crossformer": 0.39,
    "dlinear": 0.418,
    "repeat": 1.12,
    "seasonal_naive": 0.61,
}
DAMAGE = {"magnitude": 0.05, "random": 0.45, "structured-magnitude": 0.16}

ENVIRONMENT = Environment(
    machine="5f3a09c1d2",
    processor="AMD EPYC 9B14 96-Core Processor",
    cores=2,
    memory_bytes=8 * 2**30,
    system="Linux 6.8",
    python="3.11.9",
    versions={"prunecast": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.31.1", "numpy": "2.4.6"},
    commit="bce23dc90a1f",
    dirty=False,
)


@dataclass
class Maker:
    """Makes the records of one study on one data set and horizon."""

    dataset: str = "synthetic-load"
    horizon: int = 96
    scoring: str = "full"
    channels: tuple[str, ...] = ("load_north", "load_south", "temperature")
    environment: Environment = ENVIRONMENT
    blocks: int = 20
    ease: float = 1.0
    records: list[RunRecord] = field(default_factory=list)

    def accuracy(self, split: str, level: float, seed: int, salt: int) -> Accuracy:
        """Errors whose blocks share their difficulty over variants and seeds, with a little noise of their own."""
        level *= self.ease
        hard = np.exp(np.random.default_rng(7).normal(0, 0.35, self.blocks))
        own = np.exp(np.random.default_rng([seed, salt]).normal(0, 0.02, self.blocks))
        drift = 1 + np.random.default_rng([seed, salt, 3]).normal(0, 0.006)
        mse = level * drift * hard / hard.mean() * own
        windows = np.full(self.blocks, 96 + self.horizon)
        windows[-1] = 57
        total = float((mse * windows).sum() / windows.sum())
        blocks = Blocks(
            length=96 + self.horizon,
            windows=tuple(int(count) for count in windows),
            mse=tuple(float(value) for value in mse),
            mae=tuple(float(np.sqrt(value) * 0.66) for value in mse),
        )
        return Accuracy(
            split=split,  # type: ignore[arg-type]
            scoring=self.scoring,  # type: ignore[arg-type]
            windows=int(windows.sum()),
            mse=total,
            mae=float(np.sqrt(total) * 0.66),
            blocks=blocks,
        )

    def recipe(self, model: str, seed: int, prune: dict | None = None, epochs: int = 0) -> dict:
        """The resolved recipe, as far as a report reads it."""
        return {
            "seed": seed,
            "data": {"name": self.dataset, "freq": "h", "scoring": self.scoring},
            "model": {"name": model, "lookback": 96, "horizon": self.horizon},
            "train": {"epochs": 5, "learning_rate": 1e-3},
            "prune": prune,
            "finetune": {"epochs": epochs, "learning_rate": 1e-4},
            "study": {"seeds": [1, 2, 3]},
        }

    def add(
        self,
        stage: Stage,
        role: Role,
        model: str,
        seed: int,
        *,
        level: float | None = None,
        parent: RunRecord | None = None,
        compared_with: RunRecord | None = None,
        pruning: Pruning | None = None,
        size: Size | None = None,
        operations: Operations | None = None,
        recipe: dict | None = None,
        **other: object,
    ) -> RunRecord:
        """Adds one stage and returns its record."""
        recipe = recipe or self.recipe(model, seed)
        number = len(self.records)
        record = RunRecord(
            stage=stage,
            role=role,
            model=model,
            seed=seed,
            fingerprint=fingerprint({"n": number, "data": self.dataset, "horizon": self.horizon}),
            parent=parent.fingerprint if parent else None,
            compared_with=compared_with.fingerprint if compared_with else None,
            recipe=recipe,
            data=DataFacts(
                name=self.dataset, sha256="9f" * 32, rows=17_520, channels=self.channels, windows={"test": 3705}
            ),
            test=None if level is None else self.accuracy("test", level, seed, number),
            validation=None if level is None else self.accuracy("validation", level * 0.8, seed, number),
            size=size,
            operations=operations,
            pruning=pruning,
            examples=() if level is None else self.examples(level, number),
            timing=other.pop("timing", StageTiming(started_at="2026-01-05T10:00:00+00:00", elapsed_s=2.5)),
            environment=self.environment,
            **other,
        )
        self.records.append(record)
        return record

    def examples(self, level: float, salt: int) -> tuple[Example, ...]:
        """Two windows of a daily cycle; the forecast is off by as much as the level says."""
        found = []
        for number, channel in enumerate(self.channels[:2]):
            hours = np.arange(-96, self.horizon) + 7 * number
            truth = 420 + 90 * np.sin(2 * np.pi * hours / 24) + 25 * np.sin(2 * np.pi * hours / 168)
            truth = truth + np.random.default_rng(number).normal(0, 8, len(hours))
            error = np.cumsum(np.random.default_rng(salt).normal(0, 9 * level, self.horizon))
            found.append(
                Example(
                    channel=channel,
                    window=1200 + number,
                    start="2018-03-04 07:00:00",
                    history=tuple(truth[:96]),
                    truth=tuple(truth[96:]),
                    forecast=tuple(420 + 0.94 * (truth[96:] - 420) + error),
                )
            )
        return tuple(found)

    def dense(self, model: str, seed: int, role: Role = "dense", **other: object) -> RunRecord:
        """A model trained from scratch, or one with nothing to fit."""
        share = float(other.pop("share", 1.0))
        return self.add(
            "train",
            role,
            model,
            seed,
            level=ERROR[model] * (1 + 0.06 * (1 - share)),
            size=_size(model, share, share),
            operations=_operations(model, share, share),
            **other,
        )

    def pruned(self, dense: RunRecord, method: str, sparsity: float, *, finetuned: bool) -> RunRecord:
        """A pruned model, and on request the fine-tuned one after it, of which the record is returned."""
        structured = method.startswith("structured")
        loss = DAMAGE[method] * (np.exp(4 * sparsity) - 1) / 8
        kept = 1 - sparsity
        pruning = Pruning(
            method=method,
            of="operations" if structured else "prunable",
            unit="MACs" if structured else "weights",
            total=MACS[dense.model] if structured else PARAMETERS[dense.model],
            requested=round(sparsity * (MACS if structured else PARAMETERS)[dense.model]),
            realised=round(sparsity * (MACS if structured else PARAMETERS)[dense.model]),
        )
        size = _size(dense.model, kept if structured else 1.0, kept)
        operations = _operations(dense.model, kept if structured else 1.0, kept)
        prune = {"method": method, "sparsity": sparsity, "of": None}
        first = self.add(
            "prune",
            "pruned",
            dense.model,
            dense.seed,
            level=ERROR[dense.model] * (1 + loss),
            parent=dense,
            pruning=pruning,
            size=size,
            operations=operations,
            recipe=self.recipe(dense.model, dense.seed, prune),
        )
        if not finetuned:
            return first
        return self.add(
            "finetune",
            "pruned+finetuned",
            dense.model,
            dense.seed,
            level=ERROR[dense.model] * (0.985 + loss * loss * 0.09),
            parent=first,
            size=size,
            operations=operations,
            recipe=self.recipe(dense.model, dense.seed, prune, epochs=2),
            fit=Fit(epochs=(), best_epoch=1, steps=200, stopped_early=False),
        )

    def controls(self, dense: RunRecord) -> None:
        """The dense model trained on, and the one with its body zeroed."""
        self.add(
            "finetune",
            "dense-continued",
            dense.model,
            dense.seed,
            level=ERROR[dense.model] * 0.985,
            parent=dense,
            size=dense.size,
            operations=dense.operations,
            recipe=self.recipe(dense.model, dense.seed, epochs=2),
        )
        if dense.model != "dlinear":
            size = _size(dense.model, 1.0, 0.02)
            self.add("zero", "zeroed-body", dense.model, dense.seed, level=0.74, parent=dense, size=size)

    def measure(self, record: RunRecord, reference: RunRecord | None, runtimes: tuple[str, ...]) -> RunRecord:
        """Times of a model; structured pruning pays, zeros do not."""
        assert record.size is not None
        share = (record.size.parameters or 1) / (PARAMETERS[record.model] or 1)
        rng = np.random.default_rng([record.seed, record.size.nonzero])
        timings, artefacts = [], []
        for runtime in runtimes:
            dense_ms = {"eager": 3.1, "onnxruntime": 1.9}[runtime] * (0.04 if record.model == "dlinear" else 1)
            samples = dense_ms * (0.1 + 0.9 * share**0.8) * np.exp(rng.normal(0, 0.04, 60))
            base = dense_ms * np.exp(rng.normal(0, 0.04, 60))
            ratio = float(np.median(base) / np.median(samples))
            timings.append(
                Timing(
                    runtime=runtime,
                    threads=1,
                    batch=1,
                    latency=_latency(samples),
                    reference=None if reference is None else _latency(base),
                    speedup=None if reference is None else Ratio(ratio=ratio, low=ratio * 0.96, high=ratio * 1.05),
                    peak_memory_bytes=int(9e7 + 4 * record.size.parameters),
                    baseline_memory_bytes=int(8.2e7),
                )
            )
            artefacts.append(
                Artefact(
                    runtime=runtime,
                    name=None if runtime == "eager" else "model.onnx",
                    bytes=4 * record.size.parameters + 60_000,
                    zip_bytes=record.size.zip_bytes + 20_000,
                    parity=None
                    if runtime == "eager"
                    else Parity(windows=64, max_deviation=4e-6, mse_change=1e-7, tolerance=1e-4),
                )
            )
        return self.add(
            "measure",
            record.role,
            record.model,
            record.seed,
            parent=record,
            recipe=record.recipe,
            artefacts=tuple(artefacts),
            reference=None if reference is None else reference.fingerprint,
            timing=StageTiming(started_at="2026-01-05T11:00:00+00:00", elapsed_s=6.0, runtimes=tuple(timings)),
        )


def study(
    dataset: str = "synthetic-load",
    horizon: int = 96,
    *,
    seeds: tuple[int, ...] = (1, 2, 3),
    unstructured: tuple[float, ...] = (0.5, 0.8, 0.9, 0.95),
    structured: tuple[float, ...] = (0.5, 0.75, 0.9),
    channels: tuple[str, ...] = ("load_north", "load_south", "temperature"),
    models: tuple[str, ...] = ("transformer", "dlinear"),
    measured: bool = True,
    ease: float = 1.0,
) -> list[RunRecord]:
    """All records of a whole study: two models, three methods, all controls, every model timed."""
    maker = Maker(dataset, horizon, channels=channels, ease=ease)
    runtimes = ("eager", "onnxruntime")
    for seed in seeds:
        timed: list[tuple[RunRecord, RunRecord | None]] = []
        for naive in ("repeat", "seasonal_naive"):
            maker.dense(naive, seed, role="naive")
        for model in models:
            dense = maker.dense(model, seed)
            timed.append((dense, None))
            maker.controls(dense)
            grid = [("magnitude", s) for s in unstructured] + [("random", s) for s in unstructured]
            if model != "dlinear":
                grid += [("structured-magnitude", s) for s in structured]
            for method, sparsity in grid:
                last = maker.pruned(dense, method, sparsity, finetuned=True)
                timed.append((last, dense))
                if method.startswith("structured"):
                    before = next(r for r in maker.records if r.fingerprint == last.parent)
                    same = maker.dense(model, seed, role="small-dense", compared_with=before, share=1 - sparsity)
                    timed.append((same, dense))
        if measured:
            for record, reference in timed:
                maker.measure(record, reference, runtimes)
    return maker.records


def large_study(datasets: int = 7, horizons: tuple[int, ...] = (96, 192)) -> list[RunRecord]:
    """Five models on several data sets and horizons, three seeds: 10,500 records with the defaults."""
    names = ("ETTh1", "ETTh2", "ETTm1", "ETTm2", "Weather", "Exchange", "ILI", "ECL", "Traffic")
    studied = ("transformer", "informer", "autoformer", "fedformer", "crossformer")
    found: list[RunRecord] = []
    for number, name in enumerate(names[:datasets]):
        for horizon in horizons:
            ease = 0.6 + 0.2 * number + horizon / 1000
            sparsities = (0.2, 0.488, 0.67232, 0.790285, 0.865782)
            found += study(name, horizon, unstructured=sparsities, models=studied, ease=ease)
    return found


def failure() -> Failure:
    """A stage that could not end."""
    return Failure(
        stage="finetune",
        fingerprint="ffff0000",
        label="dlinear · random 95 % · seed 2",
        reason="loss became NaN at step 31",
    )


def _size(model: str, stored: float, nonzero: float) -> Size:
    parameters = round(PARAMETERS[model] * stored)
    kept = round(PARAMETERS[model] * nonzero)
    return Size(
        parameters=parameters,
        nonzero=kept,
        prunable=round(parameters * 0.97),
        raw_bytes=4 * parameters + 2_000,
        zip_bytes=round(3.7 * kept + 0.02 * parameters) + 1_500,
    )


def _operations(model: str, stored: float, nonzero: float) -> Operations:
    return Operations(
        dense_macs=round(MACS[model] * stored),
        effective_macs=round(MACS[model] * nonzero),
        executed_macs=round(MACS[model] * stored),
    )


def _latency(samples: np.ndarray) -> Latency:
    return Latency(
        median=float(np.median(samples)),
        p95=float(np.quantile(samples, 0.95)),
        n=len(samples),
        samples=tuple(float(value) for value in samples),
    )
