# SPDX-License-Identifier: Apache-2.0
"""Test sets of the benchmark: prepared data sets, and whether they fit an encoder."""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mrd_jax import storage
from mrd_jax.checkpoints import model_card
from mrd_jax.data import dataset_metadata

TRAIN, TEST = "train", "test"


@dataclasses.dataclass(frozen=True)
class TestSet:
    """A prepared data set with a test split.

    Attributes:
      name: name of its folder in the output of data_prep.build.
      directory: folder of its version, as `source.open_split` takes it.
      metadata: metadata as `dataset_metadata.read` returns it.
    """

    # Keeps pytest from collecting the class as a test.
    __test__ = False

    name: str
    directory: storage.Path
    metadata: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the content of the data set."""
        return dataset_metadata.fingerprint(self.metadata)

    @property
    def has_train(self) -> bool:
        """True if the data set has a training split."""
        return TRAIN in self.metadata["counts"]


def find(config: ConfigDict, *, card: model_card.ModelCard) -> tuple[list[TestSet], dict[str, str]]:
    """Finds the test sets that an encoder is to be evaluated on.

    Args:
      config: config as `configs/benchmarks.py` describes it; reads `data`, `sets` and `windows`.
      card: model card of the encoder.

    Returns:
      The test sets, sorted by name; and, if the config names no sets, by the name of every other
      data set in the folder, the reason why it does not fit.

    Raises:
      FileNotFoundError: a named set does not exist, or there are none.
      ValueError: a named set, or every set, does not fit the encoder; or a set has several
        versions.
    """
    folders = _search(storage.path(config.data))
    missing = sorted(set(config.sets) - folders.keys())
    if missing or not folders:
        raise FileNotFoundError(
            f"config.data, {config.data!r}, has no data sets {missing or 'at all'}; found "
            f"{sorted(folders)}. Give the --output of data_prep.build, and names of folders in it"
        )
    chosen, skipped = [], {}
    for name in sorted(set(config.sets or folders)):
        metadata = dataset_metadata.read(folders[name])
        reason = misfit(metadata, card=card, windows=config.windows)
        if reason and config.sets:
            raise ValueError(f"config.sets names {name!r}, {folders[name]}: {reason}")
        if reason:
            skipped[name] = reason
        else:
            chosen.append(TestSet(name, folders[name], metadata))
    if not chosen:
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in skipped.items())
        raise ValueError(f"no data set in {config.data!r} fits the encoder:{reasons}")
    return chosen, skipped


def misfit(metadata: Mapping[str, Any], *, card: model_card.ModelCard, windows: int) -> str:
    """Returns the reason why an encoder cannot be evaluated on a data set; "" if it can.

    Args:
      metadata: metadata of the data set.
      card: model card of the encoder.
      windows: number of disjoint samples of each point cloud to embed.
    """
    if TEST not in metadata["counts"]:
        return f"it has no split {TEST!r}, only {sorted(set(metadata['counts']) - {'classes'})}"
    if not metadata["counts"]["classes"]:
        return "it has no classes to tell apart"
    if "from_y_up" not in metadata:
        return (
            "its metadata has no from_y_up, the conversion from y up to z up: it was prepared by "
            "an earlier version; run data_prep.build again with --overwrite"
        )
    teacher = metadata["teacher"]
    for field, found, expected in (
        ("teacher", teacher["name"], card.teacher),
        ("teacher feature dimension", teacher["dim"], card.teacher_dim),
        ("up axis", metadata["up_axis"], card.up_axis),
        ("normalisation", metadata["normalisation"], card.normalisation),
    ):
        if found != expected:
            return (
                f"its {field} is {found!r} and the encoder's {expected!r}; prepare it again for "
                "the encoder"
            )
    points = metadata["points"]
    if windows * card.points > points:
        return (
            f"its point clouds have {points} points, but {windows} windows of {card.points} need "
            f"{windows * card.points}; lower config.windows, or prepare it with more points"
        )
    return ""


def _search(folder: storage.Path) -> dict[str, storage.Path]:
    """Returns the version folder of every data set in the output of data_prep.build, by name."""
    versions = collections.defaultdict(list)
    for path in sorted(folder.glob("*/*/dataset_info.json")):
        # An interrupted build leaves a folder whose name starts with a dot.
        if not path.parents[1].name.startswith("."):
            versions[path.parents[1].name].append(path.parent)
    ambiguous = {name: paths for name, paths in versions.items() if len(paths) > 1}
    if ambiguous:
        found = [path.name for path in min(ambiguous.values())]
        raise ValueError(f"{folder / min(ambiguous)} has versions {found}; keep only one of them")
    return {name: path for name, (path,) in versions.items()}
