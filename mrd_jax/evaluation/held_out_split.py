# SPDX-License-Identifier: Apache-2.0
"""Held-out split: the names, classes and teacher features that the metrics are computed from."""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from mrd_jax import storage
from mrd_jax.data import read_ahead, source
from mrd_jax.evaluation.metrics import classification

# Fields of a record that annotations and teacher features are read from.
FIELDS = (
    *("id", "name", "picture", "creator", "licence", "label"),
    *("image_features", "text_features", "caption_kinds"),
)
# Shapes of a training split that are used; of a larger one, a random subset. They are embedded for
# the report's nearest neighbours and for probes, and baselines are fitted to them.
MAX_TRAINING_SHAPES = 50_000
# Records that a thread reads at a time.
_READ_ROWS = 32


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Annotations and teacher features of the shapes of one split, in the order of the split.

    Attributes:
      ids: [count], shape ids.
      names: [count], names as given by the creators; "" for a shape without a name.
      labels: int32 [count], index into class_names, -1 for an unknown class.
      image_features: float32 [count, dim], mean of the unit features of the views; zeros for a
        shape without views.
      text_names: [names], distinct names of the split, in order of first appearance.
      text_features: float32 [names, dim], the teacher's text feature of each name.
      name_index: int32 [count], index into text_names, -1 for a shape without a name.
      class_names: [classes].
      class_features: float32 [classes, dim], text features averaged over prompts, unit norm.
      unseen: bool [count], True for a shape whose exact name no training shape has.
      pictures: [count], picture files for the report; the file of a shape without a picture does
        not exist.
      creators: [count], creator of each shape.
      licences: [count], licence of each shape.
      groups: [count], name of the group of each shape, whose shapes are no independent samples,
        such as a series of parts; "" for a shape that is in no group. None if the data set has no
        groups.
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
    pictures: tuple[storage.Path, ...]
    creators: tuple[str, ...]
    licences: tuple[str, ...]
    groups: tuple[str, ...] | None = None

    @property
    def clusters(self) -> np.ndarray | None:
        """Index of the group of each shape, int64 [count]; None if the data set has no groups.

        A shape that is in no group is a group of its own.
        """
        if self.groups is None:
            return None
        pairs = zip(self.groups, self.ids, strict=True)
        keys = [("group", group) if group else ("shape", shape_id) for group, shape_id in pairs]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        return np.asarray([numbers[key] for key in keys])

    @property
    def labelled(self) -> np.ndarray:
        """Indices of the shapes whose class is known, int64 [labelled]."""
        return np.flatnonzero(self.labels >= 0)

    @property
    def labelled_classes(self) -> np.ndarray:
        """Classes of the shapes whose class is known, int32 [labelled]."""
        return self.labels[self.labelled]

    @property
    def labelled_clusters(self) -> np.ndarray | None:
        """Groups of the shapes whose class is known, int64 [labelled], see `clusters`."""
        return None if self.clusters is None else self.clusters[self.labelled]


def training_subset(count: int) -> np.ndarray:
    """Returns the positions of the training shapes to use, ascending, int64 [at most count].

    Args:
      count: number of shapes of the training split. Of more than MAX_TRAINING_SHAPES, the subset is
        random, and the same in every process and run.
    """
    if count <= MAX_TRAINING_SHAPES:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, MAX_TRAINING_SHAPES, replace=False))


