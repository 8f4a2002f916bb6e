"""Numbers in texts are those of `results/`: what stands between two markers is written from the records.

    python tools/quoted_numbers.py            renews README.md, docs/*.md and results/*/README.md
    python tools/quoted_numbers.py --check    says which of them are not current, and changes nothing

A marker names a study, a block and its arguments; names with blanks stand in quotes:

    <!-- numbers: paper-small errors ILI 24 -->
    (a table)
    <!-- /numbers -->

    the error is <!-- numbers: etth1-small value test_mse Transformer "magnitude 80 %" -->1.059<!-- /numbers -->

Blocks are the functions in `BLOCKS`; `published` alone is of the literature, and `methods` of the registry, and their
studies are called so; of the blocks that begin with `peer` it names a folder of `benchmarks/peer.py`, of `devices` one
of `benchmarks/devices.py`. A star:
worse than the dense model trained on for as long as fine-tuning took (the 95 % interval of the difference leaves out
0); what is called shown has such an interval too.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from prunecast.prune.methods import FAMILIES, Method
from prunecast.recipe import NO_RECOVERY
from prunecast.registry import METHODS
from prunecast.report.compare import Case, Variant
from prunecast.report.context import Context
from prunecast.report.published_errors import Place, published_errors
from prunecast.report.statistics import Interval
from prunecast.report.statistics import difference as mean_difference
from prunecast.report.style import BUDGET_NAMES, MODEL_NAMES
from prunecast.report.thresholds import MARGIN, Level, Sweep
from prunecast.study.frame import StudyFrame
from prunecast.study.study import open_study

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
MARKER = re.compile(r"(<!-- numbers: (?P<asked>[^>]*?) -->)(?P<text>.*?)(<!-- /numbers -->)", re.DOTALL)

Row = Mapping[str, Any]


@cache
def tables(study: str) -> StudyFrame:
    """Returns the tables of a published study."""
    return open_study(RESULTS / study).tables()[0]


@cache
def context(study: str) -> Context:
    """Returns a published study as its report sees it."""
    return Context(tables(study))


def texts() -> list[Path]:
    """Returns the files that may hold numbers."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(RESULTS.glob("*/README.md"))]


def renewed(text: str) -> str:
    """Returns a text in which every block is as the records have it.

    Raises:
        ValueError: on a marker that asks for what there is not.
    """

    def block(found: re.Match[str]) -> str:
        study, name, *arguments = shlex.split(found["asked"])
        if name not in BLOCKS:
            raise ValueError(f"{found['asked']!r}: expected a block of {', '.join(BLOCKS)}, found {name!r}")
        new = BLOCKS[name](study, *arguments)
        return f"{found[1]}\n\n{new}\n\n{found[4]}" if new.startswith("|") else f"{found[1]}{new}{found[4]}"

    return MARKER.sub(block, text)


# What the blocks are made of


def rows(study: str, dataset: str, horizon: str) -> list[Row]:
    """Returns the variants of one data set and horizon: means over seeds, differences, times."""
    summary = context(study).summary
    chosen = summary[(summary["dataset"] == dataset) & (summary["horizon"] == int(horizon))]
    if chosen.empty:
        raise ValueError(f"{study} has no {dataset} at {horizon}")
    return [{str(key): value for key, value in row.items()} for row in chosen.to_dict("records")]


def one(found: Iterable[Row], **wanted: Any) -> Row | None:
    """Returns the first row with these values, or None."""
    return next((row for row in found if all(row[key] == value for key, value in wanted.items())), None)


def error(row: Row | None, decimals: int, *, star: bool = False) -> str:
    """Returns a test MSE, starred where it is shown to be worse than the dense model trained on."""
    if row is None or pd.isna(row["test_mse"]):
        return ""
    worse = star and row.get("vs_dense_continued_verdict") == "worse"
    return f"{row['test_mse']:.{decimals}f}{'*' if worse else ''}"


def speed(study: str, row: Row | None, *, interval: bool = True) -> str:
    """Returns a speed-up in the study's main runtime, with its interval."""
    label = context(study).timings.main
    if row is None or pd.isna(row.get(f"{label}_speedup", float("nan"))):
        return ""
    low, middle, high = (row[f"{label}_speedup{end}"] for end in ("_low", "", "_high"))
    return f"{middle:.2f} ({low:.2f} ... {high:.2f})" if interval else f"{middle:.2f}"


def percent(share: float) -> str:
    """Returns a share as people write it: 48.8 % as 49 %; but 99.5 % is not all."""
    return f"{100 * share:.1f} %" if 0.995 <= share < 1 else f"{100 * share:.0f} %"


def amounts(found: Sequence[Row]) -> dict[str, list[float]]:
    """Returns the amounts of each method that is no control, by its name and sorted."""
    amounts: dict[str, set[float]] = {}
    for row in found:
        if row["role"] == "pruned" and not row["method"].endswith("random"):
            amounts.setdefault(row["method"], set()).add(row["sparsity_requested"])
    return {method: sorted(shares) for method, shares in amounts.items()}


def models(found: Sequence[Row]) -> list[str]:
    """Returns the models that were pruned, in the order of the study."""
    return list(dict.fromkeys(row["model"] for row in found if row["role"] == "pruned"))


