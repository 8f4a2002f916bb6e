"""How numbers are written for people: three digits, units, true minus signs."""

from __future__ import annotations

import math

from prunecast.registry import RUNTIMES

_STEPS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def missing(value: float | None) -> bool:
    """Whether a number is absent from a table: None or not a number."""
    return value is None or math.isnan(value)


def three_digits(value: float) -> str:
    """Returns the value with three significant digits and no exponent: 0.0123, 1.23, 123, 1230."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.2e}")  # 0.9996 has its three digits before the point moves
    decimals = max(0, 2 - math.floor(math.log10(abs(rounded))))
    return f"{value:.{decimals}f}"


def count(value: float) -> str:
    """Returns a number of things: 843 k, 61.4 M."""
    return _scaled(value).rstrip()


def size(value: float) -> str:
    """Returns bytes in decimal units: 3.14 MB."""
    return f"{_scaled(value)}B"


def _scaled(value: float) -> str:
    for step, letter in _STEPS:
        if abs(value) >= 0.9995 * step:
            return f"{three_digits(value / step)} {letter}"
    return f"{value:.0f} "


def percent(share: float) -> str:
    """Returns a share in per cent, three digits: 90 %, 97.5 %."""
    return f"{100 * share:.3g} %"


def signed(value: float, decimals: int = 4) -> str:
    """Returns a difference with its sign, the minus sign being one."""
    return f"{value:+.{decimals}f}".replace("-", "−")


def signed_percent(share: float) -> str:
    """Returns a relative difference: +1.2 %."""
    return f"{signed(100 * share, 1)} %"


def runtime_name(label: str) -> str:
    """Returns a runtime's label with the name that people know; of one that is not registered any more, its own."""
    name, bracket, setting = label.partition(" (")
    title = RUNTIMES.load(name).title if name in RUNTIMES.entries else name
    return f"{title}{bracket}{setting}"
