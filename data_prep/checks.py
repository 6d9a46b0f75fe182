# SPDX-License-Identifier: Apache-2.0
"""What a record and the files beside the records must be; each check says what is wrong."""

import collections
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from data_prep import evaluation, records
from mrd_jax.data import batch_spec

IMAGE_KINDS = ("render", "picture")
# Points are half floats: rounding moves a coordinate, and so the mean and a point of norm 1, by
# half of this at most.
HALF_STEP = float(np.finfo(np.float16).eps)
# Class features are single floats.
UNIT_TOLERANCE = 1e-5
# What readers take from metadata.json, and the type of each.
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
    """One thing that is wrong.

    Attributes:
      file: below the data set's folder.
      record: place of the record in that file, or -1 where the fault is of the whole file.
      id: of the record, or "" where it is not known.
      reason: what was found and what was expected.
    """

    file: str
    record: int
    id: str
    reason: str

    def __str__(self) -> str:
        where = self.file if self.record < 0 else f"{self.file}, record {self.record}"
        return f"{where} ({self.id!r}): {self.reason}" if self.id else f"{where}: {self.reason}"


def of_file(file: str, reason: str) -> Fault:
    """A fault of a whole file."""
    return Fault(file, -1, "", reason)


def record_reasons(
    record: Mapping[str, Any], *, classes: int | None, pictures: Path
) -> Iterator[str]:
    """What is wrong with a decoded record, whose shapes the reader has checked.

    Args:
      record: with every field.
      classes: how many there are; None where that is not known.
      pictures: folder of the pictures.
    """
    if not record["id"]:
        yield "id is empty"
    yield from cloud_reasons(record["xyz"])
    for name, lists in (
        ("image_features", ("image_kinds",)),
        ("text_features", ("captions", "caption_kinds")),
    ):
        yield from _feature_reasons(name, record[name])
        for other in lists:
            if len(record[other]) != len(record[name]):
                yield f"{name} has {len(record[name])} rows, but {other} {len(record[other])}"
    for name, known in (("image_kinds", IMAGE_KINDS), ("caption_kinds", batch_spec.CAPTION_KINDS)):
        unknown = sorted(set(record[name]) - set(known))
        if unknown:
            yield f"{name} has the unknown kinds {unknown}, expected some of {list(known)}"
    if classes is not None and not -1 <= record["label"] < classes:
        yield f"label is {record['label']}, expected -1 or a place among the {classes} classes"
    yield from _picture_reasons(record, pictures)


def cloud_reasons(xyz: np.ndarray) -> Iterator[str]:
    """Points [points, 3] that are not finite, or not centred in the unit sphere."""
    xyz = xyz.astype(np.float32)
    bad = np.count_nonzero(~np.isfinite(xyz).all(axis=1))
    if bad:
        yield f"xyz: {bad} of {len(xyz)} points are not finite"
        return
    radius = np.sqrt(np.einsum("ij,ij->i", xyz, xyz).max())
    if abs(radius - 1) > HALF_STEP:
        yield f"xyz: the farthest point is {radius:.4f} from the origin, expected 1"
    offset = np.linalg.norm(xyz.mean(axis=0))
    if offset > HALF_STEP:
        yield f"xyz: the mean is {offset:.4f} from the origin, expected 0"


def _feature_reasons(name: str, rows: np.ndarray) -> Iterator[str]:
    """Features [count, dim] that are not finite or have no direction."""
    for what, wrong in (
        ("not finite", ~np.isfinite(rows).all(axis=1)),
        ("zero", ~rows.any(axis=1)),
    ):
        if wrong.any():
            yield f"{name}: rows {np.flatnonzero(wrong).tolist()} of {len(rows)} are {what}"


