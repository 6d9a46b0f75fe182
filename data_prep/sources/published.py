# SPDX-License-Identifier: Apache-2.0
"""What the importers of published data sets share: their base, their files, their conventions.

OpenShape's release and the three benchmarks of its field bring features of one teacher, so no
teacher has to run (`--teacher released`): of every shape (OpenShape, Objaverse-LVIS), or of the
class names alone. Another teacher can embed the class names of a benchmark; its shapes then have
points, labels and captions, and no image features.

Bad input. An error that names the file stops the import: a list, a filter or class features that
are missing or do not fit, a `.npy` file that holds more than arrays and plain containers, a damaged
file. A shape that cannot be used is counted and left out, with its reason: listed and absent,
listed twice, fewer points than asked for, arrays of another shape, coordinates that are not finite
or all the same, features of another length. A single feature that is not finite or zero is left out
with its caption, and counted. A class without any shape stays among the names that a student
chooses from, and is listed.
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

# The model behind every feature of OpenShape's release, by the names of its README.
OPENCLIP = teachers.TeacherInfo(
    name="laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
    revision="features as released by OpenShape",
    dim=1280,
    kind="clip",
    preprocessing="done by OpenShape with OpenCLIP, ViT-bigG-14, laion2b_s39b_b160k",
)
# What stands for a colour where there is none: 0.4 of 1, as in OpenShape and Uni3D.
NO_COLOUR = round(0.4 * 255)
# Folders below the input folder in which OpenShape's lists may lie, in the order they are tried.
META_FOLDERS = ("meta_data", "")


@dataclasses.dataclass(frozen=True)
class ClassSet:
    """The names that a zero-shot evaluation chooses among.

    Attributes:
      names: as published, in the published order.
      features: float32 [names, dim], unit norm, as released; None where none came with the data.
    """

    names: tuple[str, ...] = ()
    features: np.ndarray | None = None

    def spoken_names(self) -> list[str]:
        """The names as one would say them, for the prompts of another teacher."""
        return spoken(self.names)


def spoken(names: Iterable[str]) -> list[str]:
    """Names of classes as one would say them: `night_stand` is a night stand."""
    return [name.replace("_", " ") for name in names]


@dataclasses.dataclass(frozen=True)
class Published:
    """Base of the importers; a subclass adds `items`, `prepare` and `class_set`.

    Attributes:
      family: name of the shape cache.
      teacher: whose features the release holds.
      needs_released: whether the set is of no use without the released features of its shapes.
    """

    family: str
    # A reflection, but what the released encoders were trained on.
    from_y_up: ClassVar[str] = "swap"
    teacher: ClassVar[teachers.TeacherInfo] = OPENCLIP
    needs_released: ClassVar[bool] = False

    def class_set(self, input_dir: Path) -> ClassSet:
        """The classes, read before any shape is. ValueError where files do not fit together."""
        raise NotImplementedError

    def splits(self, prepared: Sequence[shapes.Shape]) -> dict[str, list[str]]:
        """Splits by catalogue, which is the name of the split; one that has no shape is left out.

        Raises:
          ValueError: there is no shape at all.
        """
        return splitting.by_catalogue(prepared, family=self.family)


def find_class_set(origin: Any, *, source: str, input_dir: Path, teacher: str) -> ClassSet | None:
    """The classes that a published set brings, before hours of work; None for other sources.

    Args:
      origin: the source.
      source: its name in the table of sources.
      input_dir: folder of the raw data.
      teacher: as the user named it.

    Raises:
      ValueError: the source and the teacher do not fit together; says what to pass.
    """
    if not isinstance(origin, Published):
        if teacher == teachers.RELEASED:
            raise ValueError(
                f"--teacher {teacher}: {source} brings no features of its own; pass "
                f"{teachers.LIT}, a folder, or a CLIP's hub name."
            )
        return None
    if origin.needs_released and teacher != teachers.RELEASED:
        raise ValueError(
            f"--teacher {teacher}: {source} has no pictures to look at, only features; pass "
            f"--teacher {teachers.RELEASED}."
        )
    if teacher == teachers.LIT:
        raise ValueError(
            f"--teacher {teacher}: {source} has no pictures to train a teacher on; pass "
            f"{teachers.RELEASED}, the folder of a trained teacher, or a CLIP's hub name."
        )
    found = origin.class_set(Path(input_dir))
    if teacher == teachers.RELEASED and found.names and found.features is None:
        raise ValueError(
            f"--teacher {teacher}: {input_dir} holds no features of the class names of {source}; "
            "pass the hub name or the folder of a teacher that embeds them."
        )
    return found


def find_file(input_dir: Path, name: str, *, folders: Iterable[str] = META_FOLDERS) -> Path | None:
    """The first of several places where a file is, or None."""
    places = [Path(input_dir) / folder / name for folder in folders]
    return next((place for place in places if place.is_file()), None)


def existing_file(input_dir: Path, name: str) -> Path:
    """A file of OpenShape's `meta_data`; ValueError that says where it was looked for."""
    found = find_file(input_dir, name)
    if found is None:
        raise ValueError(
            f"{input_dir}: no {' or '.join(f'{Path(f) / name}' for f in META_FOLDERS)} in it; "
            "unpack meta_data.zip of OpenShape's training data there"
        )
    return found


