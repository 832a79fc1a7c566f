"""What one process writes is known to every other at its next answer; its own writes cause no rebuild."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.damage import run_sql
from support.echo_learner import Echo, correct, open_echo
from support.scripted_learner import NAME, UNKNOWN, Dictionary, ask, open_assistant, questions

from smallai_assistant import Assistant, Feedback, JudgedTurn, errors
from smallai_assistant.learning.feedback_service import SUPERSEDED


class Counting(Dictionary):
    """Counts its rebuilds, and fails if a test says so."""

    n_rebuilt = 0
    fails = False

    def rebuild(self, judged_turns: Sequence[JudgedTurn]) -> None:
        self.n_rebuilt += 1
        if self.fails:
            raise RuntimeError("broken")
        super().rebuild(judged_turns)


@pytest.fixture
def task() -> Counting:
    return Counting()


@pytest.fixture
def other(tmp_path: Path, opened: Assistant) -> Iterator[Assistant]:
    """A second assistant on the same data."""
    with open_assistant(tmp_path, Counting()) as second:
        yield second


# -- own and foreign writes --


def test_own_writes_cause_no_rebuild(opened: Assistant, task: Counting) -> None:
    for word in ("tea", "milk", "rye"):
        opened.teach(NAME, f"what is {word}", f"it is {word}")
        assert ask(opened, f"what is {word}") == f"it is {word}"
    assert task.n_rebuilt == 1  # at the start


def test_a_foreign_write_is_known_at_the_next_answer(opened: Assistant, other: Assistant, task: Counting) -> None:
    assert ask(opened, "what is tea") == UNKNOWN
    given = other.teach(NAME, "what is tea", "a drink").feedback
    assert ask(opened, "what is tea") == "a drink"
    assert task.n_rebuilt == 2
    assert ask(opened, "what is tea") == "a drink"
    assert task.n_rebuilt == 2
    other.undo_feedback(given.id)
    assert ask(opened, "what is tea") == UNKNOWN


def test_a_foreign_write_between_own_ones_is_not_missed(opened: Assistant, other: Assistant, task: Counting) -> None:
    opened.teach(NAME, "what is tea", "a drink")
    other.teach(NAME, "what is rye", "a grain")
    opened.teach(NAME, "what is oak", "a tree")
    assert [ask(opened, f"what is {word}") for word in ("tea", "rye", "oak")] == ["a drink", "a grain", "a tree"]
    assert task.n_rebuilt == 2
    assert [ask(other, f"what is {word}") for word in ("tea", "rye", "oak")] == ["a drink", "a grain", "a tree"]


def test_a_foreign_import_and_promotion_are_known(opened: Assistant, other: Assistant, tmp_path: Path) -> None:
    for question in questions("tea"):
        other.teach(NAME, question, "a drink")
    other.teach(NAME, "what is rye", "a grain")
    other.export_feedback(tmp_path / "file")
    assert ask(opened, "what is rye") == "a grain"
    fourth = open_assistant(tmp_path / "elsewhere", Counting())
    with fourth:
        fifth = open_assistant(tmp_path / "elsewhere", Counting())
        with fifth:
            fifth.import_feedback(tmp_path / "file")
        assert ask(fourth, "what is rye") == "a grain"


def test_threads_that_ask_and_teach_rebuild_seldom(opened: Assistant, task: Counting) -> None:
    def work(name: str) -> None:
        for n in range(10):
            opened.teach(NAME, f"what is {name}{n}", f"{name}-{n}")
            assert ask(opened, f"what is {name}{n}") == f"{name}-{n}"

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Two words of one moment may come in the other order; the next answer then rebuilds.
    assert task.n_rebuilt <= 41
    assert [ask(opened, f"what is {name}9") for name in "abcd"] == [f"{name}-9" for name in "abcd"]


CHILD = """
import sys
sys.path[:0] = ["tests", "."]
from pathlib import Path
from support.scripted_learner import NAME, ask, open_assistant
with open_assistant(Path(sys.argv[1])) as assistant:
    session = assistant.session("ada")
    print("ready", flush=True)
    for line in sys.stdin:
        if line.startswith("say "):
            session.send(line[4:].strip(), task=NAME).turn
            print(len(session.history), flush=True)
        else:
            response = session.send(line.strip(), task=NAME)
            print(response.text.strip(), "|", *(turn.request.text for turn in session.history[:-1]), flush=True)
