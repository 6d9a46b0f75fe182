# SPDX-License-Identifier: Apache-2.0
"""Teacher features of prepared shapes, encoded once and stored in one file per shard."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import threading
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import tqdm

from data_prep import progress, shapes, teachers
from data_prep.shards import beside, move_flat
from data_prep.teachers import prompts
from mrd_jax import atomic_io

# Kind of the captions that are averaged over prompts; the others are sentences already.
NAME_KIND = "name"
# Shards that are encoded at the same time.
SHARDS_AT_A_TIME = 2
# Tokenizers are not thread-safe.
_TEXTS = threading.Lock()

# Image features [views, dim] and text features [captions, dim] of one shape.
Pair = tuple[np.ndarray, np.ndarray]
Features = dict[str, Pair]


@dataclasses.dataclass(frozen=True)
class _Task:
    """A shard whose features are not up to date."""

    path: Path
    target: Path
    images: int
    texts: int


def encode_shards(
    shards: Sequence[Path],
    output_dir: Path,
    teacher: teachers.Teacher,
    *,
    ids: Collection[str],
    dtype: str = "float32",
    listener: progress.Listener = progress.ignore,
) -> dict[str, int]:
    """Encodes the images and captions of all shards without up-to-date features.

    A feature file contains a fingerprint of the teacher, the prompts and the encoded content. So an
    interrupted run resumes, a completed one does nothing, and shapes are encoded again after a
    change of the teacher, a picture or a caption. Two shards are encoded at a time: while the
    devices compute one, the host reads and decodes the other.

    Args:
      shards: files of `shapes.save_shard`.
      output_dir: folder of the feature files, which have the subfolders and names of the shards.
      teacher: encodes images and texts.
      ids: ids of the shapes to encode; others are skipped.
      dtype: dtype of the teacher's activations, which features depend on.
      listener: called with the progress.

    Returns:
      Counts: read (shards), written, current (kept), stale (overwritten), images, texts.

    Raises:
      ValueError: the teacher returned a feature that is non-finite in float16.
    """
    counts = dict.fromkeys(("read", "written", "current", "stale", "images", "texts"), 0)
    wanted = frozenset(ids)
    move_flat(output_dir)
    tasks = []
    total = 0
    for path in shards:
        entries = [entry for entry in shapes.load_index(path) if entry.shape.id in wanted]
        images = sum(len(entry.image_hashes) for entry in entries)
        target = beside(path, output_dir)
        counts["read"] += 1
        total += images
        if target.exists():
            if _read_fingerprint(target) == fingerprint(entries, teacher.info, dtype=dtype):
                counts["current"] += 1
                continue
            counts["stale"] += 1
        texts = sum(len(entry.shape.captions) for entry in entries)
        tasks.append(_Task(path, target, images, texts))

    def encode(task: _Task) -> _Task:
        encode_shard(task.path, task.target, teacher, ids=wanted, dtype=dtype)
        return task

    left = sum(task.images for task in tasks)
    counter = progress.Counter(listener, "features", unit="image", total=total)
    counter.add(total - left, reused=True)
    with tqdm.tqdm(total=total, initial=total - left, desc="features", unit="image") as bar:
        for task in _map_ahead(encode, tasks):
            counts["written"] += 1
            counts["images"] += task.images
            counts["texts"] += task.texts
            bar.update(task.images)
            counter.add(task.images)
    counter.finish()
    return counts


def encode_shard(
    path: Path,
    target: Path,
    teacher: teachers.Teacher,
    *,
    ids: Collection[str],
    dtype: str = "float32",
) -> None:
    """Encodes the images and captions of one shard, and writes its feature file atomically.

    The content depends on the shard, the ids and the teacher alone: neither batches nor names are
    shared with other shards, so any host may encode it.

    Args:
      path: file of `shapes.save_shard`.
      target: file to write.
      teacher: encodes images and texts.
      ids: ids of the shapes to encode.
      dtype: dtype of the teacher's activations.

    Raises:
      ValueError: the teacher returned a feature that is non-finite in float16.
    """
    wanted = frozenset(ids)
    prepared = [shape for shape in shapes.load_shard(path) if shape.id in wanted]
    encoded = encode_shapes(prepared, teacher)
    entries = [entry for entry in shapes.load_index(path) if entry.shape.id in wanted]
    expected = fingerprint(entries, teacher.info, dtype=dtype)
    _save(target, encoded, fingerprint=expected, dtype=dtype)


def find_dtype(folder: Path) -> str | None:
    """Returns the dtype of the teacher that made the features below a folder; None without any."""
    for path in folder.rglob("shard-*.npz"):
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return str(arrays["dtype"]) if "dtype" in arrays else "float32"
    return None


def _map_ahead(function: Callable[[_Task], _Task], tasks: Sequence[_Task]) -> Iterator[_Task]:
    """Yields results in order; computes the next ones meanwhile, SHARDS_AT_A_TIME in all."""
    pending: collections.deque[concurrent.futures.Future[_Task]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(SHARDS_AT_A_TIME) as pool:
        try:
            for task in tasks:
                pending.append(pool.submit(function, task))
                if len(pending) == SHARDS_AT_A_TIME:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def encode_shapes(prepared: Sequence[shapes.Shape], teacher: teachers.Teacher) -> Features:
    """Encodes the images and captions of a few shapes.

    Args:
      prepared: shapes to encode.
      teacher: encodes images and texts.

    Returns:
      shape id -> (image features [views, dim], text features [captions, dim]), float16, in the
      order of the shape's images and captions. Names are averaged over prompts.

    Raises:
      ValueError: a feature is non-finite in float16.
    """
    captions = {caption for shape in prepared for caption in shape.captions}
    with _TEXTS:
        texts = _encode_captions(captions, teacher)
    dim = teacher.info.dim
    images = [data for shape in prepared for data in shape.images]
    image_rows = iter(teacher.encode_images(images)) if images else iter(())
    features = {}
    for shape in prepared:
        image = [next(image_rows) for _ in shape.images]
        text = [texts[kind == NAME_KIND, text] for kind, text in shape.captions]
        features[shape.id] = (_half(image, dim, shape.id), _half(text, dim, shape.id))
    return features


def _encode_captions(
    captions: Collection[tuple[str, str]], teacher: teachers.Teacher
) -> dict[tuple[bool, str], np.ndarray]:
    """Returns the feature of each caption, by whether it is a name, and its text."""
    features = {}
    if names := sorted({text for kind, text in captions if kind == NAME_KIND}):
        rows = prompts.prompt_average(teacher, names, templates=prompts.NAME_TEMPLATES)
        features |= {(True, text): row for text, row in zip(names, rows, strict=True)}
    if sentences := sorted({text for kind, text in captions if kind != NAME_KIND}):
        rows = teacher.encode_texts(sentences)
        features |= {(False, text): row for text, row in zip(sentences, rows, strict=True)}
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


def fingerprint(
    entries: Sequence[shapes.Indexed], info: teachers.TeacherInfo, *, dtype: str = "float32"
) -> str:
    """Returns the SHA-256, in hexadecimal, of everything that the features of shapes depend on.

    Args:
      entries: shapes, in their order.
      info: description of the teacher, with its revision.
      dtype: dtype of the teacher's activations.
    """
    digest = hashlib.sha256()
    # Absent by default, as in the fingerprints of earlier versions.
    other = [dtype] if dtype != "float32" else []
    digest.update(json.dumps([str(info), prompts.NAME_TEMPLATES, *other]).encode())
    for entry in entries:
        shape, hashes = entry.shape, entry.image_hashes
        digest.update(json.dumps([shape.id, shape.captions, len(hashes)]).encode())
        for each in hashes:
            digest.update(bytes.fromhex(each))
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


def _save(path: Path, features: Features, *, fingerprint: str, dtype: str) -> None:
    """Writes one feature file atomically."""
    images = [image for image, _ in features.values()]
    texts = [text for _, text in features.values()]
    empty = np.zeros((0, 0), np.float16)
    atomic_io.write_npz(
        path,
        fingerprint=np.array(fingerprint),
        dtype=np.array(dtype),
        ids=np.array(list(features), np.str_),
        views=np.array([len(image) for image in images], np.int64),
        captions=np.array([len(text) for text in texts], np.int64),
        image_features=np.concatenate(images) if images else empty,
        text_features=np.concatenate(texts) if texts else empty,
    )


def _read_fingerprint(path: Path) -> str:
    """Returns the fingerprint of a feature file; "" for a corrupt file."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return str(arrays["fingerprint"])
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
