# SPDX-License-Identifier: Apache-2.0
"""Attempts: create the slice if necessary, install, check, run; again until the run is finished."""

import argparse
import pathlib
import re
import shlex
import time

from scripts.tpu_pod import bucket, cloud, commands

# Line that host.sh prints when the run has ended on a host.
_EXIT = re.compile(r"host\.sh: (\S+): exit status (\d+)")
# Exit status of mrd_jax for a mistake of the user: config, data or workdir do not fit.
_USAGE_ERROR = 2
# Checks of the slice that a node may be unhealthy before it is given up.
_PATIENCE = 20


def run_until_finished(
    tpu: cloud.Slice, options: argparse.Namespace, archive: pathlib.Path
) -> bool:
    """Repeats attempts until the run is finished.

    Returns:
      False after `options.attempts` attempts in a row without a new checkpoint.

    Raises:
      commands.LaunchError: an attempt failed for a reason that another would not mend.
    """
    failures, last = 0, bucket.read_progress(options.workdir)
    while not last.finished:
        current = last
        try:
            current = run_attempt(tpu, options, archive, last=last)
        except commands.AttemptError as error:
            commands.log(str(error))
        failures = 0 if current.step > last.step else failures + 1
        if not current.finished:
            newest = current.step if current.step >= 0 else "none"
            commands.log(f"not finished; newest checkpoint: {newest}")
            if failures >= options.attempts:
                commands.log(f"giving up after {failures} attempts without a new checkpoint")
                return False
            # Backs off: it may take minutes until the state of a lost slice is updated.
            time.sleep(options.poll * (1 + failures))
        last = current
    commands.log(f"finished: {options.workdir}")
    return True


def run_attempt(
    tpu: cloud.Slice,
    options: argparse.Namespace,
    archive: pathlib.Path,
    *,
    last: bucket.Progress,
) -> bucket.Progress:
    """Creates the slice if necessary, installs the code, runs it and returns the progress.

    Args:
      tpu: the slice.
      options: options of the launcher.
      archive: code of the commit.
      last: progress before the attempt.

    Raises:
      commands.AttemptError: a command before the run failed.
      commands.LaunchError: the run cannot start, for a reason that another attempt would not mend.
    """
    wait_for_slice(tpu, options)
    commands.log(f"installing {options.commit} on all hosts of {options.name}")
    commands.run(tpu.copy(archive, cloud.HOST))
    commands.run(tpu.install())
    commands.log("checking the run on the first host")
    statuses = run_on_hosts(tpu, options, tpu.preflight())
    if statuses:
        _raise_if_permanent(statuses)
        raise commands.AttemptError("the check on the first host failed")
    commands.log("running")
    statuses = run_on_hosts(tpu, options, tpu.run())
    # The exit status does not tell: a run that was shut down gracefully exits with 0.
    progress = bucket.read_progress(options.workdir)
    if progress == last:
        _raise_if_permanent(statuses)
    return progress


def run_on_hosts(
    tpu: cloud.Slice, options: argparse.Namespace, command: list[str]
) -> dict[str, int]:
    """Runs a command of host.sh while the nodes are watched.

    Args:
      tpu: the slice.
      options: options of the launcher.
      command: command that reports exit statuses.

    Returns:
      Exit status by host, of the hosts where it is not 0; {"gcloud": 1} if only gcloud failed or
      a node was lost.
    """
    statuses: dict[str, int] = {}

    def note(line: str) -> None:
        if match := _EXIT.fullmatch(line):
            statuses[match[1]] = int(match[2])

    watch = NodeWatch(tpu)
    try:
        commands.run_watched(
            command, on_line=note, find_fault=watch.find_fault, interval=options.poll
        )
    except commands.AttemptError as error:
        commands.log(str(error))
        return {host: status for host, status in statuses.items() if status} or {"gcloud": 1}
    return {}


def _raise_if_permanent(statuses: dict[str, int]) -> None:
    hosts = sorted(host for host, status in statuses.items() if status == _USAGE_ERROR)
    if hosts:
        raise commands.LaunchError(
            f"mrd_jax cannot start (its error is above, of {' and '.join(hosts[:3])}), and another "
            "attempt would not help; mend it, commit, and run the same command"
        )


class NodeWatch:
    """Watches the nodes of a slice: their state and health, not only that of the request."""

    def __init__(self, tpu: cloud.Slice):
        """Starts to watch.

        Args:
          tpu: the slice.
        """
        self._tpu = tpu
        self._unhealthy = 0
        # What was wrong at the last look; None before the first.
        self.fault: str | None = None

    def find_fault(self) -> str:
        """Returns why the nodes are lost, "" if they are not; logs what is wrong with them."""
        try:
            fault, lost = self._tpu.find_node_fault()
        except commands.AttemptError as error:
            # A failure of the query says nothing about the nodes.
            commands.log(str(error))
            return ""
        self._unhealthy = self._unhealthy + 1 if fault else 0
        if fault != (self.fault or ""):
            commands.log(fault or "all nodes are ready and healthy again")
        self.fault = fault
        return fault if lost or self._unhealthy > _PATIENCE else ""


def wait_for_slice(tpu: cloud.Slice, options: argparse.Namespace) -> None:
    """Waits until the slice is ready; requests it if it does not exist.

    Raises:
      commands.AttemptError: the request failed.
      commands.LaunchError: the slice was lost, its remains block a new one and --delete is not set.
    """
    requested, logged, watch = False, "", NodeWatch(tpu)
    while True:
        state, reason = tpu.state(), ""
        if state in cloud.GONE:
            reason = state
        elif state == cloud.READY:
            reason = watch.find_fault()
            if watch.fault == "":
                return
        if reason:
            _delete_remains(tpu, options, reason, requested=requested)
        if reason or not state:
            commands.run(tpu.create())
            requested = True
        elif state not in (logged, cloud.READY):
            commands.log(f"slice {options.name} is {state}; waiting until it is {cloud.READY}")
        logged = state
        time.sleep(options.poll)


def _delete_remains(
    tpu: cloud.Slice, options: argparse.Namespace, reason: str, *, requested: bool
) -> None:
    if requested:
        raise commands.AttemptError(f"the new slice is lost ({reason})")
    if not options.delete:
        raise commands.LaunchError(
            f"slice {options.name} was lost ({reason}) and must be deleted before a new one is "
            f"created: pass --delete, or run\n{shlex.join(tpu.delete())}"
        )
    commands.log(f"slice {options.name} was lost ({reason}); requesting a new one")
    commands.run(tpu.delete())
