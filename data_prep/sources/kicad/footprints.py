# SPDX-License-Identifier: Apache-2.0
"""Descriptions and tags of 3D models, from the footprints that reference them."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

# Descriptions of one model that are kept; models of pin headers have dozens of nearly equal ones.
MAX_DESCRIPTIONS = 4

# A value in quotes, with \" and \\ as escapes, or a word without quotes.
_VALUE = r'(?:"((?:[^"\\]|\\.)*)"|([^\s()"]+))'
_DESCRIPTION = re.compile(rf"\(descr\s+{_VALUE}\)")
_TAGS = re.compile(rf"\(tags\s+{_VALUE}\)")
# The first part is a variable for the folder of the models, such as ${KICAD6_3DMODEL_DIR}.
_MODEL = re.compile(
    r'\(model\s+"?\$\{\w+\}/([^"/\n]+)\.3dshapes/([^"/\n]+?)\.(?:wrl|step|stp)\b', re.IGNORECASE
)
_SOURCE_WORDS = "see|source|from|datasheet|data sheet|cf"
# What cleaning removes, in this order; the last ones are remains of the first.
_REMOVED = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # Addresses, with the brackets within them.
        r"(?:h?ttps?://|www\.)(?:[^\s()]|\([^\s()]*\))*",
        r"\(?\s*\b(?:script[- ]?)?generated (?:with|by|using)\b[^()]*\)?",
        r"\bscript[- ]generated\b",
        rf"\b(?:{_SOURCE_WORDS})\b\s*[:.]?\s*(?=[,;)]|$)",
        r"(?<=\()\s*//\s*",
        r"\(\s*[,;:.]*\s*\)",
        r"\(\s*$",
    )
)
_SPACE_BY_MARK = re.compile(r"\s+(?=[,;:.)])|[\s,;:]+(?=\))|(?<=\()[\s,;:]+")
_REPEATED_MARKS = re.compile(r"(?:[,;:]\s*)+([,;:])")


class Texts(NamedTuple):
    """Texts of one model.

    Attributes:
      descriptions: distinct cleaned descriptions, at most `MAX_DESCRIPTIONS`.
      tags: tags of the first footprint that has any, or "".
    """

    descriptions: tuple[str, ...]
    tags: str


def clean(description: str) -> str:
    """Removes addresses, notes of generators, and what they leave behind, from a description."""
    for pattern in _REMOVED:
        description = pattern.sub(" ", description)
    description = _SPACE_BY_MARK.sub("", " ".join(description.split()))
    return _REPEATED_MARKS.sub(r"\1", description).strip(" ,;:-|")


def read(folder: Path) -> dict[tuple[str, str], Texts]:
    """Reads all footprints of a folder of libraries, in alphabetical order.

    Args:
      folder: folder with LIBRARY.pretty/NAME.kicad_mod.

    Returns:
      (library, model) in lower case -> texts, since references differ from the names of files in
      letter case.
    """
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for path in sorted(folder.glob("*.pretty/*.kicad_mod")):
        text = path.read_text("utf-8", errors="replace")
        words = (clean(_value(_DESCRIPTION, text)), " ".join(_value(_TAGS, text).split()))
        for library, model in _MODEL.findall(text):
            found.setdefault((library.lower(), model.lower()), []).append(words)
    return {key: _merge(texts) for key, texts in found.items()}


def missing(texts: Mapping[tuple[str, str], Texts], models: Iterable[tuple[str, str]]) -> int:
    """Returns how many models, (library, name) pairs, no footprint references."""
    return sum((library.lower(), name.lower()) not in texts for library, name in models)


def _merge(texts: Iterable[tuple[str, str]]) -> Texts:
    descriptions = dict.fromkeys(description for description, _ in texts if description)
    tags = next((tags for _, tags in texts if tags), "")
    return Texts(tuple(descriptions)[:MAX_DESCRIPTIONS], tags)


def _value(pattern: re.Pattern[str], text: str) -> str:
    """Returns the first value that a pattern finds, without escapes; "" if there is none."""
    match = pattern.search(text)
    if match is None:
        return ""
    return re.sub(r"\\(.)", r"\1", match[1]) if match[1] is not None else match[2]
