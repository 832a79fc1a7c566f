"""The commands of `smallai` with their arguments. Imports nothing heavy, so that `--help` is fast.

`run` of the parsed arguments is `module:function` of the command; the module is imported when the command runs.
"""

from __future__ import annotations

import argparse
from typing import Any

from smallai_assistant.cli.arguments import (
    Parser,
    VersionAction,
    add_command,
    add_group,
    add_task_option,
    common_options,
    labels,
    path,
    whole_number,
)
from smallai_assistant.cli.completion import SHELLS, model_names, offer
from smallai_assistant.cli.learning_parser import ERASED_SHAPE, add_learning_commands


def make_parser() -> Parser:
    """Makes the parser of the command line."""
    common = common_options()
    root = Parser(
        prog="smallai",
        parents=[common],
        description="A private assistant of small models: chat, pictures, speech, recommendations.",
        note="First time here? `smallai models pull starter` gets the models, `smallai chat` starts a conversation, "
        "`smallai demo` shows all tasks.",
    )
    root.add_argument("--version", action=VersionAction, help="print the version and exit")
    commands = root.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    # In the order in which a newcomer needs them; `--help` shows it.
    _add_chat(commands, common)
    _add_ask(commands, common)
    _add_transcribe(commands, common)
    _add_classify(commands, common)
    _add_recommend(commands, common)
    _add_models(commands, common)
    _add_imports(commands, common)
    add_learning_commands(commands, common)
    _add_the_rest(commands, common)
    return root


def _add_chat(commands: Any, common: argparse.ArgumentParser) -> None:
    chat = add_command(
        commands,
        "chat",
        "repl:chat",
        "talk with the assistant",
        common,
        note="Type /help in the conversation to see its commands. A picture or a recording that a message names, or "
        "that is dropped into the terminal, is sent with the message. If standard input is not a terminal, each of its "
        "lines is a message or a command.",
        examples=["smallai chat", "smallai chat --resume", "printf 'Hello\\n/good\\n' | smallai chat"],
    )
    chat.add_argument("--session", metavar="ID", help="continue this conversation; `smallai sessions list` has the ids")
    # --session and --resume are not exclusive: a script may always pass --resume, and --session wins.
    chat.add_argument("--resume", action="store_true", help="continue the latest conversation, of --user if given")
    chat.add_argument(
        "--user", metavar="USER", help="who is talking; recommendations and feedback are kept for each user"
    )
    chat.add_argument(
        "--group", action="append", default=[], metavar="NAME", help="a group that the user belongs to; repeatable"
    )
    add_task_option(chat, "send every message to this task, such as text-generation; without it, the message decides")


def _add_ask(commands: Any, common: argparse.ArgumentParser) -> None:
    ask = add_command(
        commands,
        "ask",
        "one_shot:ask",
        "ask one question and print the answer",
        common,
        examples=[
            'smallai ask "What is the capital of France?"',
            'smallai ask "What is this?" --image photo.jpg',
            "smallai ask - --json < question.txt",
        ],
        json_shape='{"text", "task", "turn_id", "model", "adapter", "notices", "timings"}',
    )
    ask.add_argument("text", metavar="TEXT", help="the question; - reads it from standard input")
    ask.add_argument(
        "--image", type=path, action="append", default=[], metavar="FILE", help="add a picture; repeatable"
    )
    ask.add_argument(
        "--audio", type=path, action="append", default=[], metavar="FILE", help="add a recording; repeatable"
    )
    add_task_option(ask, "the task that answers, such as text-generation; without it, the message decides")
    ask.add_argument("--system", metavar="TEXT", help="system prompt: instructions for the chat model")
    # The task's options check the range, for Python and the configuration too.
    ask.add_argument("--max-tokens", type=int, metavar="N", help="end the answer of the chat model after N tokens")
    ask.add_argument("--user", metavar="USER", help="who asks; recommendations are made for this user")


def _add_transcribe(commands: Any, common: argparse.ArgumentParser) -> None:
    transcribe = add_command(
        commands,
        "transcribe",
        "one_shot:transcribe",
        "transcribe recordings of speech",
        common,
        examples=["smallai transcribe memo.wav", "smallai transcribe lecture.mp3 --srt > lecture.srt"],
        json_shape='{"file", "text", "language", "duration_s", "segments": [{"start_s", "end_s", "text"}]}',
    )
    transcribe.add_argument(
        "files", nargs="+", type=path, metavar="FILE", help="a WAV, FLAC, OGG, MP3, M4A, AAC, MP4 or WebM file"
    )
    transcribe.add_argument("--timestamps", action="store_true", help="print each segment with its start and end time")
    transcribe.add_argument("--srt", action="store_true", help="print subtitles in the SRT format")


