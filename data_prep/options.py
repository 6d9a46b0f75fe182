# SPDX-License-Identifier: Apache-2.0
"""Options of `data_prep.build`."""

import dataclasses
from pathlib import Path
from typing import Any

from data_prep import build_flags, flag_types, records
from data_prep.captions import CaptionFile
from mrd_jax import storage


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a build, one field per flag of `data_prep.build`.

    Attributes:
      source: name in `sources.SOURCES`.
      input: folder of the raw data.
      output: folder of caches, teachers and data sets.
      teacher: "lit", "released", a folder or a hub name.
      points: points per shape.
      views: rendered views per shape, at most.
      image_size: side of a view in pixels.
      seed: seed of point sampling and LiT training.
      batch_size: pictures or texts per call of the teacher, over all devices; None to choose them
        by the memory of the devices.
      dtype: dtype of the teacher's activations: "float32", "bfloat16", or "auto" for that of the
        features that exist, else bfloat16 on accelerators, and float32 on CPUs and for LiT
        teachers.
      label_from: folders that name the classes of the source "folder", see
        `shape_names.label_of`; None for none.
      captions: files of captions that are joined to the shapes by id.
      licence: short names of the licences of the shapes to use, see `licences`; () for all.
      overwrite: True to replace a data set that was built with other options.
      execution: where and with which limits shapes are prepared.
      upload: folder in a bucket that the data set is copied to, as `output` but without caches and
        teachers; None for none.

    Raises:
      ValueError: `output` is a URL.
    """

    source: str
    input: Path
    output: Path
    teacher: str
    points: int = build_flags.POINTS
    views: int = build_flags.VIEWS
    image_size: int = build_flags.IMAGE_SIZE
    seed: int = 0
    batch_size: int | None = None
    dtype: str = flag_types.AUTO
    label_from: str | None = None
    captions: tuple[CaptionFile, ...] = ()
    licence: tuple[str, ...] = ()
    overwrite: bool = False
    execution: build_flags.Execution = build_flags.Execution()
    upload: storage.Path | None = None

    def __post_init__(self) -> None:
        storage.local_path(self.output)  # array_record writes to local disks only

    @property
    def target(self) -> Path:
        """Folder of the data set."""
        return self.output / self.source / records.VERSION

    @property
    def upload_target(self) -> storage.Path | None:
        """Folder of the data set in the bucket."""
        return self.upload and self.upload / self.source / records.VERSION

    def content(self) -> dict[str, Any]:
        """Returns the options that determine the content of the data set.

        They are stored in the metadata of the data set.
        """
        names = ("source", "teacher", "points", "views", "image_size", "seed", "dtype")
        content = {name: getattr(self, name) for name in names}
        # Absent by default, as in data sets that were built before the options existed.
        later = {
            "label_from": self.label_from,
            "captions": [file.content() for file in self.captions],
            "licence": list(self.licence),
        }
        return content | {name: value for name, value in later.items() if value}
