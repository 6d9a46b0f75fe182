# SPDX-License-Identifier: Apache-2.0
r"""Runs mrd_jax on a Cloud TPU slice until the run is finished, and restarts it after preemptions.

python scripts/tpu_pod.py --name mrd --zone us-west4-a --type v5litepod-64 --spot --delete -- \
    --config configs/mrd_pointbert.py --workdir gs://BUCKET/runs/mrd \
    --config.data.directory=gs://BUCKET/openshape/1.0.0

The arguments after `--` are passed to `python -m mrd_jax.main` on every host. docs/tpu_pods.md is a
step-by-step guide. This machine needs only Python, git and gcloud.
"""

import argparse
import dataclasses
import json
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Script that runs on the hosts, where bucket gs://BUCKET is mounted at /gs/BUCKET.
HOST = ROOT / "scripts" / "tpu_host.sh"
# Machine images by prefix of the TPU type; the first match is used
# (cloud.google.com/tpu/docs/runtimes).
RUNTIMES = (
    ("v6e", "v2-alpha-tpuv6e"),
    ("v5p", "v2-alpha-tpuv5"),
    ("v5litepod", "v2-alpha-tpuv5-lite"),
    ("", "tpu-ubuntu2204-base"),
)
# States of a queued resource (cloud.google.com/tpu/docs/queued-resources).
READY, GONE = "ACTIVE", ("FAILED", "SUSPENDED")
# File that a finished run writes to its workdir (see mrd_jax.training.train), and the folder of its
# checkpoints.
FINISHED, CHECKPOINTS = "finished", "checkpoints"


class LaunchError(Exception):
    """Raised if the launcher cannot continue; the message tells the user what to do."""


