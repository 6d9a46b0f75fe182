# SPDX-License-Identifier: Apache-2.0
"""Words, pictures and clouds as unit rows of one space, and what an index finds for them."""

import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
import PIL.Image

from data_prep import pictures, teachers
from data_prep.foreign import limits
from data_prep.geometry import clouds
from data_prep.teachers import prompts
from mrd_jax import encoder as encoders
from mrd_jax.checkpoints import hashes
from mrd_jax.search import index as indices
from mrd_jax.search import nearest

# One name in all its prompts is a call; a picture comes alone.
_TEXTS, _PICTURES = len(prompts.NAME_TEMPLATES), 1
# Texts whose rows are kept.
_KEPT_TEXTS = 1_024

_Part = TypeVar("_Part")


@dataclasses.dataclass(frozen=True)
class Found:
    """Shapes of an index, best first.

    Attributes:
      numbers: int64 [count], in the index.
      scores: float32 [count], cosines with the query.
    """

    numbers: np.ndarray
    scores: np.ndarray


class Searcher:
    """An open index with what embeds the questions put to it; safe to use from several threads.

    Args:
      index: to search.
      encoder: that made the index, for clouds; None answers no clouds.
      teacher: whose space the index is in, for words and pictures; None answers neither.
      ann: search approximately.

    Raises:
      nearest.AnnUnsupportedError, FileNotFoundError, ValueError: as `nearest.AnnSearch`.
    """

    def __init__(
        self,
        index: indices.Index,
        *,
        encoder: encoders.Encoder | None = None,
        teacher: teachers.Teacher | None = None,
        ann: bool = False,
    ):
        self.index = index
        self.encoder = encoder
        self.teacher = teacher
        file = index.folder / nearest.ANN_FILE
        self._search = (
            nearest.AnnSearch(index.rows, file) if ann else nearest.ExactSearch(index.rows)
        )
        # A model uses every core by itself.
        self._one_at_a_time = threading.Lock()
        self._known: dict[str, np.ndarray] = {}

    def text(self, words: str) -> np.ndarray:
        """Words, averaged over the prompts that names of shapes are, float32 [dim].

        Raises:
          ValueError: there are no words.
        """
        return self.texts([words])[0]

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Several texts, each as by `text`, but quicker: prompts of one length go together.

        Args:
          texts: at least one; those that were asked for lately are not embedded again.

        Returns:
          float32 [len(texts), dim], unit norm.

        Raises:
          ValueError: one has no words.
        """
        texts = [" ".join(text.split()) for text in texts]
        if not all(texts):
            raise ValueError("there are no words to search for")
        rows = {text: row for text in texts if (row := self._known.get(text)) is not None}
        new = [text for text in dict.fromkeys(texts) if text not in rows]
        if new:
            rows.update(zip(new, self._embed_texts(new), strict=True))
        return np.stack([rows[text] for text in texts])

    def _embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        with self._one_at_a_time:
            teacher = _needed(self.teacher, "words need the teacher of the index")
            rows = prompts.prompt_average(teacher, texts, templates=prompts.NAME_TEMPLATES)
            self._known.update(zip(texts, rows, strict=True))
            while len(self._known) > _KEPT_TEXTS:  # the oldest go first
                del self._known[next(iter(self._known))]
        return rows

    def picture(self, picture: PIL.Image.Image) -> np.ndarray:
        """An RGB picture, float32 [dim]."""
        with self._one_at_a_time:
            teacher = _needed(self.teacher, "pictures need the teacher of the index")
            return unit(teacher.encode_images([picture])[0])

    def cloud(self, xyz: np.ndarray, rgb: np.ndarray) -> np.ndarray:
        """A cloud that obeys the encoder's card, float32 [dim]."""
        with self._one_at_a_time:
            encoder = _needed(self.encoder, "shapes need the encoder that made the index")
            return encoder.embed([(xyz, rgb)], batch_size=1)[0]

    def shape(self, number: int) -> np.ndarray:
        """A shape of the index, float32 [dim]."""
        return unit(self.index.rows[number])

    def find(self, row: np.ndarray, *, count: int, leave_out: int | None = None) -> Found:
        """The shapes nearest to a query.

        Args:
          row: [dim], unit norm.
          count: of shapes.
          leave_out: number of a shape that is not to be found.
        """
        numbers, scores = self._search.nearest(row, count=count + (leave_out is not None))
        kept = np.flatnonzero(numbers != (-1 if leave_out is None else leave_out))[:count]
        return Found(numbers[kept], scores[kept])

    def classify(self, row: np.ndarray, names: Sequence[str]) -> list[tuple[str, float]]:
        """Class names with their cosines with a query, best first; equals in their order.

        Args:
          row: [dim], unit norm.
          names: of the classes; repeated ones count once.
        """
        names = list(dict.fromkeys(" ".join(name.split()) for name in names))
        scores = (self.texts(names) @ row).tolist()
        return sorted(zip(names, scores, strict=True), key=lambda pair: -pair[1])