def decimals(found: Sequence[Row]) -> int:
    """Returns how many decimals errors are given with: two where all dense ones are large."""
    return 2 if min(row["test_mse"] for row in found if row["role"] == "dense") > 2 else 3


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *lines))


# The blocks


def errors(study: str, dataset: str, horizon: str) -> str:
    """A row a model: test MSE dense, dense trained on, and pruned without / with fine-tuning; speed-ups last."""
    found = rows(study, dataset, horizon)
    asked, digits = amounts(found), decimals(found)
    cut = {method: shares for method, shares in asked.items() if method.startswith("structured")}
    faster = f"faster at {', '.join(f'{100 * share:.0f}' for share in next(iter(cut.values())))} %" if cut else ""
    called = {method: short(method) for method in asked}
    if len(set(called.values())) < len(called):  # where there are several of a kind, each has its own name
        called = dict(zip(asked, asked, strict=True))
    heads = [f"{called[method]} {percent(share)}" for method, shares in asked.items() for share in shares]
    lines = []
    for model in models(found):
        own = [row for row in found if row["model"] == model]
        line = [model, error(one(own, role="dense"), digits), error(one(own, role="dense-continued"), digits)]
        for method, shares in asked.items():
            for share in shares:
                pair = [
                    error(one(own, role=role, method=method, sparsity_requested=share), digits, star=role != "pruned")
                    for role in ("pruned", "pruned+finetuned")
                ]
                line.append(" / ".join(text for text in pair if text))
        times = [
            speed(study, one(own, role="pruned+finetuned", method=method, sparsity_requested=share), interval=False)
            for method, shares in cut.items()
            for share in shares
        ]
        lines.append([*line, ", ".join(text for text in times if text)] if cut else line)
    heads = [f"{dataset}, horizon {horizon}", "dense", "dense, trained on", *heads, *([faster] if faster else [])]
    return table(heads, lines)


def short(method: str) -> str:
    """Returns what a method is called in a heading."""
    return "structured" if method == "structured-magnitude" else method


def floors(study: str, dataset: str, horizon: str) -> str:
    """A sentence: the errors of the naive forecasts and of DLinear."""
    found, digits = rows(study, dataset, horizon), 3
    named = [(row["model"], row) for row in found if row["role"] == "naive"]
    linear = one(found, model="DLinear", role="dense")
    return ", ".join(f"{name} {error(row, digits)}" for name, row in [*named, ("DLinear", linear)] if row is not None)


def beats_naive(study: str, dataset: str, horizon: str) -> str:
    """A phrase: which dense models are shown to be better than every naive forecast; "none" without any."""
    mse = context(study).mse
    dense = [one for one in context(study).study.of_case(Case(dataset, int(horizon))) if one.role == "dense"]
    return ", ".join(variant.model for variant in dense if not mse.saturated(variant)) or "none"


def variants(study: str, dataset: str, horizon: str, model: str) -> str:
    """A row a fine-tuned variant of one model: parameters gone, MSE, difference, bytes, time and speed-up."""
    own = [row for row in rows(study, dataset, horizon) if row["model"] == model]
    label = context(study).timings.main
    lines = []
    for row in own:
        if row["role"] not in ("dense", "dense-continued", "pruned+finetuned") or str(row["method"]).endswith("random"):
            continue
        other = [row.get(f"vs_dense_continued{end}", float("nan")) for end in ("", "_low", "_high")]
        star = "" if row.get("vs_dense_continued_verdict") in ("not told apart", None) else "*"
        difference = "" if pd.isna(other[0]) else f"{other[0]:+.3f}{star} ({other[1]:+.3f} ... {other[2]:+.3f})"
        spread = "" if pd.isna(row["test_mse_sd"]) else f" ± {row['test_mse_sd']:.3f}"
        time = row.get(f"{label}_latency_ms", float("nan"))
        cells = [row["variant"], percent(row["sparsity_realised"]), f"{row['test_mse']:.3f}{spread}", difference]
        cells += [kilobytes(row["zip_bytes"]), "" if pd.isna(time) else f"{time:.2f} ms", speed(study, row)]
        lines.append(cells)
    heads = [model, "parameters gone", "MSE", "against dense, trained on", "zip", str(label), "speed-up"]
    return table(heads, lines)


def kilobytes(count: float) -> str:
    """Returns bytes as kB, of a thousand."""
    return f"{count / 1000:.0f} kB"


def speedups(study: str) -> str:
    """A row a model and amount: what the operations promise, and the geometric mean of the measured speed-ups."""
    label = context(study).timings.main
    lines = []
    for found in context(study).speeds:
        if not found.is_control and found.method.startswith("structured") and label in found.measured:
            ratio = found.measured[label]
            cells = [found.model, short(found.method), percent(found.sparsity_requested), f"{found.promised:.1f}"]
            lines.append([*cells, f"{ratio.value:.2f} ({ratio.low:.2f} ... {ratio.high:.2f})"])
    return table(["model", "method", "operations gone", "promised", f"measured, {label}"], lines)


def no_loss(study: str, method: str, finetuned: str) -> str:
    """A phrase: up to which amount no loss shows over all data sets, for which models; `finetuned` or `bare`."""
    return reach(study, method, finetuned, lambda sweep: sweep.no_loss)


