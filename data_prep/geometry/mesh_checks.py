# SPDX-License-Identifier: Apache-2.0
"""Checks of mesh files before trimesh reads them.

trimesh takes time that grows with the square of the number of solids and materials.
"""

import re

from data_prep.foreign import limits


def check(data: bytes, *, file_type: str) -> None:
    """Checks the size of a file and the counts in it.

    Args:
      data: bytes of the file.
      file_type: suffix of the file, without dot.

    Raises:
      limits.LimitError: the file exceeds a limit.
    """
    limits.FILE_BYTES.check(len(data))
    if file_type == "stl":
        limits.PARTS.check(data.lower().count(b"endsolid"))
    elif file_type == "obj":
        limits.PARTS.check(len(set(re.findall(rb"usemtl[^\r\n]*", data))))
