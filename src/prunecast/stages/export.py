"""Exporting a model for its runtimes, each artefact held against eager PyTorch on real windows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from prunecast.data.windows import Prepared
from prunecast.errors import UserError
from prunecast.export.base import (
    EmbeddedRuntime,
    FixedBatchRuntime,
    Inputs,
    Int8Runtime,
    OnnxFiles,
    Runtime,
    SparseRuntime,
)
from prunecast.export.parity import check_parity, mse_change
from prunecast.export.raw import raw_inputs
from prunecast.inference import EAGER, Artifact, runtime_of
from prunecast.measure.size import compressed_bytes, measure_size
from prunecast.models.base import ForecastModel
from prunecast.models.io import ModelMetadata, SavedModel
from prunecast.recipe import ExportConfig
from prunecast.records import Artefact, Parity
from prunecast.registry import RUNTIMES
from prunecast.stages.base import ExportResult, StageInputs, spread
from prunecast.stages.job import Job
from prunecast.store import new_file
from prunecast.train.evaluate import score

CALIBRATION_WINDOWS, CALIBRATION_BATCH = 256, 32
"""Training windows that 8 bits are scaled by; with 128, DLinear on ETTh2 was twice as far off, with 512 no closer."""


VALIDATION_WINDOWS = 256
"""Windows by which it is decided what stays in float32."""


def export_stage(job: Job, inputs: StageInputs) -> ExportResult:
    """Exports a model for every runtime of the recipe; for those that cannot run it, says why."""
    assert inputs.directory is not None
    saved, artefacts, unsupported = inputs.parent(job).saved, [], {}
    for name in job.recipe.measure.runtimes:
        config = job.recipe.export.model_copy(update={"runtime": name})
        reason = refusal(saved.model, config)
        if reason is None:
            needs_folder = name != EAGER and not RUNTIMES.load(name).suffix
            folder = inputs.folder(job.parent) if needs_folder else None
            scored = job.recipe.data.score_test
            artefacts.append(export_one(saved, inputs.windows(), config, inputs.directory, folder, score_test=scored))
        else:
            unsupported[name] = reason
    return ExportResult(artefacts=tuple(artefacts), unsupported=unsupported)


def refusal(model: ForecastModel, config: ExportConfig) -> str | None:
    """Returns why a model cannot be exported as asked for, or None when it can."""
    runtime: Runtime = RUNTIMES.load(config.runtime)
    if config.int8 and not isinstance(runtime, Int8Runtime):
        return "8 bits were asked for, and it has no 8-bit export"
    if not config.int8 and (config.quantizer is not None or config.max_mse_increase is not None):
        return "--quantizer and --max-mse-increase are about 8 bits; add --int8"
    if isinstance(runtime, Int8Runtime) and config.quantizer not in (None, *runtime.quantizers):
        return f"it has no quantizer {config.quantizer!r}; it has {', '.join(runtime.quantizers)}"
    if config.opset is not None and not isinstance(runtime, OnnxFiles):
        return "it takes no ONNX file, and so no version of ONNX operators; leave out --opset"
    if config.batch is not None and not isinstance(runtime, FixedBatchRuntime):
        return "it has no file of fixed shapes; leave out --batch"
    return runtime.unsupported(model)


def export_one(
    saved: SavedModel,
    prepared: Prepared,
    config: ExportConfig,
    directory: Path,
    model_folder: Path | None = None,
    *,
    score_test: bool = True,
) -> Artefact:
    """Exports for one runtime into a folder and holds the artefact against eager on real windows.

    A runtime that runs the model folder itself is held against eager on that folder; eager needs not be.
    """
    runtime: Runtime = RUNTIMES.load(config.runtime)
    if runtime.suffix:
        return export_to(saved, prepared, config, directory / f"model{runtime.suffix}", score_test=score_test)
    size, parity = measure_size(saved), None
    if config.runtime != EAGER:
        assert model_folder is not None, "what this runtime runs"
        parity = _parity(saved, prepared, config, model_folder)
    return Artefact(
        runtime=config.runtime,
        name=None,
        bytes=size.raw_bytes,
        zip_bytes=size.zip_bytes,
        parity=parity,
        sparse=runtime.sparse_weights(saved.model) if isinstance(runtime, SparseRuntime) else (),
    )


def export_to(
    saved: SavedModel, prepared: Prepared, config: ExportConfig, path: Path, *, score_test: bool = True
) -> Artefact:
    """Exports to a file and holds it against eager on real windows; what is out of tolerance is an error.

    8 bits are scored on the test part too, unless whoever selects leaves that alone.
    """
    runtime = RUNTIMES.load(config.runtime)
    asked: dict[str, Any] = config.model_dump(include={"opset", "batch", "quantizer"}, exclude_none=True)
    float32: tuple[str, ...] = ()
    if config.int8:
        quantised = runtime.quantised(saved, training_inputs(saved.metadata, prepared), **asked)
        if config.max_mse_increase is not None:
            chosen = spread(len(prepared.validation), VALIDATION_WINDOWS)
            validation = prepared.validation.batch(chosen)

            def change(float32: Collection[str]) -> float:
                return mse_change(saved, config.runtime, quantised.export(path, float32), [validation])

            float32 = sensitive_weights(quantised.weights, change, config.max_mse_increase)
        quantised.export(path, float32)
    else:
        runtime.export(saved, path, **asked)
    parity, content, test = _parity(saved, prepared, config, path), path.read_bytes(), None
    if config.int8 and score_test:
        predict = Artifact(path, config.runtime, saved).predictor()
        test = score(predict, prepared.test, "test", "full").model_copy(update={"blocks": None})
    flash, memory = runtime.footprint(path) if isinstance(runtime, EmbeddedRuntime) else (None, None)
    return Artefact(
        runtime=config.runtime,
        name=path.name,
        bytes=len(content),
        zip_bytes=compressed_bytes(content),
        parity=parity,
        test=test,
        float32=float32,
        flash_bytes=flash,
        memory_bytes=memory,
    )


def sensitive_weights(
    weights: Sequence[str], change: Callable[[Collection[str]], float], limit: float
) -> tuple[str, ...]:
    """Returns the fewest weights found that have to stay in float32 for 8 bits to cost no more than a limit.

    Each is first left out of the 8 bits alone. Of those that then save most, as many stay as it takes, by bisection;
    and of these each is tried again without.

    Args:
        weights: names of those in 8 bits.
        change: names of those that stay in float32 -> share of the error that 8 bits in the others cost.
        limit: the most that it may be.

    Raises:
        UserError: when even one weight in 8 bits costs more.
    """
    if change(()) <= limit:
        return ()
    alone = {name: change((name,)) for name in weights}
    ranked = sorted(weights, key=alone.__getitem__)
    few, many = 1, len(ranked)
    while few < many:
        middle = (few + many) // 2
        few, many = (few, middle) if change(ranked[:middle]) <= limit else (middle + 1, many)
    if many == len(ranked):
        raise UserError(
            f"8 bits cost more than {limit:.2%} of the validation MSE even in a single weight; "
            "export without int8, or allow more with --max-mse-increase"
        )
    kept = ranked[:many]
    for name in ranked[:many]:
        without = [other for other in kept if other != name]
        if change(without) <= limit:
            kept = without
    return tuple(kept)


def _parity(saved: SavedModel, prepared: Prepared, config: ExportConfig, path: Path) -> Parity:
    compared = prepared.test.batch(spread(len(prepared.test), config.parity_windows))
    return check_parity(saved, config.runtime, path, [compared], int8=config.int8)


def export_alone(
    saved: SavedModel,
    windows: Callable[[], Prepared],
    config: ExportConfig,
    out: Path,
    *,
    max_bytes: float | None = None,
    max_memory_bytes: float | None = None,
) -> Artefact:
    """Exports to a file of the user's choice, and holds it against eager on real windows.

    Args:
        saved: the model.
        windows: called for the windows of its data, once it is clear that the runtime can run the model.
        config: which runtime, and whether in 8 bits.
        out: the file; must not exist.
        max_bytes: the most that it may take: of a runtime for devices its constants, else the file.
        max_memory_bytes: the most that a forecast may take of a device's memory.

    Raises:
        UserError: when the model, the runtime or the name does not fit, 8 bits are too few, or it takes more than it
            may; nothing is written then.
    """
    kind: Runtime = RUNTIMES.load(config.runtime)
    if not kind.suffix:
        raise UserError(f"runtime {config.runtime!r} runs the model folder itself: there is nothing to export")
    if runtime_of(out) not in (config.runtime, None):
        raise UserError(f"{out}: expected a name that ends in {kind.suffix}, found another runtime's {out.suffix}")
    reason = refusal(saved.model, config)
    if reason is not None:
        raise UserError(f"runtime {config.runtime!r} cannot run this model: {reason}")
    if max_memory_bytes is not None and not isinstance(kind, EmbeddedRuntime):
        raise UserError(
            f"--max-memory: the files of runtime {config.runtime!r} do not say what they take; leave it out"
        )
    prepared = windows()
    with new_file(out) as path:
        artefact = export_to(saved, prepared, config, path)
        for option, most, found in (
            ("size", max_bytes, artefact.stored_bytes),
            ("memory", max_memory_bytes, artefact.memory_bytes or 0),
        ):
            if most is not None and found > most:
                raise UserError(
                    f"--max-{option}: expected at most {most:,.0f} bytes, found {found:,}; prune more, or allow more"
                )
        return artefact


def training_inputs(metadata: ModelMetadata, prepared: Prepared) -> Iterator[Inputs]:
    """Yields windows spread evenly over the training part in batches, in raw units: what 8 bits are scaled by."""
    for chosen in torch.split(spread(len(prepared.train), CALIBRATION_WINDOWS), CALIBRATION_BATCH):
        yield raw_inputs(metadata, prepared.train.batch(chosen))