def _picture_reasons(record: Mapping[str, Any], pictures: Path) -> Iterator[str]:
    """A picture that has another name than the record's id gives it, is missing or damaged."""
    found, wanted = record["picture"], evaluation.picture_name(record["id"])
    if not found:
        return
    if found != wanted:
        yield f"picture is {found!r}, expected {wanted!r}"
        return
    path = pictures / found
    try:
        with PIL.Image.open(io.BytesIO(path.read_bytes())) as image:
            image.load()
    except FileNotFoundError:
        yield f"picture {found} is missing from evaluation/pictures"
    except (OSError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        yield f"picture {found} is damaged: {error}"


def metadata_faults(
    metadata: Mapping[str, Any], *, splits: Mapping[str, int], features: tfds.features.FeaturesDict
) -> Iterator[Fault]:
    """Metadata that lack something, or say something else than the rest of the data set.

    Args:
      metadata: from metadata.json.
      splits: name -> records, from dataset_info.json.
      features: from features.json.
    """
    reasons = list(_type_reasons(metadata, METADATA, ""))
    if not reasons:
        reasons = list(_type_reasons(metadata["teacher"], TEACHER, "teacher."))
    if reasons:
        yield from (of_file("metadata.json", reason) for reason in reasons)
        return
    for name, wanted in (
        ("up_axis", batch_spec.UP_AXIS),
        ("normalisation", batch_spec.NORMALISATION),
    ):
        if metadata[name] != wanted:
            yield of_file("metadata.json", f"{name} is {metadata[name]!r}, expected {wanted!r}")
    counts = {name: count for name, count in metadata["counts"].items() if name != "classes"}
    if counts != dict(splits):
        yield of_file("metadata.json", f"counts are {counts}, in dataset_info.json {dict(splits)}")
    wanted = records.schema(points=metadata["points"], dim=metadata["teacher"]["dim"])
    for name in sorted(set(wanted) | set(features)):
        ours, found = (str(one[name]) if name in one else "absent" for one in (wanted, features))
        if found != ours:
            yield of_file("features.json", f"{name} is {found}, by metadata.json it is {ours}")


def _type_reasons(values: Mapping[str, Any], types: Mapping[str, type], prefix: str):
    """Facts that are missing or of another type."""
    for name, kind in types.items():
        if not isinstance(values.get(name), kind):
            found = f"is {values[name]!r}" if name in values else "is missing"
            yield f"{prefix}{name} {found}, expected {kind.__name__}"


def read_texts(folder: Path, name: str) -> tuple[list[str] | None, list[Fault]]:
    """A list of different texts among the evaluation files, and what is wrong with it.

    Args:
      folder: of the evaluation files.
      name: of the file.

    Returns:
      the list, None where it cannot be read, and faults.
    """
    file = f"{folder.name}/{name}"
    try:
        found = json.loads((folder / name).read_bytes())
    except FileNotFoundError:
        return None, [of_file(file, "is missing")]
    except ValueError as error:
        return None, [of_file(file, f"is damaged: {error}")]
    if not isinstance(found, list) or not all(isinstance(one, str) and one for one in found):
        return None, [of_file(file, "is not a list of texts")]
    twice = [one for one, count in collections.Counter(found).items() if count > 1]
    return found, [of_file(file, f"lists {one!r} more than once") for one in twice]


def classes(
    folder: Path, *, metadata: Mapping[str, Any], dim: int
) -> tuple[int | None, list[Fault]]:
    """How many classes there are, and what is wrong with their names and features.

    Args:
      folder: of the evaluation files.
      metadata: from metadata.json.
      dim: of the teacher.

    Returns:
      the number of names, None where they cannot be read, and faults.
    """
    names, faults = read_texts(folder, "classes.json")
    if names is None:
        return None, faults
    counts = metadata.get("counts")
    told = counts.get("classes") if isinstance(counts, dict) else None
    if told != len(names):
        reason = f"counts.classes is {told}, but evaluation/classes.json has {len(names)} names"
        faults.append(of_file("metadata.json", reason))
    file = f"{folder.name}/class_features.npy"
    reasons = _class_feature_reasons(folder / "class_features.npy", shape=(len(names), dim))
    return len(names), faults + [of_file(file, reason) for reason in reasons]


def _class_feature_reasons(path: Path, *, shape: tuple[int, int]) -> Iterator[str]:
    """Class features that are missing, of another size, or not of unit norm."""
    try:
        # Opened here, because numpy leaves a file that it cannot read open.
        with path.open("rb") as stream:
            found = np.load(stream, allow_pickle=False)
    except FileNotFoundError:
        yield "is missing"
        return
    except (OSError, ValueError, EOFError) as error:
        yield f"is damaged: {error}"
        return
    if found.dtype != np.float32 or found.shape != shape:
        yield f"is {found.dtype} {list(found.shape)}, expected float32 {list(shape)}"
        return
    norms = np.linalg.norm(found, axis=1)
    for row in np.flatnonzero(~(np.abs(norms - 1) <= UNIT_TOLERANCE)):  # finds a NaN, too
        yield f"row {row} has norm {norms[row]:.6f}, expected 1"
