"""The split is stable, the interval covers the true gain, and the gate refuses what it must refuse."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallai_assistant import Example, Score
from smallai_assistant.errors import EvalContaminated
from smallai_assistant.feedback import HELD_OUT_ONE_IN, is_held_out
from smallai_assistant.learning.evaluation import (
    Reason,
    ReasonKind,
    SliceReport,
    check_contamination,
    compare,
    gate,
    n_subjects,
    nothing_is_new,
    split,
)
from smallai_assistant.learning.text import normalized


def example(prompt: str, key: str | None = None, number: int = 0) -> Example:
    return Example(f"e{number}", prompt, "yes", key if key is not None else prompt, (f"f{number}",))


def scores(values: Sequence[float]) -> list[Score]:
    return [Score(value) for value in values]


# -- the split --


@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=4)), max_size=40), st.randoms())
def test_the_split_is_stable_and_disjoint(rows: list[tuple[str, str]], shuffle: random.Random) -> None:
    examples = [example(prompt, key, number) for number, (prompt, key) in enumerate(rows)]
    training, held_out = split(examples)
    assert not {normalized(row.prompt) for row in training} & {normalized(row.prompt) for row in held_out}
    assert not {row.split_key for row in training} & {row.split_key for row in held_out}
    assert len({row.id for row in training + held_out}) == len(training) + len(held_out)
    # A held-out example stays held out, whatever other examples there are and in whatever order.
    some = [example for example in examples if shuffle.random() < 0.5]
    shuffle.shuffle(some)
    assert {row.id for row in split(some)[1]} == {row.id for row in held_out} & {row.id for row in some}
    check_contamination(training, {"held out": held_out})


def test_the_split_is_the_same_in_every_version() -> None:
    """The keys are pinned: if the hash changed, examples that were trained on would be asked."""
    assert [n for n in range(24) if is_held_out(str(n))] == []


def test_about_one_in_four_is_held_out() -> None:
    share = sum(is_held_out(str(n)) for n in range(4_000)) / 4_000
    assert share == pytest.approx(1 / HELD_OUT_ONE_IN, abs=0.03)


@pytest.mark.parametrize("held_out", [True, False])
def test_an_example_is_put_on_a_side(held_out: bool) -> None:
    found = [Example(str(n), "", "", f"turn/{n}").on_side(held_out=held_out) for n in range(50)]
    assert [is_held_out(example.split_key) for example in found] == [held_out] * 50
    assert len({example.split_key for example in found}) == 50
    assert found[7] == Example("7", "", "", "turn/7").on_side(held_out=held_out)


def test_a_prompt_on_both_sides_is_held_out() -> None:
    held = next(str(n) for n in range(99) if is_held_out(str(n)))
    trained = next(str(n) for n in range(99) if not is_held_out(str(n)))
    training, held_out = split([example("What is tea?", trained, 1), example("what is  TEA", held, 2)])
    assert training == []
    assert [row.id for row in held_out] == ["e2"]


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("What is tea?", " what IS tea ", True),
        ('"Tea", please!', "tea please", True),
        ("What is C++?", "What is C#?", False),
        ("What is C++?", "What is C?", False),
        ("2+2", "2-2", False),
        ("3.14", "314", False),
        ("don't go", "dont go", False),
        ("🙂", "🙁", False),
        ("???", "!!!", False),
        ("", "   ", True),
        ("Straße", "STRASSE", True),
        ("Café", "cafe\u0301", True),
        ("Café", "Cafe", False),
    ],
)
def test_what_counts_as_the_same_question(one: str, other: str, is_same: bool) -> None:
    assert (normalized(one) == normalized(other)) == is_same


@given(st.text(max_size=30))
def test_normalization_is_idempotent(text: str) -> None:
    assert normalized(normalized(text)) == normalized(text)


def test_contamination_names_both_rows_and_the_feedback() -> None:
    with pytest.raises(EvalContaminated) as caught:
        check_contamination([example("What is tea?", number=1)], {"facts": [example("what is tea", number=2)]})
    for said in ("e1", "e2", "'facts'", "f1", "what is tea"):
        assert said in str(caught.value)


# -- the interval --


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=60))
def test_the_interval_holds_the_change(pairs: list[tuple[float, float]]) -> None:
    before, after = scores([a for a, _ in pairs]), scores([b for _, b in pairs])
    report = compare("all", "target", before, after, seed=3)
    assert report.n == len(pairs)
    assert -1.0 - 1e-9 <= report.low <= report.high <= 1.0 + 1e-9
    assert report.low - 1e-9 <= report.change <= report.high + 1e-9
    assert report == compare("all", "target", before, after, seed=3)
    opposite = compare("all", "target", after, before, seed=3)
    assert opposite.low == pytest.approx(-report.high, abs=1e-9)


@pytest.mark.parametrize("n", [8, 20, 100])
@pytest.mark.parametrize("kind", ["exact answers", "shares"])
def test_the_interval_covers_the_truth(n: int, kind: str) -> None:
    """Of 300 evaluations of a candidate with a known true gain, about 95 % have it inside their interval."""
    draw = random.Random(n)
    n_covered = 0
    for number in range(300):
        if kind == "exact answers":  # 30 % become right, 10 % become wrong: a gain of 20 points
            changes = draw.choices([1.0, -1.0, 0.0], [0.3, 0.1, 0.6], k=n)
            truth = 0.2
        else:
            changes = [draw.betavariate(2, 5) - draw.betavariate(2, 6) for _ in range(n)]
            truth = 2 / 7 - 2 / 8
        before = [max(0.0, -change) for change in changes]
        after = [score + change for score, change in zip(before, changes, strict=True)]
        report = compare("all", "target", scores(before), scores(after), seed=number)
        n_covered += report.low <= truth <= report.high
    assert n_covered / 300 >= 0.92


def test_noise_alone_is_rarely_called_an_improvement() -> None:
    draw = random.Random(0)
    n_approved = 0
    for number in range(300):
        n = draw.choice([4, 6, 8, 12, 20])
        before, after = ([float(draw.random() < 0.5) for _ in range(n)] for _ in range(2))
        n_approved += compare("all", "target", scores(before), scores(after), seed=number).low > 0
    assert n_approved / 300 <= 0.04  # 2.5 % are expected


@pytest.mark.parametrize(
    ("n", "n_better", "is_sure"),
    [(4, 4, True), (4, 3, False), (8, 4, True), (8, 2, False), (40, 8, True), (40, 2, False), (400, 8, True)],
)
def test_how_many_gains_are_enough(n: int, n_better: int, is_sure: bool) -> None:
    after = [1.0] * n_better + [0.0] * (n - n_better)
    assert (compare("all", "target", scores([0.0] * n), scores(after)).low > 0) == is_sure


def test_one_example_proves_nothing() -> None:
    report = compare("all", "target", scores([0.0]), scores([1.0]))
    assert (report.low, report.high) == (-1.0, 1.0)
    assert not gate([report]).is_approved


@pytest.mark.parametrize(
    ("before", "after"),
    [([], []), ([0.5], []), ([math.nan], [1.0]), ([0.0], [math.inf]), ([0.0], [1.1]), ([-0.1], [1.0])],
)
def test_bad_scores_cannot_be_compared(before: list[float], after: list[float]) -> None:
    with pytest.raises(ValueError, match="all"):
        compare("all", "target", scores(before), scores(after))


# -- subjects: wordings of one question are evidence once --


def test_wordings_of_one_question_prove_nothing() -> None:
    report = compare("all", "target", scores([0.0] * 12), scores([1.0] * 12), subjects=["tea"] * 12)
    assert (report.n, report.n_examples, report.change) == (1, 12, 1.0)
    assert (report.low, report.high) == (-1.0, 1.0)


def test_every_subject_counts_alike() -> None:
    subjects = ["tea"] * 9 + ["rye"]
    report = compare("all", "target", scores([0.0] * 10), scores([1.0] * 9 + [0.0]), subjects=subjects)
    assert (report.n, report.n_examples, report.after) == (2, 10, 0.5)


def test_repeated_wordings_do_not_narrow_the_interval() -> None:
    before, after = [0.0, 1.0, 0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0, 0.0, 1.0]
    once = compare("all", "target", scores(before), scores(after))
    often = compare("all", "target", scores(before * 8), scores(after * 8), subjects=[str(n % 6) for n in range(48)])
    assert (often.n, often.low, often.high) == (once.n, once.low, once.high)
    assert compare("all", "target", scores(before * 8), scores(after * 8)).low > once.low


def test_noise_in_few_subjects_is_rarely_called_an_improvement() -> None:
    draw = random.Random(1)
    n_approved = 0
    for number in range(300):
        n = draw.choice([4, 6, 8, 12])
        # Eight wordings of a question are right or wrong together.
        before, after = ([float(draw.random() < 0.5) for _ in range(n)] for _ in range(2))
        subjects = [str(index) for index in range(n)] * 8
        report = compare("all", "target", scores(before * 8), scores(after * 8), subjects=subjects, seed=number)
        n_approved += report.low > 0
    assert n_approved / 300 <= 0.04  # 2.5 % are expected


def test_subjects_and_scores_must_fit() -> None:
    with pytest.raises(ValueError, match="2 scores of 1 subjects"):
        compare("all", "target", scores([0.0, 0.0]), scores([1.0, 1.0]), subjects=["tea"])


def test_an_example_without_a_subject_is_its_own() -> None:
    wordings = [replace(example(f"tea {n}", number=n), subject="tea") for n in range(3)]
    named_like_an_id = replace(example("x", number=9), subject="e1")
    assert n_subjects([*wordings, example("y", number=1), example("z", number=2), named_like_an_id]) == 4


def test_a_reason_tells_both_counts() -> None:
    found = replace(slice_of("target", 0.5, 0.55, 0.01, 0.09, n=12), n_examples=40)
    assert str(Reason(ReasonKind.IMPROVED, found)).endswith("n = 12 (40 examples)")


# -- the gate --


def slice_of(kind: str, before: float, after: float, low: float, high: float, n: int = 100) -> SliceReport:
    return SliceReport(kind, kind, n, before, after, low, high)  # type: ignore[arg-type]


def test_a_gain_does_not_pay_for_a_loss() -> None:
    slices = [slice_of("target", 0.5, 0.55, 0.01, 0.09), slice_of("protected", 0.9, 0.87, -0.06, 0.0)]
    verdict = gate(slices)
    assert not verdict.is_approved
    assert [(reason.kind, reason.slice) for reason in verdict.reasons] == [
        (ReasonKind.IMPROVED, slices[0]),
        (ReasonKind.LOST, slices[1]),
    ]
    assert [str(reason) for reason in verdict.reasons] == [
        "better on target: 50.0% before, 55.0% after, change +5.0 points, 95 % interval +1.0 to +9.0, n = 100",
        "a loss on protected: 90.0% before, 87.0% after, change -3.0 points, 95 % interval -6.0 to +0.0, n = 100",
    ]


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (slice_of("target", 0.5, 0.6, 0.001, 0.2), ReasonKind.IMPROVED),
        (slice_of("target", 0.5, 0.6, 0.0, 0.2), ReasonKind.NOT_SURE),
        (slice_of("target", math.nan, 0.6, math.nan, 0.2), ReasonKind.NOT_SURE),
        (slice_of("protected", 0.9, 0.89, -0.5, 0.5), ReasonKind.KEPT),
        (slice_of("protected", 0.9, 0.889, -0.5, 0.5), ReasonKind.LOST),
        (slice_of("protected", 0.9, math.nan, -0.5, 0.5), ReasonKind.LOST),
    ],
)
def test_each_slice_gives_its_kind(found: SliceReport, kind: ReasonKind) -> None:
    assert [reason.kind for reason in gate([found]).reasons] == [kind]


@pytest.mark.parametrize(
    ("found", "of_what_was_taught", "of_later_events"),
    [
        (slice_of("target", 0.5, 0.502, -0.002, 0.006), ReasonKind.NOT_SURE, ReasonKind.NOTHING_NEW),
        (slice_of("target", 0.5, 0.498, -0.01, 0.01), ReasonKind.NOT_SURE, ReasonKind.NOTHING_NEW),
        (slice_of("target", 0.5, 0.495, -0.05, 0.04), ReasonKind.NOT_SURE, ReasonKind.NOTHING_NEW),
        # A gain of more than a point is possible, or the candidate is worse.
        (slice_of("target", 0.5, 0.505, -0.002, 0.012), ReasonKind.NOT_SURE, ReasonKind.NOT_SURE),
        (slice_of("target", 0.5, 0.48, -0.03, 0.002), ReasonKind.NOT_SURE, ReasonKind.NOT_SURE),
        (slice_of("target", 0.5, 0.505, 0.001, 0.009), ReasonKind.IMPROVED, ReasonKind.IMPROVED),
        # Everything was right before.
        (slice_of("target", 1.0, 1.0, 0.0, 0.0), ReasonKind.NOTHING_NEW, ReasonKind.NOTHING_NEW),
        (slice_of("target", 1.0, 0.9, -0.2, 0.0), ReasonKind.NOT_SURE, ReasonKind.NOT_SURE),
        (slice_of("target", 0.0, 0.0, 0.0, 0.0), ReasonKind.NOT_SURE, ReasonKind.NOTHING_NEW),
        (slice_of("target", 0.5, math.nan, math.nan, 0.0), ReasonKind.NOT_SURE, ReasonKind.NOT_SURE),
        (slice_of("target", 0.5, 0.505, -0.01, math.nan), ReasonKind.NOT_SURE, ReasonKind.NOT_SURE),
    ],
)
def test_nothing_new_is_what_cannot_improve(
    found: SliceReport, of_what_was_taught: ReasonKind, of_later_events: ReasonKind
) -> None:
    assert [reason.kind for reason in gate([found]).reasons] == [of_what_was_taught]
    verdict = gate([found], judged_by_later=True)
    assert [reason.kind for reason in verdict.reasons] == [of_later_events]
    assert nothing_is_new(verdict.reasons) == (of_later_events is ReasonKind.NOTHING_NEW)
    assert verdict.is_approved == (of_later_events is ReasonKind.IMPROVED)
    # A loss is a refusal, whatever else there is.
    lost = Reason(ReasonKind.LOST, slice_of("protected", 0.9, 0.8, -0.2, -0.1))
    assert not nothing_is_new((*verdict.reasons, lost))


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        (Reason(ReasonKind.PLUGIN_APPROVED, plugin="AskFirst"), "the plugin AskFirst approved it"),
        (Reason(ReasonKind.PLUGIN_REFUSED, plugin="AskFirst"), "the plugin AskFirst refused it"),
        (Reason(ReasonKind.NO_ANSWER, detail="boom"), "it did not answer: boom"),
        (Reason(ReasonKind.RECORDED, detail="better on x"), "better on x"),
    ],
)
def test_a_reason_is_a_sentence(reason: Reason, sentence: str) -> None:
    assert str(reason) == sentence


def test_every_kind_has_a_sentence() -> None:
    found = slice_of("target", 0.5, 0.6, 0.1, 0.2)
    assert all(str(Reason(kind, found, "plugin", "detail")) for kind in ReasonKind)


NUMBERS = st.floats(-1, 1) | st.sampled_from([math.nan, math.inf, -math.inf])
SLICES = st.builds(slice_of, st.sampled_from(["target", "protected"]), NUMBERS, NUMBERS, NUMBERS, NUMBERS)


@given(st.lists(SLICES, max_size=6))
def test_the_gate_approves_only_what_passes(slices: list[SliceReport]) -> None:
    verdict = gate(slices)
    assert len(verdict.reasons) == len(slices)
    targets = [found for found in slices if found.kind == "target"]
    protected = [found for found in slices if found.kind == "protected"]
    # The drop of exactly one point is not compared: it depends on the rounding of the mean.
    if verdict.is_approved:
        assert targets
        assert all(found.low > 0 for found in targets)
        assert all(found.change >= -0.01 - 1e-6 for found in protected)
    elif targets:
        assert any(not found.low > 0 for found in targets) or any(not found.change >= -0.01 for found in protected)


@settings(max_examples=50, deadline=None)
@given(
    gain=st.integers(1, 100),
    protected=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200),
)
def test_no_gain_pays_for_a_protected_point(gain: int, protected: list[tuple[bool, bool]]) -> None:
    target = compare("new", "target", scores([0.0] * 100), scores([1.0] * gain + [0.0] * (100 - gain)))
    kept = compare(
        "kept", "protected", scores([float(a) for a, _ in protected]), scores([float(b) for _, b in protected])
    )
    n_lost = sum(a - b for a, b in protected)
    if n_lost > 0.01 * len(protected):
        assert not gate([target, kept]).is_approved
    else:
        assert gate([target, kept]).is_approved == (target.low > 0)


def test_a_refusal_says_how_many_more_would_decide() -> None:
    wide = slice_of("target", 0.0, 0.5, 0.0, 1.0, n=6)
    (reason,) = gate([wide]).reasons
    assert (reason.kind, reason.n_missing) == (ReasonKind.NOT_SURE, 1)
    # Twice as wide on the lower side as the gain: four times as many.
    (reason,) = gate([slice_of("target", 0.5, 0.75, -0.25, 0.75, n=10)], n_per_judged=4).reasons
    assert reason.n_missing == 4 * 30
    assert "feedback on about 120 more would decide" in str(reason)
    for hopeless in (slice_of("target", 0.5, 0.5, -0.1, 0.1), slice_of("target", 0.5, 0.4, -0.3, 0.1)):
        (reason,) = gate([hopeless]).reasons
        assert (reason.kind, reason.n_missing) == (ReasonKind.NOT_SURE, 0)
        assert "more" not in str(reason)


def test_the_named_number_decides() -> None:
    values = [1.0] * 3 + [0.0] * 6 + [-1.0]

    def found(times: int) -> Reason:
        better = [value for value in values for _ in range(times)]
        before, after = scores([float(v < 0) for v in better]), scores([float(v > 0) for v in better])
        return gate([compare("new feedback", "target", before, after)]).reasons[0]

    small = found(1)
    assert small.kind is ReasonKind.NOT_SURE
    # About as many as it says, in the same proportions.
    assert found(math.ceil(1 + small.n_missing / len(values))).kind is ReasonKind.IMPROVED


def test_a_gate_without_a_target_approves_nothing() -> None:
    assert not gate([]).is_approved
    assert not gate([slice_of("protected", 0.5, 0.9, 0.1, 0.5)]).is_approved
