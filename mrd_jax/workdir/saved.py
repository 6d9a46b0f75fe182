# SPDX-License-Identifier: Apache-2.0
"""The saved steps of a run as folders: where they are, what each holds, whether it is whole."""

from collections.abc import Mapping
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from mrd_jax import card as cards
from mrd_jax.faults import manifest as manifests

# The folder of a workdir with one folder per saved step.
FOLDER = "checkpoints"
# Beside it: damaged checkpoints, set aside.
DAMAGED = "damaged"
# The parts of a checkpoint: what training changes, what it looks like, the run's identity, the
# student's card.
STATE, MANIFEST, RUN, CARD = "state", "manifest", "run", "card"


def steps(workdir: str | epath.Path) -> list[epath.Path]:
    """Folders of the complete checkpoints of a run, oldest first.

    Raises:
      FileNotFoundError: there is none.
    """
    folder = epath.Path(workdir) / FOLDER
    found = sorted(ocp.utils.checkpoint_steps(folder)) if folder.exists() else []
    if not found:
        raise FileNotFoundError(f"no checkpoint in {folder}; train with --mode train first")
    return [folder / str(step) for step in found]


def newest(workdir: str | epath.Path) -> epath.Path:
    """Folder of the newest complete checkpoint of a run.

    Raises:
      FileNotFoundError: there is none.
    """
    return steps(workdir)[-1]


def is_step(folder: epath.Path) -> bool:
    """Whether a folder is one that `steps` names."""
    return all((folder / name).is_dir() for name in (STATE, MANIFEST))


def read_card(checkpoint: epath.Path) -> cards.ModelCard:
    """The card of the student in a checkpoint.

    Args:
      checkpoint: from `newest`.

    Raises:
      mrd_jax.card.CardError: there is none, or it cannot be used.
      mrd_jax.faults.manifest.DamagedError: it is not what was saved.
    """
    if not (checkpoint / CARD).exists():
        raise cards.CardError(
            f"{checkpoint} has no model card: an earlier version of mrd_jax saved it; train again"
        )
    with manifests.reading(checkpoint / CARD):
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            card = reader.restore(checkpoint / CARD)
    if manifests.digest(card) != read_manifest(checkpoint)["card"]:
        raise manifests.DamagedError(f"{checkpoint / CARD}: not the card that was saved")
    return cards.from_dict(card)


def student_places(state: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Where a stored state keeps the student as evaluated, as `TrainState.variables` picks it.

    Args:
      state: the tree of a stored state; what its leaves are does not matter.

    Returns:
      keys that lead to the student's `params` and `batch_stats`.
    """
    params = ("params", "student") if state["ema"] is None else ("ema",)
    return {"params": params, "batch_stats": ("batch_stats",)}


def read_manifest(checkpoint: epath.Path) -> dict[str, Any]:
    """What a checkpoint says that it holds.

    Args:
      checkpoint: from `newest`.

    Raises:
      mrd_jax.faults.manifest.DamagedError: there is no manifest, or it was changed.
    """
    # Where Orbax puts an item that is saved as JSON.
    return manifests.read(checkpoint / MANIFEST / "metadata")


def verify(checkpoint: epath.Path) -> int:
    """Reads a checkpoint whole, on the host, and compares it with its manifest.

    Args:
      checkpoint: folder of a step.

    Returns:
      number of arrays.

    Raises:
      mrd_jax.faults.manifest.DamagedError: names what is damaged.
    """
    read_card(checkpoint)
    return manifests.verify(checkpoint / STATE, read_manifest(checkpoint))
