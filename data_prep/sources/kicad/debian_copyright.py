# SPDX-License-Identifier: Apache-2.0
"""Licences and copyright holders by file, from a Debian copyright file (format 1.0)."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Stanza(NamedTuple):
    """Stanza of files with one licence.

    Attributes:
      pattern: matches the paths of its files.
      copyright: years and holders, as the file states them.
      licence: short name of the licence.
    """

    pattern: re.Pattern[str]
    copyright: str
    licence: str


def read(path: Path) -> list[Stanza]:
    """Reads the stanzas of files, in their order.

    Raises:
      ValueError: the file is missing, or has no such stanza.
    """
    if not path.is_file():
        raise ValueError(f"{path}: not found; expected the copyright file of the package")
    stanzas = []
    for block in re.split(r"\n[ \t]*\n", path.read_text("utf-8")):
        fields = _fields(block)
        if {"files", "copyright", "license"} <= fields.keys():
            patterns = "|".join(map(_expression, fields["files"].split()))
            licence = fields["license"].split("\n")[0].strip()
            holders = " ".join(fields["copyright"].split())
            stanzas.append(Stanza(re.compile(patterns), holders, licence))
    if not stanzas:
        raise ValueError(
            f"{path}: no stanza with Files, Copyright and License; expected a Debian copyright "
            "file of format 1.0"
        )
    return stanzas


def find(stanzas: Sequence[Stanza], path: str) -> Stanza | None:
    """Returns the last stanza that matches a path, which is the one that holds; None for none."""
    return next((stanza for stanza in reversed(stanzas) if stanza.pattern.fullmatch(path)), None)


def _fields(block: str) -> dict[str, str]:
    """Returns name in lower case -> value of the fields of a stanza."""
    fields: dict[str, str] = {}
    name = ""
    for line in block.splitlines():
        if line[:1] in (" ", "\t"):
            if name:
                fields[name] += "\n" + line.strip()
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.lower()
            fields[name] = value.strip()
    return fields


def _expression(pattern: str) -> str:
    r"""Returns the regular expression of a pattern: * and ? also match /, and \ escapes."""
    parts = re.findall(r"\\.|.", pattern)
    wild = {"*": ".*", "?": "."}
    return "".join(wild.get(part, re.escape(part[-1])) for part in parts)
