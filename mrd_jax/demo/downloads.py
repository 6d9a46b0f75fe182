# SPDX-License-Identifier: Apache-2.0
"""Files of shapes that may be downloaded: only where the licence allows to pass them on."""

import dataclasses
import io
import os
import re
import zipfile
from pathlib import Path

from data_prep.geometry.listing import printable
from mrd_jax.search import entries, file_states, manifest, shape_index

# Beginnings of licences that allow everyone to copy and change a work, in lower case with single
# spaces for everything but letters and digits.
_FREE = re.compile(
    r"(cc ?0|cc zero|public domain|cc by|by( sa)?( \d| )*$|creative commons (0|zero|attribution)"
    r"|mit( licen[cs]e)?$|apache|bsd|[al]?gpl|gnu |free art licen[cs]e)\b"
)
# Words of licences that forbid commercial use or changes.
_RESTRICTED = re.compile(r"\b(nc|nd|non ?commercial|no ?deriv\w*|editorial|all rights reserved)\b")
# Largest sum of the sizes of a mesh and its textures, which are packed in memory.
MAX_PACKED = 64 * 2**20


def is_free(licence: str) -> bool:
    """Returns whether a licence lets the page offer the file of a shape to everyone.

    Args:
      licence: licence as the table of the folder states it, such as "CC BY 4.0"; licences that are
        not known do not.
    """
    words = " ".join(re.findall(r"[a-z0-9]+", licence.lower()))
    return bool(_FREE.match(words)) and not _RESTRICTED.search(words)


@dataclasses.dataclass(frozen=True)
class Download:
    """A file that may be downloaded.

    Attributes:
      name: name of the file.
      size: bytes before packing.
      path: source file; None for the reduced mesh of the index.
      references: files that it refers to, packed with it.
    """

    name: str
    size: int
    path: Path | None = None
    references: tuple[Path, ...] = ()

    def read(self) -> bytes:
        """Returns the content of the source file, as a zip file if there are references.

        Raises:
          OSError: a file has disappeared.
        """
        assert self.path is not None
        if not self.references:
            return self.path.read_bytes()
        files = [self.path, *self.references]
        top = os.path.commonpath([file.parent for file in files])
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, os.path.relpath(file, top))
        return buffer.getvalue()


def find(index: shape_index.ShapeIndex, number: int) -> Download | None:
    """Returns the file of a shape: its source, else its reduced mesh, else None.

    Args:
      index: an open index.
      number: row of the shape in the index.
    """
    item = index.items[number]
    path = _source_path(index, item)
    if path is not None and item.origin is not None:
        references = tuple(
            Path(os.path.normpath(path.parent / name)) for name in item.origin.references
        )
        size = sum(file.stat().st_size for file in (path, *references))
        name = f"{path.stem}.zip" if references else path.name
        if size <= MAX_PACKED:
            return Download(name, size, path, references)
    if size := index.mesh_size(number):
        stem = re.sub(r"[^\w-]+", "_", item.title).strip("_") or item.key
        return Download(f"{stem[:80]}.glb", size)
    return None


def _source_path(index: shape_index.ShapeIndex, item: entries.Item) -> Path | None:
    """Returns the source of a shape if it is here and as it was when it was embedded."""
    if item.origin is None:
        return None
    for source in manifest.read(index.folder).sources:
        prefix = printable(source.given)
        place = Path(os.path.normpath(index.folder / source.place))
        if item.id == prefix:
            path = place
        elif item.id.startswith(f"{prefix}/"):
            path = place / item.id[len(prefix) + 1 :]
        else:
            continue
        try:
            is_inside = path.resolve().is_relative_to(place.resolve())
            stamp = file_states.stamp_of(path, item.origin.references)
        except OSError:
            continue
        if is_inside and stamp == item.origin.stamp:
            return path
    return None
