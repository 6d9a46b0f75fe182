# SPDX-License-Identifier: Apache-2.0
"""Finds the files that the paths of a table mean, although letter case may differ."""

import os
import unicodedata
from pathlib import Path


class PathMatcher:
    """Corrects paths below a folder that were written where letter case does not matter.

    Args:
      root: folder that the paths are relative to.
    """

    def __init__(self, root: Path):
        self._root = root
        # Folder -> name in one case -> names of the entries.
        self._names: dict[str, dict[str, list[str]]] = {}

    def match(self, path: str) -> str:
        """Returns the path as it is on disk; unchanged if no file matches, or several do.

        Case and the form of accents (composed or decomposed) may differ.

        Args:
          path: path relative to the folder, normalised by `archives.safe_path`.
        """
        if os.path.lexists(self._root / path):
            return path
        found = ""
        for part in path.split("/"):
            names = self._entries(found).get(_fold(part), [])
            name = part if part in names else names[0] if len(names) == 1 else None
            if name is None:
                return path
            found = f"{found}/{name}" if found else name
        return found

    def _entries(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._names:
            names: dict[str, list[str]] = {}
            try:
                for name in os.listdir(self._root / folder):
                    names.setdefault(_fold(name), []).append(name)
            except OSError:
                pass  # a file, or a folder that cannot be read: nothing matches
            self._names[folder] = names
        return self._names[folder]


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
