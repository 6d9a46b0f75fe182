# SPDX-License-Identifier: Apache-2.0
"""Teacher features of prepared shapes, encoded once and stored in one file per shard."""

import hashlib
import json
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import tqdm

from data_prep import shapes, teachers
from data_prep.teachers import prompts
from mrd_jax import atomic_io

# Kind of the captions that are averaged over prompts; the others are sentences already.
NAME_KIND = "name"

# Image features [views, dim] and text features [captions, dim] of one shape.
Pair = tuple[np.ndarray, np.ndarray]
Features = dict[str, Pair]


def encode_shards(
    shards: Sequence[Path],
    output_dir: Path,
    teacher: teachers.Teacher,
    *,
    ids: Collection[str],
) -> dict[str, int]:
    """Encodes the images and captions of all shards without up-to-date features.

    A feature file contains a fingerprint of the teacher, the prompts and the encoded content. So an
    interrupted run resumes, a completed one does nothing, and shapes are encoded again after a
    change of the teacher, a picture or a caption.

    Args:
      shards: files of `shapes.save_shard`.
      output_dir: folder of the feature files, which have the names of the shards.
      teacher: encodes images and texts.
      ids: ids of the shapes to encode; others are skipped.

    Returns:
      Counts: read (shards), written, current (kept), stale (overwritten), images, texts.

    Raises:
      ValueError: the teacher returned a feature that is non-finite in float16.
    """
    counts = dict.fromkeys(("read", "written", "current", "stale", "images", "texts"), 0)
    wanted, names = frozenset(ids), {}
    for path in tqdm.tqdm(shards, desc="features", unit="shard"):
        prepared = [shape for shape in shapes.load_shard(path) if shape.id in wanted]
        target = output_dir / path.name
        expected = fingerprint(prepared, teacher.info)
        counts["read"] += 1
        if target.exists():
            if _read_fingerprint(target) == expected:
                counts["current"] += 1
                continue
            counts["stale"] += 1
        _save(target, encode_shapes(prepared, teacher, names=names), fingerprint=expected)
        counts["written"] += 1
        counts["images"] += sum(len(shape.images) for shape in prepared)
        counts["texts"] += sum(len(shape.captions) for shape in prepared)
    return counts


def encode_shapes(
    prepared: Sequence[shapes.Shape],
    teacher: teachers.Teacher,
    *,
    names: dict[str, np.ndarray] | None = None,
) -> Features:
    """Encodes the images and captions of a few shapes.

    Args:
      prepared: shapes to encode.
      teacher: encodes images and texts.
      names: features of names from earlier calls; new ones are added, because names repeat.

    Returns:
      shape id -> (image features [views, dim], text features [captions, dim]), float16, in the
      order of the shape's images and captions. Names are averaged over prompts.

    Raises:
      ValueError: a feature is non-finite in float16.
    """
    names = {} if names is None else names
    images = [data for shape in prepared for data in shape.images]
    captions = [caption for shape in prepared for caption in shape.captions]
    new = sorted({text for kind, text in captions if kind == NAME_KIND} - names.keys())
    if new:
        averages = prompts.prompt_average(teacher, new, templates=prompts.NAME_TEMPLATES)
        names.update(zip(new, averages, strict=True))
    sentences = sorted({text for kind, text in captions if kind != NAME_KIND})
    texts = {}
    if sentences:
        texts = dict(zip(sentences, teacher.encode_texts(sentences), strict=True))

    dim = teacher.info.dim
    image_rows = iter(teacher.encode_images(images)) if images else iter(())
    features = {}
    for shape in prepared:
        image = [next(image_rows) for _ in shape.images]
        text = [names[text] if kind == NAME_KIND else texts[text] for kind, text in shape.captions]
        features[shape.id] = (_half(image, dim, shape.id), _half(text, dim, shape.id))
    return features


def load_features(path: Path) -> Features:
    """Reads a file of `encode_shards`.

    Returns:
      shape id -> (image features [views, dim], text features [captions, dim]), float16.

    Raises:
      ValueError: the file is corrupt; the message contains its path and asks to delete it.
    """
    arrays = _read(path)
    features, image, text = {}, 0, 0
    rows = zip(arrays["ids"].tolist(), arrays["views"], arrays["captions"], strict=True)
    for shape_id, views, captions in rows:
        features[shape_id] = (
            arrays["image_features"][image : image + views],
            arrays["text_features"][text : text + captions],
        )
        image, text = image + views, text + captions
    return features


def fingerprint(prepared: Sequence[shapes.Shape], info: teachers.TeacherInfo) -> str:
    """Returns the SHA-256, in hexadecimal, of everything that the features of shapes depend on.

    Args:
      prepared: shapes, in their order.
      info: description of the teacher, with its revision.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps([str(info), prompts.NAME_TEMPLATES]).encode())
    for shape in prepared:
        digest.update(json.dumps([shape.id, shape.captions, len(shape.images)]).encode())
        for data in shape.images:
            digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()


def _half(rows: Sequence[np.ndarray], dim: int, shape_id: str) -> np.ndarray:
    """Returns rows as float16 [rows, dim]. ValueError if a value is non-finite in float16."""
    values = np.asarray(rows, np.float32).reshape(len(rows), dim)
    largest = np.finfo(np.float16).max
    if not (np.abs(values) <= largest).all():
        raise ValueError(
            f"a feature of shape {shape_id!r} is non-finite in float16 (largest value "
            f"{np.abs(values).max()}, allowed {largest}); check the teacher's weights and dtype"
        )
    return values.astype(np.float16)


def _save(path: Path, features: Features, *, fingerprint: str) -> None:
    """Writes one feature file atomically."""
    images = [image for image, _ in features.values()]
    texts = [text for _, text in features.values()]
    empty = np.zeros((0, 0), np.float16)
    atomic_io.write_npz(
        path,
        fingerprint=np.array(fingerprint),
        ids=np.array(list(features), np.str_),
        views=np.array([len(image) for image in images], np.int64),
        captions=np.array([len(text) for text in texts], np.int64),
        image_features=np.concatenate(images) if images else empty,
        text_features=np.concatenate(texts) if texts else empty,
    )


def _read_fingerprint(path: Path) -> str:
    """Returns the fingerprint of a feature file; "" for a corrupt file."""
    try:
        return str(_load(path)["fingerprint"])
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError):
        return ""


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        return _load(path)
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ValueError(
            f"{path}: not a complete feature file ({error}); delete it and run again"
        ) from error


def _load(path: Path) -> dict[str, np.ndarray]:
    # Opened here, because numpy does not close a file that it cannot read.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)
