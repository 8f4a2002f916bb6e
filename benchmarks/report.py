"""How long a report takes to write, how large its page is, and how fast a browser opens it.

    python benchmarks/report.py [--datasets 7]

The records are made up: five models, two horizons, three seeds, all controls, every model timed; 7 data sets make
10,374 records. Where Chromium is found, its own clock says when the page was loaded, in a fresh profile each time.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from prunecast.records import RunRecord
from prunecast.report.render import ReportFiles, write_report
from prunecast.study.frame import frame_of

OPENINGS = 5
LIMIT_MS = 2000.0
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--enable-logging=stderr",
)
CLOCK = """<script>
addEventListener("load", () => console.log(`CLOCK ${performance.now()}`));
</script></body>"""


def main() -> int:
    """Prints sizes and times; returns 1 when the page opens too slowly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=int, default=7, choices=range(1, 10))
    records = made_up(parser.parse_args().datasets)
    with tempfile.TemporaryDirectory() as folder:
        files = timed_report(records, Path(folder) / "report.html")
        return 0 if BROWSER is None else opened(files.page, Path(folder))


def made_up(datasets: int) -> list[RunRecord]:
    """Returns the records of a study as the tests make them up."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.support.study_records import large_study

    return large_study(datasets)


def timed_report(records: list[RunRecord], out: Path) -> ReportFiles:
    """Writes the report and prints how long it took and how large it is."""
    print(f"{len(records)} records; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    started, busy = time.perf_counter(), time.process_time()
    frame = frame_of(records)
    print(f"flattened in {time.perf_counter() - started:.1f} s")
    files = write_report(frame, (), out, title="A large study")
    print(f"written in {time.perf_counter() - started:.1f} s, {time.process_time() - busy:.1f} s of a processor")
    print(f"page {files.page.stat().st_size / 1e6:.2f} MB, {len(files.tables)} tables, {len(files.figures)} charts")
    return files


def opened(page: Path, folder: Path) -> int:
    """Opens the page in a browser and prints when it was loaded, its first page set and its scripts run."""
    clocked = folder / "clocked.html"
    clocked.write_text(page.read_text(encoding="utf-8").replace("</body>", CLOCK), encoding="utf-8")
    times = [_open_once(clocked, folder / f"profile{number}") for number in range(OPENINGS)]
    print("loaded after", ", ".join(f"{loaded:.0f}" for loaded in times), "ms")
    return int(max(times) > LIMIT_MS)


def _open_once(page: Path, profile: Path) -> float:
    command = [str(BROWSER), *OPTIONS, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"CLOCK ([\d.]+)", done.stderr)
    assert found is not None, done.stderr
    return float(found[1])


if __name__ == "__main__":
    sys.exit(main())
