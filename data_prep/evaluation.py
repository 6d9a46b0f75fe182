# SPDX-License-Identifier: Apache-2.0
"""The files beside the records that evaluation and the search page read."""

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

# Longest side of a stored picture: enough for a page of search results.
PICTURE_SIZE = 128


@dataclasses.dataclass(frozen=True)
class Sidecar:
    """What evaluation needs besides the records.

    Attributes:
      classes: class names that the zero-shot evaluation chooses among.
      class_features: float32 [classes, dim], averaged over prompts, unit norm.
      unseen_names: ids of test shapes whose exact name no training shape has.
      shapes: whole shapes, of which `portrait` becomes a picture; read once. Those without images
        may be left out.
    """

    classes: Sequence[str]
    class_features: np.ndarray
    unseen_names: Sequence[str]
    shapes: Iterable[shapes.Shape]


def write_sidecar(folder: Path, sidecar: Sidecar) -> None:
    """Writes classes.json, class_features.npy, unseen_names.json and pictures/.

    Args:
      folder: evaluation folder of a data set; made where absent.
      sidecar: what to write.
    """
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    (folder / "classes.json").write_text(json.dumps(list(sidecar.classes), indent=1) + "\n")
    np.save(folder / "class_features.npy", sidecar.class_features.astype(np.float32))
    (folder / "unseen_names.json").write_text(json.dumps(list(sidecar.unseen_names), indent=1))
    for shape in sidecar.shapes:
        if shape.images:
            (pictures / picture_name(shape.id)).write_bytes(thumbnail(portrait(shape)))


def unseen_names(
    catalogue: Iterable[shapes.Shape], splits: Mapping[str, Sequence[str]]
) -> list[str]:
    """Test shapes whose exact name never occurs in training; none where there is no training split.

    A set that is only for testing cannot say what its students were trained on.

    Args:
      catalogue: shapes of all splits; arrays and images may be left out.
      splits: "train" and "test", or one of them, with the ids of their shapes.

    Returns:
      ids, in the order of the test split.
    """
    if not {"train", "test"} <= splits.keys():
        return []
    names = {shape.id: shape.name for shape in catalogue}
    seen = {names[shape_id] for shape_id in splits["train"]}
    return [shape_id for shape_id in splits["test"] if names[shape_id] not in seen]


def picture_name(shape_id: str) -> str:
    """File name of a shape's picture, safe on every file system and different for every id."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", shape_id)
    # Two ids may differ only in what was replaced, or in letter case.
    return f"{safe[:80]}-{hashlib.sha256(shape_id.encode()).hexdigest()[:8]}.jpg"


def portrait(shape: shapes.Shape) -> bytes:
    """The image that people see: the first that came with the shape, else the first view.

    The first view is from above at an angle; the last ones are from below.

    Args:
      shape: with at least one image.
    """
    own = [kind == "picture" for kind in shape.image_kinds]
    return shape.images[own.index(True) if any(own) else 0]


def thumbnail(data: bytes) -> bytes:
    """A small JPEG of an encoded picture.

    Args:
      data: encoded RGB picture of any size.

    Returns:
      JPEG whose longer side is at most `PICTURE_SIZE`.
    """
    with PIL.Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGB")
    image.thumbnail((PICTURE_SIZE, PICTURE_SIZE), PIL.Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
