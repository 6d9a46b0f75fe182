# SPDX-License-Identifier: Apache-2.0
"""A cloud on this machine, the launcher, and in place of a training a script whose end is given."""

import os
import pathlib
import subprocess
import sys

import fake_cloud

ROOT = pathlib.Path(__file__).parents[2]
# Replaces Python on the hosts: reads what happens in this attempt from `events`, one line each.
RUN = r"""#!/bin/bash
fake=%s
workdir=$fake/buckets/b/run
{ echo "$*"; env; } > $fake/last_$SLURM_PROCID
if [[ " $* " == *" --mode=check "* ]]; then
    [[ -e $fake/bad_data ]] || exit 0
    echo "error: bad"
    exit 2
fi
[[ $SLURM_PROCID == 0 ]] || exit 0
event=$(head -n 1 $fake/events) && sed -i 1d $fake/events
case $event in
mounted) [[ -e /mnt/gcs/d/data/dataset_info.json && -e /mnt/data/x ]] || exit 3
    mkdir -p $workdir && touch $workdir/finished ;;
finish) mkdir -p $workdir/checkpoints/60 && touch $workdir/finished ;;
stop) mkdir -p $workdir/checkpoints/40 ;;
preempt) mkdir -p $workdir/checkpoints/20 && echo -n SUSPENDED > $fake/state; exit 255 ;;
lose) echo '{"state": "PREEMPTED"}' > $fake/node; sleep 60 ;;
fail) exit 1 ;;
mistake) echo "error: config.seed is -1"; exit 2 ;;
esac
"""
OPTIONS = ["--name=mrd", "--zone=us-west4-a", "--type=v5litepod-16", "--poll=0", "--attempts=3"]
RUN_ARGUMENTS = {
    "--config": "configs/quickstart.py",
    "--workdir": "gs://b/run",
    "--config.data.directory": "gs://d/data",
}


class Cloud:
    """The cloud of a test, and the launcher as a user without mrd_jax starts it."""

    def __init__(self, folder):
        self.folder = folder
        fake_cloud.install(folder)
        (folder / "buckets" / "b").mkdir()
        (folder / "buckets" / "d" / "data").mkdir(parents=True)
        (folder / "buckets" / "d" / "data" / "dataset_info.json").touch()
        self.python = folder / "python"
        self.python.write_text(RUN % folder)
        self.python.chmod(0o755)

    def run(self, *flags, events=(), installed=False, before=(), **arguments):
        """Runs the launcher below the command `before`; returns its exit status and output."""
        (self.folder / "events").write_text("".join(f"{event}\n" for event in events))
        given = RUN_ARGUMENTS | {f"--{name.replace('__', '.')}": v for name, v in arguments.items()}
        # Without site packages: the launcher needs nothing but Python.
        python = [sys.executable] if installed else [sys._base_executable, "-S"]
        command = [*python, "-m", "scripts.tpu_pod", *OPTIONS, f"--python={self.python}", *flags]
        command += ["--", *(f"{name}={value}" for name, value in given.items() if value)]
        path = f"{self.folder}/bin{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [*before, *command],
            cwd=ROOT,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr

    def actions(self):
        """The commands that change something, in order, one word each."""
        found = []
        for call in fake_cloud.calls(self.folder):
            if call[0] != "storage" and call[3] != "list":
                script = next((word for word in call if word.startswith("--command=")), "")
                found.append(script.split()[2] if script else call[3])
        return found

    def environment(self, host=0):
        """Arguments and environment of the run on a host."""
        arguments, *lines = (self.folder / f"last_{host}").read_text().splitlines()
        return arguments, dict(line.split("=", 1) for line in lines if "=" in line)
