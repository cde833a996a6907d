"""The report page: whole with any records, well-formed, without anything from elsewhere, and right in a browser."""

import importlib.util
import json
import os
import shutil
from html.parser import HTMLParser
from math import inf
from pathlib import Path
from xml.etree import ElementTree

import pytest

from records import SCORES, TIMING, record
from saintprune.errors import SaintpruneError
from saintprune.files import write_atomically
from saintprune.reporting.page.charts import pareto
from saintprune.reporting.page.collect import collect
from saintprune.reporting.page.document import document
from saintprune.reporting.page.svg import Point, Series, axis, chart

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("report_script", ROOT / "scripts" / "report.py")
script = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(script)


def cell(folder, method, target, speedup=2.0, accuracy=0.85, **more):
    """Write one cell of a comparison."""
    timing = {**TIMING, "speedup": speedup, "speedup_ci95": (speedup - 0.1, speedup + 0.1)}
    scores = {**SCORES, "pruned_accuracy": accuracy, "agreement": accuracy}
    made = record(scores, timing, pruning=f"{method} target={target}", config={"calibration": {"target": target}},
                  **more)  # fmt: skip
    return made.write(folder / f"{method}@{target.replace(':', '')}.json")


def page(*paths):
    entries, problems = collect(paths)
    return document(entries, problems, "Title & more")


