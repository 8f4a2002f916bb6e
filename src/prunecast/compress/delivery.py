"""What a search leaves in its folder: what it goes on from, and the best model and artefact so far, always whole.

OUT/model.onnx       the best artefact so far (its ending is the runtime's)
OUT/model/           its model folder
OUT/recipe.yaml      repeats it
OUT/compress.json    what was asked, reached and tried so far
OUT/report.html      the same as a page, once the search has ended
OUT/search/          what the search goes on from: its question, measured costs, the front, a store of stages
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import TypeAdapter

from prunecast import environment
from prunecast.compress.candidates import Question, Shape, Tried
from prunecast.compress.cost import write_artefact
from prunecast.errors import UserError
from prunecast.export.base import Int8Runtime, Runtime
from prunecast.inference import open_artifact
from prunecast.models.io import SavedModel, load_model
from prunecast.recipe import RECIPE_FILE, PruneConfig, Recipe, checked, write_recipe
from prunecast.records import Accuracy, GroupKind, Role, RunRecord
from prunecast.registry import RUNTIMES
from prunecast.stages.base import ModelResult, Parent, StageInputs
from prunecast.stages.export import training_inputs
from prunecast.stages.job import Job, TimingJob
from prunecast.stages.model import TrainedModel
from prunecast.stages.run import Chain, run_stage, write
from prunecast.store import Store, new_file
from prunecast.train.evaluate import evaluate_both, score

AT_ONCE: Mapping[str, Any] = {
    "method": "structured-magnitude",
    "kinds": get_args(GroupKind),
    "recovery": "ridge",
    "calibration_batches": 2,
}
"""How the smallest model is cut where it is the answer: seven times faster than the best method at paper size."""

TestScores = tuple[Accuracy | None, Accuracy | None]
"""Errors on the test part: of all windows, of whole batches."""


@dataclass
class Delivery:
    """The folder of one search.

    Attributes:
        parent: the given model.
        source: where its data is found.
        question: what is asked.
        out: the folder.
    """

    parent: TrainedModel
    source: str
    question: Question
    out: Path

    def __post_init__(self) -> None:
        self.folder = self.out / "search"
        self.store = Store(self.folder / "store")
        self.kind: Runtime = RUNTIMES.load(self.question.runtime)
        recipe = checked(Recipe, self.question.recipe, "recipe")
        plain = recipe.finetune.model_copy(update={"epochs": 0})
        self.recipe = recipe.model_copy(update={"finetune": plain})

    # Notes

    def check(self) -> None:
        """Checks that the folder is a new one, or one in which the same was asked.

        Raises:
            UserError: when it is not.
        """
        before = self.noted("question", TypeAdapter(Question))
        if self.out.exists() and before is None:
            raise UserError(f"{self.out} exists; give another --out")
        if before is not None and before != self.question:
            raise UserError(f"{self.out} is the result of another question; ask the same, or give another --out")

    def note(self, name: str, value: Any) -> None:
        """Writes what the search goes on from, in one step."""
        content = TypeAdapter(Any).dump_json(value, indent=1)
        with new_file(self.folder / f"{name}.json", replace=True) as path:
            path.write_bytes(content + b"\n")

    def noted(self, name: str, kind: TypeAdapter[Any]) -> Any:
        """Returns what was noted under a name, None where nothing was."""
        path = self.folder / f"{name}.json"
        return kind.validate_json(path.read_bytes()) if path.is_file() else None

    # Artefacts

    def export(self, fingerprint: str, role: Role, *, int8: bool = False) -> Job:
        """Returns the export of the model that a stage has made."""
        recipe = self.recipe.model_copy(update={"export": self.recipe.export.model_copy(update={"int8": int8})})
        return Job(
            stage="export",
            role=role,
            recipe=recipe,
            data_sha256=self.parent.windows.facts.sha256,
            source=self.source,
            label=f"export of {fingerprint[:8]}{', 8 bits' if int8 else ''}",
            parent=fingerprint,
        )

    def timing(self, tried: Tried, export: Job, dense: Job | None) -> TimingJob:
        """Returns the timing of an exported candidate on this machine, in turn with the given model's export."""
        return TimingJob(
            role=tried.record.role,
            recipe=export.recipe,
            data_sha256=export.data_sha256,
            source=self.source,
            label=f"timing of {tried.name}",
            parent=tried.fingerprint,
            reference=None if dense is None else self.question.parent,
            exports=tuple(job.fingerprint for job in (export, dense) if job is not None),
            machine=environment.describe().machine,
        )

    def exported(self, export: Job) -> Path:
        """Returns what the runtime loads of a finished export."""
        folder = self.store.directory(export.fingerprint)
        return folder / f"model{self.kind.suffix}" if self.kind.suffix else self.store.directory(str(export.parent))

    @property
    def artefact(self) -> Path:
        """Where the best artefact lies."""
        return self.out / f"model{self.kind.suffix}" if self.kind.suffix else self.out / "model"

    def score_exported(self, export: Job, split: Literal["validation", "test"]) -> Accuracy:
        """Scores an 8-bit artefact as its runtime computes it, once: the result is noted."""
        name = f"{split}-{export.fingerprint}"
        known: Accuracy | None = self.noted(name, TypeAdapter(Accuracy))
        if known is None:
            known = score(open_artifact(self.exported(export)).predictor(), getattr(self.parent.windows, split), split)
            self.note(name, known)
        return known

    def score_test(self, record: RunRecord) -> TestScores:
        """Scores the model of a stage on the test part, once: the result is noted."""
        name, kind = f"test-{record.fingerprint}", TypeAdapter(TestScores)
        known: TestScores | None = self.noted(name, kind)
        if known is None:
            known = (record.test, record.test_paper)
            if record.test is None:
                model = load_model(self.store.directory(record.fingerprint)).model
                known = evaluate_both(model, self.parent.windows.test, "test")
            self.note(name, known)
        return known

    # The best so far

    def publish(self, best: Tried, test: TestScores | None) -> None:
        """Puts a candidate's artefact and model folder in their place, each in one step."""
        saved = load_model(self.store.directory(best.fingerprint))
        self.place(self.repeats(best), self._as_repeated(best, test), saved)
        if self.kind.suffix:
            with new_file(self.artefact, replace=True) as path:
                shutil.copy2(self.exported(self.export(best.fingerprint, best.record.role, int8=best.int8)), path)

    def place(self, recipe: Recipe, record: RunRecord, saved: SavedModel) -> None:
        """Puts a model folder in its place, and the recipe beside it."""
        folder, beside, before = self.out / "model", self.out / ".model", self.out / ".before"
        if before.exists() and not folder.exists():  # it was killed between the two steps below
            before.rename(folder)
        for leftover in (beside, before):
            shutil.rmtree(leftover, ignore_errors=True)
        beside.mkdir(parents=True)
        write(beside, recipe, record, saved)
        if folder.exists():
            folder.rename(before)
        beside.rename(folder)
        shutil.rmtree(before, ignore_errors=True)
        with new_file(self.out / RECIPE_FILE, replace=True) as path:
            write_recipe(recipe, path)

    def repeats(self, best: Tried) -> Recipe:
        """Returns the recipe that repeats a candidate, its test score included."""
        if not best.jobs:
            return self.parent.recipe
        recipe = best.jobs[-1].recipe
        data, export = recipe.data.model_copy(update={"score_test": True}), recipe.export
        return recipe.model_copy(update={"data": data, "export": export.model_copy(update={"int8": best.int8})})

    def _as_repeated(self, best: Tried, test: TestScores | None) -> RunRecord:
        """Returns the record that the recipe which repeats a candidate gives, under its name."""
        names: dict[str | None, str] = {}
        for job in best.jobs:
            data = job.recipe.data.model_copy(update={"score_test": True})
            parent, compared = names.get(job.parent, job.parent), names.get(job.compared_with, job.compared_with)
            recipe = job.recipe.model_copy(update={"data": data})
            names[job.fingerprint] = replace(job, recipe=recipe, parent=parent, compared_with=compared).fingerprint
        changed: dict[str, Any] = {} if test is None else {"test": test[0], "test_paper": test[1]}
        if best.jobs:
            last = best.record
            changed |= {"recipe": self.repeats(best).model_dump(mode="json"), "fingerprint": names[last.fingerprint]}
            changed |= {"parent": names.get(last.parent, last.parent)}
            changed |= {"compared_with": names.get(last.compared_with, last.compared_with)}
        return best.record.model_copy(update=changed)

    # Where a budget is out of reach

    def write_smallest(self, shape: Shape | None, *, int8: bool) -> tuple[tuple[Job, ...], RunRecord]:
        """Cuts the given model down to the smallest one, here and now, and puts it in its place as the nearest.

        Args:
            shape: of the smallest; None where nothing can be cut, and the given model is the nearest.
            int8: whether its artefact is to be in 8 bits.

        Returns:
            The stage that cuts it, where there is one, and the record of the model.
        """
        recipe, record, saved = self.parent.recipe, self.parent.record, self.parent.saved
        jobs: tuple[Job, ...] = ()
        if shape is not None:
            data = self.recipe.data.model_copy(update={"score_test": True})
            export = self.recipe.export.model_copy(update={"int8": int8})
            pruning = checked(PruneConfig, {"sparsity": shape.share, "keep": shape.keep, **AT_ONCE}, "prune")
            recipe = self.recipe.model_copy(update={"data": data, "prune": pruning, "export": export})
            chain = Chain(recipe, self.parent.windows.facts.sha256, self.source)
            jobs = chain.prune(self.question.parent, shape.title)
            known = Parent(saved, record)
            finished = run_stage(jobs[0], StageInputs(prepared=self.parent.windows, known=known), wait_s=0.0)
            assert isinstance(finished.result, ModelResult)
            record, saved = finished.record, finished.result.saved
        self.note("question", self.question)
        self.place(recipe, record, saved)
        if int8:
            assert isinstance(self.kind, Int8Runtime), "only such a runtime's bytes in 8 bits were found"
            asked = self.recipe.export.model_dump(include={"quantizer"}, exclude_none=True)
            quantised = self.kind.quantised(saved, training_inputs(saved.metadata, self.parent.windows), **asked)
            quantised.export(self.artefact)
        elif self.kind.suffix:
            write_artefact(saved, self.question.runtime, self.artefact)
        return jobs, record
