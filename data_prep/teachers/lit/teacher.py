# SPDX-License-Identifier: Apache-2.0
"""LiT teacher: a linear map from EfficientNet-Lite0 to MiniLM features (Zhai et al. 2022)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence

import numpy as np
import safetensors
import safetensors.numpy

from data_prep.teachers import batching
from data_prep.teachers.interface import LIT, TeacherInfo
from data_prep.teachers.lit import feature_cache
from data_prep.teachers.lit.backbones import PREPROCESSING, Backbones
from data_prep.teachers.lit.frozen import minilm, packages
from mrd_jax import atomic_io

FORMAT = 1
CONFIG_FILE = "lit_teacher.json"
PROJECTION_FILE = "projection.safetensors"
IDS_FILE = "training_ids.txt"
CACHE_FOLDER = "backbone_features"


@dataclasses.dataclass(frozen=True)
class Projection:
    """Trained linear map: features @ kernel + bias.

    Attributes:
      kernel: float32 [1280, 384].
      bias: float32 [384].
    """

    kernel: np.ndarray
    bias: np.ndarray

    @property
    def revision(self) -> str:
        """Returns a hash of everything that determines an embedding."""
        digest = hashlib.sha256()
        for package in (packages.EFFICIENTNET, packages.MINILM):
            digest.update(package.weights_sha256.encode())
        digest.update(PREPROCESSING.encode())
        for array in (self.kernel, self.bias):
            digest.update(np.ascontiguousarray(array, "<f4"))
        return digest.hexdigest()[:16]


class LitTeacher:
    """Offline teacher with the interface of `teachers.Teacher`.

    Args:
      name: name of the folder that it is saved to.
      projection: trained linear map.
      backbones: frozen models.
    """

    has_images = True

    def __init__(self, *, name: str, projection: Projection, backbones: Backbones):
        self.projection = projection
        self.backbones = backbones
        self.info = TeacherInfo(
            name=name,
            revision=projection.revision,
            dim=minilm.DIM,
            kind=LIT,
            preprocessing=PREPROCESSING,
        )

    def backbone_features(
        self, images: Sequence[batching.Picture], *, progress: bool = False
    ) -> np.ndarray:
        """Embeds images without the linear map, float32 [len(images), 1280]."""
        return self.backbones.backbone_features(images, progress=progress)

    def encode_images(
        self, images: Sequence[batching.Picture], *, progress: bool = False
    ) -> np.ndarray:
        """Embeds images, float32 [len(images), 384]; see `teachers.Teacher`."""
        features = self.backbone_features(images, progress=progress)
        return features @ self.projection.kernel + self.projection.bias

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts, float32 [len(texts), 384]; see `teachers.Teacher`."""
        return self.backbones.encode_texts(texts)

    def count_truncated(self, texts: Sequence[str]) -> int:
        """Returns how many texts are truncated; see `teachers.Teacher`."""
        return self.backbones.encode_texts.count_truncated(texts)

    def save(self, directory: pathlib.Path, *, training: dict, ids: Sequence[str]) -> None:
        """Saves the linear map and its metadata, but not the frozen models.

        Args:
          directory: folder to write, created if necessary. The config is written last, so that a
            folder is complete if it has one.
          training: JSON-serialisable description of the training.
          ids: ids of the training shapes.
        """
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {"kernel": self.projection.kernel, "bias": self.projection.bias}
        safetensors.numpy.save_file(tensors, directory / PROJECTION_FILE)
        (directory / IDS_FILE).write_text("".join(f"{name}\n" for name in ids), encoding="utf-8")
        config = {
            "format": FORMAT,
            "name": self.info.name,
            "revision": self.info.revision,
            "preprocessing": PREPROCESSING,
            "weights": {
                package.name: {"version": package.version, "sha256": package.weights_sha256}
                for package in (packages.EFFICIENTNET, packages.MINILM)
            },
            "training": training,
        }
        atomic_io.write_text(directory / CONFIG_FILE, json.dumps(config, indent=2) + "\n")

    @classmethod
    def load(
        cls,
        directory: str | pathlib.Path,
        *,
        batch_size: int | None = None,
        picture_batch_size: int | None = None,
        dtype: str = "float32",
        cache_dir: pathlib.Path | None = None,
    ) -> LitTeacher:
        """Loads a teacher that `save` has written.

        Args:
          directory: folder of the teacher.
          batch_size: texts per call; None as in `batching.BatchedFunction`.
          picture_batch_size: images per call, or None for `batch_size`.
          dtype: type of the activations, "float32" or "bfloat16".
          cache_dir: folder of cached backbone features to read and to extend; None reads the cache
            in `directory`, if any, and does not extend it.

        Returns:
          A teacher with the same embeddings as the saved one.

        Raises:
          FileNotFoundError: a file of the folder or a weight package is missing.
          ValueError: the folder was modified, or belongs to other weights or another version.
        """
        directory = pathlib.Path(directory)
        config, projection = _read(directory)
        cache = (
            feature_cache.FeatureCache(directory / CACHE_FOLDER, write=False)
            if cache_dir is None
            else feature_cache.FeatureCache(cache_dir)
        )
        backbones = Backbones(
            batch_size=batch_size, picture_batch_size=picture_batch_size, dtype=dtype, cache=cache
        )
        return cls(name=config["name"], projection=projection, backbones=backbones)


def _read(directory: pathlib.Path) -> tuple[dict, Projection]:
    for name in (CONFIG_FILE, PROJECTION_FILE):
        if not (directory / name).is_file():
            raise FileNotFoundError(f"{directory / name}: not found; train the teacher again")
    config = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
    if config.get("format") != FORMAT:
        raise ValueError(
            f"{directory / CONFIG_FILE}: format is {config.get('format')!r}, expected {FORMAT}; "
            "train the teacher again"
        )
    path = directory / PROJECTION_FILE
    try:
        projection = Projection(**safetensors.numpy.load_file(path))
    except (safetensors.SafetensorError, TypeError) as error:
        raise ValueError(f"{path}: expected kernel and bias, found: {error}") from error
    if projection.revision != config["revision"]:
        raise ValueError(
            f"{path}: the revision is {projection.revision}, but {CONFIG_FILE} has "
            f"{config['revision']}; the folder was modified, or belongs to other weights or "
            "another preprocessing: train the teacher again"
        )
    return config, projection