def load_held_out(
    dataset_dir: storage.PathLike, split: str = "test", *, indices: np.ndarray | None = None
) -> HeldOut:
    """Reads a split of a prepared data set for evaluation.

    Args:
      dataset_dir: folder of one version of the data set, such as OUTPUT/furniture/1.0.0.
      split: name of the split; "train" gives the shapes among which the report looks up nearest
        neighbours, and which the baselines are fitted to.
      indices: positions of the records to read; None for all.

    Raises:
      FileNotFoundError: the data set has no evaluation files.
      ValueError: the split is empty, or features, labels and class files do not match.
    """
    folder = storage.path(dataset_dir) / "evaluation"
    class_names = tuple(json.loads(_existing(folder / "classes.json").read_text()))
    class_features = storage.read_array(_existing(folder / "class_features.npy"))
    unseen_ids = json.loads(_existing(folder / "unseen_names.json").read_text())
    # Absent from data sets of earlier versions, and of sources that know no groups.
    has_groups = (folder / "groups.json").is_file()
    groups = json.loads((folder / "groups.json").read_text()) if has_groups else None
    records = source.open_split(dataset_dir, split)
    indices = np.arange(len(records)) if indices is None else indices
    held_out = collect(
        _read(records, indices),
        class_names=class_names,
        class_features=class_features,
        unseen_ids=unseen_ids,
        pictures=folder / "pictures",
        groups=groups,
    )
    # The list holds test shapes only, so an unknown id there means that files were mixed up.
    missing = set(unseen_ids) - set(held_out.ids) if split == "test" else set()
    if missing:
        raise ValueError(
            f"{folder / 'unseen_names.json'}: {len(missing)} ids are not in the split, such as "
            f"{min(missing)!r}: build the data set again"
        )
    return held_out


def _read(records: source.RecordSource, indices: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yields FIELDS of records in order."""

    def rows(number: int) -> list[int]:
        return indices[number * _READ_ROWS : (number + 1) * _READ_ROWS].tolist()

    batches = read_ahead.iterate(
        lambda number: [records.read(index, FIELDS) for index in rows(number)],
        indices=rows,
        records=records,
        batch_size=_READ_ROWS,
        length=-(-len(indices) // _READ_ROWS),
        threads=read_ahead.thread_count(records.directory),
    )
    return itertools.chain.from_iterable(batches)


def without_unseen(held_out: HeldOut) -> HeldOut:
    """Returns the split with no shape marked as unseen.

    Use it for a model that was trained on another data set: only names that are missing from this
    data set's own training split are known.
    """
    return dataclasses.replace(held_out, unseen=np.zeros_like(held_out.unseen))


def collect(
    records: Iterable[Mapping[str, Any]],
    *,
    class_names: tuple[str, ...],
    class_features: np.ndarray,
    unseen_ids: Iterable[str],
    pictures: storage.Path,
    groups: Mapping[str, str] | None = None,
) -> HeldOut:
    """Builds a `HeldOut` from decoded records; their points are not kept.

    Args:
      records: decoded records in the order of their split.
      class_names: [classes].
      class_features: [classes, dim]; their length does not matter.
      unseen_ids: ids of the shapes whose exact name no training shape has.
      pictures: folder of the picture files that the records name.
      groups: id -> group of the shapes that have one; None if the data set has no groups.

    Raises:
      ValueError: there is no record, or features, labels and classes do not match.
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
        groups=None if groups is None else tuple(groups.get(shape_id, "") for shape_id in ids),
    )


def _add_name(record: Mapping[str, Any], text: dict[str, tuple[int, np.ndarray]]) -> int:
    """Returns the index of the record's name in `text`, adding a new name; -1 without a name."""
    kinds = list(record["caption_kinds"])
    if not record["name"] or "name" not in kinds:
        return -1
    feature = np.asarray(record["text_features"][kinds.index("name")], dtype=np.float32)
    index, _ = text.setdefault(record["name"], (len(text), feature))
    return index


def _stack(features: list[np.ndarray | None], *, dim: int, name: str) -> np.ndarray:
    """Stacks features into float32 [count, dim], with zeros for None."""
    wrong = {len(feature) for feature in features if feature is not None} - {dim}
    if wrong:
        raise ValueError(
            f"{name}: records have features of dim {sorted(wrong)}, the classes of dim {dim}: "
            "both must come from one teacher, build the data set again"
        )
    rows = [np.zeros(dim) if feature is None else feature for feature in features]
    return np.asarray(rows, dtype=np.float32).reshape(len(rows), dim)


def _check_classes(
    class_names: tuple[str, ...], *, class_features: np.ndarray, labels: tuple[int, ...]
) -> None:
    """Raises ValueError if the names, features and labels of the classes disagree."""
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


def _existing(path: storage.Path) -> storage.Path:
    """Returns the path of a file that exists."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: expected a data set written by `python -m data_prep.build`, such "
            "as OUTPUT/furniture/1.0.0"
        )
    return path
