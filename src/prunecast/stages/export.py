"""Exporting a model for its runtimes, each artefact held against eager PyTorch on real windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from prunecast.data.windows import Prepared
from prunecast.errors import UserError
from prunecast.export.base import Inputs, Int8Runtime, OnnxFiles, Runtime, SparseRuntime
from prunecast.export.parity import check_parity
from prunecast.export.raw import raw_inputs
from prunecast.inference import EAGER, runtime_of
from prunecast.measure.size import compressed_bytes, measure_size
from prunecast.models.base import ForecastModel
from prunecast.models.io import ModelMetadata, SavedModel
from prunecast.recipe import ExportConfig
from prunecast.records import Artefact, Parity
from prunecast.registry import RUNTIMES
from prunecast.stages.base import ExportResult, StageInputs, spread
from prunecast.stages.job import Job
from prunecast.store import new_file

CALIBRATION_WINDOWS, CALIBRATION_BATCH = 256, 32
"""Training windows that 8 bits are scaled by; with 128, DLinear on ETTh2 was twice as far off, with 512 no closer."""


def export_stage(job: Job, inputs: StageInputs) -> ExportResult:
    """Exports a model for every runtime of the recipe; for those that cannot run it, says why."""
    assert inputs.directory is not None
    saved, artefacts, unsupported = inputs.parent(job).saved, [], {}
    for name in job.recipe.measure.runtimes:
        config = job.recipe.export.model_copy(update={"runtime": name})
        reason = refusal(saved.model, config)
        if reason is None:
            folder = inputs.folder(job.parent)
            artefacts.append(export_one(saved, inputs.windows(), config, inputs.directory, folder))
        else:
            unsupported[name] = reason
    return ExportResult(artefacts=tuple(artefacts), unsupported=unsupported)


def refusal(model: ForecastModel, config: ExportConfig) -> str | None:
    """Returns why a model cannot be exported as asked for, or None when it can."""
    runtime: Runtime = RUNTIMES.load(config.runtime)
    if config.int8 and not isinstance(runtime, Int8Runtime):
        return "8 bits were asked for, and it has no 8-bit export"
    if config.opset is not None and not isinstance(runtime, OnnxFiles):
        return "it takes no ONNX file, and so no version of ONNX operators; leave out --opset"
    if config.batch is not None and not isinstance(runtime, OnnxFiles):
        return "it takes no ONNX file, and so none of fixed shapes; leave out --batch"
    return runtime.unsupported(model)


def export_one(
    saved: SavedModel, prepared: Prepared, config: ExportConfig, directory: Path, model_folder: Path
) -> Artefact:
    """Exports for one runtime into a folder and holds the artefact against eager on real windows.

    A runtime that runs the model folder itself is held against eager on that folder; eager needs not be.
    """
    runtime: Runtime = RUNTIMES.load(config.runtime)
    if runtime.suffix:
        return export_to(saved, prepared, config, directory / f"model{runtime.suffix}")
    size = measure_size(saved)
    return Artefact(
        runtime=config.runtime,
        name=None,
        bytes=size.raw_bytes,
        zip_bytes=size.zip_bytes,
        parity=None if config.runtime == EAGER else _parity(saved, prepared, config, model_folder),
        sparse=runtime.sparse_weights(saved.model) if isinstance(runtime, SparseRuntime) else (),
    )


def export_to(saved: SavedModel, prepared: Prepared, config: ExportConfig, path: Path) -> Artefact:
    """Exports to a file and holds it against eager on real windows; what is out of tolerance is an error."""
    runtime = RUNTIMES.load(config.runtime)
    asked = config.model_dump(include={"opset", "batch"}, exclude_none=True)
    if config.int8:
        runtime.export_int8(saved, path, training_inputs(saved.metadata, prepared), **asked)
    else:
        runtime.export(saved, path, **asked)
    parity, content = _parity(saved, prepared, config, path), path.read_bytes()
    return Artefact(
        runtime=config.runtime, name=path.name, bytes=len(content), zip_bytes=compressed_bytes(content), parity=parity
    )


def _parity(saved: SavedModel, prepared: Prepared, config: ExportConfig, path: Path) -> Parity:
    compared = prepared.test.batch(spread(len(prepared.test), config.parity_windows))
    return check_parity(saved, config.runtime, path, [compared], int8=config.int8)


def export_alone(saved: SavedModel, windows: Callable[[], Prepared], config: ExportConfig, out: Path) -> Artefact:
    """Exports to a file of the user's choice, and holds it against eager on real windows.

    Args:
        saved: the model.
        windows: called for the windows of its data, once it is clear that the runtime can run the model.
        config: which runtime, and whether in 8 bits.
        out: the file; must not exist.

    Raises:
        UserError: when the model, the runtime or the name does not fit, or 8 bits are too few; nothing is written then.
    """
    kind: Runtime = RUNTIMES.load(config.runtime)
    if not kind.suffix:
        raise UserError(f"runtime {config.runtime!r} runs the model folder itself: there is nothing to export")
    if runtime_of(out) not in (config.runtime, None):
        raise UserError(f"{out}: expected a name that ends in {kind.suffix}, found another runtime's {out.suffix}")
    reason = refusal(saved.model, config)
    if reason is not None:
        raise UserError(f"runtime {config.runtime!r} cannot run this model: {reason}")
    prepared = windows()
    with new_file(out) as path:
        return export_to(saved, prepared, config, path)


def training_inputs(metadata: ModelMetadata, prepared: Prepared) -> Iterator[Inputs]:
    """Yields windows spread evenly over the training part in batches, in raw units: what 8 bits are scaled by."""
    for chosen in torch.split(spread(len(prepared.train), CALIBRATION_WINDOWS), CALIBRATION_BATCH):
        yield raw_inputs(metadata, prepared.train.batch(chosen))