def small_loss(study: str, method: str, finetuned: str) -> str:
    """A phrase: up to which amount a loss of 5 % is ruled out over all data sets; 0 % where at none."""
    return reach(study, method, finetuned, lambda sweep: sweep.small_loss)


def reach(study: str, method: str, finetuned: str, level_of: Callable[[Sweep], Level | None]) -> str:
    """Returns up to which amount models go, those of one amount together."""
    found: dict[float, list[str]] = {}
    for model, sweep in fair_sweeps(study, method, finetuned):
        level = level_of(sweep)
        found.setdefault(0.0 if level is None else level.sparsity, []).append(model)
    return ", ".join(f"{percent(share)} ({', '.join(found[share])})" for share in sorted(found))


def fair_sweeps(study: str, method: str, finetuned: str) -> list[tuple[str, Sweep]]:
    """Returns the models that were pruned by a method, each with its sweep over all data sets."""
    sweeps = context(study).sweeps
    found = [
        (model, sweeps.fair(model, method, finetuned == "finetuned")) for model, of in sweeps.methods if of == method
    ]
    return [(model, sweep) for model, sweep in found if sweep is not None]


def rise(study: str, method: str, share: str, finetuned: str) -> str:
    """A phrase: from least to most of all models, by how much errors change at one amount, and whose rise is shown."""
    sweeps = fair_sweeps(study, method, finetuned)
    levels = [(model, level) for model, sweep in sweeps for level in sweep.levels if same_share(level.sparsity, share)]
    changes = [100 * (level.ratio.value - 1) for _, level in levels]
    return f"{min(changes):+.1f} to {max(changes):+.1f} %, {shown_for(model for model, level in levels if level.loses)}"


def times(study: str, method: str, share: str) -> str:
    """A phrase: from least to most of all models, the speed-up over all data sets, and for which models it is shown.

    At one amount in percent, or as far as no loss shows: `reached`.
    """
    known, label = context(study), context(study).timings.main
    if share == "reached":
        reached = {model: known.reached_speedup(model, method) for model in known.methods[method]}
        found = {model: ratio for model, ratio in reached.items() if ratio is not None}
    else:
        found = {
            speed.model: speed.measured[label]
            for speed in known.speeds
            if label in speed.measured and speed.method == method and same_share(speed.sparsity_requested, share)
        }
    values = [ratio.value for ratio in found.values()]
    shown = shown_for(model for model, ratio in found.items() if ratio.low > 1)
    return f"{min(values):.2f} to {max(values):.2f} times, {shown}"


def single_times(study: str, method: str, share: str) -> str:
    """A phrase: the speed-ups on single data sets whose interval leaves out 1, fine-tuned; "none" without any."""
    label, found = context(study).timings.main, []
    for row in finetuned_rows(study, method, share):
        if row[f"{label}_speedup_low"] > 1 or row[f"{label}_speedup_high"] < 1:
            found.append(f"{row['model']} {row[f'{label}_speedup']:.2f} on {row['dataset']}")
    return ", ".join(found) or "none"


def small_dense(study: str, method: str, share: str) -> str:
    """A phrase: how often a dense model of the pruned one's size has the lower error, and how often either is shown."""
    held = [row for row in finetuned_rows(study, method, share) if not pd.isna(row["vs_small_dense"])]
    lower = sum(row["vs_small_dense"] > 0 for row in held)
    verdicts = [row["vs_small_dense_verdict"] for row in held]
    shown = f"shown: {verdicts.count('worse')}; the other way shown: {verdicts.count('better')}"
    return f"{lower} of {len(held)} pairs ({shown})"


def against(study: str, other: str, model: str, variant: str, *case: str) -> str:
    """A phrase: how far the error lies from `dense_continued`'s or `small_dense`'s, and whether that is shown."""
    column = f"vs_{other}"
    row = row_of(study, column, model, variant, *case)
    change, low, high = (row[f"{column}{end}"] for end in ("", "_low", "_high"))
    share = abs(change) / (row["test_mse"] - change)
    shown = "not shown" if row[f"{column}_verdict"] == "not told apart" else "shown"
    side = "lower" if change < 0 else "higher"
    return f"{percent(share)} {side} ({change:+.3f}, interval {low:+.3f} ... {high:+.3f}: {shown})"


def finetuned_rows(study: str, method: str, share: str) -> list[Row]:
    """Returns the fine-tuned variants of a method at one amount, of all models and data sets."""
    found = context(study).summary
    found = found[(found["role"] == "pruned+finetuned") & (found["method"] == method)]
    rows = ({str(key): value for key, value in row.items()} for row in found.to_dict("records"))
    return [row for row in rows if same_share(row["sparsity_requested"], share)]


def same_share(found: float, asked: str) -> bool:
    """Whether an amount is the one that was asked for, in percent."""
    return isclose(found, float(asked) / 100, abs_tol=1e-6)


def shown_for(models: Iterable[str]) -> str:
    """Returns for which models something is shown."""
    return f"shown for {', '.join(models) or 'none'}"