def _add_classify(commands: Any, common: argparse.ArgumentParser) -> None:
    classify = add_command(
        commands,
        "classify",
        "one_shot:classify",
        "say what is on pictures",
        common,
        examples=["smallai classify photo.jpg --top 3", "smallai classify photo.jpg --labels cat,dog,bird"],
        json_shape='{"file", "labels": [{"label", "id", "score"}]}; the id of a label from --labels is -1',
    )
    classify.add_argument("files", nargs="+", type=path, metavar="FILE", help="a PNG, JPEG, WebP or GIF file")
    classify.add_argument("--top", type=int, metavar="N", help="print the N most likely labels (default: 5)")
    classify.add_argument(
        "--labels", type=labels, metavar="A,B,...", help="choose among these labels instead of the model's own"
    )
    classify.add_argument("--taught", action="store_true", default=None, help="choose among the labels you taught")


def _add_recommend(commands: Any, common: argparse.ArgumentParser) -> None:
    recommend = add_command(
        commands,
        "recommend",
        "one_shot:recommend",
        "recommend items to users",
        common,
        note="The items come from `smallai items import`, the users' tastes from `smallai interactions import` and "
        "from feedback.",
        examples=["smallai recommend --user ada -k 5", 'smallai recommend --user ada "something about the sea"'],
        json_shape='{"user", "cold_start", "items": [{"id", "title", "score", "why"}]}',
    )
    recommend.add_argument("wish", nargs="?", metavar="WISH", help="what the items should be like, in words")
    recommend.add_argument("--user", action="append", required=True, metavar="USER", help="for whom; repeatable")
    recommend.add_argument("-k", type=int, metavar="N", help="recommend N items")


def _add_models(commands: Any, common: argparse.ArgumentParser) -> None:
    group = add_group(commands, "models", "list, get, check and remove models")
    add_command(
        group, "list", "models:list_models", "list the models of the catalogue and which of them are pulled", common
    )
    pull = add_command(
        group,
        "pull",
        "models:pull",
        "get models",
        common,
        note="Ctrl-C stops the download; the next pull continues it.",
        examples=["smallai models pull starter", "smallai models pull whisper-base", "smallai models pull owner/name"],
        json_shape='{"name", "is_pulled", "was_fetched"}',
    )
    name = pull.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="a model of the catalogue, `starter` (one model for each task), or owner/name of a hub",
    )
    offer(name, model_names)
    pull.add_argument("--small", action="store_true", help="with starter: take the smallest chat model")
    # `from` is a keyword of Python, so that `args.from` is a syntax error.
    pull.add_argument(
        "--from",
        dest="source",
        type=path,
        metavar="PATH",
        help="take the files from this file or folder instead of the network; their hashes are checked all the same",
    )
    verify = add_command(
        group, "verify", "models:verify", "compare the files of pulled models with their hashes", common
    )
    name = verify.add_argument(
        "names", nargs="*", metavar="NAME", help="the models to check (default: all pulled models)"
    )
    offer(name, model_names)
    remove = add_command(group, "remove", "models:remove", "remove models from the disk", common)
    offer(remove.add_argument("names", nargs="+", metavar="NAME", help="the models to remove"), model_names)


def _add_imports(commands: Any, common: argparse.ArgumentParser) -> None:
    for kind, columns in (
        ("items", "columns: id, title and optionally text; all other columns are kept as metadata"),
        ("interactions", "columns: user, item and optionally rating (stars) or weight, and at (or timestamp)"),
    ):
        group = add_group(commands, kind, f"the {kind} that recommendations are made from")
        importer = add_command(
            group,
            "import",
            f"imports:import_{kind}",
            f"import {kind} from CSV or JSONL",
            common,
            description=f"Import {kind} from CSV or JSONL: all lines, or none if one is wrong. "
            f"{columns[0].upper()}{columns[1:]}.",
            examples=[f"smallai {kind} import {kind}.csv"],
            json_shape='{"file", "imported", "kind"}'
            if kind == "items"
            else '{"file", "imported", "kind", "scale": [LOW, HIGH] or null, "for", "against"}',
        )
        # Text and not a path: the command reports a wrong file as it reports a wrong line.
        importer.add_argument("file", metavar="FILE", help="CSV with a header line, or JSONL")
        if kind == "interactions":
            importer.add_argument(
                "--scale",
                metavar="LOW-HIGH",
                help="the worst and the best rating, such as 0-10 (default: what the ratings of the whole file fit)",
            )


