# SPDX-License-Identifier: Apache-2.0
"""Teacher features of prepared shapes, one file per shard of shapes, encoded once."""

import hashlib
import json
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import tqdm

from data_prep import shapes as shapes_lib
from data_prep import teachers
from data_prep.teachers import prompts
from mrd_jax import atomic_io

# The kind of caption that is averaged over prompts; the others are sentences already.
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
    """Encodes images and captions of all shards that have no features yet.

    A feature file carries a fingerprint of the teacher, of the prompts and of everything that was
    encoded, so an interrupted run continues, a finished one does nothing, and a changed teacher,
    picture or caption is always encoded anew.

    Args:
      shards: files of `shapes.save_shard`.
      output_dir: gets one file per shard, under the shard's name.
      teacher: encodes images and texts.
      ids: shapes to encode; others are left out.

    Returns:
      counts: read (shards), written, current (left alone), stale (written over), images, texts.

    Raises:
      ValueError: the teacher gave a feature that is not finite in half precision.
    """
    counts = dict.fromkeys(("read", "written", "current", "stale", "images", "texts"), 0)
    wanted, names = frozenset(ids), {}
    for path in tqdm.tqdm(shards, desc="features", unit="shard"):
        shapes = [shape for shape in shapes_lib.load_shard(path) if shape.id in wanted]
        target = output_dir / path.name
        mark = fingerprint(shapes, teacher.info)
        counts["read"] += 1
        if target.exists():
            if _read_mark(target) == mark:
                counts["current"] += 1
                continue
            counts["stale"] += 1
        features = encode_shapes(shapes, teacher, names=names)
        _save(target, features, mark=mark)
        counts["written"] += 1
        counts["images"] += sum(len(shape.images) for shape in shapes)
        counts["texts"] += sum(len(shape.captions) for shape in shapes)
    return counts


def encode_shapes(
    shapes: Sequence[shapes_lib.Shape],
    teacher: teachers.Teacher,
    *,
    names: dict[str, np.ndarray] | None = None,
) -> Features:
    """Features of a few shapes.

    Args:
      shapes: to encode.
      teacher: encodes images and texts.
      names: features of names met before; new ones are added, since names repeat.

    Returns:
      shape id -> (image features [views, dim], text features [captions, dim]), float16, in the
      order of the shape's images and captions. Names are averaged over prompts.

    Raises:
      ValueError: a feature is not finite in half precision.
    """
    names = {} if names is None else names
    images = [data for shape in shapes for data in shape.images]
    captions = [caption for shape in shapes for caption in shape.captions]
    new = sorted({text for kind, text in captions if kind == NAME_KIND} - names.keys())
    if new:
        averages = prompts.prompt_average(teacher, new, templates=prompts.NAME_TEMPLATES)
        names.update(zip(new, averages, strict=True))
    plain = sorted({text for kind, text in captions if kind != NAME_KIND})
    texts = dict(zip(plain, teacher.encode_texts(plain), strict=True)) if plain else {}

    dim = teacher.info.dim
    pictures = iter(teacher.encode_images(images)) if images else iter(())
    features = {}
    for shape in shapes:
        rows = [next(pictures) for _ in shape.images]
        words = [names[text] if kind == NAME_KIND else texts[text] for kind, text in shape.captions]
        features[shape.id] = (_half(rows, dim, shape.id), _half(words, dim, shape.id))
    return features


def load_features(path: Path) -> Features:
    """Reads one file that `encode_shards` wrote.

    Returns:
      shape id -> (image features [views, dim], text features [captions, dim]), float16.

    Raises:
      ValueError: the file is damaged; it names the file and says to delete it.
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


def fingerprint(shapes: Sequence[shapes_lib.Shape], info: teachers.TeacherInfo) -> str:
    """Hex digest of everything that the features of these shapes depend on.

    Args:
      shapes: in their order.
      info: of the teacher, with its revision.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps([str(info), prompts.NAME_TEMPLATES]).encode())
    for shape in shapes:
        digest.update(json.dumps([shape.id, shape.captions, len(shape.images)]).encode())
        for data in shape.images:
            digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()


def _half(rows: Sequence[np.ndarray], dim: int, shape_id: str) -> np.ndarray:
    """Rows as float16 [rows, dim]; finite or an error."""
    values = np.asarray(rows, np.float32).reshape(len(rows), dim)
    largest = np.finfo(np.float16).max
    if not (np.abs(values) <= largest).all():
        raise ValueError(
            f"a feature of shape {shape_id!r} is not finite in float16 (largest value "
            f"{np.abs(values).max()}, allowed {largest}); check the teacher's weights and dtype."
        )
    return values.astype(np.float16)


def _save(path: Path, features: Features, *, mark: str) -> None:
    """Writes one feature file, complete or not at all."""
    images = [image for image, _ in features.values()]
    texts = [text for _, text in features.values()]
    empty = np.zeros((0, 0), np.float16)
    atomic_io.write_npz(
        path,
        fingerprint=np.array(mark),
        ids=np.array(list(features), np.str_),
        views=np.array([len(image) for image in images], np.int64),
        captions=np.array([len(text) for text in texts], np.int64),
        image_features=np.concatenate(images) if images else empty,
        text_features=np.concatenate(texts) if texts else empty,
    )


def _read_mark(path: Path) -> str:
    """The fingerprint of a feature file; "" where the file is damaged and must be written anew."""
    try:
        return str(_load(path)["fingerprint"])
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError):
        return ""


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        return _load(path)
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ValueError(
            f"{path}: not a whole feature file ({error}); delete it and run again"
        ) from error


def _load(path: Path) -> dict[str, np.ndarray]:
    # np.load leaves the file open where it is no zip archive.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)
