# SPDX-License-Identifier: Apache-2.0
"""Base class, file lookup and conventions of the importers of published data sets.

OpenShape's release and the three benchmarks include features of one teacher, so no teacher has to
run (`--teacher released`): features of every shape (OpenShape, Objaverse-LVIS), or of the class
names only. Another teacher can embed the class names of a benchmark; its shapes then have points,
labels and captions but no image features.

Invalid input. The import stops with an error that names the file if a list, the filter or the class
features are missing or inconsistent, if a `.npy` file contains more than arrays and plain
containers, or if a file is corrupt. A shape that cannot be used is skipped and counted by reason:
file missing, id listed twice, too few points, arrays of the wrong shape, non-finite or coincident
coordinates, features of the wrong dimension. A single feature that is non-finite or zero is dropped
together with its caption, and counted. A class without shapes remains one of the classes of the
evaluation, and is printed.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from data_prep import shapes, teachers
from data_prep.foreign import safe_pickle
from data_prep.sources import splitting

# Teacher of all features in OpenShape's release, as named in its README.
OPENCLIP = teachers.TeacherInfo(
    name="laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
    revision="features as released by OpenShape",
    dim=1280,
    kind="clip",
    preprocessing="done by OpenShape with OpenCLIP, ViT-bigG-14, laion2b_s39b_b160k",
)
# Grey value of clouds without colour: 0.4 of 1, as in OpenShape and Uni3D.
NO_COLOUR = round(0.4 * 255)
# Folders below the input folder that are searched for OpenShape's lists, in this order.
META_FOLDERS = ("meta_data", "")


@dataclasses.dataclass(frozen=True)
class ClassSet:
    """Classes of a zero-shot evaluation.

    Attributes:
      names: class names, with the published spelling and in the published order.
      features: released text features, float32 [classes, dim], unit norm, or None.
    """

    names: tuple[str, ...] = ()
    features: np.ndarray | None = None

    def spoken_names(self) -> list[str]:
        """Returns the class names with spaces for underscores, for use in prompts."""
        return spoken(self.names)


def spoken(names: Iterable[str]) -> list[str]:
    """Returns class names with spaces for underscores, for use in prompts."""
    return [name.replace("_", " ") for name in names]


@dataclasses.dataclass(frozen=True)
class Published:
    """Base class of the importers; subclasses implement `items`, `prepare` and `class_set`.

    Attributes:
      family: name of the shape cache.
      teacher: teacher of the released features.
      needs_released: whether the shapes are useless without their released features.
    """

    family: str
    # Mirrors the shapes, as in the training data of the released encoders.
    from_y_up: ClassVar[str] = "swap"
    teacher: ClassVar[teachers.TeacherInfo] = OPENCLIP
    needs_released: ClassVar[bool] = False

    def class_set(self, input_dir: Path) -> ClassSet:
        """Returns the classes; called before any shape is prepared.

        Raises:
          ValueError: a file is missing, or the files are inconsistent.
        """
        raise NotImplementedError

    def splits(self, prepared: Sequence[shapes.Shape]) -> dict[str, list[str]]:
        """Groups shapes by `catalogue`, which holds the name of the split; omits empty splits.

        Raises:
          ValueError: `prepared` is empty.
        """
        return splitting.by_catalogue(prepared, family=self.family)


def find_class_set(origin: Any, *, source: str, input_dir: Path, teacher: str) -> ClassSet | None:
    """Returns the classes of a published data set; None for other sources.

    Also checks, before any shape is prepared, that the source and the teacher are compatible.

    Args:
      origin: source object.
      source: name of the source in `sources.SOURCES`.
      input_dir: folder of the raw data.
      teacher: value of `--teacher`.

    Raises:
      ValueError: the source and the teacher are incompatible.
    """
    if not isinstance(origin, Published):
        if teacher == teachers.RELEASED:
            raise ValueError(
                f"--teacher {teacher}: --source {source} has no released features; pass "
                f"{teachers.LIT}, the folder of a teacher, or the hub name of a CLIP model"
            )
        return None
    if origin.needs_released and teacher != teachers.RELEASED:
        raise ValueError(
            f"--teacher {teacher}: --source {source} has features but no images to embed; pass "
            f"--teacher {teachers.RELEASED}"
        )
    if teacher == teachers.LIT:
        raise ValueError(
            f"--teacher {teacher}: --source {source} has no images to train a teacher on; pass "
            f"{teachers.RELEASED}, the folder of a teacher, or the hub name of a CLIP model"
        )
    classes = origin.class_set(Path(input_dir))
    if teacher == teachers.RELEASED and classes.names and classes.features is None:
        raise ValueError(
            f"--teacher {teacher}: {input_dir} has no released features of the class names of "
            f"{source}; pass the folder or the hub name of a teacher that embeds them"
        )
    return classes


def find_file(input_dir: Path, name: str, *, folders: Iterable[str] = META_FOLDERS) -> Path | None:
    """Returns the path of a file in the first folder that contains it, or None."""
    paths = [Path(input_dir) / folder / name for folder in folders]
    return next((path for path in paths if path.is_file()), None)


def require_file(input_dir: Path, name: str) -> Path:
    """Returns the path of a file of OpenShape's `meta_data`.

    Raises:
      ValueError: the file does not exist.
    """
    path = find_file(input_dir, name)
    if path is None:
        raise ValueError(
            f"{input_dir}: no {' or '.join(f'{Path(f) / name}' for f in META_FOLDERS)} in it; "
            "unpack meta_data.zip of OpenShape's training data into it"
        )
    return path


def read_list(path: Path, *, keys: Sequence[str]) -> list[dict[str, str]]:
    """Reads a JSON list of shapes.

    Args:
      path: JSON file.
      keys: names of the string fields that every entry must have.

    Raises:
      ValueError: the file is not a list of such entries, or is empty.
    """
    try:
        entries = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file ({error}); download it again") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: expected a list of shapes, found {str(entries)[:40]!r}")
    for position, entry in enumerate(entries):
        for key in keys:
            if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
                raise ValueError(
                    f"{path}: entry {position} has no string {key!r}; expected the fields "
                    f"{list(keys)}, found {str(entry)[:80]!r}"
                )
    return entries


def read_class_features(path: Path, *, names: Sequence[str] | None = None) -> ClassSet:
    """Reads the released text features of class names.

    Args:
      path: file with an array [classes, dim] or a dict {name: {"open_clip_text_feat": [1, dim]}}.
      names: class names of the rows of an array; ignored for a dict.

    Raises:
      ValueError: the numbers of names and features differ, or a feature is invalid.
    """
    content = safe_pickle.load(path)
    if isinstance(content, dict):
        names = list(content)
        rows = [
            value.get("open_clip_text_feat") if isinstance(value, dict) else None
            for value in content.values()
        ]
    else:
        rows = list(np.atleast_1d(content))
    if names is None or len(rows) != len(names):
        raise ValueError(
            f"{path}: {len(rows)} features, expected one for each of "
            f"{'the' if names is None else len(names)} classes; use files of the same release"
        )
    features = np.zeros((len(rows), OPENCLIP.dim), np.float32)
    for position, (name, row) in enumerate(zip(names, rows, strict=True)):
        values = np.asarray(row).reshape(-1)
        is_feature = values.dtype.kind == "f" and len(values) == OPENCLIP.dim
        if not is_feature or not np.isfinite(values).all() or not values.any():
            raise ValueError(
                f"{path}: the feature of class {name!r} is {values.dtype} [{len(values)}], "
                f"expected {OPENCLIP.dim} floats, all finite and not all zero"
            )
        values = values.astype(np.float32)
        features[position] = values / np.linalg.norm(values)
    return ClassSet(names=tuple(names), features=features)


def make_cloud(
    xyz: Any, rgb: Any, *, points: int, seed: int, shape_id: str, y_up: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Converts a published cloud to the conventions of the records.

    Samples points without replacement, in an order that depends on (seed, shape_id) only, so that
    any prefix of the result is a uniform sample of the published points. Converts y up to z up as
    OpenShape does, by swapping the second and third coordinates, which mirrors the cloud. Clouds
    with z up are mirrored as well, so that the result does not depend on the published axis.

    Args:
      xyz: [count, 3].
      rgb: [count, 3] in 0..1, or None for a cloud without colour, which becomes grey (0.4).
      points: number of points to sample.
      seed: seed of the sampling, combined with `shape_id`.
      shape_id: id of the shape.
      y_up: whether y is up, else z.

    Returns:
      xyz float32 [points, 3], z up, in the unit sphere, and rgb uint8 [points, 3].

    Raises:
      shapes.SkipShape: an array has the wrong shape or type, or there are too few points.
    """
    xyz = np.asarray(xyz)
    if xyz.ndim != 2 or xyz.shape[1] != 3 or xyz.dtype.kind not in "fiu":
        raise shapes.SkipShape("xyz is not numbers [points, 3]")
    if len(xyz) < points:
        raise shapes.SkipShape(f"fewer than {points} points")
    chosen = shapes.generator(seed, shape_id).permutation(len(xyz))[:points]
    turned = xyz[chosen][:, [0, 2, 1]] if y_up else xyz[chosen] * np.array([1.0, -1.0, 1.0])
    if rgb is None:
        return shapes.normalise(turned), np.full((points, 3), NO_COLOUR, np.uint8)
    rgb = np.asarray(rgb)
    if rgb.shape != xyz.shape or rgb.dtype.kind not in "fiu":
        raise shapes.SkipShape("rgb is not numbers [points, 3]")
    # Tolerates rounding errors outside 0..1. NaN fails both comparisons.
    if not ((rgb > -1e-3) & (rgb < 1 + 1e-3)).all():
        raise shapes.SkipShape("colours outside 0..1")
    colours = np.rint(np.clip(rgb[chosen].astype(np.float64), 0, 1) * 255).astype(np.uint8)
    return shapes.normalise(turned), colours
