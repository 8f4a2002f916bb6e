"""Prunecast: make Transformer time-series forecasters small and fast, and know what it costs.

`prunecast.load(path)` gives the module of a model folder, `prunecast.load_series(data)` a file or a data frame as
training reads it, `prunecast.Forecaster` one object for a notebook, and `prunecast.api` the verbs of the command line
as functions; `prunecast.prune_module` and `prunecast.load_pruned` take modules that are not ours. They are imported
when they are first used, so that the command line stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from prunecast.data.series import load_series as load_series
    from prunecast.forecaster import Forecaster as Forecaster
    from prunecast.models.io import load as load
    from prunecast.prune.foreign import load_pruned as load_pruned
    from prunecast.prune.foreign import prune_module as prune_module

__all__ = ["Forecaster", "__version__", "load", "load_pruned", "load_series", "prune_module"]

_LAZY = {
    "Forecaster": "prunecast.forecaster",
    "load": "prunecast.models.io",
    "load_pruned": "prunecast.prune.foreign",
    "load_series": "prunecast.data.series",
    "prune_module": "prunecast.prune.foreign",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # it takes a while to import, and hardly anyone asks

        return version("prunecast")
    if name not in _LAZY:
        raise AttributeError(f"module 'prunecast' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
