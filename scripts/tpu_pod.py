# SPDX-License-Identifier: Apache-2.0
"""Runs mrd_jax on a slice of Cloud TPU until the run is finished, whatever happens to the slice.

python scripts/tpu_pod.py --name mrd --zone us-west4-a --type v5litepod-64 --spot --delete -- \
    --config configs/mrd_pointbert.py --workdir gs://BUCKET/runs/mrd \
    --config.data.directory=gs://BUCKET/openshape/1.0.0

What follows `--` goes to `python -m mrd_jax.main` on every host. docs/tpu_pods.md says how to get
there. Needs Python, git and gcloud on this machine, nothing else.
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
# What is done on the hosts, which have the buckets gs://BUCKET at /gs/BUCKET.
HOST = ROOT / "scripts" / "tpu_host.sh"
# Machine images by type of TPU, the first that fits (cloud.google.com/tpu/docs/runtimes).
RUNTIMES = (
    ("v6e", "v2-alpha-tpuv6e"),
    ("v5p", "v2-alpha-tpuv5"),
    ("v5litepod", "v2-alpha-tpuv5-lite"),
    ("", "tpu-ubuntu2204-base"),
)
# States of a queued resource (cloud.google.com/tpu/docs/queued-resources).
READY, GONE = "ACTIVE", ("FAILED", "SUSPENDED")
# What a finished run leaves in its workdir, see mrd_jax.training.train, and its folder of checkpoints.
FINISHED, CHECKPOINTS = "finished", "checkpoints"


class Failed(Exception):
    """An attempt that came to nothing; the message says why."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """What the workdir says: the newest step that was saved, -1 for none; whether it is all."""

    step: int
    finished: bool


class Slice:
    """The commands that a slice is made, reached and deleted with."""

    def __init__(self, options: argparse.Namespace):
        """Only builds commands; nothing runs yet."""
        self._options = options
        self._place = [f"--zone={options.zone}"]
        if options.project:
            self._place.append(f"--project={options.project}")

    def create(self) -> list[str]:
        """Asks for the slice; Google queues the request until there is room."""
        o = self._options
        command = ["gcloud", "compute", "tpus", "queued-resources", "create", o.name]
        command += [f"--node-id={o.name}", *self._place, f"--accelerator-type={o.type}"]
        command += [f"--runtime-version={o.runtime}", *(["--spot"] if o.spot else [])]
        return command + ([f"--service-account={o.service_account}"] if o.service_account else [])

    def look(self) -> list[str]:
        """Lists all of the zone, so that an absent slice is told from a failing command."""
        return ["gcloud", "compute", "tpus", "queued-resources", "list", *self._place,
                "--format=json"]  # fmt: skip

    def delete(self) -> list[str]:
        """Deletes the request and, with it, the slice."""
        return ["gcloud", "compute", "tpus", "queued-resources", "delete", self._options.name,
                *self._place, "--force", "--quiet"]  # fmt: skip

    def copy(self, *paths: pathlib.Path) -> list[str]:
        """Copies files into the home folder of every host."""
        return ["gcloud", "compute", "tpus", "tpu-vm", "scp", *map(str, paths),
                f"{self._options.name}:", *self._place, "--worker=all", "--quiet"]  # fmt: skip

    def install(self) -> list[str]:
        """Makes every host ready: the code, its packages, the buckets, the user's own commands."""
        o = self._options
        script = shlex.join(["bash", HOST.name, "install", o.commit, *o.buckets])
        return self._on_all_hosts(f"{script} && {o.setup}" if o.setup else script)

    def run(self) -> list[str]:
        """Runs mrd_jax on every host and waits until it has ended on all of them."""
        o = self._options
        arguments = [argument.replace("gs://", "/gs/") for argument in o.arguments]
        return self._on_all_hosts(shlex.join(["bash", HOST.name, "run", o.commit, *arguments]))

    def _on_all_hosts(self, script: str) -> list[str]:
        # A host that is gone is noticed within minutes.
        return ["gcloud", "compute", "tpus", "tpu-vm", "ssh", self._options.name, *self._place,
                "--worker=all", "--quiet", "--ssh-flag=-oServerAliveInterval=30",
                f"--command={script}"]  # fmt: skip


def call(command: Sequence[str]) -> None:
    """Runs a command, which prints for itself.

    Raises:
      Failed: its exit status is not 0.
    """
    status = subprocess.run(command).returncode
    if status:
        raise Failed(f"exit status {status} of: {' '.join(command[:6])} ...")


def ask(command: Sequence[str]) -> str:
    """What a command prints.

    Raises:
      Failed: its exit status is not 0.
    """
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise Failed(f"exit status {done.returncode} of: {' '.join(command[:6])} ...")
    return done.stdout


