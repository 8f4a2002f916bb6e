"""A small series in a file of the user's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd


def write_table(path: Path, rows: int = 200, first: float = 0.0) -> Path:
    """Writes two hourly channels, a wave of about a day and its mirror image; `first` is the very first value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.sin(np.arange(rows) / 4)
    wave[0] = first
    times = pd.date_range("2024-01-01", periods=rows, freq="h")
    pd.DataFrame({"date": times, "a": wave, "b": -wave}).to_csv(path, index=False)
    return path
