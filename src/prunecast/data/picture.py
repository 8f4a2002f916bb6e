"""A picture of a file's channels over time, with the borders of its parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from prunecast.data.splits import SplitLengths
from prunecast.errors import UserError

SHOWN_CHANNELS, SHOWN_POINTS = 12, 1500


def write_picture(path: Path, frame: pd.DataFrame, lengths: SplitLengths) -> None:
    """Draws the first twelve channels of a frame, one under the other; dashed lines begin validation and test.

    Args:
        path: of the PNG file.
        frame: with times as its index; of long ones each point is the mean of some rows.
        lengths: of the parts.

    Raises:
        UserError: when the file is no PNG, or exists, or what draws is not installed.
    """
    if path.suffix.lower() != ".png":
        raise UserError(f"{path}: expected a file that ends in .png")
    if path.exists():
        raise UserError(f"{path}: exists already; name another file")
    try:
        import altair as alt
        import vl_convert
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; run: pip install altair vl-convert-python") from None
    if frame.empty:
        raise UserError("the file has no times and numbers to draw")
    rows = np.arange(len(frame)) * SHOWN_POINTS // max(len(frame), SHOWN_POINTS)
    names = [str(name) for name in frame.columns[:SHOWN_CHANNELS]]
    begins = [row for row in np.cumsum(lengths[:2]) if 0 < row < len(frame)]
    borders = alt.Chart(alt.Data(values=[{"time": str(frame.index[row].isoformat())} for row in begins]))
    charts = []
    for place, name in enumerate(names):
        values = frame.iloc[:, place].where(np.isfinite(frame.iloc[:, place])).groupby(rows).mean()
        times = frame.index[np.unique(rows, return_index=True)[1]]
        points = [
            {"time": time.isoformat(), "value": None if np.isnan(value) else float(value)}
            for time, value in zip(times, values, strict=True)
        ]
        line = alt.Chart(alt.Data(values=points)).mark_line(strokeWidth=1)
        line = line.encode(alt.X("time:T", title=None), alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)))
        rule = borders.mark_rule(strokeDash=[4, 3], color="grey").encode(alt.X("time:T"))
        charts.append((line + rule).properties(width=700, height=80, title=name))
    path.write_bytes(vl_convert.vegalite_to_png(alt.vconcat(*charts).to_json(), scale=1.5))
