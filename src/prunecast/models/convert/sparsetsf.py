"""SparseTSF of its authors, with a linear map or a perceptron."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from prunecast.models.convert.base import SIZES, Published, Tensors, renamed

NAMES = (("conv1d.", "aggregation."), ("linear.", "map."), ("mlp.", "map."))


def tensors(published: Tensors) -> dict[str, Tensor]:
    """Returns the tensors under our names."""
    return renamed(published, NAMES)


def sizes(published: Tensors) -> dict[str, Any]:
    """Returns what the tensors show of the config."""
    if "mlp.0.weight" not in published:
        return {"model_type": "linear"}
    return {"model_type": "mlp", "d_model": published["mlp.0.weight"].shape[0]}


ARGUMENTS = {**SIZES, "period_len": "period_len", "model_type": "model_type", "d_model": "d_model"}

ORIGINAL = Published(ARGUMENTS, tensors, sizes, ("lookback", "horizon", "period_len", "channels"))
