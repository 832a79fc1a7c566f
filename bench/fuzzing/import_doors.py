"""The doors of imported files: feedback, items, interactions. What is stored is read back, as other commands do."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa

from bench.fuzzing.door import Door, scratch
from bench.fuzzing.mutations import dump, integer, mutate_bytes, mutate_json, text
from smallai_assistant.cli.imports import import_interactions, import_items
from smallai_assistant.storage.database import Database
from smallai_assistant.storage.feedback_store import FeedbackStore
from smallai_assistant.storage.feedback_transfer import FeedbackTransfer, Transfer
from smallai_assistant.storage.item_store import ItemStore
from smallai_assistant.storage.schema import feedback, interactions, items, sessions, turns
from smallai_assistant.storage.turn_store import TurnStore

_PICTURE = b"\x89PNG" + bytes(range(64))
_DIGEST = hashlib.sha256(_PICTURE).hexdigest()


def _turn(number: int, parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"t{number}",
        "session_id": "s",
        "user_id": "ann",
        "task": "echo",
        "role": "user",
        "request": parts,
        "response": [{"type": "text", "text": "an answer"}, {"type": "label", "label": "cat", "id": 3, "score": 0.5}],
        "created_at": f"2026-01-0{number}T10:00:00+00:00",
        "model": "m",
        "adapter": None,
        "notices": [["cpu_fallback", "The CPU is used."]],
        "details": {"language": "en", "n_prompt_tokens": 7},
        "timings": {"total_s": 0.5},
        "error": None,
    }


class _Database(Door):
    """A door whose input is stored."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.database = Database(folder / "data")
        self._n_runs = 0

    def close(self) -> None:
        self.database.close()

    def empty(self) -> None:
        """Forgets what was stored, so that each input finds the same."""
        with self.database.write() as connection:
            for one in (feedback, turns, sessions, items, interactions):
                connection.execute(sa.delete(one))


class FeedbackImport(_Database):
    """`smallai feedback import`."""

    name = "feedback"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._turns = TurnStore(self.database, folder / "data" / "media")
        self._feedback = FeedbackStore(self.database, self._turns)
        self._transfer = FeedbackTransfer(self.database, folder / "data" / "media")
        self._rows = self._exported()

    def _exported(self) -> list[dict[str, Any]]:
        """The lines of an export, as this version writes them."""
        from smallai_assistant.feedback import Feedback
        from smallai_assistant.storage.feedback_file import header
        from smallai_assistant.storage.feedback_store import feedback_to_json

        texts = [
            _turn(1, [{"type": "text", "text": "hello"}]),
            _turn(2, [{"type": "image", "path": None, "media": _DIGEST}]),
        ]
        told: list[dict[str, Any]] = [
            {"is_good": False, "correction": "no", "comment": "why"},
            {"signal": "stars", "value": 2.0, "item": "x", "key": "k", "source": "bob"},
        ]
        rows = [{**header(), "created_at": "2026-01-01T00:00:00+00:00"}]
        rows.append({"media": _DIGEST, "data": base64.b64encode(_PICTURE).decode()})
        for number, (turn, said) in enumerate(zip(texts, told, strict=True)):
            given = feedback_to_json(Feedback(turn["id"], **said))
            given |= {"id": f"f{number}", "created_at": "2026-01-03T10:00:00+00:00"}
            rows.append({"feedback": given, "state": "active", "turn": turn})
        return rows

    def samples(self) -> list[bytes]:
        return [b"\n".join(json.dumps(row).encode() for row in self._rows)]

    def make(self, rng: Random) -> bytes:
        rows = list(self._rows)
        at = rng.randrange(len(rows)) if rng.random() < 0.15 else rng.randrange(2, len(rows))
        if rng.random() < 0.85:
            rows[at] = mutate_json(rng, rows[at])
        lines = [dump(rng, row) for row in rows]
        if rng.random() < 0.25:
            at = rng.randrange(len(lines))
            lines[at] = mutate_bytes(rng, lines[at], lines)
        if rng.random() < 0.1:
            lines.insert(rng.randrange(len(lines) + 1), lines[rng.randrange(len(lines))])
        return rng.choice((b"\n", b"\n", b"\r\n", b"\n\n")).join(lines)

    def enter(self, case: bytes) -> None:
        path = scratch(self.folder, "file.jsonl", case)
        try:
            self._transfer.import_from(path)
            # What was taken must be readable by all that reads it.
            exported = list(self._transfer.lines(Transfer()))
            for row in self._feedback.judged_turns("echo"):
                row.feedback  # noqa: B018
            for session in self._turns.session_list():
                self._turns.turns(session["id"])
            if len(exported) < 2:
                raise AssertionError("what was imported is not exported")
        finally:
            self.empty()


