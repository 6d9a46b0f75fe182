# SPDX-License-Identifier: Apache-2.0
"""Text features of joined captions, in one file per shard of shapes.

A file holds the captions of its shard and their features, so the records are written from files
alone. It has a fingerprint of the teacher, the prompts and the captions: only shards whose captions
have changed are encoded again.
"""

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import tqdm

from data_prep import features, progress, shapes, teachers
from data_prep.captions.joining import Captions
from data_prep.shards import beside
from data_prep.teachers import prompts
from mrd_jax import atomic_io

# Folder of the files below the output folder of a build.
FOLDER = "captions"
# Kind of the names that the filter rejects.
REJECTED = "name_rejected"


@dataclasses.dataclass(frozen=True)
class Added:
    """What caption files add to one shape.

    Attributes:
      captions: (kind, text) pairs.
      text_features: float16 [captions, dim].
      rejects_name: whether the captions of kind "name" become "name_rejected".
    """

    captions: tuple[tuple[str, str], ...]
    text_features: np.ndarray
    rejects_name: bool


def encode_shards(
    shards: Mapping[Path, Sequence[shapes.Shape]],
    output_dir: Path,
    captions: Captions,
    teacher: teachers.Teacher | None,
    *,
    ids: Collection[str],
    dtype: str = "float32",
    listener: progress.Listener = progress.ignore,
) -> dict[Path, Path]:
    """Encodes the captions of all shards without an up-to-date file, and prints counts.

    Args:
      shards: file of prepared shapes -> its shapes, without arrays.
      output_dir: folder of the files, which have the names of the shards.
      captions: joined captions.
      teacher: encodes texts; None if no file adds captions (a filter only).
      ids: ids of the shapes of the data set; others are skipped.
      dtype: dtype of the teacher's activations, which features depend on.
      listener: called with the progress.

    Returns:
      File of prepared shapes -> file for `load`.

    Raises:
      ValueError: a caption file has changed since it was joined, or a feature is non-finite in
        float16.
    """
    wanted = frozenset(ids)
    counts = dict.fromkeys(("written", "current", "captions", "truncated"), 0)
    targets = {}
    counter = progress.Counter(listener, "captions", unit="shard", total=len(shards))
    for path, shard in tqdm.tqdm(shards.items(), desc="captions", unit="shard"):
        entries = [_with_captions(shape, captions) for shape in shard if shape.id in wanted]
        rejected = [shape.id for shape in entries if captions.rejects_name(shape.id)]
        target = targets[path] = beside(path, output_dir)
        expected = _fingerprint(entries, rejected, teacher and teacher.info, dtype)
        meta = _read_meta(target) if target.exists() else {}
        is_current = meta.get("fingerprint") == expected
        counts["current" if is_current else "written"] += 1
        if not is_current:
            meta = _write(target, entries, rejected, teacher, fingerprint=expected)
        counter.add(reused=is_current)
        counts["captions"] += sum(len(shape.captions) for shape in entries)
        counts["truncated"] += meta["truncated"]
    counter.finish()
    print(
        f"captions: {counts['written']} shards written, {counts['current']} current; "
        f"{counts['captions']} captions, {counts['truncated']} of them longer than the teacher "
        "reads, and truncated"
    )
    return targets


def load(path: Path) -> dict[str, Added]:
    """Reads a file of `encode_shards`.

    Returns:
      shape id -> what is added to it.

    Raises:
      ValueError: the file is corrupt; the message contains its path and asks to delete it.
    """
    try:
        meta, text_features = _read(path)
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path}: not a complete file of captions ({error}); delete it and run again"
        ) from error
    added, row = {}, 0
    rejected = frozenset(meta["rejected"])
    for shape_id, pairs in meta["captions"].items():
        added[shape_id] = Added(
            captions=tuple((kind, text) for kind, text in pairs),
            text_features=text_features[row : row + len(pairs)],
            rejects_name=shape_id in rejected,
        )
        row += len(pairs)
    return added


def extend(
    captions: Sequence[tuple[str, str]], text_features: np.ndarray, added: Added
) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Appends added captions to those of a shape.

    Args:
      captions: (kind, text) pairs of the shape.
      text_features: float16 [captions, dim].
      added: what is added.

    Returns:
      All pairs, and float16 [all captions, dim].
    """
    pairs = extend_captions(captions, added)
    if not added.captions:
        return pairs, text_features
    rows = [part for part in (text_features, added.text_features) if len(part)]
    return pairs, np.concatenate(rows)


def extend_captions(captions: Sequence[tuple[str, str]], added: Added) -> list[tuple[str, str]]:
    """Returns the (kind, text) pairs of a shape and the added ones; renames rejected names."""
    rename = {features.NAME_KIND: REJECTED} if added.rejects_name else {}
    return [*((rename.get(kind, kind), text) for kind, text in captions), *added.captions]


def fingerprint(path: Path) -> str:
    """Returns the fingerprint of a file of `encode_shards`."""
    return _read_meta(path)["fingerprint"]


def _with_captions(shape: shapes.Shape, captions: Captions) -> shapes.Shape:
    """Returns a shape without pictures that has the joined captions only."""
    return dataclasses.replace(shape, images=(), captions=captions.of(shape.id))


def _fingerprint(
    entries: Sequence[shapes.Shape],
    rejected: Sequence[str],
    info: teachers.TeacherInfo | None,
    dtype: str,
) -> str:
    """Returns the SHA-256 of everything that a file depends on, in hexadecimal."""
    content = [str(info), dtype, prompts.NAME_TEMPLATES, rejected]
    content.append([(shape.id, shape.captions) for shape in entries])
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _write(
    path: Path,
    entries: Sequence[shapes.Shape],
    rejected: Sequence[str],
    teacher: teachers.Teacher | None,
    *,
    fingerprint: str,
) -> dict:
    """Encodes the captions of a shard and writes its file; returns the JSON part of it."""
    texts = [text for shape in entries for _, text in shape.captions]
    rows = np.zeros((0, 0), np.float16)
    if texts:
        encoded = features.encode_shapes(entries, teacher)
        rows = np.concatenate([text for _, text in encoded.values()])
    meta = {
        "fingerprint": fingerprint,
        "captions": {shape.id: shape.captions for shape in entries},
        "rejected": list(rejected),
        "truncated": teacher.count_truncated(texts) if texts else 0,
    }
    atomic_io.write_npz(
        path, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), text_features=rows
    )
    return meta


def _read_meta(path: Path) -> dict:
    """Returns the JSON part of a file; {} for a corrupt file."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return json.loads(arrays["meta"].tobytes())
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError):
        return {}


def _read(path: Path) -> tuple[dict, np.ndarray]:
    # Opened here, because numpy does not close a file that it cannot read.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return json.loads(arrays["meta"].tobytes()), arrays["text_features"]
