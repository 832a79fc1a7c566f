"""What the kit found, and how it is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from smallai_assistant.errors import AssistantError, PluginError

Status = Literal["ok", "failed", "warning", "skipped"]

_MARKS: Mapping[Status, str] = {"ok": "✓", "failed": "✗", "warning": "!", "skipped": "-"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found about `subject`: a task, an engine, or where it is empty the whole plugin.

    `status` is `ok`; `failed`; `warning`: works, but worth knowing; or `skipped`: could not be tried. `text` says
    what is wrong or why it was skipped, `hint` what to do about it.
    """

    check: str
    subject: str
    status: Status
    text: str = ""
    hint: str = ""

    def __str__(self) -> str:
        head = f"{_MARKS[self.status]} {self.subject + ': ' if self.subject else ''}{self.check}"
        return "\n      ".join([head, *filter(None, (self.text, self.hint and f"-> {self.hint}"))])


@dataclass(frozen=True, slots=True)
class PluginReport:
    """The findings about a plugin, in the order of the checks; `str()` is the list to read."""

    plugin: str
    findings: tuple[Finding, ...]

    @property
    def is_ok(self) -> bool:
        """Whether nothing failed; warnings and skipped checks do not count."""
        return not self.of("failed")

    def of(self, status: Status) -> tuple[Finding, ...]:
        """The findings of that status."""
        return tuple(finding for finding in self.findings if finding.status == status)

    def __str__(self) -> str:
        counts = [f"{len(found)} {status}" for status in _MARKS if (found := self.of(status))]
        return "\n  ".join([self.plugin, *map(str, self.findings)]) + f"\n{', '.join(counts)}"


class Skip(Exception):
    """The check cannot be tried: why, and what to do about it."""


class Notebook:
    """Runs checks and keeps what each found, in order."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    @property
    def has_failed(self) -> bool:
        """Whether a check failed so far."""
        return any(finding.status == "failed" for finding in self.findings)

    def check(
        self, name: str, subject: str, find: str | Callable[[], str | None], hint: str, *, fatal: bool = True
    ) -> bool:
        """Notes the problem, given or found or raised by finding it; returns whether there is none."""
        status: Status = "failed" if fatal else "warning"
        try:
            text = find if isinstance(find, str) else find() or ""
        except KeyboardInterrupt:
            raise
        except Skip as skip:
            (text, hint), status = skip.args, "skipped"
        except BaseException as error:
            if isinstance(error, AssistantError) and not isinstance(error, PluginError):
                hint = error.hint or hint
            text, status = described(error), "failed"
        self.findings.append(Finding(name, subject, status, text, hint) if text else Finding(name, subject, "ok"))
        return not text


def described(error: BaseException) -> str:
    """Its type and message, for people."""
    return f"{type(error).__name__}: {getattr(error, 'message', error)}".strip().rstrip(":")
