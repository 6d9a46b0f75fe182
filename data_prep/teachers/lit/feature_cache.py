# SPDX-License-Identifier: Apache-2.0
"""Keep backbone features on disk, so that no picture goes through the backbone twice."""

import hashlib
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np

from mrd_jax import atomic_io

# Rows of one file: an interrupted run loses at most this many.
PART_ROWS = 2048
PATTERN = "part-*.npz"


def picture_key(pixels: np.ndarray, *, context: str) -> bytes:
    """Name a feature by all that it depends on.

    Args:
      pixels: uint8 [height, width, 3], exactly as the backbone sees it.
      context: what else decides the feature: hash of the weights and precision.

    Returns:
      16 bytes.
    """
    digest = hashlib.blake2b(f"{context} {pixels.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels))
    return digest.digest()


class FeatureCache:
    """Features by key, in memory and in a folder of files that are only ever added.

    Several processes may write to one folder: files are complete when they appear.

    Args:
      directory: where to read and write; None keeps the features in memory only.
      write: False reads the folder and adds nothing to it.
    """

    def __init__(self, directory: pathlib.Path | None = None, *, write: bool = True):
        self._directory = directory if write else None
        self._rows: dict[bytes, np.ndarray] = {}
        self._unsaved: list[bytes] = []
        if directory is not None and directory.is_dir():
            for path in sorted(directory.glob(PATTERN)):
                self._rows.update(_read_part(path))

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def add(self, keys: Sequence[bytes], features: np.ndarray) -> None:
        """Remember features [len(keys), dim]; `save` makes the rest of them permanent."""
        self._rows.update(zip(keys, features, strict=True))
        if self._directory is not None:
            self._unsaved += keys
            if len(self._unsaved) >= PART_ROWS:
                self.save()

    def rows(self, keys: Sequence[bytes]) -> np.ndarray:
        """Return the features of known keys, float32 [len(keys), dim]."""
        return np.stack([self._rows[key] for key in keys])

    def save(self) -> None:
        """Write what was added since the last time."""
        if self._directory is None or not self._unsaved:
            return
        name = hashlib.blake2b(b"".join(self._unsaved), digest_size=8).hexdigest()
        # A bytes array would lose trailing zeros of the keys.
        keys = np.frombuffer(b"".join(self._unsaved), np.uint8).reshape(len(self._unsaved), -1)
        path = self._directory / PATTERN.replace("*", name)
        atomic_io.write_npz(path, keys=keys, features=self.rows(self._unsaved))
        self._unsaved = []


def _read_part(path: pathlib.Path) -> dict[bytes, np.ndarray]:
    try:
        # numpy leaves a file that it opened itself open when it cannot read it.
        with open(path, "rb") as file, np.load(file) as part:
            keys, features = part["keys"], part["features"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: expected arrays `keys` and `features`, found: {error}. "
            "Delete the file; its features are computed again."
        ) from error
    return {key.tobytes(): row for key, row in zip(keys, features, strict=True)}
