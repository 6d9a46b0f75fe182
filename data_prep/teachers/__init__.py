# SPDX-License-Identifier: Apache-2.0
"""Teachers: frozen models that embed pictures and texts in one space."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from data_prep.teachers import batching

# What `data_prep.build` makes of this name; `load_teacher` needs the trained folder.
LIT = "lit"
# In the place of a teacher: the features that a published data set brings.
RELEASED = "released"


@dataclasses.dataclass(frozen=True)
class TeacherInfo:
    """What a data set has to remember about its teacher.

    Args:
      name: hub name or folder name.
      revision: commit of the hub, or a hash of the weights.
      dim: size of the shared space.
      kind: "clip" or "lit".
      preprocessing: how a picture becomes the input, in words or JSON.
    """

    name: str
    revision: str
    dim: int
    kind: str
    preprocessing: str


class Teacher(Protocol):
    """Anything that embeds pictures and texts in one space."""

    info: TeacherInfo

    def encode_images(
        self, images: Sequence[batching.Picture], *, progress: bool = False
    ) -> np.ndarray:
        """Embed pictures.

        Args:
          images: opened pictures or encoded bytes; transparent ones are laid on white.
          progress: show a bar.

        Returns:
          float32 [len(images), dim], not normalised.
        """

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts.

        Args:
          texts: names or sentences.

        Returns:
          float32 [len(texts), dim], not normalised.
        """


def load_teacher(
    name_or_dir: str | pathlib.Path,
    *,
    batch_size: int = 32,
    picture_batch_size: int | None = None,
    dtype: str = "float32",
) -> Teacher:
    """Load a CLIP checkpoint or a trained LiT teacher.

    Args:
      name_or_dir: a folder of `train_lit`, a folder of `save_pretrained`, or a hub name,
        optionally with a revision ("owner/name@revision").
      batch_size: pictures or texts a call, over all devices of this host.
      picture_batch_size: pictures a call, where that is another number.
      dtype: of the activations, "float32" or "bfloat16".

    Returns:
      The teacher; its features are float32 whatever the dtype.

    Raises:
      FileNotFoundError: something is missing; says what and how to get it.
      ValueError: the files are there but do not fit.
    """
    # Both need transformers, which takes seconds to import and is not there where one trains.
    from data_prep.teachers import clip, lit

    if str(name_or_dir) == LIT and not pathlib.Path(name_or_dir).is_dir():
        raise FileNotFoundError(
            f"{LIT!r} is not a trained teacher: `python -m data_prep.build --teacher {LIT}` "
            "trains one on the source's training split; pass the folder it was saved to."
        )
    if (pathlib.Path(name_or_dir) / lit.CONFIG_FILE).is_file():
        load, place = lit.LitTeacher.load, pathlib.Path(name_or_dir)
    else:
        load, place = clip.ClipTeacher.load, name_or_dir
    return load(place, batch_size=batch_size, picture_batch_size=picture_batch_size, dtype=dtype)
