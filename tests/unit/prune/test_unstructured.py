from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.support.coupled_model import Coupled, CoupledConfig, Rigid, coupled, macs, macs_per_weight

from prunecast.errors import UserError
from prunecast.prune.apply import prune_model
from prunecast.prune.methods import Masks, Pruned
from prunecast.recipe import PruneConfig

ELEMENT_METHODS = ("magnitude", "magnitude-layer", "random")


def _prune(model: Coupled, masks: Masks | None = None, seed: int = 1, **prune_section: Any) -> Pruned:
    config = PruneConfig(**prune_section)
    return prune_model(model, config, seed=seed, cost=macs, weight_cost=macs_per_weight, masks=masks)


def _body(model: Coupled) -> list[str]:
    return [name for name in model.prunable() if name != "head.weight"]


def _weights(model: Coupled) -> int:
    return sum(model.get_parameter(name).numel() for name in _body(model))


def _nonzero(model: Coupled, names: list[str]) -> int:
    return sum(int(model.get_parameter(name).count_nonzero()) for name in names)


@pytest.mark.parametrize("method", ELEMENT_METHODS)
@pytest.mark.parametrize("sparsity", [0.001, 0.137, 0.5, 0.9, 0.999])
def test_exactly_the_requested_count_is_left(method: str, sparsity: float) -> None:
    model = coupled()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruned = _prune(model, method=method, sparsity=sparsity)
    total = _weights(model)
    assert _nonzero(pruned.model, _body(model)) == total - round(sparsity * total)
    outcome = pruned.outcome
    assert (outcome.total, outcome.requested, outcome.realised) == (total, *[round(sparsity * total)] * 2)
    assert (outcome.method, outcome.of, outcome.unit) == (method, "prunable", "weights")
    assert sum(outcome.removed_weights.values()) == outcome.realised
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    untouched = set(before) - set(_body(model))
    assert all(torch.equal(pruned.model.state_dict()[name], before[name]) for name in untouched)
    assert not pruned.model.training


def test_magnitude_removes_the_smallest_weights_of_the_model() -> None:
    model = coupled()
    pruned = _prune(model, method="magnitude", sparsity=0.6)
    weights = [(model.get_parameter(name).detach().abs(), pruned.masks[name]) for name in _body(model)]
    assert max(w[~mask].max() for w, mask in weights) < min(w[mask].min() for w, mask in weights)


def test_per_layer_takes_the_same_share_of_each_layer() -> None:
    model = coupled()
    removed = _prune(model, method="magnitude-layer", sparsity=0.6).outcome.removed_weights
    assert all(abs(count - 0.6 * model.get_parameter(name).numel()) < 1 for name, count in removed.items())