def names_in(folder: str) -> list[str]:
    """Names in a folder of a bucket; none where the folder is not there yet.

    Raises:
      Failed: the bucket cannot be read.
    """
    command = ["gcloud", "storage", "ls", f"{folder}/"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "matched no objects" not in done.stderr:
        raise Failed(f"{' '.join(command)}: {done.stderr.strip()}")
    return [line.rstrip("/").rpartition("/")[2] for line in done.stdout.splitlines()]


def progress(workdir: str) -> Progress:
    """How far the run is, by what is safe in the bucket."""
    saved = [int(name) for name in names_in(f"{workdir}/{CHECKPOINTS}") if name.isdecimal()]
    return Progress(max(saved, default=-1), FINISHED in names_in(workdir))


def state_of(tpu: Slice, name: str) -> str:
    """State of the queued resource; "" where there is none."""
    for resource in json.loads(ask(tpu.look()) or "[]"):
        if resource["name"].rpartition("/")[2] == name:
            return resource["state"]["state"]
    return ""


def make_ready(tpu: Slice, options: argparse.Namespace) -> None:
    """Finds the slice, or asks for it, and waits until it is there.

    Raises:
      Failed: it cannot be had.
      SystemExit: what is left of it is in the way, and may not be deleted.
    """
    asked, shown = False, ""
    while (state := state_of(tpu, options.name)) != READY:
        if state in GONE and asked:
            raise Failed(f"the new slice is {state}")
        if state in GONE:
            if not options.delete:
                sys.exit(
                    f"{options.name} was taken away ({state}). A new one can be made once what is "
                    f"left of it is deleted: pass --delete, or run\n{shlex.join(tpu.delete())}"
                )
            say(f"{options.name} was taken away ({state}); asking for a new one")
            call(tpu.delete())
        if not state or state in GONE:
            call(tpu.create())
            asked = True
        elif state != shown:
            say(f"{options.name} is {state}; waiting until it is {READY}")
        shown = state
        time.sleep(options.poll)


def attempt(tpu: Slice, options: argparse.Namespace, archive: pathlib.Path) -> Progress:
    """From wherever things stand to a run that has ended, well or not.

    Raises:
      Failed: at the first thing that does, before the run was started.
    """
    make_ready(tpu, options)
    say(f"installing {options.commit} on all hosts of {options.name}")
    call(tpu.copy(archive, HOST))
    call(tpu.install())
    say("running")
    try:
        call(tpu.run())
    except Failed as failure:
        say(str(failure))
    # Not the exit status: a run that is asked to stop ends with 0, and continues.
    return progress(options.workdir)


def until_finished(tpu: Slice, options: argparse.Namespace, archive: pathlib.Path) -> bool:
    """Attempts until the run is finished; False after too many without a new checkpoint."""
    fruitless, last = 0, progress(options.workdir)
    while not last.finished:
        now = last
        try:
            now = attempt(tpu, options, archive)
        except Failed as failure:
            say(str(failure))
        fruitless = 0 if now.step > last.step else fruitless + 1
        if not now.finished:
            say(f"not finished; newest checkpoint: {now.step if now.step >= 0 else 'none'}")
            if fruitless >= options.attempts:
                say(f"giving up after {fruitless} attempts without a new checkpoint")
                return False
            # Longer every time: it may take minutes until a slice that is gone is known to be.
            time.sleep(options.poll * (1 + fruitless))
        last = now
    say(f"finished: {options.workdir}")
    return True


def say(text: str) -> None:
    """One line with the time."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; what is derived from it comes along."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--name", required=True, help="of the slice; one of this name is used if it is there")
    add("--zone", required=True)
    add("--type", required=True, help="of TPU and its size, such as v5litepod-64")
    add("--project", help="gcloud's own by default")
    add("--runtime", help="machine image; by default the one for the type")
    add("--service_account", help="that the hosts act as; it reads and writes the bucket")
    add("--spot", action="store_true", help="cheaper, and may be taken away at any time")
    add("--setup", default="", help="shell commands for every host, after the installation")
    add("--attempts", type=int, default=5, help="in a row without a new checkpoint; then give up")
    add("--poll", type=float, default=30, help="seconds between looks at the slice")
    add("--delete", action="store_true",
        help="delete the slice at the end, finished or given up, and what is left of one that was "
        "taken away; without it nothing is deleted")  # fmt: skip
    add("--dry_run", action="store_true", help="print the commands of a first attempt and stop")
    add("arguments", nargs="+", metavar="-- ARGUMENT", help="of python -m mrd_jax.main")
    options = parser.parse_args(arguments)
    text = " ".join(options.arguments)
    found = re.search(r"--workdir[= ](gs://\S+)", text)
    if not found:
        parser.error("after --, pass --workdir gs://BUCKET/...: what a host writes ends with it")
    options.workdir = found[1].rstrip("/")
    options.buckets = sorted(set(re.findall(r"gs://([^/\s]+)", text)))
    options.runtime = options.runtime or next(
        image for prefix, image in RUNTIMES if options.type.startswith(prefix)
    )
    options.commit = ask(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]).strip()
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parse_options(arguments)
    tpu = Slice(options)
    with tempfile.TemporaryDirectory() as folder:
        archive = pathlib.Path(folder) / f"mrd_jax-{options.commit}.tar.gz"
        pack = ["git", "-C", str(ROOT), "archive", f"--output={archive}", options.commit]
        if options.dry_run:
            plan = [pack, tpu.create(), tpu.copy(archive, HOST), tpu.install(), tpu.run()]
            print("\n".join(map(shlex.join, plan)))
            return 0
        call(pack)
        finished = until_finished(tpu, options, archive)
    if options.delete:
        if state_of(tpu, options.name):
            call(tpu.delete())
    else:
        say(f"{options.name} is not deleted, and costs money until you run\n"
            + shlex.join(tpu.delete()))  # fmt: skip
    return 0 if finished else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        sys.exit(f"error: {failure}")
