"""A learning cycle as one HTML file: what got better, what did not, on what evidence, and how to undo it.

Nothing is fetched and nothing runs: the figures are drawn as SVG right here, and the page forbids the rest. Feedback is
hostile text: all of it goes through `_text`.
"""

from __future__ import annotations

import html
import json
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from smallai_assistant.learning.evaluation import SliceReport
from smallai_assistant.learning.report import Change, CycleReport

MAX_TEXT_CHARS = 600
_MAX_SOURCES = 12
_MAX_POINTS = 400  # of the loss curve
_SMOOTHED = 0.1  # share of the steps that a point of the smoothed curve averages

_STYLE = """
:root { color-scheme: light dark; --bg: #fbfbf9; --card: #fff; --ink: #1c1f23; --soft: #626a73; --line: #e2e4e1;
  --before: #8b939c; --after: #2563c9; --band: #2563c926; --good: #1a7f4b; --bad: #b3261e; --wait: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171a; --card: #1d2125; --ink: #e8eaec; --soft: #9aa3ad;
  --line: #32383e; --before: #8b939c; --after: #78a9ff; --band: #78a9ff33; --good: #58c58c; --bad: #ff8a80;
  --wait: #e5b45a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; -webkit-text-size-adjust: 100%; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .4rem 0; }
h2 { font-size: 1.05rem; margin: 0 0 .9rem; }
p { margin: .4rem 0; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .7rem; padding: 1.1rem 1.2rem;
  margin-top: 1rem; }
.soft, th, dt, .axis, .key { color: var(--soft); }
.small, .axis, .key, th { font-size: .84rem; }
.verdict { display: inline-block; padding: .15rem .7rem; border-radius: 1rem; border: 1.5px solid; font-weight: 600; }
.good { color: var(--good); } .bad { color: var(--bad); } .wait { color: var(--wait); }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: -.4rem 0 .8rem; }
.key svg { width: 1.6rem; height: .9rem; vertical-align: -.1rem; margin-right: .3rem; }
.row { display: grid; grid-template-columns: 11rem 1fr 4.6rem; gap: 0 1rem; align-items: center; padding: .3rem 0; }
.row + .row { border-top: 1px solid var(--line); }
.row svg { display: block; width: 100%; height: 2.1rem; overflow: visible; grid-area: 1 / 2; }
.row .points { grid-area: 1 / 3; text-align: right; font-weight: 600; font-variant-numeric: tabular-nums; }
.axis svg { height: 1.2rem; } .axis text { fill: var(--soft); font-size: .78rem; }
svg .grid { stroke: var(--line); } svg .band { stroke: var(--band); stroke-width: 10; stroke-linecap: round; }
svg .link { stroke: var(--after); stroke-width: 2; } svg .after { fill: var(--after); }
svg .before { fill: var(--card); stroke: var(--before); stroke-width: 2; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .35rem .6rem; border-top: 1px solid var(--line); vertical-align: top;
  white-space: nowrap; }
tr:first-child th { border-top: 0; } th { font-weight: 500; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; min-width: 7rem; }
ul { list-style: none; margin: 0; padding: 0; } li { padding: .35rem 0 .35rem 1.6rem; text-indent: -1.6rem; }
li + li { border-top: 1px solid var(--line); } li b { display: inline-block; width: 1.6rem; text-indent: 0; }
.curve { display: grid; grid-template-columns: auto 1fr; gap: .2rem .6rem; }
.curve svg { width: 100%; height: 9rem; display: block; border-bottom: 1px solid var(--line);
  border-left: 1px solid var(--line); overflow: visible; }
.curve div { display: flex; flex-direction: column; justify-content: space-between; text-align: right; }
.curve .steps { grid-column: 2; flex-direction: row; }
polyline { fill: none; vector-effect: non-scaling-stroke; stroke-linejoin: round; }
.raw { stroke: var(--before); stroke-width: 1; opacity: .55; } .mean { stroke: var(--after); stroke-width: 2; }
.change { border-top: 1px solid var(--line); padding: .8rem 0; }
.change:first-of-type { border-top: 0; padding-top: 0; } .change:last-child { padding-bottom: 0; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: .6rem; margin-top: .5rem; }
.side { border: 1px solid var(--line); border-left: 3px solid var(--before); border-radius: .4rem;
  padding: .5rem .7rem; }
.side + .side { border-left-color: var(--after); }
.said { white-space: pre-wrap; } .label { display: block; color: var(--soft); font-size: .8rem; }
.bar { height: .7rem; background: var(--after); border-radius: .35rem; min-width: 2px; }
.bars { display: grid; grid-template-columns: minmax(5rem, 11rem) 1fr auto; gap: .45rem 1rem; align-items: center; }
.bars span:nth-child(3n) { text-align: right; font-variant-numeric: tabular-nums; }
dl { display: grid; grid-template-columns: 8.5rem 1fr; gap: .35rem 1rem; margin: 0; } dd { margin: 0; }
code, pre { font: .86rem/1.5 ui-monospace, monospace; } pre { background: var(--bg); border: 1px solid var(--line);
  border-radius: .4rem; padding: .6rem .8rem; margin: .3rem 0 .8rem; white-space: pre-wrap; }
@media (max-width: 38rem) { .row { grid-template-columns: 1fr auto; } .row svg { grid-area: 2 / 1 / 3 / -1; }
  .row .points { grid-area: 1 / 2; }
  .axis > :is(span, b) { display: none; } .sides, dl { grid-template-columns: 1fr; } dl { gap: 0; }
  dd { margin-bottom: .5rem; } section { padding: 1rem .9rem; } }
""".strip()