def thresholds(study: str) -> str:
    """A row a model and method, no controls: how far it goes with no loss shown, and with a loss of 5 % ruled out."""
    sweeps, lines = context(study).sweeps, []
    for model, method in sweeps.methods:
        if sweeps.is_control(method):
            continue
        both = [sweeps.fair(model, method, finetuned) for finetuned in (False, True)]
        levels = [[None if one is None else one.no_loss, None if one is None else one.small_loss] for one in both]
        lines.append(
            [model, short(method), *(percent(one.sparsity) if one else "-" for pair in levels for one in pair)]
        )
    heads = ["model", "method", "no loss shown, not fine-tuned", "5 % ruled out", "no loss shown, fine-tuned"]
    return table([*heads, "5 % ruled out"], lines)


def value(study: str, column: str, model: str, variant: str, *case: str) -> str:
    """One number of one variant; data set and horizon may be left out where the study has one of them."""
    return written(column, row_of(study, column, model, variant, *case)[column])


def across(study: str, column: str, variant: str) -> str:
    """One number of one variant, from least to most of all data sets and of all models that are cut structurally."""
    summary = context(study).summary
    cut = summary.loc[summary["method"] == "structured-magnitude", "model"]
    found = summary.loc[(summary["variant"] == variant) & summary["model"].isin(cut), column].dropna()
    return f"{written(column, found.min())} to {written(column, found.max())}"


def row_of(study: str, column: str, model: str, variant: str, *case: str) -> Row:
    """Returns a variant that has a column.

    Raises:
        ValueError: without such.
    """
    case = case or tuple(map(str, context(study).study.cases[0][:2]))
    row = one(rows(study, *case), model=model, variant=variant)
    if row is None or column not in row:
        raise ValueError(f"{study} has no {column} of {model}, {variant}, on {' at '.join(case)}")
    return row


def written(column: str, found: float) -> str:
    """Returns a number of a column as texts give it."""
    if column.endswith("_speedup"):
        return f"{found:.2f}"
    if column.endswith("_ms"):
        return f"{found:.2f} ms"
    if column.endswith("_bytes"):
        return kilobytes(found)
    if column.endswith(("sparsity_realised", "sparsity_requested")):
        return percent(found)
    return f"{found:,.0f}" if float(found).is_integer() else f"{found:.3f}"


def hours(study: str) -> str:
    """How long its stages took, together."""
    return f"{tables(study).stages['elapsed_s'].sum() / 3600:.1f} hours"


def published(_literature: str, model: str, dataset: str, horizon: str) -> str:
    """The published MSE and MAE of a model at look-back 96, from `prunecast/report/published.csv`."""
    found = published_errors()[Place(dataset, int(horizon), model, 96)]
    return f"{found.mse:.3f} / {found.mae:.3f}"


def untrained(study: str, dataset: str, horizon: str, family: str) -> str:
    """A row a method and share: by how many percent validation / test MSE change without training; means over seeds.

    Args:
        study: published.
        dataset: name.
        horizon: of the forecasts.
        family: structured or unstructured; controls stand with the methods.
    """
    every = tables(study).stages
    every = every[(every["dataset"] == dataset) & (every["horizon"] == int(horizon))]
    dense = every[every["role"] == "dense"].set_index(["model", "seed"])
    lines: dict[str, dict[str, str]] = {}
    columns = ["model", "method", "recovery", "sparsity_requested"]
    for key, cell in every[every["role"] == "pruned"].groupby(columns, sort=False, dropna=False):
        model, method, recovery, share = key
        kind: Method = METHODS.load(method)
        if (kind.granularity == "unit") == (family == "structured"):
            repaired = isinstance(recovery, str) and recovery not in (kind.recovery, NO_RECOVERY)
            head = f"{method}{f' + {recovery}' if repaired else ''} {percent(share)}"
            parents = dense.loc[list(zip(cell["model"], cell["seed"], strict=True))]
            changes = (100 * (cell[name].mean() / parents[name].mean() - 1) for name in ("validation_mse", "test_mse"))
            lines.setdefault(head, {})[MODEL_NAMES[model]] = " / ".join(f"{change:+.1f}" for change in changes)
    models_in_order = (MODEL_NAMES[model] for model in dict.fromkeys(dense.index.get_level_values("model")))
    names = [name for name in models_in_order if any(name in line for line in lines.values())]
    return table(
        [f"{dataset}, horizon {horizon}", *names],
        ([head, *(line.get(name, "") for name in names)] for head, line in lines.items()),
    )


# What stands between two ways to prune: differences by how many percent, with their intervals

SMALL = 2.0
"""Percent: a loss below this is small, where the whole interval lies below it."""


def gap(study: str, variant: Variant, other: Variant, split: str) -> Interval:
    """Returns by how many percent a variant's error lies above another's, over the seeds of both, with its interval.

    Args:
        study: published.
        variant: what is judged.
        other: what it is held against.
        split: validation or test.
    """
    found = context(study).study
    seeds = sorted(set(found.runs[variant]) & set(found.runs[other]))
    kinds = ("block_mse", "block_windows")
    (own, windows), (reference, _) = (
        [
            np.stack([found.frame.values(found.runs[one][seed]["fingerprint"], kind, split) for seed in seeds])
            for kind in kinds
        ]
        for one in (variant, other)
    )
    interval = mean_difference(own, reference, windows[0]).interval()
    whole = float((reference * windows).sum() / windows.sum()) / 100
    return Interval(*(end / whole for end in (interval.value, interval.low, interval.high)))