class Outline(HTMLParser):
    """Checks that tags close in order; collects ids, links and what would be fetched."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.fetched, self.tags = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if "href" in found else []
        self.fetched += [found[name] for name in ("src", "srcset", "data") if name in found]
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def records(tmp_path):
    """A comparison with a cell out of reach, the run of a sweep, an analysis with its curves, and three broken ones."""
    folder = tmp_path / "records"
    for target, speed in (("flops:0.5", 2.0), ("flops:0.67", 1.5)):
        cell(folder, "saint", target, speed, 0.85)
        cell(folder, "tome", target, speed + 0.1, 0.86)
    cell(folder, "ats", "flops:0.5", out_of_reach="falls <short>")
    run = folder / "sweep" / "0"
    record(pruning="drop50/saint_hybrid").write(run / "metrics.json")
    write_atomically(run / ".hydra" / "overrides.yaml", "- pruning=drop50/saint_hybrid\n")
    write_atomically(run / "wandb" / "run" / "files" / "record.json", (run / "metrics.json").read_text())
    write_atomically(folder / "sweep" / "1" / ".hydra" / "config.yaml", "")
    parts = {"vision": {"three_stages": False, "verdict": "no three stages", "metrics": ["key_cosine"]}}
    rows = [{"method": "saint", "layer": 0, "agreement": 0.9, "share": 0.3}]
    record(None, None, task="analyze", analysis={"samples": 8, "parts": parts, "sensitivity": rows}).write(
        folder / "analysis" / "metrics.json"
    )
    write_atomically(folder / "analysis" / "curves" / "vision" / "own" / "layers.csv", "layer,key_cosine\n0,1\n1,0.5\n")
    write_atomically(folder / "analysis" / "curves" / "vision" / "own" / "meta.json", '{"part": "vision"}')
    write_atomically(folder / "broken" / "metrics.json", '{"task": "eval')
    write_atomically(folder / "half" / "metrics.json", '{"schema_version": 1, "task": "evaluate"}')
    write_atomically(folder / "old.json", '{"schema_version": 0}')
    write_atomically(folder / "rates.json", '{"what": "no record, and nobody said so"}')
    return folder


def test_every_record_is_found_once_and_what_cannot_be_read_costs_a_line(records):
    entries, problems = collect([records, records / "sweep"])
    assert sorted(one.name for one in entries) == sorted(
        ["ats (flops:0.5)", "p", "saint (flops:0.5)", "saint (flops:0.67)", "saint_hybrid (drop50)",
         "tome (flops:0.5)", "tome (flops:0.67)"]
    )  # fmt: skip
    reasons = {str(Path(one.path).relative_to(records)): one.reason for one in problems}
    assert list(map(sorted, [reasons])) == [["broken/metrics.json", "half/metrics.json", "old.json", "sweep/1"]]
    assert "only part of a record" in reasons["half/metrics.json"] and "left no record" in reasons["sweep/1"]
    assert all("\n" not in reason for reason in reasons.values())


def test_a_file_that_is_asked_for_must_be_a_record(records):
    (problem,) = collect([records / "rates.json"])[1]
    assert "schema" in problem.reason
    with pytest.raises(SaintpruneError, match="there is no"):
        collect([records / "nowhere"])


def test_the_page_is_whole_and_needs_nothing_else(records):
    html = page(records)
    outline = Outline()
    outline.feed(html)
    assert not outline.open and not outline.fetched and not {"script", "link", "iframe"} & set(outline.tags)
    assert len(set(outline.ids)) == len(outline.ids)
    assert {link.removeprefix("#") for link in outline.links} <= set(outline.ids)
    assert "url(" not in html and "http" not in html.replace("http-equiv", "")
    assert "Title &amp; more" in html and "falls &lt;short&gt;" in html
    assert "prefers-color-scheme: dark" in html and "python run.py pruning=drop50/saint_hybrid" in html
    for words in ("86.0 %", "2.10x (2.00–2.20)", "FLOPs 0.67: accuracy", "no three stages", "only part of a record"):
        assert words in html


def test_charts_are_well_formed_and_every_mark_says_what_it_is(records):
    html = page(records)
    drawings = [ElementTree.fromstring("<svg" + part.split("</svg>")[0] + "</svg>") for part in html.split("<svg")[1:]]
    charts = [drawing for drawing in drawings if drawing.get("class") == "chart"]
    assert len(charts) > 6 and all(drawing.get("aria-label") for drawing in charts)
    marks = [mark for drawing in charts for mark in drawing.iter("path") if mark.get("class") == "mark"]
    assert marks and all(mark.find("title").text for mark in marks)


def test_sixty_records_have_sixty_rows_and_distinct_signs(tmp_path):
    for number in range(20):
        for target in ("flops:0.3", "flops:0.5", "flops:0.7"):
            cell(tmp_path, f"method{number:02}", target, 1 + number / 20, 0.5 + number / 50)
    entries, _ = collect([tmp_path])
    assert page(tmp_path).count('<th scope="row">method') >= 60
    legend = pareto(entries).partition('<ul class="legend">')[2]
    signs = [item.partition("</svg>")[0] for item in legend.split("<li>")[1:21]]
    assert len(set(signs)) == 20


def test_comparisons_are_not_mixed(tmp_path):
    for folder, accuracy in (("one", 0.8), ("two", 0.9)):
        cell(tmp_path / folder, "saint", "flops:0.5", accuracy=accuracy)
    html = page(tmp_path)
    assert "80.0 %" in html and "90.0 %" in html and "85.0 %" not in html, "no mean of what is not the same"
    assert html.count("saint@flops0.5.json</span>") == 2, "two runs of one name are told apart"


def test_the_front_holds_what_nothing_beats(tmp_path):
    for name, speed, accuracy in (("slow", 1.2, 0.9), ("beaten", 1.5, 0.7), ("fast", 2.0, 0.8)):
        cell(tmp_path, name, "speedup:2.0", speed, accuracy)
    front = pareto(collect([tmp_path])[0]).partition('class="front"')[2].partition("</g>")[0]
    assert front.count("L") == 1, "two points, one line"


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [([0.74, 0.87], 0.72, 0.88), ([5.0, 5.0], 5.0, 6.0), ([0.0], 0.0, 0.2), ([-0.2, 0.5], -0.2, 0.6)],
)
def test_axes_begin_and_end_at_round_numbers(values, low, high):
    found = axis(values, "x")
    assert found.low <= min(values) and found.high >= max(values) and found.low < found.high
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * (high - low) + 0.02)
    assert all(found.low <= tick <= found.high for tick in found.ticks) and len(found.ticks) >= 2


def test_an_axis_may_run_backwards():
    found = axis([0.2, 1.0], "cost", backwards=True)
    assert found.at(1.0, 0, 100) == 0 and found.at(0.2, 0, 100) == 100
    assert inf not in found.ticks and "nan" not in chart("t", found, found, [Series([Point(0.5, 0.5)], 0)])


def test_the_script_writes_the_page_and_says_what_it_left_out(records, tmp_path, capsys):
    output = tmp_path / "deep" / "report.html"
    assert script.main([str(records), "-o", str(output)]) == 0
    said = capsys.readouterr()
    assert "(7 records, 4 not read)" in said.out and said.err.count("not read: ") == 4
    assert output.read_text().startswith("<!DOCTYPE html>")
    assert script.main([str(tmp_path / "records" / "broken"), "-o", str(tmp_path / "none.html")]) == 1
    assert "error: no record" in capsys.readouterr().err and not (tmp_path / "none.html").exists()


def test_records_of_this_repository_can_be_reported():
    entries, problems = collect([ROOT / "docs" / "records"])
    assert len(entries) > 40 and not problems
    assert "saint_hybrid (drop75)" in document(entries, problems, "t")


@pytest.fixture
def browser():
    """A Chromium: that of `playwright install chromium`, the one in $CHROMIUM, or one on the path."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: saintprune[browser]")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    with sync_api.sync_playwright() as tool:
        try:
            found = tool.chromium.launch(executable_path=path, args=os.environ.get("CHROMIUM_ARGS", "").split())
        except sync_api.Error as error:
            pytest.skip(f"no Chromium to look with: {str(error).splitlines()[0]}")
        yield found
        found.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_without_scrolling_sideways(browser, records, tmp_path, scheme, width):
    file = tmp_path / "report.html"
    file.write_text(page(records))
    view = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    noise: list[str] = []
    view.on("console", lambda message: noise.append(message.text))
    view.on("request", lambda request: noise.append(request.url) if not request.url.startswith("file:") else None)
    view.goto(file.as_uri())
    assert view.evaluate("document.documentElement.scrollWidth") <= width and not noise
    ground = view.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    marks = "[...document.querySelectorAll('.chart .mark')].map(one => getComputedStyle(one).fill)"
    assert len(set(view.evaluate(marks))) >= 3 and json.dumps(view.evaluate(marks)).count("none") == 0
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.className") == "skip"
    shot = view.screenshot(path=str(tmp_path / "report.png"))
    assert len(shot) > 10_000
    view.close()
