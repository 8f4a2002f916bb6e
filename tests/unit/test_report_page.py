from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from tests.unit.report_records import failure, study

from prunecast.errors import UserError
from prunecast.records import Failure, RunRecord
from prunecast.report.page import ReportFiles, write_report

HOSTILE = "</script><img src=x onerror=alert(1)>"
SMALL = {"seeds": (1,), "unstructured": (0.5,), "structured": (0.75,)}


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, the visible text, and the ids."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.style = ""
        self._open = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts.append(data)
        elif self._open == "style":
            self.style += data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split()).replace("\u00a0", " ")

    def links(self) -> list[str]:
        return [value for _, attrs in self.tags for key, value in attrs.items() if key in ("href", "src") and value]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    out = tmp_path_factory.mktemp("report") / "a report.html"
    return write_report(study(**SMALL), [failure()], out, title="What pruning costs")


@pytest.fixture(scope="module")
def page(report: ReportFiles) -> Page:
    return Page(report.page)


@pytest.fixture
def no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the slowest part, which other tests cover."""
    monkeypatch.setattr("vl_convert.svg_to_png", lambda svg, scale: b"\x89PNG")


def test_the_page_asks_nothing_of_any_network(page: Page) -> None:
    policies = [a.get("content") or "" for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'")
    assert "http" not in policies[0]
    assert not [link for link in page.links() if re.match(r"[a-z]+:|//", link)]
    assert not [
        tag for tag, attrs in page.tags if tag in ("link", "iframe", "img") or (tag == "script" and "src" in attrs)
    ]
    assert "url(" not in page.style
    assert "@import" not in page.style


def test_links_lead_to_files_that_were_written(report: ReportFiles, page: Page) -> None:
    files = [report.page.parent / unquote(link) for link in page.links() if not link.startswith("#")]
    assert {path.resolve() for path in files} == {path.resolve() for path in (*report.tables, *report.figures)}
    assert all(path.stat().st_size > 100 for path in files)
    targets = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {link[1:] for link in page.links() if link.startswith("#")} <= targets


def test_vega_is_there_once_and_each_chart_has_its_place(page: Page) -> None:
    assert sum("window.vegaEmbed" in script for script in page.scripts) == 1
    wanted = [attrs["data-spec"] for _, attrs in page.tags if "data-spec" in attrs]
    given = [attrs["id"] for tag, attrs in page.tags if tag == "script" and "id" in attrs]
    assert wanted == given
    assert len(set(wanted)) == len(wanted) >= 8


def test_the_page_says_what_was_run(page: Page) -> None:
    for words in (
        "What pruning costs",
        "1 stage did not finish",
        "loss became NaN at step 31",
        "AMD EPYC 9B14 96-Core Processor, 2 cores",
        "bce23dc90a1f",
        "9f" * 32,
        "torch 2.13.0",
        "synthetic-load, horizon 96",
        "Transformer, dense, beats seasonal naive",
        "structured-magnitude 75 %, fine-tuned",
    ):
        assert words in page.text, words


def test_charts_are_whole_files(report: ReportFiles) -> None:
    kinds = {path.suffix for path in report.figures}
    assert kinds == {".svg", ".png"}
    for path in report.figures:
        if path.suffix == ".svg":
            assert ET.parse(path).getroot().tag.endswith("svg")
        else:
            assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("no_pixels")
def test_the_same_records_give_the_same_files(report: ReportFiles, tmp_path: Path) -> None:
    again = write_report(study(**SMALL)[::-1], [failure()], tmp_path / report.page.name, title="What pruning costs")
    assert again.page.read_bytes() == report.page.read_bytes()
    assert [p.read_bytes() for p in again.tables] == [p.read_bytes() for p in report.tables]


@pytest.mark.usefixtures("no_pixels")
def test_names_from_data_stay_text(tmp_path: Path) -> None:
    records = study(HOSTILE, channels=(HOSTILE, "a_b%&#"), measured=False, **(SMALL | {"structured": ()}))
    renamed = [r.model_copy(update={"model": HOSTILE}) if r.model == "dlinear" else r for r in records]
    bad = Failure(stage="train", fingerprint="0", label=HOSTILE, reason=HOSTILE)
    files = write_report(renamed, [bad], tmp_path / "r.html", title=HOSTILE)
    page = Page(files.page)
    assert page.text.count(HOSTILE) >= 6
    assert "img" not in {tag for tag, _ in page.tags}
    assert not [attrs for _, attrs in page.tags if any(key.startswith("on") for key in attrs)]
    specs = [script for script in page.scripts if '"datasets"' in script]
    assert any("u003c/script" in spec for spec in specs)
    for path in files.figures:
        if path.suffix == ".svg":
            tags = {element.tag.rpartition("}")[2] for element in ET.parse(path).iter()}
            assert tags.isdisjoint({"script", "img", "image", "foreignObject"})
    assert {path.parent for path in (*files.tables, *files.figures)} == {tmp_path / "r_files"}


def without(*roles: str) -> list[RunRecord]:
    return [r for r in study(**SMALL, measured=False) if r.role not in roles and r.model != "dlinear"]


@pytest.mark.parametrize(
    ("records", "lacking"),
    [
        (without(), "Error against measured time"),
        (without("naive"), "last value"),
        (without("pruned+finetuned", "trained-on"), "magnitude 50 %, fine-tuned"),
        (without("trained-on"), "trained on −"),
        (without("pruned", "pruned+finetuned", "small-dense", "trained-on", "zeroed-body"), "How much can go"),
        ([r for r in study(**SMALL) if r.role == "naive"][:1], "Error against"),
        ([r.model_copy(update={"examples": ()}) for r in without()], "Forecasts beside the truth"),
    ],
    ids=["times", "naive", "finetuning", "trained-on", "pruning", "all-but-one", "examples"],
)
@pytest.mark.usefixtures("no_pixels")
def test_a_report_of_what_there_is(records: list[RunRecord], lacking: str, tmp_path: Path) -> None:
    files = write_report(records, (), tmp_path / "r.html", title="t")
    text = Page(files.page).text
    assert "All variants" in text
    assert lacking not in text
    assert "did not finish" not in text


@pytest.mark.usefixtures("no_pixels")
def test_every_case_has_its_section(tmp_path: Path) -> None:
    first = [r for r in study(**SMALL, measured=False) if r.model != "transformer"]
    second = [r for r in study("ETTh1", 192, **SMALL, measured=False) if r.model != "transformer"]
    files = write_report(first + second, (), tmp_path / "r.html", title="t")
    page = Page(files.page)
    assert {"case-1-etth1-192", "case-2-synthetic-load-96"} <= {attrs.get("id") for _, attrs in page.tags}
    assert len({path.name for path in files.figures}) == len(files.figures)
    assert {path.name for path in files.tables} >= {"1-etth1-192.tex", "2-synthetic-load-96.tex"}


@pytest.mark.usefixtures("no_pixels")
def test_what_lies_there_already_is_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [r for r in study(**SMALL, measured=False) if r.role in ("dense", "naive")]
    out = tmp_path / "r.html"
    first = write_report(records, (), out, title="t")
    drawn: list[str] = []
    monkeypatch.setattr("prunecast.report.page._draw", lambda folder, figure: drawn.append(figure.name) or ())
    assert write_report(records[::-1], (), out, title="t") == first
    assert not drawn
    content = out.read_bytes()
    out.write_text("damaged")
    write_report(records, (), out, title="t")
    assert drawn
    assert out.read_bytes() == content
    drawn.clear()
    write_report(records, [failure()], out, title="t")
    assert drawn
    assert "did not finish" in Page(out).text


def test_without_a_scored_model_there_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run the study first"):
        write_report([], (), tmp_path / "r.html", title="t")
    with pytest.raises(UserError, match="loss became NaN"):
        write_report([], [failure()], tmp_path / "r.html", title="t")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "r_files").write_text("in the way")
    naive = [r for r in study(**SMALL) if r.role == "naive"][:1]
    with pytest.raises(UserError, match="cannot write"):
        write_report(naive, (), tmp_path / "r.html", title="t")