class _Screen(SimpleNamespace):
    """Takes what a command says."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


class _Table(_Database):
    """A door of rows as CSV or JSONL."""

    columns: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._items = ItemStore(self.database)

    @contextmanager
    def _assistant(self) -> Iterator[Any]:
        yield SimpleNamespace(items=self._items)

    def samples(self) -> list[tuple[str, bytes, str | None]]:
        return [("x.csv", self._csv(self.values, ","), None), ("x.jsonl", self._jsonl(list(self.values)), None)]

    def _csv(self, rows: Any, delimiter: str) -> bytes:
        lines = [delimiter.join(self.columns), *(delimiter.join(f'"{cell}"' for cell in row) for row in rows)]
        return "\n".join(lines).encode("utf-8", "surrogatepass")

    def _jsonl(self, rows: Any) -> bytes:
        return b"\n".join(json.dumps(dict(zip(self.columns, row, strict=True))).encode() for row in rows)

    def make(self, rng: Random) -> tuple[str, bytes, str | None]:
        scale = rng.choice((None, None, None, "1-5", "0-10", "x", "5-1", "nan-inf", text(rng)))
        rows = [list(row) for row in self.values]
        if rng.random() < 0.5:
            trees = [dict(zip(self.columns, row, strict=True)) for row in rows]
            if rng.random() < 0.9:
                at = rng.randrange(len(trees))
                trees[at] = mutate_json(rng, trees[at])
            data = b"\n".join(dump(rng, tree) for tree in trees)
            name = "x.jsonl"
        else:
            for _ in range(rng.choice((0, 1, 1, 2))):
                row = rng.choice(rows)
                row[rng.randrange(len(row))] = rng.choice((text(rng), integer(rng), rng.random(), "1e309", "-5", ""))
            data = self._csv(rows, rng.choice(",;\t|"))
            name = rng.choice(("x.csv", "x.csv", "x", "x.inter", "x.item", "x.tsv"))
        if rng.random() < 0.3:
            data = mutate_bytes(rng, data, [data])
        return name, data, scale

    def command(self, context: Any) -> int:
        raise NotImplementedError

    def enter(self, case: tuple[str, bytes, str | None]) -> None:
        name, data, scale = case
        args = SimpleNamespace(file=str(scratch(self.folder, name, data)), json=True, scale=scale)
        try:
            self.command(SimpleNamespace(args=args, screen=_Screen(), assistant=self._assistant))
            stored = [*self._items.items(), *self._items.interactions()]
            if not stored:
                raise AssertionError("what was imported is not there")
            repr(stored).encode("utf-8")
        finally:
            self.empty()
            Path(args.file).unlink()


class ItemsImport(_Table):
    """`smallai items import`."""

    name = "items"
    columns = ("id", "title", "text", "year")
    values = (("a", "Alien", "In space", 1979), ("b", "Brazil", "A dream", 1985), ("c", "Casablanca", "Rick", 1942))

    def command(self, context: Any) -> int:
        return import_items(context)


class InteractionsImport(_Table):
    """`smallai interactions import`."""

    name = "interactions"
    columns = ("user", "item", "rating", "timestamp")
    values = (("ann", "a", 5, 978300760), ("ann", "b", 1, "2026-01-31T18:00:00"), ("bob", "a", 3, 978300760000))

    def command(self, context: Any) -> int:
        return import_interactions(context)