def _add_the_rest(commands: Any, common: argparse.ArgumentParser) -> None:
    sessions = add_group(commands, "sessions", "conversations so far")
    listed = add_command(sessions, "list", "info:sessions_list", "list conversations, latest first", common)
    listed.add_argument(
        "--limit", type=whole_number(1, 100_000), default=20, metavar="N", help="list the latest N (default: 20)"
    )
    erase = add_command(
        sessions,
        "erase",
        "erase:session",
        "delete a conversation permanently, with the feedback on it",
        common,
        json_shape=ERASED_SHAPE,
    )
    erase.add_argument("id", metavar="ID", help="the conversation; `smallai sessions list` has the ids")
    why = add_command(
        commands,
        "why",
        "why:why",
        "say what an answer came from",
        common,
        description="Say which feedback an answer used and whose it is, which version answered, and what the model "
        "answers without what was learned.",
        json_shape='{"turn_id", "task", "model", "adapter", "part", "causes": [{"feedback_id", "source", "audience", '
        '"question", "right", "similarity", "verdict", "counts"}], "answer", "bare_answer", '
        '"notices", "audience"}',
    )
    why.add_argument("turn_id", metavar="TURN_ID", help="the `turn_id` of the answer, or `last` for the latest answer")
    why.add_argument("--user", metavar="USER", help="who wants to know (default: the user of the turn)")
    why.add_argument("--group", action="append", default=[], metavar="NAME", help="a group of the user; repeatable")
    users = add_group(commands, "users", "the people who were named with --user")
    add_command(
        users,
        "list",
        "info:users_list",
        "list who asked something, the latest first",
        common,
        json_shape='{"id", "n_turns", "last_at"}',
    )
    forget = add_command(
        users,
        "forget",
        "erase:user",
        "delete everything of a user permanently",
        common,
        note="Turns, conversations, media, feedback and interactions go, and the adapters that learned from them.",
        json_shape=ERASED_SHAPE,
    )
    forget.add_argument("id", metavar="ID", help="the user; `smallai users list` has the ids")
    turns = add_group(commands, "turns", "single questions with their answers")
    listed = add_command(
        turns,
        "list",
        "info:turns_list",
        "list turns, oldest first",
        common,
        json_shape='{"id", "session_id", "user_id", "task", "created_at", "text", "answer"}',
    )
    listed.add_argument("--session", metavar="ID", help="list only the turns of this conversation")
    listed.add_argument(
        "--limit", type=whole_number(1, 100_000), default=20, metavar="N", help="list the latest N (default: 20)"
    )
    erase = add_command(
        turns,
        "erase",
        "erase:turns",
        "delete turns permanently, with the feedback on them",
        common,
        note="A picture or a recording is deleted with the last turn that has it.",
        json_shape=ERASED_SHAPE,
    )
    erase.add_argument("ids", nargs="+", metavar="ID", help="the turns to erase; `smallai turns list` has the ids")
    add_command(
        commands,
        "plugins",
        "info:plugins",
        "list the installed plugins, and what is wrong with those that fail",
        common,
    )
    doctor = add_command(
        commands,
        "doctor",
        "doctor:doctor",
        "check the installation",
        common,
        description="Check the installation: what is there, what is missing, and how to get it. Exit code 1: something "
        "is missing.",
        json_shape='{"name", "status", "text", "hint"}; status is ok, note or missing',
    )
    doctor.add_argument(
        "--repair",
        action="store_true",
        help="first move what cannot be read out of the database, into the folder set_aside of the data directory",
    )
    demo = add_command(
        commands, "demo", "demo:demo", "show the four tasks on sample inputs, in about two minutes", common
    )
    demo.add_argument("--offline", action="store_true", help="do not fetch the sample photo and the sample recording")
    completion = add_command(
        commands,
        "completion",
        "completion:completion",
        "print the code that completes `smallai` in your shell",
        common,
        examples=[
            'eval "$(smallai completion bash)"    # in ~/.bashrc',
            'eval "$(smallai completion zsh)"     # in ~/.zshrc, after compinit',
            "smallai completion fish | source     # in ~/.config/fish/config.fish",
        ],
    )
    completion.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")
