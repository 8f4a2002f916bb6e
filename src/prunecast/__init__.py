"""Prunecast: make Transformer time-series forecasters small and fast, and know what it costs."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("prunecast")
