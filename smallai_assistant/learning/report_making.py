"""Makes the report of a learning cycle: compares the scores, lets the gate decide, and names what was learned."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from smallai_assistant.feedback import Adapter, Example, Score
from smallai_assistant.learning.components import Choice, compared, component_reports, is_in
from smallai_assistant.learning.cycle import EARLIER, TARGET, Cycle, ids_of
from smallai_assistant.learning.evaluation import gate
from smallai_assistant.learning.report import (
    Change,
    CycleReport,
    FeedbackSummary,
    Media,
    SetAside,
    Taught,
    TrainingSummary,
)
from smallai_assistant.storage.media import media_digest
from smallai_assistant.types import ImagePart

# Enough to see what the cycle did, few enough that the page stays small with a picture for each.
_MAX_CHANGES = 12
# What one source taught is shown as its most frequent answers; the page has room for one or two lines of them.
_MAX_TAUGHT = 6
_MAX_TAUGHT_CHARS = 60


def report_of(cycle: Cycle, candidate: Adapter, after: Mapping[str, Sequence[Score]], choice: Choice) -> CycleReport:
    """Compares the candidate's scores with the ones before, lets the gate decide, and reports both.

    Args:
        cycle: the cycle, with the scores before.
        after: the candidate's scores, by the name of the slice.
        choice: what the gate said of each component.
    """
    slices = compared(cycle, after, cycle.components)
    verdict = gate(slices, n_per_judged=cycle.n_per_judged, judged_by_later=cycle.is_split_by_time)
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
    # So is the feedback of a component that the version does not have: it is new to a later cycle.
    names = {"", *(component.name for component in candidate.components)}
    held_out = [
        example for name in (TARGET, EARLIER) for example in cycle.slices.get(name, ()) if example.component in names
    ]
    learned = [example for example in (*cycle.training, *cycle.replay, *cycle.kept) if is_in(candidate, example)]
    source_of = {row.feedback.id: row.feedback.source for row in cycle.screened.judged_turns}
    return CycleReport(
        task=cycle.task.name,
        metric=cycle.task.primary_metric,
        adapter_id=candidate.id,
        parent_id=candidate.parent,
        baseline_id=cycle.baseline.id if cycle.baseline is not None else None,
        base=cycle.base,
        # Two components that both fail may balance each other in the whole.
        is_approved=verdict.is_approved and (bool(choice.stays) or not cycle.components),
        reasons=verdict.reasons,
        slices=tuple(slices),
        changes=tuple(changes[:_MAX_CHANGES]),
        feedback=FeedbackSummary(
            n_judged_turns=len(cycle.screened.judged_turns),
            sources=cycle.screened.by_source(),
            # Only examples that were learned or held out: an erasure then knows which reports quote a row.
            taught=taught_by([*learned, *held_out], source_of),
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
        held_out_ids=() if cycle.folds else ids_of(held_out),
        cross_fitted_ids=ids_of(example for example in learned if cycle.is_held_out(example)),
        components=component_reports(cycle, candidate, choice),
        audience=cycle.options.audience,
    )


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


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_TAUGHT_CHARS else f"{text[: _MAX_TAUGHT_CHARS - 1]}…"
