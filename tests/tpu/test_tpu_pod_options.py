# SPDX-License-Identifier: Apache-2.0
"""The launcher's options, and what it checks before anything is created."""

import functools
import os
import re
import shutil
import subprocess
import tempfile

import pytest
from etils import epath
from stub_training import ROOT

from mrd_jax.checkpoints import paths
from mrd_jax.training import train
from scripts.tpu_pod import bucket, options

# Arguments of the run, what was expected of them, and what the message names.
FAULTS = {
    "uncommitted config": ({"config": "configs/mine.py"}, ["configs/mine.py", "not in commit"]),
    "local data": ({"config__data__directory": "data/x"}, ["data/x", "gcloud storage cp"]),
    "no data": ({"config__data__directory": "gs://d/other"}, ["gs://d/other/dataset_info.json"]),
    "local weights": ({"config__initial_weights": "/home/me/w"}, ["initial_weights", "/home/me/w"]),
    "no weights": ({"config__initial_weights": "gs://d/w"}, ["initial_weights", "gs://d/w"]),
    "no bucket": ({"workdir": "gs://c/run"}, ["gs://c", "roles/storage.objectUser"]),
}


@pytest.mark.parametrize("arguments, expected", FAULTS.values(), ids=FAULTS)
def test_fault_is_found_before_anything_is_created(cloud, arguments, expected):
    status, output = cloud.run("--delete", events=["finish"], **arguments)
    assert status == 2
    assert cloud.actions() == []
    assert "nothing was created" in output
    for text in expected:
        assert text in output


def test_all_faults_are_listed_at_once(cloud):
    both = {"config__data__directory": "data/x", "config__initial_weights": "gs://d/w"}
    output = cloud.run(**both)[1]
    assert "data/x" in output and "gs://d/w" in output


def test_config_is_validated_for_the_slice_where_mrd_jax_is_installed(cloud):
    """16 chips on 4 hosts; quickstart's batch does not divide by 7."""
    status, output = cloud.run(installed=True, config__batch_size="20", events=["finish"])
    assert status == 2 and cloud.actions() == []
    assert "batch_size" in output and "16 devices" in output


def test_local_files_are_accepted_if_setup_or_a_disk_provides_them(cloud):
    local = {"config__data__directory": "/mnt/data/x"}
    status, output = cloud.run("--setup=true", "--dry_run", **local)
    assert status == 0, output


def test_dry_run_prints_the_commands_only(cloud):
    disk = "projects/p/zones/z/disks/d"
    flags = ["--node_count=2", "--reserved", "--network=n", "--subnetwork=s", "--internal_ips"]
    flags += ["--labels=team=a", f"--data_disk={disk}", "--iap"]
    status, output = cloud.run("--dry_run", *flags)
    create = next(line for line in output.splitlines() if " create " in line).split()
    assert status == 0 and cloud.actions() == []
    assert set(create[6:]) == {
        "--zone=us-west4-a", "--accelerator-type=v5litepod-16",
        "--runtime-version=v2-alpha-tpuv5-lite", "--network=n", "--subnetwork=s",
        "--labels=team=a", f"--data-disk=source={disk},mode=read-only", "--node-count=2",
        "--node-prefix=mrd", "--reserved", "--internal-ips",
    }  # fmt: skip
    # Devices of both slices.
    assert "--devices=32" in output


