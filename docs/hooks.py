# SPDX-License-Identifier: Apache-2.0
"""Sections of README.md on the pages of the site, so that they are written once."""

import pathlib
import re

README = pathlib.Path(__file__).parents[1] / "README.md"


def on_page_markdown(markdown: str, **_) -> str:
    """Replaces `--8<-- "README.md:NAME"` by that section, its links as seen from this folder.

    Called by mkdocs for every page.

    Raises:
      KeyError: the README has no such section.
    """
    readme = README.read_text("utf-8")
    marked = r"<!-- --8<-- \[start:(\w+)\] -->\n(.*?)<!-- --8<-- \[end:\1\] -->"
    sections = {found[1]: found[2] for found in re.finditer(marked, readme, re.DOTALL)}
    return re.sub(
        r'^--8<-- "README\.md:(\w+)"$',
        lambda found: sections[found[1]].replace("](docs/", "]("),
        markdown,
        flags=re.MULTILINE,
    )