def read_list(path: Path, *, keys: Sequence[str]) -> list[dict[str, str]]:
    """Reads a JSON list of shapes.

    Args:
      path: of the list.
      keys: fields that every entry must have as text.

    Raises:
      ValueError: it is no such list, or empty; names the file, the entry and the field.
    """
    try:
        entries = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file ({error}); get it again") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: expected a list of shapes, found {str(entries)[:40]!r}")
    for position, entry in enumerate(entries):
        for key in keys:
            if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
                raise ValueError(
                    f"{path}: entry {position} has no text {key!r}; expected the fields "
                    f"{list(keys)}, found {str(entry)[:80]!r}"
                )
    return entries


def read_class_features(path: Path, *, names: Sequence[str] | None = None) -> ClassSet:
    """Reads released features of class names.

    Args:
      path: of an array [classes, dim], or of a dict {name: {"open_clip_text_feat": [1, dim]}}.
      names: of an array's rows; a dict has its own.

    Raises:
      ValueError: names and features do not fit together, or a feature cannot be used; names the
        file and the class.
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
            f"{'the' if names is None else len(names)} classes; the files are not of one release"
        )
    features = np.zeros((len(rows), OPENCLIP.dim), np.float32)
    for position, (name, row) in enumerate(zip(names, rows, strict=True)):
        values = np.asarray(row).reshape(-1)
        fits = values.dtype.kind == "f" and len(values) == OPENCLIP.dim
        if not fits or not np.isfinite(values).all() or not values.any():
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
    """A published cloud as records hold it.

    Points are drawn without replacement into an order that depends on (seed, shape_id) alone: any
    prefix is a sample of the surface, in whatever order the cloud was published. Clouds with y up
    get z up as in OpenShape, by swapping the second and the third coordinate, which mirrors them;
    clouds with z up are mirrored, too, so that one shape is one cloud however it was published.

    Args:
      xyz: [count, 3].
      rgb: [count, 3] in 0..1; None for a cloud without colour, which becomes grey (0.4).
      points: how many to keep.
      seed: of the draw.
      shape_id: of the shape.
      y_up: whether y points up.

    Returns:
      xyz float32 [points, 3], z up, in the unit sphere, and rgb uint8 [points, 3].

    Raises:
      shapes.SkipShape: the arrays do not fit, or hold too few points.
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
    # A rounding error beyond 1 is no reason to lose a shape; NaN fails both comparisons.
    if not ((rgb > -1e-3) & (rgb < 1 + 1e-3)).all():
        raise shapes.SkipShape("colours outside 0..1")
    colours = np.rint(np.clip(rgb[chosen].astype(np.float64), 0, 1) * 255).astype(np.uint8)
    return shapes.normalise(turned), colours
