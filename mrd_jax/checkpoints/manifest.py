# SPDX-License-Identifier: Apache-2.0
"""Manifest of a checkpoint: shapes and checksums of its arrays.

Orbax does not detect bit flips; the checksums do.
"""

import contextlib
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

import mrd_jax
from mrd_jax import storage
from mrd_jax.checkpoints import checksums

# Raised by Orbax, TensorStore and json on corrupt checkpoints. Errors of a disk or a network are of
# other types, and do not mean that the checkpoint is corrupt.
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, FileNotFoundError)

# Libraries whose versions are recorded.
_LIBRARIES = ("flax", "jax", "numpy", "optax", "orbax-checkpoint")


class CorruptCheckpointError(ValueError):
    """The checkpoint is not what was saved; the message names the folder and the fault."""


def describe(tree: Any, **facts: Any) -> dict[str, Any]:
    """Describes a tree that is about to be saved.

    Every process must call this function if the arrays span processes.

    Args:
      tree: tree of arrays.
      **facts: additional JSON values.

    Returns:
      The manifest: leaves, {path: {"shape", "dtype", "checksum"}}; versions of the libraries; the
      facts; and "digest", the fingerprint of all these.
    """
    sums = checksums.tree_checksums(tree)
    leaves = {path: leaf | {"checksum": sums[path]} for path, leaf in leaf_specs(tree).items()}
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    manifest = {
        "leaves": leaves,
        "versions": {"mrd_jax": mrd_jax.__version__} | versions,
        **facts,
    }
    return manifest | {"digest": fingerprint(manifest)}


def fingerprint(value: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a JSON object, in hex, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def leaf_specs(tree: Any) -> dict[str, dict[str, Any]]:
    """Returns "shape" and "dtype" of every leaf by its path as Orbax names it.

    Args:
      tree: tree of arrays, or of their shapes.
    """
    return {
        path: {"shape": list(leaf.shape), "dtype": np.dtype(leaf.dtype).name}
        for path, leaf in ocp.tree.to_flat_dict(tree, sep="/").items()
    }


def read(path: storage.Path) -> dict[str, Any]:
    """Reads a manifest.

    Args:
      path: JSON file.

    Returns:
      The manifest as `describe` returned it, without "digest".

    Raises:
      CorruptCheckpointError: the file is missing, cannot be read or was changed.
    """
    try:
        manifest = json.loads(path.read_text())
        intact = manifest.pop("digest") == fingerprint(manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptCheckpointError(f"{path}: cannot read the manifest ({error})") from error
    if not intact:
        raise CorruptCheckpointError(
            f"{path}: changed since it was written (its fingerprint does not match)"
        )
    return manifest


def compare(manifest: Mapping[str, Any], tree: Any, *, where: Any) -> None:
    """Compares the checksums of restored arrays with those that were saved.

    Every process must call this function if the arrays span processes.

    Args:
      manifest: manifest of the whole checkpoint.
      tree: tree of some or all arrays of the checkpoint.
      where: folder of the checkpoint, for the message.

    Raises:
      CorruptCheckpointError: arrays differ; names the first five.
    """
    sums = checksums.tree_checksums(tree)
    saved = manifest["leaves"]
    corrupt = [
        path for path, checksum in sums.items()
        if path not in saved or saved[path]["checksum"] != checksum
    ]  # fmt: skip
    if corrupt:
        names = ", ".join(corrupt[:5]) + (", ..." if len(corrupt) > 5 else "")
        raise CorruptCheckpointError(
            f"{where}: {len(corrupt)} of {len(sums)} arrays are not what was saved: {names}"
        )


def difference(manifest: Mapping[str, Any], tree: Any) -> str:
    """Lists the leaves that are missing, unexpected, or of another shape or type.

    Args:
      manifest: manifest of a checkpoint.
      tree: tree of arrays, or of their shapes, that the checkpoint is to be restored into.

    Returns:
      One line per leaf; "" if the trees agree.
    """
    wanted, saved = leaf_specs(tree), manifest["leaves"]
    return "\n".join(
        f"  {path}: {_format(saved.get(path))} there, {_format(wanted.get(path))} here"
        for path in sorted(saved.keys() | wanted.keys())
        if _format(saved.get(path)) != _format(wanted.get(path))
    )


def verify(folder: storage.Path, manifest: Mapping[str, Any]) -> int:
    """Reads all arrays of a folder on the host and compares them with a manifest.

    Args:
      folder: folder of one item of a checkpoint, as Orbax wrote it.
      manifest: manifest of the item.

    Returns:
      Number of arrays.

    Raises:
      CorruptCheckpointError: the folder cannot be read, or arrays differ.
    """
    with reading(folder), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        stored = dict(reader.metadata(folder).item_metadata)
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
        tree = reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    if differs := difference(manifest, tree):
        raise CorruptCheckpointError(f"{folder}: not the arrays that were saved:\n{differs}")
    compare(manifest, tree, where=folder)
    return len(manifest["leaves"])


@contextlib.contextmanager
def reading(folder: Any) -> Iterator[None]:
    """Turns the errors that a corrupt checkpoint causes into `CorruptCheckpointError`.

    Args:
      folder: folder that the block reads, for the message.
    """
    try:
        yield
    except CorruptCheckpointError:
        raise
    except Exception as error:
        # Orbax raises plain `Exception` if TensorStore cannot read an array.
        if type(error) is not Exception and not isinstance(error, _UNREADABLE):
            raise
        # Messages of TensorStore are pages long.
        lines = str(error).strip().splitlines() or [""]
        raise CorruptCheckpointError(
            f"{folder}: cannot be read ({type(error).__name__}: {lines[0][:200]})"
        ) from error


def _format(leaf: Mapping[str, Any] | None) -> str:
    return "absent" if leaf is None else f"{leaf['dtype']} {leaf['shape']}"
