"""The examples of docs/new-pruner.md run, and what it says of the registry holds.

That a study runs them as the page says is shown with other additions, in tests/conformance/test_extensions.py.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tests.support.coupled_model import ENTRY, coupled, macs, macs_per_weight

from prunecast.batch import Batch
from prunecast.errors import UserError
from prunecast.prune.apply import prune_in_training, prune_model
from prunecast.recipe import PruneConfig
from prunecast.registry import ALLOCATIONS, GRANULARITIES, METHODS, MODELS, SCHEDULES, SCORES, SOLVERS

PAGE = Path(__file__).parents[2] / "docs" / "new-pruner.md"


LINES = re.findall(r'^    "([\w-]+)": "([\w.]+):(\w+)",$', PAGE.read_text(encoding="utf-8"), re.MULTILINE)
"""Registered name, module and attribute, as the page has them."""

BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
TABLES = {"scores": "SCORES", "allocate": "ALLOCATIONS", "methods": "METHODS", "schedule": "SCHEDULES"}


@pytest.fixture
def _documented(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("documented_pruner")
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(MODELS.entries, "coupled", ENTRY)
    tables = {"SCORES": SCORES, "ALLOCATIONS": ALLOCATIONS, "METHODS": METHODS, "SCHEDULES": SCHEDULES}
    for name, path, attribute in LINES:
        table = tables[TABLES[path.rpartition(".")[2]]]
        monkeypatch.setitem(table.entries, name, f"documented_pruner:{attribute}")


def _batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(4)
    marks = torch.zeros(16, 8, 4)
    return [
        Batch(torch.randn(16, 8, 2, generator=generator), torch.randn(16, 5, 2, generator=generator), marks, marks)
        for _ in range(count)
    ]


@pytest.mark.usefixtures("_documented")
def test_the_documented_score_and_allocation_make_a_method() -> None:
    model = coupled()
    config = PruneConfig(method="taylor-element-row", sparsity=0.5)
    pruned = prune_model(model, config, seed=1, cost=macs, weight_cost=macs_per_weight, batches=_batches(3))
    assert pruned.outcome.realised == round(0.5 * pruned.outcome.total)
    for mask in pruned.masks.values():
        removed_per_row = (~mask).sum(1).double()
        assert (removed_per_row - mask.shape[1] / 2).abs().max() < 1
    other = prune_model(model, config, seed=1, cost=macs, weight_cost=macs_per_weight, batches=_batches(1))
    assert not all(torch.equal(other.masks[name], mask) for name, mask in pruned.masks.items())


@pytest.mark.usefixtures("_documented")
@pytest.mark.parametrize("batches", [None, []])
def test_a_method_that_looks_at_data_is_refused_without(batches: list[Batch] | None) -> None:
    config = PruneConfig(method="taylor-element-row", sparsity=0.5)
    with pytest.raises(UserError, match="looks at data, expected batches of the training part, found none"):
        prune_model(coupled(), config, seed=1, cost=macs, weight_cost=macs_per_weight, batches=batches)


def test_a_method_that_looks_at_no_data_has_no_use_for_any() -> None:
    config = PruneConfig(method="magnitude", calibration_batches=2)
    with pytest.raises(UserError, match=r"no use for prune\.calibration_batches"):
        prune_model(coupled(), config, seed=1, cost=macs, weight_cost=macs_per_weight)


@pytest.mark.usefixtures("_documented")
def test_the_documented_recombination_prunes_the_weakest_units_of_the_model() -> None:
    model = coupled()
    with torch.no_grad():
        model.blocks[1].up.weight[3:] *= 1e-3
        model.blocks[1].up.bias[3:] *= 1e-3
        model.blocks[1].down.weight[:, 3:] *= 1e-3
    config = PruneConfig(method="magnitude-unit-global", sparsity=0.25)
    pruned = prune_model(model, config, seed=1, cost=macs, weight_cost=macs_per_weight)
    assert pruned.model.config.hidden[1] <= 3
    assert pruned.model.config.width == 12


@pytest.mark.usefixtures("_documented")
def test_the_documented_schedule_removes_as_much_at_each_update() -> None:
    model = coupled()
    config = PruneConfig(method="linear-magnitude", sparsity=0.6, training_updates=3)
    hook = prune_in_training(model, config, steps=4, seed=1, cost=macs, weight_cost=macs_per_weight)
    optimizer = torch.optim.Adam(model.parameters())
    hook.on_start(model, optimizer)
    gone = []
    for step, batch in enumerate(_batches(4)):
        optimizer.zero_grad()
        (model(batch.x_BLC) - batch.y_BHC).square().mean().backward()  # type: ignore[no-untyped-call]
        hook.after_backward(step)
        optimizer.step()
        hook.after_step(step)
        gone.append(hook.outcome.realised)
    assert gone == [round(share * hook.outcome.total) for share in (0.2, 0.4, 0.6, 0.6)]


def test_methods_are_listed_without_torch() -> None:
    code = (
        "import sys; from prunecast.registry import METHODS;"
        "print([METHODS.load(name).name for name in METHODS.names()] == list(METHODS.names()), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_methods_name_registered_parts() -> None:
    for name in METHODS.names():
        method = METHODS.load(name)
        granularity = GRANULARITIES.load(method.granularity)
        for table, part in (
            (SOLVERS if granularity.updates else SCORES, method.score),
            (ALLOCATIONS, method.allocation),
        ):
            assert callable(table.load(part))
        assert method.schedule is None or callable(SCHEDULES.load(method.schedule))
        assert callable(granularity.prune)
