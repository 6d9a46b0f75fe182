# SPDX-License-Identifier: Apache-2.0
"""Finding prepared data sets, and whether an encoder can be tested on them."""

import collections
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mrd_jax.checkpoints import model_card
from mrd_jax.data import source

TRAIN, TEST = "train", "test"


@dataclasses.dataclass(frozen=True)
class TestSet:
    """A prepared data set with a test split.

    Attributes:
      name: of its folder.
      directory: of its version, as `source.open_split` takes it.
      metadata: from `source.read_metadata`.
    """

    # Not a test, whatever pytest makes of the name.
    __test__ = False

    name: str
    directory: pathlib.Path
    metadata: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Tells it from any other data set."""
        return source.fingerprint(self.metadata)

    @property
    def has_train(self) -> bool:
        """Whether there is a training split of its kind."""
        return TRAIN in self.metadata["counts"]


def find(config: ConfigDict, *, card: model_card.ModelCard) -> tuple[list[TestSet], dict[str, str]]:
    """The data sets that an encoder is to be tested on.

    Args:
      config: reads data, sets and windows.
      card: of the encoder.

    Returns:
      the sets, sorted by name, and the reason for every other one in the folder, by its name. Those
      that the config does not name are in neither.

    Raises:
      FileNotFoundError: there is no such set, or none at all.
      ValueError: a set that the config names, or every one, does not fit the encoder; or one is
        there in several versions.
    """
    there = _search(pathlib.Path(config.data))
    missing = sorted(set(config.sets) - there.keys())
    if missing or not there:
        raise FileNotFoundError(
            f"config.data, {config.data!r}, has no data sets {missing or 'at all'}; found "
            f"{sorted(there)}. Give the --output of data_prep.build, and names of folders in it"
        )
    chosen, skipped = [], {}
    for name in sorted(set(config.sets or there)):
        metadata = source.read_metadata(there[name])
        reason = misfit(metadata, card=card, windows=config.windows)
        if reason and config.sets:
            raise ValueError(f"config.sets names {name!r}, {there[name]}: {reason}")
        if reason:
            skipped[name] = reason
        else:
            chosen.append(TestSet(name, there[name], metadata))
    if not chosen:
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in skipped.items())
        raise ValueError(f"no data set in {config.data!r} fits the encoder:{reasons}")
    return chosen, skipped


def misfit(metadata: Mapping[str, Any], *, card: model_card.ModelCard, windows: int) -> str:
    """Why an encoder cannot be tested on a data set; "" where it can.

    Args:
      metadata: of the data set.
      card: of the encoder.
      windows: disjoint samples of a cloud that it is to see.
    """
    if TEST not in metadata["counts"]:
        return f"it has no split {TEST!r}, only {sorted(set(metadata['counts']) - {'classes'})}"
    if not metadata["counts"]["classes"]:
        return "it has no classes to tell apart"
    if "from_y_up" not in metadata:
        return (
            "it does not say how y up became z up (from_y_up): an earlier version prepared it; run "
            "data_prep.build again with --overwrite"
        )
    teacher = metadata["teacher"]
    for what, found, want in (
        ("teacher", teacher["name"], card.teacher),
        ("length of the teacher's features", teacher["dim"], card.teacher_dim),
        ("up axis", metadata["up_axis"], card.up_axis),
        ("normalisation", metadata["normalisation"], card.normalisation),
    ):
        if found != want:
            return (
                f"its {what} is {found!r} and the encoder's {want!r}; prepare it again for the "
                "encoder"
            )
    points = metadata["points"]
    if windows * card.points > points:
        return (
            f"its clouds have {points} points, and {windows} of {card.points} each are asked for "
            "(config.windows, and the encoder's card); prepare it with more, or ask for fewer"
        )
    return ""


def _search(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Name -> folder of the version, of every data set below the output of data_prep.build."""
    versions = collections.defaultdict(list)
    for path in sorted(folder.glob("*/*/dataset_info.json")):
        # A build that was interrupted leaves a folder that starts with a dot.
        if not path.parents[1].name.startswith("."):
            versions[path.parents[1].name].append(path.parent)
    several = {name: paths for name, paths in versions.items() if len(paths) > 1}
    if several:
        found = [path.name for path in min(several.values())]
        raise ValueError(f"{folder / min(several)} has versions {found}; keep one of them there")
    return {name: path for name, (path,) in versions.items()}
