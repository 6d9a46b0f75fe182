# SPDX-License-Identifier: Apache-2.0
"""Checks of a pickle before it is passed to an unpickler, even a restricted one.

The memo of a pickle is a list inside the unpickler: nine bytes that store an object under index
2**31 make it allocate and fill 32 GB.
"""

import pickle
import pickletools
import types
from typing import BinaryIO

_STORES = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
# Registered codes and buffers, which files of arrays do not use.
_REJECTED = frozenset(
    {"EXT1", "EXT2", "EXT4", "BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER", "INST"}
)


def check(file: BinaryIO) -> None:
    """Parses the operations of one pickle without executing them, and rewinds the file.

    Raises:
      pickle.UnpicklingError: an operation stores under an impossible index, or is of a kind that
        plain arrays do not need.
      ValueError: the pickle is truncated or corrupt. `pickletools.genops` may raise other
        exceptions for the same reason.
    """
    start = file.tell()
    # Without `tell`: genops would call it for every operation, which takes half of the time.
    reader = types.SimpleNamespace(read=file.read, readline=file.readline)
    for count, (operation, argument, _) in enumerate(pickletools.genops(reader)):
        if operation.name in _REJECTED:
            raise pickle.UnpicklingError(f"refused: the operation {operation.name}")
        if operation.name in _STORES and not 0 <= argument <= count:
            raise pickle.UnpicklingError(f"refused: object {argument} of at most {count}")
    file.seek(start)
