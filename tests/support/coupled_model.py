"""A small forecaster with every kind of coupling, so that pruning is tested without a concrete model."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from prunecast.models.base import ForecasterConfig, ForecastModel, Group, Keep, Member

HEAD_SIZE = 3
ENTRY = "tests.support.coupled_model:Coupled"


class CoupledConfig(ForecasterConfig):
    name: Literal["coupled"] = "coupled"
    channels: int = 2
    lookback: int = 8
    horizon: int = 5
    label_len: int = 0
    width: int = 12
    hidden: tuple[int, ...] = (10, 14)
    heads: tuple[int, ...] = (4, 4)


class Block(nn.Module):
    """Added to the stream, unnormalised: a removed part and a zeroed one give the same output."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        # Two projections in one, (2, heads, HEAD_SIZE) rows: a head owns rows in both halves.
        self.fused = nn.Linear(width, 2 * heads * HEAD_SIZE)
        self.merge = nn.Linear(heads * HEAD_SIZE, width, bias=False)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x_BCD: Tensor) -> Tensor:
        left, right = self.fused(x_BCD).chunk(2, dim=-1)
        x_BCD = x_BCD + self.merge(left * right)
        return x_BCD + self.down(self.up(x_BCD).relu())


class Coupled(ForecastModel):
    Config = CoupledConfig
    config: CoupledConfig

    def __init__(self, config: CoupledConfig) -> None:
        super().__init__(config)
        self.embed = nn.Linear(config.lookback, config.width)
        widths = zip(config.hidden, config.heads, strict=True)
        self.blocks = nn.ModuleList(Block(config.width, hidden, heads) for hidden, heads in widths)
        self.head = nn.Linear(config.width, config.horizon)
        self.register_buffer("scale", torch.rand(config.width))

    def forward(self, x_BLC: Tensor, x_mark_BLF: Tensor | None = None, y_mark_BTF: Tensor | None = None) -> Tensor:
        x_BCD = self.embed(x_BLC.transpose(1, 2))
        for block in self.blocks:
            x_BCD = block(x_BCD)
        return self.head(x_BCD * self.scale).transpose(1, 2)

    def prunable(self) -> tuple[str, ...]:
        return tuple(name for name, parameter in self.named_parameters() if parameter.dim() > 1)

    def output_layer(self) -> tuple[str, ...]:
        return ("head.weight",)

    def groups(self) -> tuple[Group, ...]:
        layers = range(len(self.blocks))
        blocks = Group("blocks", "layer", len(self.blocks), stack="blocks")
        return (*map(self.heads, layers), *map(self.ffn, layers), self.width(), blocks)

    def heads(self, layer: int) -> Group:
        path, size = f"blocks.{layer}", self.config.heads[layer]
        columns = torch.arange(size * HEAD_SIZE).view(size, HEAD_SIZE)
        rows = torch.cat([columns, columns + size * HEAD_SIZE], dim=1)
        members = [Member(f"{path}.fused.{part}", 0, rows) for part in ("weight", "bias")]
        return Group(f"{path}.heads", "head", size, (*members, Member(f"{path}.merge.weight", 1, columns)))

    def ffn(self, layer: int) -> Group:
        path, size = f"blocks.{layer}", self.config.hidden[layer]
        units = torch.arange(size).unsqueeze(1)
        cuts = ((f"{path}.up.weight", 0), (f"{path}.up.bias", 0), (f"{path}.down.weight", -1))
        return Group(f"{path}.ffn", "ffn", size, tuple(Member(name, dim, units) for name, dim in cuts), minimum=2)

    def width(self) -> Group:
        units = torch.arange(self.config.width).unsqueeze(1)
        cuts = [("embed.weight", 0), ("embed.bias", 0), ("scale", 0), ("head.weight", 1)]
        for layer in range(len(self.blocks)):
            path = f"blocks.{layer}"
            cuts += [(f"{path}.fused.weight", 1), (f"{path}.merge.weight", 0)]
            cuts += [(f"{path}.up.weight", 1), (f"{path}.down.weight", 0)]
        return Group("width", "width", self.config.width, tuple(Member(name, dim, units) for name, dim in cuts))

    def shrunk_config(self, keep: Keep) -> CoupledConfig:
        def size(name: str, whole: int) -> int:
            return len(keep[name]) if name in keep else whole

        layers = keep["blocks"].tolist() if "blocks" in keep else range(len(self.blocks))
        values = self.config.model_dump() | {
            "width": size("width", self.config.width),
            "hidden": tuple(size(f"blocks.{layer}.ffn", self.config.hidden[layer]) for layer in layers),
            "heads": tuple(size(f"blocks.{layer}.heads", self.config.heads[layer]) for layer in layers),
        }
        return CoupledConfig(**values)


class Rigid(Coupled):
    """The same without any groups, and with nothing but its output layer to prune."""

    def prunable(self) -> tuple[str, ...]:
        return self.output_layer()

    def groups(self) -> tuple[Group, ...]:
        return ()


def macs(config: ForecasterConfig) -> int:
    """The hand count: each layer's weights, once for each channel."""
    assert isinstance(config, CoupledConfig)
    blocks = zip(config.hidden, config.heads, strict=True)
    per_width = sum(2 * hidden + 3 * heads * HEAD_SIZE for hidden, heads in blocks)
    return config.channels * config.width * (config.lookback + config.horizon + per_width)


def macs_per_weight(model: ForecastModel) -> dict[str, float]:
    """Every weight works once for each channel."""
    return dict.fromkeys(model.prunable(), float(model.config.channels))


def coupled(seed: int = 0) -> Coupled:
    """An untrained model, the same for a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Coupled(CoupledConfig()).eval()
