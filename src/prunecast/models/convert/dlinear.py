"""DLinear of Time-Series-Library and the original, all channels through the same maps."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from prunecast.models.convert.base import SIZES, Published, Tensors, renamed


def tensors(published: Tensors) -> dict[str, Tensor]:
    """Returns the tensors under our names."""
    return renamed(published, (("Linear_Seasonal.", "seasonal."), ("Linear_Trend.", "trend.")))


def sizes(published: Tensors) -> dict[str, Any]:
    """Returns what the tensors show of the config."""
    horizon, lookback = published["Linear_Seasonal.weight"].shape
    return {"lookback": lookback, "horizon": horizon}


TSLIB = Published({**SIZES, "moving_avg": "moving_avg"}, tensors, sizes, ("channels", "moving_avg"))

ORIGINAL = Published(SIZES, tensors, sizes, ("channels",), {"moving_avg": 25})
"""Its moving average is fixed."""
