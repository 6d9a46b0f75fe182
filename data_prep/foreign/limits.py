# SPDX-License-Identifier: Apache-2.0
"""The most that a file from a stranger may hold.

A few bytes can promise a billion points, pixels or files. Every reader of `data_prep` checks what a
file promises, and what it turns out to hold, against the numbers here before it takes memory for
it. Each number may be raised by an environment variable, where a file is to be trusted and the
machine has the memory: its name is in the error.
"""

import dataclasses
import os
import stat
from pathlib import Path


class LimitError(ValueError):
    """A file that holds too much; says how much, what is allowed and what to do."""


@dataclasses.dataclass(frozen=True)
class Limit:
    """One number.

    Attributes:
      default: the most, unless the environment says otherwise.
      unit: that is counted.
      variable: of the environment.
    """

    default: int
    unit: str
    variable: str

    def most(self) -> int:
        """What holds now.

        Raises:
          ValueError: the environment variable is no positive integer.
        """
        text = os.environ.get(self.variable)
        if text is None:
            return self.default
        if not text.isascii() or not text.isdigit() or not 0 < int(text[:18]) or len(text) > 18:
            raise ValueError(f"{self.variable} is {text!r}; expected a positive integer")
        return int(text)

    def check(self, found: int) -> None:
        """Refuses what is too much.

        Raises:
          LimitError: it is.
        """
        most = self.most()
        if found > most:
            raise LimitError(
                f"too large: {found} {self.unit}, at most {most} are read; make it smaller, or set "
                f"{self.variable}={found} if you trust it and have the memory"
            )


# Of one file. A mesh takes ten to twenty times its size in memory while it is read (measured on
# spheres of 327,680 faces: PLY as text 19, GLB 11, OBJ 8), so one at the limit takes 5 to 10 GB.
FILE_BYTES = Limit(512 * 2**20, "bytes", "MRD_MAX_FILE_BYTES")
# Of one unpacked member of an archive. The largest of the Sweet Home 3D catalogues has 9 MB.
MEMBER_BYTES = Limit(256 * 2**20, "unpacked bytes", "MRD_MAX_MEMBER_BYTES")
# Of an archive. The largest Sweet Home 3D catalogue has a few thousand.
MEMBERS = Limit(100_000, "members", "MRD_MAX_MEMBERS")
# Of everything that one mesh refers to, together: materials, textures, buffers.
ASSET_BYTES = Limit(2**30, "bytes of referenced files", "MRD_MAX_ASSET_BYTES")
# Of one array, or of all of a glTF file: 40 million points with colours, in double precision.
ARRAY_BYTES = Limit(2 * 2**30, "bytes of arrays", "MRD_MAX_ARRAY_BYTES")
# Of a mesh, in all places of its scene. Each takes 800 bytes until it is rendered (same spheres).
FACES = Limit(10_000_000, "faces", "MRD_MAX_FACES")
VERTICES = Limit(10_000_000, "vertices", "MRD_MAX_VERTICES")
# Of a cloud, which is cut down to 10,000: more than a scanner takes of one object.
POINTS = Limit(20_000_000, "points", "MRD_MAX_POINTS")
# Meshes, nodes, materials or solids of a scene. At the limit, trimesh takes 12 s for the solids of
# an STL file or the materials of an OBJ file, and a time that grows with their square.
PARTS = Limit(10_000, "parts", "MRD_MAX_PARTS")
# Of nodes below one another in a glTF scene: trimesh takes 24 s for a row of 2,000, and a time that
# grows faster than the square.
DEPTH = Limit(200, "levels of nodes", "MRD_MAX_DEPTH")
# Of one picture or texture: 8,192 x 8,192, 256 MB with alpha, and up to five copies while it is
# decoded and laid on white.
PIXELS = Limit(2**26, "pixels", "MRD_MAX_PIXELS")
# Of all textures of a mesh after they were shrunk: 512 MB.
TEXELS = Limit(2**27, "pixels of textures", "MRD_MAX_TEXELS")


def read_file(path: Path) -> bytes:
    """The bytes of an ordinary file.

    Raises:
      LimitError: it is too large.
      OSError: it cannot be read, grows meanwhile, or is no ordinary file, which might never end.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path}: not an ordinary file")
        FILE_BYTES.check(status.st_size)
        data = file.read(status.st_size + 1)  # all of this is allocated beforehand
    if len(data) > status.st_size:
        raise OSError(f"{path}: it grew while it was read; try again when it is complete")
    return data


def _open_at_once(path: str, flags: int) -> int:
    """Opens without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
