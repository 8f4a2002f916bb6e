"""FITS: the low frequencies of the look-back, interpolated by one complex linear layer to those of a longer series.

Xu, Zeng and Xu 2024, "FITS: Modeling Time Series with 10k Parameters", section 3; numerically equal to the authors'
code, whose complex numbers are pairs of real ones here. The longer series is the look-back and the horizon; only the
horizon is returned and trained on, which is one of the paper's two ways (the other also asks for the look-back back).
Calendar features do not reach the forecast.

B batch, L look-back, H horizon, C channels, O targets, I bins that are read, W bins that are written,
P = 2 real and imaginary part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from prunecast.kernels import linear
from prunecast.models.base import (
    ForecasterConfig,
    ForecastModel,
    Keep,
    LinearMap,
    Streams,
    Units,
    check_inputs,
    kept,
)
from prunecast.models.layers.transforms import FourierTransform, standardised


class FITSConfig(ForecasterConfig):
    """Defaults are those of the published script for hourly data."""

    name: Literal["fits"] = "fits"
    base_T: int = Field(24, ge=1, description="steps of the base period")
    H_order: int = Field(6, ge=1, description="harmonics of the base period below the cut-off")
    cut_freq: int | None = Field(None, ge=1, description="bins that are read; from the two above when absent")
    individual: bool = Field(False, description="a layer for each channel instead of one for all")
    read_modes: int | None = Field(None, ge=1, description="after pruning; cut_freq when absent")
    written_modes: int | None = Field(None, ge=1, description="after pruning; from cut_freq when absent")

    @model_validator(mode="after")
    def _has_such_frequencies(self) -> Self:
        if self.lookback < 2:
            raise ValueError(f"lookback: expected at least 2 steps, found {self.lookback}")
        if self.cut_freq is not None and self.cut_freq > self.lookback // 2 + 1:
            most = self.lookback // 2 + 1
            raise ValueError(f"cut_freq: expected at most lookback // 2 + 1 ({most}), found {self.cut_freq}")
        return self

    @property
    def steps(self) -> int:
        """Steps of the series that is written."""
        return self.lookback + self.horizon

    @property
    def dense_reads(self) -> int:
        """How many bins are below the cut-off, as the published command line derives it, and as there are."""
        derived = (self.lookback // self.base_T + 1) * self.H_order + 10
        return self.cut_freq or min(derived, self.lookback // 2 + 1)

    @property
    def dense_writes(self) -> int:
        """How many bins of the longer series lie below the same frequency."""
        return min(int(self.dense_reads * (self.steps / self.lookback)), self.steps // 2 + 1)

    def shrunk(self, keep: Keep) -> Self:
        """Returns the config with as many bins as `keep` leaves; which ones is in the state dict."""
        reads, writes = self.read_modes or self.dense_reads, self.written_modes or self.dense_writes
        changes = {"read_modes": kept(keep, "read", reads), "written_modes": kept(keep, "written", writes)}
        return self.model_copy(update=changes)


class FITS(ForecastModel):
    """Complex interpolation between two real Fourier transforms, in units of each window's deviation."""

    Config = FITSConfig
    prunable_weights = ("real", "imaginary")  # there is no layer behind them, so all of it is body
    learning_rate = 5e-4
    config: FITSConfig
    read_bins: Tensor
    written_bins: Tensor

    def __init__(self, config: FITSConfig) -> None:
        super().__init__(config)
        reads, writes = config.read_modes or config.dense_reads, config.written_modes or config.dense_writes
        layers = (config.outputs,) if config.individual else ()
        self.real, self.imaginary = (nn.Parameter(torch.empty(*layers, writes, reads)) for _ in range(2))
        self.real_bias, self.imaginary_bias = (nn.Parameter(torch.empty(*layers, writes)) for _ in range(2))
        for part in self.parameters():  # the authors' imaginary parts start at zero; seeds make a larger difference
            nn.init.uniform_(part, -1 / math.sqrt(reads), 1 / math.sqrt(reads))
        self.register_buffer("read_bins", torch.arange(reads))
        self.register_buffer("written_bins", torch.arange(writes))
        self.analysis = FourierTransform(config.lookback, config.dense_reads)
        self.synthesis = FourierTransform(config.steps, config.dense_writes, gain=config.steps / config.lookback)

    def forward(self, x_BLC: Tensor, x_mark_BLF: Tensor | None = None, y_mark_BTF: Tensor | None = None) -> Tensor:
        """Returns the forecast (B, H, O); the marks are not used."""
        check_inputs(self.config, x_BLC)
        x_BLO, mean_B1O, std_B1O = standardised(self.select(x_BLC), correction=1)
        x_BOPI = self._spectrum(x_BLO)
        by_real, by_imaginary = self._product(x_BOPI, self.real), self._product(x_BOPI, self.imaginary)
        real_BOW = by_real[:, :, 0] - by_imaginary[:, :, 1] + self.real_bias
        imaginary_BOW = by_real[:, :, 1] + by_imaginary[:, :, 0] + self.imaginary_bias
        written_BOR = torch.cat([real_BOW, imaginary_BOW], dim=2)
        y_BOH = written_BOR @ self.synthesis.back(self.written_bins)[:, self.config.lookback :]
        return y_BOH.transpose(1, 2) * std_B1O + mean_B1O

    def _spectrum(self, x_BLO: Tensor) -> Tensor:
        """Returns the bins that are read, (B, O, P, I)."""
        spectrum_BOR = x_BLO.transpose(1, 2) @ self.analysis.forth(self.read_bins).T
        return spectrum_BOR.view(*spectrum_BOR.shape[:2], 2, -1)

    def _product(self, x_BOPI: Tensor, weight: Tensor) -> Tensor:
        """Returns (B, O, P, W)."""
        if not self.config.individual:
            rows = x_BOPI.flatten(1, 2)  # three dimensions: OpenVINO turns the 8-bit weight of a product of four around
            y_BRW = linear(rows, weight) if self.training else F.linear(rows, weight)
            return y_BRW.view(*x_BOPI.shape[:-1], -1)
        by_channel = x_BOPI.transpose(0, 1).flatten(1, 2) @ weight.mT
        return by_channel.view(len(weight), -1, 2, weight.shape[1]).transpose(0, 1)

    def linear_maps(self) -> dict[str, LinearMap]:
        """Returns the map of real and imaginary parts, for each channel where it has one of its own.

        A bin that is written has two rows, of its real part and of its imaginary part; both biases are columns.
        """
        names, reads = ("real", "imaginary", "real_bias", "imaginary_bias"), self.real.shape[-1]

        def features(x_BLC: Tensor, *marks: Tensor | None) -> Tensor:
            x_BLO, _, _ = standardised(self.select(x_BLC), correction=1)
            real_OBI, imaginary_OBI = self._spectrum(x_BLO).transpose(0, 1).unbind(2)
            rows_POBI = torch.stack(
                [torch.cat([real_OBI, -imaginary_OBI], dim=2), torch.cat([imaginary_OBI, real_OBI], dim=2)]
            )
            ones_PP = torch.eye(2, dtype=x_BLC.dtype, device=x_BLC.device)[:, None, None]
            rows_OPBI = torch.cat([rows_POBI, ones_PP.expand(*rows_POBI.shape[:3], 2)], dim=3).transpose(0, 1)
            rows_ONI = rows_OPBI.flatten(1, 2)
            return rows_ONI if self.config.individual else rows_ONI.flatten(0, 1).unsqueeze(0)

        def matrix(tensors: Mapping[str, Tensor]) -> Tensor:
            real, imaginary, *biases = (tensors[name] for name in names)
            whole = torch.cat([real, imaginary, *(bias.unsqueeze(-1) for bias in biases)], dim=-1)
            return whole if self.config.individual else whole.unsqueeze(0)

        def tensors(matrix_GOI: Tensor) -> dict[str, Tensor]:
            whole = matrix_GOI if self.config.individual else matrix_GOI[0]
            real, imaginary, real_bias, imaginary_bias = whole.tensor_split([reads, 2 * reads, 2 * reads + 1], dim=-1)
            return dict(zip(names, (real, imaginary, real_bias.squeeze(-1), imaginary_bias.squeeze(-1)), strict=True))

        return {"": LinearMap(parameters=names, bias=None, features=features, matrix=matrix, tensors=tensors)}

    def unit_energies(self, x_BLC: Tensor, *marks: Tensor | None) -> dict[str, Tensor]:
        """Returns what each bin that is read, and each that is written with its bias, adds to the forecast."""
        own, (_, reads) = self.linear_maps()[""], self.real.shape[-2:]
        features_GNI, matrix_GOI = own.features(x_BLC), own.matrix(dict(self.named_parameters()))
        std_B1O = standardised(self.select(x_BLC), correction=1)[2]
        ahead_RH = self.synthesis.back(self.written_bins)[:, self.config.lookback :]

        def energy(written_GNW: Tensor, rows_RH: Tensor) -> Tensor:
            written_OPBW = written_GNW.view(-1, 2, len(x_BLC), written_GNW.shape[2])
            y_OBH = written_OPBW.permute(0, 2, 1, 3).flatten(2) @ rows_RH
            return (y_OBH * std_B1O.permute(2, 0, 1)).square().mean()

        read, written = [], []
        for place in range(reads):
            columns = torch.tensor([place, reads + place])
            read.append(energy(features_GNI[..., columns] @ matrix_GOI[..., columns].mT, ahead_RH))
        result_GNO = features_GNI @ matrix_GOI.mT
        for place in range(result_GNO.shape[2]):
            rows = torch.tensor([place, result_GNO.shape[2] + place])
            written.append(energy(result_GNO[..., place : place + 1], ahead_RH[rows]))
        return {"read": torch.stack(read), "written": torch.stack(written)}

    def streams(self) -> Streams:
        """Columns are bins that are read, rows those that are written."""
        return {
            "real": {-1: "read", -2: "written"},
            "imaginary": {-1: "read", -2: "written"},
            "real_bias": {-1: "written"},
            "imaginary_bias": {-1: "written"},
            "read_bins": {0: "read"},
            "written_bins": {-1: "written"},
        }

    def units(self) -> dict[str, Units]:
        """The bins that are read, and those that are written."""
        rows = ("real", "imaginary", "real_bias", "imaginary_bias")
        return {"read": Units("mode"), "written": Units("mode", gate=rows)}
