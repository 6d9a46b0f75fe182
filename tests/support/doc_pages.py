# SPDX-License-Identifier: Apache-2.0
"""The README and the pages of the documentation, taken apart: blocks, commands, names and links."""

import dataclasses
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
# Packages and folders of the repository that text may name.
PACKAGES = ("mrd_jax", "data_prep", "configs", "benchmarks")

_FENCE = re.compile(r"^( *)```(.*)\n((?:.*\n)*?)\1```$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
      page: relative to the repository.
      language: as the fence says it, "" for what programs print.
      text: between the fences.
      file: that the line before it names, "" for none.
    """

    page: str
    language: str
    text: str
    file: str

    @property
    def commands(self):
        """Its commands, each on one line; comments are none."""
        joined = re.sub(r"\\\n\s*", "", self.text)
        return [line.strip() for line in joined.splitlines() if line.strip() and line[0] != "#"]


def name(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page):
    """The fenced blocks of a page, in their order."""
    text = page.read_text("utf-8")
    for found in _FENCE.finditer(text):
        before = text[: found.start()].rstrip().rsplit("\n", 1)[-1]
        file = re.fullmatch(r"`([\w/.-]+)`:", before)
        yield Block(name(page), found[2].strip(), found[3], file[1] if file else "")


def prose(page):
    """A page without its blocks."""
    return _FENCE.sub("", page.read_text("utf-8"))


def commands():
    """All (page, command) of shell blocks."""
    return [
        (block.page, command)
        for page in PAGES
        for block in blocks(page)
        if block.language == "sh"
        for command in block.commands
    ]


def code(page):
    """The pieces of prose between backticks, one line each."""
    return [" ".join(piece.split()) for piece in re.findall(r"`([^`]+)`", prose(page))]


def links(page):
    """Targets of links that lead into the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in targets if "://" not in target]
