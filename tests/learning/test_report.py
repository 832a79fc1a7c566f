"""The report of a cycle as JSON, stored and read again, and what an erasure takes out of it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from support.scripted_learner import NAME, Dictionary, Knobs, open_assistant, questions

from smallai_assistant import Assistant, AudioPart, Example, Feedback, ImagePart, JudgedTurn, TextPart
from smallai_assistant.learning.evaluation import Reason, ReasonKind, SliceReport, gate
from smallai_assistant.learning.report import CycleReport, Media, Taught, did_not_answer
from smallai_assistant.learning.report_html import render
from smallai_assistant.learning.report_making import media_of, taught_by
from smallai_assistant.storage.media import media_path


class Album(Dictionary):
    """The dictionary, asked with a picture: its examples show what they were asked with."""

    accepts = (frozenset({"text"}), frozenset({"text", "image"}))

    def examples(self, judged_turns: Sequence[JudgedTurn]) -> list[Example]:
        parts = {row.feedback.id: row.turn.request.parts for row in judged_turns}
        return [
            replace(example, media=tuple(part for part in parts[example.id] if isinstance(part, ImagePart)))
            for example in super().examples(judged_turns)
        ]

    def protected(self, judged_turns: Sequence[JudgedTurn]) -> dict[str, Sequence[Example]]:
        praised = [
            Example(row.turn.id, row.turn.request.text, "yes", row.turn.id, (row.feedback.id,))
            for row in judged_turns
            if row.feedback.is_good
        ]
        return {**super().protected(judged_turns), **({"praised": praised} if praised else {})}


@pytest.fixture
def album(tmp_path: Path) -> Iterator[Assistant]:
    with open_assistant(tmp_path, Album(knobs=Knobs(n_forgotten=1))) as assistant:
        yield assistant


def teach_pictures(assistant: Assistant) -> list[str]:
    """Teaches two words, each question with a picture of its own. Returns the ids of the feedback."""
    ids = []
    for word, answer, shade in (("tea", "a drink", 40), ("rye", "a grain", 160)):
        for number, question in enumerate(questions(word)):
            out = io.BytesIO()
            Image.new("RGB", (8, 8), (shade, number, 0)).save(out, "PNG")
            content = [ImagePart(data=out.getvalue()), TextPart(question)]
            ids.append(assistant.teach(NAME, content, answer, source="ann").feedback.id)
    return ids


def page_of(assistant: Assistant, adapter_id: str) -> str:
    report = CycleReport.from_json(assistant.adapters.get(adapter_id).report)
    return render(report, media_dir=assistant.store.media_dir, serving_id=adapter_id)


def test_json_has_sentences_and_kinds(album: Assistant) -> None:
    teach_pictures(album)
    report = album.learn(NAME)
    table = json.loads(json.dumps(report.to_json()))
    assert table["reasons"] == [str(reason) for reason in report.reasons]
    assert [row["kind"] for row in table["reason_details"]] == ["improved", "kept"]
    assert [row["slice"] for row in table["reason_details"]] == ["new feedback", "numbers"]
    assert table["taught"] == {"ann": [{"answer": "a drink", "n": 8}, {"answer": "a grain", "n": 8}]}
    assert (table["n_training"], table["n_judged_turns"]) == (12, 16)
    assert CycleReport.from_json(table) == report


def test_a_report_of_an_older_version() -> None:
    slices = (SliceReport("new feedback", "target", 40, 0.3, 0.7, 0.2, 0.6),)
    old = {
        "task": "text-generation",
        "adapter_id": "text-generation-1",
        "parent_id": None,
        "is_approved": True,
        "outcome": "approved",
        "reasons": ["better on new feedback: 30.0% before"],
        "slices": [{"change": 0.4} | {name: getattr(slices[0], name) for name in SliceReport.__slots__}],
        "changes": [
            {"slice": "new feedback", "prompt": "?", "expected": "a", "before": "b", "after": "a", "gain": 1.0}
        ],
        "quarantined": [["bot", "too fast", 400]],
        "n_lessons": 40,
    }
    report = CycleReport.from_json(old)
    assert report.reasons == (Reason(ReasonKind.RECORDED, detail="better on new feedback: 30.0% before"),)
    assert report.slices == slices
    assert report.feedback.n_judged_turns == 40
    assert report.feedback.quarantined[0].n_rows == 400
    assert "better on new feedback: 30.0% before" in render(report, media_dir=Path(), serving_id=None)


@pytest.mark.parametrize("row", [{"kind": "of next year", "slice": None}, {}])
def test_an_unknown_kind_keeps_its_sentence(row: dict[str, object]) -> None:
    report = CycleReport.from_json({"reasons": ["who knows"], "reason_details": [row]})
    assert [str(reason) for reason in report.reasons] == ["who knows"]


def test_an_empty_report_can_be_read() -> None:
    report = CycleReport.from_json({})
    assert (report.outcome, report.reasons, report.slices) == ("refused", (), ())


def test_how_many_are_missing_is_stored() -> None:
    slices = (SliceReport("new feedback", "target", 6, 0.0, 0.5, 0.0, 1.0),)
    report = replace(CycleReport.from_json({}), slices=slices, reasons=gate(slices).reasons)
    table = report.to_json()
    assert table["reason_details"][0]["n_missing"] == 1
    assert CycleReport.from_json(table).reasons == report.reasons
    del table["reason_details"][0]["n_missing"]  # as an older version stored it
    assert CycleReport.from_json(table).reasons[0].n_missing == 0


def test_a_candidate_that_did_not_answer() -> None:
    slices = (SliceReport("new feedback", "target", 40, 0.3, 0.7, 0.2, 0.6),)
    stored = CycleReport.from_json({"is_approved": True, "outcome": "approved"})
    table = did_not_answer(replace(stored, slices=slices, reasons=gate(slices).reasons).to_json(), "boom")
    report = CycleReport.from_json(table)
    assert report.outcome == "refused"
    assert report.reasons == (Reason(ReasonKind.NO_ANSWER, detail="boom"),)
    assert table["reasons"] == ["it did not answer: boom"]


def test_what_a_source_taught_counts_feedback() -> None:
    wordings = [Example(f"f1/{n}", f"wording {n}", "Marzipan", f"f1/{n}", ("f1",)) for n in range(9)]
    more = [Example("f2", "q", "Marzipan", "f2", ("f2",)), Example("f3", "q", "x" * 99, "f3", ("f3",))]
    taught = taught_by([*wordings, *more, Example("c", "q", "a", "c")], {"f1": "ann", "f2": "ann", "f3": "bob"})
    assert taught == {"ann": (Taught("Marzipan", 2),), "bob": (Taught("x" * 59 + "…", 1),)}


def test_only_kept_media_are_named(tmp_path: Path) -> None:
    kept = media_path(tmp_path, "ab" * 32)
    parts = (ImagePart(kept), AudioPart(kept), ImagePart(tmp_path / "photo.jpg"), ImagePart(data=b"x"))
    found = media_of(Example("e", "q", "a", "e", media=parts))
    assert found == (Media("image", "ab" * 32), Media("audio", "ab" * 32))


def test_an_erasure_takes_pictures_and_words(album: Assistant) -> None:
    teach_pictures(album)
    adapter_id = album.learn(NAME).adapter_id
    before = page_of(album, adapter_id)
    assert before.count("data:image/jpeg") > 1
    assert before.count("a drink") > 1
    # It was judged by this row and did not learn from it: then it would be deleted itself.
    album.erase_feedback(album.adapters.get(adapter_id).report["held_out_ids"][:1])
    after = page_of(album, adapter_id)
    assert "data:image" not in after
    assert "a drink" not in after
    assert "better on new feedback" in after


def test_an_erasure_reaches_protected_slices(album: Assistant) -> None:
    """A praised turn is neither learned nor held out: its answer is quoted all the same."""
    teach_pictures(album)
    turn = album.ask("is it green", task=NAME).turn
    praise = album.give_feedback(Feedback(turn.id, is_good=True)).feedback
    report = album.learn(NAME)
    stored = album.adapters.get(report.adapter_id)
    change = {**stored.report["changes"][0], "prompt": "is it green", "media": [], "feedback_ids": [praise.id]}
    album.adapters.judge(stored.id, "approved", {**stored.report, "changes": [change]})
    assert praise.id not in {*stored.feedback_ids, *stored.report["held_out_ids"]}
    assert "is it green" in page_of(album, stored.id)
    album.erase_feedback([praise.id])
    assert "is it green" not in page_of(album, stored.id)
