"""Modules that are not ours: pruned by every method, cut where a cut is proved, saved and loaded without pickle."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.foreign_modules import MODULES, Attention, encoder, entangled, module_and_inputs, other_inputs
from torch import Tensor, nn

import prunecast
from prunecast.errors import MissingExtra, UserError
from prunecast.prune.dependency import tensors_in
from prunecast.prune.foreign import PrunedModule, load_pruned, prune_module
from prunecast.registry import GRANULARITIES, METHODS

UNITS = [name for name in METHODS.names() if GRANULARITIES.load(METHODS.load(name).granularity).shrinks]
BLIND = [name for name in METHODS.names() if not METHODS.load(name).needs_data]


def called(module: nn.Module, inputs: Any) -> list[Tensor]:
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        result = module(**inputs) if isinstance(inputs, Mapping) else module(*inputs)
    return tensors_in(result)


def forecast_of(results: list[Tensor]) -> Tensor:
    """Returns the results that are a forecast: of Hugging Face's models not the loss, the scale and the like."""
    return next(one for one in results if one.ndim > 1 and one.shape[1] >= 12)


def zeros(module: nn.Module) -> int:
    return sum(int((parameter == 0).sum()) for parameter in module.parameters())


def test_exactly_as_many_weights_go_as_were_asked_for() -> None:
    model, inputs = encoder()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruned = prune_module(model, inputs, {"method": "magnitude", "sparsity": 0.7})
    assert pruned.outcome.requested == pruned.outcome.realised == round(0.7 * pruned.outcome.total)
    assert zeros(pruned.module) - zeros(model) == pruned.outcome.realised
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(
        parameter[~pruned.masks[name]].any()
        for name, parameter in pruned.module.named_parameters()
        if name in pruned.masks
    )


def test_attention_takes_part_and_the_layer_that_runs_last_does_not() -> None:
    model, inputs = encoder()
    masks = prune_module(model, inputs, {"sparsity": 0.5}).masks
    assert {"1.layers.0.self_attn.in_proj_weight", "1.layers.0.self_attn.out_proj.weight", "0.weight"} <= masks.keys()
    assert "2.weight" not in masks
    assert "2.weight" in prune_module(model, inputs, {"sparsity": 0.5, "candidates": "all"}).masks


def test_layers_can_be_spared_by_name() -> None:
    model, inputs = encoder()
    masks = prune_module(model, inputs, {"sparsity": 0.5}, output_layer=["1.layers.1", "0"]).masks
    assert "2.weight" in masks
    assert not any(name.startswith(("1.layers.1", "0.")) for name in masks)
    with pytest.raises(UserError, match="output_layer: expected a layer of the module or one above it, found 'head'"):
        prune_module(model, inputs, {"sparsity": 0.5}, output_layer="head")


def test_a_layer_that_never_reaches_the_result_is_no_candidate() -> None:
    model, inputs = encoder()
    model.add_module("3", nn.Identity())
    model.get_submodule("3").add_module("idle", nn.Linear(4, 4))
    assert "3.idle.weight" not in prune_module(model, inputs, {"sparsity": 0.5}).masks


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_prunes_or_says_why_it_cannot(name: str) -> None:
    model, inputs = encoder()
    data = [(torch.randn(8, 24, 7),) for _ in range(3)]
    method = METHODS.load(name)
    if method.trains or method.needs_targets:
        with pytest.raises(UserError, match=f"method '{name}' (prunes in training|compares forecasts)"):
            prune_module(model, inputs, {"method": name, "sparsity": 0.3}, data=data)
        return
    recipe = {"method": name, "sparsity": 0.5 if method.budget == "pattern" else 0.3}
    looks = method.needs_data or method.recovery != "none"
    if looks:
        with pytest.raises(UserError, match="looks at data"):
            prune_module(model, inputs, recipe)
    pruned = prune_module(model, inputs, recipe, data=data if looks else None)
    within = 0.01 * pruned.outcome.total if name in UNITS else 0 if method.blocks == "1x1" else 16
    assert abs(pruned.outcome.realised - pruned.outcome.requested) <= within
    again = prune_module(model, inputs, recipe, data=data if looks else None)
    for (key, now), then in zip(pruned.module.state_dict().items(), again.module.state_dict().values(), strict=True):
        assert torch.equal(now, then), key


