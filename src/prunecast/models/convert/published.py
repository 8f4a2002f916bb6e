"""What an import needs to know of a published implementation, and what is known of most of them, as tables.

Crossformer and FEDformer, whose tensors are also shaped otherwise, stand in files of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from prunecast.models.base import ForecasterConfig

Tensors = Mapping[str, Tensor]
Modes = Mapping[str, Sequence[int]]
NamePairs = tuple[tuple[str, str], ...]
Shown = Mapping[str, tuple[str, int] | str]


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published implementation of one of our models.

    Attributes:
        arguments: our config keys -> the implementation's arguments, where a value means the same in both.
        names: parts of its tensors' names, and what we call them; replaced one after the other.
        rearranged: what is done to its tensors before. None where names are all that differs.
        shown: our config keys -> a tensor and the dimension whose size the value is, or for a number of layers what
            their names begin with. Of two names with "|" between them the implementation has either.
        more_shown: the values of our config that its tensors show otherwise.
        unseen: config keys that change the forecast and that no tensor shows; they come from the user or the defaults.
        constants: values of our config that make this variant out of several.
        modes: from a config and the Fourier modes that the implementation keeps outside its state dict (name of its
            module and attribute -> indices) to our buffers; a UserError says what is wrong with them. None without.
        drawn_modes: from a config and the seed that NumPy had when the implementation built its model to the modes that
            it drew, by the same names. None without.
    """

    arguments: dict[str, str]
    names: NamePairs = ()
    rearranged: Callable[[Tensors], Tensors] | None = None
    shown: Shown = field(default_factory=dict)
    more_shown: Callable[[Tensors], Mapping[str, Any]] | None = None
    unseen: tuple[str, ...]
    constants: Mapping[str, Any] = field(default_factory=dict)
    modes: Callable[[ForecasterConfig, Modes], dict[str, Tensor]] | None = None
    drawn_modes: Callable[[ForecasterConfig, int], Modes] | None = None

    def config(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values of our config for the arguments of the implementation; one it does not have is left."""
        given = {ours: arguments[theirs] for ours, theirs in self.arguments.items() if theirs in arguments}
        return given | dict(self.constants)

    def tensors(self, published: Tensors) -> dict[str, Tensor]:
        """Returns its parameters (or their gradients, or its whole state dict) as ours, by name and shape.

        Position tables and counts of batches are left out; a name that is not known is passed on as it is. Kernels of
        width one, which the implementations write for linear layers, come as the matrices that they are.
        """
        result = {}
        for name, tensor in (published if self.rearranged is None else self.rearranged(published)).items():
            if name.endswith(("position_embedding.pe", "num_batches_tracked")):
                continue
            kernel = name.endswith(("conv1.weight", "conv2.weight"))
            for theirs, ours in self.names:
                name = name.replace(theirs, ours)  # noqa: PLW2901 - one replacement after the other
            result[name] = tensor.squeeze(2) if kernel else tensor
        return result

    def sizes(self, published: Tensors) -> dict[str, Any]:
        """Returns the values of our config that its tensors show."""
        found: dict[str, Any] = {}
        for key, shown in self.shown.items():
            if isinstance(shown, str):
                names = (name.removeprefix(shown) for name in published if name.startswith(shown))
                found[key] = len({name.partition(".")[0] for name in names})
            else:
                *others, last = shown[0].split("|")
                name = next((name for name in others if name in published), last)
                found[key] = published[name].shape[shown[1]]
        return found if self.more_shown is None else found | dict(self.more_shown(published))


SIZES = {"lookback": "seq_len", "horizon": "pred_len", "label_len": "label_len", "channels": "enc_in"}
"""Our config keys -> arguments of Time-Series-Library's models, for all models."""

ENCODER = SIZES | {
    "d_model": "d_model",
    "n_heads": "n_heads",
    "d_ff": "d_ff",
    "encoder_layers": "e_layers",
    "dropout": "dropout",
    "activation": "activation",
}
"""The same for models with an encoder."""

ENCODER_DECODER = ENCODER | {"decoder_layers": "d_layers"}
"""The same for models with an encoder and a decoder."""

LAYER_NAMES: NamePairs = (
    ("attn_layers.", "layers."),
    ("_projection.", "."),
    ("conv1.", "feed_forward.up."),
    ("conv2.", "feed_forward.down."),
)

TRANSFORMER_NAMES: NamePairs = (
    ("enc_embedding.", "encoder.embedding."),
    ("dec_embedding.", "decoder.embedding."),
    ("value_embedding.tokenConv.", "value."),
    ("temporal_embedding.embed.", "calendar."),
    *LAYER_NAMES,
)

TRANSFORMER_UNSEEN = ("lookback", "horizon", "label_len", "n_heads", "activation", "dropout")

ENCODER_DECODER_SHOWN: Shown = {
    "channels": ("enc_embedding.value_embedding.tokenConv.weight", 1),
    "marks": ("enc_embedding.temporal_embedding.embed.weight", 1),
    "d_model": ("enc_embedding.value_embedding.tokenConv.weight", 0),
    "d_ff": ("encoder.attn_layers.0.conv1.weight", 0),
    "encoder_layers": "encoder.attn_layers.",
    "decoder_layers": "decoder.layers.",
}

TRANSFORMER = Published(
    arguments=ENCODER_DECODER, names=TRANSFORMER_NAMES, shown=ENCODER_DECODER_SHOWN, unseen=TRANSFORMER_UNSEEN
)
"""Of Time-Series-Library, and of the Autoformer and FEDformer repositories: names and sums alike."""


def _distils(published: Tensors) -> dict[str, bool]:
    """With one encoder layer there is nothing to distil."""
    single = not any(name.startswith("encoder.attn_layers.1.") for name in published)
    return {"distil": single or any(name.startswith("encoder.conv_layers.") for name in published)}


INFORMER_TSLIB = Published(
    arguments=ENCODER_DECODER | {"factor": "factor", "distil": "distil"},
    names=(
        *TRANSFORMER_NAMES,
        ("encoder.conv_layers.", "encoder.distilling."),
        ("downConv.", "convolution."),
        ("running_mean", "mean"),
        ("running_var", "variance"),
    ),
    shown=ENCODER_DECODER_SHOWN,
    more_shown=_distils,
    unseen=(*TRANSFORMER_UNSEEN, "factor", "cross_attention"),
)
"""A checkpoint of the Autoformer repository needs `cross_attention: full`."""


def _projection_in_decoder(published: Tensors) -> Tensors:
    """The original's last projection stands beside its decoder."""
    return {f"decoder.{name}" if name.startswith("projection.") else name: of for name, of in published.items()}


INFORMER_ORIGINAL = replace(
    INFORMER_TSLIB,
    arguments=INFORMER_TSLIB.arguments | {"mix": "mix"},
    rearranged=_projection_in_decoder,
    unseen=(*TRANSFORMER_UNSEEN, "factor", "mix"),
    constants={"cross_attention": "full", "mix_all": False, "distil_padding": 1, "embedding_bias": True},
)
"""Informer2020, with attention "prob" and calendar features "timeF", its defaults."""


AUTOFORMER_TSLIB = Published(
    arguments=ENCODER_DECODER | {"factor": "factor", "moving_avg": "moving_avg"},
    names=(
        *TRANSFORMER_NAMES,
        ("norm.layernorm.", "norm.norm."),
        # a layer's projection is that of its trend; the decoder's own is that of the season
        (".projection.", ".trend."),
        ("decoder.trend.", "decoder.projection."),
    ),
    shown=ENCODER_DECODER_SHOWN,
    unseen=(*TRANSFORMER_UNSEEN, "factor", "moving_avg"),
    constants={"odd_lengths": "resampled"},
)


def _without_single_mixtures(published: Tensors) -> Tensors:
    """A mixture of a single moving average has weight 1."""
    return {name: of for name, of in published.items() if not (".layer." in name and of.numel() == 1)}


AUTOFORMER_ORIGINAL = replace(AUTOFORMER_TSLIB, rearranged=_without_single_mixtures, constants={"odd_lengths": "exact"})
"""Also that of the FEDformer repository, whose moving average is 24 steps by default, written as a list of one."""


ITRANSFORMER = Published(
    arguments=ENCODER,
    names=(
        ("enc_embedding.value_embedding.", "encoder.embedding."),
        ("projector.", "projection."),
        *LAYER_NAMES,
    ),
    shown={
        "lookback": ("enc_embedding.value_embedding.weight", 1),
        "horizon": ("projection.weight|projector.weight", 0),
        "d_model": ("enc_embedding.value_embedding.weight", 0),
        "d_ff": ("encoder.attn_layers.0.conv1.weight", 0),
        "encoder_layers": "encoder.attn_layers.",
    },
    unseen=("channels", "marks", "n_heads", "activation", "dropout"),
)
"""Of Time-Series-Library and of the authors, who name the last layer differently."""

PATCHTST = Published(
    arguments=ENCODER,
    names=(
        ("patch_embedding.value_embedding.", "encoder.embedding.value."),
        ("encoder.norm.1.running_", "encoder.norm."),
        ("encoder.norm.1.", "encoder.norm."),
        ("encoder.norm.var", "encoder.norm.variance"),
        ("head.linear.", "head."),
        *LAYER_NAMES,
    ),
    shown={
        "horizon": ("head.linear.weight", 0),
        "patch_len": ("patch_embedding.value_embedding.weight", 1),
        "d_model": ("patch_embedding.value_embedding.weight", 0),
        "d_ff": ("encoder.attn_layers.0.conv1.weight", 0),
        "encoder_layers": "encoder.attn_layers.",
    },
    unseen=("lookback", "stride", "channels", "n_heads", "activation", "dropout"),
    constants={"patch_len": 16, "stride": 8, "head_dropout": None},
)
"""Its patch length and stride are fixed, and dropout also hits the forecast."""


DLINEAR_TSLIB = Published(
    arguments=SIZES | {"moving_avg": "moving_avg"},
    names=(("Linear_Seasonal.", "seasonal."), ("Linear_Trend.", "trend.")),
    shown={"lookback": ("Linear_Seasonal.weight", 1), "horizon": ("Linear_Seasonal.weight", 0)},
    unseen=("channels", "moving_avg"),
)

DLINEAR_ORIGINAL = replace(DLINEAR_TSLIB, arguments=SIZES, unseen=("channels",), constants={"moving_avg": 25})
"""Its moving average is fixed."""


FITS_LAYER = "freq_upsampler."


def _fits_tensors(published: Tensors) -> Tensors:
    """Real and imaginary parts apart, layers of channels in one tensor; all bins."""
    weight, bias = _stacked(published, "weight"), _stacked(published, "bias")
    writes, reads = weight.shape[-2:]
    return {
        "read_bins": torch.arange(reads),
        "written_bins": torch.arange(writes),
        "real": weight.real.contiguous(),
        "imaginary": weight.imag.contiguous(),
        "real_bias": bias.real.contiguous(),
        "imaginary_bias": bias.imag.contiguous(),
    } | {name: tensor for name, tensor in published.items() if not name.startswith(FITS_LAYER)}


def _fits_sizes(published: Tensors) -> dict[str, int | bool]:
    individual = f"{FITS_LAYER}0.weight" in published
    found = {"cut_freq": _stacked(published, "weight").shape[-1], "individual": individual}
    return found | ({"channels": len(published) // 2} if individual else {})


def _stacked(published: Tensors, part: str) -> Tensor:
    if f"{FITS_LAYER}{part}" in published:
        return published[f"{FITS_LAYER}{part}"]
    return torch.stack([published[f"{FITS_LAYER}{channel}.{part}"] for channel in range(len(published) // 2)])


FITS_ORIGINAL = Published(
    arguments=SIZES | {"cut_freq": "cut_freq", "individual": "individual"},
    rearranged=_fits_tensors,
    more_shown=_fits_sizes,
    unseen=("lookback", "horizon", "channels"),
)


def _map_of_periods(published: Tensors) -> dict[str, int | str]:
    hidden = published.get("mlp.0.weight")
    return {"model_type": "linear"} if hidden is None else {"model_type": "mlp", "d_model": hidden.shape[0]}


SPARSETSF = Published(
    arguments=SIZES | {"period_len": "period_len", "model_type": "model_type", "d_model": "d_model"},
    names=(("conv1d.", "aggregation."), ("linear.", "map."), ("mlp.", "map.")),
    more_shown=_map_of_periods,
    unseen=("lookback", "horizon", "period_len", "channels"),
)
