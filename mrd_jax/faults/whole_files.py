# SPDX-License-Identifier: Apache-2.0
"""Small files that are written complete or not at all: a kill may come at any moment."""

from etils import epath


def write_text(path: epath.Path, text: str) -> None:
    """Writes a file beside its place and moves it there; one process at a time does.

    Args:
      path: of the file; what it held before stays until the new text is whole.
      text: to write.
    """
    write_bytes(path, text.encode())


def write_bytes(path: epath.Path, content: bytes) -> None:
    """As `write_text`.

    Args:
      path: of the file.
      content: to write.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
