"""Methods that prune in training: when masks change, how much is gone, and that an interruption changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.interruptions import Stop, StopsAfter

from prunecast.data.series import load_series
from prunecast.data.windows import Prepared, prepare
from prunecast.errors import UserError
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.models.base import ForecastModel, build, config_from
from prunecast.prune.apply import prune_in_training, prune_model
from prunecast.prune.methods import Masks, Statistics
from prunecast.prune.schedule import MasksInTraining, Updates
from prunecast.recipe import DataConfig, FitConfig, PruneConfig
from prunecast.registry import METHODS, SCORES
from prunecast.train.fit import fit, total_steps

ETTH1 = Path(__file__).parents[2] / "data" / "ETTh1-2000.csv"
FIT = FitConfig(epochs=3, batch_size=200, learning_rate=0.003, schedule="constant", threads=1, device="cpu")
TRAINING = [name for name in METHODS.names() if METHODS.load(name).schedule]
SPARSITY = 0.8

in_training = pytest.mark.parametrize("method", TRAINING)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    data = DataConfig(name=str(ETTH1))
    return prepare(load_series(data), data, lookback=24, horizon=6, label_len=12)


def itransformer() -> ForecastModel:
    sizes = {"lookback": 24, "horizon": 6, "label_len": 12, "channels": 7, "marks": 4, "dropout": 0.1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        narrow = {"d_model": 16, "n_heads": 2, "d_ff": 16, "encoder_layers": 2}
        return build(config_from({"name": "itransformer"} | sizes | narrow))


def hook_for(
    model: ForecastModel, prepared: Prepared, method: str, *, masks: Masks | None = None, **keys: Any
) -> MasksInTraining:
    config = PruneConfig(**{"method": method, "sparsity": SPARSITY, "training_updates": 5} | keys)
    steps = total_steps(FIT, len(prepared.train))
    return prune_in_training(
        model, config, steps=steps, seed=1, cost=dense_macs, weight_cost=macs_per_weight, masks=masks
    )


def run(model: ForecastModel, prepared: Prepared, hook: MasksInTraining, **keys: Any) -> None:
    fit(model, prepared.train, prepared.validation, FIT, seed=1, hooks=[hook], **keys)


def zeros(masks: Masks) -> int:
    return sum(int((~mask).sum()) for mask in masks.values())


class Watched:
    """Writes down the masks of a hook after each change."""

    def __init__(self, hook: MasksInTraining) -> None:
        self.masks: list[dict[str, torch.Tensor]] = []
        hold = hook.hold

        def held(masks: Masks) -> None:
            hold(masks)
            self.masks.append({name: mask.clone() for name, mask in masks.items()})

        hook.hold = held  # type: ignore[method-assign]


def test_updates_are_evenly_spread_and_the_last_is_on_time() -> None:
    updates = Updates.of(PruneConfig(training_share=0.5, training_updates=3), 20)
    assert {steps: updates.after(steps) for steps in range(1, 21) if updates.after(steps)} == {4: 1, 7: 2, 10: 3}
    short = Updates.of(PruneConfig(training_updates=20), 7)
    assert [short.after(steps) for steps in range(8)] == [None, 1, 2, 3, 4, 5, None, None]


def test_a_training_without_room_for_an_update_is_refused() -> None:
    with pytest.raises(UserError, match=r"first 0\.75 of the steps .*, expected at least one step in it, found 1 in"):
        Updates.of(PruneConfig(method="gradual-magnitude"), 1)


def test_the_gradual_schedule_is_the_published_cubic_one(prepared: Prepared) -> None:
    model = itransformer()
    hook = hook_for(model, prepared, "gradual-magnitude")
    # 0.8 (1 - (1 - u/5)^3)
    expected = [0.3904, 0.6272, 0.7488, 0.7936, 0.8]
    assert [hook.cubic_share(number) for number in range(1, 6)] == pytest.approx(expected)
    watched = Watched(hook)
    run(model, prepared, hook)
    total = hook.outcome.total
    assert [zeros(masks) for masks in watched.masks] == [0] + [round(share * total) for share in expected]
    for earlier, later in zip(watched.masks[1:], watched.masks[2:], strict=False):
        assert all((earlier[name] | ~later[name]).all() for name in earlier), "no weight comes back"


@in_training
@pytest.mark.parametrize("of", ["prunable", "model", "operations"])
def test_exactly_what_was_asked_for_is_gone_and_stays_so(prepared: Prepared, method: str, of: str) -> None:
    model = itransformer()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hook = hook_for(model, prepared, method, of=of, sparsity=0.6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    run(model, prepared, hook)
    outcome, masks = hook.outcome, hook.masks
    asked = prune_model(
        itransformer(),
        PruneConfig(method="magnitude", sparsity=0.6, of=of),
        seed=1,
        cost=dense_macs,
        weight_cost=macs_per_weight,
    ).outcome
    assert (outcome.method, outcome.of, outcome.total, outcome.requested) == (method, of, asked.total, asked.requested)
    if of == "operations":
        prices = macs_per_weight(model)
        worth = sum(prices[name] * int((~mask).sum()) for name, mask in masks.items())
        assert outcome.realised == round(worth)
        assert abs(worth - outcome.requested) <= max(prices.values())
    else:
        assert outcome.realised == outcome.requested == zeros(masks)
    assert outcome.removed_weights == {name: int((~mask).sum()) for name, mask in masks.items()}
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        assert not weight[~mask].any()
        assert weight[mask].all()


@in_training
def test_an_interrupted_run_ends_as_an_uninterrupted_one(prepared: Prepared, method: str, tmp_path: Path) -> None:
    whole, broken, again = (itransformer() for _ in range(3))
    expected = hook_for(whole, prepared, method)
    run(whole, prepared, expected)
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Stop):
        run(broken, prepared, hook_for(broken, prepared, method), checkpoint=checkpoint, reporter=StopsAfter(1))
    found = hook_for(again, prepared, method)
    run(again, prepared, found, checkpoint=checkpoint)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
    assert all(torch.equal(mask, found.masks[name]) for name, mask in expected.masks.items())
    assert found.outcome == expected.outcome


@in_training
def test_the_weights_that_are_kept_are_of_an_epoch_after_the_last_change(prepared: Prepared, method: str) -> None:
    model = itransformer()
    hook = hook_for(model, prepared, method, training_share=1.0)
    result = fit(model, prepared.train, prepared.validation, FIT, seed=1, hooks=[hook])
    assert result.best_epoch == FIT.epochs, "in the epochs before, masks were changing still"
    impatient = FIT.model_copy(update={"learning_rate": 0.5, "patience": 1})
    hook = hook_for(model, prepared, method, training_share=1.0)
    assert len(fit(model, prepared.train, prepared.validation, impatient, seed=1, hooks=[hook]).epochs) == FIT.epochs


@in_training
def test_what_was_masked_before_stays_masked(prepared: Prepared, method: str) -> None:
    pruned = prune_model(
        itransformer(),
        PruneConfig(method="random", sparsity=0.3),
        seed=1,
        cost=dense_macs,
        weight_cost=macs_per_weight,
    )
    model = pruned.model
    hook = hook_for(model, prepared, method, masks=pruned.masks)
    run(model, prepared, hook)
    assert hook.outcome.realised == hook.outcome.requested == zeros(hook.masks)
    assert not any((hook.masks[name] & ~mask).any() for name, mask in pruned.masks.items())


@in_training
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"step": 0.1}, "no use for prune.step"),
        ({"calibration_batches": 2}, "no use for prune.calibration_batches"),
        ({"kinds": ("ffn",)}, "no use for prune.kinds"),
        ({"sparsity": 1e-9}, "rounds to 0"),
    ],
)
def test_what_cannot_be_done_is_refused_before_training(
    prepared: Prepared, method: str, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        hook_for(itransformer(), prepared, method, **keys)


@in_training
def test_pruning_at_once_is_refused(method: str) -> None:
    config = PruneConfig(method=method)
    with pytest.raises(UserError, match=f"method '{method}' prunes in training, .* give --finetune-epochs"):
        prune_model(itransformer(), config, seed=1, cost=dense_macs, weight_cost=macs_per_weight)


def test_a_method_without_training_has_no_use_for_its_options() -> None:
    config = PruneConfig(method="magnitude", training_updates=3)
    with pytest.raises(UserError, match=r"no use for prune\.training_updates"):
        prune_model(itransformer(), config, seed=1, cost=dense_macs, weight_cost=macs_per_weight)


def started(prepared: Prepared, method: str, **keys: Any) -> tuple[ForecastModel, MasksInTraining]:
    """Returns a model and its hook before the first step."""
    model = itransformer()
    hook = hook_for(model, prepared, method, **keys)
    hook.on_start(model, torch.optim.Adam(model.parameters()))
    return model, hook


def set_gradients(model: ForecastModel, seed: int) -> dict[str, torch.Tensor]:
    """Gives each prunable weight a gradient; returns them."""
    generator = torch.Generator().manual_seed(seed)
    gradients = {}
    for name in model.prunable():
        weight = model.get_parameter(name)
        gradients[name] = torch.randn(weight.shape, generator=generator)
        weight.grad = gradients[name].clone()
    return gradients


def test_movement_sums_up_weight_times_gradient_of_masked_weights_too(prepared: Prepared) -> None:
    """Sanh et al. 2020: what is masked keeps its value, is scored by it, and comes back with it."""
    model, hook = started(prepared, "movement")
    weights = {name: model.get_parameter(name).detach().clone() for name in model.prunable()}
    first = set_gradients(model, 1)
    hook.after_backward(0)
    hook.update(3)
    spared = model.output_layer()
    scores = torch.cat([(-weights[name] * first[name]).flatten() for name in weights if name not in spared])
    kept = torch.cat([mask.flatten() for mask in hook.masks.values()])
    assert scores[~kept].max() < scores[kept].min()
    assert int((~kept).sum()) == round(hook.cubic_share(3) * hook.outcome.total)
    assert not any(model.get_parameter(name)[~mask].any() for name, mask in hook.masks.items())
    second = {name: -20 * weight for name, weight in weights.items()}  # now all weights are moved away from zero ...
    before = {name: mask.clone() for name, mask in hook.masks.items()}
    for name, mask in before.items():
        weight = model.get_parameter(name)
        weight.grad = torch.where(mask, -second[name], second[name])  # ... that are masked, the others towards it
    hook.after_backward(1)
    hook.update(3)
    for name, mask in before.items():
        weight = model.get_parameter(name)
        assert not weight.grad[~mask].any()  # type: ignore[index]
        returned = hook.masks[name] & ~mask
        assert torch.equal(weight[returned], weights[name][returned])
    returned_in_all = sum(int((hook.masks[name] & ~mask).sum()) for name, mask in before.items())
    assert returned_in_all == min(zeros(before), int(kept.sum()))


def test_rigl_drops_the_smallest_and_grows_where_the_gradient_is_largest(prepared: Prepared) -> None:
    """Evci et al. 2020: 0.3 / 2 (1 + cos(pi u / n)) of the weights of a layer, one cosine down to none."""
    model, hook = started(prepared, "rigl")
    hook.updates = Updates(4, 4)
    before = {name: mask.clone() for name, mask in hook.masks.items()}
    weights = {name: model.get_parameter(name).detach().clone() for name in before}
    gradients = set_gradients(model, 2)
    hook.after_backward(0)
    share = 0.15 * (1 + 0.5**0.5)
    for name, mask in before.items():
        count, after, size = int(share * int(mask.sum())), hook.masks[name], weights[name].abs()
        assert int(after.sum()) == int(mask.sum()), "as many as before"
        dropped, grown = mask & ~after, after & ~mask
        assert 0 < int(dropped.sum()) == int(grown.sum()) <= count
        smallest = size[mask].sort().values[: count + 1]
        assert size[dropped].max() <= smallest[count - 1]
        outside = ~mask | (mask & (size < smallest[count]))
        assert (
            gradients[name].abs()[grown].min() >= gradients[name].abs()[outside].sort(descending=True).values[count - 1]
        )
        weight = model.get_parameter(name)
        assert not weight[grown].any(), "what grows starts from zero"
        assert torch.equal(weight.grad, gradients[name] * after)  # type: ignore[arg-type]
        assert torch.equal(weight[mask & after], weights[name][mask & after])
    last = {name: mask.clone() for name, mask in hook.masks.items()}
    set_gradients(model, 3)
    hook.after_backward(3)
    assert all(torch.equal(mask, last[name]) for name, mask in hook.masks.items()), "the last update drops none"


def test_acdc_is_dense_and_sparse_in_turn_and_ends_sparse(prepared: Prepared) -> None:
    model = itransformer()
    hook = hook_for(model, prepared, "acdc", training_updates=6)
    watched, fast = Watched(hook), FIT.model_copy(update={"learning_rate": 0.1})
    fit(model, prepared.train, prepared.validation, fast, seed=1, hooks=[hook])
    asked = hook.outcome.requested
    assert [zeros(masks) for masks in watched.masks] == [0, 0, asked, 0, asked, 0, asked]
    assert not all(torch.equal(mask, watched.masks[2][name]) for name, mask in hook.masks.items()), "chosen anew"


def test_movement_has_no_score_without_training() -> None:
    with pytest.raises(UserError, match="sums up over training"):
        SCORES.load("movement")(itransformer(), Statistics(seed=1))