_OUTCOMES = {
    "promoted": ("good", "✓", "promoted", "It serves now."),
    "approved": ("wait", "●", "approved", "It was approved and does not serve yet."),
    "refused": ("bad", "✕", "refused", "It was refused; nothing was changed."),
}
_FORBID = "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"


def write_page(report: CycleReport, path: Path) -> None:
    """Writes the page.

    Raises:
        OSError: the file cannot be written.
    """
    path.write_text(_page(report), encoding="utf-8", errors="replace")


def _page(report: CycleReport) -> str:
    sections = [
        ("Before and after", _slices(report)),
        ("Why", _reasons(report)),
        ("Answers that changed most", "".join(_change(change) for change in report.changes)),
        ("Loss", _losses(report.losses)),
        ("Where the evidence came from", _screened(report)),
        ("Set aside", _quarantined(report)),
        ("The adapter", _adapter(report)),
        ("How to undo it" if report.is_promoted else "What now", _undo(report)),
    ]
    body = "\n".join(f"<section><h2>{title}</h2>{inner}</section>" for title, inner in sections if inner)
    tone, sign, word, sentence = _OUTCOMES[report.outcome]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_FORBID}">
<meta name="referrer" content="no-referrer">
<title>{_escaped(report.task, 80)}: {word}</title>
<style>
{_STYLE}
</style>
</head>
<body>
<main>
<span class="verdict {tone}">{sign} {word}</span>
<h1>{_text(report.task)}: {_headline(report.slices)}</h1>
<p class="soft">{sentence} {report.n_training:,} new examples learned, {report.n_replay:,} repeated from earlier cycles,
{report.seconds:,.1f} s.</p>
{body}
</main>
</body>
</html>
"""


def _headline(slices: Sequence[SliceReport]) -> str:
    target = next((each for each in slices if each.kind == "target"), None)
    if target is None:
        return "nothing to judge by"
    return f"{target.before:.0%} before, {target.after:.0%} after"


def _slices(report: CycleReport) -> str:
    """A dumbbell a slice: before, after, and the interval of the change."""
    if not report.slices:
        return ""
    values = [value for each in report.slices for value in (each.before, each.after)]
    low = max(0.0, int((min(values) - 0.02) * 10) / 10)
    high = min(1.0, int((max(values) + 0.12) * 10) / 10)

    def at(value: float) -> str:
        return f"{100 * (min(max(value, low), high) - low) / (high - low):.2f}%"

    n_steps = round((high - low) * 10)
    ticks = [low + (high - low) * n / n_steps for n in range(0, n_steps + 1, 1 if n_steps <= 4 else 2)]
    grid = "".join(f'<line class="grid" x1="{at(tick)}" x2="{at(tick)}" y1="0" y2="100%"/>' for tick in ticks)
    rows = []
    for each in report.slices:
        word = "should rise" if each.kind == "target" else "must not drop"
        figures = f"{each.before:.1%} before, {each.after:.1%} after"
        rows.append(
            f'<div class="row"><span>{_text(each.name)}<span class="label">{word}, n = {each.n:,}</span></span>'
            f'<b class="points">{100 * each.change:+.1f}</b>'
            f'<svg role="img" aria-label="{figures}">{grid}'
            f"{_level('band', at(each.before + each.low), at(each.before + each.high))}"
            f"{_level('link', at(each.before), at(each.after))}"
            f'<circle class="before" cx="{at(each.before)}" cy="50%" r="5.5"/>'
            f'<circle class="after" cx="{at(each.after)}" cy="50%" r="6"><title>{figures}</title></circle></svg></div>'
        )
    labels = "".join(f'<text x="{at(tick)}" y="90%" text-anchor="middle">{tick:.0%}</text>' for tick in ticks)
    rows.append(f'<div class="row axis"><span></span><b></b><svg aria-hidden="true">{labels}</svg></div>')
    cells = "".join(
        f"<tr><td>{_text(each.name)}</td><td>{each.n:,}</td><td>{each.before:.1%}</td><td>{each.after:.1%}</td>"
        f"<td>{100 * each.change:+.1f}</td><td>{100 * each.low:+.1f} to {100 * each.high:+.1f}</td></tr>"
        for each in report.slices
    )
    was = f"adapter {report.baseline_id}" if report.baseline_id else "the bare base"
    return f"""<div class="key"><span>{_text(report.metric)}, in points</span>
