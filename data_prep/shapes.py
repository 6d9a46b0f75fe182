# SPDX-License-Identifier: Apache-2.0
"""Prepared shape, before a teacher encodes it, and its file format."""

import dataclasses
import hashlib
import json
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mrd_jax import atomic_io

# Arrays that only shards with released features have.
OPTIONAL = ("released_image", "released_text")

# Reason for skipping an item whose file is missing; the next run looks for it again.
FILE_MISSING = "file missing"

# Fields that fingerprints cover as bytes, and that an index does not have.
ARRAYS = ("xyz", "rgb", "images", "released")

# Texts that shapes of earlier versions do not have; fingerprints cover those that are not empty.
_LATER_FIELDS = ("geometry",)
_TEXT_FIELDS = ("id", "source", "name", "catalogue", "category", "creator", "licence", "label")


class SkipShape(Exception):  # noqa: N818 - a decision, not an error
    """Raised by a source to skip an item; the message is the reason that the summary counts."""


@dataclasses.dataclass(frozen=True)
class Released:
    """Features of a shape that were published with the data.

    Attributes:
      image: float16 [views, dim].
      image_kinds: "render" or "picture" for each row of `image`.
      text: float16 [captions, dim], one row per caption of the shape.
    """

    image: np.ndarray
    image_kinds: tuple[str, ...]
    text: np.ndarray


@dataclasses.dataclass(frozen=True, slots=True)  # without a dict for each of a million shapes
class Shape:
    """One prepared shape.

    Points are in random order: any prefix or window of them is a uniform sample of the surface.

    Attributes:
      id: unique within the source family.
      source: source family of the shape.
      name: name of the shape in the source.
      catalogue: part of the source that the shape comes from; splits are made by catalogue.
      category: coarse category in the source, or "".
      creator: author to be credited, or "".
      licence: licence text or name in the source.
      xyz: float32 [points, 3], z up, mean at the origin, largest norm 1.
      rgb: uint8 [points, 3].
      images: encoded RGB pictures on white: renders first, the source's own picture last.
      image_kinds: "render" or "picture" for each of `images`.
      captions: (kind, text) pairs; ("name", name) comes first if the shape has a name.
      label: class name, or "" if unknown.
      faults: repairs and omissions during preparation, one entry per occurrence.
      released: features published with the data; None if a teacher computes them.
      geometry: what shapes with the same geometry have in common, or "" if it is unknown.
    """

    id: str
    source: str
    name: str
    catalogue: str
    category: str
    creator: str
    licence: str
    xyz: np.ndarray
    rgb: np.ndarray
    images: tuple[bytes, ...]
    image_kinds: tuple[str, ...]
    captions: tuple[tuple[str, str], ...]
    label: str
    faults: tuple[str, ...] = ()
    released: Released | None = None
    geometry: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Indexed:
    """What a shard tells about a shape without its arrays.

    Attributes:
      shape: the shape, with empty `xyz`, `rgb` and `images`, and without released features.
      fingerprint: result of `fingerprint`.
      image_hashes: SHA-256 of each image, in hexadecimal.
    """

    shape: Shape
    fingerprint: str
    image_hashes: tuple[str, ...]


def normalise(xyz: np.ndarray) -> np.ndarray:
    """Moves the mean to the origin and scales the farthest point to norm 1.

    Args:
      xyz: [points, 3].

    Returns:
      float32 [points, 3].

    Raises:
      SkipShape: there is no point, a coordinate or its square is non-finite in double precision,
        or all points coincide.
    """
    if not len(xyz):
        raise SkipShape("no points")
    if not np.isfinite(xyz).all():
        raise SkipShape("non-finite coordinates")
    # The square of a finite coordinate may overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        centred = xyz.astype(np.float64) - xyz.mean(axis=0, dtype=np.float64)
        radius = np.linalg.norm(centred, axis=1).max()
    if not np.isfinite(radius):
        raise SkipShape("non-finite coordinates")
    if radius <= 0:
        raise SkipShape("all points coincide")
    return (centred / radius).astype(np.float32)


def generator(seed: int, identifier: str) -> np.random.Generator:
    """Returns a random generator that depends only on the seed and the shape.

    The order of the shapes and the number of processes have no influence.

    Args:
      seed: seed of the data set.
      identifier: id of the shape.
    """
    digest = hashlib.blake2b(identifier.encode(), digest_size=8).digest()
    return np.random.default_rng([seed, int.from_bytes(digest, "little")])


def fingerprint(shape: Shape) -> str:
    """Returns the SHA-256 of the prepared content of a shape, in hexadecimal."""
    texts = [
        getattr(shape, field.name)
        for field in dataclasses.fields(shape)
        if field.name not in (*ARRAYS, *_LATER_FIELDS)
    ]
    texts += [value for field in _LATER_FIELDS if (value := getattr(shape, field))]
    total = hashlib.sha256(json.dumps(texts).encode())
    for array in (shape.xyz, shape.rgb):
        total.update(np.ascontiguousarray(array))
    for image in shape.images:
        total.update(hashlib.sha256(image).digest())
    if shape.released is not None:
        total.update(json.dumps(shape.released.image_kinds).encode())
        for array in (shape.released.image, shape.released.text):
            total.update(np.ascontiguousarray(array))
    return total.hexdigest()


