# SPDX-License-Identifier: Apache-2.0
"""Java properties files, which Sweet Home 3D catalogues are described in."""

import re

_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
# The first separator that no back slash escapes: `=`, `:` or white space, with white space around.
_SEPARATOR = re.compile(r"(?<!\\)(?:\\\\)*(\s*[=:]\s*|\s+)")
_NAMED = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def parse(data: bytes) -> dict[str, str]:
    r"""Reads a properties file as `java.util.Properties.load` defines it.

    ISO-8859-1 text; `#` and `!` start comment lines; a line that ends in an odd number of back
    slashes goes on in the next one, whose leading white space is dropped; `\uXXXX`, `\t`, `\n`,
    `\r` and `\f` are characters, any other escaped character is itself. A later key wins.

    Args:
      data: the file's bytes.

    Returns:
      Key -> value, both unescaped.
    """
    entries: dict[str, str] = {}
    pending: list[str] = []  # joined at the end only: a line may go on a million times
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
    """Splits a logical line at its separator and stores it."""
    separator = _SEPARATOR.search(line)
    start, end = separator.span(1) if separator else (len(line), len(line))
    entries[_unescape(line[:start])] = _unescape(line[end:])


def _unescape(text: str) -> str:
    """Replaces escapes by what they stand for."""

    def character(match: re.Match[str]) -> str:
        body = match[1]
        return chr(int(body[1:], 16)) if len(body) == 5 else _NAMED.get(body, body)

    return _ESCAPE.sub(character, text)
