"""A learning cycle as one HTML file: what got better, what did not, who taught it, and how to undo it.

The page loads nothing and runs nothing: plots are inline SVG, pictures and recordings are data URLs, and its content
security policy forbids everything else. Feedback is hostile text; the templates escape every value.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallai_assistant.learning.audience_words import below, for_whom, option_for
from smallai_assistant.learning.evaluation import Reason, ReasonKind, SliceReport
from smallai_assistant.learning.report import Change, ComponentReport, CycleReport, FeedbackSummary, Taught
from smallai_assistant.learning.report_media import Shown, shown
from smallai_assistant.learning.report_plots import interval_plot, loss_curve, trial_rows

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

# A page of twelve answers stays readable; the whole text is in the database.
MAX_TEXT_CHARS = 600
# A person looks at the largest sources; a popular installation has thousands.
_MAX_SOURCES = 12

_GOOD, _BAD, _WAIT, _NEUTRAL = ("good", "✓"), ("bad", "✕"), ("wait", "!"), ("soft", "·")
# Which colour and which sign a reason has; the sign, because colours alone are not seen by everybody.
_MARKS: Mapping[ReasonKind, tuple[str, str]] = {
    ReasonKind.IMPROVED: _GOOD,
    ReasonKind.KEPT: _GOOD,
    ReasonKind.NOT_SURE: _BAD,
    ReasonKind.NOTHING_NEW: _NEUTRAL,
    ReasonKind.LOST: _BAD,
    ReasonKind.NO_ANSWER: _BAD,
    ReasonKind.PLUGIN_APPROVED: _WAIT,
    ReasonKind.PLUGIN_REFUSED: _WAIT,
    ReasonKind.CHAMPION_CHANGED: _WAIT,
    ReasonKind.TOO_LITTLE: _WAIT,
    ReasonKind.NOT_TRAINED: _WAIT,
    ReasonKind.RECORDED: _NEUTRAL,
}


@dataclass(frozen=True, slots=True)
class MarkedReason:
    """A reason with the colour and the sign that the page gives it."""

    tone: str
    sign: str
    sentence: str


@dataclass(frozen=True, slots=True)
class MarkedComponent(MarkedReason):
    """What became of a component, with the reasons if it was not approved."""

    reasons: tuple[MarkedReason, ...] = ()


@dataclass(frozen=True, slots=True)
class ShownChange:
    """A changed answer with its pictures and recordings, ready to be shown."""

    change: Change
    media: tuple[Shown, ...]


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A source with how much it taught; `width` in percent of the largest source."""

    name: str
    n: int
    width: float
    taught: Sequence[Taught]


@dataclass(frozen=True, slots=True)
class Step:
    """Something that a person can do next, and the command that does it."""

    what: str
    command: str


def write_page(report: CycleReport, path: Path, *, media_dir: Path, serving_id: str | None) -> None:
    """Writes the page.

    What it shows is what the report and the media folder hold now. Later erasures do not reach into the file.

    Args:
        media_dir: the folder that keeps pictures and recordings.
        serving_id: the adapter that serves the task now; None for the bare base.

    Raises:
        OSError: the file cannot be written.
    """
    # Half a surrogate pair, which a plugin may have reported, becomes a question mark.
    path.write_text(render(report, media_dir=media_dir, serving_id=serving_id), encoding="utf-8", errors="replace")


def render(report: CycleReport, *, media_dir: Path, serving_id: str | None) -> str:
    """Returns the page as HTML; see `write_page`."""
    template = _environment().get_template("report.html")
    rows, rest = _source_rows(report.feedback)
    return template.render(
        report=report,
        for_whom=for_whom(report.audience),
        audience_option=option_for(report.audience),
        target=next((found for found in report.slices if found.kind == "target"), None),
        serving_id=serving_id,
        plot=interval_plot(report.slices, report.reasons),
        reasons=[_marked(reason) for reason in report.reasons],
        components=[_marked_component(component) for component in report.components],
        changes=[ShownChange(change, tuple(shown(media, media_dir) for media in change.media))
                 for change in report.changes],
        sources=rows,
        other_sources=rest,
        curve=loss_curve(report.training.losses),
        trials=trial_rows(report.training.trials),
        base={name: _as_text(value) for name, value in report.base.items()},
        steps=_steps(report, serving_id),
    )  # fmt: skip


