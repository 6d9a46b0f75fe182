# SPDX-License-Identifier: Apache-2.0
"""What decides the figures of a suite, as hashes and versions."""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from ml_collections import ConfigDict

import mrd_jax
from mrd_jax.checkpoints import paths, run_identity

# Fields that say where things lie and which sets are meant, not what is done with them.
PLACES = ("checkpoint", "data", "sets")
PACKAGES = ("mrd_jax", "jax", "flax", "numpy", "scipy")


def marks(config: ConfigDict) -> dict[str, Any]:
    """Everything that the figures of a set depend on, but for the set itself.

    Args:
      config: as `configs/benchmarks.py` describes it.

    Returns:
      hashes: of the config without `PLACES`, of the checkpoint's files and of this package's code,
      SHA-256 in hex; versions: of the packages that compute, as installed.

    Raises:
      FileNotFoundError: a run has no checkpoint.
    """
    fields = json.loads(config.to_json())
    kept = {name: value for name, value in fields.items() if name not in PLACES}
    code = pathlib.Path(mrd_jax.__file__).parent
    return {
        "hashes": {
            "config": hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest(),
            "checkpoint": checkpoint(config.checkpoint),
            "code": tree(code, names=code.rglob("*.py")),
        },
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


def checkpoint(path: str | os.PathLike) -> str:
    """Hash of the files of an encoder; of a run, of its newest step alone.

    Args:
      path: as `mrd_jax.encoder.load` takes it.

    Raises:
      FileNotFoundError: a run has no checkpoint.
    """
    folder = pathlib.Path(path).absolute()
    if (folder / run_identity.RUN_FILE).exists():
        folder = pathlib.Path(paths.newest(folder))
    return tree(folder, names=folder.rglob("*"))


def sha256(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of the bytes of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree(folder: pathlib.Path, *, names: Iterable[pathlib.Path]) -> str:
    """One hash of files with their places below a folder.

    It is that of `sha256sum` over the sorted files: (cd FOLDER; find * -type f | LC_ALL=C sort |
    xargs sha256sum) | sha256sum.

    Args:
      folder: that names are relative to.
      names: files in it, in any order; folders among them are left out.
    """
    places = sorted(path.relative_to(folder).as_posix() for path in names if path.is_file())
    lines = (f"{sha256(folder / place)}  {place}\n" for place in places)
    return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()
