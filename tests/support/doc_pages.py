# SPDX-License-Identifier: Apache-2.0
"""Parses the README and the documentation into code blocks, commands, names and links."""

import dataclasses
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
# Packages and folders that the documentation may refer to.
PACKAGES = ("mrd_jax", "data_prep", "configs", "benchmarks")

_FENCE = re.compile(r"^( *)```(.*)\n((?:.*\n)*?)\1```$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced code block of a page.

    Attributes:
      page: path of the page, relative to the repository.
      language: info string of the fence, "" for program output.
      text: text between the fences.
      file: file name on the line before the block, or "".
    """

    page: str
    language: str
    text: str
    file: str

    @property
    def commands(self):
        """Returns the commands, each on one line, without comments."""
        joined = re.sub(r"\\\n\s*", "", self.text)
        return [line.strip() for line in joined.splitlines() if line.strip() and line[0] != "#"]


def name(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page):
    """Yields the fenced code blocks of a page, in order."""
    text = page.read_text("utf-8")
    for match in _FENCE.finditer(text):
        before = text[: match.start()].rstrip().rsplit("\n", 1)[-1]
        file = re.fullmatch(r"`([\w/.-]+)`:", before)
        yield Block(name(page), match[2].strip(), match[3], file[1] if file else "")


def prose(page):
    """Returns the text of a page without its code blocks."""
    return _FENCE.sub("", page.read_text("utf-8"))


def commands():
    """Returns (page, command) for all commands in shell blocks."""
    return [
        (block.page, command)
        for page in PAGES
        for block in blocks(page)
        if block.language == "sh"
        for command in block.commands
    ]


def code(page):
    """Returns the inline code of a page, with whitespace collapsed."""
    return [" ".join(piece.split()) for piece in re.findall(r"`([^`]+)`", prose(page))]


def links(page):
    """Returns the targets of links within the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in targets if "://" not in target]
