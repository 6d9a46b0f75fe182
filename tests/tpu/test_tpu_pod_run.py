# SPDX-License-Identifier: Apache-2.0
"""The launcher's own host command runs a training of two hosts to its end, on an emulated bucket.

Nothing of this project is replaced: the launcher is a process in a clone, its commands run as
services with a fresh environment, and mrd_jax reads and writes gs://.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import bucket
import fake_cloud
import pytest
from etils import epath
from fake_data import run_build

from mrd_jax import storage, transfer

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = "tests/distributed/multi_process_config.py"
STEPS = 12
WORKDIR = epath.Path(f"{bucket.BUCKET}/runs/tiny")

# Variables that `bucket.emulated` sets.
EMULATOR = (
    "CLOUD_STORAGE_EMULATOR_ENDPOINT",
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT",
    "GOOGLE_AUTH_TOKEN_FOR_TESTING",
    "STORAGE_EMULATOR_HOST",
    "TENSORSTORE_GCS_HTTP_URL",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A repository whose last commit is the working tree."""
    folder = tmp_path_factory.mktemp("clone") / "mrd_jax"
    listed = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "--all"], [*author, "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """URL of an emulated bucket service, with the data set at gs://bucket/data."""
    with pytest.MonkeyPatch.context() as patch:
        data = run_build(tmp_path_factory.mktemp("built"), patch, points=96)[0]
    with bucket.emulated():
        transfer.mirror(data, storage.path(f"{bucket.BUCKET}/data"))
        yield os.environ["STORAGE_EMULATOR_HOST"]


class Pod:
    """A cloud of two hosts with four devices each."""

    def __init__(self, folder, service):
        self.folder, self.service = folder, service
        fake_cloud.install(folder, endpoint=service)

    def launch(self, clone, *flags, before=()):
        """Runs the launcher to its end; returns its exit status and its output."""
        variables = {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "4",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **{name: os.environ[name] for name in EMULATOR},
        }
        command = [sys.executable, "-m", "scripts.tpu_pod", "--name=mrd", "--zone=us-west4-a"]
        command += ["--type=v5litepod-8", "--poll=1", "--attempts=2", f"--python={sys.executable}"]
        command += [f"--env={name}={value}" for name, value in variables.items()] + [*flags, "--"]
        command += [f"--config={CONFIG}", "--workdir=gs://bucket/runs/tiny"]
        command += ["--config.data.directory=gs://bucket/data", "--heartbeat_timeout=10"]
        command += ["--config.checkpoint_every=3", "--config.eval_every=12"]
        path = f"{self.folder}/bin{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [*before, *command],
            cwd=clone,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=600,
        )
        return done.returncode, done.stdout + done.stderr

    def kill_once(self, step):
        """Kills the run of the second host as soon as it has a checkpoint of this step."""
        folder = WORKDIR / "checkpoints"
        while not any(int(name) >= step for name in names(folder) if name.isdecimal()):
            time.sleep(0.2)
        os.kill(int((self.folder / "hosts/1/mrd_jax.pid").read_text()), signal.SIGKILL)


def names(folder):
    """Names in a folder of the bucket; none if it does not exist."""
    return [path.name for path in folder.iterdir()] if folder.exists() else []


def test_killed_run_is_restarted_to_its_end_in_a_bucket(clone, service, tmp_path):
    pod = Pod(tmp_path / "cloud", service)
    killer = threading.Thread(target=pod.kill_once, args=(2,), daemon=True)
    killer.start()
    status, output = pod.launch(clone, "--delete")
    assert status == 0, output
    killer.join(timeout=1)
    assert not killer.is_alive()

    runs = [call for call in fake_cloud.calls(pod.folder) if " run " in call[-1]]
    assert len(runs) == 2, output
    assert (WORKDIR / "finished").read_text() == f"{STEPS} steps\n"
    assert str(STEPS) in names(WORKDIR / "checkpoints")
    # Every step is logged, by one attempt or the other.
    rows = [json.loads(line) for line in (WORKDIR / "metrics.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows if "train/loss" in row} == set(range(1, STEPS + 1))
    # The check on the first host leaves nothing behind.
    assert not any(".preflight" in name for name in storage.files(storage.path(bucket.BUCKET)))
    # Both hosts and both attempts share what the first process compiled.
    assert names(WORKDIR.parent / "compilation_cache")