"""


def test_an_erasure_reaches_another_process(opened: Assistant, tmp_path: Path) -> None:
    secret = opened.teach(NAME, "what is the code", "SECRET-555").feedback
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None

        def tell(line: str) -> str:
            child.stdin.write(f"{line}\n")  # type: ignore[union-attr]
            child.stdin.flush()  # type: ignore[union-attr]
            return child.stdout.readline().strip()  # type: ignore[union-attr]

        assert child.stdout.readline() == "ready\n"
        assert tell("tell me the code") == "SECRET-555 |"
        assert tell("say my number is SECRET-777") == "2"
        opened.erase_feedback([secret.id])
        assert tell("give me the code") == f"{UNKNOWN} | tell me the code my number is SECRET-777"
        [spoken] = [turn for turn in opened.store.turns(None) if "777" in turn.request.text]
        opened.erase_turns([spoken.id])
        # Neither the memory nor the history of the conversation that is open there has it.
        assert tell("and now the code") == f"{UNKNOWN} | tell me the code give me the code"
        opened.teach(NAME, "what is the code", "nobody knows")
        assert tell("once more the code").startswith("nobody knows |")
        child.stdin.close()


# -- the order of words --


def days_ago(n: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=n)


def test_the_last_word_is_the_one_that_was_said_last(opened: Assistant, task: Counting, tmp_path: Path) -> None:
    turn = opened.ask("what is tea", task=NAME).turn
    opened.give_feedback(Feedback(turn.id, correction="new"))
    late = opened.give_feedback(Feedback(turn.id, correction="old", created_at=days_ago(30)))
    assert late.effect == SUPERSEDED
    assert ask(opened, "what is tea") == "new"
    # About something else, an old word counts at once.
    other = opened.ask("what is rye", task=NAME).turn
    receipt = opened.give_feedback(Feedback(other.id, correction="a grain", created_at=days_ago(60)))
    assert receipt.effect == "rye means 'a grain' from now on."
    assert ask(opened, "what is rye") == "a grain"
    # The same after a restart, and in a learning cycle: all of them read the rows in one order.
    assert [row.feedback.correction for row in opened.feedback.judged_turns(NAME)] == ["a grain", "old", "new"]


def test_an_old_file_does_not_beat_what_was_corrected_since(opened: Assistant, tmp_path: Path) -> None:
    with open_assistant(tmp_path / "elsewhere") as elsewhere:
        turn = elsewhere.ask("what is tea", task=NAME).turn
        elsewhere.give_feedback(Feedback(turn.id, correction="old name", created_at=days_ago(400)))
        elsewhere.export_feedback(tmp_path / "old.jsonl")
    opened.teach(NAME, "what is tea", "new name")
    assert opened.import_feedback(tmp_path / "old.jsonl").n_feedback == 1
    assert ask(opened, "what is tea") == "new name"
    again = opened.import_feedback(tmp_path / "old.jsonl")
    assert (again.n_feedback, again.n_known) == (0, 1)


def test_a_word_from_the_future_is_refused_and_in_a_file_said_now(opened: Assistant, tmp_path: Path) -> None:
    turn = opened.ask("what is tea", task=NAME).turn
    for days in (-3650.0, 36_500.0):
        with pytest.raises(errors.InvalidInput, match=r"in the future|before 1970"):
            opened.give_feedback(Feedback(turn.id, correction="x", created_at=days_ago(days)))
    opened.give_feedback(Feedback(turn.id, correction="file"))
    opened.export_feedback(tmp_path / "file")
    text = (tmp_path / "file").read_text()
    year = str(datetime.now(UTC).year)
    (tmp_path / "file").write_text(text.replace(f'"created_at": "{year}', '"created_at": "2926'))
    with open_assistant(tmp_path / "elsewhere") as elsewhere:
        done = elsewhere.import_feedback(tmp_path / "file")
        assert (done.n_feedback, done.n_ahead) == (1, 1)
        elsewhere.teach(NAME, "what is tea", "later")
        assert ask(elsewhere, "what is tea") == "later"


# -- faults --


def test_a_task_that_may_know_what_was_erased_does_not_answer(opened: Assistant, task: Counting) -> None:
    secret = opened.teach(NAME, "what is tea", "SECRET").feedback
    task.fails = True
    assert [notice.code for notice in opened.erase_feedback([secret.id]).notices] == ["not_forgotten_yet"]
    with pytest.raises(errors.PluginError, match="could not rebuild its memory after an erasure"):
        ask(opened, "what is tea")
    task.fails = False
    assert ask(opened, "what is tea") == UNKNOWN


def test_a_foreign_write_and_a_failing_rebuild_still_answer(
    opened: Assistant, other: Assistant, task: Counting
) -> None:
    opened.teach(NAME, "what is rye", "a grain")
    task.fails = True
    other.teach(NAME, "what is tea", "a drink")
    assert ask(opened, "what is rye") == "a grain"
    assert "RuntimeError" in opened.broken_plugins[NAME]


def test_a_counter_is_shared_by_long_names_of_tasks(tmp_path: Path) -> None:
    first, second = Echo(), Echo()
    first.name, second.name = "e" * 50, "e" * 50 + "x"  # type: ignore[misc]
    with open_echo(tmp_path, first, second) as own:
        turn = own.ask("hi", task=first.name).turn
        own.give_feedback(Feedback(turn.id, correction="HI"))
        assert own.ask("hi", task=second.name).text == "hi"  # a needless rebuild, and nothing else
        assert own.ask("hi", task=first.name).text == "HI"


def test_a_lost_counter_costs_a_rebuild(tmp_path: Path) -> None:
    with open_echo(tmp_path) as own:
        correct(own, 3)
        run_sql(tmp_path / "smallai.sqlite", "UPDATE meta SET value = '0' WHERE key LIKE 'feedback_revision%'")
        assert own.ask("say 1", task="echo").text == "SAY 1"
        correct(own, 1, first=7)
        assert own.ask("say 7", task="echo").text == "SAY 7"
