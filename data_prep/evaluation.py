# SPDX-License-Identifier: Apache-2.0
"""Evaluation files of a data set: classes, unseen names, groups; pictures of its shapes."""

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from data_prep import shapes
from mrd_jax import atomic_io

GROUPS_FILE = "groups.json"
# Longest side of a stored picture: enough for a page of search results.
PICTURE_SIZE = 128


@dataclasses.dataclass(frozen=True)
class Sidecar:
    """Content of the evaluation files.

    Attributes:
      classes: class names of the zero-shot evaluation.
      class_features: float32 [classes, dim], averaged over prompts, unit norm.
      unseen_names: ids of test shapes whose exact name no training shape has.
      groups: id -> group of the shapes that have one; {} if the source has no groups.
    """

    classes: Sequence[str]
    class_features: np.ndarray
    unseen_names: Sequence[str]
    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)


def write_sidecar(folder: Path, sidecar: Sidecar) -> None:
    """Writes classes.json, class_features.npy, unseen_names.json and, with groups, groups.json.

    Args:
      folder: evaluation folder of a data set; created if absent.
      sidecar: content of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.json").write_text(json.dumps(list(sidecar.classes), indent=1) + "\n")
    np.save(folder / "class_features.npy", sidecar.class_features.astype(np.float32))
    (folder / "unseen_names.json").write_text(json.dumps(list(sidecar.unseen_names), indent=1))
    write_groups(folder, sidecar.groups)


def write_groups(folder: Path, groups: Mapping[str, str]) -> bool:
    """Writes groups.json atomically; without groups, removes it.

    Args:
      folder: evaluation folder of a data set, which may have been built without groups.
      groups: id -> group.

    Returns:
      True if the file has changed.
    """
    path = folder / GROUPS_FILE
    found = path.read_text("utf-8") if path.exists() else None
    content = json.dumps(groups, indent=0) + "\n" if groups else None
    if content == found:
        return False
    if content is None:
        path.unlink()
    else:
        atomic_io.write_text(path, content)
    return True


def crossing_groups(
    groups: Mapping[str, str], splits: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Returns the groups with shapes in more than one split, and these splits.

    Args:
      groups: id -> group.
      splits: split -> ids of its shapes.
    """
    found: dict[str, list[str]] = {}
    for split, ids in splits.items():
        for group in sorted({groups[shape_id] for shape_id in ids if shape_id in groups}):
            found.setdefault(group, []).append(split)
    return {group: names for group, names in found.items() if len(names) > 1}


def unseen_names(
    catalogue: Iterable[shapes.Shape], splits: Mapping[str, Sequence[str]]
) -> list[str]:
    """Returns the test shapes whose exact name does not occur in the training split.

    The list is empty for a data set without a training split, whose students were trained on other
    data.

    Args:
      catalogue: shapes of all splits; arrays and images may be empty.
      splits: "train" and "test", or one of them, with the ids of their shapes.

    Returns:
      Ids, in the order of the test split.
    """
    if not {"train", "test"} <= splits.keys():
        return []
    names = {shape.id: shape.name for shape in catalogue}
    seen = {names[shape_id] for shape_id in splits["train"]}
    return [shape_id for shape_id in splits["test"] if names[shape_id] not in seen]


def picture_name(shape_id: str) -> str:
    """Returns a file name for a shape's picture, valid on all file systems and unique per id."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", shape_id)
    # Two ids may differ only in characters that are replaced here, or in letter case.
    return f"{safe[:80]}-{hashlib.sha256(shape_id.encode()).hexdigest()[:8]}.jpg"


def portrait(shape: shapes.Shape) -> bytes:
    """Returns the image shown to users: the first own picture of the shape, else its first view.

    The first view is from above at an angle; the last views are from below.

    Args:
      shape: shape with at least one image.
    """
    own = [kind == "picture" for kind in shape.image_kinds]
    return shape.images[own.index(True) if any(own) else 0]


def thumbnail(data: bytes) -> bytes:
    """Returns a small JPEG of an encoded picture.

    Args:
      data: encoded RGB picture of any size.

    Returns:
      JPEG whose longer side has at most `PICTURE_SIZE` pixels.
    """
    with PIL.Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGB")
    image.thumbnail((PICTURE_SIZE, PICTURE_SIZE), PIL.Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
