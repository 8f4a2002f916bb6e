"""The page in a real browser; skipped where there is none."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.unit.report_records import study

from prunecast.report.page import write_report

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
    "--virtual-time-budget=4000",
)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = study(seeds=(1,), unstructured=(0.5,), structured=(0.75,))
    return write_report(records, (), tmp_path_factory.mktemp("report") / "r.html", title="</script>A & B").page


def shown(page: Path, place: str, profile: Path) -> str:
    """The document after its scripts have run at a place; a complaint in the console fails."""
    assert BROWSER is not None
    command = [BROWSER, *OPTIONS, f"--user-data-dir={profile}", "--dump-dom", f"{page.as_uri()}#{place}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not complaints, complaints
    return done.stdout


def test_a_page_that_lies_packed_is_unpacked_and_the_front_is_drawn(page: Path, tmp_path: Path) -> None:
    text = shown(page, "fronts", tmp_path)
    assert "<title>Fronts - &lt;/script&gt;A &amp; B</title>" in text
    assert re.search(r'<div id="overview" class="view" hidden', text)
    assert re.search(r'<svg[^>]*aria-label="Error against', text)
    table = text.partition('id="front-table"')[2].partition("</table>")[0]
    assert table.count('<a href="#') >= 1


def test_all_pages_can_be_opened_at_once(page: Path, tmp_path: Path) -> None:
    text = shown(page, "everything", tmp_path)
    assert text.count('class="view"') == 8
    assert 'class="view" hidden' not in text
    assert "All variants" in text
