"""The table of costs: what it counts is exact, what it fits is found again, and a correction moves all of it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.saved_models import TRANSFORMER, saved_model, windows
from tests.support.small_models import prunable_models, small_model

from prunecast.compress.budget import Budgets, Costs
from prunecast.compress.cost import WEIGHED, Anatomy, CostTable, Fitted, Point, Stopwatch, models_to_measure
from prunecast.export.c.runtime import RUNTIME
from prunecast.export.raw import raw_inputs
from prunecast.measure.size import real_numbers
from prunecast.models.base import blank
from prunecast.recipe import MeasureConfig


@pytest.mark.parametrize("name", prunable_models())
def test_what_is_counted_without_building_is_what_is_built(name: str) -> None:
    model = small_model(name).float()
    anatomy, keeps = Anatomy(model), models_to_measure(model.groups(), tile=1, count=12)
    assert keeps[0] == {}
    for keep in keeps:
        small = blank(model.shrunk_config(keep))
        assert anatomy.parameters(keep) == sum(map(real_numbers, small.parameters()))
        buffers = [value for key, value in small.named_buffers() if key in small.state_dict()]
        assert anatomy.bytes(keep) == sum(tensor.nbytes for tensor in (*small.parameters(), *buffers))
        assert len(anatomy.amounts(keep)) == len(anatomy.parts)
        in_8_bits = [small.get_parameter(name) for name in {*small.prunable()} - {*small.output_layer()}]
        saved = sum((tensor.element_size() - 1) * tensor.numel() for tensor in in_8_bits)
        assert anatomy.int8_bytes(keep) <= anatomy.bytes(keep) - saved, "what is unused in the smaller one stays"
        assert keep or anatomy.int8_bytes(keep) == anatomy.bytes(keep) - saved


def test_a_runtime_for_devices_costs_what_its_file_tells(tmp_path: Path) -> None:
    saved = saved_model(name="itransformer", d_model=16, n_heads=2, d_ff=24)
    inputs = raw_inputs(saved.metadata, windows(saved, 1))
    clock = Stopwatch(saved, "c", MeasureConfig(threads=1, batch=1), inputs, tmp_path)
    found = clock.glance({}, Budgets(max_loss_increase=0.1, max_bytes=1e6, max_memory_bytes=1e6))
    flash_bytes, memory_bytes = RUNTIME.footprint(tmp_path / "smaller.zip")
    assert (found.bytes, found.memory_bytes) == (flash_bytes, memory_bytes)
    assert math.isnan(found.latency_ms), "nothing was timed"


def test_models_to_measure_differ_and_come_in_tiles() -> None:
    groups = small_model("transformer", d_model=32, d_ff=32).groups()
    keeps = models_to_measure(groups, tile=8)
    counts = [{name: len(units) for name, units in keep.items()} for keep in keeps]
    assert len(counts) == 25
    assert all(found not in counts[:place] for place, found in enumerate(counts))
    sized = {group.name: group.kind for group in groups}
    assert all(count % 8 == 0 for found in counts for name, count in found.items() if sized[name] in ("ffn", "width"))
    assert counts[1]["encoder.layers"] == 1
    assert "encoder.layers.1.feed_forward.units" not in counts[1], "its layer is gone"
    assert counts[1]["encoder.layers.0.feed_forward.units"] == 8


def test_the_fit_finds_a_synthetic_truth_and_says_what_is_left() -> None:
    model = small_model("transformer", d_model=64, d_ff=64).float()
    anatomy = Anatomy(model)
    truth = np.array([0.2, 0.5, 0.0, 0.0, 0.1, 0.15, *[0.01] * (len(anatomy.parts) - 6)])
    keeps = models_to_measure(model.groups(), tile=8)

    def point(keep: dict[str, torch.Tensor], noise: float) -> Point:
        found = float(anatomy.amounts(keep) @ truth) * (1 + noise)
        costs = Costs(latency_ms=found, bytes=anatomy.bytes(keep) + 1000)
        return Point(keep={name: len(units) for name, units in keep.items()}, costs=costs)

    table = CostTable.of(anatomy, [point(keep, 0.0) for keep in keeps])
    assert table.latency.residual < 1e-6
    assert table.costs({}).latency_ms == pytest.approx(float(anatomy.amounts({}) @ truth))
    assert table.costs({}).bytes == pytest.approx(anatomy.bytes({}) + 1000, abs=2)
    draw = np.random.default_rng(1)
    noisy = CostTable.of(anatomy, [point(keep, draw.normal(0, 0.03)) for keep in keeps])
    assert 0 < noisy.latency.residual < 0.05
    assert min(noisy.latency.coefficients) >= 0
    other = {"encoder.width": torch.arange(40), "decoder.layers.0.feed_forward.units": torch.arange(24)}
    assert noisy.costs(other).latency_ms == pytest.approx(float(anatomy.amounts(other) @ truth), rel=0.1)


def test_a_correction_rescales_by_what_was_measured_since() -> None:
    fitted = Fitted(coefficients=(1.0, 2.0), residuals=(0.0,))
    assert fitted(np.array([1.0, 1.0])) == 3.0
    corrected = fitted.corrected([(3.0, 6.0), (1.0, 2.0)])
    assert corrected(np.array([1.0, 1.0])) == pytest.approx(6.0)
    assert fitted.corrected([]) == fitted


def test_bytes_in_8_bits_are_found_from_a_few_models(tmp_path: Path) -> None:
    saved = saved_model(**TRANSFORMER | {"name": "itransformer", "d_model": 32, "d_ff": 64})
    inputs = raw_inputs(saved.metadata, windows(saved, 1))
    clock = Stopwatch(saved, "onnxruntime", MeasureConfig(), inputs, tmp_path)
    keeps, any_size = models_to_measure(saved.model.groups(), tile=8), Budgets(max_loss_increase=0.0)
    anatomy = Anatomy(saved.model)
    points = [
        Point(
            keep={name: len(units) for name, units in keep.items()},
            costs=Costs(latency_ms=1.0, bytes=clock.glance(keep, any_size).bytes, int8_bytes=clock.weigh(keep)),
        )
        for keep in keeps[:WEIGHED]
    ]
    table = CostTable.of(anatomy, points)
    for keep in keeps[WEIGHED : WEIGHED + 2]:
        assert table.costs(keep).int8_bytes == pytest.approx(clock.weigh(keep), rel=0.02)
    seen = clock.glance(keeps[1], Budgets(max_loss_increase=0.0, max_bytes=1))
    assert seen.int8_bytes == clock.weigh(keeps[1]), "the smallest may be within the budget in 8 bits alone"
    assert seen.smallest.bytes == min(seen.bytes, seen.int8_bytes or 0)
    folders = Stopwatch(saved, "eager", MeasureConfig(), inputs, tmp_path)
    assert folders.weigh(keeps[1]) is None


def test_models_are_timed_in_turn_with_the_dense_one(tmp_path: Path) -> None:
    saved = saved_model(**TRANSFORMER)
    clock = Stopwatch(saved, "onnxruntime", MeasureConfig(), raw_inputs(saved.metadata, windows(saved, 1)), tmp_path)
    smallest = models_to_measure(saved.model.groups(), tile=8)[1]
    seen = clock.glance(smallest, Budgets(max_loss_increase=0.0, max_bytes=1))
    assert clock.dense_ms is None, "a glance is at one model alone: a budget out of reach is to be said soon"
    assert math.isnan(seen.latency_ms)
    costs = clock(smallest)
    assert clock.dense_ms is not None
    assert costs.latency_ms > 0
    assert costs.bytes == seen.bytes < (tmp_path / "dense.onnx").stat().st_size
