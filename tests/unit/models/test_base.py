"""A blank model is the built one without its values, and leaves no trace."""

from __future__ import annotations

import pytest
import torch
from tests.support.small_models import SIZES, SMALL
from torch import nn

from prunecast.models.base import Layer, Streams, Units, blank, build, config_from, groups_of, outline, reads, writes


@pytest.mark.parametrize("name", SMALL)
def test_a_blank_model_has_every_shape_and_no_value(name: str) -> None:
    config = config_from(SIZES | {"name": name} | SMALL[name])
    before = torch.random.get_rng_state()
    model = blank(config)
    assert torch.equal(torch.random.get_rng_state(), before), "torch's generator is put back"
    whole = build(config)
    shapes = {key: (value.shape, value.dtype) for key, value in model.state_dict().items()}
    assert shapes == {key: (value.shape, value.dtype) for key, value in whole.state_dict().items()}
    assert all(not parameter.any() for parameter in model.parameters())
    fixed = {key: value for key, value in whole.named_buffers() if value.is_floating_point()}  # choices are whole
    for key, value in model.named_buffers():
        if key in fixed:
            assert torch.equal(value, fixed[key]), f"{key} is no random number, and is there"


class Inner(Layer):
    """Two layers around units of its own, and a norm; what `down` writes and `up` reads is for those above to say."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(4, 3), nn.LayerNorm(4), nn.Linear(3, 4, bias=False)
        self.alone = nn.Linear(2, 2)

    def streams(self) -> Streams:
        return {"up": reads("stream") | writes("own"), "down": reads("own") | writes("stream")}

    def units(self) -> dict[str, Units]:
        return {"own": Units("ffn", minimum=9)}


class Outer(Layer):
    def __init__(self, *parts: Layer) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def streams(self) -> Streams:
        return {"parts": {"stream": "width"}}

    def units(self) -> dict[str, Units]:
        return {"width": Units("width"), "parts": Units("layer")}


def test_groups_follow_from_what_layers_declare() -> None:
    first, second, width, layers = groups_of(Outer(Inner(), Inner()))
    assert [(group.name, group.kind, group.size) for group in (first, width, layers)] == [
        ("parts.0.own", "ffn", 3),
        ("width", "width", 4),
        ("parts", "layer", 2),
    ]
    assert second.name == "parts.1.own"
    assert first.minimum == 3, "no more than there are"
    assert [(member.name.removeprefix("parts.0."), member.dim) for member in first.members] == [
        ("up.weight", 0),
        ("up.bias", 0),
        ("down.weight", 1),
    ]
    own = [(member.name, member.dim) for member in width.members if member.name.startswith("parts.0.")]
    assert own == [
        (f"parts.0.{name}", dim)
        for name, dim in (("up.weight", 1), ("norm.weight", 0), ("norm.bias", 0), ("down.weight", 0))
    ]
    assert (first.normalised, width.normalised, layers.stack) == (False, True, "parts")


def test_units_that_nobody_reads_or_writes_are_a_mistake() -> None:
    with pytest.raises(AssertionError, match="width: no layer"):
        groups_of(Outer())


def test_an_outline_takes_no_memory() -> None:
    model = outline(config_from({"name": "dlinear", "channels": 1, "lookback": 50_000, "horizon": 50_000}))
    assert all(parameter.is_meta for parameter in model.parameters())
