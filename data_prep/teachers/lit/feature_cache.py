# SPDX-License-Identifier: Apache-2.0
"""On-disk cache of backbone features, so that no image is encoded twice."""

import collections
import hashlib
import pathlib
import threading
import zipfile
from collections.abc import Sequence

import numpy as np

from mrd_jax import atomic_io

# Rows per file; an interrupted run loses at most this many.
PART_ROWS = 2048
PATTERN = "part-*.npz"
# Files whose features stay in memory, 10 MB each: pictures are met in the order of their files.
RECENT_PARTS = 8


def picture_key(pixels: np.ndarray, *, context: str) -> bytes:
    """Returns the cache key of a feature, a hash of everything that it depends on.

    Args:
      pixels: uint8 [height, width, 3], input of the backbone.
      context: checksum of the weights, and dtype of the activations.

    Returns:
      16 bytes.
    """
    digest = hashlib.blake2b(f"{context} {pixels.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels))
    return digest.digest()


class FeatureCache:
    """Features by key, in a folder to which files are only added.

    Memory holds the keys, the features that are in no file yet, and those of a few files.

    Several processes may write to the same folder, since files are written atomically. Several
    threads may use one cache.

    Args:
      directory: folder of the cache; None keeps the features in memory.
      write: whether to add features to the folder; False keeps new ones in memory.
    """

    def __init__(self, directory: pathlib.Path | None = None, *, write: bool = True):
        self._directory = directory if write else None
        self._rows: dict[bytes, np.ndarray] = {}
        self._unsaved: list[bytes] = []
        # Files, and of each key in them the number of its file and its row.
        self._parts: list[pathlib.Path] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        self._recent: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
        self._lock = threading.RLock()
        if directory is not None and directory.is_dir():
            for path in sorted(directory.glob(PATTERN)):
                self._add_part(path, [key.tobytes() for key in _read_part(path, "keys")])

    def __contains__(self, key: bytes) -> bool:
        return key in self._places or key in self._rows

    def add(self, keys: Sequence[bytes], features: np.ndarray) -> None:
        """Adds features [len(keys), dim]; call `save` after the last ones."""
        with self._lock:
            self._rows.update(zip(keys, features, strict=True))
            if self._directory is not None:
                self._unsaved += keys
                if len(self._unsaved) >= PART_ROWS:
                    self.save()

    def rows(self, keys: Sequence[bytes]) -> np.ndarray:
        """Returns the features of keys in the cache, float32 [len(keys), dim].

        Raises:
          ValueError: a file of the cache is corrupt.
        """
        with self._lock:
            return np.stack([self._row(key) for key in keys])

    def save(self) -> None:
        """Writes the features that were added since the last call."""
        with self._lock:
            unsaved, self._unsaved = list(dict.fromkeys(self._unsaved)), []
            if self._directory is None or not unsaved:
                return
            name = hashlib.blake2b(b"".join(unsaved), digest_size=8).hexdigest()
            # An array of type bytes would strip trailing zeros from the keys.
            keys = np.frombuffer(b"".join(unsaved), np.uint8).reshape(len(unsaved), -1)
            path = self._directory / PATTERN.replace("*", name)
            atomic_io.write_npz(path, keys=keys, features=self.rows(unsaved))
            self._add_part(path, unsaved)
            for key in unsaved:
                self._rows.pop(key, None)

    def _add_part(self, path: pathlib.Path, keys: Sequence[bytes]) -> None:
        number = len(self._parts)
        self._parts.append(path)
        self._places.update((key, (number, row)) for row, key in enumerate(keys))

    def _row(self, key: bytes) -> np.ndarray:
        if key in self._rows:
            return self._rows[key]
        number, row = self._places[key]
        if number not in self._recent:
            self._recent[number] = _read_part(self._parts[number], "features")
            if len(self._recent) > RECENT_PARTS:
                self._recent.popitem(last=False)
        self._recent.move_to_end(number)
        return self._recent[number][row]


def _read_part(path: pathlib.Path, name: str) -> np.ndarray:
    """Returns the array `keys` or `features` of a file."""
    try:
        # When np.load fails, it does not close a file that it has opened itself.
        with open(path, "rb") as file, np.load(file) as part:
            if not {"keys", "features"} <= set(part.files):
                raise KeyError(f"only {part.files}")
            return part[name]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: expected arrays `keys` and `features`, found: {error}. "
            "Delete the file; its features will be recomputed."
        ) from error
