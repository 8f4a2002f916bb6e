"""Whether the search of `compress` finds more than cutting the same share everywhere, and than chance in the same time.

    python benchmarks/compress.py runs/model --data ETTh1 --max-loss-increase 1% --out runs/fair
    python benchmarks/compress.py runs/model --out runs/x --randoms 3 --runtime eager --set finetune.max_steps=5

The search runs first, and the time of its choice is what all others are held to, measured in turn with it in the same
runtime. Uniform pruning cuts the same share of heads, units and widths everywhere, and is repaired and tuned like the
choice. Random shapes are drawn, each as large as the time allows, and all repaired; the best are then tuned like the
choice, one after the other, until they have had the wall time of the search. Who does not need the tuning is taken
without. The validation part decides, as it does in the search; differences are paired by blocks of windows.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pydantic import TypeAdapter

from prunecast import api
from prunecast.compress.budget import Budgets
from prunecast.compress.candidates import increase_of, question_of, shape_of
from prunecast.compress.cost import TILE, Anatomy, CostTable, Point, cut_to, uniform, write_artefact
from prunecast.measure.latency import time_against
from prunecast.measure.machine_lock import alone
from prunecast.models.base import Keep, build
from prunecast.models.io import SavedModel
from prunecast.recipe import MeasureConfig, PruneConfig, Recipe, checked, load_recipe
from prunecast.records import Timing
from prunecast.registry import RUNTIMES
from prunecast.stages.base import ModelResult, Parent, StageInputs
from prunecast.stages.measure import real_inputs
from prunecast.stages.model import TrainedModel
from prunecast.stages.run import Chain, run_stage
from prunecast.study.executor import ConsoleMonitor

NEAR, CORRECTED = 0.05, 3
"""Closer than that two times are equal; else a rival is made smaller or larger, at most so often."""

WALL_FILE, TABLE_FILE = "wall_s.json", "fairness.json"


def main() -> None:
    """Runs the search, or goes on with it, then its rivals, and prints one line for each."""
    asked = _arguments()
    parent = TrainedModel.opened(asked.model, asked.data)
    before_s, started_s = _wall_s(asked.out), time.monotonic()
    found = api.compress(
        asked.model,
        max_loss_increase=asked.max_loss_increase,
        out=asked.out,
        runtime=asked.runtime,
        threads=asked.threads,
        time_limit=asked.time_limit,
        data=asked.data,
        settings=asked.set,
        monitor=ConsoleMonitor(),
    )
    if found.folder is None or not (asked.out / "search" / "costs.json").is_file():
        raise SystemExit("; ".join(found.verdict))
    wall_s = before_s or time.monotonic() - started_s  # a search that only says its answer again takes none
    (asked.out / WALL_FILE).write_text(json.dumps(wall_s))
    rivals = Rivals.of(parent, asked, load_recipe(asked.out / "recipe.yaml"))
    rows = [rivals.row("compress", rivals.chosen), *rivals.uniform(), *rivals.by_chance(asked.randoms, wall_s)]
    (asked.out / TABLE_FILE).write_text(json.dumps({"wall_s": wall_s, "rows": rows}, indent=1))
    print(f"{parent.saved.model.config.name}, {asked.runtime}, the search took {wall_s:.0f} s: {found.chosen}")
    print(f"{'':24s} {'ms':>9s} {'validation':>10s}  {'against compress, with its interval':38s} made by")
    for row in rows:
        against = f"{row['difference']:+.2%} ({row['low']:+.2%} to {row['high']:+.2%})"
        print(f"{row['name']:24s} {row['ms']:9.3g} {row['val_mse']:10.4g}  {against:38s} {row['role']}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a trained model")
    parser.add_argument("--out", type=Path, required=True, help="folder of the search and of the table")
    parser.add_argument("--data", help="where its data is, when it is not in the catalogue")
    parser.add_argument("--max-loss-increase", default="1%")
    parser.add_argument("--runtime", choices=RUNTIMES.names(), default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--time-limit", help="of the search")
    parser.add_argument("--randoms", type=int, default=20, help="shapes drawn by chance")
    parser.add_argument("--set", nargs="+", default=[], help="as of the command")
    return parser.parse_args()


def _wall_s(out: Path) -> float | None:
    path = out / WALL_FILE
    return float(json.loads(path.read_text())) if path.is_file() else None


@dataclass
class Rivals:
    """What the choice of a search is held against.

    Attributes:
        parent: the given model.
        chosen: what the search has made of it, in 32 bits.
        recipe: of the search, without pruning.
        epochs: of tuning that the choice got.
        table: predicts what smaller models cost.
        runtime: that all are timed in.
        config: threads and batch.
        clock_s: how long timings took, which no rival's wall time counts.
    """

    parent: TrainedModel
    chosen: TrainedModel
    recipe: Recipe
    epochs: int
    table: CostTable
    runtime: str
    config: MeasureConfig
    clock_s: float = 0.0

    @classmethod
    def of(cls, parent: TrainedModel, asked: argparse.Namespace, made_by: Recipe) -> Rivals:
        """Returns the rivals of a finished search."""
        loose = Budgets(max_loss_increase=0.0)
        question = question_of(
            parent, loose, runtime=asked.runtime, threads=asked.threads, settings=asked.set, device=None
        )
        recipe = checked(Recipe, question.recipe, "recipe")
        chosen = TrainedModel.opened(asked.out / "model", asked.data)
        tuned = chosen.record.role == "pruned+finetuned"
        points = TypeAdapter(list[Point]).validate_json((asked.out / "search" / "costs.json").read_bytes())
        return cls(
            parent=parent,
            chosen=chosen,
            recipe=recipe,
            epochs=made_by.finetune.epochs if tuned else recipe.finetune.epochs,
            table=CostTable.of(Anatomy(parent.saved.model), points),
            runtime=asked.runtime,
            config=recipe.measure,
        )

    @cached_property
    def target_ms(self) -> float:
        """Time of the choice, in turn with the given model."""
        reference = self.timed(self.parent.saved).reference
        assert reference is not None
        return reference.median

    def uniform(self) -> list[dict[str, float | str]]:
        """Returns the row of the same share cut everywhere: the better of repaired and tuned."""
        groups = tuple(self.table.anatomy.groups.values())
        keep = self.fitting(lambda share: uniform(groups, TILE, share))
        return [self.row("uniform", min((self.made(keep, 0), self.made(keep, self.epochs)), key=_validation_mse))]

    def by_chance(self, count: int, wall_s: float) -> list[dict[str, float | str]]:
        """Returns the row of the best of some random shapes, which take as long to find as the search did."""
        end_s = time.monotonic() + wall_s - self.clock_s
        draw, repaired = random.Random(self.recipe.seed), list[tuple[float, Keep, TrainedModel]]()
        for _ in range(count):
            keep = self.drawn(draw)
            model = self.made(keep, 0)
            repaired.append((_validation_mse(model), keep, model))
            if time.monotonic() - self.clock_s > end_s:
                break
        best = sorted(repaired, key=lambda entry: entry[0])
        models, tuned = [model for *_, model in best], 0
        for _, keep, _ in best:
            if time.monotonic() - self.clock_s > end_s:
                break
            models.append(self.made(keep, self.epochs))
            tuned += 1
        return [self.row(f"best of {len(best)}, {tuned} tuned", min(models, key=_validation_mse))]

    def drawn(self, draw: random.Random) -> Keep:
        """Returns a shape whose groups keep shares by chance, as large as the time of the choice allows."""
        groups = tuple(self.table.anatomy.groups.values())
        chance = {group.name: draw.random() for group in groups}
        order = {group.name: draw.sample(range(group.size), group.size) for group in groups if group.stack}

        def shape(share: float) -> Keep:
            # from all of everything at 1 to nothing at 0, by way of the drawn shares at 1/2
            power = float("inf") if share == 0 else 1 / share - 1
            keep = cut_to(groups, TILE, lambda group: chance[group.name] ** power)
            stacks = {name: torch.tensor(sorted(order[name][: len(keep[name])])) for name in order if name in keep}
            return {**keep, **stacks}

        return self.fitting(shape)

    def fitting(self, shape: Callable[[float], Keep]) -> Keep:
        """Returns the largest of the shapes from 0, the smallest, to 1 that takes as long as the choice."""
        target_ms = self.target_ms
        for _ in range(CORRECTED):
            low, high = 0.0, 1.0
            for _ in range(12):
                middle = (low + high) / 2
                fits = self.table.costs(shape(middle)).latency_ms <= target_ms
                low, high = (middle, high) if fits else (low, middle)
            untrained = build(self.parent.saved.model.shrunk_config(shape(low))).eval()
            slower = 1 / _ratio(self.timed(SavedModel(untrained, self.parent.saved.metadata)))
            if abs(slower - 1) <= NEAR:
                break
            target_ms /= slower
        return shape(low)

    def made(self, keep: Keep, epochs: int) -> TrainedModel:
        """Returns the given model cut to a shape, repaired, and tuned for some epochs."""
        if not keep:
            return self.parent
        shape = shape_of(self.parent.saved.model, self.table.anatomy, keep, self.table.costs(keep))
        pruning = checked(PruneConfig, {"method": "structured", "sparsity": shape.share, "keep": shape.keep}, "prune")
        tuning = self.recipe.finetune.model_copy(update={"epochs": epochs})
        recipe = self.recipe.model_copy(update={"prune": pruning, "finetune": tuning})
        windows, model = self.parent.windows, self.parent
        for job in Chain(recipe, windows.facts.sha256, windows.facts.name).prune(model.record.fingerprint, "rival"):
            done = run_stage(job, StageInputs(prepared=windows, known=Parent(model.saved, model.record)))
            assert isinstance(done.result, ModelResult)
            model = TrainedModel(done.result.saved, recipe, done.record, lambda: windows)
        return model

    def timed(self, saved: SavedModel) -> Timing:
        """Times a model in turn with the choice."""
        started_s = time.monotonic()
        inputs = real_inputs(saved.metadata, self.parent.windows, self.config.batch)
        suffix = RUNTIMES.load(self.runtime).suffix
        with TemporaryDirectory() as name, alone():
            ours, choice = Path(name, f"ours{suffix}"), Path(name, f"choice{suffix}")
            write_artefact(saved, self.runtime, ours)
            write_artefact(self.chosen.saved, self.runtime, choice)
            found = time_against(self.runtime, ours, choice, inputs, self.config)
        self.clock_s += time.monotonic() - started_s
        return found

    def row(self, name: str, model: TrainedModel) -> dict[str, float | str]:
        """Returns what is told of a model: its time, its error, and the difference to the choice's error."""
        timing = self.timed(model.saved)
        assert model.record.validation is not None
        assert self.chosen.record.validation is not None
        assert model.record.size is not None
        against, _ = increase_of(model.record.validation, self.chosen.record.validation, 0.0)
        return {
            "name": name,
            "ms": timing.latency.median,
            "times_as_fast_as_compress": _ratio(timing),
            "val_mse": model.record.validation.mse,
            "difference": against.value,
            "low": against.low,
            "high": against.high,
            "parameters": model.record.size.parameters,
            "role": model.record.role,
        }


def _validation_mse(model: TrainedModel) -> float:
    assert model.record.validation is not None
    return model.record.validation.mse


def _ratio(timing: Timing) -> float:
    assert timing.speedup is not None
    return timing.speedup.ratio


if __name__ == "__main__":
    main()
