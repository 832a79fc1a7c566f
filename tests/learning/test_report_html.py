"""The page of a cycle: one file, nothing is fetched, nothing runs, whatever the feedback says."""

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

from smallai_assistant.learning.evaluation import Reason, ReasonKind, SliceReport, gate
from smallai_assistant.learning.report import (
    Change,
    CycleReport,
    FeedbackSummary,
    Media,
    SetAside,
    Taught,
    TrainingSummary,
)
from smallai_assistant.learning.report_html import MAX_TEXT_CHARS, write_page
from smallai_assistant.task import Trial

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
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "header",
        "section",
        "span",
        "h1",
        "h2",
        "p",
        "div",
        "b",
    ),
    *("svg", "line", "circle", "text", "polyline", "table", "tr", "th", "td", "ul", "li", "dl", "dt", "dd"),
    *("code", "pre", "bdi", "img", "audio"),
}
VOID = {"meta", "img"}
DATA_URL = re.compile(r"data:(image/jpeg|audio/[a-z0-9]+);base64,[A-Za-z0-9+/=]+")


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
        if tag not in VOID:
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


def page_of(report: CycleReport, folder: Path, *, serving_id: str | None = None) -> tuple[str, Page]:
    """The page, and the checks that hold for every page."""
    path = folder / "report.html"
    write_page(report, path, media_dir=folder / "media", serving_id=serving_id)
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert page.open == []
    title = re.search("<title>(.*?)</title>", source, re.DOTALL)
    assert title is not None
    assert "<" not in title[1]
    assert set(page.tags) <= ALLOWED
    for name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in {"href", "srcset", "action", "data", "xlink:href"}
        if name == "src":
            assert DATA_URL.fullmatch(value or "")
        else:
            assert value is None or not re.search(r"url\(|//|NaN|nan", value)
    assert "url(" not in source
    assert "@import" not in source
    assert ("http-equiv", "Content-Security-Policy") in page.attributes
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", source)
    return source, page


def make_report(**changes: Any) -> CycleReport:
    slices = (
        SliceReport("new feedback", "target", 40, 0.31, 0.74, 0.28, 0.57, n_examples=112),
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
        feedback=FeedbackSummary(
            n_judged_turns=40,
            sources={"ann": 30, "bob": 10},
            taught={"ann": (Taught("a drink", 12), Taught("a grain", 1))},
            quarantined=(SetAside("bot", "too fast", 400),),
        ),
        training=TrainingSummary(n_new=30, n_replay=5, losses=(2.0, 1.5, 1.0)),
        base={"model": "smollm2-135m-instruct", "files": {"model.safetensors": "ab" * 32}},
        baseline_id="text-generation-1",
    )
    return replace(report, **changes)


def test_the_commands_of_a_persons_version_name_that_person(tmp_path: Path) -> None:
    report = make_report(audience="user:ann lee", parent_id=None)
    _, page = page_of(report, tmp_path, serving_id=report.adapter_id)
    for said in (
        "text-generation for ann lee alone",
        "let what serves everyone serve again",
        "smallai adapters rollback text-generation --to none --audience 'user:ann lee'",
        "smallai learn text-generation --audience 'user:ann lee' --trust SOURCE",
    ):
        assert said in page.text, said
    assert CycleReport.from_json(report.to_json()).audience == "user:ann lee"


def test_the_page_says_all_that_the_report_knows(tmp_path: Path) -> None:
    _, page = page_of(make_report(), tmp_path, serving_id="text-generation-1")
    for said in (
        "✕ refused",
        "31% → 74%",
        "answers that match on 112 examples of 40 subjects",
        "+43.0",
        "+28.0 to +57.0",
        "a loss on numbers: 100.0% before, 97.0% after, change -3.0 points",
        "What is tea? right is a drink before a tree after a drink",
        "40 judged turns of 2 sources",
        "a drink ×12 a grain",
        "bot : 400 rows, too fast",
        "30 new examples learned, 5 repeated",
        "serves now text-generation-1",
        "this version text-generation-2",
        "smollm2-135m-instruct",
        "smallai adapters promote text-generation-2 --force",
        "3 recorded steps",
    ):
        assert said in page.text, said


