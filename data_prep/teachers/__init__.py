# SPDX-License-Identifier: Apache-2.0
"""Teachers: frozen models that embed images and texts in a common space."""

import pathlib
from collections.abc import Callable

from data_prep.teachers.interface import LIT, RELEASED, Teacher, TeacherInfo

__all__ = ["LIT", "RELEASED", "Teacher", "TeacherInfo", "default_dtype", "load_teacher"]


def default_dtype() -> str:
    """Returns the dtype of activations for the devices of this host.

    Accelerators compute bfloat16 several times faster; CPUs convert it to float32 and back.
    """
    import jax

    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def load_teacher(
    name_or_dir: str | pathlib.Path,
    *,
    batch_size: int | None = None,
    picture_batch_size: int | None = None,
    dtype: str = "float32",
) -> Teacher:
    """Loads a CLIP or EVA-CLIP checkpoint or a trained LiT teacher.

    Args:
      name_or_dir: folder written by `train_lit`, by `save_pretrained` or by OpenCLIP; a hub name,
        optionally with a revision ("owner/name@revision"); or a file of OpenCLIP's weights,
        optionally with its architecture ("ViT-bigG-14=FILE").
      batch_size: texts per call, and images per call unless `picture_batch_size` is given, over
        all devices of this host; None as in `batching.BatchedFunction`.
      picture_batch_size: images per call; None for `batch_size`.
      dtype: type of the activations, "float32" or "bfloat16".

    Returns:
      The teacher; its features are float32 for either dtype.

    Raises:
      FileNotFoundError: a file or a weight package is missing.
      ValueError: a file is invalid.
    """
    # Both import transformers, which takes seconds and is not installed on training hosts.
    from data_prep.teachers import clip, lit
    from data_prep.teachers.open_clip import places, teacher

    if str(name_or_dir) == LIT and not pathlib.Path(name_or_dir).is_dir():
        raise FileNotFoundError(
            f"{LIT!r} is not a trained teacher: `python -m data_prep.build --teacher {LIT}` "
            "trains one on the training split of a source; pass the folder that it writes"
        )
    load: Callable[..., Teacher] = clip.ClipTeacher.load
    if (pathlib.Path(name_or_dir) / lit.CONFIG_FILE).is_file():
        load = lit.LitTeacher.load
    elif places.is_open_clip(str(name_or_dir)):
        load = teacher.OpenClipTeacher.load
    return load(
        name_or_dir, batch_size=batch_size, picture_batch_size=picture_batch_size, dtype=dtype
    )
