"""What a user can do wrong, as one exception type: the command line turns it into one line and exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the caller's: the message says what was expected, what was found and what to do."""


class MissingExtra(UserError):
    """An optional dependency is not installed; the message says what to install."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'prunecast[{extra}]'")


def near(name: str, known: Iterable[str]) -> str:
    """Returns a hint on the name that was meant: ", did you mean 'x'?" or the known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}"
