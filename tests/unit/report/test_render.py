from __future__ import annotations

import base64
import csv
import gzip
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
from tests.support.study_records import failure, study

from prunecast.errors import UserError
from prunecast.records import Failure, RunRecord
from prunecast.report.render import ReportFiles, write_report
from prunecast.store import Store
from prunecast.study.frame import frame_of
from prunecast.study.study import open_study

HOSTILE = "</script><img src=x onerror=alert(1)>"
RESULTS = Path(__file__).parents[3] / "results"
SMALL = {"seeds": (1,), "unstructured": (0.5,), "structured": (0.75,)}


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, the visible text, the ids, and the pages packed inside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.packed: dict[str, str] = {}
        self.held: dict[str, str] = {}
        self.style = ""
        self._open, self._held = ("", ""), ""
        self.feed(text)
        self.views = {
            name: Page(gzip.decompress(base64.b64decode(text)).decode()) for name, text in self.packed.items()
        }

    @classmethod
    def of(cls, path: Path) -> Page:
        return cls(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        self._open = (tag, found.get("data-page") or "")
        self._held = (found.get("id") or "") if found.get("type") == "application/gzip" else ""

    def handle_endtag(self, tag: str) -> None:
        self._open = ("", "")

    def handle_data(self, data: str) -> None:
        tag, name = self._open
        if name:
            self.packed[name] = self.packed.get(name, "") + data
        elif tag == "script" and self._held:
            self.held[self._held] = self.held.get(self._held, "") + data
        elif tag == "script":
            self.scripts.append(data)
        elif tag == "style":
            self.style += data
        else:
            self.words.append(data)

    @property
    def charts(self) -> dict[str, dict]:
        """The charts that the part has, as data for their templates."""
        return next((json.loads(script) for script in self.scripts if '"template"' in script), {})

    def unpacked(self, name: str) -> str:
        """What lies compressed in the page beside the other pages: vega, templates, records."""
        return gzip.decompress(base64.b64decode(self.held[name])).decode()

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split()).replace("\u00a0", " ")

    @property
    def whole_text(self) -> str:
        return " ".join([self.text, *(view.text for view in self.views.values())])

    @property
    def parts(self) -> list[Page]:
        return [self, *self.views.values()]

    def attributes(self, *names: str) -> list[str]:
        return [value for _, attrs in self.tags for key, value in attrs.items() if key in names and value]

    def links(self) -> list[str]:
        return self.attributes("href", "src")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    folder = tmp_path_factory.mktemp("report")
    store = Store(folder / "a store")
    return write_report(
        frame_of(study(**SMALL)), [failure()], folder / "a report.html", title="What pruning costs", store=store
    )


@pytest.fixture(scope="module")
def page(report: ReportFiles) -> Page:
    return Page.of(report.page)