class AttemptError(Exception):
    """Raised if an attempt failed; the launcher tries again."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """Newest step of a run that has a checkpoint, -1 for none, and whether the run is finished."""

    step: int
    finished: bool


class Slice:
    """Builds the commands that create, access and delete a slice."""

    def __init__(self, options: argparse.Namespace):
        """Creates the builder.

        Args:
          options: result of `parse_options`.
        """
        self._options = options
        self._place = [f"--zone={options.zone}"]
        if options.project:
            self._place.append(f"--project={options.project}")

    def create(self) -> list[str]:
        """Requests the slice; Cloud TPU queues the request until there is capacity."""
        o = self._options
        command = ["gcloud", "compute", "tpus", "queued-resources", "create", o.name]
        command += [f"--node-id={o.name}", *self._place, f"--accelerator-type={o.type}"]
        command += [f"--runtime-version={o.runtime}", *(["--spot"] if o.spot else [])]
        return command + ([f"--service-account={o.service_account}"] if o.service_account else [])

    def list_requests(self) -> list[str]:
        """Lists all requests in the zone, so that a missing slice is not taken for an error."""
        return ["gcloud", "compute", "tpus", "queued-resources", "list", *self._place,
                "--format=json"]  # fmt: skip

    def delete(self) -> list[str]:
        """Deletes the request and its slice."""
        return ["gcloud", "compute", "tpus", "queued-resources", "delete", self._options.name,
                *self._place, "--force", "--quiet"]  # fmt: skip

    def copy(self, *paths: pathlib.Path) -> list[str]:
        """Copies files to the home folder of every host."""
        return ["gcloud", "compute", "tpus", "tpu-vm", "scp", *map(str, paths),
                f"{self._options.name}:", *self._place, "--worker=all", "--quiet"]  # fmt: skip

    def install(self) -> list[str]:
        """Installs the code and its packages, mounts the buckets and runs the set-up commands."""
        o = self._options
        script = shlex.join(["bash", HOST.name, "install", o.commit, *o.buckets])
        return self._on_all_hosts(f"{script} && {o.setup}" if o.setup else script)

    def run(self) -> list[str]:
        """Runs mrd_jax on every host and waits until all have exited."""
        o = self._options
        arguments = [argument.replace("gs://", "/gs/") for argument in o.arguments]
        return self._on_all_hosts(shlex.join(["bash", HOST.name, "run", o.commit, *arguments]))

    def _on_all_hosts(self, script: str) -> list[str]:
        # With keep-alive messages, a lost host is detected within minutes.
        return ["gcloud", "compute", "tpus", "tpu-vm", "ssh", self._options.name, *self._place,
                "--worker=all", "--quiet", "--ssh-flag=-oServerAliveInterval=30",
                f"--command={script}"]  # fmt: skip


def run_command(command: Sequence[str], *, capture: bool = False) -> str | None:
    """Runs a command; returns its standard output if `capture`, else leaves it on the terminal.

    Raises:
      AttemptError: the exit status is not 0.
    """
    done = subprocess.run(command, stdout=subprocess.PIPE if capture else None, text=True)
    if done.returncode:
        raise AttemptError(f"exit status {done.returncode} of: {' '.join(command[:6])} ...")
    return done.stdout


def list_names(folder: str) -> list[str]:
    """Returns the names in a folder of a bucket; empty if the folder does not exist.

    Raises:
      AttemptError: the bucket cannot be read.
    """
    command = ["gcloud", "storage", "ls", f"{folder}/"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "matched no objects" not in done.stderr:
        raise AttemptError(f"{' '.join(command)}: {done.stderr.strip()}")
    return [line.rstrip("/").rpartition("/")[2] for line in done.stdout.splitlines()]


def read_progress(workdir: str) -> Progress:
    """Reads the progress of a run from its workdir in the bucket."""
    steps = [int(name) for name in list_names(f"{workdir}/{CHECKPOINTS}") if name.isdecimal()]
    return Progress(max(steps, default=-1), FINISHED in list_names(workdir))


def get_state(tpu: Slice, name: str) -> str:
    """Returns the state of a queued resource; "" if it does not exist."""
    for resource in json.loads(run_command(tpu.list_requests(), capture=True) or "[]"):
        if resource["name"].rpartition("/")[2] == name:
            return resource["state"]["state"]
    return ""


def wait_for_slice(tpu: Slice, options: argparse.Namespace) -> None:
    """Waits until the slice is ready; requests it if it does not exist.

    Raises:
      AttemptError: the request failed.
      LaunchError: the slice was preempted, its remains block a new one and --delete is not set.
    """
    requested, logged = False, ""
    while (state := get_state(tpu, options.name)) != READY:
        if state in GONE and requested:
            raise AttemptError(f"the new slice is {state}")
        if state in GONE:
            if not options.delete:
                raise LaunchError(
                    f"slice {options.name} was preempted ({state}) and must be deleted before a "
                    f"new one is created: pass --delete, or run\n{shlex.join(tpu.delete())}"
                )
            log(f"slice {options.name} was preempted ({state}); requesting a new one")
            run_command(tpu.delete())
        if not state or state in GONE:
            run_command(tpu.create())
            requested = True
        elif state != logged:
            log(f"slice {options.name} is {state}; waiting until it is {READY}")
        logged = state
        time.sleep(options.poll)


def run_attempt(tpu: Slice, options: argparse.Namespace, archive: pathlib.Path) -> Progress:
    """Creates the slice if necessary, installs the code, runs it and returns the progress.

    Raises:
      AttemptError: a command before the run failed.
    """
    wait_for_slice(tpu, options)
    log(f"installing {options.commit} on all hosts of {options.name}")
    run_command(tpu.copy(archive, HOST))
    run_command(tpu.install())
    log("running")
    try:
        run_command(tpu.run())
    except AttemptError as error:
        log(str(error))
    # The exit status does not tell: a run that was shut down gracefully exits with 0.
    return read_progress(options.workdir)


def run_until_finished(tpu: Slice, options: argparse.Namespace, archive: pathlib.Path) -> bool:
    """Repeats attempts until the run is finished.

    Returns:
      False after `options.attempts` attempts in a row without a new checkpoint.
    """
    failures, last = 0, read_progress(options.workdir)
    while not last.finished:
        current = last
        try:
            current = run_attempt(tpu, options, archive)
        except AttemptError as error:
            log(str(error))
        failures = 0 if current.step > last.step else failures + 1
        if not current.finished:
            log(f"not finished; newest checkpoint: {current.step if current.step >= 0 else 'none'}")
            if failures >= options.attempts:
                log(f"giving up after {failures} attempts without a new checkpoint")
                return False
            # Backs off: it may take minutes until the state of a lost slice is updated.
            time.sleep(options.poll * (1 + failures))
        last = current
    log(f"finished: {options.workdir}")
    return True


def log(text: str) -> None:
    """Prints a line with the time."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line and adds `workdir`, `buckets`, `runtime` and `commit`."""
    # Errors are one line without the usage; the description has an example.
    parser = argparse.ArgumentParser(
        description=__doc__,
        usage=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--name", required=True, help="name of the slice; an existing one is used")
    add("--zone", required=True, help="Cloud zone of the slice")
    add("--type", required=True, help="accelerator type, such as v5litepod-64")
    add("--project", help="Cloud project (default: that of gcloud)")
    add("--runtime", help="machine image (default: by accelerator type)")
    add("--service_account", help="service account of the hosts, with access to the bucket")
    add("--spot", action="store_true", help="request a spot slice: cheaper, preemptible")
    add("--setup", default="", help="shell commands to run on every host after installation")
    add("--attempts", type=int, default=5, help="give up after this many without a checkpoint")
    add("--poll", type=float, default=30, help="seconds between checks of the slice")
    add("--delete", action="store_true",
        help="delete the slice at the end, finished or given up, and the remains of preempted "
        "slices; without this flag nothing is deleted")  # fmt: skip
    add("--dry_run", action="store_true", help="print the commands of the first attempt and exit")
    add("arguments", nargs="+", metavar="-- ARGUMENT", help="arguments of python -m mrd_jax.main")
    options = parser.parse_args(arguments)
    text = " ".join(options.arguments)
    workdir = re.search(r"--workdir[= ](gs://\S+)", text)
    if not workdir:
        parser.error("after --, pass --workdir gs://BUCKET/...: a slice loses its local files")
    options.workdir = workdir[1].rstrip("/")
    options.buckets = sorted(set(re.findall(r"gs://([^/\s]+)", text)))
    options.runtime = options.runtime or next(
        image for prefix, image in RUNTIMES if options.type.startswith(prefix)
    )
    head = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    options.commit = run_command(head, capture=True).strip()
    return options


def launch(options: argparse.Namespace) -> int:
    """Runs until the run is finished; returns the exit status, 1 if it gave up."""
    tpu = Slice(options)
    with tempfile.TemporaryDirectory() as folder:
        archive = pathlib.Path(folder) / f"mrd_jax-{options.commit}.tar.gz"
        pack = ["git", "-C", str(ROOT), "archive", f"--output={archive}", options.commit]
        if options.dry_run:
            plan = [pack, tpu.create(), tpu.copy(archive, HOST), tpu.install(), tpu.run()]
            print("\n".join(map(shlex.join, plan)))
            return 0
        run_command(pack)
        finished = run_until_finished(tpu, options, archive)
    if options.delete:
        if get_state(tpu, options.name):
            run_command(tpu.delete())
    else:
        log(f"slice {options.name} is not deleted, and is billed until you run\n"
            + shlex.join(tpu.delete()))  # fmt: skip
    return 0 if finished else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 2 after an error."""
    try:
        return launch(parse_options(arguments))
    except FileNotFoundError as error:
        message = f"{error.filename} was not found; this machine needs git and gcloud"
    except (AttemptError, LaunchError) as error:
        message = str(error)
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
