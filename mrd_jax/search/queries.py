# SPDX-License-Identifier: Apache-2.0
"""Embeds text, pictures and point clouds as queries, and finds the nearest shapes of an index."""

import copy
import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
import PIL.Image

import mrd_jax.encoder
from data_prep import pictures, teachers
from data_prep.foreign import limits
from data_prep.geometry import clouds
from data_prep.teachers import prompts
from mrd_jax.checkpoints import fingerprinting
from mrd_jax.encoder import Encoder
from mrd_jax.search import filters, index_search, nearest, shape_index

# Batch sizes of the teacher: all prompts of one name, and a single picture.
_TEXT_BATCH, _PICTURE_BATCH = len(prompts.NAME_TEMPLATES), 1
# Number of texts whose embeddings are cached.
_CACHED_TEXTS = 1_024

_Model = TypeVar("_Model")


@dataclasses.dataclass(frozen=True)
class Matches:
    """Search results, best first.

    Attributes:
      numbers: int64 [count], rows of the shapes in the index.
      scores: float32 [count], cosine similarities with the query.
    """

    numbers: np.ndarray
    scores: np.ndarray


class Searcher:
    """An open index and the models that embed queries; thread-safe.

    Args:
      index: the index to search.
      encoder: encoder that the index was built with; needed for point clouds.
      teacher: teacher of the index; needed for text and pictures.
      ann: use approximate search.

    Raises:
      nearest.AnnUnsupportedError, FileNotFoundError, ValueError: see `index_search.open_search`.
    """

    def __init__(
        self,
        index: shape_index.ShapeIndex,
        *,
        encoder: Encoder | None = None,
        teacher: teachers.Teacher | None = None,
        ann: bool = False,
    ):
        self.index = index
        self.encoder = encoder
        self.teacher = teacher
        self._ann = ann
        self._facets: filters.Facets | None = None
        self._search = index_search.open_search(index, ann=ann)
        # One call of a model already uses all cores.
        self._model_lock = threading.Lock()
        self._text_cache: dict[str, np.ndarray] = {}

    def with_index(self, index: shape_index.ShapeIndex) -> "Searcher":
        """Returns a searcher of a later version of the index, with the same models and caches.

        Args:
          index: the same index, opened again.

        Raises:
          shape_index.IndexMismatchError: the shapes were embedded by another encoder, or for
            another teacher.
        """
        index.check_encoder(self.index.checkpoint)
        if index.teacher.name != self.index.teacher.name:
            raise shape_index.IndexMismatchError(
                f"{index.folder} was built for the teacher {index.teacher.name!r}, and is now for "
                f"{self.index.teacher.name!r}"
            )
        later = copy.copy(self)
        later.index = index
        later._facets = None
        later._search = index_search.open_search(index, ann=self._ann)
        return later

    def facets(self) -> filters.Facets:
        """Returns the values that searches can be restricted to; reads all metadata once."""
        if self._facets is None:
            self._facets = filters.Facets(self.index)
        return self._facets

    def embed_text(self, text: str) -> np.ndarray:
        """Embeds text: the mean over the prompts for names of shapes.

        Args:
          text: a name or a description of a shape.

        Returns:
          float32 [dim], unit norm.

        Raises:
          ValueError: the text is empty, or the searcher was opened without a teacher.
        """
        return self.embed_texts([text])[0]

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds several texts at once, batching prompts of equal length.

        Args:
          texts: at least one text; recently embedded texts are taken from a cache.

        Returns:
          float32 [len(texts), dim], unit norm.

        Raises:
          ValueError: a text is empty, or the searcher was opened without a teacher.
        """
        texts = [" ".join(text.split()) for text in texts]
        if not all(texts):
            raise ValueError("the text is empty; enter at least one word")
        rows = {text: row for text in texts if (row := self._text_cache.get(text)) is not None}
        new = [text for text in dict.fromkeys(texts) if text not in rows]
        if new:
            rows.update(zip(new, self._embed_new_texts(new), strict=True))
        return np.stack([rows[text] for text in texts])

    def _embed_new_texts(self, texts: Sequence[str]) -> np.ndarray:
        with self._model_lock:
            teacher = _require(self.teacher, "text needs the teacher of the index")
            rows = prompts.prompt_average(teacher, texts, templates=prompts.NAME_TEMPLATES)
            self._text_cache.update(zip(texts, rows, strict=True))
            while len(self._text_cache) > _CACHED_TEXTS:  # evict the oldest first
                del self._text_cache[next(iter(self._text_cache))]
        return rows

    def embed_picture(self, picture: PIL.Image.Image) -> np.ndarray:
        """Embeds an RGB picture.

        Returns:
          float32 [dim], unit norm.

        Raises:
          ValueError: the searcher was opened without a teacher.
        """
        with self._model_lock:
            teacher = _require(self.teacher, "pictures need the teacher of the index")
            return normalise(teacher.encode_images([picture])[0])

    def embed_cloud(self, xyz: np.ndarray, rgb: np.ndarray) -> np.ndarray:
        """Embeds a point cloud in the conventions of the encoder's model card.

        Args:
          xyz: [points, 3].
          rgb: [points, 3], 0 to 1.

        Returns:
          float32 [dim], unit norm.

        Raises:
          ValueError: the searcher was opened without an encoder.
        """
        with self._model_lock:
            encoder = _require(self.encoder, "shapes need the encoder of the index")
            return encoder.embed([(xyz, rgb)], batch_size=1)[0]

    def shape_row(self, number: int) -> np.ndarray:
        """Returns the embedding of a shape of the index, float32 [dim]."""
        return normalise(self.index.rows[number])

    def find(
        self,
        row: np.ndarray,
        *,
        count: int,
        exclude: int | None = None,
        among: np.ndarray | None = None,
    ) -> Matches:
        """Finds the shapes nearest to a query.

        Args:
          row: [dim], unit norm.
          count: number of shapes.
          exclude: row of a shape to exclude from the results, such as the query itself.
          among: int [shapes], ascending numbers of the shapes to search, see `filters.Facets`; None
            for all. They are compared exactly.
        """
        count_found = count + (exclude is not None)
        if among is None:
            numbers, scores = self._search.nearest(row, count=count_found)
        else:
            numbers, scores = nearest.nearest_among(self.index.rows, among, row, count=count_found)
        kept = np.flatnonzero(numbers != (-1 if exclude is None else exclude))[:count]
        return Matches(numbers[kept], scores[kept])

    def classify(self, row: np.ndarray, names: Sequence[str]) -> list[tuple[str, float]]:
        """Returns class names with their cosine similarities with a query, best first.

        Args:
          row: [dim], unit norm.
          names: class names; duplicates are removed, ties keep their order.
        """
        names = list(dict.fromkeys(" ".join(name.split()) for name in names))
        scores = (self.embed_texts(names) @ row).tolist()
        return sorted(zip(names, scores, strict=True), key=lambda pair: -pair[1])


def mix(rows: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Returns the normalised weighted sum of unit rows.

    Args:
      rows: rows [dim], unit norm.
      weights: one weight per row; a negative weight searches away from its row.

    Returns:
      float32 [dim], unit norm.

    Raises:
      ValueError: the numbers of rows and weights differ, or the sum is zero.
    """
    if len(rows) != len(weights) or not rows:
        raise ValueError(
            f"the query has {len(rows)} parts and {len(weights)} weights; expected one weight each"
        )
    if not np.isfinite(weights).all():
        raise ValueError(f"weights are {list(weights)}; expected finite numbers")
    total = np.asarray(weights, np.float64) @ np.asarray(rows, np.float64)
    if np.linalg.norm(total) < 1e-6 * np.abs(weights).sum() or not np.any(weights):
        raise ValueError("the parts of the query cancel out; change their weights")
    return normalise(total)