def save_shard(
    path: Path,
    shapes: Sequence[Shape],
    *,
    header: Mapping[str, object] | None = None,
) -> None:
    """Writes shapes to one npz file atomically.

    Args:
      path: target file; replaced if it exists.
      shapes: shapes with equal numbers of points.
      header: JSON-serialisable settings of the preparation, for `load_header`.
    """
    blobs = [image for shape in shapes for image in shape.images]
    records = []
    for shape in shapes:
        record = {field: getattr(shape, field) for field in (*_TEXT_FIELDS, *_LATER_FIELDS)}
        records.append(
            record
            | {
                "image_kinds": shape.image_kinds,
                "captions": shape.captions,
                "faults": shape.faults,
                "released_kinds": shape.released and shape.released.image_kinds,
                "fingerprint": fingerprint(shape),
                "image_hashes": _hashes(shape.images),
            }
        )
    meta = json.dumps({"header": dict(header or {}), "shapes": records}).encode()
    empty = np.zeros((0, 0, 3))
    arrays = {
        "meta": np.frombuffer(meta, np.uint8),
        "xyz": np.stack([s.xyz for s in shapes]).astype(np.float32) if shapes else empty,
        "rgb": np.stack([s.rgb for s in shapes]).astype(np.uint8) if shapes else empty,
        "image_bytes": np.frombuffer(b"".join(blobs), np.uint8),
        "image_sizes": np.array([len(blob) for blob in blobs], np.int64),
    }
    released = [shape.released for shape in shapes if shape.released is not None]
    if released:
        arrays["released_image"] = np.concatenate([features.image for features in released])
        arrays["released_text"] = np.concatenate([features.text for features in released])
    atomic_io.write_npz(path, **arrays)


def load_header(path: Path) -> dict:
    """Returns the header of a file of `save_shard`."""
    return _read(path, ("meta",))[0]["header"]


def load_index(path: Path) -> list[Indexed]:
    """Reads what a file of `save_shard` tells about its shapes, without their arrays.

    Files of earlier versions have no fingerprints, and are read as a whole.

    Raises:
      ValueError: the file is corrupt; the message contains its path and asks to delete it.
    """
    records = _read(path, ("meta",))[0]["shapes"]
    if any("fingerprint" not in record for record in records):
        return [
            Indexed(_without_arrays(shape), fingerprint(shape), _hashes(shape.images))
            for shape in load_shard(path)
        ]
    empty = (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8))
    return [
        Indexed(
            _make_shape(record, *empty, images=(), released=None),
            record["fingerprint"],
            tuple(record["image_hashes"]),
        )
        for record in records
    ]


def load_shard(path: Path) -> list[Shape]:
    """Reads a file of `save_shard`.

    Raises:
      ValueError: the file is corrupt; the message contains its path and asks to delete it.
    """
    meta, arrays = _read(path, ("meta", "xyz", "rgb", "image_bytes", "image_sizes", *OPTIONAL))
    ends = np.cumsum(arrays["image_sizes"])
    data = arrays["image_bytes"].tobytes()
    blobs = iter(
        [data[end - size : end] for end, size in zip(ends, arrays["image_sizes"], strict=True)]
    )
    released = _split_released(meta["shapes"], arrays)
    shapes = []
    for row, record in enumerate(meta["shapes"]):
        shapes.append(
            _make_shape(
                record,
                arrays["xyz"][row],
                arrays["rgb"][row],
                images=tuple(next(blobs) for _ in record["image_kinds"]),
                released=released[row],
            )
        )
    return shapes


def _make_shape(
    record: Mapping,
    xyz: np.ndarray,
    rgb: np.ndarray,
    *,
    images: tuple[bytes, ...],
    released: Released | None,
) -> Shape:
    """Returns the shape of a record in the JSON part of a file."""
    return Shape(
        # Most texts are those of other shapes too.
        **{field: sys.intern(record[field]) for field in _TEXT_FIELDS},
        **{field: record.get(field, "") for field in _LATER_FIELDS},
        xyz=xyz,
        rgb=rgb,
        images=images,
        image_kinds=tuple(map(sys.intern, record["image_kinds"])),
        captions=tuple((kind, text) for kind, text in record["captions"]),
        faults=tuple(record["faults"]),
        released=released,
    )


def _without_arrays(shape: Shape) -> Shape:
    # New arrays, because a slice would keep the whole array alive.
    empty = {"xyz": np.zeros((0, 3), np.float32), "rgb": np.zeros((0, 3), np.uint8)}
    return dataclasses.replace(shape, **empty, images=(), released=None)


def _hashes(images: Sequence[bytes]) -> tuple[str, ...]:
    return tuple(hashlib.sha256(image).hexdigest() for image in images)


def _split_released(
    records: Sequence[Mapping], arrays: Mapping[str, np.ndarray]
) -> list[Released | None]:
    """Returns the released features of each shape of a shard, None for shapes without."""
    result: list[Released | None] = []
    image = text = 0
    for record in records:
        kinds, captions = record.get("released_kinds"), len(record["captions"])
        if kinds is None:
            result.append(None)
            continue
        result.append(
            Released(
                image=arrays["released_image"][image : image + len(kinds)],
                image_kinds=tuple(kinds),
                text=arrays["released_text"][text : text + captions],
            )
        )
        image, text = image + len(kinds), text + captions
    return result


def _read(path: Path, names: Sequence[str]) -> tuple[dict, dict[str, np.ndarray]]:
    """Returns (meta, arrays) of a shard file, with released features if it contains any."""
    try:
        # Opened here, because numpy does not close a file that it cannot read.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in names if name in file or name not in OPTIONAL}
        return json.loads(arrays["meta"].tobytes()), arrays
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path}: not a complete shard ({error}); delete it and run again"
        ) from error
