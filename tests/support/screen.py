"""A terminal that keeps what it shows, for the escape sequences that the program writes."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\x1b\[(\d*)([A-Za-z])|\x1b\[([\d;]*)m|\n|\r|[^\x1b\n\r]+|\x1b")


class FakeScreen:
    """Shows text in a window that scrolls.

    Attributes:
        rows: all rows since the start, those that scrolled away included.
        n_rewritten: how often a row that was shown was written again.
    """

    def __init__(self, columns: int, lines: int) -> None:
        self.columns, self.lines = columns, lines
        self.rows = [""]
        self.n_rewritten = 0
        self._row = self._column = 0

    def write(self, text: str) -> int:
        for match in _TOKEN.finditer(text):
            token = match[0]
            if token == "\n":
                self._row, self._column = self._row + 1, 0  # a terminal's driver adds the carriage return
                if self._row == len(self.rows):
                    self.rows.append("")
            elif token == "\r":
                self._column = 0
            elif match[2] == "A":
                # The cursor stops at the top of the window.
                self._row = max(self._row - int(match[1] or 1), len(self.rows) - self.lines, 0)
            elif match[2] == "K":
                self.rows[self._row] = self.rows[self._row][: self._column]
            elif match[2] == "J":
                self.rows[self._row] = self.rows[self._row][: self._column]
                del self.rows[self._row + 1 :]
            elif token.startswith("\x1b[") and token.endswith("m"):
                pass  # a style
            else:
                assert "\x1b" not in token, f"an unknown sequence in {text!r}"
                row = self.rows[self._row]
                self.n_rewritten += self._column == 0 and bool(row)
                assert self._column + len(token) <= self.columns, f"{token!r} is broken at the edge"
                self.rows[self._row] = (
                    row[: self._column].ljust(self._column) + token + row[self._column + len(token) :]
                )
                self._column += len(token)
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""

    def isatty(self) -> bool:
        return True

    @property
    def encoding(self) -> str:
        return "utf-8"

    @property
    def text(self) -> str:
        """All rows, without spaces at their ends."""
        return "\n".join(row.rstrip() for row in self.rows).rstrip("\n")
