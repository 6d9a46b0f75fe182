# SPDX-License-Identifier: Apache-2.0
"""Teachers: frozen models that embed images and texts in a common space."""

import pathlib
from collections.abc import Callable

from data_prep.teachers.interface import LIT, RELEASED, Teacher, TeacherInfo

__all__ = ["LIT", "RELEASED", "Teacher", "TeacherInfo", "default_dtype", "is_lit", "load_teacher"]


def is_lit(name_or_dir: str | pathlib.Path) -> bool:
    """Returns whether a teacher is "lit" or the folder of a LiT teacher."""
    from data_prep.teachers import lit

    return str(name_or_dir) == LIT or (pathlib.Path(name_or_dir) / lit.CONFIG_FILE).is_file()


def default_dtype(name_or_dir: str | pathlib.Path, *, has_accelerator: bool) -> str:
    """Returns the dtype of a teacher's activations.

    Accelerators compute bfloat16 several times faster; CPUs convert it to float32 and back. A LiT
    teacher is small, and bfloat16 changes its features too much (docs/data.md).

    Args:
      name_or_dir: as for `load_teacher`.
      has_accelerator: whether GPUs or TPUs encode.
    """
    return "bfloat16" if has_accelerator and not is_lit(name_or_dir) else "float32"


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
    if is_lit(name_or_dir):
        load = lit.LitTeacher.load
    elif places.is_open_clip(str(name_or_dir)):
        load = teacher.OpenClipTeacher.load
    return load(
        name_or_dir, batch_size=batch_size, picture_batch_size=picture_batch_size, dtype=dtype
    )