@pytest.fixture
def no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the slowest part, which other tests cover."""
    monkeypatch.setattr("vl_convert.svg_to_png", lambda svg, scale: b"\x89PNG")


def test_the_page_asks_nothing_of_any_network(page: Page) -> None:
    policies = [a.get("content") or "" for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'")
    assert "http" not in policies[0]
    assert "eval" not in policies[0]
    for part in page.parts:
        assert not [link for link in part.links() if re.match(r"[a-z]+:|//", link)]
        assert not [
            tag for tag, attrs in part.tags if tag in ("link", "iframe", "img") or (tag == "script" and "src" in attrs)
        ]
        assert "url(" not in part.style
        assert "@import" not in part.style


def test_links_lead_to_files_records_and_pages_that_are_there(report: ReportFiles, page: Page) -> None:
    links = {link for part in page.parts for link in part.links()}
    files = {report.page.parent / unquote(link) for link in links if not link.startswith("#")}
    records = {path for path in files if path.name == "record.json"}
    written = {path.resolve() for path in (*report.tables, *report.figures)}
    assert {path.resolve() for path in files - records} <= written
    assert {path for path in written if path.suffix == ".csv"} <= {path.resolve() for path in files}
    assert all(path.stat().st_size > 30 for path in files - records)
    names = {record.fingerprint for record in study(**SMALL) if record.test is not None}
    held = {link.removeprefix("#record:") for link in links if link.startswith("#record:")}
    assert names <= held | {path.parent.name for path in records}
    assert held <= {*json.loads(page.unpacked("records"))["fingerprint"]}
    anchors = {value for part in page.parts for value in part.attributes("id")} | {"everything"} | set(page.views)
    places = {link[1:] for link in links if link.startswith("#") and not link.startswith("#record:")}
    assert {part for place in places for part in place.split(":") if part} <= anchors


def test_every_table_has_its_csv_and_latex(report: ReportFiles, page: Page) -> None:
    names = {path.name for path in report.tables}
    tables = [attrs for part in page.parts for tag, attrs in part.tags if tag == "caption"]
    latex = {name.removesuffix(".tex") for name in names if name.endswith(".tex")}
    assert latex <= {name.removesuffix(".csv") for name in names if name.endswith(".csv")}
    assert len(tables) - 1 <= len(latex)  # the table of fronts is written by the page itself
    assert {"summary.csv", "runs.csv", "comparisons.csv", "headline.csv", "headline.tex", "speeds.tex"} <= names


def test_there_is_a_page_for_each_data_set_model_and_method(page: Page) -> None:
    assert list(page.views) == [
        "data-1-synthetic-load",
        "model-1-transformer",
        "model-2-dlinear",
        "method-1-magnitude",
        "method-2-structured-magnitude",
        "method-3-random",
        "fronts",
    ]
    assert "Forecasts before and after pruning" in page.views["model-1-transformer"].text
    assert "promised and measured" in page.views["method-2-structured-magnitude"].text
    data = page.views["data-1-synthetic-load"]
    assert len(data.charts) >= 10
    for part in page.parts:
        assert sorted(part.attributes("data-chart")) == sorted(part.charts)


def test_the_fronts_know_every_variant(page: Page) -> None:
    points = page.views["fronts"].charts["front"]["data"]["points"]
    measured = [point for point in points if point["where"] != "all, relative to dense"]
    assert len(measured) == len({r.fingerprint for r in study(**SMALL) if r.test is not None})
    assert {point["page"].partition(":")[0] for point in points} - {""} <= set(page.views)


def test_charts_are_drawn_without_eval_from_templates_that_are_there(page: Page) -> None:
    drawing = json.loads(page.unpacked("templates"))
    used = {chart["template"] for part in page.parts for chart in part.charts.values()}
    assert used == set(range(len(drawing["templates"])))
    assert "vegaEmbed" in page.unpacked("vega")
    assert "ast: true" in page.scripts[-1]


def test_records_without_files_lie_in_the_page(page: Page) -> None:
    held = json.loads(page.unpacked("records"))
    records = {record.fingerprint: record for record in study(**SMALL)}
    assert {*held["fingerprint"]} == {*records}
    for name, mse, recipe in zip(held["fingerprint"], held["test_mse"], held["recipe"], strict=True):
        test = records[name].test
        assert mse == (None if test is None else test.mse)
        assert json.loads(recipe) == records[name].recipe


def test_the_page_says_what_was_run(page: Page) -> None:
    for words in (
        "What pruning costs",
        "1 stage did not finish",
        "loss became NaN at step 31",
        "AMD EPYC 9B14 96-Core Processor, 2 cores",
        "bce23dc90a1f",
        "9f" * 32,
        "torch 2.13.0",
        "1 seed: three or more are needed before a claim",
    ):
        assert words in page.text, words
    for words in ("What the controls say", "structured-magnitude 75 %, fine-tuned"):
        assert words in page.whole_text, words


def test_what_was_run_and_what_was_not_are_tables_too(report: ReportFiles) -> None:
    files = {path.name: path.read_text() for path in report.tables}
    rows = list(csv.reader(files["run.csv"].splitlines()))
    assert rows[0] == ["of", "what", "value"]
    facts = {(of, what): value for of, what, value in rows[1:]}
    assert facts["environment 1", "processor"] == "AMD EPYC 9B14 96-Core Processor"
    assert facts["environment 1", "torch"] == "2.13.0"
    assert facts["stages", "seeds"] == "1"
    assert int(facts["stages", "finetune"]) > 1
    assert "loss became NaN at step 31" in files["failures.csv"]
    assert {"run.tex", "failures.tex"} <= set(files)


def test_everything_has_a_name_for_those_who_cannot_see_it(page: Page) -> None:
    for part in page.parts:
        charts = [attrs for _, attrs in part.tags if attrs.get("data-chart")]
        assert all(attrs.get("role") == "img" and len(attrs.get("aria-label") or "") > 20 for attrs in charts)
        assert all(
            attrs.get("aria-hidden") for tag, attrs in part.tags if tag == "svg" and attrs.get("class") == "mark"
        )
        regions = [attrs for _, attrs in part.tags if attrs.get("role") == "region"]
        assert all(attrs.get("aria-label") and attrs.get("tabindex") == "0" for attrs in regions)
        headings = [int(tag[1]) for tag, _ in part.tags if re.fullmatch(r"h[1-6]", tag)]
        assert all(second - first <= 1 for first, second in pairwise(headings))
        ids = part.attributes("id")
        assert len(ids) == len(set(ids))


def test_charts_are_whole_files(report: ReportFiles) -> None:
    kinds = {path.suffix for path in report.figures}
    assert kinds == {".svg", ".png"}
    assert {path.stem for path in report.figures} >= {"overview", "thresholds", "time", "speed"}
    for path in report.figures:
        if path.suffix == ".svg":
            assert ET.parse(path).getroot().tag.endswith("svg")
        else:
            assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("no_pixels")
def test_the_same_records_give_the_same_files(report: ReportFiles, tmp_path: Path) -> None:
    out = tmp_path / report.page.name
    store = Store(tmp_path / "a store")
    again = write_report(frame_of(study(**SMALL)[::-1]), [failure()], out, title="What pruning costs", store=store)
    assert again.page.read_bytes() == report.page.read_bytes()
    assert [p.read_bytes() for p in again.tables] == [p.read_bytes() for p in report.tables]


@pytest.mark.usefixtures("no_pixels")
def test_names_from_data_stay_text(tmp_path: Path) -> None:
    records = study(HOSTILE, channels=(HOSTILE, "a_b%&#"), measured=False, **(SMALL | {"structured": ()}))
    renamed = [r.model_copy(update={"model": HOSTILE}) if r.model == "dlinear" else r for r in records]
    bad = Failure(stage="train", fingerprint="0", label=HOSTILE, reason=HOSTILE)
    files = write_report(frame_of(renamed), [bad], tmp_path / "r.html", title=HOSTILE)
    page = Page.of(files.page)
    assert page.text.count(HOSTILE) >= 6
    assert page.whole_text.count(HOSTILE) >= 30
    for part in page.parts:
        assert not {"img", "iframe", "object", "embed"} & {tag for tag, _ in part.tags}
        assert not [attrs for _, attrs in part.tags if any(key.startswith("on") for key in attrs)]
        assert sum(tag == "script" for tag, _ in part.tags) <= (5 + len(page.views) if part is page else 1)
    assert HOSTILE in {point["model"] for point in page.views["fronts"].charts["front"]["data"]["points"]}
    for path in files.figures:
        if path.suffix == ".svg":
            tags = {element.tag.rpartition("}")[2] for element in ET.parse(path).iter()}
            assert tags.isdisjoint({"script", "img", "image", "foreignObject"})
    assert {path.parent for path in (*files.tables, *files.figures)} == {tmp_path / "r_files"}
    for path in files.tables:
        text = path.read_text()
        assert not re.search(r"(^|,|\n)\"?[=+@]", text) if path.suffix == ".csv" else "<" not in text


def without(*roles: str) -> list[RunRecord]:
    return [r for r in study(**SMALL, measured=False) if r.role not in roles and r.model != "dlinear"]


@pytest.mark.parametrize(
    ("records", "lacking"),
    [
        (without(), "Error against measured time"),
        (without("naive"), "last value"),
        (without("pruned+finetuned", "dense-continued"), "magnitude 50 %, fine-tuned"),
        (without("dense-continued"), "dense-continued 0."),
        (without("pruned", "pruned+finetuned", "small-dense", "dense-continued", "zeroed-body"), "How much can go"),
        ([r for r in study(**SMALL) if r.role == "naive"][:1], "Error against sparsity"),
        ([r.model_copy(update={"examples": ()}) for r in without()], "Forecasts beside the truth"),
    ],
    ids=["times", "naive", "finetuning", "dense-continued", "pruning", "all-but-one", "examples"],
)
@pytest.mark.usefixtures("no_pixels")
def test_a_report_of_what_there_is(records: list[RunRecord], lacking: str, tmp_path: Path) -> None:
    files = write_report(frame_of(records), (), tmp_path / "r.html", title="t")
    page = Page.of(files.page)
    data = next(view for name, view in page.views.items() if name.startswith("data-"))
    assert "All variants" in data.text
    assert lacking not in data.text
    assert "did not finish" not in page.text


@pytest.mark.usefixtures("no_pixels")
def test_every_case_has_its_section(tmp_path: Path) -> None:
    first = [r for r in study(**SMALL, measured=False) if r.model != "transformer"]
    second = [r for r in study("ETTh1", 192, **SMALL, measured=False) if r.model != "transformer"]
    third = [r for r in study("ETTh1", 96, **SMALL, measured=False) if r.model != "transformer"]
    files = write_report(frame_of(first + second + third), (), tmp_path / "r.html", title="t")
    page = Page.of(files.page)
    sections = {value for view in page.views.values() for value in view.attributes("id")}
    assert {"data-1-etth1-96", "data-1-etth1-192", "data-2-synthetic-load-96"} <= sections
    assert len({path.name for path in files.figures}) == len(files.figures)
    assert {path.name for path in files.tables} >= {
        "data-1-etth1-192-variants.tex",
        "data-2-synthetic-load-96-thresholds.csv",
    }


@pytest.mark.usefixtures("no_pixels")
def test_committed_records_still_have_their_report(tmp_path: Path) -> None:
    study_folder = open_study(RESULTS / "etth1-small")
    tables, failures = study_folder.tables()
    files = write_report(tables, failures, tmp_path / "r.html", title=study_folder.title, store=study_folder.store)
    page = Page.of(files.page)
    for words in ("0 % DLinear … 50 % Transformer", "50 % DLinear … 90 % Transformer"):
        assert words in page.text
    assert "0.386" in page.views["published"].text
    links = {link.removeprefix("#record:") for part in page.parts for link in part.links() if "#record:" in link}
    assert len(links) > 200
    assert links <= set(tables.stages["fingerprint"])


@pytest.mark.usefixtures("no_pixels")
def test_what_an_earlier_report_left_and_this_one_lacks_is_removed(tmp_path: Path) -> None:
    records = [r for r in study(**SMALL, measured=False) if r.model != "transformer"]
    out, stranger = tmp_path / "r.html", tmp_path / "r_files" / "mine.txt"
    before = write_report(frame_of(records), (), out, title="t")
    stranger.write_text("not ours")
    after = write_report(frame_of(r for r in records if r.role == "naive"), (), out, title="t")
    gone = {*before.tables, *before.figures} - {*after.tables, *after.figures}
    assert gone
    assert not any(path.exists() for path in gone)
    assert stranger.exists()
    assert out.exists()


@pytest.mark.usefixtures("no_pixels")
def test_a_terminal_gets_the_headline_of_a_large_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [r for r in study(**SMALL, measured=False) if r.model != "transformer"]
    every = write_report(frame_of(records), (), tmp_path / "r.html", title="t").rows
    monkeypatch.setattr("prunecast.report.render.MOST_ROWS", 3)
    few = write_report(frame_of(records), (), tmp_path / "r.html", title="t").rows
    assert {row["variant"] for row in every} >= {"dense", "magnitude 50 %"}
    assert [(row["model"], row["method"]) for row in few] == [
        ("DLinear", "magnitude (of weights)"),
        ("DLinear", "random (of weights)"),
    ]


def test_without_a_scored_model_there_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run the study first"):
        write_report(frame_of([]), (), tmp_path / "r.html", title="t")
    with pytest.raises(UserError, match="loss became NaN"):
        write_report(frame_of([]), [failure()], tmp_path / "r.html", title="t")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "r_files").write_text("in the way")
    naive = [r for r in study(**SMALL) if r.role == "naive"][:1]
    with pytest.raises(UserError, match="cannot write"):
        write_report(frame_of(naive), (), tmp_path / "r.html", title="t")
