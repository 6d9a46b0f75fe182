# SPDX-License-Identifier: Apache-2.0
"""Checks of records, metadata and evaluation files; each returns the faults that it finds."""

import collections
import dataclasses
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from data_prep import evaluation, records
from mrd_jax import storage
from mrd_jax.data import batch_spec, picture_files

IMAGE_KINDS = ("render", "picture")
# Points are float16: rounding moves a coordinate, and so the mean and a point of norm 1, by at most
# half of this value.
HALF_STEP = float(np.finfo(np.float16).eps)
# Class features are float32.
UNIT_TOLERANCE = 1e-5
# Fields of metadata.json that readers use, and their types.
METADATA = {
    "teacher": dict,
    "up_axis": str,
    "from_y_up": str,
    "normalisation": str,
    "points": int,
    "source": str,
    "counts": dict,
}
TEACHER = {"name": str, "revision": str, "dim": int, "kind": str, "preprocessing": str}


@dataclasses.dataclass(frozen=True, order=True)
class Fault:
    """One fault of a data set.

    Attributes:
      file: path relative to the folder of the data set.
      record: position of the record in the file; -1 for a fault of the whole file.
      id: id of the record, or "" if unknown.
      reason: what was found and what was expected.
    """

    file: str
    record: int
    id: str
    reason: str

    def __str__(self) -> str:
        where = self.file if self.record < 0 else f"{self.file}, record {self.record}"
        return f"{where} ({self.id!r}): {self.reason}" if self.id else f"{where}: {self.reason}"


def file_fault(file: str, reason: str) -> Fault:
    """Returns a fault of a whole file."""
    return Fault(file, -1, "", reason)


def record_reasons(
    record: Mapping[str, Any], *, classes: int | None, pictures: storage.Path
) -> Iterator[str]:
    """Yields the faults of a decoded record, whose array shapes the reader has checked.

    Args:
      record: all fields of the record.
      classes: number of classes; None if unknown.
      pictures: folder of the pictures.
    """
    if not record["id"]:
        yield "id is empty"
    yield from cloud_reasons(record["xyz"])
    for name, parallel in (
        ("image_features", ("image_kinds",)),
        ("text_features", ("captions", "caption_kinds")),
    ):
        yield from _feature_reasons(name, record[name])
        for other in parallel:
            if len(record[other]) != len(record[name]):
                yield f"{name} has {len(record[name])} rows, but {other} {len(record[other])}"
    for name, kinds in (("image_kinds", IMAGE_KINDS), ("caption_kinds", batch_spec.CAPTION_KINDS)):
        unknown = sorted(set(record[name]) - set(kinds))
        if unknown:
            yield f"{name} has the unknown kinds {unknown}, expected some of {list(kinds)}"
    if classes is not None and not -1 <= record["label"] < classes:
        yield f"label is {record['label']}, expected -1 or an index of the {classes} classes"
    yield from _picture_reasons(record, pictures)


def cloud_reasons(xyz: np.ndarray) -> Iterator[str]:
    """Yields the faults of points [points, 3]: non-finite, or not centred in the unit sphere."""
    xyz = xyz.astype(np.float32)
    bad = np.count_nonzero(~np.isfinite(xyz).all(axis=1))
    if bad:
        yield f"xyz: {bad} of {len(xyz)} points are non-finite"
        return
    radius = np.sqrt(np.einsum("ij,ij->i", xyz, xyz).max())
    if abs(radius - 1) > HALF_STEP:
        yield f"xyz: the farthest point is {radius:.4f} from the origin, expected 1"
    offset = np.linalg.norm(xyz.mean(axis=0))
    if offset > HALF_STEP:
        yield f"xyz: the mean is {offset:.4f} from the origin, expected 0"


def _feature_reasons(name: str, rows: np.ndarray) -> Iterator[str]:
    """Yields the faults of features [count, dim]: rows that are non-finite or zero."""
    for kind, wrong in (
        ("non-finite", ~np.isfinite(rows).all(axis=1)),
        ("zero", ~rows.any(axis=1)),
    ):
        if wrong.any():
            yield f"{name}: rows {np.flatnonzero(wrong).tolist()} of {len(rows)} are {kind}"


def _picture_reasons(record: Mapping[str, Any], pictures: storage.Path) -> Iterator[str]:
    """Yields the faults of a picture: wrong name for the record's id, missing or corrupt."""
    found, expected = record["picture"], evaluation.picture_name(record["id"])
    if not found:
        return
    if found.rpartition("/")[2] != expected:
        yield f"picture is {found!r}, expected {expected!r}, with or without a zip file"
        return
    try:
        data = picture_files.read(pictures / found)
        if data is None:
            yield f"picture {found} is missing from evaluation/pictures"
            return
        with PIL.Image.open(io.BytesIO(data)) as image:
            image.load()
    except (
        OSError,
        SyntaxError,
        PIL.Image.DecompressionBombError,
        zipfile.BadZipFile,
    ) as error:
        yield f"picture {found} is corrupt: {error}"


