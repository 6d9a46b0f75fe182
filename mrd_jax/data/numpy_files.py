# SPDX-License-Identifier: Apache-2.0
"""Safe reader of `.npy` and `.npz` files from untrusted sources, without pickles.

`numpy.load` allocates whatever the header of a file claims, and raises a dozen types of exceptions
on corrupt files. This reader checks the claimed size against a limit and against the size of the
file before it allocates, and raises `ArrayFileError` only.
"""

import io
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np

# Raised by numpy and zipfile on corrupt files; numpy parses headers with Python's own parser.
_READ_ERRORS = (
    *(ValueError, TypeError, EOFError, LookupError, RuntimeError, MemoryError, ArithmeticError),
    *(SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error, OSError),
)
_ZIP_STARTS = (b"PK\3\4", b"PK\5\6")
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# Methods that `numpy.savez` writes, and that zipfile decompresses in bounded memory.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class ArrayFileError(ValueError):
    """The file holds no plain arrays; the message is the reason, without the name of the file."""


class PickledError(ArrayFileError):
    """The array holds Python objects, or the file is not an array file and may be a pickle."""


class TooLargeError(ArrayFileError):
    """The array exceeds the limit.

    Attributes:
      size: size of the array in bytes.
    """

    def __init__(self, size: int, limit: int):
        super().__init__(f"array of {size} bytes; expected at most {limit}")
        self.size = size


class ArrayFile(Mapping[str, np.ndarray]):
    """Arrays of a file by name, read at each access; the array of a `.npy` file has the name ""."""

    def __init__(self, stream: IO[bytes], *, max_bytes: int | None = None):
        """Reads the names of the arrays.

        Args:
          stream: binary file, at its beginning; stays open.
          max_bytes: limit of one array; None for the size of the file.

        Raises:
          ArrayFileError: the file is neither `.npy` nor `.npz`.
        """
        self._stream = stream
        self._max_bytes = max_bytes
        self._archive: Any = None
        start = stream.read(len(np.lib.format.MAGIC_PREFIX))
        stream.seek(0)
        self._members: dict[str, zipfile.ZipInfo | None] = {"": None}
        if start.startswith(_ZIP_STARTS):
            try:
                self._archive = zipfile.ZipFile(stream)
            except _READ_ERRORS as error:
                raise ArrayFileError(f"corrupt: {error}") from error
            members = self._archive.infolist()
            self._members = {info.filename.removesuffix(".npy"): info for info in members}
        elif start != np.lib.format.MAGIC_PREFIX:
            raise PickledError("not an array file") if start else ArrayFileError("empty file")

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, name: str) -> np.ndarray:
        """Reads one array.

        Raises:
          KeyError: the file has no such array.
          PickledError: the array holds Python objects.
          TooLargeError: the array exceeds the limit.
          ArrayFileError: the file is corrupt.
        """
        member = self._members[name]
        try:
            if member is None:
                self._stream.seek(0)
                size = self._stream.seek(0, io.SEEK_END)
                self._stream.seek(0)
                return self._read(self._stream, size)
            if member.compress_type not in _COMPRESSIONS:
                raise ValueError(
                    f"compression {member.compress_type}; expected one of {_COMPRESSIONS}"
                )
            with self._archive.open(member) as stream:
                return self._read(stream, member.file_size)
        except ArrayFileError:
            raise
        except _READ_ERRORS as error:
            raise ArrayFileError(f"corrupt: {error}") from error

    def _read(self, stream: IO[bytes], size: int) -> np.ndarray:
        """Reads an array from a stream that claims to have `size` bytes, header included."""
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"format version {version}; expected one of {[*_HEADERS]}")
        shape, fortran, dtype = _HEADERS[version](stream)
        if dtype.hasobject:
            raise PickledError("array of Python objects")
        count = math.prod(shape)
        needed = count * dtype.itemsize
        if self._max_bytes is not None and needed > self._max_bytes:
            raise TooLargeError(needed, self._max_bytes)
        if min(shape, default=0) < 0 or needed > size:
            raise ValueError(f"the header says {dtype} {list(shape)}, but there are {size} bytes")
        values = np.empty(count, dtype)
        got = 0
        while got < needed:
            part = stream.read(min(needed - got, 2**24))
            if not part:
                raise ValueError(f"truncated: {got} of {needed} bytes")
            values.view(np.uint8)[got : got + len(part)] = np.frombuffer(part, np.uint8)
            got += len(part)
        return values.reshape(shape, order="F" if fortran else "C")