<span><svg><circle class="before" cx="50%" cy="50%" r="5"/></svg>before: {_text(was)}</span>
<span><svg><circle class="after" cx="50%" cy="50%" r="5.5"/></svg>after</span>
<span><svg><line class="band" x1="25%" x2="75%" y1="50%" y2="50%"/></svg>95 % interval of the change</span></div>
{"".join(rows)}
<div class="scroll"><table><tr><th>slice</th><th>n</th><th>before</th><th>after</th><th>points</th>
<th>95 % interval</th></tr>{cells}</table></div>"""


def _level(kind: str, start: str, end: str) -> str:
    return f'<line class="{kind}" x1="{start}" x2="{end}" y1="50%" y2="50%"/>'


def _reasons(report: CycleReport) -> str:
    bad = ("no sure improvement", "a loss on", "not promoted")

    def mark(reason: str) -> str:
        if reason.startswith("the plugin "):
            return '<b class="wait">!</b>'
        return '<b class="bad">✕</b>' if reason.startswith(bad) else '<b class="good">✓</b>'

    items = "".join(f"<li>{mark(reason)}{_text(reason)}</li>" for reason in report.reasons)
    return (
        f"<ul>{items}</ul>"
        '<p class="soft small">It passes where new feedback is answered better beyond doubt, and nothing protected '
        "drops by more than a point.</p>"
    )


def _change(change: Change) -> str:
    tone = "good" if change.gain > 0 else "bad" if change.gain < 0 else "soft"
    return (
        f'<div class="change"><span class="label">{_text(change.slice)} · <b class="{tone}">{100 * change.gain:+.0f} '
        f'points</b></span><div class="said">{_text(change.prompt)}</div>'
        f'<p class="small"><span class="soft">expected</span> <span class="said">{_text(change.expected)}</span></p>'
        f'<div class="sides"><div class="side"><span class="label">before</span>'
        f'<div class="said">{_text(change.before)}</div></div><div class="side"><span class="label">after</span>'
        f'<div class="said">{_text(change.after)}</div></div></div></div>'
    )


def _losses(losses: Sequence[float]) -> str:
    if len(losses) < 2:
        return ""
    n_mean = max(1, round(len(losses) * _SMOOTHED))
    smooth = [sum(losses[max(0, n + 1 - n_mean) : n + 1]) / min(n + 1, n_mean) for n in range(len(losses))]
    low, high = min(losses), max(losses)
    span = (high - low) or 1.0

    def line(values: Sequence[float], name: str) -> str:
        step = max(1, len(values) // _MAX_POINTS)
        kept = sorted({*range(0, len(values), step), len(values) - 1})
        points = " ".join(f"{1000 * n / (len(values) - 1):.1f},{100 * (high - values[n]) / span:.2f}" for n in kept)
        return f'<polyline class="{name}" points="{points}"/>'

    return (
        f'<div class="curve"><div class="axis"><span>{high:.3g}</span><span>{low:.3g}</span></div>'
        f'<svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" '
        f'aria-label="from {losses[0]:.3g} to {losses[-1]:.3g} in {len(losses)} steps">'
        f"{line(losses, 'raw')}{line(smooth, 'mean')}</svg>"
        f'<div class="axis steps"><span>step 1</span><span>step {len(losses):,}</span></div></div>'
        f'<p class="soft small">The bold line is the mean of {n_mean:,} steps; it ends at {smooth[-1]:.3g}.</p>'
    )


def _screened(report: CycleReport) -> str:
    if not report.sources:
        return ""
    ordered = sorted(report.sources.items(), key=lambda each: (-each[1], each[0]))
    shown, rest = ordered[:_MAX_SOURCES], ordered[_MAX_SOURCES:]
    most = shown[0][1]
    bars = [_bar(_text(source, 80), n, most) for source, n in shown]
    if rest:
        bars.append(_bar(f'<span class="soft">{len(rest):,} more</span>', sum(n for _, n in rest), most))
    return (
        f'<p class="soft small">{report.n_judged_turns:,} lessons of {len(report.sources):,} sources</p>'
        f'<div class="bars">{"".join(bars)}</div>'
    )


def _bar(label: str, n: int, most: int) -> str:
    width = f"{100 * min(1.0, n / most):.1f}"
    return f'<span>{label}</span><div class="bar" style="width:{width}%"></div><span>{n:,}</span>'


def _quarantined(report: CycleReport) -> str:
    items = (
        f'<li><b class="wait">!</b>{_text(source, 80)}: {n:,} {"row" if n == 1 else "rows"} · {_text(reason)}</li>'
        for source, reason, n in report.quarantined
    )
    return f"<ul>{inner}</ul>" if (inner := "".join(items)) else ""


def _adapter(report: CycleReport) -> str:
    return _facts(
        [
            ("id", f"<code>{_text(report.adapter_id)}</code>"),
            ("served before", f"<code>{_text(report.parent_id or 'the bare base')}</code>"),
            *(
                (f"base: {_text(name, 80)}", f"<code>{_text(_plain(value))}</code>")
                for name, value in report.base.items()
            ),
            ("retired", f"{len(report.retired_ids):,} lessons that it answers by itself left the fast memory"),
        ]
    )


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{value}</dd>' for name, value in facts)}</dl>"


def _undo(report: CycleReport) -> str:
    task, adapter = shlex.quote(report.task), shlex.quote(report.adapter_id)
    if report.is_promoted:
        back = shlex.quote(report.parent_id or "none")
        what = "the bare base" if report.parent_id is None else report.parent_id
        steps = [
            (f"Let {what} serve again; it takes less than a second", f"smallai adapters rollback {task} --to {back}"),
            ("See its figures and where it served", f"smallai adapters show {adapter}"),
        ]
    elif report.is_approved:
        steps = [("Let it serve", f"smallai adapters promote {adapter}")]
    else:
        steps = [
            ("Let it serve in spite of the gate; the log will say so", f"smallai adapters promote {adapter} --force"),
            ("Delete it", f"smallai adapters remove {adapter}"),
        ]
    return "".join(f"<p>{_text(what)}</p><pre>{_text(command)}</pre>" for what, command in steps)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _text(text: str, most: int = MAX_TEXT_CHARS) -> str:
    """Hostile text as HTML, its direction kept to itself."""
    escaped = _escaped(text, most)
    return f"<bdi>{escaped}</bdi>" if escaped.strip() else '<span class="soft">(nothing)</span>'


def _escaped(text: str, most: int) -> str:
    """Shortened, escaped, and without the characters that HTML forbids."""
    shown = text if len(text) <= most else f"{text[:most]}…"
    return html.escape(
        "".join(each if each in "\n\t" or (each >= " " and each != "\x7f") else "\ufffd" for each in shown)
    )
