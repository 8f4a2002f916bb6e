"""What an import needs to know of a published implementation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from prunecast.models.base import ForecasterConfig

Tensors = Mapping[str, Tensor]
Modes = Mapping[str, Sequence[int]]

SIZES: Mapping[str, str] = {
    "lookback": "seq_len",
    "horizon": "pred_len",
    "label_len": "label_len",
    "channels": "enc_in",
}
"""Our config keys -> arguments of Time-Series-Library's models, for all models."""

ENCODER: Mapping[str, str] = {
    **SIZES,
    "d_model": "d_model",
    "n_heads": "n_heads",
    "d_ff": "d_ff",
    "encoder_layers": "e_layers",
    "dropout": "dropout",
    "activation": "activation",
}
"""The same for models with an encoder."""

ENCODER_DECODER: Mapping[str, str] = {**ENCODER, "decoder_layers": "d_layers"}
"""The same for models with an encoder and a decoder."""


@dataclass(frozen=True)
class Published:
    """A published implementation of one of our models.

    Attributes:
        arguments: our config keys -> the implementation's arguments, where a value means the same in both.
        tensors: from its parameters (or their gradients, or its whole state dict) to ours, by name and shape; what is
            fixed (position tables) is left out, a name that is not known is passed on as it is.
        sizes: the values of our config that its tensors show.
        unseen: config keys that change the forecast and that no tensor shows; they come from the user or the defaults.
        constants: values of our config that make this variant out of several.
        modes: from a config and the Fourier modes that the implementation keeps outside its state dict (name of its
            module and attribute -> indices) to our buffers; a UserError says what is wrong with them. None without.
        drawn_modes: from a config and the seed that NumPy had when the implementation built its model to the modes that
            it drew, by the same names. None without.
    """

    arguments: Mapping[str, str]
    tensors: Callable[[Tensors], dict[str, Tensor]]
    sizes: Callable[[Tensors], dict[str, Any]]
    unseen: tuple[str, ...]
    constants: Mapping[str, Any] = field(default_factory=dict)
    modes: Callable[[ForecasterConfig, Modes], dict[str, Tensor]] | None = None
    drawn_modes: Callable[[ForecasterConfig, int], Modes] | None = None

    def config(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values of our config for the arguments of the implementation; one it does not have is left."""
        return {ours: arguments[theirs] for ours, theirs in self.arguments.items() if theirs in arguments} | dict(
            self.constants
        )


def renamed(published: Tensors, names: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    """Returns the tensors under names in which each pair was replaced, one after the other; position tables left out.

    Kernels of width one, which the implementations write for linear layers, come as the matrices that they are.
    """
    result = {}
    for name, tensor in published.items():
        if name.endswith("position_embedding.pe"):
            continue
        kernel = name.endswith(("conv1.weight", "conv2.weight"))
        for theirs, ours in names:
            name = name.replace(theirs, ours)  # noqa: PLW2901 - one replacement after the other
        result[name] = tensor.squeeze(2) if kernel else tensor
    return result


def layers_of(published: Tensors, stack: str) -> int:
    """Returns how many layers a stack has, for instance "encoder.attn_layers."."""
    return len({name.removeprefix(stack).partition(".")[0] for name in published if name.startswith(stack)})
