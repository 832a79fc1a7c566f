"""What a learning cycle did and why: as a value, as JSON, and as text for a terminal."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar

from smallai_assistant.feedback import Adapter, Example, Score
from smallai_assistant.learning.agreement import Agreement
from smallai_assistant.learning.evaluation import Reason, ReasonKind, SliceReport, compare, gate, subject_of
from smallai_assistant.learning.preparation import EARLIER, TARGET, Cycle
from smallai_assistant.storage.media import media_digest
from smallai_assistant.task import Trial
from smallai_assistant.types import ImagePart

Outcome = Literal["promoted", "approved", "refused"]
T = TypeVar("T")

# Enough to see what the cycle did, few enough that the page stays small with a picture for each.
_MAX_CHANGES = 12
# What one source taught is shown as its most frequent answers; the page has room for one or two lines of them.
_MAX_TAUGHT = 6
_MAX_TAUGHT_CHARS = 60


@dataclass(frozen=True, slots=True)
class Media:
    """A picture or a recording that is kept in the media folder under its sha256. The report never holds its bytes."""

    kind: Literal["image", "audio"]
    sha256: str


@dataclass(frozen=True, slots=True)
class Change:
    """An evaluated example whose answer changed.

    Attributes:
        gain: change of its score, -1 to 1; positive is better.
        media: the pictures and recordings that belong to the prompt.
        feedback_ids: the feedback that the example was made from; if one of them is erased, the change goes, too.
    """

    slice: str
    prompt: str
    expected: str
    before: str
    after: str
    gain: float
    media: tuple[Media, ...] = ()
    feedback_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Taught:
    """A right answer that a source gave, and how many pieces of feedback gave it."""

    answer: str
    n: int


@dataclass(frozen=True, slots=True)
class SetAside:
    """Feedback of one source that the screening set aside, and why."""

    source: str
    reason: str
    n_rows: int


@dataclass(frozen=True, slots=True)
class FeedbackSummary:
    """The feedback that a cycle worked on.

    Attributes:
        n_judged_turns: how many judged turns passed the screening.
        sources: how many of them each source gave.
        taught: the most frequent right answers of each source, most frequent first.
        quarantined: what the screening set aside.
        agreements: personal feedback that was learned, because several people gave it alike.
        n_personal: number of rows that are for one person or a group, and were therefore not learned.
    """

    n_judged_turns: int = 0
    sources: Mapping[str, int] = field(default_factory=dict)
    taught: Mapping[str, tuple[Taught, ...]] = field(default_factory=dict)
    quarantined: tuple[SetAside, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    n_personal: int = 0


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """What a candidate was trained on, and how that went.

    Attributes:
        n_new: number of examples that no earlier cycle learned.
        n_replay: number of examples of earlier cycles that were learned again.
        losses: the loss of each training step that the task recorded.
        trials: the settings that the task tried, with their losses.
    """

    n_new: int = 0
    n_replay: int = 0
    losses: tuple[float, ...] = ()
    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True, slots=True)
class CycleReport:
    """The report of a learning cycle.

    Attributes:
        metric: what a score means on average, such as `top-1 accuracy`.
        parent_id: the adapter that served before; None for the bare base.
        baseline_id: the adapter that the scores before belong to; None for the bare base.
        base: the model that the adapter was made for, as JSON.
        is_approved: the decision of the gate, or of a plugin that overruled it.
        is_promoted: whether the cycle let the adapter serve.
        reasons: the reasons for the decision, with the figures behind it.
        changes: the answers that changed most.
        retired_ids: feedback that the adapter answers by itself, so that the fast memory no longer holds it.
        held_out_ids: feedback that the adapter was judged by and has not seen.
        cross_fitted_ids: feedback that the hash holds out and that the adapter learned, because it or a version before
            it was judged by way of candidates that had not seen it.
        seconds: duration of the cycle.
    """

    task: str
    metric: str
    adapter_id: str
    parent_id: str | None
    is_approved: bool
    reasons: tuple[Reason, ...]
    slices: tuple[SliceReport, ...]
    changes: tuple[Change, ...]
    feedback: FeedbackSummary
    training: TrainingSummary
    baseline_id: str | None = None
    base: Mapping[str, Any] = field(default_factory=dict)
    retired_ids: tuple[str, ...] = ()
    held_out_ids: tuple[str, ...] = ()
    cross_fitted_ids: tuple[str, ...] = ()
    is_promoted: bool = False
    seconds: float = 0.0

    @property
    def outcome(self) -> Outcome:
        """What became of the candidate."""
        return "promoted" if self.is_promoted else "approved" if self.is_approved else "refused"

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values only, on one level as `smallai learn --json` prints them."""
        table = asdict(self)
        summary, training = table.pop("feedback"), table.pop("training")
        return table | {
            # The sentences stay a list of texts, for programs that print them; `reason_details` is for the others.
            "reasons": [str(reason) for reason in self.reasons],
            "reason_details": [_reason_to_json(reason) for reason in self.reasons],
            "slices": [asdict(found) | {"change": found.change} for found in self.slices],
            "n_judged_turns": summary["n_judged_turns"],
            "sources": summary["sources"],
            "taught": summary["taught"],
            # A list, as it was before it had named fields, so that programs that read it do not break.
            "quarantined": [[aside.source, aside.reason, aside.n_rows] for aside in self.feedback.quarantined],
            "agreements": summary["agreements"],
            "n_personal": summary["n_personal"],
            "n_training": training["n_new"],
            "n_replay": training["n_replay"],
            "losses": training["losses"],
            "trials": training["trials"],
            "outcome": self.outcome,
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> CycleReport:
        """Reads a stored report, whichever version stored it. A key that is missing takes an empty value."""
        slices = tuple(_known(SliceReport, row) for row in table.get("slices", ()))
        outcome = table.get("outcome", "refused")
        return cls(
            task=table.get("task", ""),
            metric=table.get("metric", ""),
            adapter_id=table.get("adapter_id", ""),
            parent_id=table.get("parent_id"),
            baseline_id=table.get("baseline_id"),
            base=table.get("base", {}),
            # A candidate that did not answer was refused after the gate had approved it.
            is_approved=bool(table.get("is_approved")) and outcome != "refused",
            is_promoted=bool(table.get("is_promoted")) and outcome != "refused",
            reasons=_reasons_from_json(table, {found.name: found for found in slices}),
            slices=slices,
            changes=tuple(_change_from_json(row) for row in table.get("changes", ())),
            feedback=FeedbackSummary(
                # `n_lessons` is the key of reports that were stored before the first release.
                n_judged_turns=table.get("n_judged_turns", table.get("n_lessons", 0)),
                sources=table.get("sources", {}),
                taught={
                    source: tuple(_known(Taught, row) for row in rows)
                    for source, rows in table.get("taught", {}).items()
                },
                quarantined=tuple(SetAside(*row) for row in table.get("quarantined", ())),
                agreements=tuple(
                    Agreement(tuple(row["people"]), tuple(row["feedback_ids"])) for row in table.get("agreements", ())
                ),
                n_personal=table.get("n_personal", 0),
            ),
            training=TrainingSummary(
                n_new=table.get("n_training", 0),
                n_replay=table.get("n_replay", 0),
                losses=tuple(table.get("losses", ())),
                trials=tuple(_known(Trial, row) for row in table.get("trials", ())),
            ),
            retired_ids=tuple(table.get("retired_ids", ())),
            held_out_ids=tuple(table.get("held_out_ids", ())),
            cross_fitted_ids=tuple(table.get("cross_fitted_ids", ())),
            seconds=table.get("seconds", 0.0),
        )

    def summary(self) -> str:
        """Returns the outcome and its reasons, one line each."""
        head = {
            "promoted": f"{self.task}: {self.adapter_id} serves now.",
            "approved": f"{self.task}: {self.adapter_id} was approved; promote it to let it serve.",
            "refused": f"{self.task}: the gate refused {self.adapter_id}; nothing was changed.",
        }[self.outcome]
        return "\n".join([head, *(f"  {reason}" for reason in self.reasons)])


def report_of(cycle: Cycle, candidate: Adapter, after: Mapping[str, Sequence[Score]]) -> CycleReport:
    """Compares the candidate's scores with the ones before, lets the gate decide, and reports both.

    Args:
        cycle: the cycle, with the scores before.
        after: the candidate's scores, by the name of the slice.
    """
    slices = [
        compare(
            name,
            "target" if name == TARGET else "protected",
            cycle.before[name],
            after[name],
            subjects=[subject_of(example) for example in examples],
            seed=cycle.options.seed,
        )
        for name, examples in cycle.slices.items()
    ]
    verdict = gate(slices, n_per_judged=cycle.n_per_judged)
    changes = [
        Change(
            slice=name,
            prompt=example.prompt,
            expected=example.expected,
            before=old.answer,
            after=new.answer,
            gain=new.value - old.value,
            media=media_of(example),
            feedback_ids=example.feedback_ids,
        )
        for name, examples in cycle.slices.items()
        for example, old, new in zip(examples, cycle.before[name], after[name], strict=True)
        # A new answer of the same score counts, too: a person may see a difference that the metric does not.
        if old != new
    ]
    # Losses are shown beside gains, by size alone: a report that hides them could not be trusted.
    changes.sort(key=lambda change: -abs(change.gain))
    # Protected slices are left out: the next cycle asks their examples as protected ones again, not as known feedback.
    held_out = [*cycle.slices[TARGET], *cycle.slices.get(EARLIER, ())]
    source_of = {row.feedback.id: row.feedback.source for row in cycle.screened.judged_turns}
    return CycleReport(
        task=cycle.task.name,
        metric=cycle.task.primary_metric,
        adapter_id=candidate.id,
        parent_id=candidate.parent,
        baseline_id=cycle.baseline.id if cycle.baseline is not None else None,
        base=cycle.base,
        is_approved=verdict.is_approved,
        reasons=verdict.reasons,
        slices=tuple(slices),
        changes=tuple(changes[:_MAX_CHANGES]),
        feedback=FeedbackSummary(
            n_judged_turns=len(cycle.screened.judged_turns),
            sources=cycle.screened.by_source(),
            # Only examples that were learned or held out: an erasure then knows which reports quote a row.
            taught=taught_by([*cycle.training, *cycle.replay, *held_out], source_of),
            quarantined=tuple(
                SetAside(found.source, found.reason, len(found.feedback_ids)) for found in cycle.screened.quarantined
            ),
            agreements=cycle.shared.agreements,
            n_personal=cycle.shared.n_personal,
        ),
        training=TrainingSummary(
            n_new=len(cycle.training),
            n_replay=len(cycle.replay),
            losses=tuple(cycle.losses),
            trials=tuple(cycle.trials),
        ),
        held_out_ids=() if cycle.folds else _ids_of(held_out),
        cross_fitted_ids=_ids_of(cycle.learned_although_held_out),
    )


def did_not_answer(report: Mapping[str, Any], error: str) -> dict[str, Any]:
    """Returns a stored report whose candidate was approved and then taken back because it did not answer.

    Args:
        error: what the candidate did instead.
    """
    reason = Reason(ReasonKind.NO_ANSWER, detail=error)
    told = {"reasons": [str(reason)], "reason_details": [_reason_to_json(reason)]}
    return {**report, **told, "is_approved": False, "is_promoted": False, "outcome": "refused"}


def media_of(example: Example) -> tuple[Media, ...]:
    """Returns the example's pictures and recordings that the media folder keeps.

    A file that is not kept, because it is too large or gone, is left out.
    """
    found = []
    for part in example.media:
        digest = media_digest(part.path) if part.path is not None else None
        if digest is not None:
            found.append(Media("image" if isinstance(part, ImagePart) else "audio", digest))
    return tuple(found)


def taught_by(examples: Iterable[Example], source_of: Mapping[str, str]) -> dict[str, tuple[Taught, ...]]:
    """Counts what each source taught.

    Args:
        examples: the examples that were made from feedback.
        source_of: the source of each feedback, by its id.

    Returns:
        The most frequent right answers of each source, most frequent first.
    """
    # One piece of feedback may give several examples, one a wording; it counts once.
    given = {
        (source_of[feedback_id], " ".join(example.expected.split()), feedback_id)
        for example in examples
        for feedback_id in example.feedback_ids
        if feedback_id in source_of
    }
    counted: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for source, answer, _ in sorted(given):
        counted[source][answer] += 1
    return {
        source: tuple(Taught(_shortened(answer), n) for answer, n in answers.most_common(_MAX_TAUGHT))
        for source, answers in counted.items()
    }


def _ids_of(examples: Iterable[Example]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(feedback_id for example in examples for feedback_id in example.feedback_ids))


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_TAUGHT_CHARS else f"{text[: _MAX_TAUGHT_CHARS - 1]}…"


def _reason_to_json(reason: Reason) -> dict[str, Any]:
    found = reason.slice.name if reason.slice is not None else None
    return {
        "kind": reason.kind.value,
        "slice": found,
        "plugin": reason.plugin,
        "detail": reason.detail,
        "n_missing": reason.n_missing,
    }


def _reasons_from_json(table: Mapping[str, Any], slices: Mapping[str, SliceReport]) -> tuple[Reason, ...]:
    sentences: Sequence[str] = table.get("reasons", ())
    # Before the first release only the sentences were stored. They are shown as they are: a sentence is not parsed.
    details: Sequence[Mapping[str, Any]] = table.get("reason_details", [{}] * len(sentences))
    found = []
    for row, sentence in zip(details, sentences, strict=False):
        kind = row.get("kind")
        # A later version may store a kind that this one does not know.
        if kind in set(ReasonKind):
            n_missing = row.get("n_missing", 0)
            found.append(Reason(ReasonKind(kind), slices.get(row["slice"]), row["plugin"], row["detail"], n_missing))
        else:
            found.append(Reason(ReasonKind.RECORDED, detail=sentence))
    return tuple(found)


def _change_from_json(row: Mapping[str, Any]) -> Change:
    media = tuple(_known(Media, part) for part in row.get("media", ()))
    return _known(Change, {**row, "media": media, "feedback_ids": tuple(row.get("feedback_ids", ()))})


def _known(kind: type[T], row: Mapping[str, Any]) -> T:
    """Makes a dataclass of a JSON object; keys that the class does not have, such as computed ones, are left out."""
    names: Sequence[str] = [found.name for found in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: row[name] for name in names if name in row})
