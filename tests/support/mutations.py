"""Seeded damage: what files look like after a bad disk, a bad editor, a bad script, or somebody who means it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

TOKENS = [
    *(b"nan", b"inf", b"-inf", b"1e999", b"-1e308", b"1e-320", b"4e39", b"-0", b"9" * 400, b"0x" + b"f" * 40, b"1_0"),
    *(
        b"",
        b'"',
        b"'",
        b",",
        b";",
        b"\t",
        b"\n",
        b"\r\n",
        b"\r",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xc3\x28",
        b"{",
        b"[",
    ),
    *(b"null", b"true", b"~", b"<<", b"!!int x", b"&a", b"*a", b"|", b"%", b"\\u0000", b"\\ud800", "é∞\u202e".encode()),
    *(
        b"2024-02-30",
        b"0000-00-00",
        b"9999-12-31 23:59:60",
        b"12:00",
        b"1/2/3",
        b"-1",
        b"1" * 25,
        b"[" * 2000,
        b"a" * 5000,
    ),
]
"""What has meant something to some reader."""

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 10**6, 2**31, 2**63, 10**30, -(10**400), 0.5, -0.0, 1e308, 1e-320),
    *(
        float("nan"),
        float("inf"),
        "",
        "x",
        "nan",
        "1",
        "h",
        "\0",
        "\ud800",
        "../../x",
        "a" * 10_000,
        [],
        {},
        [[]],
        {"": 1},
    ),
    *([0] * 1000, [float("nan")] * 3, [1e39] * 3, {"name": "dlinear"}, "2024-01-01", [None], ["a", "a"], [True]),
]
"""What JSON and YAML may hold where something else is expected."""


def damaged(content: bytes, random: Random) -> bytes:
    """Returns content with one to four places changed: bits, bytes, pieces left out, doubled, moved or put in."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(data) + 1)
        length = min(random.choice((1, 1, 4, 40, len(data))), len(data) - at)
        match random.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << random.randrange(8)
            case 1:
                data[at : at + length] = random.randbytes(length)
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + min(length, 4000)] * random.choice((1, 3))
            case 4:
                other = random.randrange(len(data) + 1)
                data[at:at] = data[other : other + min(length, 4000)]
            case 5:
                data[at : at + random.choice((0, length))] = random.choice(TOKENS)
            case _ if random.random() < 0.2:
                del data[at:]
            case _:
                data[at : at + length] = bytes(length)
    return bytes(data)


def altered(value: Any, random: Random) -> Any:
    """Returns a JSON value in which one value, key or element, however deep, is another or gone."""
    if isinstance(value, dict | list) and value and random.random() < 0.85:
        keys: Sequence[Any] = list(value) if isinstance(value, dict) else range(len(value))
        key, copy = random.choice(keys), value.copy()
        if random.random() < 0.15:
            del copy[key]
        elif isinstance(copy, dict) and random.random() < 0.1:
            copy[random.choice(("", "x", "name", "\0", "a" * 300))] = random.choice(VALUES)
        else:
            copy[key] = altered(copy[key], random)
        return copy
    if isinstance(value, int | float) and random.random() < 0.3:
        return value + random.choice((-1, 1, 0.5, 10**4, -(10**9)))
    return random.choice(VALUES)


def altered_json(content: bytes, random: Random) -> bytes:
    """Returns JSON text with a value altered, or with damage to its bytes."""
    if random.random() < 0.4:
        return damaged(content, random)
    return json.dumps(altered(json.loads(content), random)).encode()


def altered_yaml(values: Any, dump: Callable[[Any], str], random: Random) -> bytes:
    """Returns YAML text of values of which one is altered, or with damage to its bytes."""
    if random.random() < 0.5:
        return damaged(dump(values).encode(), random)
    return dump(altered(values, random)).encode("utf-8", "surrogatepass")


def setting(keys: Sequence[str], random: Random) -> str:
    """Returns a text for --set: a key that there is, or nearly, and some value."""
    key = random.choice(keys)
    if random.random() < 0.3:
        key = damaged(key.encode(), random)[:300].decode("utf-8", "surrogateescape")
    value = random.choice((random.choice(TOKENS).decode("utf-8", "surrogateescape"), str(random.choice(VALUES))))
    if random.random() < 0.3:
        value = random.choice(("[{}]", "[{}, {}]", "{{a: {}}}", "'{}'", "!!bool {}", "- {}")).replace("{}", value)
    return f"{key}={value}"