def variants_of(study: str, *case: str) -> dict[tuple[str, str, float | None], Variant]:
    """Returns a case's variants by model, name (dense, zeroed body, a method; "METHOD, fine-tuned"), and amount.

    Args:
        study: published.
        *case: data set and horizon; may be left out where the study has one of them.
    """
    found = context(study).study
    at = Case(case[0], int(case[1])) if case else found.cases[0]
    every = found.of_case(at)
    names = (f"{one.series}, fine-tuned" if one.role == "pruned+finetuned" else one.series for one in every)
    return {(one.model, name, one.sparsity_requested): one for name, one in zip(names, every, strict=True)}


def pairs(study: str, ways: str, share: str, *case: str) -> Iterator[tuple[Variant, Variant]]:
    """Yields two ways ("one against other", or "one against dense") at one amount, in percent, of each model."""
    known, (method, other) = variants_of(study, *case), ways.split(" against ")
    for (model, name, amount), variant in known.items():
        if name == method and amount is not None and same_share(amount, share):
            against = known.get((model, other, None if other == "dense" else amount))
            if against is not None:
                yield variant, against


def with_interval(found: Interval, digits: int = 1) -> str:
    """Returns a difference in percent with its interval; a star where that leaves out 0."""
    ends = f"({found.low:+.{digits}f} ... {found.high:+.{digits}f})"
    return f"{found.value:+.{digits}f}{'*' if found.leaves_out_zero else ''} {ends}"


def pays(study: str, ways: str, share: str, *case: str) -> str:
    """A row a model: error of two ways to prune against dense, and of the first against the second, by percent."""
    known, lines = variants_of(study, *case), []
    for variant, other in pairs(study, ways, share, *case):
        dense = known[variant.model, "dense", None]
        line = [f"{gap(study, one, dense, 'validation').value:+.1f}" for one in (variant, other)]
        both = [with_interval(gap(study, variant, other, split)) for split in ("validation", "test")]
        lines.append([variant.model, *line, *both])
    heads = [f"{way}, validation, against dense" for way in ways.split(" against ")]
    return table([f"{share} %", *heads, "one against the other, validation", "test"], lines)


def tuned(study: str, *case: str) -> str:
    """A row a fine-tuned way and amount: validation / test MSE against the dense model trained on as long, by percent.

    A star: the interval leaves out 0. A ring: it ends below 2 %, so that larger a loss is ruled out.
    """
    lines: dict[str, dict[str, str]] = {}
    for (model, way, amount), variant, trained_on in tuned_pairs(study, *case):
        found = (gap(study, variant, trained_on, split) for split in ("validation", "test"))
        cells = (f"{one.value:+.1f}{'*' * one.leaves_out_zero}{'°' * (one.high < SMALL)}" for one in found)
        lines.setdefault(f"{way} {percent(amount)}", {})[model] = " / ".join(cells)
    names = list(dict.fromkeys(name for line in lines.values() for name in line))
    rows_of = ([head, *(line.get(name, "") for name in names)] for head, line in lines.items())
    return table(["fine-tuned, against dense trained on", *names], rows_of)


def tuned_holds(study: str, way: str, share: str, split: str, *case: str) -> str:
    """A phrase: for which models fine-tuning leaves no loss shown, as in a report's thresholds, or rules out 2 %."""
    found = {
        model: gap(study, variant, trained_on, split)
        for (model, name, amount), variant, trained_on in tuned_pairs(study, *case)
        if name == way and same_share(amount, share)
    }
    held = [model for model, one in found.items() if one.low <= 0 and one.value < 100 * MARGIN]
    small = [model for model, one in found.items() if one.high < SMALL]
    return f"no loss shown for {which(held, [*found])}, a loss of 2 % ruled out for {which(small, [*found])}"


def which(chosen: Sequence[str], every: Sequence[str]) -> str:
    """Returns some of several models in few words: all 7, all but two of them, or none."""
    if len(chosen) == len(every):
        return f"all {len(every)}"
    if len(chosen) > len(every) / 2:
        return f"all but {', '.join(one for one in every if one not in chosen)}"
    return ", ".join(chosen) or "none"


def tuned_pairs(study: str, *case: str) -> Iterator[tuple[tuple[str, str, float], Variant, Variant]]:
    """Yields each fine-tuned variant by model, way and amount, with the dense model that was trained on as long."""
    known = variants_of(study, *case)
    for (model, _, amount), variant in known.items():
        if variant.role == "pruned+finetuned" and amount is not None:
            yield (model, variant.series, amount), variant, known[model, "dense-continued", None]


def against_linear(study: str, *case: str) -> str:
    """A row a dense model: its test MSE, mean over seeds, and by how many percent it lies above DLinear's."""
    known = variants_of(study, *case)
    linear = known["DLinear", "dense", None]
    every = tables(study).stages
    means = every[every["role"] == "dense"].groupby("model")["test_mse"].mean().rename(MODEL_NAMES)
    lines = (
        [model, f"{means[model]:.3f}", with_interval(gap(study, variant, linear, "test")) if variant != linear else ""]
        for (model, name, _), variant in known.items()
        if name == "dense"
    )
    return table(["dense", "test MSE", "against DLinear, in percent"], lines)


