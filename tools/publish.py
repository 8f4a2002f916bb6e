"""Takes finished studies into `results/`, and renews what is made from there.

    python tools/publish.py runs/all results/paper-small     packs a study: recipe, tables of its records, no models
    python tools/publish.py                                  picture, README and report page of every published study,
                                                             and the numbers in texts (see `quoted_numbers`)

A study with failures, with unfinished stages, or with records from a source that was changed but not committed is
refused. Report pages with their tables and charts are written to `build/results/` and are not kept in the repository.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from prunecast import api
from prunecast.recipe import RECIPE_FILE
from prunecast.store import new_directory
from prunecast.study.frame import RECORDS_FILE, write_frame
from prunecast.study.study import open_study

sys.path.insert(0, str(Path(__file__).parents[1]))
from tools import quoted_numbers as quoted

PAGES = quoted.ROOT / "build" / "results"
PICTURE, WAYS = "overview.svg", "ways.svg"
MOST_CHARACTERS = 200
"""Of a list in a README."""


def publish(source: Path, target: Path) -> int:
    """Packs a finished study into a folder, in place of what was there; returns how many records there are."""
    tables, failures = open_study(source).tables()
    found = api.study_status(source, verify=True)
    unfinished, dirty = found.stages - found.done, int(tables.stages["dirty"].fillna(value=False).sum())
    if failures or unfinished or dirty:
        sys.exit(f"not published: {len(failures)} failures, {unfinished} unfinished, {dirty} from changed sources")
    fresh = target.with_name(f"{target.name}.new")
    with new_directory(fresh) as folder:
        shutil.copy(source / RECIPE_FILE, folder / RECIPE_FILE)
        write_frame(tables, folder)
    shutil.rmtree(target, ignore_errors=True)  # only now: what cannot be packed takes the place of nothing
    fresh.rename(target)
    return len(tables.stages)


def illustrate(folder: Path) -> None:
    """Writes a published study's report page into `build/`, and keeps its pictures beside the tables."""
    page = PAGES / folder.name / "report.html"
    shutil.rmtree(page.parent, ignore_errors=True)
    files = api.report(folder, out=page).files
    picture = next((path for path in files.figures if path.name == PICTURE), files.figures[0])
    shutil.copy(picture, folder / PICTURE)
    for ways in (path for path in files.figures if path.name == WAYS):
        shutil.copy(ways, folder / WAYS)


README = """\
<!-- Written by tools/publish.py from the tables beside it; `make results` renews it. -->

# {title}

![{title}]({picture})

{facts}

Test MSE without / with fine-tuning, mean over seeds. A star: worse than the dense model trained on for as long as
fine-tuning took (the 95 % interval of the difference leaves out 0). The last column is the speed-up of structured
pruning, in turn with the dense model.

{blocks}

`records.parquet` has a row for each stage, `arrays.parquet` errors by block, timing samples and the forecasts that are
drawn, `recipe.yaml` what was asked for. `study run` goes on from them in a copy of this folder: it computes nothing
again, and writes the report.

```bash
cp -r results/{name} runs/{name}
prunecast study run runs/{name}/recipe.yaml --out runs/{name}
```
"""


def readme(folder: Path) -> str:
    """Returns the README of a published study: what was run, where and when, its errors, and how to go on from it."""
    study = open_study(folder)
    stages = quoted.tables(folder.name).stages
    scored = stages.dropna(subset=["test_mse"])
    cases = dict.fromkeys(zip(scored["dataset"], scored["horizon"], strict=True))
    blocks = (f"<!-- numbers: {folder.name} errors {data} {horizon} -->\n<!-- /numbers -->" for data, horizon in cases)
    counts = stages["stage"].value_counts(sort=False)
    versions = (json.loads(text).items() for text in stages["versions"])
    machines = zip(stages["processor"], stages["machine_cores"], stages["machine"], strict=True)
    facts = {
        "stages": f"{len(stages):,}: {', '.join(f'{count} {stage}' for stage, count in counts.items())}",
        "models": listed(stages["model"]),
        "data": listed(f"{data} at {horizon}" for data, horizon in cases),
        "seeds": listed(stages["seed"]),
        "machines": listed(f"{processor}, {cores} cores ({machine})" for processor, cores, machine in machines),
        "packages": listed(f"{name} {version}" for found in versions for name, version in found),
        "commits": listed(stages["commit"].dropna().str[:7]),
        "when": f"{stages['started_at'].min()[:10]} to {stages['started_at'].max()[:10]}",
        "computing": f"{stages['elapsed_s'].sum() / 3600:.1f} hours",
    }
    return quoted.renewed(
        README.format(
            name=folder.name,
            title=study.title,
            picture=WAYS if (folder / WAYS).exists() else PICTURE,
            facts=quoted.table(["what", ""], facts.items()),
            blocks="\n\n".join(blocks),
        )
    )


def listed(values: Iterable[object]) -> str:
    """Returns the different values in their order, with commas; a long list ends in how many there are."""
    found = list(dict.fromkeys(map(str, values)))
    text = ", ".join(found)
    return text if len(text) <= MOST_CHARACTERS else f"{', '.join(found[:3])} ... ({len(found)})"


def main() -> None:
    """Packs a study where two folders are named, and renews what is made from the published ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="the study's, and the one under results/"
    )
    folders = parser.parse_args().folders
    if len(folders) not in (0, 2):
        parser.error(f"expected two folders or none, found {len(folders)}")
    if folders and folders[1].resolve().parent != quoted.RESULTS:
        parser.error(f"expected a folder right under results/ (make results: NAME=name), found {folders[1]}")
    if folders:
        print(f"{publish(*folders)} records published")
    for folder in sorted(path.parent for path in quoted.RESULTS.glob(f"*/{RECORDS_FILE}")):
        illustrate(folder)
        (folder / "README.md").write_text(readme(folder), encoding="utf-8")
        print(f"{folder.relative_to(quoted.ROOT)}: report in {PAGES.relative_to(quoted.ROOT) / folder.name}")
    quoted.renew()


if __name__ == "__main__":
    main()
