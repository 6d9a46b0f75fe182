# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint holds, written beside it: Orbax restores a flipped byte without a word."""

import contextlib
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

import mrd_jax
from mrd_jax.checkpoints import checksums

# What reading a damaged checkpoint was seen to raise, from Orbax, TensorStore and json. A disk or
# a network that fails raises other errors, and says nothing about the checkpoint.
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, FileNotFoundError)

# Libraries whose version may matter to who reads a checkpoint.
_LIBRARIES = ("flax", "jax", "numpy", "optax", "orbax-checkpoint")


class CorruptCheckpointError(ValueError):
    """A checkpoint that is not what was saved; the message names the folder and the fault."""


def describe(tree: Any, **facts: Any) -> dict[str, Any]:
    """The manifest of a tree that is about to be saved.

    Args:
      tree: of arrays; all processes of a run call this when the arrays span them.
      facts: whatever else is to be remembered, as JSON.

    Returns:
      leaves, {path: {"shape", "dtype", "checksum"}}; versions of the libraries; the facts; and
      digest, of all these.
    """
    sums = checksums.checksums(tree)
    leaves = {path: leaf | {"checksum": sums[path]} for path, leaf in layout(tree).items()}
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    manifest = {
        "leaves": leaves,
        "versions": {"mrd_jax": mrd_jax.__version__} | versions,
        **facts,
    }
    return manifest | {"digest": digest(manifest)}


def digest(value: Mapping[str, Any]) -> str:
    """SHA-256 of what JSON can say, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def layout(tree: Any) -> dict[str, dict[str, Any]]:
    """Path of every leaf, as Orbax names it, -> its "shape" and "dtype"; no values are needed."""
    return {
        path: {"shape": list(leaf.shape), "dtype": np.dtype(leaf.dtype).name}
        for path, leaf in ocp.tree.to_flat_dict(tree, sep="/").items()
    }


def read(path: epath.Path) -> dict[str, Any]:
    """Reads a manifest back.

    Args:
      path: of the file, JSON.

    Returns:
      what `describe` returned, without the digest.

    Raises:
      CorruptCheckpointError: there is none, or it was changed since.
    """
    try:
        manifest = json.loads(path.read_text())
        whole = manifest.pop("digest") == digest(manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptCheckpointError(f"{path}: no manifest can be read ({error})") from error
    if not whole:
        raise CorruptCheckpointError(
            f"{path}: changed since it was written (its digest does not fit)"
        )
    return manifest


def read_run(path: epath.Path) -> dict[str, Any]:
    """What a workdir was started with: its `config`, and the fingerprint of its `data`.

    Args:
      path: of the file, JSON.

    Raises:
      CorruptCheckpointError: it is not what a run writes; says what to do.
    """
    try:
        run = json.loads(path.read_text())
        if not isinstance(run["config"], dict) or not isinstance(run["data"], str):
            raise TypeError("config is no object, or data no text")
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise CorruptCheckpointError(
            f"{path} is damaged ({error}); copy back the one that the run began with (every "
            "checkpoint holds it as run/metadata), or choose another --workdir"
        ) from error
    return run


def compare(manifest: Mapping[str, Any], tree: Any, *, where: Any) -> None:
    """Compares what was read with what was saved.

    Args:
      manifest: of the whole checkpoint.
      tree: of arrays, all or some of those saved; all processes call this when arrays span them.
      where: it was read from, for the message.

    Raises:
      CorruptCheckpointError: names every leaf that differs.
    """
    found = checksums.checksums(tree)
    wanted = manifest["leaves"]
    wrong = [
        path for path, checksum in found.items()
        if path not in wanted or wanted[path]["checksum"] != checksum
    ]  # fmt: skip
    if wrong:
        some = ", ".join(wrong[:5]) + (", ..." if len(wrong) > 5 else "")
        raise CorruptCheckpointError(
            f"{where}: {len(wrong)} of {len(found)} arrays are not what was saved: {some}"
        )


def difference(manifest: Mapping[str, Any], tree: Any) -> str:
    """One line per leaf that is missing, too much, or of another shape or type; "" for none.

    Args:
      manifest: of a checkpoint.
      tree: of arrays or of their shapes, that the checkpoint is to be read into.
    """
    wanted, found = layout(tree), manifest["leaves"]
    return "\n".join(
        f"  {path}: {_text(found.get(path))} there, {_text(wanted.get(path))} here"
        for path in sorted(found.keys() | wanted.keys())
        if _text(found.get(path)) != _text(wanted.get(path))
    )


def verify(folder: epath.Path, manifest: Mapping[str, Any]) -> int:
    """Reads everything that Orbax wrote into a folder, on the host, and compares it.

    Args:
      folder: of one item of a checkpoint.
      manifest: of it.

    Returns:
      number of arrays.

    Raises:
      CorruptCheckpointError: it cannot be read, or says which arrays are not those that were saved.
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
    """Around whatever reads a checkpoint: what damage makes it raise becomes a `CorruptCheckpointError`.

    Args:
      folder: that is read, for the message.
    """
    try:
        yield
    except CorruptCheckpointError:
        raise
    except Exception as error:
        # Orbax raises the base class itself where TensorStore cannot read an array.
        if type(error) is not Exception and not isinstance(error, _UNREADABLE):
            raise
        # Its messages go on for pages.
        lines = str(error).strip().splitlines() or [""]
        raise CorruptCheckpointError(
            f"{folder}: cannot be read ({type(error).__name__}: {lines[0][:200]})"
        ) from error


def _text(leaf: Mapping[str, Any] | None) -> str:
    return "absent" if leaf is None else f"{leaf['dtype']} {leaf['shape']}"
