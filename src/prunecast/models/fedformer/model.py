"""FEDformer with Fourier blocks: season and trend apart, the season mixed in the frequency domain.

Zhou et al. 2022, "FEDformer: Frequency Enhanced Decomposed Transformer for Long-term Series Forecasting"; numerically
equal to Time-Series-Library's `FEDformer`, and by configuration to the original (no position table, the tanh of
complex numbers, a learned mixture of moving averages).

B batch, L look-back, H horizon, T = label_len + H, C channels, D width of the encoder's stream, E width of the
decoder's stream; the letters of the Fourier blocks stand in `fourier.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from torch import nn

from prunecast.models.base import Keep, Streams
from prunecast.models.fedformer.fourier import BlockSizes, FourierAttention, FourierBlock, FourierCrossBlock
from prunecast.models.layers.decomposition import (
    DecompositionConfig,
    DecompositionDecoderLayer,
    DecompositionEncoderLayer,
    DecompositionModel,
    SeasonalDecoder,
    SeasonalEncoder,
)
from prunecast.models.layers.transforms import ModeSelect
from prunecast.models.layers.widths import Of, Widths

Blocks = dict[str, FourierBlock | FourierCrossBlock]


class BlockWidths(Widths):
    """Of one Fourier block: channels of each head that are read and written, and modes. Heads stand at the layers."""

    inputs: Annotated[int, Of("inputs")] = Field(ge=1)
    outputs: Annotated[int, Of("outputs")] = Field(ge=1)
    modes: Annotated[int, Of("modes")] = Field(ge=1)


class CrossBlockWidths(BlockWidths):
    """Of the block that looks at the encoder, which also keeps modes of what the encoder gives."""

    key_modes: Annotated[int, Of("key_modes")] = Field(ge=1)


class FourierWidths(Widths):
    """Of the three Fourier blocks; each serves all layers of its stack."""

    encoder: BlockWidths
    decoder: BlockWidths
    cross: CrossBlockWidths


class FEDformerConfig(DecompositionConfig):
    """Defaults are those of the published run at paper size, as Time-Series-Library computes it."""

    name: Literal["fedformer"] = "fedformer"
    lookback: int = Field(96, ge=2)
    modes: int = Field(64, ge=1, description="Fourier modes of each block, at most half of its steps")
    mode_select: ModeSelect = Field("random", description="which modes a new model keeps: random ones or the lowest")
    position_embedding: bool = Field(True, description="add a position table to the tokens; the original does not")
    complex_tanh: bool = Field(
        False, description="cross attention: tanh of the complex number, as the original; else of its parts"
    )
    fourier: FourierWidths | None = Field(None, description="widths after pruning; from the keys above when absent")

    @model_validator(mode="after")
    def _blocks_fit(self) -> Self:
        encoder, decoder = self.encoder_widths.layers, self.decoder_widths.layers
        shared = {
            "encoder heads": {layer.heads for layer in encoder},
            "decoder heads": {layer.heads for layer in decoder},
            "decoder cross_heads": {layer.cross_heads for layer in decoder},
        }
        for what, found in shared.items():
            if len(found) > 1:
                raise ValueError(f"{what}: expected the same in all layers, which share a block, found {sorted(found)}")
            if max(found) > self.n_heads:
                raise ValueError(f"{what}: expected at most n_heads ({self.n_heads}), found {max(found)}")
        _check_widths(self.fourier_widths, self.dense_fourier)
        return self

    @property
    def decoder_length(self) -> int:
        """Steps that the published decoder draws its modes for, whatever `label_len` is."""
        return self.lookback // 2 + self.horizon

    @property
    def dense_fourier(self) -> FourierWidths:
        """Widths of the Fourier blocks before any pruning."""
        size, memory = self.size_per_head, min(self.modes, self.lookback // 2)
        steps = min(self.modes, self.decoder_length // 2)
        return FourierWidths(
            encoder=BlockWidths(inputs=size, outputs=size, modes=memory),
            decoder=BlockWidths(inputs=size, outputs=size, modes=steps),
            cross=CrossBlockWidths(inputs=size, outputs=size, modes=steps, key_modes=memory),
        )

    @property
    def fourier_widths(self) -> FourierWidths:
        """Widths of the Fourier blocks, given or derived."""
        return self.fourier or self.dense_fourier

    def shrunk(self, keep: Keep) -> Self:
        """Returns the config with only the kept units; the heads of a block are those of all its layers."""
        heads = {
            f"{layer}.heads": keep[block]
            for block, layers in self._layers_of_blocks().items()
            if block in keep
            for layer in layers
        }
        fourier = self.fourier_widths.left(keep, "fourier")
        return super().shrunk({**keep, **heads}).model_copy(update={"fourier": fourier})

    def _layers_of_blocks(self) -> dict[str, list[str]]:
        """Returns the group of a block's heads -> the attentions that share the block."""
        encoder, decoder = range(self.encoder_layers), range(self.decoder_layers)
        return {
            "fourier.encoder.heads": [f"encoder.layers.{i}.attention" for i in encoder],
            "fourier.decoder.heads": [f"decoder.layers.{i}.self_attention" for i in decoder],
            "fourier.cross.heads": [f"decoder.layers.{i}.cross_attention" for i in decoder],
        }


