# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of checkpoints, configs and code, and checksums of the files behind them."""

import hashlib
import json
from importlib import metadata
from typing import Any

from ml_collections import ConfigDict

import mrd_jax
from mrd_jax import hub, storage
from mrd_jax.checkpoints import paths, run_identity

# Fields of a benchmark config that do not affect its results: paths, and the selection of sets.
PLACES = ("checkpoint", "data", "sets")
# Bytes that are read at a time.
_BLOCK = 2**22
PACKAGES = ("mrd_jax", "jax", "flax", "numpy", "scipy")


def benchmark_fingerprints(config: ConfigDict) -> dict[str, Any]:
    """Computes the fingerprints of everything that benchmark results depend on, except the data.

    Args:
      config: config as in `configs/benchmarks.py`.

    Returns:
      hashes: SHA-256 in hex of the config without `PLACES`, of the files of the checkpoint and of
      the code of this package; versions: installed versions of `PACKAGES`.

    Raises:
      FileNotFoundError: the run has no checkpoint.
    """
    fields = json.loads(config.to_json())
    fields = {name: value for name, value in fields.items() if name not in PLACES}
    code = storage.path(mrd_jax.__file__).parent
    return {
        "hashes": {
            "config": hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest(),
            "checkpoint": checkpoint_fingerprint(config.checkpoint),
            "code": folder_checksum(code, suffix=".py"),
        },
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


def checkpoint_fingerprint(path: storage.PathLike) -> str:
    """Computes the fingerprint of an encoder: the checksum of its files.

    Args:
      path: encoder folder, workdir of a run (its newest checkpoint is used), one checkpoint, or
        hf://USER/NAME.

    Raises:
      FileNotFoundError: the run has no checkpoint.
    """
    folder = hub.resolve(path)
    if (folder / run_identity.RUN_FILE).exists():
        folder = paths.newest(folder)
    return folder_checksum(folder)


def file_checksum(path: storage.PathLike) -> str:
    """Returns the SHA-256 of a file, in hex."""
    with storage.path(path).open("rb") as file:
        return _digest(file)


def _digest(file: Any) -> str:
    """Returns the SHA-256 of an open file, in hex; `hashlib.file_digest` takes local files only."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def folder_checksum(folder: storage.Path, *, suffix: str = "") -> str:
    """Computes one SHA-256 of the files of a folder and their relative paths.

    The result is that of (cd FOLDER; find * -type f | LC_ALL=C sort | xargs sha256sum) | sha256sum.

    Args:
      folder: folder that the paths are relative to.
      suffix: end of the names of the files; "" for all.
    """
    names = [name for name in storage.files(folder) if name.endswith(suffix)]
    lines = (f"{file_checksum(folder / name)}  {name}\n" for name in names)
    return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()
