# SPDX-License-Identifier: Apache-2.0
"""Arrays in `.npy` and `.npz` files, read one by one, without pickles and without trust.

`numpy.load` takes whatever memory the header of a file asks for, and fails in a dozen ways where
the file is damaged. Here an array has to fit the limit and the file before memory is taken for it,
and every failure is an `ArrayFileError`.
"""

import io
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np

# What numpy and zipfile raise on damaged files. numpy parses a header with Python's own parser.
_DAMAGED = (
    *(ValueError, TypeError, EOFError, LookupError, RuntimeError, MemoryError, ArithmeticError),
    *(SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error, OSError),
)
_ZIP_STARTS = (b"PK\3\4", b"PK\5\6")
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What zipfile unpacks at a bounded rate and in bounded memory; what `numpy.savez` writes.
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class ArrayFileError(ValueError):
    """A file that holds no plain arrays; the message is the reason, without the file's name."""


class PickledError(ArrayFileError):
    """An array of objects, or a file that is no array and might be a pickle."""


class TooLargeError(ArrayFileError):
    """An array over the limit.

    Attributes:
      size: of it, in bytes.
    """

    def __init__(self, size: int, limit: int):
        super().__init__(f"an array of {size} bytes; expected at most {limit}")
        self.size = size


class ArrayFile(Mapping[str, np.ndarray]):
    """The arrays of a file by name; that of a `.npy` file is "". Nothing is kept."""

    def __init__(self, stream: IO[bytes], *, most_bytes: int | None = None):
        """Looks at the start of a file, and at the names of an archive.

        Args:
          stream: of the file, at its beginning; stays open.
          most_bytes: of one array; None for no limit but the file's own size.

        Raises:
          ArrayFileError: it is neither kind of file.
        """
        self._stream = stream
        self._most = most_bytes
        self._archive: Any = None
        start = stream.read(len(np.lib.format.MAGIC_PREFIX))
        stream.seek(0)
        self._members: dict[str, zipfile.ZipInfo | None] = {"": None}
        if start.startswith(_ZIP_STARTS):
            try:
                self._archive = zipfile.ZipFile(stream)
            except _DAMAGED as error:
                raise ArrayFileError(f"damaged: {error}") from error
            found = self._archive.infolist()
            self._members = {one.filename.removesuffix(".npy"): one for one in found}
        elif start != np.lib.format.MAGIC_PREFIX:
            raise PickledError("no array") if start else ArrayFileError("damaged: an empty file")

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, name: str) -> np.ndarray:
        """Reads one array.

        Raises:
          KeyError: the file has no such array.
          PickledError: it holds objects.
          TooLargeError: it is over the limit.
          ArrayFileError: it is damaged.
        """
        member = self._members[name]
        try:
            if member is None:
                self._stream.seek(0)
                size = self._stream.seek(0, io.SEEK_END)
                self._stream.seek(0)
                return self._read(self._stream, size)
            if member.compress_type not in _PACKINGS:
                raise ValueError(f"packed in way {member.compress_type}, expected one of savez")
            with self._archive.open(member) as stream:
                return self._read(stream, member.file_size)
        except ArrayFileError:
            raise
        except _DAMAGED as error:
            raise ArrayFileError(f"damaged: {error}") from error

    def _read(self, stream: IO[bytes], size: int) -> np.ndarray:
        """An array from a stream that claims to have `size` bytes, header included."""
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"version {version} of the format; expected one of {[*_HEADERS]}")
        shape, fortran, dtype = _HEADERS[version](stream)
        if dtype.hasobject:
            raise PickledError("an array of objects")
        count = math.prod(shape)
        needed = count * dtype.itemsize
        if self._most is not None and needed > self._most:
            raise TooLargeError(needed, self._most)
        if min(shape, default=0) < 0 or needed > size:
            raise ValueError(f"its header says {dtype} {list(shape)}, but it has {size} bytes")
        values = np.empty(count, dtype)
        got = 0
        while got < needed:
            part = stream.read(min(needed - got, 2**24))
            if not part:
                raise ValueError(f"cut short: {got} of {needed} bytes")
            values.view(np.uint8)[got : got + len(part)] = np.frombuffer(part, np.uint8)
            got += len(part)
        return values.reshape(shape, order="F" if fortran else "C")
