"""What a user can do wrong, as one exception type: the command line turns it into one line and exit code 2."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable

LONGEST_LINE = 300
"""Characters of a message; of a longer one, beginning and end are shown: what it is about, and what to do."""


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


def shown(value: object) -> str:
    """Returns a value as a message shows it, however long or deep it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 100
    try:
        return short.repr(value)
    except ValueError:  # of thousands of digits, Python makes no text
        return "a number of thousands of digits"


def one_line(message: str) -> str:
    """Returns a message as one line that steers no terminal, whatever is quoted in it, and that can be read at once."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(message.split()))
    kept = LONGEST_LINE - len(" ... ")
    return line if len(line) <= LONGEST_LINE else f"{line[: kept * 2 // 3]} ... {line[-(kept // 3) :]}"
