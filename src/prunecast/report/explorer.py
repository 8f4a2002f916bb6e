"""The numbers behind the page of fronts, where a reader picks models, data sets, methods and costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prunecast.report.format import missing
from prunecast.report.fronts import Cost, costs, other_costs
from prunecast.report.material import Material
from prunecast.report.svg import SHAPES
from prunecast.report.tables import Row
from prunecast.report.variants import Case, Variant

DIGITS = 5
"""Of every number: more than can be seen in a chart."""

_TUNING = {"pruned": 0, "pruned+finetuned": 1}
OTHER = 2


def explorer_data(material: Material, case_pages: Mapping[Case, str], model_pages: Mapping[str, str]) -> dict[str, Any]:
    """Returns the variants as rows of numbers, with the names that the numbers stand for and the pages on them.

    A row is: case, model, series, tuning (0 without, 1 with fine-tuning, 2 neither), label, MSE, MSE of the dense
    parent, then each cost and that of the dense parent; what is not known is null.
    """
    cases, models = list(material.study.cases), list(dict.fromkeys(v.model for v in material.study.runs))
    series = list(material.looks)
    offered = _offered(material)
    columns = [cost.column for cost in offered]
    dense = _dense_rows(material.rows)
    return {
        "cases": [{"name": case.title, "page": case_pages[case]} for case in cases],
        "models": [{"name": model, "page": model_pages.get(model, "")} for model in models],
        "series": [
            {"name": name, "colour": look.colour, "corners": SHAPES[look.shape]}
            for name, look in material.looks.items()
        ],
        "costs": [{"name": cost.title, "axis": cost.axis} for cost in offered],
        "rows": [
            [
                cases.index(key.case),
                models.index(key.model),
                series.index(key.series),
                _TUNING.get(key.role, OTHER),
                key.full_name,
                *_numbers(row, dense.get((key.case, key.model), row), columns),
            ]
            for key, row in material.rows.items()
        ],
    }


def _offered(material: Material) -> list[Cost]:
    """Returns the costs that at least one variant has."""
    every = [*costs(material.clocks), *other_costs(material.clocks)]
    return [cost for cost in every if any(not missing(row.get(cost.column)) for row in material.rows.values())]


def _dense_rows(rows: Mapping[Variant, Row]) -> dict[tuple[Case, str], Row]:
    return {(key.case, key.model): row for key, row in rows.items() if key.role == "dense"}


def _numbers(row: Row, dense: Row, columns: list[str]) -> list[float | None]:
    return [_short(source.get(column)) for column in ("mse", *columns) for source in (row, dense)]


def _short(value: float | None) -> float | None:
    return None if value is None or missing(value) or value <= 0 else float(f"{value:.{DIGITS}g}")