def normalise(row: np.ndarray) -> np.ndarray:
    """Divides a row [dim] by its Euclidean norm; returns float32."""
    row = np.asarray(row, np.float64)
    return (row / np.linalg.norm(row)).astype(np.float32)


def load_encoder(index: shape_index.ShapeIndex, checkpoint: Path) -> Encoder:
    """Loads the encoder of an index onto one device, since queries are embedded one at a time.

    Args:
      index: an open index.
      checkpoint: path as in `mrd_jax.encoder.load`.

    Raises:
      shape_index.IndexMismatchError: the index was built with another encoder.
      FileNotFoundError, ValueError: see `mrd_jax.encoder.load`.
    """
    encoder = mrd_jax.encoder.load(checkpoint, devices=jax.local_devices()[:1])
    index.check_encoder(fingerprinting.checkpoint_fingerprint(checkpoint))
    return encoder


def load_teacher(
    index: shape_index.ShapeIndex, place: str | None = None, *, text_batch: int = _TEXT_BATCH
) -> teachers.Teacher:
    """Loads the teacher of an index.

    Args:
      index: an open index.
      place: hub name or folder; None for the one that is recorded in the index.
      text_batch: texts per call.

    Raises:
      shape_index.IndexMismatchError: the index was built for another teacher.
      FileNotFoundError, ValueError: see `data_prep.teachers.load_teacher`.
    """
    if place is None:
        place = index.teacher.place
        local = index.folder / place
        place = str(local.resolve()) if place and local.exists() else place
    if not place:
        raise FileNotFoundError(
            f"{index.folder} does not record where its teacher is; pass --teacher, a hub name or "
            "the folder of a trained teacher"
        )
    try:
        teacher = teachers.load_teacher(
            place, batch_size=text_batch, picture_batch_size=_PICTURE_BATCH
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"cannot load the teacher of {index.folder} from {place!r}; pass --teacher, a hub name "
            f"or the folder of a trained teacher. {error}"
        ) from error
    index.check_teacher(teacher.info)
    return teacher


def read_picture(path: Path) -> PIL.Image.Image:
    """Reads a picture file as RGB on white, scaled down to the size that teachers need.

    Raises:
      OSError: the file cannot be read.
      ValueError: the file is not a picture or is too large.
    """
    return pictures.read(limits.read_file(path))


def read_cloud(path: Path, index: shape_index.ShapeIndex, *, up: str | None = None) -> clouds.Cloud:
    """Reads a mesh or point cloud file in the conventions of the encoder of an index.

    Args:
      path: file to read.
      index: an open index.
      up: vertical axis of the file, "y" or "z"; None for the default of the file type.

    Raises:
      clouds.CloudError, formats.MissingPackageError: see `clouds.read_cloud`.
    """
    return clouds.read_cloud(path, conventions=clouds.Conventions.of(index.card), up=up)


def _require(model: _Model | None, reason: str) -> _Model:
    """Returns a model of a `Searcher`; raises ValueError if the searcher was opened without it."""
    if model is None:
        raise ValueError(f"{reason}, but the searcher was opened without it")
    return model