@functools.cache
def gcloud_help(words):
    """Returns the help of a command, which takes gcloud seconds."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"CLOUDSDK_CONFIG": folder, "PAGER": "cat"}
        done = subprocess.run([*words, "--help"], capture_output=True, text=True, env=environment)
    return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)


@pytest.mark.skipif(not shutil.which("gcloud"), reason="gcloud is not installed")
@pytest.mark.parametrize("extra", [["--spot", "--internal_ips"], ["--reserved", "--node_count=2"]])
def test_gcloud_knows_every_flag_that_the_launcher_passes(cloud, extra):
    everything = ["--network=n", "--subnetwork=s", "--labels=a=b", "--service_account=x@y.z",
                  "--data_disk=projects/p/zones/z/disks/d", "--project=p"]  # fmt: skip
    output = cloud.run("--dry_run", *everything, *extra)[1]
    commands = [line for line in output.splitlines() if line.startswith("gcloud")]
    assert len(commands) == 5
    for command in commands:
        words = tuple(command.split()[:5])
        arguments = command.partition(" --command=")[0].partition(" '--command=")[0]
        for flag in re.findall(r" --([a-z-]+)", arguments):
            assert f"--{flag}" in gcloud_help(words), (words, flag)


def test_local_workdir_is_rejected(cloud):
    status, output = cloud.run(workdir="runs/mrd")
    assert status == 2 and "pass --workdir gs://BUCKET" in output
    assert len(output.splitlines()) <= 3


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--spot", "--reserved"], "--spot and --reserved exclude each other"),
        (["--node_count=0"], "--node_count is 0; expected at least 1"),
        (["--env=XLA FLAGS"], "--env is 'XLA FLAGS'; expected NAME=VALUE"),
    ],
)
def test_invalid_option_is_an_error_of_one_line(cloud, flags, message):
    status, output = cloud.run(*flags)
    assert status == 2 and message in output and len(output.splitlines()) == 1


def test_only_trainings_are_launched(cloud):
    status, output = cloud.run(mode="eval")
    assert status == 2 and "starts trainings" in output


def test_missing_gcloud_is_reported_in_one_line(cloud, monkeypatch):
    (cloud.folder / "bin" / "gcloud").unlink()
    (cloud.folder / "bin" / "git").symlink_to(shutil.which("git"))
    monkeypatch.setenv("PATH", "")
    status, output = cloud.run()
    assert status == 2
    assert output.endswith("error: gcloud was not found; this machine needs git and gcloud\n")


def test_names_in_the_workdir_equal_those_of_the_run():
    assert (bucket.FINISHED, bucket.CHECKPOINTS) == (train.FINISHED, paths.FOLDER)


def test_mounted_path_stays_a_local_path():
    """etils.epath, and so TFDS and Orbax, take /gs/BUCKET for gs://BUCKET."""
    mounted = options.mounted("--config.data.directory=gs://b/x").partition("=")[2]
    assert str(epath.Path("/gs/b/x")) == "gs://b/x"
    assert str(epath.Path(mounted)) == mounted and "://" not in mounted


def test_only_data_are_read_through_a_mount():
    for argument in ("--workdir=gs://b/run", "--config.initial_weights=gs://b/w"):
        assert options.mounted(argument) == argument


# A mount namespace of its own, where /mnt is empty and the launcher's hosts may mount.
NAMESPACE = ["unshare", "--mount", "--propagation=private", "sh", "-c",
             'mount -t tmpfs tmpfs /mnt && exec "$@"', "sh"]  # fmt: skip
MOUNTS = {
    "gcsfuse": '/bin/mount --bind %s/buckets/"${@: -2:1}" "${@: -1}" && exec sleep 3',
    "lsblk": "printf '/dev/sda disk\\n/dev/sda1 part ext4 /\\n/dev/sdb disk ext4\\n'",
    "mount": '[[ "$*" == *" /dev/sdb "* ]] && /bin/mount --bind %s/disk "${@: -1}"',
}


def namespaces_work():
    return shutil.which("unshare") and not subprocess.run([*NAMESPACE, "true"]).returncode


@pytest.mark.skipif(not namespaces_work(), reason="this user cannot create a mount namespace")
def test_data_are_read_from_a_mounted_bucket_and_a_disk(cloud):
    """gcsfuse is replaced by a bind mount of the bucket, and the disk by one of a folder."""
    (cloud.folder / "disk").mkdir()
    (cloud.folder / "disk" / "x").touch()
    for name, command in MOUNTS.items():
        path = cloud.folder / "host_bin" / name
        path.write_text("#!/bin/bash\n" + command.replace("%s", str(cloud.folder)) + "\n")
        path.chmod(0o755)
    flags = ["--mount", "--data_disk=projects/p/zones/z/disks/d"]
    status, output = cloud.run(*flags, events=["mounted"], before=NAMESPACE)
    assert status == 0, output
    arguments = cloud.environment()[0].split()
    assert "--config.data.directory=/mnt/gcs/d/data" in arguments
    assert "--workdir=gs://b/run" in arguments


@pytest.mark.parametrize(
    "name, devices",
    [("v5litepod-64", 64), ("v6e-256", 256), ("v5p-128", 64), ("v4-32", 16), ("v3-32", 32)],
)
def test_devices_of_an_accelerator_type(name, devices):
    """v4 and v5p are named after their cores, two per chip, and a chip is one device in JAX."""
    assert options.count_devices(name) == devices


@pytest.mark.skipif(not shutil.which("systemd-run"), reason="systemd is not installed")
def test_systemd_knows_every_option_that_the_hosts_pass(cloud):
    """Without a running systemd it complains of that, after it has read its options."""
    text = (ROOT / "scripts" / "tpu_pod" / "host.sh").read_text()
    given = re.findall(r"--(?:quiet|collect|unit|uid|wait|property|setenv|working-directory)", text)
    known = subprocess.run(["systemd-run", "--help"], capture_output=True, text=True).stdout
    assert len(set(given)) == 8
    assert all(option in known for option in given)
