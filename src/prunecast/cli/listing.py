"""What can be named on the command line; imports neither torch nor pandas, so that it answers at once."""

from __future__ import annotations

from typing import Any

from prunecast.errors import UserError, near
from prunecast.registry import METHODS, MODELS, PUBLISHED, RUNTIMES

KINDS = ("models", "methods", "runtimes", "datasets")


def rows(kind: str) -> list[dict[str, Any]]:
    """Returns what there is of one kind.

    Raises:
        UserError: when the kind is none of models, methods, runtimes, datasets.
    """
    if kind == "models":
        return [{"name": name, "imports": _sources(name)} for name in MODELS.names()]
    if kind == "runtimes":
        return [{"name": name} for name in RUNTIMES.names()]
    if kind == "methods":
        return [_method(name) for name in METHODS.names()]
    if kind == "datasets":
        from prunecast.data import catalog

        return [{"name": name} for name in catalog.names()]
    raise UserError(f"unknown kind {kind!r}; {near(kind, KINDS)}")


def _sources(model: str) -> list[str]:
    """Returns whose checkpoints of a model can be imported."""
    parts = [name.partition("/") for name in PUBLISHED.names()]
    return [source for name, _, source in parts if name == model]


def _method(name: str) -> dict[str, Any]:
    method = METHODS.load(name)
    return {"name": name, "budget": method.budget, "trains": method.trains, "summary": method.summary}
