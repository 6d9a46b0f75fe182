# SPDX-License-Identifier: Apache-2.0
"""Interface of teachers, and their description in the metadata of data sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from data_prep.teachers import batching

# Value of `--teacher`: train a LiT teacher on the training split. `load_teacher` takes its folder.
LIT = "lit"
# Value of `--teacher`: use the features of a published data set.
RELEASED = "released"


@dataclasses.dataclass(frozen=True)
class TeacherInfo:
    """Description of a teacher, stored in the metadata of a data set.

    Fingerprints of features contain its repr, so neither names nor order of fields may change.

    Attributes:
      name: hub name or folder name.
      revision: commit on the hub, or a checksum of the weights.
      dim: dimension of the features.
      kind: "clip", "open_clip" or "lit".
      preprocessing: image preprocessing, as text or JSON.
    """

    name: str
    revision: str
    dim: int
    kind: str
    preprocessing: str


class Teacher(Protocol):
    """Interface of a model that embeds images and texts in a common space.

    Attributes:
      info: description of the teacher.
      has_images: False if only texts can be embedded.
    """

    info: TeacherInfo
    has_images: bool

    def encode_images(
        self, images: Sequence[batching.Picture], *, progress: bool = False
    ) -> np.ndarray:
        """Embeds images.

        Args:
          images: opened images or encoded bytes; transparent images are composited on white.
          progress: whether to show a progress bar.

        Returns:
          float32 [len(images), dim], not normalised.
        """

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts.

        Args:
          texts: names or sentences.

        Returns:
          float32 [len(texts), dim], not normalised.
        """

    def count_truncated(self, texts: Sequence[str]) -> int:
        """Returns how many texts have more tokens than `encode_texts` reads."""