def pays_for(study: str, ways: str, share: str, split: str, *case: str) -> str:
    """A phrase: for how many models the first of two ways has the lower error, and for which that is shown."""
    found = {one.model: gap(study, one, other, split) for one, other in pairs(study, ways, share, *case)}
    lower = sum(one.value < 0 for one in found.values())
    shown = [model for model, one in found.items() if one.high < 0]
    worse = [model for model, one in found.items() if one.low > 0]
    text = f"lower for {lower} of {len(found)} models, shown for {len(shown)} ({', '.join(shown) or 'none'})"
    return f"{text}; higher shown for {', '.join(worse)}" if worse else text


def pays_one(study: str, model: str, ways: str, share: str, split: str, *case: str) -> str:
    """A phrase: how far the first of two ways lies from the second for one model, and whether that is shown."""
    every = pairs(study, ways, share, *case)
    found = next(gap(study, one, other, split) for one, other in every if one.model == model)
    side, shown = "lower" if found.value < 0 else "higher", "shown" if found.leaves_out_zero else "not shown"
    return f"{abs(found.value):.1f} % {side} (interval {found.low:+.1f} ... {found.high:+.1f}: {shown})"


def repaired(study: str, *case: str) -> dict[tuple[str, float], dict[str, Interval]]:
    """Returns by how many percent repair changes validation errors, by method and amount, then by model."""
    known = variants_of(study, *case)
    found: dict[tuple[str, float], dict[str, Interval]] = {}
    for (model, name, share), variant in known.items():
        bare = known.get((model, name.removesuffix(" + ridge"), share))
        if share is not None and bare is not None and bare is not variant:
            own = found.setdefault((name.removesuffix(" + ridge"), share), {})
            own[model] = gap(study, variant, bare, "validation")
    return dict(sorted(found.items(), key=lambda item: item[0]))


def repair(study: str, *case: str) -> str:
    """A row a method and share: by how many percent repair changes validation MSE against none, without training."""
    found = repaired(study, *case)
    names = list(dict.fromkeys(model for own in found.values() for model in own))
    lines = (
        [f"{method} {percent(share)}", *(with_interval(own[name], 0) if name in own else "" for name in names)]
        for (method, share), own in found.items()
    )
    return table(["repaired against not", *names], lines)


def repair_harms(study: str, *case: str) -> str:
    """A phrase: in how many cells repair has the lower validation error, and in which it has the higher one."""
    found = repaired(study, *case)
    cells = [
        (f"{model}, {of} {percent(share)}", one) for (of, share), own in found.items() for model, one in own.items()
    ]
    lower, shown = (sum(one.value < 0 for _, one in cells), sum(one.high < 0 for _, one in cells))
    higher = [f"{name}: {with_interval(one, 0)}" for name, one in cells if one.value >= 0]
    return f"in {lower} of {len(cells)} cells (shown in {shown}); higher in {'; '.join(higher) or 'none'}"


def remaining(study: str, model: str, *case: str) -> str:
    """A row a variant of one model: parameters left of all that reach its forecast, and by how much errors change."""
    every, known = context(study).study, variants_of(study, *case)
    dense = known[model, "dense", None]
    parent = next(iter(every.runs[dense].values()))
    lines = []
    for (of, name, _), variant in known.items():
        if of == model and variant is not dense:
            left = np.mean([row["nonzero"] - row["unused"] for row in every.runs[variant].values()])
            left /= parent["parameters"] - parent["unused"]
            changes = [with_interval(gap(study, variant, dense, split)) for split in ("validation", "test")]
            lines.append((name, -left, [name, f"{100 * left:.1f} %", *changes]))
    heads = [model, "left of all parameters", "validation MSE", "test MSE"]
    order = {name: at for at, name in enumerate(dict.fromkeys(name for name, _, _ in lines))}
    return table(heads, [line for _, _, line in sorted(lines, key=lambda one: (order[one[0]], one[1]))])


# On emulated devices: `results/<name>/devices.csv`, from `benchmarks/devices.py`


def devices(name: str) -> str:
    """A row a model: instructions of a forecast on either Cortex-M, flash, memory, and how far from eager at most."""
    found = pd.read_csv(RESULTS / name / "devices.csv")
    lines = []
    for model, own in found.groupby("model", sort=False):
        m7, m55 = (own.loc[own["device"] == device].iloc[0] for device in ("cortex-m7", "cortex-m55"))
        counts = [f"{row['instructions'] / 1e6:.1f} M" for row in (m7, m55)]
        ratio = f"{m7['instructions'] / m55['instructions']:.1f}"
        sizes = [kilobytes(m7["flash_bytes"]), kilobytes(m7["memory_bytes"])]
        lines.append([str(model), *counts, ratio, *sizes, f"{own['max_deviation'].max():.0e}"])
    heads = ["model", "instructions, M7", "instructions, M55", "M7 / M55", "flash", "memory", "deviation"]
    return table(heads, lines)


