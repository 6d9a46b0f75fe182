# SPDX-License-Identifier: Apache-2.0
"""Java properties files, the format of Sweet Home 3D catalogues."""

import re

_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
# The first unescaped separator: `=` or `:` with surrounding white space, or white space.
_SEPARATOR = re.compile(r"(?<!\\)(?:\\\\)*(\s*[=:]\s*|\s+)")
_NAMED = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def parse(data: bytes) -> dict[str, str]:
    r"""Parses a properties file as `java.util.Properties.load` does.

    The text is ISO-8859-1. `#` and `!` start comment lines. A line that ends in an odd number of
    backslashes continues on the next line, whose leading white space is dropped. `\uXXXX`, `\t`,
    `\n`, `\r` and `\f` are escapes; any other escaped character stands for itself. The last of
    several equal keys wins.

    Args:
      data: content of the file.

    Returns:
      Key -> value, both unescaped.
    """
    entries: dict[str, str] = {}
    pending: list[str] = []  # joined once, since a line may have a million continuations
    for line in re.split(r"\r\n|\r|\n", data.decode("iso-8859-1")):
        line = line.lstrip(" \t\f")
        if not pending and (not line or line[0] in "#!"):
            continue
        if (len(line) - len(line.rstrip("\\"))) % 2:
            pending.append(line[:-1])
            continue
        _add(entries, "".join([*pending, line]))
        pending = []
    if pending:
        _add(entries, "".join(pending))
    return entries


def _add(entries: dict[str, str], line: str) -> None:
    """Splits a logical line at its separator and adds the pair to `entries`."""
    separator = _SEPARATOR.search(line)
    start, end = separator.span(1) if separator else (len(line), len(line))
    entries[_unescape(line[:start])] = _unescape(line[end:])


def _unescape(text: str) -> str:
    """Replaces escape sequences by the characters that they denote."""

    def character(match: re.Match[str]) -> str:
        body = match[1]
        return chr(int(body[1:], 16)) if len(body) == 5 else _NAMED.get(body, body)

    return _ESCAPE.sub(character, text)
