# SPDX-License-Identifier: Apache-2.0
"""The variables of a student as a checkpoint holds them: read, and compared with its card."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import linen as nn

from mrd_jax import card as cards
from mrd_jax import models
from mrd_jax.faults import manifest as manifests
from mrd_jax.workdir import saved


def build(card: cards.ModelCard) -> nn.Module:
    """The student on a card."""
    return models.build_model({**card.student, "points": card.points})


def abstract(card: cards.ModelCard) -> dict[str, Any]:
    """Shapes and types of its variables."""
    return cards.abstract_variables(build(card), points=card.points)


def read(
    folder: epath.Path, card: cards.ModelCard, *, manifest: Mapping[str, Any], of_a_run: bool
) -> dict[str, Any]:
    """The variables of the student on the card, on the host, as they were saved.

    Args:
      folder: what Orbax wrote: the variables alone, or the state of a run.
      card: of the student.
      manifest: of the folder.
      of_a_run: which of them.

    Raises:
      mrd_jax.faults.manifest.DamagedError: they are not what was saved, or not that student's.
    """
    wanted = abstract(card)
    handler = ocp.PyTreeCheckpointHandler()
    with manifests.reading(folder), ocp.Checkpointer(handler) as reader:
        # Not by the reader, which misses the file of a whole step and warns.
        stored = dict(handler.metadata(folder))
        places: dict[str, tuple[str, ...]] = {name: (name,) for name in wanted}
        if of_a_run:
            places = saved.student_places(stored)
        found = {name: _at(stored, place) for name, place in places.items()}
        fault = difference(found, wanted)
        if fault:
            raise manifests.DamagedError(
                f"{folder} does not hold the student on its card:\n{fault}"
            )
        # Nothing else is read: the optimizer's moments are twice the size of the student.
        part: dict[str, Any] = {}
        for name, place in places.items():
            _at(part, place[:-1])[place[-1]] = wanted[name]
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), part)
        arguments = ocp.args.PyTreeRestore(item=part, restore_args=as_numpy, partial_restore=True)
        restored = reader.restore(folder, args=arguments)
    manifests.compare(manifest, restored, where=folder)
    return {name: _at(restored, place) for name, place in places.items()}


def difference(found: Any, wanted: Any) -> str:
    """One line per leaf that is missing, too much or of another shape; "" for none.

    Args:
      found: a tree of arrays, or of their shapes.
      wanted: one like it.
    """
    there, here = _leaves(found), _leaves(wanted)
    return "\n".join(
        f"  {name}: {there.get(name, 'absent')} there, {here.get(name, 'absent')} on the card"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    )


def _at(tree: dict[str, Any], place: Sequence[str]) -> Any:
    """The subtree at the end of these keys, made where it is absent."""
    for key in place:
        tree = tree.setdefault(key, {})
    return tree


def _leaves(tree: Any) -> dict[str, str]:
    """Path of every leaf -> its type and shape, such as "float32 [3, 64]"."""
    return {
        jax.tree_util.keystr(path): f"{np.dtype(leaf.dtype).name} {list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
