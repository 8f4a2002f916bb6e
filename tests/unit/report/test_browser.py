"""The page in a real browser; skipped where there is none."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from pypdf import PdfReader
from tests.support.study_records import study

from prunecast.report.render import write_report
from prunecast.study.frame import frame_of

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
    "--virtual-time-budget=20000",
)

SMALL = {"seeds": (1,), "unstructured": (0.5,), "structured": (0.75,)}

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = study(**SMALL)
    return write_report(
        frame_of(records), (), tmp_path_factory.mktemp("report") / "r.html", title="</script>A & B"
    ).page


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
    assert re.search(r'<div class="plot[^>]*aria-label="Error against', text)
    assert "<svg" in text.partition('data-chart="front"')[2]
    table = text.partition('id="front-table"')[2].partition("</table>")[0]
    assert table.count('<a href="#') >= 1
    plot = text.partition('data-chart="front"')[2].partition("</figure>")[0]
    width = re.search(r'<svg[^>]* width="(\d+)', plot)
    assert width is not None
    assert int(width[1]) > 600  # of a window of 800 pixels
    assert "median ms per forecast" in plot
    assert 'data-unit="test MSE"' in table


PICK_A_MODEL = """<script>
addEventListener("load", async () => {
  const texts = () => [...document.querySelectorAll('[data-chart="front"] text')];
  while (!document.querySelector("#front-table a")) await new Promise((resolve) => setTimeout(resolve, 50));
  for (const kind of ["pointerdown", "mousedown", "mouseup", "click"]) {
    texts().find((text) => text.textContent === "DLinear").dispatchEvent(new MouseEvent(kind, { bubbles: true }));
  }
});
</script>"""


def test_a_click_in_the_legend_leaves_the_front_of_one_model(page: Path, tmp_path: Path) -> None:
    clicked = tmp_path / "clicked.html"
    clicked.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{PICK_A_MODEL}</body>"), encoding="utf-8")
    table = shown(clicked, "fronts", tmp_path / "profile").partition('id="front-table"')[2].partition("</table>")[0]
    names = re.findall(r'<a href="#[^>]*>([^<]*)<', table)
    assert names
    assert all(name.startswith("DLinear") for name in names)


def test_all_pages_can_be_opened_at_once(page: Path, tmp_path: Path) -> None:
    text = shown(page, "everything", tmp_path)
    assert text.count('class="view"') == 8
    assert 'class="view" hidden' not in text
    assert "All variants" in text
    plots = text.split('data-chart="')[1:]
    assert len(plots) >= 30
    assert all("<svg" in plot for plot in plots)


def test_a_record_without_a_file_is_shown_from_the_page(page: Path, tmp_path: Path) -> None:
    name = next(record.fingerprint for record in study(**SMALL) if record.test is not None)
    text = shown(page, f"record:{name}", tmp_path)
    assert f"Record {name}" in text
    assert "<dt>test_mse</dt>" in text


PHONE = 360
"""Width of a small phone, in CSS pixels; what a scroll bar takes of it is the page's."""

FRAME = """<!DOCTYPE html><meta charset="utf-8"><iframe width="{width}" height="740" srcdoc="{page}"></iframe>
<pre></pre><script>
const frame = document.querySelector("iframe");
frame.addEventListener("load", async () => {{
  const inner = frame.contentDocument, found = {{}};
  const places = [...inner.querySelectorAll("script[data-page]")].map((script) => script.dataset.page);
  for (const place of ["overview", ...places]) {{
    frame.contentWindow.location.hash = place;
    const wanted = `#${{place}}`;
    while (inner.documentElement.dataset.shown !== wanted) await new Promise((resolve) => setTimeout(resolve, 50));
    const open = inner.querySelectorAll(".view:not([hidden])").length;
    const shown = inner.documentElement.dataset.shown;
    const cut = [...inner.querySelectorAll(".view:not([hidden]) svg text")].filter((text) => {{
      const box = text.getBoundingClientRect();
      return box.left < -1 || box.right > inner.documentElement.clientWidth + 1;
    }});
    const boxes = [...inner.querySelectorAll(".view:not([hidden]) .scroll:has(.stacked)")];
    const sideways = boxes.map((box) => box.scrollWidth - box.clientWidth);
    const wide = inner.documentElement.scrollWidth - inner.documentElement.clientWidth;
    found[place] = [open, shown, wide, cut.length, sideways];
  }}
  document.querySelector("pre").textContent = JSON.stringify(found);
}});
</script>"""


def test_no_page_is_wider_than_a_phone(page: Path, tmp_path: Path) -> None:
    framed = tmp_path / "framed.html"
    inner = html.escape(page.read_text(encoding="utf-8"), quote=True)
    framed.write_text(FRAME.format(width=PHONE, page=inner), encoding="utf-8")
    said = shown(framed, "", tmp_path / "profile").partition("<pre>")[2].partition("</pre>")[0]
    found = json.loads(html.unescape(said))
    assert len(found) == 8
    assert found["overview"][-1] == [0]  # the answer fits without scrolling
    for place, (opened, at, too_wide, cut, _) in found.items():
        assert (opened, at) == (1, f"#{place}")
        assert too_wide <= 0, place
        assert cut == 0, place


def test_the_printed_report_needs_no_colour_and_no_menu(page: Path, tmp_path: Path) -> None:
    assert BROWSER is not None
    printed = tmp_path / "r.pdf"
    place = f"{page.as_uri()}#everything"
    command = [BROWSER, *OPTIONS, f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={printed}", place]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    document = PdfReader(printed)
    pages = [sheet.extract_text() for sheet in document.pages]
    assert len(pages) > 8
    text = " ".join(" ".join(pages).split())
    for heading in ("Overview", "What was run", "All variants", "Error against sparsity", "Promised and measured"):
        assert heading in text, heading
    assert "Skip to the content" not in text
    assert "CSV LaTeX" not in text  # links that paper cannot follow
    assert all(sheet.mediabox.width > sheet.mediabox.height for sheet in document.pages)