@cache
def _environment() -> Environment:
    # Imported here, because only a cycle that writes a page needs it.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("smallai_assistant.learning", "templates"),
        autoescape=True,
        # A wrong name in a template fails in a test, not as an empty place in the page.
        undefined=StrictUndefined,
        finalize=_without_controls,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"said": _said, "count": _count, "percent": _percent, "points": _points}
    environment.filters |= {"evidence": _evidence}
    return environment


def _without_controls(value: Any) -> Any:
    """Replaces the characters that HTML forbids. Jinja calls it with every value before it escapes it."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "".join(
        sign if sign in "\n\t" or (sign >= " " and not "\x7f" <= sign <= "\x9f") else "\ufffd" for sign in value
    )


def _said(text: str, limit: int = MAX_TEXT_CHARS) -> Markup:
    """Shortens a text that somebody gave, and keeps its writing direction from reordering the page around it."""
    from markupsafe import Markup

    # An empty answer must not look like a gap in the page.
    if not text.strip():
        return Markup('<span class="soft">(nothing)</span>')
    whole = text if len(text) <= limit else f"{text[:limit]}…"
    return Markup("<bdi>{}</bdi>").format(_without_controls(whole))


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _evidence(found: SliceReport) -> str:
    """How much a slice is evidence of: its examples, and how many subjects they are about if these are fewer."""
    if found.n_examples > found.n:
        return f"{_count(found.n_examples, 'example')} of {_count(found.n, 'subject')}"
    return _count(found.n, "example")


def _percent(share: float, digits: int = 1) -> str:
    return f"{share:.{digits}%}"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _marked(reason: Reason) -> MarkedReason:
    tone, sign = _MARKS[reason.kind]
    return MarkedReason(tone, sign, str(reason))


def _marked_component(component: ComponentReport) -> MarkedComponent:
    tone, sign = {"approved": _GOOD, "refused": _BAD, "waiting": _WAIT}[component.verdict]
    reasons = () if component.verdict == "approved" else tuple(map(_marked, component.reasons))
    return MarkedComponent(tone, sign, str(component), reasons)


def _source_rows(feedback: FeedbackSummary) -> tuple[list[SourceRow], int]:
    """Returns the sources that taught most, and how many others there are."""
    # By name among equals, so that the same report always gives the same page.
    ordered = sorted(feedback.sources.items(), key=lambda source: (-source[1], source[0]))
    largest = ordered[0][1] if ordered else 1
    rows = [
        SourceRow(name, n, round(100 * n / largest, 1), feedback.taught.get(name, ()))
        for name, n in ordered[:_MAX_SOURCES]
    ]
    return rows, len(ordered) - len(rows)


def _steps(report: CycleReport, serving_id: str | None) -> list[Step]:
    task, adapter = shlex.quote(report.task), shlex.quote(report.adapter_id)
    show = Step("See its figures, and when it served", f"smallai adapters show {adapter}")
    # Undoing comes first: somebody who looks for it is in a hurry.
    if serving_id == report.adapter_id:
        before = report.parent_id or below(report.audience)
        back = shlex.quote(report.parent_id or "none")
        undo = Step(
            f"Undo it: let {before} serve again; it takes less than a second",
            f"smallai adapters rollback {task} --to {back}{option_for(report.audience)}",
        )
        return [undo, show]
    remove = Step("Delete it", f"smallai adapters remove {adapter}")
    if report.is_approved:
        return [Step("Let it serve", f"smallai adapters promote {adapter}"), show, remove]
    forced = Step(
        "Let it serve in spite of the refusal; the log will say so", f"smallai adapters promote {adapter} --force"
    )
    return [forced, show, remove]


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
