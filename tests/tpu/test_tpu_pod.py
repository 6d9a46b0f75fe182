# SPDX-License-Identifier: Apache-2.0
"""The launcher, with a cloud on this machine and a run that ends as each test says.

The launcher's own commands are executed: `gcloud ssh` runs host.sh in a shell, which starts a
service. Only `python -m mrd_jax.main` is replaced, by the script RUN; test_tpu_pod_run.py keeps it.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import fake_cloud
import pytest
from etils import epath

from mrd_jax.checkpoints import paths
from mrd_jax.training import train
from scripts.tpu_pod import bucket, options

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


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path / "cloud")


ATTEMPT = ["create", "scp", "install", "preflight", "run"]


def test_finished_run_keeps_its_slice_by_default(cloud):
    status, output = cloud.run(events=["finish"])
    assert status == 0, output
    assert cloud.actions() == ATTEMPT
    assert "is not deleted, and is billed until you run" in output


def test_existing_slice_is_used_and_deleted_with_the_flag(cloud):
    (cloud.folder / "state").write_text("ACTIVE")
    assert cloud.run("--delete", events=["finish"])[0] == 0
    assert cloud.actions() == [*ATTEMPT[1:], "delete"]


def test_preempted_slice_is_recreated_and_the_run_continues(cloud):
    assert cloud.run("--delete", events=["preempt", "finish"])[0] == 0
    assert cloud.actions() == [*ATTEMPT, "delete", *ATTEMPT, "delete"]


def test_preempted_slice_is_an_error_without_the_delete_flag(cloud):
    status, output = cloud.run(events=["preempt"])
    assert status == 2
    assert re.search(r"lost \(SUSPENDED\).*pass --delete, or run\ngclou", output)
    assert "delete" not in cloud.actions()


def test_lost_node_ends_the_attempt_although_the_request_is_active(cloud):
    """The run of this attempt would go on for a minute."""
    status, output = cloud.run("--delete", events=["lose", "finish"])
    assert status == 0, output
    assert "node mrd is PREEMPTED HEALTHY" in output
    assert cloud.actions() == [*ATTEMPT, "delete", *ATTEMPT, "delete"]


def test_run_that_was_shut_down_continues(cloud):
    assert cloud.run(events=["stop", "finish"])[0] == 0
    assert cloud.actions().count("run") == 2


def test_launcher_gives_up_after_repeated_attempts_without_a_checkpoint(cloud):
    """A new checkpoint resets the count."""
    status, output = cloud.run(events=["fail", "fail", "stop", "fail", "fail", "fail", "finish"])
    assert status == 1
    assert cloud.actions().count("run") == 6
    assert "giving up after 3 attempts without a new checkpoint" in output


def test_mistake_at_the_start_of_a_run_stops_at_once_and_frees_the_slice(cloud):
    status, output = cloud.run("--delete", events=["mistake", "finish"])
    assert status == 2
    assert cloud.actions() == [*ATTEMPT, "delete"]
    assert "config.seed is -1" in output and "cannot start" in output and "host-0" in output


def test_fault_that_the_first_host_finds_stops_before_the_others_start(cloud):
    (cloud.folder / "bad_data").touch()
    status, output = cloud.run("--delete", events=["finish"])
    assert status == 2 and "error: bad" in output
    assert cloud.actions() == [*ATTEMPT[:-1], "delete"]


def test_failed_installation_counts_as_an_attempt(cloud):
    assert cloud.run("--setup=false", events=["finish"])[0] == 1
    assert cloud.actions() == ["create"] + ["scp", "install"] * 3


def test_finished_run_requests_no_slice(cloud):
    (cloud.folder / "buckets" / "b" / "run").mkdir(parents=True)
    (cloud.folder / "buckets" / "b" / "run" / "finished").touch()
    assert cloud.run("--delete")[0] == 0
    assert cloud.actions() == []


def test_variables_reach_the_run_and_nothing_else_does(cloud):
    assert cloud.run("--env=XLA_FLAGS=--a=1 --b", "--env=EMPTY=", events=["finish"])[0] == 0
    for host in range(fake_cloud.HOSTS):
        arguments, variables = cloud.environment(host)
        assert arguments.startswith("-m mrd_jax.main --multihost --config=configs/quickstart.py")
        assert variables["XLA_FLAGS"] == "--a=1 --b" and variables["EMPTY"] == ""
        # Beside the workdir gs://b/run.
        assert variables["JAX_COMPILATION_CACHE_DIR"] == "gs://b/compilation_cache"
        assert "FAKE" not in variables and variables["PATH"] == "/usr/local/bin:/usr/bin:/bin"


def test_compilation_cache_can_be_elsewhere(cloud):
    cloud.run("--env=JAX_COMPILATION_CACHE_DIR=gs://b/mine", events=["finish"])
    assert cloud.environment()[1]["JAX_COMPILATION_CACHE_DIR"] == "gs://b/mine"


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
    assert cloud.run("--setup=true", events=["finish"], **local)[0] == 0


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


@pytest.mark.skipif(not shutil.which("gcloud"), reason="gcloud is not installed")
@pytest.mark.parametrize("extra", [["--spot", "--internal_ips"], ["--reserved", "--node_count=2"]])
def test_gcloud_knows_every_flag_that_the_launcher_passes(cloud, tmp_path, extra):
    everything = ["--network=n", "--subnetwork=s", "--labels=a=b", "--service_account=x@y.z",
                  "--data_disk=projects/p/zones/z/disks/d", "--project=p"]  # fmt: skip
    output = cloud.run("--dry_run", *everything, *extra)[1]
    environment = os.environ | {"CLOUDSDK_CONFIG": str(tmp_path), "PAGER": "cat"}
    commands = [line for line in output.splitlines() if line.startswith("gcloud")]
    assert len(commands) == 5
    texts = {}
    for command in commands:
        words = command.split()[:5]
        if tuple(words) not in texts:
            done = subprocess.run(
                [*words, "--help"], capture_output=True, text=True, env=environment
            )
            texts[tuple(words)] = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
        arguments = command.partition(" --command=")[0].partition(" '--command=")[0]
        for flag in re.findall(r" --([a-z-]+)", arguments):
            assert f"--{flag}" in texts[tuple(words)], (words, flag)


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
