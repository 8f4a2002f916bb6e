"""Numbers in texts are those of `results/`: what stands between two markers is written from the records.

    python tools/quoted_numbers.py            renews README.md, docs/*.md and results/*/README.md
    python tools/quoted_numbers.py --check    says which of them are not current, and changes nothing

A marker names a study, a block and its arguments; names with blanks stand in quotes:

    <!-- numbers: paper-small errors ILI 24 -->
    (a table)
    <!-- /numbers -->

    the error is <!-- numbers: etth1-small value test_mse Transformer "magnitude 80 %" -->1.059<!-- /numbers -->

Blocks are the functions in `BLOCKS`; `published` alone is of the literature, and `methods` of the registry, and their
studies are called so. A star:
worse than the dense model trained on for as long as fine-tuning took (the 95 % interval of the difference leaves out
0); what is called shown has such an interval too.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from math import isclose
from pathlib import Path
from typing import Any

import pandas as pd

from prunecast.prune.methods import FAMILIES, Method
from prunecast.recipe import NO_RECOVERY
from prunecast.registry import METHODS
from prunecast.report.compare import Case
from prunecast.report.context import Context
from prunecast.report.published_errors import Place, published_errors
from prunecast.report.style import BUDGET_NAMES, MODEL_NAMES
from prunecast.report.thresholds import Level, Sweep
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
    """Returns a share as people write it: 48.8 % as 49 %."""
    return f"{100 * share:.0f} %"


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
    names = [MODEL_NAMES[model] for model in dict.fromkeys(dense.index.get_level_values("model"))]
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
    return table(
        [f"{dataset}, horizon {horizon}", *names],
        ([head, *(line.get(name, "") for name in names)] for head, line in lines.items()),
    )


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
        *(against, value, across, hours, untrained, stages, published, methods),
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
