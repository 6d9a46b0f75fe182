# SPDX-License-Identifier: Apache-2.0
"""A workdir belongs to one run: its config, its data, its checkpoints, and how it resumes."""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict

from mrd_jax import card as cards
from mrd_jax import hosts
from mrd_jax.faults import manifest as manifests

LOGGER = logging.getLogger(__name__)

# Fields that may differ between the start of a run and its continuation, because the result does
# not depend on them, up to float rounding for `spmd`, `shard_state`, `model.attention`,
# `model.micro_batch`, `loss.form` and `loss.block`. Everything else may not.
NEUTRAL_FIELDS = frozenset(
    {
        "checkpoint_every",
        "checkpoints_kept",
        "data.cache",
        "data.damaged_records",
        "data.directory",
        "data.neighbours_file",
        "data.test_directory",
        "data.test_split",
        "eval_every",
        "eval_windows",
        "log_every",
        "loss.block",
        "loss.form",
        "max_bad_steps",
        "model.attention",
        "model.micro_batch",
        "model.remat",
        "shard_state",
        "spmd",
        "stall_leaves",
        "stall_minutes",
    }
)

# Fields that the processes of a run need not agree on: where a host keeps its copy of the data.
HOST_FIELDS = frozenset(
    {"data.cache", "data.directory", "data.neighbours_file", "data.test_directory"}
)

# What a workdir was started with: config and data set.
RUN_FILE = "run.json"
# Its folder of one folder per saved step.
FOLDER = "checkpoints"
# Beside it: damaged checkpoints, set aside.
DAMAGED = "damaged"
# The parts of a checkpoint: what training changes, what it looks like, the run's identity, the
# student's card.
STATE, MANIFEST, RUN, CARD = "state", "manifest", "run", "card"


class WorkdirMismatchError(ValueError):
    """The workdir holds a run of another config or other data."""


class StateMismatchError(ValueError):
    """A whole checkpoint whose arrays are not those that the config asks for."""


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


class Restored(NamedTuple):
    """A state that was read back, and whether it had been evaluated before it was saved."""

    state: Any
    evaluated: bool