def mix(rows: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """The direction of a weighted sum of unit rows.

    Args:
      rows: [dim] each, unit norm.
      weights: one each; a negative one leads away from its row.

    Returns:
      float32 [dim], unit norm.

    Raises:
      ValueError: their numbers differ, or the sum has no direction.
    """
    if len(rows) != len(weights) or not rows:
        raise ValueError(f"{len(rows)} parts of a query, but {len(weights)} weights: one each")
    if not np.isfinite(weights).all():
        raise ValueError(f"weights are {list(weights)}; expected finite numbers")
    total = np.asarray(weights, np.float64) @ np.asarray(rows, np.float64)
    if np.linalg.norm(total) < 1e-6 * np.abs(weights).sum() or not np.any(weights):
        raise ValueError("the parts of the query cancel out: change their weights")
    return unit(total)


def unit(row: np.ndarray) -> np.ndarray:
    """A row at length 1, float32 [dim]."""
    row = np.asarray(row, np.float64)
    return (row / np.linalg.norm(row)).astype(np.float32)


def load_encoder(index: indices.Index, checkpoint: Path) -> encoders.Encoder:
    """The encoder of an index, on one device: questions come one by one.

    Raises:
      indices.IndexMismatchError: it is another.
      FileNotFoundError, ValueError: as `mrd_jax.encoder.load`.
    """
    encoder = encoders.load(checkpoint, devices=jax.local_devices()[:1])
    index.check_encoder(hashes.checkpoint(checkpoint))
    return encoder


def load_teacher(index: indices.Index, place: str | None = None) -> teachers.Teacher:
    """The teacher of an index.

    Args:
      index: that was opened.
      place: hub name or folder; None takes what the index remembers.

    Raises:
      indices.IndexMismatchError: it is another.
      FileNotFoundError, ValueError: as `data_prep.teachers.load_teacher`.
    """
    if place is None:
        place = index.teacher.place
        beside = index.folder / place
        place = str(beside.resolve()) if place and beside.is_dir() else place
    if not place:
        raise FileNotFoundError(
            f"{index.folder} does not know where its teacher is; pass --teacher, a hub name or "
            "the folder of a trained one"
        )
    try:
        teacher = teachers.load_teacher(place, batch_size=_TEXTS, picture_batch_size=_PICTURES)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"the teacher of {index.folder} is not where the index looks for it; pass --teacher, a "
            f"hub name or the folder of a trained one. {error}"
        ) from error
    index.check_teacher(teacher.info)
    return teacher


def read_picture(path: Path) -> PIL.Image.Image:
    """A picture file on white, of moderate size.

    Raises:
      OSError: it cannot be read.
      ValueError: it is no picture, or too large.
    """
    return pictures.read(limits.read_file(path))


def read_cloud(path: Path, index: indices.Index, *, up: str | None = None) -> clouds.Cloud:
    """A file of a mesh or a cloud, as the encoder of an index takes it.

    Raises:
      clouds.CloudError, clouds.MeshesUnsupportedError: as `clouds.read_cloud`.
    """
    return clouds.read_cloud(path, conventions=clouds.Conventions.of(index.card), up=up)


def _needed(part: _Part | None, why: str) -> _Part:
    """A part of a `Searcher` that a question cannot be answered without.

    Raises:
      ValueError: it is not there.
    """
    if part is None:
        raise ValueError(f"{why}, which this search was opened without")
    return part
