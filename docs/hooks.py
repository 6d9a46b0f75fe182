# SPDX-License-Identifier: Apache-2.0
"""MkDocs hook that includes sections of README.md in the pages of the site."""

import pathlib
import re

README = pathlib.Path(__file__).parents[1] / "README.md"


def on_page_markdown(markdown: str, **_) -> str:
    """Replaces `--8<-- "README.md:NAME"` by that section, with links relative to docs/.

    MkDocs calls it for every page.

    Raises:
      KeyError: README.md has no such section.
    """
    readme = README.read_text("utf-8")
    section = r"<!-- --8<-- \[start:(\w+)\] -->\n(.*?)<!-- --8<-- \[end:\1\] -->"
    sections = {match[1]: match[2] for match in re.finditer(section, readme, re.DOTALL)}
    return re.sub(
        r'^--8<-- "README\.md:(\w+)"$',
        lambda match: sections[match[1]].replace("](docs/", "]("),
        markdown,
        flags=re.MULTILINE,
    )
