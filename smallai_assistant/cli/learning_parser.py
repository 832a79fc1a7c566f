"""The commands of `smallai` that give feedback and learn from it, with their arguments."""

from __future__ import annotations

import argparse
from typing import Any

from smallai_assistant.cli.arguments import (
    add_command,
    add_group,
    add_task_option,
    minutes,
    path,
    real,
    whole_number,
)
from smallai_assistant.cli.completion import offer, task_names
from smallai_assistant.errors import InvalidInput
from smallai_assistant.validation import EVERYONE, canonical_audience

ERASED_SHAPE = (
    '{"erased", "turns", "media", "interactions", "adapters", "champions", "serving", "audiences", "backups", '
    '"notices"}'
)
_FEEDBACK_SHAPE = '{"feedback_id", "turn_id", "task", "is_new", "effect", "notices"}'


# The functions below follow the order of `smallai --help`. A help text is a part of a sentence without a full stop, as
# argparse's own are; docs/generate.py puts all of them into the reference.


def add_learning_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds `feedback`, `teach`, `learn` and `adapters`."""
    _add_feedback(commands, common)
    _add_teach(commands, common)
    _add_learn(commands, common)
    _add_adapters(commands, common)


def _add_feedback(commands: Any, common: argparse.ArgumentParser) -> None:
    group = add_group(commands, "feedback", "give, list, export and erase feedback on answers")
    _add_feedback_add(group, common)
    listed = add_command(group, "list", "feedback:list_feedback", "list feedback, oldest first", common)
    add_task_option(listed, "list only the feedback of this task")
    # A row takes two lines, so that 20 rows fill a large window.
    listed.add_argument(
        "--limit", type=whole_number(1, 1_000_000), default=20, metavar="N", help="list the latest N (default: 20)"
    )
    add_command(group, "stats", "feedback:stats", "count the feedback of each task and source", common)
    export = add_command(
        group,
        "export",
        "transfer:export_feedback",
        "write feedback to a file, with the turns and media it is about",
        common,
        examples=["smallai feedback export feedback.jsonl", "smallai feedback export - --no-media > feedback.jsonl"],
    )
    export.add_argument("file", type=path, metavar="FILE", help="the JSONL file to write; - writes to standard output")
    add_task_option(export, "export only the feedback of this task")
    export.add_argument("--no-media", action="store_true", help="leave out pictures and recordings")
    importer = add_command(
        group, "import", "transfer:import_feedback", "read an exported file: all rows, or none if one is wrong", common
    )
    importer.add_argument("file", type=path, metavar="FILE", help="a file that `smallai feedback export` wrote")
    erase = add_command(
        group,
        "erase",
        "erase:feedback",
        "delete feedback permanently",
        common,
        note="A taught picture or recording is deleted with the last feedback on it. The adapters that learned from "
        "the feedback are deleted, too; the command names them, and what serves instead.",
        json_shape=ERASED_SHAPE,
    )
    erase.add_argument(
        "ids", nargs="+", metavar="ID", help="the feedback to erase; `smallai feedback list` has the ids"
    )
    undo = add_command(
        group, "undo", "feedback:undo", "take feedback back; it stays in the log", common, json_shape=_FEEDBACK_SHAPE
    )
    undo.add_argument("id", metavar="ID", help="the feedback to take back; `smallai feedback list` has the ids")


def _add_feedback_add(group: Any, common: argparse.ArgumentParser) -> None:
    add = add_command(
        group,
        "add",
        "feedback:add",
        "say what an answer was like",
        common,
        examples=[
            'smallai feedback add last --bad --correction "Paris"',
            "smallai feedback add 5f0c1d --signal stars --value 4 --item film-17 --key rating-4711",
        ],
        json_shape=_FEEDBACK_SHAPE,
    )
    add.add_argument("turn_id", metavar="TURN_ID", help="the `turn_id` of the answer, or `last` for the latest answer")
    thumb = add.add_mutually_exclusive_group()
    # None as the default tells "no thumb" from "thumb down".
    thumb.add_argument("--good", dest="is_good", action="store_true", default=None, help="the answer was good")
    thumb.add_argument("--bad", dest="is_good", action="store_false", default=None, help="the answer was bad")
    add.add_argument(
        "--correction", metavar="TEXT", help="the right answer: a text, the label of a picture, a transcript"
    )
    add.add_argument("--comment", default="", metavar="TEXT", help="a remark; it is kept, and nothing learns from it")
    # The values are checked where feedback from Python is checked, so that both get the same message.
    add.add_argument("--signal", metavar="SIGNAL", help="what was done with an item: click, skip, dwell or stars")
    add.add_argument("--value", type=real, metavar="NUMBER", help="of the signal: seconds of dwell, or 1 to 5 stars")
    add.add_argument("--item", metavar="ID", help="the item that the signal is about")
    add.add_argument("--source", metavar="NAME", help="who gives the feedback (default: the user of the turn)")
    _add_audience(add)
    add.add_argument(
        "--no-training", action="store_true", help="use the feedback for the next turn, but in no learning cycle"
    )
    add.add_argument("--key", metavar="KEY", help="idempotency key: feedback with the same key is stored once")


def _add_teach(commands: Any, common: argparse.ArgumentParser) -> None:
    teach = add_command(
        commands,
        "teach",
        "feedback:teach",
        "teach what is on pictures, or what is said in recordings",
        common,
        examples=[
            "smallai teach wombat photo1.jpg photo2.jpg",
            'smallai teach "See you at Beckett\'s on Monday." memo.wav',
        ],
        json_shape='{"file", "feedback_id", "turn_id", "task", "is_new", "effect", "notices"}',
    )
    teach.add_argument("label", metavar="LABEL", help="what is on the pictures, or the words of the recordings")
    teach.add_argument("files", nargs="+", type=path, metavar="FILE", help="a picture or a recording")
    add_task_option(teach, "the task that learns; without it, the file decides")
    teach.add_argument("--source", default="local", metavar="NAME", help="who teaches (default: local)")
    _add_audience(teach)


def _add_audience(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--audience",
        metavar="WHO",
        help="whom it reaches: user (its giver alone), group:NAME, or everyone (default: user if the turn has a user, "
        "else everyone)",
    )


def _add_whose(parser: argparse.ArgumentParser, what: str, *, default: str | None = EVERYONE) -> None:
    kinds = "everyone, user:ID or group:NAME"
    parser.add_argument(
        "--audience",
        type=_audience,
        default=default,
        metavar="WHO",
        help=f"{what}: {kinds}" + (f" (default: {default})" if default else ""),
    )


def _audience(text: str) -> str:
    try:
        return canonical_audience(text)
    except InvalidInput as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _add_learn(commands: Any, common: argparse.ArgumentParser) -> None:
    learn = add_command(
        commands,
        "learn",
        "learn:learn",
        "train on the feedback given so far",
        common,
        description="Train on the feedback given so far, and serve the result if it is better. Exit code 3: the gate "
        "refused the result, and nothing was changed. It is 0 if there is nothing new to learn.",
        note="Ctrl-C stops the training at its next step; the next cycle continues from there.",
        examples=[
            "smallai learn",
            "smallai learn text-generation --budget-minutes 30 --report cycle.html",
            "smallai learn text-generation --without-erased",
            "smallai learn --audience user:ann",
            "smallai learn --status",
        ],
        json_shape='the report: {"task", "adapter_id", "outcome", "reasons", "slices": [{"name", "component", "n", '
        '"before", "after"}], "components": [{"name", "verdict", "is_included", "taken_from", "reasons"}]} and more',
    )
    task = learn.add_argument(
        "task", nargs="?", metavar="TASK", help="the task (default: every task with new feedback)"
    )
    offer(task, task_names)
    learn.add_argument(
        "--status",
        action="store_true",
        help="start nothing: show what serves, the new feedback, how the last cycle ended, and when the next may start",
    )
    _add_whose(learn, "for whom it learns; a version for one person or a group answers them alone")
    learn.add_argument("--budget-minutes", type=minutes, metavar="M", help="end the training after M minutes")
    learn.add_argument(
        "--report", type=path, metavar="FILE.html", help="write a report of the cycle to this page; needs a TASK"
    )
    learn.add_argument(
        "--no-promote", action="store_true", help="stop after the decision of the gate; what serves does not change"
    )
    learn.add_argument(
        "--without-erased",
        action="store_true",
        help="train again from the base model, without feedback that was erased or taken back",
    )
    learn.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="SOURCE",
        help="never set aside the feedback of this source, even if it looks like an attack; repeatable",
    )
    learn.add_argument(
        "--seed",
        type=whole_number(0, 2**31 - 1),
        default=0,
        metavar="N",
        help="random seed of the training (default: 0)",
    )


def _add_adapters(commands: Any, common: argparse.ArgumentParser) -> None:
    group = add_group(commands, "adapters", "list, compare, promote and remove what was learned")
    listed = add_command(
        group, "list", "adapters:list_adapters", "list the versions, oldest first; * marks those that serve", common
    )
    add_task_option(listed, "list only the versions of this task")
    _add_whose(listed, "list only the versions for WHO", default=None)
    show = add_command(
        group, "show", "adapters:show", "show what a version learned from, its figures, and when it served", common
    )
    show.add_argument("id", metavar="ID", help="the version; `smallai adapters list` has the ids")
    show.add_argument("--report", type=path, metavar="FILE.html", help="also write the report of its cycle as a page")
    diff = add_command(group, "diff", "adapters:diff", "show how two versions of a task differ", common)
    diff.add_argument("first", metavar="A", help="a version")
    diff.add_argument("second", metavar="B", help="the version to compare it with")
    promote = add_command(
        group,
        "promote",
        "adapters:promote",
        "let a version serve",
        common,
        json_shape='{"task", "audience", "before", "serves"}',
    )
    promote.add_argument("id", metavar="ID", help="the version")
    promote.add_argument("--force", action="store_true", help="even if the gate refused it; the log says so")
    rollback = add_command(
        group,
        "rollback",
        "adapters:rollback",
        "let the version before the present one serve again",
        common,
        examples=["smallai adapters rollback text-generation", "smallai adapters rollback text-generation --to none"],
        json_shape='{"task", "audience", "before", "serves"}',
    )
    offer(rollback.add_argument("task", metavar="TASK", help="the task"), task_names)
    rollback.add_argument("--to", metavar="ID", help="let this version serve; `none` is no version")
    _add_whose(rollback, "whose version")
    verify = add_command(group, "verify", "adapters:verify", "compare the files of versions with their hashes", common)
    verify.add_argument("ids", nargs="*", metavar="ID", help="the versions to check (default: all)")
    prune = add_command(
        group,
        "prune",
        "adapters:prune",
        "remove old versions beyond the limits of the configuration",
        common,
        note="Refused ones go first, then the oldest. The version that serves, the one that a rollback goes to, the "
        "newest, and what served within the last hour stay.",
        json_shape='{"task", "audience", "removed", "n_bytes_freed", "n_kept", "n_bytes_kept"}',
    )
    offer(
        prune.add_argument("task", nargs="?", metavar="TASK", help="the task (default: every task with versions)"),
        task_names,
    )
    prune.add_argument(
        "--keep",
        type=whole_number(1, 10_000),
        metavar="N",
        help="keep at most N versions of a task (default: learning.max_versions)",
    )
    prune.add_argument(
        "--max-mb",
        type=whole_number(1, 2**40),
        metavar="M",
        help="keep at most M megabytes of a task (default: learning.max_versions_mb)",
    )
    remove = add_command(group, "remove", "adapters:remove", "remove versions that do not serve", common)
    remove.add_argument("ids", nargs="+", metavar="ID", help="the versions to remove")