class Checkpoints:
    """The checkpoints of one run and the identity they must keep.

    A checkpoint holds the state (whose step is also the position in the data stream), a manifest
    of it, the config and the data set's fingerprint, and the card of the student, so that
    `mrd_jax.encoder` can load it. Saving is asynchronous and atomic: a folder of a step appears
    only when it is whole.
    """

    def __init__(
        self,
        workdir: str,
        *,
        config: ConfigDict,
        fingerprint: str,
        card: cards.ModelCard | None = None,
        read_only: bool = False,
    ):
        """Opens or creates the workdir.

        Args:
          workdir: folder of the run; created where absent.
          config: of the run.
          fingerprint: of the data set, see `mrd_jax.data.source.fingerprint`, and of whatever else
            the stream of batches comes from.
          card: of the student; without one, what is saved can be continued but not embed.
          read_only: another process may be training in the workdir: leave everything in place.
            Otherwise what a killed save left is removed here.

        Raises:
          WorkdirMismatchError: the workdir was started with other settings or other data.
        """
        self._workdir = epath.Path(workdir)
        self._card = card
        self._read_only = read_only
        self._identity = {"config": json.loads(config.to_json()), "data": fingerprint}
        hosts.require_same({"data set": fingerprint})
        hosts.first_process_first(self._claim)
        self._manager = ocp.CheckpointManager(
            (self._workdir / FOLDER).absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=config.checkpoints_kept,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
            ),
        )

    def _claim(self) -> None:
        """Writes the run's identity into a new workdir, or compares it with the one there."""
        path = self._workdir / RUN_FILE
        if not path.exists():
            if jax.process_index() != 0:
                raise WorkdirMismatchError(
                    f"process 0 has written {path}, but process {jax.process_index()} does not see "
                    "it: --workdir must be the same folder of a file system that all hosts share"
                )
            self._workdir.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self._identity, indent=1))
            return
        there = manifests.read_run(path)
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

    def save(self, state: Any, *, step: int, evaluated: bool = True) -> None:
        """Starts saving; returns once the device arrays may be donated again.

        Args:
          state: of the run.
          step: that it has reached.
          evaluated: whether an evaluation that is due at this step has been done.
        """
        if step == self.latest_step():
            return
        state = hosts.shared(state)
        items = {
            STATE: ocp.args.StandardSave(state),
            RUN: ocp.args.JsonSave(self._identity),
        }
        facts = {"step": step, "evaluated": evaluated, "run": manifests.digest(self._identity)}
        if self._card:
            items[CARD] = ocp.args.JsonSave(self._card.as_dict())
            facts["card"] = manifests.digest(self._card.as_dict())
        items[MANIFEST] = ocp.args.JsonSave(manifests.describe(state, **facts))
        self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, target: Any) -> Restored:
        """Reads the newest whole checkpoint into the shapes, types and shardings of `target`.

        A damaged one is moved to WORKDIR/damaged, with a warning that says what is wrong with it,
        and the one before it is read; it is never trained on. Unless the workdir is open to read
        only: then it is an error.

        Raises:
          FileNotFoundError: no checkpoint in the workdir.
          mrd_jax.faults.manifest.DamagedError: not one of the checkpoints is whole.
          ValueError: the checkpoint holds another state than target; says where they differ.
        """
        self._manager.wait_until_finished()
        found = [int(folder.name) for folder in steps(self._workdir)]
        for step in reversed(found):
            try:
                return self._read(step, target)
            except manifests.DamagedError as error:
                if self._read_only:
                    raise
                LOGGER.warning("%s", error)
                self._set_aside(step)
        raise manifests.DamagedError(
            f"{self._workdir}: every checkpoint was damaged ({found}) and is now in "
            f"{self._workdir / DAMAGED}; copy a whole one back into {FOLDER}/, or start the run "
            "again in another workdir"
        )

    def _read(self, step: int, target: Any) -> Restored:
        """One checkpoint; at every stage the processes of a run agree on whether it is whole."""
        folder = self._workdir / FOLDER / str(step)
        with _together(folder):
            manifest = read_manifest(folder)
        if differs := manifests.difference(manifest, target):
            raise StateMismatchError(
                f"{folder} holds another state than this version of mrd_jax trains with this "
                f"config:\n{differs}\nContinue it with the version that wrote it "
                f"({manifest['versions']})."
            )
        shared = ocp.args.StandardRestore(hosts.shared(target))
        with _together(folder), manifests.reading(folder):
            state = self._manager.restore(step, args=ocp.args.Composite(**{STATE: shared}))[STATE]
        with _together(folder):
            manifests.compare(manifest, state, where=folder)
        return Restored(hosts.placed_like(state, target), manifest["evaluated"])

    def _set_aside(self, step: int) -> None:
        """Moves a damaged checkpoint out of the way; nothing is deleted."""
        if jax.process_index() == 0:
            target = self._workdir / DAMAGED / str(step)
            while target.exists():
                target = target.with_name(target.name + "_again")
            target.parent.mkdir(exist_ok=True)
            (self._workdir / FOLDER / str(step)).rename(target)
            LOGGER.warning("checkpoint %d was moved to %s", step, target)
        # Only then do the others look again.
        hosts.any_process(False)
        self._manager.reload()

    def close(self) -> None:
        """Waits for unfinished saves."""
        self._manager.wait_until_finished()
        self._manager.close()


@contextlib.contextmanager
def _together(folder: epath.Path) -> Iterator[None]:
    """Around a stage of reading: damage that one process finds is damage to all of them."""
    fault = None
    try:
        yield
    except manifests.DamagedError as error:
        fault = error
    if hosts.any_process(fault is not None):
        raise fault or manifests.DamagedError(f"{folder}: damaged, as another process found")
