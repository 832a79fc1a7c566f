"""`smallai why`, `/why`, `/for`, `--audience`, and `smallai users`."""

from __future__ import annotations

from support.command_line import Run

from smallai_assistant import Assistant


def test_why_shows_what_was_used(run: Run, own: Assistant) -> None:
    session = own.session("ann")
    session.send("hello", task="echo").rate(correction="HELLO")
    given = own.feedback.rows()[-1]
    session.send("hello", task="echo").turn  # noqa: B018  (waits until it is stored)
    done = run("why", "last")
    assert (done.code, done.err) == (0, "")
    assert f"“hello” should be “HELLO”: {given.id} of ann, for ann only" in done.out
    assert "Without what was learned: hello" in done.out
    row = run("why", "last", "--json").row
    assert [cause["feedback_id"] for cause in row["causes"]] == [given.id]
    assert "another user" in run("why", "last", "--user", "bob").err


def test_why_says_if_nothing_was_used(run: Run, own: Assistant) -> None:
    own.ask("hello", task="echo").turn  # noqa: B018  (waits until it is stored)
    assert run("why", "last").out.startswith("Nothing that was learned was used")


def test_add_and_list_say_for_whom(run: Run, own: Assistant) -> None:
    turn = own.ask("hello", task="echo", user_id="ann").turn
    done = run("feedback", "add", turn.id, "--correction", "HELLO", "--audience", "group:lab")
    assert done.out.startswith("For the group lab: ")
    assert "for group:lab only" in run("feedback", "list").out
    assert "audience is" in run("feedback", "add", turn.id, "--good", "--audience", "all").err


def test_users_are_listed_and_forgotten(run: Run, own: Assistant) -> None:
    assert "nobody was named yet" in run("users", "list").out
    own.ask("hello", task="echo", user_id="ann").rate(correction="HELLO")
    assert run("users", "list").out.startswith("ann  1 turn")
    assert run("users", "list", "--json").row["id"] == "ann"
    assert run("users", "forget", "ann").out.startswith("erased 1 feedback row, 1 turn")
    assert own.ask("hello", task="echo", user_id="ann").text == "hello"
