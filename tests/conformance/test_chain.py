"""Every model x every method x save and load x every runtime, as the registry has them.

A new model, method or runtime is tested here by its line in the registry. What does not go together is skipped with
the reason that the code itself gives.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tests.support.onnx_graphs import check_fixed, check_graph
from torch import Tensor, nn

from prunecast.batch import Batch
from prunecast.data.series import load_series
from prunecast.data.windows import Prepared, prepare
from prunecast.errors import MissingExtra, UserError
from prunecast.export.base import FixedBatch, Runtime, of_any_batch
from prunecast.export.parity import check_parity
from prunecast.export.raw import raw_inputs
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.measure.size import measure_size
from prunecast.models.base import ForecasterConfig, ForecastModel, Group, build, config_from
from prunecast.models.io import SavedModel, load_model, save_model
from prunecast.prune.apply import prune_in_several_ways, prune_in_training, prune_model
from prunecast.prune.masks import HeldMasks
from prunecast.prune.methods import NO_RECOVERY, Method, Pruned
from prunecast.recipe import ExportConfig, FitConfig, PruneConfig, Recipe, load_recipe
from prunecast.records import Artefact
from prunecast.registry import GRANULARITIES, METHODS, MODELS, RUNTIMES
from prunecast.resolve import resolved
from prunecast.stages.base import new_model, spread
from prunecast.stages.export import export_one, refusal, training_inputs
from prunecast.train.fit import fit, total_steps

LOOKBACK, HORIZON = 24, 6
SMALL = {"d_model": 16, "n_heads": 4, "d_ff": 12, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.1}
"""What makes a model small, where its config has such a field."""

SPARSITY = 0.6
STEPS = FitConfig(epochs=1, max_steps=2, learning_rate=0.01, threads=1)
DENSE = "dense"
WINDOWS = 8


@dataclass(frozen=True)
class Chain:
    """What all checks share: models are trained, pruned and saved once."""

    prepared: Prepared
    recipe: Recipe
    folder: Path
    models: dict[str, SavedModel] = field(default_factory=dict)
    results: dict[tuple[str, str], Pruned] = field(default_factory=dict)
    exports: dict[tuple[str, str, str], Artefact] = field(default_factory=dict)

    def dense(self, name: str) -> SavedModel:
        """A model after two steps, so that no weight is where it started."""
        if name not in self.models:
            kind: type[ForecastModel] = MODELS.load(name)
            values = {key: value for key, value in SMALL.items() if key in kind.Config.model_fields}
            sizes = {"name": name, "lookback": LOOKBACK, "horizon": HORIZON}
            recipe = resolved(self.recipe.model_copy(update={"model": values | sizes}), self.prepared.series)
            torch.manual_seed(1)
            model = build(config_from(recipe.model))
            self.train(model, {})
            self.models[name] = new_model(model.eval(), self.prepared, recipe)
        return self.models[name]

    def train(self, model: ForecastModel, masks: Mapping[str, Tensor]) -> None:
        if model.trainable:
            hooks = [HeldMasks(masks)] if masks else []
            fit(model, self.prepared.train, self.prepared.validation, STEPS, seed=1, hooks=hooks)

    def pruned(self, name: str, method: str) -> Pruned:
        """A model after a method; skips where the model has nothing that the method could remove."""
        if (name, method) not in self.results:
            if not candidates(self.dense(name).model, method):
                with pytest.raises(UserError) as refusal:
                    self.prune(name, method)
                pytest.skip(str(refusal.value))
            self.results[name, method] = self.prune(name, method)
        return self.results[name, method]

    def prune(self, name: str, method: str) -> Pruned:
        """Prunes anew; by a method that prunes in training, in as many steps as the dense model had.

        Of one that searches, the first choice: its stage tunes several, see `tests/unit/stages`.
        """
        config = PruneConfig(method=method, sparsity=share(method))
        batches = list(self.prepared.train.batches(16))[:2]
        dense, costs = self.dense(name).model, {"cost": dense_macs, "weight_cost": macs_per_weight}
        known: Method = METHODS.load(method)
        if known.searches:
            return prune_in_several_ways(dense, config, 2, seed=1, batches=batches, **costs)[0]
        if not known.trains:
            return prune_model(dense, config, seed=1, batches=batches, **costs)
        model, steps = copy.deepcopy(dense), total_steps(STEPS, len(self.prepared.train))
        hook = prune_in_training(model, config, steps=steps, seed=1, batches=batches, **costs)
        fit(model, self.prepared.train, self.prepared.validation, STEPS, seed=1, hooks=[hook])
        return Pruned(model, hook.masks, hook.outcome)

    def variant(self, name: str, method: str) -> SavedModel:
        """The dense model, or a pruned one."""
        dense = self.dense(name)
        if method == DENSE:
            return dense
        pruned = self.pruned(name, method)
        return SavedModel(pruned.model, dense.metadata, pruned.masks)

    def saved(self, name: str, method: str) -> Path:
        """The folder of a variant."""
        variant, folder = self.variant(name, method), self.folder / f"{name}-{method}"
        if not folder.exists():
            folder.mkdir()
            save_model(variant, folder)
        return folder

    def exported(self, name: str, method: str, runtime: str) -> tuple[Artefact, Path]:
        """A variant as a runtime takes it, and where that lies."""
        folder, model = self.folder / f"{name}-{method}-{runtime}", self.saved(name, method)
        if not folder.exists():
            folder.mkdir()
            config, variant = ExportConfig(runtime=runtime, parity_windows=WINDOWS), self.variant(name, method)
            self.exports[name, method, runtime] = export_one(variant, self.prepared, config, folder, model)
        artefact = self.exports[name, method, runtime]
        return artefact, model if artefact.name is None else folder / artefact.name

    def batch(self) -> Batch:
        return self.prepared.test.batch(spread(len(self.prepared.test), WINDOWS))


def share(method: str) -> float:
    """Returns how much goes; a pattern has its own share."""
    return 0.5 if METHODS.load(method).budget == "pattern" else SPARSITY


def candidates(model: ForecastModel, method: str) -> Sequence[str]:
    """Returns the names of what a method could remove from a model."""
    kinds = PruneConfig(method=method).kinds
    if GRANULARITIES.load(METHODS.load(method).granularity).shrinks:
        return [group.name for group in model.groups() if group.kind in kinds]
    return model.prunable()


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("chain")
    hours = np.arange(400)
    noise = np.random.default_rng(1).normal(size=(400, 3))
    waves = np.stack([np.sin(hours / 4), 30 + 9 * np.cos(hours / 12), hours / 50], axis=1)
    table = pd.DataFrame(waves + 0.2 * noise, columns=["a", "b", "c"])
    table.insert(0, "date", pd.date_range("2024-01-01", periods=400, freq="h"))
    table.to_csv(folder / "own.csv", index=False)
    recipe = load_recipe(base={"data": {"name": str(folder / "own.csv")}})
    series = load_series(recipe.data)
    label_len = LOOKBACK // 2
    prepared = prepare(series, recipe.data, lookback=LOOKBACK, horizon=HORIZON, label_len=label_len)
    return Chain(prepared, recipe, folder)


def supported(name: str, model: ForecastModel) -> Runtime:
    kind: Runtime = RUNTIMES.load(name)
    try:
        reason = kind.unsupported(model)
    except MissingExtra as error:
        reason = str(error)
    if reason is not None:
        pytest.skip(reason)
    return kind


def forecast(model: nn.Module, batch: Batch) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF)
    return result


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def reached(saved: SavedModel, batch: Batch) -> list[str]:
    """Returns the names of the prunable weights that have a gradient where their mask lets them learn."""
    saved.model.train()(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF).square().mean().backward()
    gradients = {name: saved.model.get_parameter(name).grad for name in saved.model.prunable()}
    saved.model.eval().zero_grad()
    return [name for name, grad in gradients.items() if grad is not None and (grad * saved.masks.get(name, 1)).any()]


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def one_unit(model: ForecastModel) -> int:
    """Returns the most MACs that a single unit costs."""
    whole = dense_macs(model.config)
    return max(whole - dense_macs(without_one(model, group)) for group in model.groups() if group.members)


def without_one(model: ForecastModel, group: Group) -> ForecasterConfig:
    return model.shrunk_config({group.name: torch.arange(group.size - 1)})


for_models = pytest.mark.parametrize("model_name", MODELS.names())


def shipped(*methods: str) -> pytest.MarkDecorator:
    """Models x methods x runtimes; those that take long meet most models among the slow tests."""
    found = [
        pytest.param(
            *(model, method, runtime),
            marks=() if runtime not in SLOW or (method == DENSE and model in SLOW[runtime]) else pytest.mark.slow,
        )
        for runtime in RUNTIMES.names()
        for method in methods
        for model in MODELS.names()
    ]
    return pytest.mark.parametrize(("model_name", "method", "runtime_name"), found)


FEW = ("transformer", "fedformer", "crossformer")
"""Models on which every method is tried each time: attention of two kinds, complex weights, a model of scales."""

SLOW = {"csr": FEW, "compile": ("dlinear",), "executorch": ("dlinear",), "c": ("dlinear", "lstm")}
"""Runtimes that take long to make something of a model, or nothing of so small ones -> the models that they meet each
time, dense."""


def first_of_their_kind() -> Sequence[str]:
    """Names of methods that differ in what they leave, not only in how they choose it."""
    kinds: dict[tuple[object, ...], str] = {}
    for name in METHODS.names():
        method: Method = METHODS.load(name)
        if not method.is_control:
            kinds.setdefault((method.granularity, method.schedule is None, method.recovery), name)
    return [*kinds.values()]


def pairs(methods: Sequence[str]) -> pytest.MarkDecorator:
    """Models x methods; methods of which another one is alike meet the other models among the slow tests."""
    quick = {DENSE, *first_of_their_kind()}
    found = [
        pytest.param(model, method, marks=() if model in FEW or method in quick else pytest.mark.slow)
        for method in methods
        for model in MODELS.names()
    ]
    return pytest.mark.parametrize(("model_name", "method"), found)


for_methods = pairs(METHODS.names())
for_variants = pairs([DENSE, *METHODS.names()])
for_exports = shipped(DENSE, *first_of_their_kind())
for_dense_exports = shipped(DENSE)


@for_methods
def test_the_budget_is_met(chain: Chain, model_name: str, method: str) -> None:
    pruned, dense = chain.pruned(model_name, method), chain.dense(model_name)
    outcome = pruned.outcome
    assert outcome.requested == round(share(method) * outcome.total)
    assert outcome.of == METHODS.load(method).default_of
    if pruned.masks:
        zeros = sum(int((~mask).sum()) for mask in pruned.masks.values())
        assert outcome.realised == zeros
        # blocks at the edges of such narrow layers are no whole ones
        assert abs(zeros - outcome.requested) <= (0 if METHODS.load(method).blocks == "1x1" else 0.3 * outcome.total)
        gone = measure_size(dense).nonzero - measure_size(SavedModel(pruned.model, dense.metadata)).nonzero
        assert gone == zeros
    else:
        assert outcome.realised == dense_macs(dense.model.config) - dense_macs(pruned.model.config)
        assert abs(outcome.realised - outcome.requested) <= one_unit(dense.model)


@for_methods
def test_what_stays_is_untouched_and_the_parent_too(chain: Chain, model_name: str, method: str) -> None:
    dense = chain.dense(model_name)
    before, config = state(dense.model), dense.model.config
    first, pruned = chain.pruned(model_name, method), chain.prune(model_name, method)
    assert same(before, state(dense.model))
    assert dense.model.config == config
    for name, mask in pruned.masks.items():
        weight, kind = pruned.model.get_parameter(name), METHODS.load(method)
        changes = kind.trains or kind.recovery != NO_RECOVERY
        assert torch.equal(weight, (weight if changes else before[name]) * mask)
    assert same(pruned.masks, first.masks)
    assert same(state(pruned.model), state(first.model))


@for_variants
def test_what_is_saved_comes_back(chain: Chain, model_name: str, method: str) -> None:
    variant = chain.variant(model_name, method)
    loaded = load_model(chain.saved(model_name, method))
    assert loaded.model.config == variant.model.config
    assert loaded.metadata == variant.metadata.model_copy(
        update={"model": variant.model.config.model_dump(mode="json")}
    )
    assert same(loaded.masks, variant.masks)
    assert same(state(loaded.model), state(variant.model))
    assert torch.equal(forecast(loaded.model, chain.batch()), forecast(variant.model, chain.batch()))


@for_methods
def test_fine_tuning_learns_and_keeps_zeros(chain: Chain, model_name: str, method: str) -> None:
    loaded = load_model(chain.saved(model_name, method))
    before, learning = state(loaded.model), reached(loaded, chain.batch())
    # what leads to an emptied weight learns nothing, nor what leads to a normalised stream of one unit: it is constant
    emptied = any(not mask.any() for mask in loaded.masks.values())
    constant = any(group.normalised and group.size == 1 for group in loaded.model.groups())
    assert emptied or constant or learning == [*loaded.model.prunable()]
    chain.train(loaded.model, loaded.masks)
    weights = dict(loaded.model.named_parameters())
    assert not any(torch.equal(weights[name], before[name]) for name in learning)
    assert all((weights[name][~mask] == 0).all() for name, mask in loaded.masks.items())


@for_exports
def test_an_artefact_forecasts_what_the_model_does(
    chain: Chain, model_name: str, method: str, runtime_name: str
) -> None:
    variant = chain.variant(model_name, method)
    kind = supported(runtime_name, variant.model)
    artefact, path = chain.exported(model_name, method, runtime_name)
    if path.suffix == ".onnx":
        check_graph(path)
    parity = artefact.parity or check_parity(variant, runtime_name, path, [chain.batch()])
    assert parity.within
    inside = kind.read(path)
    assert inside.metadata == load_model(chain.saved(model_name, method)).metadata
    assert torch.equal(forecast(inside.model, chain.batch()), forecast(variant.model, chain.batch()))


@for_dense_exports
def test_an_artefact_takes_any_batch(chain: Chain, model_name: str, method: str, runtime_name: str) -> None:
    variant = chain.variant(model_name, method)
    kind = supported(runtime_name, variant.model)
    predict = kind.load(chain.exported(model_name, method, runtime_name)[1], 1)
    inputs = raw_inputs(variant.metadata, chain.batch())
    if isinstance(predict, FixedBatch):
        with pytest.raises(UserError, match="in one call"):
            predict(inputs)
    whole = of_any_batch(predict)(inputs)
    assert whole.shape == (WINDOWS, HORIZON, 3)
    alone = of_any_batch(predict)({name: values[2:3] for name, values in inputs.items()})
    np.testing.assert_allclose(alone[0], whole[2], rtol=1e-4, atol=1e-4)


@for_models
def test_a_graph_of_fixed_shapes_computes_none(chain: Chain, model_name: str, tmp_path: Path) -> None:
    variant, kind = chain.variant(model_name, DENSE), RUNTIMES.load("onnxruntime")
    config = ExportConfig(batch=1, parity_windows=WINDOWS)
    artefact = export_one(variant, chain.prepared, config, tmp_path, chain.saved(model_name, DENSE))
    path = tmp_path / f"model{kind.suffix}"
    assert artefact.parity is not None
    assert artefact.parity.within
    check_graph(path)
    check_fixed(path, batch=1)
    assert torch.equal(forecast(kind.read(path).model, chain.batch()), forecast(variant.model, chain.batch()))


@for_dense_exports
def test_8_bits_forecast_nearly_what_the_model_does(
    chain: Chain, model_name: str, method: str, runtime_name: str, tmp_path: Path
) -> None:
    variant = chain.variant(model_name, method)
    kind = supported(runtime_name, variant.model)
    reason = refusal(variant.model, ExportConfig(runtime=runtime_name, int8=True))
    if reason is not None:
        pytest.skip(reason)
    path, inputs = tmp_path / f"model{kind.suffix}", training_inputs(variant.metadata, chain.prepared)
    if not variant.model.prunable():
        with pytest.raises(UserError, match="no weight"):
            kind.export_int8(variant, path, inputs)
        return
    kind.export_int8(variant, path, inputs)
    seen = chain.prepared.train.batch(torch.arange(WINDOWS))
    parity = check_parity(variant, runtime_name, path, [seen], int8=True)
    assert 1e-4 < parity.max_deviation < 0.2
    assert kind.read(path).metadata == load_model(chain.saved(model_name, method)).metadata
