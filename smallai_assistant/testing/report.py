"""The findings of the kit, and their text for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from smallai_assistant.errors import AssistantError, PluginError

Status = Literal["ok", "failed", "warning", "skipped"]

_MARKS: Mapping[Status, str] = {"ok": "✓", "failed": "✗", "warning": "!", "skipped": "-"}


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        check: the name of the check; docs/plugins.md lists them.
        subject: the name of the task or engine; empty if the check is about the whole plugin.
        status: `ok`; `failed`; `warning` for what works but could be better; `skipped` for what could not be checked.
        text: what is wrong, or why the check was skipped.
        hint: what to do about it.
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
    """The findings about a plugin, in the order of the checks. `str()` gives the list for people."""

    plugin: str
    findings: tuple[Finding, ...]

    @property
    def is_ok(self) -> bool:
        """Whether no check failed. Warnings and skipped checks do not count."""
        return not self.of("failed")

    def of(self, status: Status) -> tuple[Finding, ...]:
        """The findings with that status."""
        return tuple(finding for finding in self.findings if finding.status == status)

    def __str__(self) -> str:
        counts = [f"{len(found)} {status}" for status in _MARKS if (found := self.of(status))]
        return "\n  ".join([self.plugin, *map(str, self.findings)]) + f"\n{', '.join(counts)}"


class Skip(Exception):
    """Raised by a check that cannot be done. Its arguments are the reason, and what to do about it."""


class Notebook:
    """Runs checks and keeps their findings, in order."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    @property
    def has_failed(self) -> bool:
        """Whether any check has failed so far."""
        return any(finding.status == "failed" for finding in self.findings)

    # Checks never raise: a defect of one check, or of the plugin in it, must not hide the findings of the others.
    def check(
        self, name: str, subject: str, find: str | Callable[[], str | None], hint: str, *, fatal: bool = True
    ) -> bool:
        """Does one check and keeps its finding.

        Args:
            find: what is wrong, or a function that returns it; empty if nothing is wrong. What it raises is a problem.
            hint: what to do about it.
            fatal: False makes the problem a warning.

        Returns:
            Whether no problem was found.
        """
        status: Status = "failed" if fatal else "warning"
        try:
            text = find if isinstance(find, str) else find() or ""
        except KeyboardInterrupt:
            raise
        except Skip as skip:  # before BaseException, because a check that cannot be done is not a fault
            (text, hint), status = skip.args, "skipped"
        except BaseException as error:
            # The hint of an error is better than the check's, except that of PluginError, which is for users.
            if isinstance(error, AssistantError) and not isinstance(error, PluginError):
                hint = error.hint or hint
            text, status = described(error), "failed"
        self.findings.append(Finding(name, subject, status, text, hint) if text else Finding(name, subject, "ok"))
        return not text


def described(error: BaseException) -> str:
    """The error's type and message, for people."""
    return f"{type(error).__name__}: {getattr(error, 'message', error)}".strip().rstrip(":")