def test_what_repair_cannot_reach_is_named() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 4, 3, groups=2, padding=1), nn.Flatten(), nn.Linear(20, 20), nn.Linear(20, 2))
    recipe = {"sparsity": 0.5, "recovery": "ridge"}
    data = [torch.randn(16, 4, 5) for _ in range(3)]
    assert prune_module(model, data[0], recipe, data=data).unrepaired == ("0.weight",)
    assert prune_module(model, data[0], {"sparsity": 0.5}).unrepaired == ()


def test_a_repaired_module_reads_in_training_what_its_batch_norms_count() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(6)
    model = nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), norm, nn.ReLU(), nn.Flatten(), nn.Linear(30, 2))
    data = [torch.randn(64, 4, 5) * 2 for _ in range(3)]
    model(data[0])
    recipe = {"sparsity": 0.6, "method": "magnitude", "recovery": "ridge"}
    pruned = prune_module(model.eval(), data[0], recipe, data=data)
    wanted, counted = torch.cat([called(pruned.module, (x,))[0] for x in data]), pruned.module.state_dict()
    found = called(pruned.module.train(), (torch.cat(data),))[0]
    assert (found - wanted).square().mean() < 1e-4 * wanted.var()
    assert not torch.allclose(counted["1.running_var"], norm.running_var, rtol=0.05)


def test_a_batch_norm_that_reads_one_row_stays_as_it_is() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).eval()
    recipe = {"sparsity": 0.5, "method": "magnitude", "recovery": "ridge", "calibration_batches": 1}
    pruned = prune_module(model, torch.randn(1, 4), recipe, data=[torch.randn(1, 4)])
    assert torch.equal(pruned.module.state_dict()["1.running_var"], torch.ones(6))
    assert all(parameter.isfinite().all() for parameter in pruned.module.parameters())


def test_attention_to_another_stream_or_behind_a_mask_is_not_repaired() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own, self.other = (nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))
            self.out = nn.Linear(8, 2)

        def forward(self, x: Tensor, memory: Tensor) -> Tensor:
            mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
            x = x + self.own(x, x, x, attn_mask=mask)[0]
            return self.out(x + self.other(x, memory, memory)[0])

    torch.manual_seed(0)
    data = [(torch.randn(8, 5, 8), torch.randn(8, 3, 8)) for _ in range(3)]
    pruned = prune_module(Reads(), data[0], {"sparsity": 0.5, "recovery": "ridge"}, data=data)
    assert set(pruned.unrepaired) == {"own.out_proj.weight", "other.in_proj_weight", "other.out_proj.weight"}


def test_modes_and_types_of_parts_stay() -> None:
    model, inputs = encoder()
    model.train()
    model[0].eval()
    model[0].requires_grad_(False)
    model[2].to(torch.float64)
    model.insert(2, _ToDouble())
    pruned = prune_module(model, inputs, {"method": "structured-magnitude", "sparsity": 0.3})
    for given, now in zip(model.modules(), pruned.module.modules(), strict=True):
        assert given.training == now.training
    for given, now in zip(model.parameters(), pruned.module.parameters(), strict=True):
        assert (given.dtype, given.requires_grad) == (now.dtype, now.requires_grad)


