"""`smallai learn`: a learning cycle, with its progress, its verdict and its report."""

from __future__ import annotations

import contextlib
import math
import shlex
import signal
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from smallai_assistant.cli.context import CommandContext, check_writable
from smallai_assistant.cli.learning_status import status
from smallai_assistant.cli.render import Screen, count
from smallai_assistant.cli.streams import end_process
from smallai_assistant.errors import AssistantError, InvalidInput, NotEnoughData
from smallai_assistant.learning.audience_words import option_for
from smallai_assistant.learning.cycle import CycleOptions
from smallai_assistant.learning.learning_job import LearningJob
from smallai_assistant.learning.schedule import learners
from smallai_assistant.validation import EVERYONE

if TYPE_CHECKING:
    from smallai_assistant.assistant import Assistant
    from smallai_assistant.learning.evaluation import SliceReport
    from smallai_assistant.learning.report import CycleReport

# The exit code of a cycle that ran to its end and was refused: a script tells it from a cycle that failed (1).
REFUSED = 3
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_STOPPED = "stopped; what serves is unchanged, the next cycle goes on from the last checkpoint"
# Short enough that the progress bar moves smoothly and Ctrl-C is noticed at once.
_POLL_S = 0.1
# A step in C, such as a batch of training, cannot be interrupted, and an evaluation may take a minute. After this long
# the command ends without it: what serves and the checkpoints are as after a kill.
_STOP_PATIENCE_S = 1.0
# The terminal shows the largest changes only; the page has all of them.
_MAX_CHANGES = 4


def learn(context: CommandContext) -> int:
    """`smallai learn [TASK]`."""
    args, screen = context.args, context.screen
    if args.status:
        return status(context)
    if args.report is not None:
        # Several tasks would write their pages over each other.
        if args.task is None:
            raise InvalidInput("--report needs a TASK", hint="smallai learn TASK --report FILE.html")
        check_writable(args.report)
    options = CycleOptions(
        budget_s=None if args.budget_minutes is None else 60 * args.budget_minutes,
        promote=not args.no_promote,
        rebuild=args.without_erased,
        seed=args.seed,
        trusted=tuple(args.trust),
        audience=args.audience,
    )
    with context.assistant() as assistant:
        if args.task is not None:
            return _cycle(context, assistant, args.task, options)
        find = stale_tasks if args.without_erased else tasks_with_news
        codes = []
        for task in find(assistant, args.audience):
            try:
                codes.append(_cycle(context, assistant, task, options))
            except NotEnoughData as error:
                # Not an error: a nightly job runs this, and a task with little feedback is normal.
                _tell_skipped(context, task, error)
            except AssistantError as error:
                # The other tasks still get their cycles.
                codes.append(context.failed(error, about={"task": task}))
        if not codes and not args.json:
            screen.note(
                "nothing was erased that an adapter learned from" if args.without_erased else "nothing to learn"
            )
    # A failure wins over a refusal, although its code is the smaller one.
    return 1 if any(code not in (0, REFUSED) for code in codes) else max(codes, default=0)


def tasks_with_news(assistant: Assistant, audience: str = EVERYONE) -> list[str]:
    """Returns the tasks that got feedback after their last cycle for the audience."""
    found = []
    for name in learners(assistant.tasks, audience):
        versions = assistant.adapters.versions(name, audience)
        known = assistant.feedback.judged_turns(name)
        # What people taught for themselves may count for everyone, if enough of them say the same.
        judged_turns = [row for row in known if audience in (EVERYONE, row.audience)]
        # A refused version counts, too: without new feedback the next cycle would be refused again.
        if any(
            judged_turn.feedback.may_train
            and (not versions or judged_turn.feedback.created_at > versions[-1].created_at)
            for judged_turn in judged_turns
        ):
            found.append(name)
    return found


def stale_tasks(assistant: Assistant, audience: str = EVERYONE) -> list[str]:
    """Returns the tasks whose champion for the audience learned from feedback that was erased or taken back since."""
    found = []
    for name in learners(assistant.tasks, audience):
        champion = assistant.adapters.champion(name, audience)
        if champion is not None:
            gone = {row.id for row in assistant.feedback.rows(task=name) if row.state != "active"}
            if gone & set(champion.feedback_ids):
                found.append(name)
    return found


def _cycle(context: CommandContext, assistant: Assistant, task: str, options: CycleOptions) -> int:
    """Runs one cycle and shows its report. Returns the exit code."""
    screen = context.screen
    job = assistant.learn_in_background(task, options)
    was_interrupted = _wait(screen, task, job)
    report = job.result()
    if context.args.report is not None:
        write_report_page(assistant, report, context.args.report)
    if context.args.json:
        screen.json(report.to_json())
    else:
        show_report(screen, report)
        if options.rebuild and not report.is_approved:
            screen.note(
                f"the adapter before still serves: smallai adapters promote {report.adapter_id} --force, "
                f"or smallai adapters rollback {task}{option_for(options.audience)} --to none"
            )
    if was_interrupted:
        raise KeyboardInterrupt
    return REFUSED if report.outcome == "refused" else 0


