# SPDX-License-Identifier: Apache-2.0
"""What is looked at in a pickle before an unpickler, however restricted, is given it.

The numbered store of a pickle is a list inside the unpickler: nine bytes that store under number
2**31 make it take 32 GB, and fill them.
"""

import pickle
import pickletools
import types
from typing import BinaryIO

_STORES = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
# Registered codes, and buffers, which no file of arrays uses.
_REFUSED = frozenset(
    {"EXT1", "EXT2", "EXT4", "BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER", "INST"}
)


def check(file: BinaryIO) -> None:
    """Reads the operations of one pickle without following them, and goes back to its start.

    Raises:
      pickle.UnpicklingError: one stores under a number beyond any that it could have reached, or
        is of a kind that plain arrays do not need.
      ValueError: the pickle is cut or garbled; so may be any error of `pickletools.genops`.
    """
    start = file.tell()
    # Where it can, genops asks for the position at every operation, which takes half of the time.
    reader = types.SimpleNamespace(read=file.read, readline=file.readline)
    for count, (operation, argument, _) in enumerate(pickletools.genops(reader)):
        if operation.name in _REFUSED:
            raise pickle.UnpicklingError(f"refused: the operation {operation.name}")
        if operation.name in _STORES and not 0 <= argument <= count:
            raise pickle.UnpicklingError(f"refused: object {argument} of at most {count}")
    file.seek(start)