class _ToDouble(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.double()


def test_a_module_that_cannot_be_copied_is_refused() -> None:
    model, inputs = encoder()
    model[0].cache = model(*inputs)
    with pytest.raises(UserError, match="model: expected a module that can be copied, found Only Tensors created"):
        prune_module(model, inputs, {"sparsity": 0.3})


def test_a_pruned_module_is_exported_as_any_module() -> None:
    model, inputs = encoder()
    pruned = prune_module(model, inputs, {"method": "structured-magnitude", "sparsity": 0.3}).module
    exported = torch.export.export(pruned, inputs).module()
    torch.testing.assert_close(exported(*inputs), pruned(*inputs))


def test_masks_are_held_and_only_grow() -> None:
    model, inputs = encoder()
    first = prune_module(model, inputs, {"sparsity": 0.3})
    second = prune_module(first.module, inputs, {"sparsity": 0.6}, masks=first.masks)
    assert second.outcome.realised == second.outcome.requested
    assert not any((second.masks[name] & ~mask).any() for name, mask in first.masks.items())
    with pytest.raises(UserError, match="mask 'x' does not fit the model"):
        prune_module(model, inputs, {"sparsity": 0.6}, masks={"x": torch.ones(1, dtype=torch.bool)})


def test_a_share_of_operations_is_met_by_single_weights_too() -> None:
    model, inputs = encoder()
    outcome = prune_module(model, inputs, {"sparsity": 0.5, "of": "operations"}).outcome
    assert outcome.unit == "MACs"
    assert abs(outcome.realised - outcome.requested) <= 96  # one weight meets at most so many tokens


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"method": "magnitud"}, "unknown method 'magnitud'"),
        ({"sparsty": 0.5}, "unknown key 'prune.sparsty'"),
        ({"candidates": "study"}, "expected body or all"),
        ({"calibration_seed": 3}, "prune.calibration_seed: nothing is drawn"),
        ({"method": "structured-magnitude", "of": "model"}, "prune.of: expected operations"),
        ({"method": "structured-magnitude", "kinds": ["width"]}, "has no units of kinds width"),
        ({"method": "structured-magnitude", "sparsity": 0.99}, "use a sparsity of at most"),
    ],
)
def test_what_cannot_be_done_is_refused(recipe: dict[str, Any], message: str) -> None:
    model, inputs = encoder()
    with pytest.raises(UserError, match=message):
        prune_module(model, inputs, recipe)


def test_units_need_torch_pruning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    model, inputs = encoder()
    with pytest.raises(MissingExtra, match="torch-pruning is not installed; run: pip install 'prunecast\\[foreign\\]'"):
        prune_module(model, inputs, {"method": "structured-magnitude"})


def test_feed_forward_units_are_cut_and_the_rest_says_why_not() -> None:
    model, inputs = encoder()
    pruned = prune_module(model, inputs, {"method": "structured-random", "sparsity": 0.3})
    assert set(pruned.outcome.kept_units) == {"1.layers.0.linear1", "1.layers.1.linear1"}
    for name, (kept, size) in pruned.outcome.kept_units.items():
        assert kept < size == 64
        assert pruned.module.get_submodule(name).out_features == kept
        assert pruned.sizes[name] == {"out_features": kept}
    assert pruned.left_whole["1.layers.0.linear2"].endswith("takes part, which cannot be cut")
    assert called(pruned.module, inputs)[0].shape == called(model, inputs)[0].shape


def test_cut_units_give_what_units_do_that_nobody_reads() -> None:
    model, inputs = encoder()
    pruned = prune_module(model, inputs, {"method": "structured-random", "sparsity": 0.3}).module
    with torch.no_grad():
        for name in ("1.layers.0", "1.layers.1"):
            whole, left = (module.get_parameter(f"{name}.linear1.weight") for module in (model, pruned))
            gone = ~(whole.unsqueeze(1) == left.unsqueeze(0)).all(2).any(1)
            assert 0 < int(gone.sum()) == len(whole) - len(left)
            model.get_parameter(f"{name}.linear2.weight")[:, gone] = 0
    torch.testing.assert_close(called(pruned, inputs)[0], called(model, inputs)[0])


