"""Takes a finished study into results/: its recipe, its records, its report; models and artefacts stay behind.

    python tools/publish.py runs/etth1-small results/etth1-small

Refuses a study with failures, with unfinished stages, or with records from a source that was changed but not committed.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from prunecast import api
from prunecast.recipe import RECIPE_FILE
from prunecast.store import RECORD_FILE
from prunecast.study.study import STAGES_FILE, STORE_FOLDER, open_study


def publish(source: Path, target: Path) -> int:
    """Copies what is to be published; returns how many records there are."""
    study = open_study(source)
    records, failures = study.results()
    dirty = [record.label for record in records if record.environment.dirty]
    found = api.study_status(source, verify=True)
    unfinished = found.stages - found.done
    if failures or unfinished or dirty:
        sys.exit(f"not published: {len(failures)} failures, {unfinished} unfinished, {len(dirty)} from changed sources")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in (RECIPE_FILE, STAGES_FILE):
        shutil.copy(source / name, target / name)
    for record in records:
        folder = Path(STORE_FOLDER) / record.fingerprint[:2] / record.fingerprint
        (target / folder).mkdir(parents=True)
        shutil.copy(source / folder / RECORD_FILE, target / folder / RECORD_FILE)
    api.report(target)
    return len(records)


if __name__ == "__main__":
    print(f"{publish(Path(sys.argv[1]), Path(sys.argv[2]))} records published")