def _wait(screen: Screen, task: str, job: LearningJob) -> bool:
    """Shows the progress of a cycle until it has ended.

    Returns:
        Whether Ctrl-C was pressed too late to stop it.

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
        if not stop(job, patience_s=_STOP_PATIENCE_S):
            screen.note(_STOPPED)
            end_process(INTERRUPTED)
            stop(job)  # this process is another program's, which goes on and needs its files closed
        with contextlib.suppress(AssistantError):
            # It has a result, so it had ended before the stop reached it.
            job.result()
            return True
        screen.note(_STOPPED)
        raise
    finally:
        screen.end_progress()
    return False


def stop(job: LearningJob, *, patience_s: float = math.inf) -> bool:
    """Stops a cycle at its next step and waits for its end, at most `patience_s`. Returns whether it has ended.

    Meanwhile Ctrl-C ends the process at once. That is as safe as a kill: the champion serves, the checkpoint stays.
    """
    deadline = time.monotonic() + patience_s
    # Python sets signal handlers in the main thread only.
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_DFL) if is_main else None
    try:
        job.cancel()
        while job.is_running and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    finally:
        if is_main:
            signal.signal(signal.SIGINT, before)
    return not job.is_running


def show_report(screen: Screen, report: CycleReport) -> None:
    """Prints the verdict, the figures as a table, the reasons, and the answers that changed most."""
    head, *_ = report.summary().splitlines()
    screen.out(head)
    show_figures(screen, report.metric, report.slices)
    for reason in report.reasons:
        # The table has the figures of an approved candidate; the sentences of a refused one say what failed.
        if reason.slice is None or not report.is_approved:
            screen.out(f"  {reason}")
    for line in report.component_lines():
        screen.out(line)
    for change in report.changes[:_MAX_CHANGES]:
        mark = "+" if change.gain > 0 else "-" if change.gain < 0 else " "
        screen.out(f"  {mark} {_shortened(change.prompt)}: {_shortened(change.before)} -> {_shortened(change.after)}")
    for aside in report.feedback.quarantined:
        screen.note(
            f"note: {count(aside.n_rows, 'row')} of {aside.source!r} set aside: {aside.reason}; "
            f"--trust {shlex.quote(aside.source)} takes them"
        )
    if report.feedback.n_personal:
        rows = count(report.feedback.n_personal, "row")
        screen.note(f"note: {rows} for one person or a group stay with them: no shared version learns them")
    training = report.training
    loss = f"loss {training.losses[0]:.3g} to {training.losses[-1]:.3g}, " if training.losses else ""
    tried = f"{count(len(training.trials), 'setting')} tried, " if training.trials else ""
    screen.note(
        f"[{count(report.feedback.n_judged_turns, 'judged turn')}, {count(training.n_new, 'new example')}, "
        f"{training.n_replay:,} repeated, {loss}{tried}{report.seconds:.1f} s]"
    )


def show_figures(screen: Screen, metric: str, slices: Iterable[SliceReport]) -> None:
    """Prints a table with the scores of each slice before and after."""
    rows = [
        [
            found.title,
            str(found.n),
            f"{found.before:.1%}",
            f"{found.after:.1%}",
            f"{100 * found.change:+.1f}",
            f"{100 * found.low:+.1f} to {100 * found.high:+.1f}",
        ]
        for found in slices
    ]
    screen.table([metric, "n", "before", "after", "points", "95 % interval"], rows)


def write_report_page(assistant: Assistant, report: CycleReport, path: Path) -> None:
    """Writes the report as an HTML page.

    Raises:
        InvalidInput: the file cannot be written.
    """
    from smallai_assistant.learning.report_html import write_page

    serving_id = assistant.adapters.champion_id(report.task, report.audience)
    try:
        write_page(report, path, media_dir=assistant.store.media_dir, serving_id=serving_id)
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}", hint="give a file you may write") from error


def _tell_skipped(context: CommandContext, task: str, error: NotEnoughData) -> None:
    if context.args.json:
        context.screen.json({"task": task, "outcome": "skipped", "reason": error.message})
    else:
        context.screen.note(f"skipped: {error}")


def _shortened(text: str, width: int = 40) -> str:
    text = " ".join(text.split()) or "(nothing)"
    return text if len(text) <= width else f"{text[: width - 3]}..."