def _check_widths(found: FourierWidths, dense: FourierWidths) -> None:
    for block, widths in found:
        for unit, size in widths:
            most = getattr(getattr(dense, block), unit)
            if size > most:
                raise ValueError(f"fourier.{block}.{unit}: expected at most {most}, found {size}")


class FEDformer(DecompositionModel):
    """Encoder and decoder that decompose, with three Fourier blocks in the place of attention."""

    Config = FEDformerConfig
    config: FEDformerConfig

    def __init__(self, config: FEDformerConfig) -> None:
        blocks = _blocks(config)
        position = config.position_embedding
        encoder = SeasonalEncoder(config, _encoder_layers(config, blocks), position=position)
        decoder = SeasonalDecoder(config, _decoder_layers(config, blocks), position=position)
        super().__init__(config, encoder, decoder)
        self.fourier = nn.ModuleDict(blocks)

    def paper_candidates(self) -> tuple[str, ...]:
        """Names as for every model; the weights of the Fourier blocks were no candidates in that study."""
        return tuple(name for name in super().paper_candidates() if not name.startswith("fourier."))

    def streams(self) -> Streams:
        """The Fourier blocks beside what every model that decomposes has."""
        return {"fourier": {}, **super().streams()}


def _blocks(config: FEDformerConfig) -> Blocks:
    encoder, decoder, widths = config.encoder_widths.layers[0], config.decoder_widths.layers[0], config.fourier_widths
    known, steps, drawn = config.lookback, config.label_len + config.horizon, config.decoder_length
    cross = _sizes(config, widths.cross, decoder.cross_heads, steps, drawn)
    return {
        "encoder": FourierBlock(_sizes(config, widths.encoder, encoder.heads, known, known)),
        "decoder": FourierBlock(_sizes(config, widths.decoder, decoder.heads, steps, drawn)),
        "cross": FourierCrossBlock(cross, known, widths.cross.key_modes, complex_tanh=config.complex_tanh),
    }


def _sizes(config: FEDformerConfig, widths: BlockWidths, heads: int, steps: int, length: int) -> BlockSizes:
    return BlockSizes(
        heads=heads,
        inputs=widths.inputs,
        outputs=widths.outputs,
        modes=widths.modes,
        dense_heads=config.n_heads,
        dense_channels=config.size_per_head,
        d_model=config.d_model,
        steps=steps,
        length=length,
        select=config.mode_select,
    )


def _encoder_layers(config: FEDformerConfig, blocks: Blocks) -> Iterable[DecompositionEncoderLayer]:
    width = config.encoder_widths.width
    for layer in config.encoder_widths.layers:
        attention = FourierAttention(width, width, blocks["encoder"], "fourier.encoder")
        yield DecompositionEncoderLayer(config, attention, layer.d_ff)


def _decoder_layers(config: FEDformerConfig, blocks: Blocks) -> Iterable[DecompositionDecoderLayer]:
    width, memory = config.decoder_widths.width, config.encoder_widths.width
    for layer in config.decoder_widths.layers:
        self_attention = FourierAttention(width, width, blocks["decoder"], "fourier.decoder")
        cross_attention = FourierAttention(width, memory, blocks["cross"], "fourier.cross")
        yield DecompositionDecoderLayer(config, self_attention, cross_attention, layer.d_ff)
