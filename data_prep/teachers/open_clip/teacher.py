# SPDX-License-Identifier: Apache-2.0
"""OpenCLIP teacher: a CLIP or EVA-CLIP checkpoint in the layout of open_clip."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from data_prep.teachers import batching
from data_prep.teachers.interface import TeacherInfo
from data_prep.teachers.open_clip import pixels, places, tensors, tokens, towers, weights

KIND = "open_clip"
# Metadata of a file that holds the text tower alone: name and revision of the whole checkpoint.
WHOLE_NAME, WHOLE_REVISION = "teacher_name", "teacher_revision"


class OpenClipTeacher:
    """OpenCLIP checkpoint with the interface of `teachers.Teacher`.

    All weights are checked when the teacher is created. Those of a tower are read when it is first
    used, so that a search by words needs no memory for the image tower.

    Attributes:
      info: description of the teacher.
      has_images: False if the file holds the text tower alone.

    Args:
      place: files of the checkpoint.
      batch_size: texts per call; None as in `batching.BatchedFunction`.
      picture_batch_size: images per call, or None for `batch_size`.
      dtype: type of the parameters and activations, "float32" or "bfloat16".

    Raises:
      FileNotFoundError: the tokenizer is missing.
      ValueError: the weights or the tokenizer do not fit the config.
    """

    def __init__(
        self,
        place: places.Place,
        *,
        batch_size: int | None,
        picture_batch_size: int | None = None,
        dtype: str = "float32",
    ):
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {dtype!r}, expected 'float32' or 'bfloat16'")
        places.check_tokenizer(place.folder)
        config = place.config
        self._dtype = jnp.dtype(dtype)
        self._preprocessing = config.preprocessing
        self._batch_size = batch_size
        self._picture_batch_size = picture_batch_size or batch_size
        self._tokenizer = tokens.Tokenizer(
            place.folder,
            length=config.text.length,
            vocabulary=config.text.vocabulary,
            clean=config.clean,
        )
        file = tensors.open_file(place.weights)
        self._text_tower = towers.text_tower(config, self._dtype)
        self._text_weights = weights.text_weights(file, self._text_tower.parameters())
        self._image_tower = towers.image_tower(config, self._dtype)
        self._image_weights = weights.image_weights(
            file, self._image_tower.parameters(), config.image
        )
        self.has_images = self._image_weights is not None
        self.info = TeacherInfo(
            name=file.metadata.get(WHOLE_NAME, place.name),
            revision=file.metadata.get(WHOLE_REVISION) or place.revision or weights.checksum(file),
            dim=config.dim,
            kind=KIND,
            preprocessing=json.dumps(dataclasses.asdict(config.preprocessing)),
        )
        self._path = place.weights

    def encode_images(
        self, images: Sequence[batching.Picture], *, progress: bool = False
    ) -> np.ndarray:
        """Embeds images, float32 [len(images), dim]; see `teachers.Teacher`.

        Raises:
          ValueError: an image cannot be decoded, or the file holds the text tower alone.
        """
        function = self._images
        prepared = batching.prepare_pictures(
            images,
            prepare=lambda image: pixels.prepare(image, self._preprocessing),
            progress=progress,
        )
        batches = batching.stack_batches(prepared, batch_size=function.batch_size)
        return self._collect(function({"pixels": batch} for batch in batches))

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts, float32 [len(texts), dim]; see `teachers.Teacher`."""
        if not texts:
            return self._collect(())
        batches = batching.row_batches(
            {"tokens": self._tokenizer(texts)}, batch_size=self._texts.batch_size
        )
        return self._collect(self._texts(batches))

    def count_truncated(self, texts: Sequence[str]) -> int:
        """Returns how many texts have more tokens than the text model reads."""
        return self._tokenizer.count_truncated(texts)

    @functools.cached_property
    def _images(self) -> batching.BatchedFunction:
        if self._image_weights is None:
            raise ValueError(places.text_only(self._path))
        params = self._image_weights.load(self._dtype)
        return batching.BatchedFunction(
            self._image_tower.embed,
            params,
            batch_size=self._picture_batch_size,
            row=self._image_tower.row,
        )

    @functools.cached_property
    def _texts(self) -> batching.BatchedFunction:
        params = self._text_weights.load(self._dtype)
        return batching.BatchedFunction(
            self._text_tower.embed,
            params,
            batch_size=self._batch_size,
            row=self._text_tower.row,
        )

    def _collect(self, batches) -> np.ndarray:
        return np.concatenate([np.zeros((0, self.info.dim), np.float32), *batches])

    @classmethod
    def load(
        cls,
        name_or_dir: str | pathlib.Path,
        *,
        batch_size: int | None = None,
        picture_batch_size: int | None = None,
        dtype: str = "float32",
    ) -> OpenClipTeacher:
        """Loads a checkpoint; see `teachers.load_teacher` for arguments and errors."""
        return cls(
            places.find(str(name_or_dir)),
            batch_size=batch_size,
            picture_batch_size=picture_batch_size,
            dtype=dtype,
        )