PROMOTED: dict[str, Any] = {"is_approved": True, "is_promoted": True}


@pytest.mark.parametrize(
    ("changes", "serving_id", "said", "unsaid"),
    [
        (PROMOTED, "text-generation-2", "smallai adapters rollback text-generation --to text-generation-1", "--force"),
        (PROMOTED | {"parent_id": None}, "text-generation-2", "rollback text-generation --to none", "--force"),
        (PROMOTED, "text-generation-3", "was promoted and no longer serves", "rollback"),
        ({"is_approved": True}, None, "smallai adapters promote text-generation-2", "--force"),
        ({"is_approved": True}, "text-generation-2", "It serves now", "smallai adapters promote"),
        ({}, None, "--force", "rollback"),
        ({}, "text-generation-2", "somebody promoted it by force", "--force"),
    ],
)
def test_how_to_undo_it(
    tmp_path: Path, changes: dict[str, Any], serving_id: str | None, said: str, unsaid: str
) -> None:
    _, page = page_of(make_report(**changes), tmp_path, serving_id=serving_id)
    assert said in page.text
    assert unsaid not in page.text


@pytest.mark.parametrize(
    ("reason", "sign"),
    [
        (Reason(ReasonKind.PLUGIN_REFUSED, plugin="better on nothing"), "!"),
        (Reason(ReasonKind.CHAMPION_CHANGED), "!"),
        (Reason(ReasonKind.NO_ANSWER, detail="better on nothing"), "✕"),
        (Reason(ReasonKind.RECORDED, detail="a loss on everything"), "·"),
    ],
)
def test_a_mark_follows_the_kind_alone(tmp_path: Path, reason: Reason, sign: str) -> None:
    _, page = page_of(make_report(reasons=(reason,)), tmp_path)
    assert f"Why {sign} {reason}" in page.text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(tmp_path: Path, text: str) -> None:
    hostile = make_report(
        task=text,
        metric=text,
        adapter_id=text,
        parent_id=text,
        baseline_id=text,
        reasons=(Reason(ReasonKind.RECORDED, detail=text), Reason(ReasonKind.PLUGIN_REFUSED, plugin=text)),
        slices=(SliceReport(text, "target", 4, 0.0, 1.0, 0.5, 1.0),),
        changes=(Change(text, text, text, text, text, -1.0),),
        feedback=FeedbackSummary(3, {text: 3}, {text: (Taught(text, 2),)}, (SetAside(text, text, 1),)),
        training=TrainingSummary(trials=(Trial(text, 1.0),)),
        base={text: {text: text}},
    )
    source, page = page_of(hostile, tmp_path, serving_id=text)
    assert len(source) < 60_000
    if text.startswith("<"):
        assert text in page.text
    if len(text) > MAX_TEXT_CHARS:
        assert "x" * MAX_TEXT_CHARS + "…" in page.text


def test_a_page_of_nothing(tmp_path: Path) -> None:
    empty = make_report(
        slices=(),
        changes=(),
        feedback=FeedbackSummary(),
        training=TrainingSummary(),
        base={},
        reasons=(),
        parent_id=None,
        baseline_id=None,
    )
    _, page = page_of(empty, tmp_path)
    assert "nothing to judge by" in page.text
    assert "serves now the bare base" in page.text


def test_plurals_are_right(tmp_path: Path) -> None:
    one = make_report(
        slices=(SliceReport("new feedback", "target", 1, 0.0, 1.0, -1.0, 1.0),),
        feedback=FeedbackSummary(1, {"ann": 1}, {}, (SetAside("bot", "too fast", 1),)),
        training=TrainingSummary(n_new=1, losses=(2.0, 1.0)),
        retired_ids=("f1",),
    )
    _, page = page_of(one, tmp_path)
    for said in (
        "1 judged turn of 1 source ",
        "1 row,",
        "1 new example learned",
        "1 example ",
        "1 judged turn left it",
    ):
        assert said in page.text, said
    assert not re.search(r"\b1 (judged turns|sources|rows|examples|new examples|steps)\b", page.text)


