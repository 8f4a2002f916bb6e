"""Layers of torch are the linear maps that they are said to be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prunecast.models.base import LinearMap
from prunecast.prune.torch_maps import attention_maps, maps_of_layer


def of_features(layer: nn.Module, own: LinearMap, *arguments: Tensor) -> Tensor:
    tensors = {name: layer.get_parameter(name) for name in own.parameters}
    y_NO = (own.features(*arguments) @ own.matrix(tensors).mT)[0]
    return y_NO if own.bias is None else y_NO + layer.get_parameter(own.bias)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(3, 5, 1),
        nn.Conv1d(3, 5, 3, padding=1, bias=False),
        nn.Conv1d(3, 5, 4, padding="same", dilation=2),
        nn.Conv1d(3, 5, 3, padding="valid", stride=2),
        nn.Conv1d(3, 5, 3, padding=2, padding_mode="circular"),
        nn.Conv1d(3, 5, 3, padding=1, padding_mode="replicate"),
        nn.Conv2d(3, 5, (2, 3), padding=(0, 1), stride=(1, 2)),
        nn.Conv2d(3, 5, 3, padding="same", padding_mode="reflect"),
    ],
    ids=str,
)
def test_a_convolution_is_a_map_of_what_its_kernel_covers(layer: nn.Conv1d | nn.Conv2d) -> None:
    x = torch.randn(2, 3, *(9 for _ in layer.kernel_size))
    own = maps_of_layer(layer)[""]
    torch.testing.assert_close(of_features(layer, own, x), layer(x).movedim(1, -1).reshape(-1, 5))
    weight = {"weight": layer.weight}
    assert torch.equal(own.tensors(own.matrix(weight))["weight"], layer.weight)
    torch.testing.assert_close(own.features(x[0]), own.features(x[:1]))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_of_a_stream_to_itself_is_two_maps(batch_first: bool, bias: bool) -> None:
    layer = nn.MultiheadAttention(8, 2, bias=bias, batch_first=batch_first).eval()
    x = torch.randn(4, 5, 8)
    maps = maps_of_layer(layer)
    queries = nn.functional.linear(x, layer.in_proj_weight, layer.in_proj_bias).flatten(0, 1)
    torch.testing.assert_close(of_features(layer, maps["in"], x, x, x), queries)
    torch.testing.assert_close(of_features(layer, maps["out"], x, x, x), layer(x, x, x)[0].flatten(0, 1))


def test_the_map_from_heads_follows_the_one_to_them() -> None:
    layer = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x, before = torch.randn(4, 5, 8), attention_maps(layer)["out"]
    with torch.no_grad():
        layer.in_proj_weight.mul_(2)
    torch.testing.assert_close(of_features(layer, before, x, x, x), layer(x, x, x)[0].flatten(0, 1))


def test_what_is_no_one_map_has_none() -> None:
    assert not maps_of_layer(nn.Conv1d(4, 4, 3, groups=2))
    assert not maps_of_layer(nn.MultiheadAttention(8, 2, kdim=4, vdim=4))
    assert not maps_of_layer(nn.MultiheadAttention(8, 2, add_zero_attn=True))
    assert not maps_of_layer(nn.LayerNorm(3))