@pytest.mark.parametrize("needs_width", [False, True])
def test_whole_heads_go_and_the_module_learns_their_number(needs_width: bool) -> None:
    torch.manual_seed(0)
    model, inputs = (
        nn.Sequential(nn.Linear(3, 16), Attention(16, 4, needs_width), nn.Linear(16, 3)),
        (torch.randn(2, 5, 3),),
    )
    pruned = prune_module(model, inputs, {"method": "structured-magnitude", "sparsity": 0.45, "kinds": ["head"]})
    kept, size = pruned.outcome.kept_units["1"]
    assert (kept, size) == (2, 4)
    attention = pruned.module[1]
    assert (attention.heads, attention.width) == (2, 8 if needs_width else 16)
    assert pruned.sizes["1"] == ({"heads": 2, "width": 8} if needs_width else {"heads": 2})
    assert attention.query.weight.shape == (8, 16)


def test_a_cut_that_does_not_hold_is_not_made() -> None:
    model, inputs = entangled()
    with pytest.raises(UserError, match="has no units of kinds"):
        prune_module(model, inputs, {"method": "structured-magnitude"})


def test_inputs_on_which_units_do_nothing_prove_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16, bias=False), nn.ReLU(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 6))
    recipe = {"method": "structured-magnitude", "sparsity": 0.3}
    told = prune_module(model, torch.zeros(4, 6), recipe)
    assert set(told.outcome.kept_units) == {"2"}
    assert told.left_whole["0"] == "its units change the result of the example inputs too little to tell; give others"
    assert set(prune_module(model, torch.randn(4, 6), recipe).outcome.kept_units) == {"0", "2"}


