# SPDX-License-Identifier: Apache-2.0
"""What an index holds of a shape, and of the teacher that its queries need."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

# Quantisation steps per unit of a coordinate; WebGL reads normalised int16 as -1 to 1.
STEPS = 32_767
# float16 has a relative precision of 2^-11 per component of a row.
_NORM_TOLERANCE = 1e-3


class IndexMismatchError(ValueError):
    """The encoder or teacher is not the one that the index was built with."""


class CorruptIndexError(ValueError):
    """The folder is not a readable index."""


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Teacher that embeds the text and pictures of queries.

    Attributes:
      name: name on the encoder's model card.
      revision: revision of its weights; "" if the data set does not record it.
      place: hub name, or folder relative to the index; "" if unknown.
    """

    name: str
    revision: str = ""
    place: str = ""


@dataclasses.dataclass(frozen=True)
class Origin:
    """State of the files of a shape when they were embedded, see `mrd_jax.search.changes`.

    Attributes:
      checksum: SHA-256 of the content of all files of the shape.
      stamp: checksum of their sizes and times of modification, which is quicker to compute.
      up: vertical axis that the table or the command line states, or "".
      references: paths of the files that the mesh refers to, relative to the folder of the mesh.
      incomplete: whether the mesh refers to files that were missing.
    """

    checksum: str
    stamp: str
    up: str = ""
    references: tuple[str, ...] = ()
    incomplete: bool = False


@dataclasses.dataclass(frozen=True)
class Item:
    """Metadata of a shape; unknown texts are "".

    Attributes:
      id: unique in the index.
      name: name of the shape.
      creator: author of the shape.
      licence: licence of the shape.
      picture: file name of its picture.
      label: class of the shape.
      origin: state of its files; None for shapes of data sets and for embeddings.

    Raises:
      ValueError: `picture` is a path to another folder.
    """

    id: str
    name: str
    creator: str
    licence: str
    picture: str
    label: str = ""
    origin: Origin | None = None

    def __post_init__(self):
        if Path(self.picture).name != self.picture:
            raise ValueError(f"picture is {self.picture!r}; expected a file name without a folder")

    @property
    def title(self) -> str:
        """Returns the name, or the id of a shape without a name."""
        return self.name or self.id

    @property
    def key(self) -> str:
        """Returns the name of the shape in addresses: unlike its number, it never changes."""
        return f"{key_of(self.id):016x}"

    @property
    def folder(self) -> str:
        """Returns the part of the id before the last slash, "" if there is none."""
        return self.id.rpartition("/")[0]

    def to_json(self) -> str:
        """Returns one line of JSON without the fields that have their default values."""
        fields: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }
        if self.origin:
            fields["origin"] = dataclasses.asdict(self.origin)
        return json.dumps(fields, ensure_ascii=False)


def item_from_json(line: str | bytes) -> Item:
    """Returns the item of a line of `Item.to_json`.

    Raises:
      ValueError, TypeError: the line is corrupt.
    """
    fields = json.loads(line)
    if origin := fields.get("origin"):
        fields["origin"] = Origin(**origin | {"references": tuple(origin["references"])})
    return Item(**fields)


def key_of(shape_id: str) -> int:
    """Returns the first 64 bits of the SHA-256 of the id of a shape."""
    return int.from_bytes(hashlib.sha256(shape_id.encode()).digest()[:8], "big")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A shape to write into an index.

    Attributes:
      item: metadata.
      row: embedding [dim], unit norm.
      xyz: [points, 3], -1 to 1.
      rgb: uint8 [points, 3].
      picture: JPEG bytes.
      mesh: reduced mesh or dense point cloud, a glb file, see `mrd_jax.search.display_meshes`; b""
        for none.
    """

    item: Item
    row: np.ndarray
    xyz: np.ndarray
    rgb: np.ndarray
    picture: bytes
    mesh: bytes = b""

    def check(self, *, dim: int, points: int) -> None:
        """Raises ValueError unless the arrays have the shapes and the norm that an index needs."""
        norm = float(np.linalg.norm(np.asarray(self.row, np.float64)))
        if not abs(norm - 1) < _NORM_TOLERANCE:
            raise ValueError(
                f"the embedding of shape {self.item.id!r} has norm {norm:g}; expected 1"
            )
        shapes = [np.shape(array) for array in (self.row, self.xyz, self.rgb)]
        if shapes != [(dim,), (points, 3), (points, 3)]:
            raise ValueError(
                f"the row, xyz and rgb of shape {self.item.id!r} have shapes {shapes}; expected "
                f"[{dim}], [{points}, 3] and [{points}, 3]"
            )
