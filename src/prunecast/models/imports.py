"""Foreign checkpoints: published parameter names to ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from prunecast.errors import UserError
from prunecast.models.api import Forecaster

_TSLIB_NAMES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "transformer": (
        ("enc_embedding.", "encoder.embedding."),
        ("dec_embedding.", "decoder.embedding."),
        ("value_embedding.tokenConv.", "value."),
        ("temporal_embedding.embed.", "calendar."),
        ("attn_layers.", "layers."),
        ("_projection.", "."),
        ("conv1.", "feed_forward.up."),
        ("conv2.", "feed_forward.down."),
    ),
    "dlinear": (("Linear_Seasonal.", "seasonal."), ("Linear_Trend.", "trend.")),
}
"""Model -> replacements in Time-Series-Library's names, one after the other."""


def tslib_tensors(model: str, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns tensors (weights, or their gradients) of Time-Series-Library under our names and in our shapes.

    Fixed position tables are left out: ours are made from the config.

    Raises:
        UserError: when there is no name map for this model.
    """
    if model not in _TSLIB_NAMES:
        raise UserError(f"no import from Time-Series-Library for {model!r}; known: {', '.join(_TSLIB_NAMES)}")
    tensors = {name: tensor for name, tensor in published.items() if not name.endswith("position_embedding.pe")}
    return {_our_name(model, name): _our_shape(name, tensor) for name, tensor in tensors.items()}


def tslib_state(model: Forecaster, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a whole state dict for `model` from one of Time-Series-Library.

    Raises:
        UserError: when a tensor is missing, does not belong to the model, or has another shape.
    """
    tensors = tslib_tensors(model.config.name, published)
    parameters = dict(model.named_parameters())
    if tensors.keys() != parameters.keys():
        missing, foreign = sorted(parameters.keys() - tensors.keys()), sorted(tensors.keys() - parameters.keys())
        raise UserError(f"checkpoint does not fit the model: missing {missing[:3]}, not in the model {foreign[:3]}")
    for name, parameter in parameters.items():
        if tensors[name].shape != parameter.shape:
            found = tuple(tensors[name].shape)
            raise UserError(f"{name}: expected shape {tuple(parameter.shape)} from the config, found {found}")
    return model.state_dict() | tensors


def _our_name(model: str, published: str) -> str:
    for theirs, ours in _TSLIB_NAMES[model]:
        published = published.replace(theirs, ours)
    return published


def _our_shape(published: str, tensor: Tensor) -> Tensor:
    """Returns kernels of width one as the matrices that they are."""
    return tensor.squeeze(2) if published.endswith(("conv1.weight", "conv2.weight")) else tensor
