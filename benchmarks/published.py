"""A published model of Time-Series-Library beside ours, with the same weights; and how fast this machine multiplies."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunecast.batch import Batch
from prunecast.kernels import linear
from prunecast.models.base import ForecasterConfig, ForecastModel, build, config_from
from prunecast.models.convert.convert import published, published_state

MODULES = {
    "transformer": "models.Transformer",
    "informer": "models.Informer",
    "autoformer": "models.Autoformer",
    "fedformer": "models.FEDformer",
    "crossformer": "models.Crossformer",
    "patchtst": "models.PatchTST",
    "itransformer": "models.iTransformer",
    "dlinear": "models.DLinear",
}
"""Our model -> the module of Time-Series-Library."""

NOT_NEEDED = ("reformer_pytorch", "einops", "matplotlib", "matplotlib.pyplot", "sympy", "scipy", "scipy.special")
"""Packages that Time-Series-Library imports beside the model that is timed."""

RESAMPLES = 2000

FIXED = {
    "task_name": "long_term_forecast",
    "embed": "timeF",
    "freq": "h",
    "factor": 3,
    "moving_avg": 25,
    "distil": True,
    "output_attention": False,
}
"""Arguments that the timed models are given where our config has no say."""


def add_sizes(parser: argparse.ArgumentParser, d_model: int, d_ff: int, batch: int) -> None:
    """Adds the flags that say which model, how large, and where the published code lies."""
    parser.add_argument("--against", type=Path, required=True, metavar="DIR", help="a checkout of Time-Series-Library")
    parser.add_argument("--d-model", type=int, default=d_model)
    parser.add_argument("--d-ff", type=int, default=d_ff)
    parser.add_argument("--batch", type=int, default=batch)
    sizes = {"n-heads": 8, "lookback": 96, "label-len": 48, "horizon": 96, "modes": 64, "seed": 1}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dropout", type=float, default=0.05)


def config_of(model: str, arguments: argparse.Namespace) -> ForecasterConfig:
    """Returns our config of the sizes that were asked for, two encoder layers everywhere."""
    names = ("d_model", "d_ff", "n_heads", "lookback", "label_len", "horizon", "dropout", "modes")
    asked = {name: getattr(arguments, name) for name in names} | {"encoder_layers": 2, "factor": 3}
    theirs = published(model)
    known = {name: asked[name] for name in theirs.arguments.keys() & asked.keys()}
    return config_from({"name": model, "channels": 7} | known | dict(theirs.constants))


def pair(config: ForecasterConfig, checkout: Path, seed: int) -> tuple[ForecastModel, nn.Module]:
    """Returns ours and the published model, with the same weights."""
    torch.manual_seed(seed)
    theirs = _published_model(config, checkout)
    ours = build(config)
    modes = published(config.name).modes
    buffers = None if modes is None else modes(config, _kept_modes(theirs))
    ours.load_state_dict(published_state(ours, theirs.state_dict(), buffers=buffers))
    return ours, theirs


def _kept_modes(model: nn.Module) -> dict[str, list[int]]:
    """Returns the Fourier modes of a published model, which are no part of its state: attribute -> indices."""
    return {
        f"{name}.{attribute}": getattr(module, attribute)
        for name, module in model.named_modules()
        for attribute in ("index", "index_q", "index_kv")
        if hasattr(module, attribute)
    }


def call_published(model: nn.Module, config: ForecasterConfig, batch: Batch) -> Tensor:
    """Returns the published model's forecast; the decoder's input is built as its own code builds it."""
    known = batch.x_BLC[:, config.lookback - config.label_len :]
    zeros = known.new_zeros(len(known), config.horizon, config.channels)
    forecast: Tensor = model(batch.x_BLC, batch.x_mark_BLF, torch.cat([known, zeros], dim=1), batch.y_mark_BTF)
    return forecast


def random_batch(config: ForecasterConfig, size: int) -> Batch:
    """Returns a batch of noise in the shapes of a config."""
    known = config.label_len + config.horizon
    return Batch(
        torch.randn(size, config.lookback, config.channels),
        torch.randn(size, config.horizon, config.outputs),
        torch.rand(size, config.lookback, config.marks) - 0.5,
        torch.rand(size, known, config.marks) - 0.5,
    )


def peak_gmacs_per_s(size: int = 1024) -> float:
    """Returns the rate of a large matrix product by the faster of the two ways that torch has on a processor."""
    left, right = torch.randn(32, size // 32, size), torch.randn(size, size)
    return max(size**3 / _fastest_s(product, left, right) / 1e9 for product in (torch.matmul, linear))


def median_ratio(numerator: np.ndarray, denominator: np.ndarray) -> tuple[float, float, float]:
    """Returns the ratio of medians with its 95 % bootstrap interval; turns are drawn together, in short blocks."""
    turns, length = len(numerator), max(1, int(len(numerator) ** 0.5))
    starts = np.random.default_rng(1).integers(turns, size=(RESAMPLES, -(-turns // length), 1))
    drawn = ((starts + np.arange(length)) % turns).reshape(RESAMPLES, -1)[:, :turns]
    ratios = np.median(numerator[drawn], axis=1) / np.median(denominator[drawn], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(np.median(numerator) / np.median(denominator)), float(low), float(high)


def _fastest_s(product: Any, left: Tensor, right: Tensor) -> float:
    elapsed_s = []
    for _ in range(4):
        started = time.perf_counter()
        product(left, right)
        elapsed_s.append(time.perf_counter() - started)
    return min(elapsed_s)


def _published_model(config: ForecasterConfig, checkout: Path) -> nn.Module:
    path = checkout / (MODULES[config.name].replace(".", "/") + ".py")
    if not path.is_file():
        raise SystemExit(f"--against: expected a checkout of Time-Series-Library, found no {path}")
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    values = config.model_dump()
    same = {theirs: values[ours] for ours, theirs in published(config.name).arguments.items()}
    channels = dict.fromkeys(("enc_in", "dec_in", "c_out"), config.channels)
    with _stand_ins():
        module = import_module(MODULES[config.name])
    beside = {name: same[name] for name in signature(module.Model).parameters if name in same}
    with redirect_stdout(StringIO()):  # some tell what they are made of
        model: nn.Module = module.Model(SimpleNamespace(**(FIXED | channels | same)), **beside)
    return model


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Packages that are not installed can be imported meanwhile; afterwards nobody takes them for the real ones."""
    absent: list[str] = []
    try:
        for package in NOT_NEEDED:
            if package not in sys.modules and find_spec(package) is None:
                sys.modules[package] = _StandIn(package)
                absent.append(package)
        yield
    finally:
        for package in absent:
            del sys.modules[package]


class _StandIn(ModuleType):
    """In the place of a package that is not installed: names can be imported from it, not used."""

    __path__: tuple[str, ...] = ()  # a package, so that its modules can be looked for

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return object