def metadata_faults(
    metadata: Mapping[str, Any], *, splits: Mapping[str, int], features: tfds.features.FeaturesDict
) -> Iterator[Fault]:
    """Yields missing metadata, and metadata that contradict the rest of the data set.

    Args:
      metadata: content of metadata.json.
      splits: split -> number of records, from dataset_info.json.
      features: record schema, from features.json.
    """
    reasons = list(_type_reasons(metadata, METADATA, ""))
    if not reasons:
        reasons = list(_type_reasons(metadata["teacher"], TEACHER, "teacher."))
    if reasons:
        yield from (file_fault("metadata.json", reason) for reason in reasons)
        return
    for name, value in (
        ("up_axis", batch_spec.UP_AXIS),
        ("normalisation", batch_spec.NORMALISATION),
    ):
        if metadata[name] != value:
            yield file_fault("metadata.json", f"{name} is {metadata[name]!r}, expected {value!r}")
    counts = {name: count for name, count in metadata["counts"].items() if name != "classes"}
    if counts != dict(splits):
        reason = f"counts are {counts}, in dataset_info.json {dict(splits)}"
        yield file_fault("metadata.json", reason)
    schema = records.schema(points=metadata["points"], dim=metadata["teacher"]["dim"])
    for name in sorted(set(schema) | set(features)):
        expected = str(schema[name]) if name in schema else "absent"
        found = str(features[name]) if name in features else "absent"
        if found != expected:
            reason = f"{name} is {found}, expected {expected} from metadata.json"
            yield file_fault("features.json", reason)


def _type_reasons(values: Mapping[str, Any], types: Mapping[str, type], prefix: str):
    """Yields the fields that are missing or have another type."""
    for name, kind in types.items():
        if not isinstance(values.get(name), kind):
            found = f"is {values[name]!r}" if name in values else "is missing"
            yield f"{prefix}{name} {found}, expected {kind.__name__}"


def read_texts(folder: storage.Path, name: str) -> tuple[list[str] | None, list[Fault]]:
    """Reads a list of distinct texts among the evaluation files.

    Args:
      folder: folder of the evaluation files.
      name: file name.

    Returns:
      The list, None if it cannot be read, and the faults.
    """
    file = f"{folder.name}/{name}"
    try:
        texts = json.loads((folder / name).read_bytes())
    except FileNotFoundError:
        return None, [file_fault(file, "is missing")]
    except ValueError as error:
        return None, [file_fault(file, f"is corrupt: {error}")]
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        return None, [file_fault(file, "is not a list of texts")]
    repeated = [text for text, count in collections.Counter(texts).items() if count > 1]
    return texts, [file_fault(file, f"lists {text!r} more than once") for text in repeated]


def read_groups(folder: storage.Path) -> tuple[dict[str, str], list[Fault]]:
    """Reads the groups among the evaluation files.

    Args:
      folder: folder of the evaluation files.

    Returns:
      id -> group, {} if there is no such file or it cannot be read, and the faults.
    """
    file = f"{folder.name}/{evaluation.GROUPS_FILE}"
    path = folder / evaluation.GROUPS_FILE
    if not path.exists():
        return {}, []
    try:
        groups = json.loads(path.read_bytes())
    except ValueError as error:
        return {}, [file_fault(file, f"is corrupt: {error}")]
    if not isinstance(groups, dict) or not all(
        isinstance(group, str) and group for group in groups.values()
    ):
        return {}, [file_fault(file, "is not an object of ids and names of groups")]
    return groups, []


def check_classes(
    folder: storage.Path, *, metadata: Mapping[str, Any], dim: int
) -> tuple[int | None, list[Fault]]:
    """Checks the names and the features of the classes.

    Args:
      folder: folder of the evaluation files.
      metadata: content of metadata.json.
      dim: length of the teacher's features.

    Returns:
      The number of names, None if they cannot be read, and the faults.
    """
    names, faults = read_texts(folder, "classes.json")
    if names is None:
        return None, faults
    counts = metadata.get("counts")
    count = counts.get("classes") if isinstance(counts, dict) else None
    if count != len(names):
        reason = f"counts.classes is {count}, but evaluation/classes.json has {len(names)} names"
        faults.append(file_fault("metadata.json", reason))
    file = f"{folder.name}/class_features.npy"
    reasons = _class_feature_reasons(folder / "class_features.npy", shape=(len(names), dim))
    return len(names), faults + [file_fault(file, reason) for reason in reasons]


def _class_feature_reasons(path: storage.Path, *, shape: tuple[int, int]) -> Iterator[str]:
    """Yields the faults of class features: missing, of another shape, or not of unit norm."""
    try:
        found = storage.read_array(path)
    except FileNotFoundError:
        yield "is missing"
        return
    except (OSError, ValueError, EOFError) as error:
        yield f"is corrupt: {error}"
        return
    if found.dtype != np.float32 or found.shape != shape:
        yield f"is {found.dtype} {list(found.shape)}, expected float32 {list(shape)}"
        return
    norms = np.linalg.norm(found, axis=1)
    for row in np.flatnonzero(~(np.abs(norms - 1) <= UNIT_TOLERANCE)):  # True for NaN, too
        yield f"row {row} has norm {norms[row]:.6f}, expected 1"
