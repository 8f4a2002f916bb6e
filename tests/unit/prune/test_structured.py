from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.support.coupled_model import ENTRY, HEAD_SIZE, Coupled, CoupledConfig, Rigid, coupled, macs, macs_per_weight

from prunecast.errors import UserError
from prunecast.measure.operations import dense_macs
from prunecast.models.base import ForecasterConfig, Keep, blank, build, config_from
from prunecast.prune.apply import prune_model
from prunecast.prune.methods import STRUCTURED_TAYLOR, Masks, Pruned
from prunecast.prune.shrink import cut, shrink
from prunecast.recipe import PruneConfig
from prunecast.registry import MODELS, SCORES


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS.entries, "coupled", ENTRY)


def _prune(model: Coupled, masks: Masks | None = None, seed: int = 1, **prune_section: Any) -> Pruned:
    config = PruneConfig(**{"method": "structured-magnitude"} | prune_section)
    return prune_model(model, config, seed=seed, cost=macs, weight_cost=macs_per_weight, masks=masks)


def _x(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(3, 8, 2, generator=torch.Generator().manual_seed(2)).to(dtype)


def _zeroed(model: Coupled, keep: Keep) -> Coupled:
    """Returns a copy of the same shape in which the units that do not stay are zero."""
    zeroed = Coupled(model.config).to(model.embed.weight.dtype).eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for group in model.groups():
        for unit in sorted(set(range(group.size)) - set(keep.get(group.name, torch.arange(group.size)).tolist())):
            for member in group.members:
                state[member.name].index_fill_(member.dim, member.index[unit], 0.0)
            if group.stack:
                for name, tensor in state.items():
                    if name.startswith(f"{group.stack}.{unit}."):
                        tensor.zero_()
    zeroed.load_state_dict(state)
    return zeroed


KEEPS = {
    "heads": {"blocks.1.heads": [0, 3]},
    "ffn": {"blocks.0.ffn": [1, 2, 9]},
    "width": {"width": [0, 2, 3, 7, 11]},
    "layer": {"blocks": [1]},
    "all": {"blocks.1.heads": [1, 2], "blocks.0.ffn": [4, 5], "blocks.1.ffn": [0, 13], "width": [5, 6], "blocks": [1]},
}


@pytest.mark.parametrize("chosen", KEEPS.values(), ids=KEEPS)
def test_removed_units_give_the_output_of_zeroed_ones(chosen: dict[str, list[int]]) -> None:
    model = coupled().double()
    keep = {name: torch.tensor(units) for name, units in chosen.items()}
    small = shrink(model, keep)
    expected, found = _zeroed(model, keep)(_x(torch.double)), small(_x(torch.double))
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert small.config == model.shrunk_config(keep)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


def test_a_head_leaves_both_halves_and_the_rest_keeps_its_order() -> None:
    model = coupled()
    small = shrink(model, {"blocks.0.heads": torch.tensor([0, 2, 3])})
    rows = model.blocks[0].fused.weight.view(2, 4, HEAD_SIZE, 12)[:, [0, 2, 3]].reshape(-1, 12)
    assert torch.equal(small.blocks[0].fused.weight, rows)


def test_shrinking_keeps_type_mode_and_generator_and_leaves_the_model_alone() -> None:
    model = coupled().double().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    small = shrink(model, {"width": torch.arange(3)})
    assert small.training
    assert {tensor.dtype for tensor in small.state_dict().values()} == {torch.double}
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        small.head.bias.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_blank_model_has_shapes_and_zeros_and_draws_nothing() -> None:
    state = torch.get_rng_state()
    model = blank(CoupledConfig(width=5))
    assert model.embed.weight.shape == (5, 8)
    assert not any(parameter.any() for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", ["structured-magnitude", "structured-random"])
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.75, 0.9])
def test_operations_come_within_one_unit_of_the_request(method: str, sparsity: float) -> None:
    model = coupled()
    pruned = _prune(model, method=method, sparsity=sparsity)
    outcome, dense = pruned.outcome, macs(model.config)
    assert (outcome.total, outcome.unit, outcome.of) == (dense, "MACs", "operations")
    assert outcome.requested == round(sparsity * dense)
    assert outcome.realised == dense - macs(pruned.model.config)
    # The largest unit is one of the width: a twelfth of everything.
    assert abs(outcome.realised - outcome.requested) <= dense / 12 / 2
    assert pruned.model(_x()).shape == (3, 5, 2)
    widths = {name: kept for name, (kept, of) in outcome.kept_units.items()}
    assert widths["width"] == pruned.model.config.width
    assert "blocks" not in widths


