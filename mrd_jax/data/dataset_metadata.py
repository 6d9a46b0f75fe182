# SPDX-License-Identifier: Apache-2.0
"""Metadata of a prepared data set, and checks against a config."""

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds
from google.protobuf import json_format
from ml_collections import ConfigDict

from mrd_jax import storage
from mrd_jax.data import batch_spec

# Files that describe a data set, beside its shards.
INFO_FILES = ("dataset_info.json", "features.json", "metadata.json")
# Names of sources that publish arrays of points begin with one of these.
_PUBLISHED = ("modelnet40", "objaverse_lvis", "openshape", "scanobjectnn")
# data_prep.build does not rebuild an existing data set if the options are the same.
COPY_AGAIN = "copy it again, or delete the folder of the data set and run data_prep.build"

LOGGER = logging.getLogger(__name__)


def read(directory: storage.PathLike) -> dict[str, Any]:
    """Reads the metadata of a data set.

    Args:
      directory: folder of the data set, version included.

    Returns:
      teacher (name, revision, dim, preprocessing), up_axis, from_y_up, normalisation, points,
      source, counts.

    Raises:
      FileNotFoundError: `directory` is not a data set.
    """
    return dict(builder(directory).info.metadata)


def reader_version(metadata: Mapping[str, Any]) -> int | None:
    """Returns the version of the readers of mesh files that a data set was made with.

    Data sets that were written before the version was recorded are of version 1.

    Args:
      metadata: metadata of the data set, from `read`.

    Returns:
      The version; None for published point clouds, which need no reader of mesh files.
    """
    if str(metadata.get("source", "")).startswith(_PUBLISHED):
        return None
    return metadata.get("reader_version", 1)


def fingerprint(metadata: Mapping[str, Any]) -> str:
    """Returns a fingerprint of a data set: a hash of its metadata, 16 hex digits."""
    text = json.dumps(metadata, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def check(metadata: Mapping[str, Any], config: ConfigDict) -> None:
    """Checks that a data set fits a config.

    Args:
      metadata: metadata of the data set, from `read`.
      config: config of the run; reads teacher.name ("" accepts any), teacher.dim and data.points
        (0 accepts any).

    Raises:
      ValueError: a field differs; names the first one and both values.
    """
    teacher = metadata["teacher"]
    expected = [
        ("teacher.dim", teacher["dim"], config.teacher.dim, "config.teacher.dim"),
        (
            "points",
            metadata["points"],
            config.data.points or metadata["points"],
            "config.data.points",
        ),
        ("up_axis", metadata["up_axis"], batch_spec.UP_AXIS, "mrd_jax"),
        ("normalisation", metadata["normalisation"], batch_spec.NORMALISATION, "mrd_jax"),
    ]
    if config.teacher.name:
        name = ("teacher.name", teacher["name"], config.teacher.name, "config.teacher.name")
        expected.insert(0, name)
    for field, found, want, where in expected:
        if found != want:
            raise ValueError(
                f"the data set was prepared with {field} = {found!r}, but {where} expects "
                f"{want!r}; change the config or prepare the data again"
            )


def with_points(config: ConfigDict, *, assumed: int = 0) -> ConfigDict:
    """Returns a config whose number of points is that of its data set, if it is 0.

    Args:
      config: config of the run; reads data.points and data.directory.
      assumed: number without a data set, which a log line names; 0 for none.

    Raises:
      FileNotFoundError: the number is 0, and there is no data set and no assumption.
    """
    if config.data.points:
        return config
    resolved = ConfigDict(config).copy_and_resolve_references()
    folder = config.data.directory
    if assumed and not (folder and (storage.path(folder) / INFO_FILES[0]).is_file()):
        resolved.data.points = assumed
        LOGGER.warning(
            "config.data.points is 0, the number of the data set, but there is none in %r: %d "
            "points per record are assumed",
            folder,
            assumed,
        )
    else:
        resolved.data.points = read(folder)["points"]
    return resolved


def check_test_set(directory: storage.PathLike, config: ConfigDict) -> None:
    """Checks that a separate test set fits a config and its training set.

    Args:
      directory: folder of the test set.
      config: config of the run; reads data.directory and the fields of `check`.

    Raises:
      FileNotFoundError: `directory` is not a data set.
      ValueError: a field differs; names it, both values and both data sets.
    """
    metadata = read(directory)
    check(metadata, config)
    trained = read(config.data.directory)
    versions = reader_version(metadata), reader_version(trained)
    if None not in versions and versions[0] != versions[1]:
        LOGGER.warning(
            "config.data.test_directory was made with version %d of the readers of mesh files, but "
            "config.data.directory with version %d: their points and colours may differ; build the "
            "older one again to compare like with like",
            *versions,
        )
    for field in ("teacher", "from_y_up"):
        if metadata[field] != trained[field]:
            raise ValueError(
                f"config.data.test_directory, {directory}, was prepared with {field} = "
                f"{metadata[field]!r}, but config.data.directory, {config.data.directory}, with "
                f"{trained[field]!r}; prepare one of them again"
            )


def check_exists(directory: storage.PathLike) -> None:
    """Checks that a folder is a data set.

    Raises:
      FileNotFoundError: it is not.
    """
    if not (storage.path(directory) / INFO_FILES[0]).is_file():
        raise FileNotFoundError(
            f"no data set in {str(directory)!r}: expected {INFO_FILES[0]} there; give the folder "
            f"that ends in a version, such as data/furniture/1.0.0, or run data_prep.build"
        )


def builder(directory: storage.PathLike) -> tfds.core.DatasetBuilder:
    """Returns the TFDS builder of a data set; errors name a missing or corrupt file."""
    check_exists(directory)
    folder = storage.path(directory)
    for name in INFO_FILES:
        try:
            if not isinstance(json.loads((folder / name).read_bytes()), dict):
                raise ValueError("not a JSON object")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{folder / name} is missing; {COPY_AGAIN}") from error
        except ValueError as error:
            raise ValueError(f"{folder / name} is corrupt: {error}; {COPY_AGAIN}") from error
    try:
        return tfds.builder_from_directory(str(folder))
    except (ValueError, json_format.ParseError) as error:
        raise ValueError(
            f"dataset_info.json and features.json in {folder} do not describe a data set: {error}; "
            f"{COPY_AGAIN}"
        ) from error
