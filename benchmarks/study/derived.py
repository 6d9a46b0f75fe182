# SPDX-License-Identifier: Apache-2.0
"""Data sets derived from a prepared one: folds, fractions, and wrong or missing captions.

All are pure functions of the data set and a `Derivation`. Shapes move between splits and drop out
by group, so that no group, such as a series of parts, is in two splits. Training is unchanged: a
derived data set is a folder like any other.
"""

import collections
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.study import writing
from data_prep import records
from mrd_jax.data import dataset_metadata, source

FOLDS = 5
# Fields that a shape's captions consist of.
_CAPTIONS = ("name", "captions", "caption_kinds", "text_features")


@dataclasses.dataclass(frozen=True)
class Derivation:
    """What a derived data set differs in.

    Attributes:
      fold: 0 tests on the test split of the data set, 1 to 4 on a quarter of the groups of its
        training split each. Every fold trains on all other shapes; those of the validation split,
        on which settings are chosen, are never tested on.
      fraction: fraction of the training shapes to keep. A smaller fraction is a subset.
      wrong_captions: fraction of the training shapes that get the captions and the name of a
        random training shape of another group and class.
      missing_captions: fraction of the training shapes that lose captions and name.
      seed: random seed of fractions and captions.
    """

    fold: int = 0
    fraction: float = 1.0
    wrong_captions: float = 0.0
    missing_captions: float = 0.0
    seed: int = 0

    @property
    def name(self) -> str:
        """Name of the derived data set, unique among derivations of one data set."""
        changed = [
            f"{field.name}{getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if field.name == "fold" or getattr(self, field.name) != field.default
        ]
        return "_".join(changed)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A shape of the data set that is derived from.

    Attributes:
      split: its split.
      index: its position there.
      id: its id.
      name: its name.
      group: its group; its id if it has none.
      label: index of its class, -1 if unknown.
    """

    split: str
    index: int
    id: str
    name: str
    group: str
    label: int


def read_groups(directory: pathlib.Path) -> dict[str, str]:
    """Reads the groups of a data set, by id of the shape.

    Data sets without `evaluation/groups.json` are grouped by creator.

    Args:
      directory: folder of the data set.
    """
    path = directory / "evaluation" / "groups.json"
    if path.is_file():
        return json.loads(path.read_text("utf-8"))
    return {
        fields["id"]: fields["creator"]
        for split in dataset_metadata.read(directory)["counts"]
        if split != "classes"
        for records_ in [source.open_split(directory, split)]
        for index in range(len(records_))
        for fields in [records_.read(index, ("id", "creator"))]
        if fields["creator"]
    }


def read_entries(directory: pathlib.Path) -> list[Entry]:
    """Reads what splits depend on, for the shapes of all splits of a data set.

    Args:
      directory: folder of the data set.
    """
    groups = read_groups(directory)
    entries = []
    for split in dataset_metadata.read(directory)["counts"]:
        if split == "classes":
            continue
        stored = source.open_split(directory, split)
        for index in range(len(stored)):
            found = stored.read(index, ("id", "name", "label"))
            shape_id = found["id"]
            entries.append(
                Entry(
                    split,
                    index,
                    shape_id,
                    found["name"],
                    groups.get(shape_id) or shape_id,
                    int(found["label"]),
                )
            )
    return entries


def splits(entries: Sequence[Entry], derivation: Derivation) -> dict[str, list[Entry]]:
    """Returns the training and the test shapes of a derived data set.

    Args:
      entries: shapes of the data set, of the splits train, validation and test.
      derivation: which fold, and which fraction of its training shapes.

    Raises:
      ValueError: the fold does not exist, a group is in two splits, or a split is empty.
    """
    if not 0 <= derivation.fold < FOLDS:
        raise ValueError(f"fold {derivation.fold}: expected 0 to {FOLDS - 1}")
    folds = _folds(entries)
    test = [entry for entry in entries if folds[entry.group] == derivation.fold]
    train = [entry for entry in entries if folds[entry.group] != derivation.fold]
    order = sorted({e.group for e in train}, key=lambda group: _hash(derivation.seed, group))
    sizes = collections.Counter(entry.group for entry in train)
    # A group is kept if more than half of it lies below the fraction.
    before = np.cumsum([0, *(sizes[group] for group in order)])
    middles = (before[:-1] + before[1:]) / 2
    kept = {g for g, m in zip(order, middles, strict=True) if m < derivation.fraction * len(train)}
    found = {"train": [entry for entry in train if entry.group in kept], "test": test}
    for name, members in found.items():
        if not members:
            raise ValueError(
                f"{derivation} leaves no shape in split {name!r}: expected some groups"
            )
    return found


def _folds(entries: Sequence[Entry]) -> dict[str, int]:
    """Returns the fold that tests on each group; -1 for groups that are never tested on.

    The groups of the training split are dealt to the folds 1 to 4 class by class, in the order of
    a hash, each class going on where the last one ended.
    """
    by_group: dict[str, list[Entry]] = {}
    for entry in entries:
        by_group.setdefault(entry.group, []).append(entry)
    for group, members in by_group.items():
        found = sorted({entry.split for entry in members})
        if len(found) > 1:
            raise ValueError(f"group {group!r} is in the splits {found}: expected one of them")

    def label(group: str) -> int:
        labels = collections.Counter(entry.label for entry in by_group[group])
        return min(labels, key=lambda value: (-labels[value], value))

    folds = {group: 0 if e[0].split == "test" else -1 for group, e in by_group.items()}
    training = [group for group, members in by_group.items() if members[0].split == "train"]
    training.sort(key=lambda group: (label(group), _hash(0, group)))
    return folds | {group: 1 + rank % (FOLDS - 1) for rank, group in enumerate(training)}


def donors(train: Sequence[Entry], derivation: Derivation) -> dict[str, Entry | None]:
    """Returns whose captions a training shape gets instead of its own; None for no captions.

    Args:
      train: training shapes of the derived data set.
      derivation: fractions of wrong and of missing captions, and their seed.

    Returns:
      By id, for the shapes whose captions change. No shape is both wrong and missing.
    """
    rng = np.random.default_rng(derivation.seed)
    order = rng.permutation(len(train))
    wrong = round(derivation.wrong_captions * len(train))
    missing = round(derivation.missing_captions * len(train))
    changed: dict[str, Entry | None] = {
        train[i].id: None for i in order[wrong : wrong + missing].tolist()
    }
    for i in order[:wrong].tolist():
        entry = train[i]
        others = [
            other
            for other in train
            if other.group != entry.group and (other.label != entry.label or entry.label < 0)
        ]
        if not others:
            raise ValueError(f"no training shape of another group and class than {entry.id!r}")
        changed[entry.id] = others[rng.integers(len(others))]
    return changed


def write(directory: pathlib.Path, output: pathlib.Path, derivation: Derivation) -> pathlib.Path:
    """Writes a derived data set unless it exists.

    Args:
      directory: folder of the prepared data set.
      output: parent folder of derived data sets.
      derivation: what to change.

    Returns:
      Folder of the derived data set.

    Raises:
      FileNotFoundError: `directory` is not a data set.
      ValueError: see `splits` and `donors`; or the existing folder was derived from another data
        set.
    """
    metadata = dataset_metadata.read(directory)
    origin = {"from": dataset_metadata.fingerprint(metadata), **dataclasses.asdict(derivation)}
    target = output / derivation.name / records.VERSION
    if writing.is_written(target, origin):
        return target
    chosen = splits(read_entries(directory), derivation)
    writing.write(
        target,
        {
            split: _records(
                directory, members, donors(members, derivation) if split == "train" else {}
            )
            for split, members in chosen.items()
        },
        like=directory,
        points=metadata["points"],
        origin=origin,
        complete=lambda folder: _write_evaluation(
            directory / "evaluation", folder / "evaluation", chosen
        ),
    )
    return target


def _records(
    directory: pathlib.Path, members: Sequence[Entry], changed: Mapping[str, Entry | None]
) -> Iterator[dict[str, Any]]:
    """Yields the records of a split, some of them with the captions of another or without."""
    opened = {split: source.open_split(directory, split) for split in _splits_of(members, changed)}
    for entry in members:
        record = opened[entry.split][entry.index]
        if entry.id in changed:
            donor = changed[entry.id]
            record |= (
                {"name": "", "captions": [], "caption_kinds": []}
                | {"text_features": record["text_features"][:0]}
                if donor is None
                else opened[donor.split].read(donor.index, _CAPTIONS)
            )
        yield record


def _splits_of(members: Sequence[Entry], changed: Mapping[str, Entry | None]) -> set[str]:
    donors_ = {donor.split for donor in changed.values() if donor}
    return {entry.split for entry in members} | donors_


def _write_evaluation(
    existing: pathlib.Path, folder: pathlib.Path, chosen: Mapping[str, Sequence[Entry]]
) -> None:
    """Writes the evaluation files; pictures stay where they are."""
    folder.mkdir()
    for name in ("classes.json", "class_features.npy", "groups.json"):
        if (existing / name).is_file():
            shutil.copyfile(existing / name, folder / name)
    seen = {entry.name for entry in chosen["train"]}
    unseen = [entry.id for entry in chosen["test"] if entry.name not in seen]
    (folder / "unseen_names.json").write_text(json.dumps(unseen), "utf-8")
    if (existing / "pictures").is_dir():
        os.symlink((existing / "pictures").resolve(), folder / "pictures")


def _hash(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}/{text}".encode()).hexdigest()
