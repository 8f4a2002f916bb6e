"""A model in memory with its recipe and its record: the verbs on one model and the Forecaster are made of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from prunecast.data.series import Series, load_series
from prunecast.data.windows import Prepared
from prunecast.inference import window_shape, windows_for, with_data
from prunecast.models.io import SavedModel, load_model
from prunecast.recipe import RECIPE_FILE, Recipe, load_recipe
from prunecast.records import RunRecord
from prunecast.resolve import pruning_recipe, resolved
from prunecast.results import Evaluation, ModelSummary
from prunecast.stages.base import ModelResult, Parent, StageInputs
from prunecast.stages.import_checkpoint import ImportJob
from prunecast.stages.job import Job
from prunecast.stages.run import Chain, cut_windows, run_stage, write
from prunecast.store import Damaged, read_record
from prunecast.train.progress import Reporter


@dataclass
class TrainedModel:
    """A model as it came out of its last stage.

    Attributes:
        saved: the model.
        recipe: that it was made by.
        record: of its last stage.
        cut: called for its windows when they are first asked for.
    """

    saved: SavedModel
    recipe: Recipe
    record: RunRecord
    cut: Callable[[], Prepared] = field(repr=False)

    @cached_property
    def windows(self) -> Prepared:
        """The windows of its data.

        Raises:
            UserError: when the data is not to be found, or does not fit.
        """
        return self.cut()

    @classmethod
    def trained(
        cls, recipe: Recipe, series: Series, *, beside: Path | None = None, reporter: Reporter | None = None
    ) -> TrainedModel:
        """Trains the model of a recipe on a series.

        Args:
            recipe: its model section may lack keys.
            series: the data.
            beside: the folder that the model is meant for; an interrupted training is gone on with beside it.
            reporter: hears of progress.

        Raises:
            UserError: when the recipe does not fit the series.
        """
        whole = resolved(recipe, series)
        job = Chain(whole, series.sha256, recipe.data.name).train(f"train {whole.model['name']}")
        prepared = cut_windows(series, whole.data, window_shape(whole.model))
        with _checkpoints(beside, job) as work:
            return cls._made(job, StageInputs(prepared=prepared, work=work, reporter=reporter))

    @classmethod
    def imported(cls, job: ImportJob) -> TrainedModel:
        """Makes the model of a checkpoint, and scores it where its data is known.

        Raises:
            UserError: when the tensors do not fit the model, or the series is too short.
        """
        shape = window_shape(job.recipe.model)
        prepared = None if job.series is None else cut_windows(job.series, job.recipe.data, shape)
        return cls._made(job, StageInputs(prepared=prepared))

    @classmethod
    def opened(cls, folder: Path, data: str | None = None) -> TrainedModel:
        """Reads a model folder.

        Args:
            folder: of the model.
            data: where its data is, when it was trained on a file or imported without data.

        Raises:
            UserError: when it is not a model folder, or the data does not fit.
        """
        load = cache(load_series)
        saved, recipe = load_model(folder), load_recipe(folder / RECIPE_FILE)
        if saved.metadata.data is None and data is not None:
            saved = with_data(saved, data, load)
            assert saved.metadata.data is not None
            named = recipe.data.model_copy(update={"name": saved.metadata.data.name})
            recipe = recipe.model_copy(update={"data": named})
        record = read_record(folder)
        if record.size is None:
            raise Damaged(folder, "its record is no model's")
        return cls(saved, recipe, record, lambda: windows_for(with_data(saved, data, load).metadata, data, load))

    @classmethod
    def _made(cls, job: Job | ImportJob, inputs: StageInputs) -> TrainedModel:
        finished = run_stage(job, inputs)
        assert isinstance(finished.result, ModelResult)
        saved = finished.result.saved
        return cls(saved, job.recipe, finished.record, lambda: inputs.prepared or windows_for(saved.metadata, None))

    def pruned(
        self,
        method: str,
        sparsity: float | None,
        *,
        of: str | None = None,
        recovery: str | None = None,
        finetune_epochs: int = 0,
        settings: Sequence[str] = (),
        beside: Path | None = None,
        reporter: Reporter | None = None,
    ) -> TrainedModel:
        """Prunes the model, and fine-tunes it when asked; this one stays as it is. Arguments as of `trained`, `prune`.

        Raises:
            UserError: when a name, value or budget does not fit.
        """
        recipe = pruning_recipe(
            self.recipe.model_dump(mode="json"),
            self.saved.metadata.model,
            method=method,
            sparsity=sparsity,
            of=of,
            recovery=recovery,
            finetune_epochs=finetune_epochs,
            settings=settings,
        )
        model, data, unpruned = self, self.windows.facts, Parent(self.saved, self.record)
        for job in Chain(recipe, data.sha256, data.name).prune(self.record.fingerprint, "prune"):
            with _checkpoints(beside, job) as work:
                inputs = StageInputs(
                    prepared=self.windows,
                    known=Parent(model.saved, model.record),
                    known_unpruned=unpruned,
                    work=work,
                    reporter=reporter,
                )
                model = self._made(job, inputs)
        return model

    def summary(self, path: Path | None = None) -> ModelSummary:
        """Returns its main numbers; `path` is its folder, None for a model in memory."""
        record = self.record
        assert record.size is not None
        dense_parameters = self.saved.metadata.dense_parameters
        known = Evaluation.of(record.test, record.validation, record.size, dense_parameters)
        return ModelSummary(**vars(known), path=path, pruning=record.pruning, imported=record.imported)

    def write(self, directory: Path) -> None:
        """Fills the folder of the model."""
        write(directory, self.recipe, self.record, self.saved)


@contextmanager
def _checkpoints(out: Path | None, job: Job) -> Iterator[Path | None]:
    """Gives a place beside a folder to be that outlives an interruption: the same command goes on from it."""
    work = None if out is None else out.parent / f".{out.name}.{job.fingerprint}"
    interrupted = False
    try:
        yield work
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        if work is not None and not interrupted:  # what is done, or cannot end well, is not gone on with
            shutil.rmtree(work, ignore_errors=True)