def test_scores_per_cost_weigh_what_a_unit_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same score everywhere, units of the width, which save most, go first, and feed-forward units last."""
    flat = {group.name: torch.ones(group.size) for group in coupled().groups()}
    monkeypatch.setitem(SCORES.entries, "flat", f"{__name__}:_flat")
    monkeypatch.setattr(sys.modules[__name__], "_flat", lambda model, statistics: flat, raising=False)
    method = replace(STRUCTURED_TAYLOR, score="flat", needs_data=False)
    monkeypatch.setattr("prunecast.prune.methods.STRUCTURED_TAYLOR", method)
    half, most = (_prune(coupled(), method="structured-taylor", sparsity=share).model.config for share in (0.5, 0.95))
    assert (half.width, half.heads, half.hidden) == (6, (4, 4), (10, 14))
    assert (most.width, most.heads, most.hidden) == (1, (1, 1), (10, 14))


def test_few_questions_are_asked_about_the_cost() -> None:
    torch.manual_seed(1)
    asked: list[int] = []

    def cost(config: ForecasterConfig) -> int:
        asked.append(1)
        return dense_macs(config)

    model = build(config_from({"name": "transformer", "channels": 7}))
    prune_model(
        model, PruneConfig(method="structured-magnitude", sparsity=0.5), seed=1, cost=cost, weight_cost=macs_per_weight
    )
    assert len(asked) <= 16, "each is a forecast: planning would take more than a second at paper size"


def test_every_group_loses_the_same_share() -> None:
    kept = _prune(coupled(), sparsity=0.7).outcome.kept_units
    shares = [1 - left / of for left, of in kept.values()]
    assert max(shares) - min(shares) <= 1 / 4


def test_the_weakest_units_go() -> None:
    model = coupled()
    with torch.no_grad():
        model.blocks[0].up.weight[[2, 5, 6]] *= 1e-3
        model.blocks[0].down.weight[:, [2, 5, 6]] *= 1e-3
    small = _prune(model, sparsity=0.1, kinds=("ffn",)).model
    kept = [row in small.blocks[0].up.bias for row in model.blocks[0].up.bias]
    assert not any(kept[unit] for unit in [2, 5, 6][: kept.count(False)])
    assert kept.count(False) >= 1


def test_layers_go_when_asked_for() -> None:
    pruned = _prune(coupled(), sparsity=0.4, kinds=("layer",))
    assert len(pruned.model.blocks) == 1
    assert pruned.outcome.kept_units == {"blocks": (1, 2)}


def test_random_units_follow_the_seed() -> None:
    outputs = [_prune(coupled(), method="structured-random", seed=seed).model(_x()) for seed in (1, 1, 2)]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("of", ["model", "prunable"])
def test_shares_of_parameters_are_counted_on_the_shrunk_model(of: str) -> None:
    model = coupled()

    def count(model: Coupled) -> int:
        names = model.prunable() if of == "prunable" else [name for name, _ in model.named_parameters()]
        return sum(model.get_parameter(name).numel() for name in names)

    pruned = _prune(model, sparsity=0.5, of=of)
    assert pruned.outcome.realised == count(model) - count(pruned.model)
    assert pruned.outcome.unit == {"model": "parameters", "prunable": "weights"}[of]
    assert abs(pruned.outcome.realised - 0.5 * count(model)) <= count(model) / 12


def test_masks_of_an_unstructured_pruning_are_cut_along() -> None:
    model = coupled()
    sparse = prune_model(model, PruneConfig(sparsity=0.5), seed=1, cost=macs, weight_cost=macs_per_weight)
    pruned = _prune(sparse.model, masks=sparse.masks, sparsity=0.5, kinds=("ffn", "width", "layer"))
    assert pruned.masks
    for name, mask in pruned.masks.items():
        assert torch.equal(pruned.model.get_parameter(name) != 0, mask)
    again = prune_model(
        pruned.model,
        PruneConfig(sparsity=0.9),
        seed=1,
        cost=macs,
        weight_cost=macs_per_weight,
        masks=pruned.masks,
    )
    assert again.outcome.realised == round(0.9 * again.outcome.total)


def test_masks_of_removed_layers_are_dropped() -> None:
    masks = {"blocks.0.up.weight": torch.ones(10, 12).bool(), "blocks.1.up.weight": torch.zeros(14, 12).bool()}
    small = cut(masks, coupled().groups(), {"blocks": torch.tensor([1]), "width": torch.arange(4)})
    assert {name: mask.shape for name, mask in small.items()} == {"blocks.0.up.weight": (14, 4)}
    assert not small["blocks.0.up.weight"].any()


def test_a_tiny_share_still_removes_a_unit() -> None:
    outcome = _prune(coupled(), sparsity=0.001).outcome
    assert outcome.realised > outcome.requested


def test_a_budget_out_of_reach_names_the_largest_share_that_works() -> None:
    model = coupled()
    with pytest.raises(
        UserError, match=r"cannot be met: at most \d+ can go; use a sparsity of at most 0\.\d+$"
    ) as caught:
        _prune(model, sparsity=0.9, kinds=("ffn",))
    largest = float(str(caught.value).rpartition(" ")[2])
    pruned = _prune(model, sparsity=largest, kinds=("ffn",))
    assert pruned.model.config.hidden == (2, 2)
    with pytest.raises(UserError, match="at most 0 can go"):
        _prune(pruned.model, sparsity=0.5, kinds=("ffn",))


def test_a_model_without_units_is_refused() -> None:
    with pytest.raises(UserError, match="model 'coupled' has no units of kinds head, ffn, width; use an unstructured"):
        _prune(Rigid(CoupledConfig()))
    with pytest.raises(UserError, match="has no units of kinds mode"):
        _prune(coupled(), kinds=("mode",))


def test_options_without_meaning_are_refused() -> None:
    with pytest.raises(UserError, match=r"method 'structured-magnitude' has no use for prune\.candidates"):
        _prune(coupled(), candidates="all")


def test_what_stays_can_be_told_and_a_recipe_that_says_so_repeats_it() -> None:
    model, found = coupled(), _prune(coupled(), sparsity=0.5)
    share = found.outcome.realised / found.outcome.total
    told = {name: len(units) for name, units in found.keep.items()}
    again = _prune(model, sparsity=share, keep=told)
    assert again.keep.keys() == found.keep.keys()
    assert all(torch.equal(again.keep[name], units) for name, units in found.keep.items())
    assert (again.outcome.requested, again.outcome.realised) == (found.outcome.realised,) * 2
    config = PruneConfig(method="structured-magnitude", sparsity=share, keep=told)
    assert config.model_dump(mode="json")["keep"] == told
    assert PruneConfig(**config.model_dump(mode="json")) == config
    assert "keep" not in PruneConfig().model_dump()
    layer = _prune(
        model,
        sparsity=1 - macs(model.shrunk_config({"blocks": torch.tensor([1])})) / macs(model.config),
        keep={"blocks": [1]},
        kinds=("layer",),
    )
    assert layer.keep["blocks"].tolist() == [1]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"keep": {"blocks.0.fnf": 3}}, "no units 'blocks.0.fnf' that may go; did you mean 'blocks.0.ffn'"),
        ({"keep": {"blocks.0.ffn": 1}}, "blocks.0.ffn: expected 2 to all of its 10, found 1"),
        ({"keep": {"blocks.0.ffn": (3, 10)}}, r"expected 2 to all of its 10, found \(3, 10\)"),
        (
            {"keep": {"blocks.0.ffn": 9}, "sparsity": 0.5},
            "expected the share that prune.keep removes, 0.0150, found 0.5",
        ),
        ({"keep": {"blocks.0.ffn": 9}, "step": 0.1}, r"has no use for prune\.step"),
        ({"keep": {"blocks.0.ffn": 9}, "method": "magnitude"}, r"has no use for prune\.keep"),
    ],
)
def test_what_cannot_stay_so_is_named(section: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _prune(coupled(), **section)
