# SPDX-License-Identifier: Apache-2.0
"""The files of scripts/cluster: image, JobSet, xpk and Slurm."""

import math
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import venv

import forked_main
import pytest
import yaml
from fake_data import run_build

ROOT = pathlib.Path(__file__).parents[2]
CLUSTER = ROOT / "scripts" / "cluster"
HADOLINT = shutil.which("hadolint") or pathlib.Path(sys.executable).with_name("hadolint")


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load((CLUSTER / "jobset.yaml").read_text())


@pytest.fixture(scope="module")
def gpu_jobset():
    return list(yaml.safe_load_all((CLUSTER / "jobset_gpu.yaml").read_text()))


@pytest.fixture(scope="module")
def xpk_flags(tmp_path_factory):
    """Flags of xpk, for which a script stands in that prints its arguments."""
    folder = tmp_path_factory.mktemp("xpk")
    xpk = folder / "xpk"
    xpk.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    xpk.chmod(0o755)
    names = {name: name.lower() for name in ("CLUSTER", "ZONE", "PROJECT", "IMAGE", "BUCKET")}
    environment = os.environ | names | {"PATH": f"{folder}:{os.environ['PATH']}"}
    command = ["bash", CLUSTER / "xpk.sh", "--dry-run"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[-1] == "--dry-run"
    return dict(line.split("=", 1) for line in lines if "=" in line)


def container_of(jobset):
    """Returns job, job specification and container of a JobSet with one job."""
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    return job, spec, container


@pytest.fixture(scope="module")
def validated(jobset, gpu_jobset, xpk_flags):
    """Exit status and output of `mrd_jax.main --mode=validate`, by cluster file."""
    arguments = {
        "jobset.yaml": (container_of(jobset)[2]["args"], 64),
        "jobset_gpu.yaml": (container_of(gpu_jobset[-1])[2]["args"], 16),
        "xpk.sh": (shlex.split(xpk_flags["--command"])[3:], 64),
    }
    cases = {}
    for name, (given, devices) in arguments.items():
        assert "--multihost" in given and "--unfinished_status=75" in given
        kept = [argument for argument in given if argument != "--multihost"]
        cases[name] = [*kept, "--mode=validate", f"--devices={devices}"]
    return forked_main.run(cases)


def test_jobset_asks_for_every_host_of_its_slice_and_starts_a_valid_run(jobset, validated):
    job, spec, container = container_of(jobset)
    topology = spec["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = math.prod(map(int, topology.split("x")))
    hosts = chips // container["resources"]["limits"]["google.com/tpu"]
    assert spec["parallelism"] == spec["completions"] == hosts == 16
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert chips * job["replicas"] == 64
    assert validated["jobset.yaml"][0] == 0, validated["jobset.yaml"]


def test_gpu_jobset_starts_a_valid_run_and_may_read_what_jax_asks_for(gpu_jobset, validated):
    account, role, binding, jobset = gpu_jobset
    job, spec, container = container_of(jobset)
    pod = spec["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] == 2 and job["replicas"] == 1
    assert spec["completionMode"] == "Indexed"
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    names = [account["metadata"]["name"], role["metadata"]["name"], binding["roleRef"]["name"]]
    assert {*names, binding["subjects"][0]["name"]} == {pod["serviceAccountName"]}
    # The calls of JAX's detection (jax._src.clusters.k8s_cluster).
    allowed = {
        (r, verb) for rule in role["rules"] for r in rule["resources"] for verb in rule["verbs"]
    }
    assert {("pods", "list"), ("services", "list"), ("jobs", "get")} <= allowed
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert gpus * spec["parallelism"] == 16
    assert validated["jobset_gpu.yaml"][0] == 0, validated["jobset_gpu.yaml"]


def test_xpk_command_starts_a_valid_run(xpk_flags, validated):
    words = shlex.split(xpk_flags["--command"])
    assert words[:3] == ["python", "-m", "mrd_jax.main"]
    assert "--workdir=gs://bucket/runs/mrd" in words
    assert xpk_flags["--tpu-type"].rpartition("-")[2] == "64"
    assert validated["xpk.sh"][0] == 0, validated["xpk.sh"]


def test_image_is_accepted_by_the_linter():
    done = subprocess.run([HADOLINT, CLUSTER / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_commands_of_the_image_work_on_the_files_that_it_copies(tmp_path):
    """In an empty folder and environment; packages are those of the tests."""
    folder, site = tmp_path / "mrd_jax", tmp_path / "venv"
    folder.mkdir()
    venv.create(site, with_pip=True)
    packages = next(site.glob("lib/python*/site-packages"))
    # On Python 3.11 it would hide the newer one that the tests bring.
    for old in (*packages.glob("setuptools*"), *packages.glob("_distutils_hack")):
        shutil.rmtree(old)
    outer = pathlib.Path(yaml.__file__).parents[1]
    # The packages are here already, but not this project, which the image has to install.
    (packages / "outer.pth").write_text(f"import sys; sys.path.append({str(outer)!r})\n")
    environment = {
        "PATH": f"{site}/bin:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "JAX_PLATFORMS": "cpu",
    }
    text = (CLUSTER / "Dockerfile").read_text().replace("\\\n", "")
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "COPY":
            *sources, target = rest.split()
            copy(sources, folder / target)
        elif word == "ARG":
            name, value = rest.split("=", 1)
            environment[name] = value
        elif word == "RUN":
            done = subprocess.run(
                ["sh", "-c", rest], cwd=folder, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(folder)
    command = ["python", "-c", "import configs.quickstart, data_prep, mrd_jax.main as m; print(m)"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert str(packages) in done.stdout, done.stderr


def copy(sources, target):
    """Copies as COPY does: the content of a folder, or files into a folder."""
    for source in sources:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, dirs_exist_ok=True)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, target)


def test_image_leaves_out_what_it_does_not_copy():
    ignored = (CLUSTER / "Dockerfile.dockerignore").read_text().split()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    copied = re.findall(r"^COPY (.+) \S+$", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE)
    assert {name.partition("/")[0] for line in copied for name in line.split()} == kept
    assert ignored[0] == "*"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Runs the batch script with stand-ins for srun and scontrol; returns the process."""
    srun = f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/support/slurm.py "$@"\n'
    for name, text in (("srun", srun), ("scontrol", f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\n')):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    data = run_build(tmp_path / "built", monkeypatch, points=96)[0]
    environment = {
        "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHON": sys.executable,
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_NTASKS": "2",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    command = ["bash", CLUSTER / "train.sbatch", f"--workdir={tmp_path / 'run'}"]
    command += ["--config=tests/distributed/multi_process_config.py"]
    command += [f"--config.data.directory={data}"]

    def start(*flags, nodes=1, devices=1):
        own = {"SLURM_JOB_NUM_NODES": str(nodes), "JAX_NUM_CPU_DEVICES": str(devices)}
        with (tmp_path / "log").open("a") as log:
            return subprocess.Popen(
                [*command, *flags],
                env=environment | own,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    return start


@pytest.mark.slow
@pytest.mark.parametrize("nodes, devices", [(1, 1), (2, 4)], ids=["per device", "per node"])
def test_slurm_job_trains_in_both_forms(slurm, tmp_path, nodes, devices):
    """Two tasks on one node with a device each, and two nodes with a task that has four."""
    job = slurm("--config.total_steps=3", nodes=nodes, devices=devices)
    assert job.wait(timeout=200) == 0, (tmp_path / "log").read_text()
    log = (tmp_path / "log").read_text()
    assert f"2 process(es) with {devices} local device(s)" in log
    assert (tmp_path / "run" / "finished").read_text() == "3 steps\n"


@pytest.mark.slow
def test_slurm_job_requeues_itself_until_the_run_is_finished(slurm, tmp_path):
    def log():
        return (tmp_path / "log").read_text()

    job = slurm("--config.total_steps=2000", "--config.checkpoint_every=50")
    deadline = time.monotonic() + 200
    while "train/loss" not in log() and not (tmp_path / "run" / "metrics.jsonl").exists():
        assert job.poll() is None and time.monotonic() < deadline, log()
        time.sleep(0.2)
    # --signal=TERM without B: goes to the processes of srun, not to the batch script.
    srun = subprocess.run(
        ["pgrep", "-g", str(os.getpgid(job.pid)), "-f", "support/slurm.py"],
        capture_output=True,
        text=True,
    ).stdout.split()[0]
    os.kill(int(srun), signal.SIGTERM)
    assert job.wait(timeout=100) == 75, log()
    assert (tmp_path / "calls").read_text() == f"requeue {os.getpid()}\n"
    assert not (tmp_path / "run" / "finished").exists()

    step = int(max((tmp_path / "run" / "checkpoints").iterdir(), key=lambda p: int(p.name)).name)
    # The requeued job has the same arguments; a shorter run would be another run.
    job = slurm("--config.total_steps=2000", "--config.checkpoint_every=50", "--mode=check")
    assert job.wait(timeout=100) == 0, log()
    assert step > 0 and "will be continued" in log()
