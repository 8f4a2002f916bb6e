"""The example of docs/own-model.md is a model that passes what every model has to pass."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tests.conformance.test_groups import deviation, random_keep
from tests.support.small_models import SMALL, small_inputs, small_model

from prunecast.registry import MODELS

PAGE = Path(__file__).parents[2] / "docs" / "own-model.md"


@pytest.fixture(autouse=True)
def _documented(monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text(encoding="utf-8")
    module = ModuleType("documented_model")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, str(PAGE), "exec"), module.__dict__)
    ((name, attribute),) = re.findall(r'^    "(\w+)": "prunecast\.models\.\w+:(\w+)",$', text, re.MULTILINE)
    monkeypatch.setitem(MODELS.entries, name, f"{module.__name__}:{attribute}")
    monkeypatch.setitem(SMALL, name, {"hidden": 10})


def test_it_forecasts_its_targets() -> None:
    model = small_model("perceptron", targets=(1,))
    assert model(*small_inputs()).shape == (2, 9, 1)


@pytest.mark.parametrize("size", [1, 4, 9])
def test_zeroed_equals_removed(size: int) -> None:
    model = small_model("perceptron")
    (group,) = model.groups()
    assert deviation(model, {group.name: random_keep(group, size, seed=size)}) < 1e-10
    assert deviation(model, {}) == 0


def test_a_training_step_lowers_its_loss() -> None:
    model, (x, x_mark, y_mark) = small_model("perceptron", dropout=0.0).train(), small_inputs(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = model(x, x_mark, y_mark).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
