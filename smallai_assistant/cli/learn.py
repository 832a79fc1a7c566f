"""`smallai learn`: a learning cycle, with its progress and its verdict."""

from __future__ import annotations

import contextlib
import shlex
import signal
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from smallai_assistant.cli.context import CommandContext, check_writable
from smallai_assistant.cli.render import Screen, count
from smallai_assistant.errors import AssistantError, InvalidInput, NotEnoughData
from smallai_assistant.learning.learner import LearningJob
from smallai_assistant.learning.preparation import CycleOptions
from smallai_assistant.task import LearningTask

if TYPE_CHECKING:
    from smallai_assistant.assistant import Assistant
    from smallai_assistant.learning.evaluation import SliceReport
    from smallai_assistant.learning.report import CycleReport

REFUSED = 3  # the exit code where a cycle ran and the gate said no
_POLL_S = 0.1
_N_CHANGES = 4


def learn(context: CommandContext) -> int:
    """`smallai learn [TASK]`."""
    args, screen = context.args, context.screen
    if args.report is not None:
        if args.task is None:
            raise InvalidInput("--report needs a TASK", hint="smallai learn TASK --report FILE.html")
        check_writable(args.report)
    options = CycleOptions(
        budget_s=None if args.budget_minutes is None else 60 * args.budget_minutes,
        promote=not args.no_promote,
        rebuild=args.without_erased,
        seed=args.seed,
        trusted=tuple(args.trust),
    )
    with context.assistant() as assistant:
        if args.task is not None:
            return _cycle(context, assistant, args.task, options)
        find = stale_tasks if args.without_erased else tasks_with_news
        codes = []
        for task in find(assistant):
            try:
                codes.append(_cycle(context, assistant, task, options))
            except NotEnoughData as error:  # nothing that whoever learns every night has to look after
                _skipped(context, task, error)
            except AssistantError as error:
                codes.append(context.failed(error, about={"task": task}))
        if not codes and not args.json:
            screen.note(
                "nothing was erased that an adapter learned from" if args.without_erased else "nothing to learn"
            )
    return 1 if any(code not in (0, REFUSED) for code in codes) else max(codes, default=0)


def tasks_with_news(assistant: Assistant) -> list[str]:
    """The tasks that got feedback after their last cycle."""
    found = []
    for name, task in assistant.tasks.items():
        if not isinstance(task, LearningTask):
            continue
        versions = assistant.adapters.versions(name)
        judged_turns = assistant.feedback.judged_turns(name)
        if any(
            judged_turn.feedback.may_train
            and (not versions or judged_turn.feedback.created_at > versions[-1].created_at)
            for judged_turn in judged_turns
        ):
            found.append(name)
    return found


def stale_tasks(assistant: Assistant) -> list[str]:
    """The tasks whose champion learned from what was erased or taken back since."""
    found = []
    for name, task in assistant.tasks.items():
        champion = assistant.adapters.champion(name) if isinstance(task, LearningTask) else None
        if champion is not None:
            gone = {row.id for row in assistant.feedback.rows(task=name) if row.state != "active"}
            if gone & set(champion.feedback_ids):
                found.append(name)
    return found


def _cycle(context: CommandContext, assistant: Assistant, task: str, options: CycleOptions) -> int:
    screen = context.screen
    job = assistant.learn_in_background(task, options)
    was_interrupted = _wait(screen, task, job)
    report = job.result()
    if context.args.report is not None:
        _write_page(report, context.args.report)
    if context.args.json:
        screen.json(report.to_json())
    else:
        show_report(screen, report)
        if options.rebuild and not report.is_approved:
            screen.note(
                f"the adapter before still serves: smallai adapters promote {report.adapter_id} --force, "
                f"or smallai adapters rollback {task} --to none"
            )
    if was_interrupted:
        raise KeyboardInterrupt
    return 0 if report.is_approved else REFUSED


def _wait(screen: Screen, task: str, job: LearningJob) -> bool:
    """Shows how far a cycle is until it has ended. Returns whether Ctrl-C came too late to stop it.

    Raises:
        KeyboardInterrupt: Ctrl-C stopped it.
    """
    try:
        while job.is_running:
            screen.progress(task, job.fraction, label=f"{task}: {job.what}")
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        screen.end_progress()
        screen.note("stopping at the next step; Ctrl-C once more ends at once")
        stop(job)
        with contextlib.suppress(AssistantError):
            job.result()
            return True
        screen.note("stopped; what serves is unchanged, the next cycle goes on from the last checkpoint")
        raise
    finally:
        screen.end_progress()
    return False


def stop(job: LearningJob) -> None:
    """Stops a cycle at its next step and waits for it. Ctrl-C ends the process, which costs no more than a kill."""
    is_ours = threading.current_thread() is threading.main_thread()  # only there can a handler be set
    before = signal.signal(signal.SIGINT, signal.SIG_DFL) if is_ours else None
    try:
        job.cancel()
        while job.is_running:
            time.sleep(_POLL_S)
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, before)


def show_report(screen: Screen, report: CycleReport) -> None:
    """The verdict, the figures behind it as a table, and the answers that changed most."""
    head, *_ = report.summary().splitlines()
    screen.out(head)
    show_figures(screen, report.metric, report.slices)
    # A plugin's word stands before the gate's reasons, which repeat the figures, one a slice.
    why = report.reasons if not report.is_approved else report.reasons[: len(report.reasons) - len(report.slices)]
    for reason in why:
        screen.out(f"  {reason}")
    for change in report.changes[:_N_CHANGES]:
        mark = "+" if change.gain > 0 else "-" if change.gain < 0 else " "
        screen.out(f"  {mark} {_cut(change.prompt)}: {_cut(change.before)} -> {_cut(change.after)}")
    for source, reason, n in report.quarantined:
        screen.note(
            f"note: {count(n, 'row')} of {source!r} set aside: {reason}; --trust {shlex.quote(source)} takes them"
        )
    loss = f"loss {report.losses[0]:.3g} to {report.losses[-1]:.3g}, " if report.losses else ""
    screen.note(
        f"[{count(report.n_judged_turns, 'judged_turn')}, {count(report.n_training, 'new example')}, "
        f"{report.n_replay:,} repeated, {loss}{report.seconds:.1f} s]"
    )


def show_figures(screen: Screen, metric: str, slices: Iterable[SliceReport]) -> None:
    """Each slice before and after."""
    rows = [
        [
            each.name,
            str(each.n),
            f"{each.before:.1%}",
            f"{each.after:.1%}",
            f"{100 * each.change:+.1f}",
            f"{100 * each.low:+.1f} to {100 * each.high:+.1f}",
        ]
        for each in slices
    ]
    screen.table([metric, "n", "before", "after", "points", "95 % interval"], rows)


def _skipped(context: CommandContext, task: str, error: NotEnoughData) -> None:
    if context.args.json:
        context.screen.json({"task": task, "outcome": "skipped", "reason": error.message})
    else:
        context.screen.note(f"skipped: {error}")


def _write_page(report: CycleReport, path: Path) -> None:
    from smallai_assistant.learning.report_html import write_page

    try:
        write_page(report, path)
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}", hint="give a file you may write") from error


def _cut(text: str, width: int = 40) -> str:
    text = " ".join(text.split()) or "(nothing)"
    return text if len(text) <= width else f"{text[: width - 3]}..."