def c_engine(name: str) -> str:
    """A row a model: dense ONNX Runtime's time, and how many times faster the generated C is at each share of zeros."""
    found = pd.read_csv(RESULTS / name / "c_engine.csv")
    lines = []
    for model, own in found.groupby("model", sort=False):
        ratios = (f"{ratio:.2f}" for ratio in own["over_onnxruntime"])
        over_csr = own.loc[own["zeros"] == 0.9, "over_csr"].iloc[0]
        lines.append(
            [MODEL_NAMES[str(model)], f"{own['onnxruntime_dense_ms'].median():.2f} ms", *ratios, f"{over_csr:.2f}"]
        )
    zeros = (f"{percent(share)} zeros" for share in found["zeros"].unique())
    return table(["model", "ONNX Runtime, dense", *zeros, "over CSR at 90 %"], lines)


# Beside a peer: `results/<name>/peer.json`, from `benchmarks/peer.py`


@cache
def peer_parts(name: str) -> list[Row]:
    """Returns what `benchmarks/peer.py` found: a part for each dense model, in it a row for each share and method."""
    parts: list[Row] = json.loads((RESULTS / name / "peer.json").read_text(encoding="utf-8"))
    return parts


def peer_changes(name: str) -> dict[tuple[str, float], dict[str, dict[int, float]]]:
    """Returns by how many percent validation errors change: by model and share, then by method, then by seed."""
    found: dict[tuple[str, float], dict[str, dict[int, float]]] = {}
    for part, row in ((own, row) for own in peer_parts(name) for row in own["rows"]):
        label = f"{row['tool']} {row['method']}"
        change = 100 * (row["validation_mse"] / part["validation_mse"] - 1)
        found.setdefault((MODEL_NAMES[part["model"]], row["share"]), {}).setdefault(label, {})[part["seed"]] = change
    return {cell: own for cell, own in found.items() if any(label.startswith("prunecast") for label in own)}


def peer(name: str) -> str:
    """A row a model and share: change of validation MSE by each method, and in how many seeds ours is lowest."""
    found, gone = peer_changes(name), peer_removed(name)
    labels = list(dict.fromkeys(label for own in found.values() for label in own))
    labels.sort(key=lambda label: label.startswith("prunecast"))
    lines = []
    for (model, share), own in sorted(found.items()):
        ours, theirs, seeds = ours_and_theirs(own)
        below = sum(ours[seed] < min(one[seed] for one in theirs) for seed in seeds)
        cells = (f"{np.mean([own[label][seed] for seed in seeds]):+.1f}" if label in own else "" for label in labels)
        lines.append([model, percent(share), *cells, f"{below} of {len(seeds)}", gone[model, share]])
    for model, reason in refusals(name).items():
        lines.append([model, "", *[""] * len(labels), f"refused: {reason}", ""])
    return table(["model", "share", *labels, "ours below all of theirs", "removed, theirs / ours"], lines)


def peer_removed(name: str) -> dict[tuple[str, float], str]:
    """Returns how much either removed, by model and share: theirs from least to most of its methods, then ours."""
    found: dict[tuple[str, float], tuple[list[float], list[float]]] = {}
    for part, row in ((own, row) for own in peer_parts(name) for row in own["rows"]):
        both = found.setdefault((MODEL_NAMES[part["model"]], row["share"]), ([], []))
        both[row["tool"] == "prunecast"].append(100 * row["zeros"])
    return {
        cell: f"{min(theirs):.1f} ... {max(theirs):.1f} / {max(ours):.1f} %" if theirs and ours else ""
        for cell, (theirs, ours) in found.items()
    }


def ours_and_theirs(
    own: Mapping[str, Mapping[int, float]],
) -> tuple[Mapping[int, float], list[Mapping[int, float]], list[int]]:
    """Returns the changes by ours, those by each of theirs, and the seeds that all have."""
    ours = next(of for label, of in own.items() if label.startswith("prunecast"))
    theirs = [of for label, of in own.items() if not label.startswith("prunecast")]
    return ours, theirs, sorted(set(ours).intersection(*theirs))


def refusals(name: str) -> dict[str, str]:
    """Returns the models that their tool refuses, each with its reason."""
    return {MODEL_NAMES[part["model"]]: part["refused"] for part in peer_parts(name) if "refused" in part}


def peer_not_below(name: str) -> str:
    """A phrase: where the mean of ours does not lie below the mean of each of theirs."""
    found = []
    for (model, share), own in sorted(peer_changes(name).items()):
        ours, theirs, seeds = ours_and_theirs(own)
        means = [np.mean([of[seed] for seed in seeds]) for of in (ours, *theirs)]
        if means[0] >= min(means[1:]):
            found.append(f"{model} at {percent(share)} ({means[0]:+.1f} against {min(means[1:]):+.1f} %)")
    return ", ".join(found) or "nowhere"


def peer_layers(name: str) -> str:
    """A phrase: how much of what ours may prune of each model lies in layers that theirs prune too."""
    shares = {MODEL_NAMES[p["model"]]: percent(p["weights"] / p["prunable"]) for p in peer_parts(name) if p["layers"]}
    return ", ".join(f"{model} {share}" for model, share in sorted(shares.items()))


