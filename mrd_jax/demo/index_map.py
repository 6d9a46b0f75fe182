# SPDX-License-Identifier: Apache-2.0
"""Two-dimensional map of the embeddings of an index."""

import dataclasses
import threading
from pathlib import Path

import numpy as np

from mrd_jax import atomic_io
from mrd_jax.demo import tsne
from mrd_jax.search import shape_index

# Smallest and largest number of shapes of t-SNE, which takes about a minute at the largest; others
# are projected onto their principal components.
_MIN_TSNE, MAX_TSNE = 50, 5_000
# Largest number of shapes on the map; more are sampled.
MAX_SHAPES = 100_000
# Principal components that t-SNE starts from: more are noise, and take longer.
_COMPONENTS = 50
_STEPS = 32_767


@dataclasses.dataclass(frozen=True)
class IndexMap:
    """A map.

    Attributes:
      numbers: int64 [shapes], numbers of the shapes in the index, ascending.
      xy: int16 [shapes, 2], from -32,767 to 32,767.
      method: "t-SNE" or "principal components".
    """

    numbers: np.ndarray
    xy: np.ndarray
    method: str


class MapStore:
    """Computes the map of each version of an index once; thread-safe.

    Args:
      folder: folder that the processes of the server share.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._lock = threading.Lock()
        self._version = -1
        self._map: IndexMap | None = None

    def get(self, index: shape_index.ShapeIndex) -> IndexMap:
        """Returns the map of an index, which may take a minute."""
        with self._lock:
            if self._map is None or self._version != index.version:
                self._map = self._read(index.version) or self._compute(index)
                self._version = index.version
            return self._map

    def _file(self, version: int) -> Path:
        return self._folder / f"map-{version}.npz"

    def _read(self, version: int) -> IndexMap | None:
        try:
            with np.load(self._file(version), allow_pickle=False) as arrays:
                return IndexMap(arrays["numbers"], arrays["xy"], str(arrays["method"]))
        except FileNotFoundError:
            return None

    def _compute(self, index: shape_index.ShapeIndex) -> IndexMap:
        found = make(index)
        arrays = {"numbers": found.numbers, "xy": found.xy, "method": np.array(found.method)}
        atomic_io.write_npz(self._file(index.version), **arrays)
        return found


def make(index: shape_index.ShapeIndex) -> IndexMap:
    """Returns the map of an index; the same index always has the same map.

    Args:
      index: an open index.

    Raises:
      ImportError, subprocess.CalledProcessError: see `tsne.arrange`.
    """
    numbers = np.arange(len(index))
    if len(index) > MAX_SHAPES:
        numbers = np.sort(np.random.default_rng(0).choice(len(index), MAX_SHAPES, replace=False))
    rows = np.asarray(index.rows[numbers], np.float32)
    reduced = principal_components(rows, count=_COMPONENTS)
    if _MIN_TSNE <= len(rows) <= MAX_TSNE:
        xy, method = tsne.arrange(reduced), "t-SNE"
    else:
        xy, method = reduced[:, :2], "principal components"
    return IndexMap(numbers, _to_steps(xy), method)


def principal_components(rows: np.ndarray, *, count: int) -> np.ndarray:
    """Projects rows onto their principal components.

    Args:
      rows: float32 [shapes, dim].
      count: number of components, at least 2.

    Returns:
      float32 [shapes, min(count, dim)], largest variance first.
    """
    centred = rows - rows.mean(axis=0)
    values, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    chosen = vectors[:, np.argsort(-values, kind="stable")[:count]]
    # The sign of an eigenvector is arbitrary: its largest element becomes positive.
    largest = chosen[np.abs(chosen).argmax(axis=0), np.arange(chosen.shape[1])]
    return (centred @ (chosen * np.where(largest < 0, -1, 1))).astype(np.float32)


def _to_steps(xy: np.ndarray) -> np.ndarray:
    """Centres and scales a map to int16; both axes have the same scale."""
    xy = np.asarray(xy, np.float64)
    xy = xy - (xy.min(axis=0) + xy.max(axis=0)) / 2
    return np.rint(xy / max(float(np.abs(xy).max()), 1e-12) * _STEPS).astype(np.int16)
