"""The page of a cycle: one file, nothing fetched, nothing run, whatever the feedback says."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scripted_learner import NAME, Dictionary, Knobs, open_assistant, teach

from smallai_assistant.learning.evaluation import SliceReport, gate
from smallai_assistant.learning.report import Change, CycleReport
from smallai_assistant.learning.report_html import MAX_TEXT_CHARS, write_page

HOSTILE = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><style>*{display:none}</style>",
    "<svg/onload=alert(1)>",
    "javascript:alert(1)",
    "<!-- ",
    "]]>",
    "&lt;b&gt;",
    "a\u202eb\u2066c",
    "\x00\x1b[31m\x7f",
    "\ud800 half a pair",
    "x" * 50_000,
]
ALLOWED = {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "main",
    "span",
    "h1",
    "h2",
    "p",
    "section",
    "div",
    "b",
    "svg",
    "line",
    "circle",
    "text",
    "polyline",
    "table",
    "tr",
    "th",
    "td",
    "ul",
    "li",
    "dl",
    "dt",
    "dd",
    "code",
    "pre",
    "bdi",
}


class Page(HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page_of(report: CycleReport, folder: Path) -> tuple[str, Page]:
    """The page, and the checks that hold for every page."""
    path = folder / "report.html"
    write_page(report, path)
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert page.open == []
    title = re.search("<title>(.*?)</title>", source, re.DOTALL)
    assert title is not None
    assert "<" not in title[1]
    assert set(page.tags) <= ALLOWED
    for name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in {"src", "href", "srcset", "action", "data", "xlink:href"}
        assert value is None or not re.search(r"url\(|//|NaN|nan", value)
    assert "url(" not in source
    assert "@import" not in source
    assert ("http-equiv", "Content-Security-Policy") in page.attributes
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", source)
    return source, page


def make_report(**changes: Any) -> CycleReport:
    slices = (
        SliceReport("new feedback", "target", 40, 0.31, 0.74, 0.28, 0.57),
        SliceReport("numbers", "protected", 100, 1.0, 0.97, -0.07, 0.0),
    )
    verdict = gate(slices)
    report = CycleReport(
        task="text-generation",
        metric="answers that match",
        adapter_id="text-generation-2",
        parent_id="text-generation-1",
        is_approved=verdict.is_approved,
        reasons=verdict.reasons,
        slices=slices,
        changes=(Change("new feedback", "What is tea?", "a drink", "a tree", "a drink", 1.0),),
        losses=(2.0, 1.5, 1.0),
        sources={"ann": 30, "bob": 10},
        quarantined=(("bot", "too fast", 400),),
        n_judged_turns=40,
        n_training=30,
        n_replay=5,
        base={"model": "smollm2-135m-instruct", "files": {"model.safetensors": "ab" * 32}},
        baseline_id="text-generation-1",
    )
    return replace(report, **changes)


def test_the_page_says_all_that_the_report_knows(tmp_path: Path) -> None:
    _, page = page_of(make_report(), tmp_path)
    for said in (
        "✕ refused",
        "31% before, 74% after",
        "answers that match",
        "+43.0",
        "+28.0 to +57.0",
        "a loss on numbers: 100.0% before, 97.0% after, change -3.0 points",
        "What is tea? expected a drink before a tree after a drink",
        "40 lessons of 2 sources",
        "bot : 400 rows · too fast",
        "text-generation-2",
        "text-generation-1",
        "smollm2-135m-instruct",
        "smallai adapters promote text-generation-2 --force",
        "step 3",
    ):
        assert said in page.text, said


@pytest.mark.parametrize(
    ("changes", "said", "unsaid"),
    [
        (
            {"is_approved": True, "is_promoted": True},
            "smallai adapters rollback text-generation --to text-generation-1",
            "--force",
        ),
        (
            {"is_approved": True, "is_promoted": True, "parent_id": None},
            "rollback text-generation --to none",
            "--force",
        ),
        ({"is_approved": True}, "smallai adapters promote text-generation-2", "--force"),
        ({}, "--force", "rollback"),
    ],
)
def test_how_to_undo_it(tmp_path: Path, changes: dict[str, Any], said: str, unsaid: str) -> None:
    _, page = page_of(make_report(**changes), tmp_path)
    assert said in page.text
    assert unsaid not in page.text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(tmp_path: Path, text: str) -> None:
    hostile = make_report(
        task=text,
        metric=text,
        adapter_id=text,
        parent_id=text,
        baseline_id=text,
        reasons=(text, f"a loss on {text}"),
        slices=(SliceReport(text, "target", 4, 0.0, 1.0, 0.5, 1.0),),
        changes=(Change(text, text, text, text, text, -1.0),),
        sources={text: 3},
        quarantined=((text, text, 1),),
        base={text: {text: text}},
    )
    source, page = page_of(hostile, tmp_path)
    assert len(source) < 60_000
    if text.startswith("<"):
        assert text in page.text
    if len(text) > MAX_TEXT_CHARS:
        assert "x" * MAX_TEXT_CHARS + "…" in page.text


def test_a_page_of_nothing(tmp_path: Path) -> None:
    empty = make_report(
        slices=(), changes=(), losses=(), sources={}, quarantined=(), base={}, reasons=(), parent_id=None
    )
    _, page = page_of(empty, tmp_path)
    assert "nothing to judge by" in page.text


def test_many_sources_and_steps_stay_small(tmp_path: Path) -> None:
    report = make_report(
        sources={f"user {n:04}": 2 for n in range(2_000)}, losses=tuple(1 / (n + 1) for n in range(50_000))
    )
    source, page = page_of(report, tmp_path)
    assert len(source) < 60_000
    assert "1,988 more" in page.text
    assert "step 50,000" in page.text


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5),
    losses=st.lists(st.floats(-10, 1e6), max_size=5),
)
def test_marks_lie_inside_and_are_numbers(
    values: list[tuple[float, float]], losses: list[float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    slices = tuple(
        SliceReport(str(n), "target" if n == 0 else "protected", 4, before, after, -1.0, 1.0)
        for n, (before, after) in enumerate(values)
    )
    _, page = page_of(make_report(slices=slices, losses=tuple(losses)), tmp_path_factory.mktemp("page"))
    places = [value for name, value in page.attributes if name in {"cx", "x1", "x2"} and value]
    assert places
    assert all(0.0 <= float(place.rstrip("%")) <= 100.0 for place in places)


def test_the_page_of_a_real_cycle(tmp_path: Path) -> None:
    task = Dictionary(knobs=Knobs(n_forgotten=3))
    with open_assistant(tmp_path, task) as assistant:
        teach(assistant, {"tea": "a drink", "rye": "<b>a grain</b>"})
        report = assistant.learn(NAME)
    _, page = page_of(report, tmp_path)
    assert "<b>a grain</b>" in page.text
    assert report.adapter_id in page.text
    assert "change -3.0 points" in page.text


def test_a_page_that_cannot_be_written_is_the_callers_to_tell(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_page(make_report(), tmp_path / "missing" / "report.html")