def peer_extent(name: str) -> str:
    """A phrase: how many models and seeds, and which version of the peer."""
    parts = [part for part in peer_parts(name) if part["rows"]]
    versions = {row["version"] for part in parts for row in part["rows"] if row["tool"] == "onnxsim"}
    seeds = sorted({part["seed"] for part in parts})
    whole = len({part["model"] for part in parts})
    return f"onnxsim {', '.join(sorted(versions))}, {whole} models, seeds {', '.join(map(str, seeds))}"


def realised(folder: str, runtime: str) -> str:
    """A row a model: its dense time, and per cut of the operations the speed-up with what that is of the cut.

    Args:
        folder: of `results/`, with the table that `benchmarks/savings.py` fills.
        runtime: name.
    """
    found = pd.read_csv(RESULTS / folder / "savings.csv")
    found = found[found["runtime"] == runtime]
    cuts = sorted(cut for cut in found["cut"].unique() if cut > 1)
    lines = []
    for model, own in found.groupby("model", sort=False):
        by_cut = {row["cut"]: row for row in own.to_dict("records")}
        cells = [
            f"{by_cut[cut]['speedup']:.2f} ({by_cut[cut]['speedup_low']:.2f} ... {by_cut[cut]['speedup_high']:.2f}): "
            f"{percent(by_cut[cut]['realised'])}"
            if cut in by_cut
            else "-"
            for cut in cuts
        ]
        lines.append([MODEL_NAMES[str(model)], f"{by_cut[1]['ms']:.2f} ms" if 1 in by_cut else "-", *cells])
    return table(["model", "dense", *(f"operations / {cut}" for cut in cuts)], lines)


def fastest(folder: str, study: str) -> str:
    """A row a model: its dense time in ONNX Runtime, and what is fastest without a loss shown on test, by runtime.

    Args:
        folder: of `results/`, with the table that `benchmarks/error_time.py` fills.
        study: published; its models fine-tuned, against the dense one that was trained on as long.
    """
    found, changes = pd.read_csv(RESULTS / folder / "times.csv"), {}
    for (model, way, amount), variant, trained_on in tuned_pairs(study):
        changes[model, way, amount] = gap(study, variant, trained_on, "test")
    lines = []
    for model, own in found.groupby("model", sort=False):
        name, best = MODEL_NAMES[str(model)], dict[str, tuple[float, str]]()
        for row in own[own["method"] != "dense"].to_dict("records"):
            change = changes[name, row["method"], row["sparsity"]]
            if change.low <= 0 and change.value < 100 * MARGIN:
                key = "zeros" if row["gone"] == "zeros" else row["runtime"]
                text = f"{row['faster']:.1f} ({row['method']} {percent(row['sparsity'])}, {change.value:+.1f} %)"
                best[key] = max(best.get(key, (0.0, "")), (row["faster"], text))
        dense = own[own["method"] == "dense"].set_index("runtime")
        cells = [best.get(key, (0.0, "-"))[1] for key in ("onnxruntime", "c", "zeros")]
        lines.append([name, f"{dense['ms']['onnxruntime']:.2f} ms", f"{dense['faster']['c']:.1f}", *cells])
    return table(["model", "dense, ONNX Runtime", "dense, C", "units, ONNX Runtime", "units, C", "zeros, C"], lines)


def stages(study: str) -> str:
    """How many stages the study has."""
    return f"{len(tables(study).stages):,}"


def methods(registry: str, family: str) -> str:
    """Returns the methods of pruning of one family, as a table: all that the registry says of each."""
    assert registry == "registry"
    if family not in FAMILIES:
        raise ValueError(f"expected a family of {', '.join(FAMILIES)}, found {family!r}")
    found: dict[str, Method] = {name: METHODS.load(name) for name in METHODS.names()}
    lines = []
    for name in sorted(found, key=lambda name: name != family):  # the best of its kind comes first
        method = found[name]
        if method.family == family:
            amount = BUDGET_NAMES[method.default_of] if method.budget == "share" else f"pattern {method.blocks}"
            says = ("yes" if one else "no" for one in (method.needs_data, method.trains))
            control = "" if method.control is None else f"`{method.control}`"
            lines.append([f"`{name}`", method.summary, amount, method.recovery, *says, control])
    heads = ["method", "what it does", "a share is of the", "recovery", "looks at data", "trains", "control"]
    return table(heads, lines)


BLOCKS: Mapping[str, Callable[..., str]] = {
    block.__name__: block
    for block in [
        *(
            errors,
            floors,
            beats_naive,
            variants,
            speedups,
            thresholds,
            no_loss,
            small_loss,
            rise,
            times,
            single_times,
            small_dense,
        ),
        *(against, value, across, hours, untrained, realised, stages, published, methods),
        *(against_linear, tuned, tuned_holds, pays, pays_for, pays_one, repair, repair_harms, remaining),
        *(peer, peer_not_below, peer_layers, peer_extent),
        *(devices, c_engine, fastest),
    ]
}


def renew(*, check: bool = False) -> list[Path]:
    """Renews the texts, unless asked only to look; returns those that were not current."""
    stale = []
    for path in texts():
        old = path.read_text(encoding="utf-8")
        new = renewed(old)
        if new != old:
            stale.append(path)
            if not check:
                path.write_text(new, encoding="utf-8")
    return stale


def main() -> int:
    """Renews the texts, or says which are not current; returns 1 when there are such."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    stale = renew(check=check)
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'not current' if check else 'renewed'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
