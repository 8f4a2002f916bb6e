"""Layers of torch as linear maps: what a regression of modules that are not of the house needs.

B batch, C channels, L and S lengths, D width of a stream, G maps side by side, N tokens, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunecast.models.base import LinearMap, linear_map


def maps_of_layer(layer: nn.Module) -> Mapping[str, LinearMap]:
    """Returns the linear maps that a layer of torch computes when it is called: name -> map; empty for others.

    Those of attention hold for a stream's attention to itself without a mask. Convolutions of several groups have none.
    """
    if isinstance(layer, nn.Linear):
        return {"": linear_map(layer)}
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return {"": convolution_map(layer)} if layer.groups == 1 else {}
    if not isinstance(layer, nn.MultiheadAttention):
        return {}
    one_stream = layer.in_proj_weight is not None and layer.bias_k is None and not layer.add_zero_attn
    return attention_maps(layer) if one_stream else {}


def convolution_map(layer: nn.Conv1d | nn.Conv2d) -> LinearMap:
    """Returns the one map of a convolution: its inputs are what a kernel covers, its tokens the kernel's places."""
    inputs, *kernel = layer.weight.shape[1:]

    def features(x: Tensor) -> Tensor:
        x_BCLS = _padded(layer, x if x.ndim == layer.weight.ndim else x.unsqueeze(0))
        flat = (1,) * (4 - layer.weight.ndim)  # a series is a picture of one row
        x_BCLS = x_BCLS.view(*x_BCLS.shape[:2], *flat, *x_BCLS.shape[2:])
        size, dilation, stride = (flat + sizes for sizes in (layer.kernel_size, layer.dilation, layer.stride))
        return F.unfold(x_BCLS, size, dilation=dilation, stride=stride).mT.flatten(0, 1).unsqueeze(0)

    return LinearMap(
        parameters=("weight",),
        bias=None if layer.bias is None else "bias",
        features=features,
        matrix=lambda tensors: tensors["weight"].flatten(1).unsqueeze(0),
        tensors=lambda matrix_1OI: {"weight": matrix_1OI[0].view(-1, inputs, *kernel)},
    )


def _padded(layer: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """Returns what a convolution's kernel runs over."""
    if isinstance(layer.padding, str):
        spans = [dilation * (size - 1) for size, dilation in zip(layer.kernel_size, layer.dilation, strict=True)]
        pads = [(span // 2, span - span // 2) if layer.padding == "same" else (0, 0) for span in spans]
    else:
        pads = [(width, width) for width in layer.padding]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, list(chain(*reversed(pads))), mode=mode)


def attention_maps(layer: nn.MultiheadAttention) -> dict[str, LinearMap]:
    """Returns the maps of attention of a stream to itself: the one to queries, keys and values, and the one from heads.

    What the heads give is computed anew, with the weights that the layer has then.
    """

    def stream(query: Tensor, key: Tensor, value: Tensor, *others: object) -> Tensor:
        return query.reshape(1, -1, query.shape[-1])

    def heads(query: Tensor, key: Tensor, value: Tensor, *others: object) -> Tensor:
        x_LBD = query.transpose(0, 1) if layer.batch_first and query.ndim == 3 else query
        identity = torch.eye(layer.embed_dim, dtype=x_LBD.dtype, device=x_LBD.device)
        read_LBD, _weights = F.multi_head_attention_forward(
            x_LBD, x_LBD, x_LBD, layer.embed_dim, layer.num_heads, layer.in_proj_weight, layer.in_proj_bias, None, None,
            False, 0.0, identity, None, training=False, need_weights=False,
        )  # fmt: skip
        read = read_LBD.transpose(0, 1) if layer.batch_first and query.ndim == 3 else read_LBD
        return read.reshape(1, -1, layer.embed_dim)

    biased = layer.in_proj_bias is not None
    return {
        "in": _matrix_map("in_proj_weight", "in_proj_bias" if biased else None, stream),
        "out": _matrix_map("out_proj.weight", "out_proj.bias" if biased else None, heads),
    }


def _matrix_map(weight: str, bias: str | None, features: Callable[..., Tensor]) -> LinearMap:
    """Returns the map of one matrix."""
    return LinearMap(
        parameters=(weight,),
        bias=bias,
        features=features,
        matrix=lambda tensors: tensors[weight].unsqueeze(0),
        tensors=lambda matrix_1OI: {weight: matrix_1OI[0]},
    )
