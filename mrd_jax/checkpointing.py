# SPDX-License-Identifier: Apache-2.0
"""A workdir belongs to one run: its config, its data, its checkpoints, and how it resumes."""

import json
from collections.abc import Mapping
from typing import Any

import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict

from mrd_jax import card as cards

# Fields that may differ between the start of a run and its continuation, because the result does
# not depend on them (`spmd`, `loss.form` and `loss.block` up to float rounding). Everything else
# may not.
NEUTRAL_FIELDS = frozenset(
    {
        "checkpoint_every",
        "checkpoints_kept",
        "data.cache",
        "data.directory",
        "data.test_directory",
        "data.test_split",
        "eval_every",
        "eval_windows",
        "log_every",
        "loss.block",
        "loss.form",
        "model.remat",
        "spmd",
    }
)


# What a workdir was started with: config and data set.
RUN_FILE = "run.json"
# Its folder of one folder per saved step.
FOLDER = "checkpoints"
# The parts of a checkpoint: what training changes, the run's identity, the student's card.
STATE, RUN, CARD = "state", "run", "card"


class WorkdirMismatchError(ValueError):
    """The workdir holds a run of another config or other data."""


def flatten(config: ConfigDict | dict, prefix: str = "") -> dict[str, Any]:
    """Nested fields as {"loss.relation": "similarity", ...}, values as JSON gives them back."""
    if isinstance(config, ConfigDict):
        config = json.loads(config.to_json())
    flat = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def require_run(workdir: str) -> None:
    """Refuses a folder that no training has claimed, so that a mistyped one is not created.

    Raises:
      FileNotFoundError: says what to do.
    """
    if not (epath.Path(workdir) / RUN_FILE).exists():
        raise FileNotFoundError(
            f"{workdir} is not the workdir of a run ({RUN_FILE} is missing); check the path, or "
            "train with --mode train first"
        )


def newest(workdir: str | epath.Path) -> epath.Path:
    """Folder of the newest complete checkpoint of a run.

    Raises:
      FileNotFoundError: there is none.
    """
    folder = epath.Path(workdir) / FOLDER
    steps = ocp.utils.checkpoint_steps(folder) if folder.exists() else []
    if not steps:
        raise FileNotFoundError(f"no checkpoint in {folder}; train with --mode train first")
    return folder / str(max(steps))


def read_card(checkpoint: epath.Path) -> cards.ModelCard:
    """The card of the student in a checkpoint.

    Args:
      checkpoint: from `newest`.

    Raises:
      mrd_jax.card.CardError: there is none, or it cannot be used.
    """
    if not (checkpoint / CARD).exists():
        raise cards.CardError(
            f"{checkpoint} has no model card: an earlier version of mrd_jax saved it; train again"
        )
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        return cards.from_dict(reader.restore(checkpoint / CARD))


def student_places(state: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Where a stored state keeps the student as evaluated, as `TrainState.variables` picks it.

    Args:
      state: the tree of a stored state; what its leaves are does not matter.

    Returns:
      keys that lead to the student's `params` and `batch_stats`.
    """
    params = ("params", "student") if state["ema"] is None else ("ema",)
    return {"params": params, "batch_stats": ("batch_stats",)}


class Checkpoints:
    """The checkpoints of one run and the identity they must keep.

    A checkpoint holds the state (whose step is also the position in the data stream), the config
    and the data set's fingerprint, and the card of the student, so that `mrd_jax.encoder` can load
    it. Saving is asynchronous and atomic: a folder of a step appears only when it is whole.
    """

    def __init__(
        self,
        workdir: str,
        *,
        config: ConfigDict,
        fingerprint: str,
        card: cards.ModelCard | None = None,
    ):
        """Opens or creates the workdir.

        Args:
          workdir: folder of the run; created where absent.
          config: of the run.
          fingerprint: of the data set, see `mrd_jax.data.source.fingerprint`.
          card: of the student; without one, what is saved can be continued but not embed.

        Raises:
          WorkdirMismatchError: the workdir was started with other settings or other data.
        """
        self._workdir = epath.Path(workdir)
        self._card = card
        self._identity = {"config": json.loads(config.to_json()), "data": fingerprint}
        self._claim()
        self._manager = ocp.CheckpointManager(
            (self._workdir / FOLDER).absolute(),
            options=ocp.CheckpointManagerOptions(max_to_keep=config.checkpoints_kept),
        )

    def _claim(self) -> None:
        """Writes the run's identity into a new workdir, or compares it with the one there."""
        path = self._workdir / RUN_FILE
        if not path.exists():
            self._workdir.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self._identity, indent=1))
            return
        there = json.loads(path.read_text())
        found, wanted = flatten(there["config"]), flatten(self._identity["config"])
        lines = [
            f"  config.{name}: {found.get(name, 'absent')!r} there, "
            f"{wanted.get(name, 'absent')!r} now"
            for name in sorted(found.keys() | wanted.keys())
            if name not in NEUTRAL_FIELDS and found.get(name) != wanted.get(name)
        ]
        if there["data"] != self._identity["data"]:
            lines.append(f"  data set: {there['data']} there, {self._identity['data']} now")
        if lines:
            raise WorkdirMismatchError(
                f"{self._workdir} holds a run that differs:\n" + "\n".join(lines) + "\n"
                "Choose another --workdir, or restore these settings to continue that run."
            )

    def latest_step(self) -> int | None:
        """Newest complete checkpoint; None in a new workdir."""
        return self._manager.latest_step()

    def save(self, state: Any, *, step: int) -> None:
        """Starts saving; returns once the device arrays may be donated again."""
        if step == self.latest_step():
            return
        items = {
            STATE: ocp.args.StandardSave(state),
            RUN: ocp.args.JsonSave(self._identity),
        }
        if self._card:
            items[CARD] = ocp.args.JsonSave(self._card.as_dict())
        self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, target: Any) -> Any:
        """Reads the newest checkpoint into the shapes, types and shardings of `target`.

        Raises:
          FileNotFoundError: no checkpoint in the workdir.
        """
        step = self.latest_step()
        if step is None:
            raise FileNotFoundError(
                f"no checkpoint in {self._workdir / FOLDER}; train with --mode train first"
            )
        restored = self._manager.restore(
            step, args=ocp.args.Composite(**{STATE: ocp.args.StandardRestore(target)})
        )
        return restored[STATE]

    def close(self) -> None:
        """Waits for unfinished saves."""
        self._manager.wait_until_finished()
        self._manager.close()
