"""Catalogue sets as they were published: found or downloaded, checked by hash, shape and nothing else changed."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from prunecast.data.catalog import Entry, Selection
from prunecast.data.columns import Frame, to_frame
from prunecast.data.download import locate, verified
from prunecast.data.gaps import interpolated
from prunecast.data.synthetic import generate
from prunecast.data.table import parse_table, read_content
from prunecast.errors import UserError


@dataclass(frozen=True, eq=False)
class Published:
    """The rows of a catalogue set, and the hash that names them."""

    frame: Frame
    sha256: str


def load_published(entry: Entry, *, accept_unverified: bool = False, quiet: bool = False) -> Published:
    """Returns a catalogue set, from this machine or its source.

    Raises:
        UserError: when it cannot be had, or is not what was published.
    """
    if entry.file is None:
        generated = generate()
        return Published(Frame(generated.times, generated.channels, generated.values_TC), generated.sha256)
    path = locate(entry, accept_unverified=accept_unverified, quiet=quiet)
    content = read_content(path)
    sha256 = verified(entry, content, path)
    columns = parse_table(content, path.name)
    wanted = None if entry.select is None else _matching(columns, entry.select)
    frame = to_frame(columns, entry.time_column, wanted)
    if entry.select is not None:
        frame = _closed(frame, entry.select)
    _check_shape(entry, frame, str(path))
    return Published(frame, sha256)


def _matching(columns: pa.Table, select: Selection) -> list[str]:
    return [name for name in columns.column_names if re.fullmatch(select.columns, name)]


def _closed(frame: Frame, select: Selection) -> Frame:
    """Leaves out the columns with too many gaps and bridges the gaps of the others."""
    keep = np.isnan(frame.values_TN).mean(axis=0) <= select.max_missing
    names = tuple(name for name, kept in zip(frame.names, keep, strict=True) if kept)
    return replace(frame, names=names, values_TN=interpolated(frame.values_TN[:, keep], ends=True))


def _check_shape(entry: Entry, frame: Frame, source: str) -> None:
    problems = list(frame.problems)
    rows, channels = frame.values_TN.shape
    if entry.rows not in (None, rows) or entry.channels not in (None, channels):
        expected = f"expected {entry.rows} rows of {entry.channels} channels"
        problems.append(f"not {entry.name} as published: {expected}, found {rows} of {channels}")
    if channels == 0 or np.isnan(frame.values_TN).any():
        problems.append(f"not {entry.name} as published: values are missing")
    if problems:
        raise UserError(f"{source}: {problems[0]}")
