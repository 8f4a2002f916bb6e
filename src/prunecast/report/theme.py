"""The house look of charts: a colour and a shape for each method and each model, the same in every chart and table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

INK = "#1f2933"
MUTED = "#616e7c"
GRID = "#e9ecf0"
PALE = "#cbd2d9"
PAPER = "#ffffff"
FONT = "-apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"


class Look(NamedTuple):
    """How a series is drawn; the shape tells it apart where colours are not seen."""

    colour: str
    shape: str


LOOKS: Mapping[str, Look] = {
    "magnitude": Look("#0072b2", "circle"),
    "magnitude-layer": Look("#56b4e9", "pentagon"),
    "random": Look("#b07d00", "cross"),
    "structured-magnitude": Look("#d55e00", "square"),
    "structured-random": Look("#c05a95", "wedge"),
    "dense": Look(INK, "diamond"),
    "trained on": Look(MUTED, "bar"),
    "small dense": Look("#00805e", "triangle"),
    "zeroed body": Look("#7b8794", "saltire"),
    "naive": Look("#7b8794", "star"),
}
"""After Okabe and Ito's palette, which the colour-blind can tell apart; light ones darkened to be seen on paper."""

MODEL_LOOKS: Mapping[str, Look] = {
    "Transformer": Look("#0072b2", "circle"),
    "Informer": Look("#d55e00", "square"),
    "Autoformer": Look("#00805e", "triangle"),
    "FEDformer": Look("#c05a95", "diamond"),
    "Crossformer": Look("#b07d00", "wedge"),
    "PatchTST": Look("#7b5ea7", "pentagon"),
    "iTransformer": Look("#2f8f94", "cross"),
    "DLinear": Look(INK, "star"),
}

_SPARE_COLOURS = ("#7b5ea7", "#8c6d1f", "#2f8f94", "#b3446c", "#5b8c2a", "#4c6ef5")
_SPARE_SHAPES = (
    "hourglass",
    "saltire",
    "bar",
    "star",
    "pentagon",
    "diamond",
    "triangle",
    "cross",
    "wedge",
    "square",
    "circle",
)


def looks(names: Iterable[str], known: Mapping[str, Look] = LOOKS) -> dict[str, Look]:
    """Returns a look for each name; that of a known one never changes, others get theirs in alphabetical order."""
    every = list(dict.fromkeys(names))
    spare = (Look(_pick(_SPARE_COLOURS, i), _pick(_SPARE_SHAPES, i)) for i in range(len(every)))
    chosen = {name: known[name] if name in known else next(spare) for name in sorted(every)}
    return {name: chosen[name] for name in every}


def _pick(choices: tuple[str, ...], number: int) -> str:
    return choices[number % len(choices)]
