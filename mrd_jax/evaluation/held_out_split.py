# SPDX-License-Identifier: Apache-2.0
"""What evaluation needs of a prepared split: names, classes and the teacher's features."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mrd_jax.data import source
from mrd_jax.evaluation.metrics import classification


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Shapes of one split with what the teacher says about them, in the order of the split.

    Attributes:
      ids: [count] shape ids.
      names: [count] names as their makers wrote them; "" where a shape has none.
      labels: int32 [count], index into class_names, -1 where the class is unknown.
      image_features: float32 [count, dim], mean of the unit view features; zeros without views.
      text_names: [names] distinct names of the split, in order of first appearance.
      text_features: float32 [names, dim], the teacher's feature of each name.
      name_index: int32 [count], index into text_names, -1 for a shape without a name.
      class_names: [classes].
      class_features: float32 [classes, dim], averaged over prompts, unit length.
      unseen: bool [count], whether no training shape bears exactly this name.
      pictures: [count] picture files, for the report; no file where a shape has no picture.
      creators: [count] who made each shape.
      licences: [count] under which licence.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]
    labels: np.ndarray
    image_features: np.ndarray
    text_names: tuple[str, ...]
    text_features: np.ndarray
    name_index: np.ndarray
    class_names: tuple[str, ...]
    class_features: np.ndarray
    unseen: np.ndarray
    pictures: tuple[pathlib.Path, ...]
    creators: tuple[str, ...]
    licences: tuple[str, ...]

    @property
    def labelled(self) -> np.ndarray:
        """int64 [labelled], positions of the shapes whose class is known."""
        return np.flatnonzero(self.labels >= 0)

    @property
    def labelled_classes(self) -> np.ndarray:
        """int32 [labelled], the classes of those shapes."""
        return self.labels[self.labelled]


def load_held_out(dataset_dir: str | pathlib.Path, split: str = "test") -> HeldOut:
    """Reads a split of a prepared dataset for evaluation.

    Args:
      dataset_dir: the folder of one version of the dataset, which has `evaluation/` in it.
      split: "test"; "train" gives the shapes that neighbours are looked up among.

    Returns:
      The `HeldOut` of that split.

    Raises:
      FileNotFoundError: where the dataset was built without evaluation files.
      ValueError: where features, labels and class files do not fit together.
    """
    folder = pathlib.Path(dataset_dir) / "evaluation"
    class_names = tuple(json.loads(_existing(folder / "classes.json").read_text("utf-8")))
    class_features = np.load(_existing(folder / "class_features.npy"))
    unseen_ids = json.loads(_existing(folder / "unseen_names.json").read_text("utf-8"))
    held_out = collect(
        source.open_split(dataset_dir, split),
        class_names=class_names,
        class_features=class_features,
        unseen_ids=unseen_ids,
        pictures=folder / "pictures",
    )
    # The list names test shapes only, so on that split a stranger in it means mixed-up files.
    missing = set(unseen_ids) - set(held_out.ids) if split == "test" else set()
    if missing:
        raise ValueError(
            f"{folder / 'unseen_names.json'}: {len(missing)} ids are not in the split, such as "
            f"{min(missing)!r}: build the dataset again"
        )
    return held_out


def without_unseen(held_out: HeldOut) -> HeldOut:
    """The split as seen by a model that was trained on other data than the set's own.

    Which names are unseen is known of the set's own training split only.
    """
    return dataclasses.replace(held_out, unseen=np.zeros_like(held_out.unseen))


def collect(
    records: Iterable[Mapping[str, Any]],
    *,
    class_names: tuple[str, ...],
    class_features: np.ndarray,
    unseen_ids: Iterable[str],
    pictures: pathlib.Path,
) -> HeldOut:
    """Builds a `HeldOut` from decoded records, keeping no points.

    Args:
      records: decoded records in the order of their split.
      class_names: [classes].
      class_features: [classes, dim].
      unseen_ids: ids of shapes whose name no training shape bears.
      pictures: the folder that the records' picture names refer to.

    Returns:
      The `HeldOut`.

    Raises:
      ValueError: where there is no record, or features, labels and classes do not fit together.
    """
    fields, image_features = [], []
    text: dict[str, Any] = {}
    name_index = []
    for record in records:
        fields.append([record[key] for key in ("id", "name", "picture", "creator", "licence")])
        fields[-1].append(int(record["label"]))
        views = classification.normalise(record["image_features"])
        image_features.append(views.mean(axis=0) if len(views) else None)
        name_index.append(_add_name(record, text))
    if not fields:
        raise ValueError("the split has no records: expected at least one shape to evaluate on")
    ids, names, files, creators, licences, labels = zip(*fields, strict=True)
    dim = class_features.shape[-1]
    _check_classes(class_names, class_features=class_features, labels=labels)
    unseen_ids = set(unseen_ids)
    return HeldOut(
        ids=ids,
        names=names,
        labels=np.asarray(labels, dtype=np.int32),
        image_features=_stack(image_features, dim=dim, name="image_features"),
        text_names=tuple(text),
        text_features=_stack([feature for _, feature in text.values()], dim=dim, name="text"),
        name_index=np.asarray(name_index, dtype=np.int32),
        class_names=class_names,
        class_features=classification.normalise(class_features),
        unseen=np.asarray([shape_id in unseen_ids for shape_id in ids]),
        pictures=tuple(pictures / file for file in files),
        creators=creators,
        licences=licences,
    )


def _add_name(record: Mapping[str, Any], text: dict[str, tuple[int, np.ndarray]]) -> int:
    """Returns the index of the record's name in text, adding it when new; -1 without a name."""
    kinds = list(record["caption_kinds"])
    if not record["name"] or "name" not in kinds:
        return -1
    feature = np.asarray(record["text_features"][kinds.index("name")], dtype=np.float32)
    index, _ = text.setdefault(record["name"], (len(text), feature))
    return index


def _stack(features: list[np.ndarray | None], *, dim: int, name: str) -> np.ndarray:
    """Stacks features to float32 [count, dim], with zeros for None."""
    wrong = {len(feature) for feature in features if feature is not None} - {dim}
    if wrong:
        raise ValueError(
            f"{name}: records have features of dim {sorted(wrong)}, the classes of dim {dim}: "
            "both must come from one teacher, build the dataset again"
        )
    rows = [np.zeros(dim) if feature is None else feature for feature in features]
    return np.asarray(rows, dtype=np.float32).reshape(len(rows), dim)


def _check_classes(
    class_names: tuple[str, ...], *, class_features: np.ndarray, labels: tuple[int, ...]
) -> None:
    """Raises where the names, the features and the labels of the classes disagree."""
    if class_features.ndim != 2 or len(class_features) != len(class_names):
        raise ValueError(
            f"class_features.npy has shape {class_features.shape}, classes.json "
            f"{len(class_names)} names: expected [{len(class_names)}, dim]"
        )
    if not -1 <= min(labels) <= max(labels) < len(class_names):
        raise ValueError(
            f"labels run from {min(labels)} to {max(labels)}: expected -1 to "
            f"{len(class_names) - 1}, the classes of classes.json"
        )


def _existing(path: pathlib.Path) -> pathlib.Path:
    """Returns the path, or says how the missing file comes to be."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: expected a dataset folder written by `python -m data_prep.build`, "
            "such as OUTPUT/furniture/1.0.0"
        )
    return path
