"""What a learning cycle did and why: as a value, as JSON, and as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar

from smallai_assistant.learning.agreement import Agreement
from smallai_assistant.learning.audience_words import for_whom
from smallai_assistant.learning.evaluation import Reason, ReasonKind, SliceReport, nothing_is_new
from smallai_assistant.task import Trial
from smallai_assistant.validation import EVERYONE

Outcome = Literal["promoted", "approved", "nothing_new", "refused"]
T = TypeVar("T")


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
class ComponentReport:
    """What became of a component, see `Example.component`. `str(report)` is the sentence for people.

    Attributes:
        verdict: of the component's own gate: `approved` or `refused`; `waiting` if the cycle did not judge it.
        is_included: whether the version has weights of it.
        taken_from: the version whose weights of it are in this one unchanged; None if they were trained for this one.
        n_judged_turns: number of judged turns that taught it.
        reasons, slices: why, and the figures. Of a protected slice, only what the component answered is compared.
    """

    name: str
    verdict: Literal["approved", "refused", "waiting"]
    is_included: bool
    taken_from: str | None = None
    n_judged_turns: int = 0
    reasons: tuple[Reason, ...] = ()
    slices: tuple[SliceReport, ...] = ()

    def __str__(self) -> str:
        rows = f"{self.n_judged_turns:,} judged turn{'' if self.n_judged_turns == 1 else 's'}"
        if self.verdict == "approved":
            return f"{self.name}: approved, from {rows}"
        outcome = "refused" if self.verdict == "refused" else "not learned this time"
        if self.taken_from is not None:
            return f"{self.name}: {outcome}; what {self.taken_from} learned of them serves on"
        rest = "" if self.is_included else f", and this version has none of them: {rows} wait in the fast memory"
        return f"{self.name}: {outcome}{rest}"


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
        components: what became of each of the things that the task learns; empty if it learns one thing only.
        seconds: duration of the cycle.
        audience: whom the adapter is for.
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
    components: tuple[ComponentReport, ...] = ()
    seconds: float = 0.0
    audience: str = EVERYONE

    @property
    def outcome(self) -> Outcome:
        """What became of the candidate."""
        if self.is_approved or self.is_promoted:
            return "promoted" if self.is_promoted else "approved"
        return "nothing_new" if nothing_is_new(self.reasons) else "refused"

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values only, on one level as `smallai learn --json` prints them."""
        table = asdict(self)
        summary, training = table.pop("feedback"), table.pop("training")
        return table | {
            **_reasons_to_json(self.reasons),
            "slices": _slices_to_json(self.slices),
            "components": [
                {**asdict(found), **_reasons_to_json(found.reasons), "slices": _slices_to_json(found.slices)}
                for found in self.components
            ],
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
            reasons=_reasons_from_json(table, slices),
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
            components=tuple(map(_component_from_json, table.get("components", ()))),
            seconds=table.get("seconds", 0.0),
            audience=table.get("audience", EVERYONE),
        )

    def summary(self) -> str:
        """Returns the outcome and its reasons, one line each."""
        without = " and ".join(found.name for found in self.components if not found.is_included)
        version = f"{self.adapter_id} (without {without})" if without else self.adapter_id
        about = f"{self.task}{for_whom(self.audience)}"
        head = {
            "promoted": f"{about}: {version} serves now.",
            "approved": f"{about}: {version} was approved; promote it to let it serve.",
            "nothing_new": f"{about}: nothing new to learn; nothing was changed.",
            "refused": f"{about}: the gate refused {version}; nothing was changed.",
        }[self.outcome]
        return "\n".join([head, *(f"  {reason}" for reason in self.reasons), *self.component_lines()])

    def component_lines(self) -> list[str]:
        """Returns what became of each component, one line each; below it the reasons, if it was not approved."""
        lines = []
        for found in self.components:
            lines.append(f"  {found}")
            lines += [f"    {reason}" for reason in found.reasons if found.verdict != "approved"]
        return lines


def did_not_answer(report: Mapping[str, Any], error: str) -> dict[str, Any]:
    """Returns a stored report whose candidate was approved and then taken back because it did not answer.

    Args:
        error: what the candidate did instead.
    """
    reason = Reason(ReasonKind.NO_ANSWER, detail=error)
    return {**report, **_reasons_to_json([reason]), "is_approved": False, "is_promoted": False, "outcome": "refused"}


def _reasons_to_json(reasons: Sequence[Reason]) -> dict[str, Any]:
    """Returns the sentences, for programs that print them, and the fields, for the others."""
    details = [
        {
            "kind": reason.kind.value,
            "slice": reason.slice.name if reason.slice is not None else None,
            "component": reason.slice.component if reason.slice is not None else "",
            "plugin": reason.plugin,
            "detail": reason.detail,
            "n_missing": reason.n_missing,
        }
        for reason in reasons
    ]
    return {"reasons": [str(reason) for reason in reasons], "reason_details": details}


def _reasons_from_json(table: Mapping[str, Any], slices: Sequence[SliceReport]) -> tuple[Reason, ...]:
    slice_of = {(found.name, found.component): found for found in slices}
    sentences: Sequence[str] = table.get("reasons", ())
    # Before the first release only the sentences were stored. They are shown as they are: a sentence is not parsed.
    details: Sequence[Mapping[str, Any]] = table.get("reason_details", [{}] * len(sentences))
    reasons = []
    for row, sentence in zip(details, sentences, strict=False):
        kind = row.get("kind")
        # A later version may store a kind that this one does not know.
        if kind in set(ReasonKind):
            found = slice_of.get((row["slice"], row.get("component", "")))
            reasons.append(Reason(ReasonKind(kind), found, row["plugin"], row["detail"], row.get("n_missing", 0)))
        else:
            reasons.append(Reason(ReasonKind.RECORDED, detail=sentence))
    return tuple(reasons)


def _slices_to_json(slices: Sequence[SliceReport]) -> list[dict[str, Any]]:
    return [asdict(found) | {"change": found.change} for found in slices]


def _component_from_json(row: Mapping[str, Any]) -> ComponentReport:
    slices = tuple(_known(SliceReport, found) for found in row.get("slices", ()))
    return _known(ComponentReport, {**row, "slices": slices, "reasons": _reasons_from_json(row, slices)})


def _change_from_json(row: Mapping[str, Any]) -> Change:
    media = tuple(_known(Media, part) for part in row.get("media", ()))
    return _known(Change, {**row, "media": media, "feedback_ids": tuple(row.get("feedback_ids", ()))})


def _known(kind: type[T], row: Mapping[str, Any]) -> T:
    """Makes a dataclass of a JSON object; keys that the class does not have, such as computed ones, are left out."""
    names: Sequence[str] = [found.name for found in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: row[name] for name in names if name in row})