def test_a_wrong_cut_is_seen_behind_a_large_result() -> None:
    class Offset(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, _ = entangled()

        def forward(self, x: Tensor) -> Tensor:
            return 100 + 0.01 * self.inner(x)

    with pytest.raises(UserError, match="has no units of kinds"):
        prune_module(Offset(), entangled()[1], {"method": "structured-magnitude"})


class _Noisy(nn.Module):
    """Draws in its forward pass, in all usual ways."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = x + torch.randn_like(x) + torch.rand_like(x) + torch.randn(x.shape) + torch.empty_like(x).normal_()
        return self.down(torch.relu(self.up(x[torch.randint(len(x), (len(x),))])))


def test_a_module_that_draws_is_compared_on_the_same_draws() -> None:
    torch.manual_seed(0)
    model, data = _Noisy(), [torch.randn(32, 6) for _ in range(4)]
    before = torch.get_rng_state()
    recipe = {"method": "structured-magnitude", "sparsity": 0.25, "recovery": "ridge"}
    pruned, again = (prune_module(model, data[0], recipe, data=data).module for _ in range(2))
    assert pruned.up.out_features == 6
    assert all(torch.equal(now, then) for now, then in zip(pruned.parameters(), again.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_cuts_in_steps_come_as_near_as_those_at_once() -> None:
    model, inputs = encoder()
    outcome = prune_module(model, inputs, {"method": "structured-magnitude", "sparsity": 0.3, "step": 0.1}).outcome
    assert outcome.requested == round(0.3 * outcome.total)
    assert abs(outcome.realised - outcome.requested) < 0.01 * outcome.total


@pytest.mark.parametrize("method", ["magnitude", "structured-magnitude", "structured"])
@pytest.mark.parametrize("kind", MODULES)
def test_modules_of_others_are_pruned_saved_and_loaded(kind: str, method: str, tmp_path: Path) -> None:
    model, inputs = module_and_inputs(kind)
    data = [other_inputs(inputs, seed) for seed in range(3)] if METHODS.load(method).needs_data else None
    pruned = prune_module(model, inputs, {"method": method, "sparsity": 0.4}, data=data)
    outcome = pruned.outcome
    assert abs(outcome.realised - outcome.requested) <= (0.06 * outcome.total if method in UNITS else 0)
    pruned.save(tmp_path / "saved")
    fresh, _ = module_and_inputs(kind)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    loaded = load_pruned(fresh, tmp_path / "saved")
    for now, then in zip(called(loaded.module, inputs), called(pruned.module, inputs), strict=True):
        assert torch.equal(now, then)
    assert loaded.outcome == outcome
    assert loaded.masks.keys() == pruned.masks.keys()
    assert all(torch.equal(loaded.masks[name], mask) for name, mask in pruned.masks.items())


@pytest.mark.parametrize("method", ["magnitude", "structured-magnitude"])
@pytest.mark.parametrize("kind", MODULES)
def test_modules_of_others_are_repaired(kind: str, method: str) -> None:
    model, inputs = module_and_inputs(kind)
    data, test = [other_inputs(inputs, seed) for seed in range(8)], other_inputs(inputs, 9)
    wanted = forecast_of(called(model, test))

    def error(recovery: str) -> float:
        recipe = {"method": method, "sparsity": 0.4, "recovery": recovery}
        pruned = prune_module(model, inputs, recipe, data=data if recovery == "ridge" else None)
        assert pruned.unrepaired == ()
        assert all(not pruned.module.get_parameter(name)[~mask].any() for name, mask in pruned.masks.items())
        return float((forecast_of(called(pruned.module, test)) - wanted).square().mean())

    assert error("ridge") < 0.35 * error("none")


@pytest.fixture
def saved(tmp_path: Path) -> PrunedModule:
    model, inputs = encoder()
    pruned = prune_module(model, inputs, {"method": "structured-magnitude", "sparsity": 0.3})
    pruned.save(tmp_path / "saved")
    return pruned


@pytest.mark.usefixtures("saved")
def test_a_saved_module_is_tensors_and_text(tmp_path: Path) -> None:
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {"model.safetensors", "module.json"}
    facts = json.loads((tmp_path / "saved" / "module.json").read_text())
    assert facts["kind"] == "torch.nn.modules.container.Sequential"
    assert facts["sizes"]["1.layers.0.linear1"] == {"out_features": facts["sizes"]["1.layers.0.linear2"]["in_features"]}


def test_an_existing_folder_is_refused(saved: PrunedModule, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists"):
        saved.save(tmp_path / "saved")


@pytest.mark.usefixtures("saved")
def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    with pytest.raises(UserError, match=r"expected a module of torch\.nn\.modules\.container\.Sequential, found torch"):
        load_pruned(nn.Linear(2, 2), folder)
    with pytest.raises(UserError, match=r"1\.layers\.0\.linear1 has no size out_features"):
        load_pruned(nn.Sequential(nn.Linear(7, 32)), folder)
    with pytest.raises(UserError, match=r"0\.weight: expected shape \(32, 7\), found \(32, 8\) in the module"):
        load_pruned(encoder(8)[0], folder)
    with pytest.raises(UserError, match="expected a saved pruned module"):
        load_pruned(encoder()[0], tmp_path)
    (folder / "module.json").rename(folder / "kept")
    (folder / "module.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="expected a saved pruned module"):
        load_pruned(encoder()[0], folder)
    (folder / "kept").rename(folder / "module.json")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=r"model\.safetensors is not what was saved; take an intact copy"):
        load_pruned(encoder()[0], folder)


def test_shared_weights_are_pruned_and_saved_once(tmp_path: Path) -> None:
    model, inputs = encoder()
    model.append(nn.Linear(7, 7))
    model[3].weight = nn.Parameter(torch.randn(7, 7))
    model.append(nn.Linear(7, 7))
    model[4].weight = model[3].weight
    pruned = prune_module(model, inputs, {"sparsity": 0.5, "candidates": "all"})
    assert "3.weight" in pruned.masks
    assert "4.weight" not in pruned.masks
    pruned.save(tmp_path / "saved")
    model = torch.nn.Sequential(*encoder()[0], nn.Linear(7, 7), nn.Linear(7, 7))
    model[4].weight = model[3].weight
    loaded = load_pruned(model, tmp_path / "saved").module
    assert loaded[4].weight is loaded[3].weight
    assert torch.equal(called(loaded, inputs)[0], called(pruned.module, inputs)[0])


def test_the_package_gives_both() -> None:
    assert prunecast.prune_module is prune_module
    assert prunecast.load_pruned is load_pruned
