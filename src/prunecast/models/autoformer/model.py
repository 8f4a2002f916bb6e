"""Autoformer: season and trend apart, the season mixed at the delays at which it repeats.

Wu et al. 2021, "Autoformer: Decomposition Transformers with Auto-Correlation for Long-Term Series Forecasting";
numerically equal to Time-Series-Library's `Autoformer`, and by configuration to the original, which differs only in
streams of an odd number of steps.

B batch, L look-back, H horizon, T = label_len + H, C channels, D width of the encoder's stream, E width of the
decoder's stream; the letters of auto-correlation stand in `autocorrelation.py`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from prunecast.models.autoformer.autocorrelation import AutoCorrelation, Delays
from prunecast.models.layers.decomposition import (
    DecompositionConfig,
    DecompositionDecoderLayer,
    DecompositionEncoderLayer,
    DecompositionModel,
    SeasonalDecoder,
    SeasonalEncoder,
    Window,
)
from prunecast.models.layers.widths import DecoderLayerWidths, EncoderLayerWidths


class AutoformerConfig(DecompositionConfig):
    """Defaults are the published run's at paper size."""

    name: Literal["autoformer"] = "autoformer"
    moving_avg: Window = Field(25, description="steps of the moving average that gives the trend")
    factor: int = Field(3, ge=1, description="int(factor * ln(steps)) delays are chosen")
    odd_lengths: Literal["resampled", "exact"] = Field(
        "resampled",
        description="streams of an odd number of steps: correlate at one delay less, as Time-Series-Library, or at all",
    )

    def correlation(self, width: int, memory_width: int, heads: int, steps: int) -> AutoCorrelation:
        """Returns a new auto-correlation of a stream of `steps` steps with a memory."""
        delays = Delays(steps, self.factor, self.n_heads * self.size_per_head, self.odd_lengths == "resampled")
        return AutoCorrelation(width, memory_width, heads, self.size_per_head, delays)


class Autoformer(DecompositionModel):
    """The published encoder-decoder; every width is in its config."""

    Config = AutoformerConfig

    def __init__(self, config: AutoformerConfig) -> None:
        encoder = (_encoder_layer(config, layer) for layer in config.encoder_widths.layers)
        decoder = (_decoder_layer(config, layer) for layer in config.decoder_widths.layers)
        super().__init__(
            config,
            SeasonalEncoder(config, encoder, position=False),
            SeasonalDecoder(config, decoder, position=False),
        )


def _encoder_layer(config: AutoformerConfig, layer: EncoderLayerWidths) -> DecompositionEncoderLayer:
    width = config.encoder_widths.width
    attention = config.correlation(width, width, layer.heads, config.lookback)
    return DecompositionEncoderLayer(config, attention, layer.d_ff)


def _decoder_layer(config: AutoformerConfig, layer: DecoderLayerWidths) -> DecompositionDecoderLayer:
    width, memory, steps = config.decoder_widths.width, config.encoder_widths.width, config.label_len + config.horizon
    self_attention = config.correlation(width, width, layer.heads, steps)
    cross_attention = config.correlation(width, memory, layer.cross_heads, steps)
    return DecompositionDecoderLayer(config, self_attention, cross_attention, layer.d_ff)
