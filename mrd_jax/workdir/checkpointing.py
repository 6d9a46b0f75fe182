# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a run: saved whole, compared when they are read, kept by age and by worth."""

import contextlib
import functools
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
from mrd_jax.workdir import best, history, identity, saved

LOGGER = logging.getLogger(__name__)


class StateMismatchError(ValueError):
    """A whole checkpoint whose arrays are not those that the config asks for."""


class Restored(NamedTuple):
    """A state that was read back, and whether it had been evaluated before it was saved."""

    state: Any
    evaluated: bool


class Checkpoints:
    """The checkpoints of one run: the newest ones and the best ones.

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
          mrd_jax.workdir.identity.WorkdirMismatchError: the workdir was started with other
            settings or other data.
        """
        self._workdir = epath.Path(workdir)
        self._card = card
        self._read_only = read_only
        self._identity = identity.of_run(config, fingerprint=fingerprint)
        hosts.require_same({"data set": fingerprint})
        hosts.first_process_first(functools.partial(identity.claim, self._workdir, self._identity))
        self._best = best.Best(config.best_metric, count=config.checkpoints_best)
        if config.checkpoints_best or read_only:
            self._best.recall(self._workdir / history.FILE)
        policies = ocp.checkpoint_managers
        newest_or_best = [policies.LatestN(config.checkpoints_kept), self._best]
        self._manager = ocp.CheckpointManager(
            (self._workdir / saved.FOLDER).absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(newest_or_best),
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
            ),
        )

    def latest_step(self) -> int | None:
        """Newest complete checkpoint; None in a new workdir."""
        return self._manager.latest_step()

    def see(self, step: int, values: Mapping[str, float]) -> None:
        """Takes in an evaluation, by which the best checkpoints are kept.

        Args:
          step: that was evaluated; it is saved after this, or was before.
          values: name -> value, as the metrics have them.

        Raises:
          ValueError: `config.best_metric` is not among them.
        """
        self._best.see(step, values)

    def find(self, which: str) -> int:
        """The step that a person means.

        Args:
          which: "newest"; "best", by `config.best_metric`; or the number of a step.

        Raises:
          FileNotFoundError: there is no such checkpoint; names those there are.
        """
        there = [int(folder.name) for folder in saved.steps(self._workdir)]
        choice = {"newest": there[-1:], "best": self._best.ranked(there)[:1]}
        found = choice.get(which, [step for step in there if str(step) == which])
        if not found:
            raise FileNotFoundError(
                f"{self._workdir} has no checkpoint {which!r}; there are {there}, and of them "
                f"{self._best.ranked(there)} have been evaluated by {self._best.metric}"
            )
        return found[0]

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
            saved.STATE: ocp.args.StandardSave(state),
            saved.RUN: ocp.args.JsonSave(self._identity),
        }
        facts = {"step": step, "evaluated": evaluated, "run": manifests.digest(self._identity)}
        if self._card:
            items[saved.CARD] = ocp.args.JsonSave(self._card.as_dict())
            facts["card"] = manifests.digest(self._card.as_dict())
        items[saved.MANIFEST] = ocp.args.JsonSave(manifests.describe(state, **facts))
        self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, target: Any) -> Restored:
        """Reads the newest whole checkpoint into the shapes, types and shardings of `target`.

        The newest, never the best: a run goes on from where it was.

        A damaged one is moved to WORKDIR/damaged, with a warning that says what is wrong with it,
        and the one before it is read; it is never trained on. Unless the workdir is open to read
        only: then it is an error.

        Raises:
          FileNotFoundError: no checkpoint in the workdir.
          mrd_jax.faults.manifest.DamagedError: not one of the checkpoints is whole.
          ValueError: the checkpoint holds another state than target; says where they differ.
        """
        self._manager.wait_until_finished()
        found = [int(folder.name) for folder in saved.steps(self._workdir)]
        for step in reversed(found):
            try:
                return self.read(step, target)
            except manifests.DamagedError as error:
                if self._read_only:
                    raise
                LOGGER.warning("%s", error)
                self._set_aside(step)
        raise manifests.DamagedError(
            f"{self._workdir}: every checkpoint was damaged ({found}) and is now in "
            f"{self._workdir / saved.DAMAGED}; copy a whole one back into {saved.FOLDER}/, or "
            "start the run again in another workdir"
        )

    def read(self, step: int, target: Any) -> Restored:
        """Reads one checkpoint into the shapes, types and shardings of `target`.

        Raises:
          mrd_jax.faults.manifest.DamagedError: it is damaged; on all processes, if one finds so.
          StateMismatchError: it holds another state than target; says where they differ.
        """
        folder = self._workdir / saved.FOLDER / str(step)
        with _together(folder):
            manifest = saved.read_manifest(folder)
        if differs := manifests.difference(manifest, target):
            raise StateMismatchError(
                f"{folder} holds another state than this version of mrd_jax trains with this "
                f"config:\n{differs}\nContinue it with the version that wrote it "
                f"({manifest['versions']})."
            )
        wanted = {saved.STATE: ocp.args.StandardRestore(hosts.shared(target))}
        with _together(folder), manifests.reading(folder):
            items = self._manager.restore(step, args=ocp.args.Composite(**wanted))
            state = items[saved.STATE]
        with _together(folder):
            manifests.compare(manifest, state, where=folder)
        return Restored(hosts.placed_like(state, target), manifest["evaluated"])

    def _set_aside(self, step: int) -> None:
        """Moves a damaged checkpoint out of the way; nothing is deleted."""
        if jax.process_index() == 0:
            target = self._workdir / saved.DAMAGED / str(step)
            while target.exists():
                target = target.with_name(target.name + "_again")
            target.parent.mkdir(exist_ok=True)
            (self._workdir / saved.FOLDER / str(step)).rename(target)
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