def test_many_sources_and_steps_stay_small(tmp_path: Path) -> None:
    report = make_report(
        feedback=FeedbackSummary(4_000, {f"user {n:04}": 2 for n in range(2_000)}),
        training=TrainingSummary(losses=tuple(1 / (n + 1) for n in range(50_000))),
    )
    source, page = page_of(report, tmp_path)
    assert len(source) < 60_000
    assert "and 1,988 more sources" in page.text
    assert "50,000 recorded steps" in page.text


def test_settings_are_listed_and_not_drawn(tmp_path: Path) -> None:
    trials = (Trial("strength 0.1", 0.31), Trial("strength 0.3", 0.25), Trial("strength 1", 0.44))
    _, page = page_of(make_report(training=TrainingSummary(trials=trials)), tmp_path)
    assert "polyline" not in page.tags
    assert "strength 0.1 0.31 strength 0.3 0.25 ✓ best strength 1 0.44" in page.text


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.tuples(*[st.floats(0, 1)] * 2, *[st.floats(-1, 1)] * 2), min_size=1, max_size=5),
    losses=st.lists(st.floats(-10, 1e6), max_size=5),
)
def test_intervals_are_drawn_whole(
    values: list[tuple[float, float, float, float]], losses: list[float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    slices = tuple(
        SliceReport(str(n), "target" if n == 0 else "protected", 4, before, after, min(ends), max(ends))
        for n, (before, after, *ends) in enumerate(values)
    )
    report = make_report(slices=slices, training=TrainingSummary(losses=tuple(losses)))
    source, page = page_of(report, tmp_path_factory.mktemp("page"))
    places = [float(value.rstrip("%")) for name, value in page.attributes if name in {"cx", "x1", "x2"} and value]
    assert all(0.0 <= place <= 100.0 for place in places)
    # Each end lies where the axis says, and no two different ends lie on the same place because the axis ended.
    ends = [
        re.search(r'class="interval \w+" x1="(.*?)%" x2="(.*?)%"', row) for row in source.split('<div class="row">')
    ]
    drawn = [float(end[2]) - float(end[1]) for end in ends if end is not None]
    wanted = [found.high - found.low for found in slices]
    assert [width * sum(wanted) for width in drawn] == pytest.approx([want * sum(drawn) for want in wanted], abs=0.05)


def test_the_page_of_a_real_cycle(tmp_path: Path) -> None:
    task = Dictionary(knobs=Knobs(n_forgotten=3))
    with open_assistant(tmp_path, task) as assistant:
        teach(assistant, {"tea": "a drink", "rye": "<b>a grain</b>"})
        report = assistant.learn(NAME)
    _, page = page_of(report, tmp_path)
    assert "<b>a grain</b>" in page.text
    assert "<b>a grain</b> ×8" in page.text
    assert report.adapter_id in page.text
    assert "change -3.0 points" in page.text


def test_a_stored_report_gives_the_same_page(tmp_path: Path) -> None:
    with open_assistant(tmp_path, Dictionary()) as assistant:
        teach(assistant, {"tea": "a drink", "rye": "a grain"})
        report = assistant.learn(NAME)
        stored = CycleReport.from_json(assistant.adapters.get(report.adapter_id).report)
    assert page_of(stored, tmp_path)[0] == page_of(report, tmp_path)[0]


def test_a_missing_picture_is_told(tmp_path: Path) -> None:
    media = (Media("image", "ab" * 32), Media("audio", "cd" * 32))
    change = Change("new feedback", "picture abab", "llama", "alpaca", "llama", 1.0, media)
    _, page = page_of(make_report(changes=(change,)), tmp_path)
    assert "the picture was erased or is gone" in page.text
    assert "the recording was erased or is gone" in page.text


def test_an_unwritable_page_raises(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_page(make_report(), tmp_path / "missing" / "report.html", media_dir=tmp_path, serving_id=None)
