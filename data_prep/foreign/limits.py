# SPDX-License-Identifier: Apache-2.0
"""Limits on the content of untrusted files.

A few bytes can declare a billion points, pixels or files. Every reader of `data_prep` compares the
declared and the actual sizes with these limits before it allocates memory. An environment variable,
which the error message names, raises a limit for trusted files and machines with enough memory.
"""

import dataclasses
import os
import stat
from pathlib import Path


class LimitError(ValueError):
    """Raised for a file that exceeds a limit; the message has the size, the limit and a remedy."""


@dataclasses.dataclass(frozen=True)
class Limit:
    """Largest allowed count of something.

    Attributes:
      default: largest count, unless the environment variable is set.
      unit: what is counted.
      variable: environment variable that replaces the default.
    """

    default: int
    unit: str
    variable: str

    def maximum(self) -> int:
        """Returns the largest allowed count.

        Raises:
          ValueError: the environment variable is not a positive integer.
        """
        text = os.environ.get(self.variable)
        if text is None:
            return self.default
        if not text.isascii() or not text.isdigit() or not 0 < int(text[:18]) or len(text) > 18:
            raise ValueError(f"{self.variable} is {text!r}; expected a positive integer")
        return int(text)

    def check(self, found: int) -> None:
        """Compares a count with the limit.

        Raises:
          LimitError: the count exceeds the limit.
        """
        maximum = self.maximum()
        if found > maximum:
            raise LimitError(
                f"too large: {found} {self.unit}, at most {maximum} are read; make it smaller, or "
                f"set {self.variable}={found} if you trust it and have the memory"
            )


# Size of a file. A mesh takes ten to twenty times its size in memory while it is read (measured on
# spheres of 327,680 faces: PLY as text 19, GLB 11, OBJ 8), so a file at the limit takes 5 to 10 GB.
FILE_BYTES = Limit(512 * 2**20, "bytes", "MRD_MAX_FILE_BYTES")
# Unpacked size of a member of an archive. The largest in the Sweet Home 3D catalogues has 9 MB.
MEMBER_BYTES = Limit(256 * 2**20, "unpacked bytes", "MRD_MAX_MEMBER_BYTES")
# Members of an archive. The largest Sweet Home 3D catalogue has a few thousand.
MEMBERS = Limit(100_000, "members", "MRD_MAX_MEMBERS")
# Total size of the files that a mesh refers to: materials, textures, buffers.
ASSET_BYTES = Limit(2**30, "bytes of referenced files", "MRD_MAX_ASSET_BYTES")
# Size of an array, or of all arrays of a glTF file: 40 million coloured points in float64.
ARRAY_BYTES = Limit(2 * 2**30, "bytes of arrays", "MRD_MAX_ARRAY_BYTES")
# Faces and vertices of a scene. A face takes 800 bytes until it is rendered (same spheres).
FACES = Limit(10_000_000, "faces", "MRD_MAX_FACES")
VERTICES = Limit(10_000_000, "vertices", "MRD_MAX_VERTICES")
# Sum over the concave polygons of a mesh of their squared numbers of corners, to which the time of
# their triangulation is proportional: at the limit 3 s
# for one polygon of 10,000 corners, and 10 s for millions of small ones.
CONCAVE_CORNERS = Limit(
    100_000_000, "squared corners of concave polygons", "MRD_MAX_CONCAVE_CORNERS"
)
# Time and memory of readers in a process of their own, `geometry.readers.isolated`. CAD models take
# 0.02 to 1 s and less than 300 MB; 20 million points of a scan take half a minute and 3 GB.
READER_SECONDS = Limit(120, "seconds", "MRD_MAX_READER_SECONDS")
READER_BYTES = Limit(8 * 2**30, "bytes of memory", "MRD_MAX_READER_BYTES")
# Points of a cloud, before sampling down to 10,000; more than a scan of one object has.
POINTS = Limit(20_000_000, "points", "MRD_MAX_POINTS")
# Parts of a scene: primitives of glTF, materials or solids.
PARTS = Limit(10_000, "parts", "MRD_MAX_PARTS")
# Nodes and instances of a scene. A node takes up to 30 us.
NODES = Limit(200_000, "nodes", "MRD_MAX_NODES")
# Depth of nested nodes in a glTF scene; a chain of bones may have hundreds.
DEPTH = Limit(10_000, "levels of nodes", "MRD_MAX_DEPTH")
# Depth of nested nodes in a VRML or X3D file, whose parsers are recursive.
NESTING = Limit(150, "levels of nested nodes", "MRD_MAX_NESTING")
# Pixels of a picture or texture: 8,192 x 8,192, 256 MB with alpha, and up to five copies while it
# is decoded and laid on white.
PIXELS = Limit(2**26, "pixels", "MRD_MAX_PIXELS")
# Pixels of all textures of a mesh after their reduction: 512 MB.
TEXELS = Limit(2**27, "pixels of textures", "MRD_MAX_TEXELS")


def read_file(path: Path, *, limit: Limit = FILE_BYTES) -> bytes:
    """Reads the bytes of a regular file.

    Args:
      path: path of the file.
      limit: limit on its size.

    Raises:
      LimitError: the file is too large.
      OSError: the file cannot be read, grows while it is read, or is not a regular file, such as a
        pipe, which might never end.
    """
    with open(path, "rb", opener=_open_nonblocking) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path}: not a regular file")
        limit.check(status.st_size)
        data = file.read(status.st_size + 1)  # Python allocates this size before reading
    if len(data) > status.st_size:
        raise OSError(f"{path}: the file grew while it was read; try again when it is complete")
    return data


def _open_nonblocking(path: str, flags: int) -> int:
    """Opens a file without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