def test_random_follows_the_seed() -> None:
    model = coupled()
    first, again, other = (_prune(model, seed=seed, method="random").masks for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("method", ELEMENT_METHODS)
def test_weights_that_are_zero_anyway_go_first(method: str) -> None:
    model = coupled()
    with torch.no_grad():
        model.embed.weight[:4] = 0.0
    pruned = _prune(model, method=method, sparsity=0.5)
    assert _nonzero(pruned.model, _body(model)) == _weights(model) - round(0.5 * _weights(model))


@pytest.mark.parametrize("method", ELEMENT_METHODS)
def test_held_masks_count_and_grow(method: str) -> None:
    model = coupled()
    first = _prune(model, method="random", sparsity=0.4, seed=5)
    second = _prune(first.model, masks=first.masks, method=method, sparsity=0.7)
    assert second.outcome.realised == round(0.7 * _weights(model))
    assert not any((second.masks[name] & ~first.masks[name]).any() for name in first.masks)
    same = _prune(first.model, masks=first.masks, method=method, sparsity=0.4)
    assert all(torch.equal(same.masks[name], first.masks[name]) for name in first.masks)
    with pytest.raises(UserError, match=rf"removing {round(0.3 * _weights(model))} of .* {first.outcome.realised} are"):
        _prune(first.model, masks=first.masks, method=method, sparsity=0.3)


def test_candidates_all_takes_the_output_layer_too() -> None:
    model = coupled()
    pruned = _prune(model, method="magnitude-layer", sparsity=0.5, candidates="all")
    assert pruned.outcome.removed_weights["head.weight"] == 30
    with pytest.raises(UserError, match=r"masks hold 'head.weight', which is no candidate"):
        _prune(pruned.model, masks=pruned.masks, sparsity=0.9)


def test_a_share_of_the_model_counts_every_parameter() -> None:
    model = coupled()
    total = sum(parameter.numel() for parameter in model.parameters())
    pruned = _prune(model, sparsity=0.8, of="model")
    assert _nonzero(pruned.model, _body(model)) == _weights(model) - round(0.8 * total)
    assert (pruned.outcome.total, pruned.outcome.unit) == (total, "parameters")
    with pytest.raises(UserError, match=rf"at most {_weights(model) - 1} can go; use a sparsity of at most 0\.9"):
        _prune(model, sparsity=0.99, of="model")


@pytest.mark.parametrize("method", ELEMENT_METHODS)
def test_a_share_of_the_operations_comes_within_one_weight(method: str) -> None:
    model = coupled()
    price = dict(zip(_body(model), (3.0, 1.0, 7.0, 2.0, 5.0, 4.0, 11.0, 6.0, 1.0), strict=True))
    total = round(sum(price[name] * model.get_parameter(name).numel() for name in price)) + 100
    config = PruneConfig(method=method, sparsity=0.7, of="operations")
    pruned = prune_model(model, config, seed=1, cost=lambda config: total, weight_cost=lambda model: price)
    saved = sum(price[name] * int((~mask).sum()) for name, mask in pruned.masks.items())
    assert pruned.outcome.realised == saved
    assert abs(saved - pruned.outcome.requested) <= max(price.values()) / 2
    assert pruned.outcome.requested == round(0.7 * total)


def test_held_masks_grow_by_operations_too() -> None:
    model = coupled()
    first = _prune(model, method="random", sparsity=0.4)
    second = _prune(first.model, masks=first.masks, sparsity=0.6, of="operations")
    assert abs(second.outcome.realised - 0.6 * macs(model.config)) <= 2
    assert not any((second.masks[name] & ~first.masks[name]).any() for name in first.masks)
    with pytest.raises(UserError, match=r"removing .* MACs cannot be met: .* are gone already"):
        _prune(second.model, masks=second.masks, sparsity=0.5, of="operations")


def test_operations_that_no_weight_takes_part_in_cannot_be_removed() -> None:
    model = coupled()
    config = PruneConfig(sparsity=0.6, of="operations")
    with pytest.raises(UserError, match=r"removing .* MACs cannot be met: .* use a sparsity of at most 0\.4"):
        prune_model(model, config, seed=1, cost=lambda config: 2 * macs(config), weight_cost=macs_per_weight)


def test_a_model_that_diverged_is_refused() -> None:
    model = coupled()
    with torch.no_grad():
        model.embed.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"cannot prune 'embed.weight': its scores are not finite"):
        _prune(model)


def test_the_study_spared_layers_of_seven_outputs_whatever_they_are() -> None:
    model = coupled()
    outputs = {name: model.get_parameter(name).shape[0] for name in model.prunable()}
    assert set(model.paper_candidates()) == {name for name, count in outputs.items() if count != 7}
    assert "head.weight" in model.paper_candidates()  # it forecasts another number of steps
    masks = _prune(model, candidates="study").masks
    assert masks.keys() == set(model.paper_candidates())


def test_options_without_meaning_are_refused() -> None:
    with pytest.raises(UserError, match=r"method 'magnitude' has no use for prune\.kinds"):
        _prune(coupled(), kinds=("ffn",))


def test_masks_of_another_model_are_refused() -> None:
    with pytest.raises(UserError, match=r"mask 'elsewhere' does not fit the model"):
        _prune(coupled(), masks={"elsewhere": torch.ones(2).bool()})


def test_a_model_without_candidates_is_refused() -> None:
    with pytest.raises(UserError, match="model 'coupled' has no weights to prune"):
        _prune(Rigid(CoupledConfig()))


def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown method 'magnitud'; did you mean 'magnitude'\?"):
        _prune(coupled(), method="magnitud")
