# SPDX-License-Identifier: Apache-2.0
"""The Cloud TPU launcher with a mock gcloud."""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess

import pytest

from mrd_jax.checkpoints import paths
from mrd_jax.training import train

ROOT = pathlib.Path(__file__).parents[2]
# Mock state in $FAKE: `state` of the slice, `events` of the next runs, `bucket` with its folders.
GCLOUD = r"""#!/bin/bash
echo "$*" >> $FAKE/calls
workdir=$FAKE/bucket/run
case "$*" in
*"resources list"*)
    [[ -e $FAKE/state ]] || { echo "[]"; exit; }
    echo "[{\"name\": \"projects/p/locations/z/queuedResources/mrd\",
          \"state\": {\"state\": \"$(cat $FAKE/state)\"}}]"
    [[ $(cat $FAKE/state) != WAITING_FOR_RESOURCES ]] || echo ACTIVE > $FAKE/state ;;
*"resources create"*) echo WAITING_FOR_RESOURCES > $FAKE/state ;;
*"resources delete"*) rm $FAKE/state ;;
*"storage ls"*)
    folder=$FAKE/bucket/${3#gs://b/}
    [[ -d $folder ]] || { echo "ERROR: One or more URLs matched no objects." >&2; exit 1; }
    for path in $folder*; do echo "gs://b/$(basename $path)/"; done ;;
*"tpu_host.sh install"*) [[ ! -e $FAKE/broken ]] ;;
*"tpu_host.sh run"*)
    event=$(head -n 1 $FAKE/events) && sed -i 1d $FAKE/events
    case $event in
    finish) mkdir -p $workdir/checkpoints/60 && touch $workdir/finished ;;
    stop) mkdir -p $workdir/checkpoints/40 ;;
    preempt) mkdir -p $workdir/checkpoints/20 && echo SUSPENDED > $FAKE/state; exit 255 ;;
    fail) exit 1 ;;
    esac ;;
esac
"""
OPTIONS = ["--name=mrd", "--zone=z", "--type=v5litepod-16", "--poll=0", "--attempts=3"]
ARGUMENTS = ["--", "--config", "c.py", "--workdir", "gs://b/run", "--config.data.directory=gs://d"]


def load():
    spec = importlib.util.spec_from_file_location("tpu_pod", ROOT / "scripts" / "tpu_pod.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tpu_pod = load()


class Cloud:
    """The mock cloud, and the commands that the launcher ran."""

    def __init__(self, folder):
        self.folder = folder

    def run(self, *options, events=()):
        (self.folder / "events").write_text("".join(f"{event}\n" for event in events))
        return tpu_pod.main([*OPTIONS, *options, *ARGUMENTS])

    def actions(self):
        """The commands that change something, in order, one word each."""
        words = ("create", "delete", "scp", "install", "run")
        calls = (self.folder / "calls").read_text().splitlines()
        changes = [call for call in calls if " list " not in call and "storage" not in call]
        return [next(word for word in words if f" {word} " in call) for call in changes]


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    script = tmp_path / "bin" / "gcloud"
    script.parent.mkdir()
    script.write_text(GCLOUD)
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(tmp_path))
    return Cloud(tmp_path)


def test_finished_run_keeps_its_slice_by_default(cloud, capfd):
    assert cloud.run(events=["finish"]) == 0
    assert cloud.actions() == ["create", "scp", "install", "run"]
    assert "is not deleted, and is billed until you run" in capfd.readouterr().out


def test_existing_slice_is_used_and_deleted_with_the_flag(cloud):
    (cloud.folder / "state").write_text("ACTIVE")
    assert cloud.run("--delete", events=["finish"]) == 0
    assert cloud.actions() == ["scp", "install", "run", "delete"]


def test_preempted_slice_is_recreated_and_the_run_continues(cloud):
    assert cloud.run("--delete", events=["preempt", "finish"]) == 0
    attempt = ["create", "scp", "install", "run"]
    assert cloud.actions() == [*attempt, "delete", *attempt, "delete"]


def test_preempted_slice_is_an_error_without_the_delete_flag(cloud, capfd):
    assert cloud.run(events=["preempt"]) == 2
    error = capfd.readouterr().err
    assert re.search(r"preempted \(SUSPENDED\).*pass --delete, or run\ngclou", error)
    assert len(error.splitlines()) <= 3
    assert "delete" not in cloud.actions()


def test_run_that_was_shut_down_continues(cloud):
    assert cloud.run(events=["stop", "finish"]) == 0
    assert cloud.actions().count("run") == 2


def test_launcher_gives_up_after_repeated_attempts_without_a_checkpoint(cloud, capfd):
    """A new checkpoint resets the count."""
    assert cloud.run(events=["fail", "fail", "stop", "fail", "fail", "fail", "finish"]) == 1
    assert cloud.actions().count("run") == 6
    assert "giving up after 3 attempts without a new checkpoint" in capfd.readouterr().out


def test_failed_installation_counts_as_an_attempt(cloud):
    (cloud.folder / "broken").touch()
    assert cloud.run(events=["finish"]) == 1
    assert cloud.actions() == ["create"] + ["scp", "install"] * 3


def test_finished_run_requests_no_slice(cloud):
    (cloud.folder / "bucket" / "run").mkdir(parents=True)
    (cloud.folder / "bucket" / "run" / "finished").touch()
    assert cloud.run("--delete") == 0
    assert cloud.actions() == []


def test_dry_run_prints_the_commands_only(cloud, capsys):
    assert cloud.run("--dry_run", "--spot", "--project=p", "--setup=true") == 0
    archive, create, copy, install, run = capsys.readouterr().out.splitlines()
    assert "git" in archive and "scp" in copy and not (cloud.folder / "calls").exists()
    assert create.endswith(
        "queued-resources create mrd --node-id=mrd --zone=z --project=p "
        "--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --spot"
    )
    assert "--worker=all" in install and install.endswith(" b d && true'")
    assert run.endswith("--config c.py --workdir /gs/b/run --config.data.directory=/gs/d'")


def test_local_workdir_is_rejected(cloud, capsys):
    with pytest.raises(SystemExit):
        tpu_pod.main([*OPTIONS, "--", "--workdir", "runs/mrd"])
    error = capsys.readouterr().err
    assert "pass --workdir gs://BUCKET" in error
    assert len(error.splitlines()) <= 3


def test_missing_gcloud_is_reported_in_one_line(cloud, capsys, monkeypatch, tmp_path):
    git = tmp_path / "only_git" / "git"
    git.parent.mkdir()
    git.symlink_to(shutil.which("git"))
    monkeypatch.setenv("PATH", str(git.parent))
    assert cloud.run() == 2
    assert capsys.readouterr().err == (
        "error: gcloud was not found; this machine needs git and gcloud\n"
    )


def test_names_in_the_workdir_equal_those_of_the_run():
    assert (tpu_pod.FINISHED, tpu_pod.CHECKPOINTS) == (train.FINISHED, paths.FOLDER)


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Runs a task of tpu_host.sh with mock programs that record their arguments."""
    programs = ("sudo", "curl", "gcsfuse", "mountpoint", "lsb_release", "home/.local/bin/uv")
    for name in programs:
        path = tmp_path / (name if "/" in name else f"bin/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f'#!/bin/bash\necho "{path.name} $*" >> {tmp_path}/calls\n'
            f'[[ "$*" != *gcsfuse* ]] || touch {tmp_path}/mounted-$(basename ${{@: -1}})\n'
            '[[ "$*" != *mrd_jax.main* ]] || exit 3\n'
            f"[[ {path.name} != mountpoint || -e {tmp_path}/mounted-$(basename ${{@: -1}}) ]]\n"
        )
        path.chmod(0o755)
    (tmp_path / "tree").mkdir()
    archive = tmp_path / "home" / "mrd_jax-abc.tar.gz"
    subprocess.run(["tar", "-czf", archive, "-C", tmp_path / "tree", "."], check=True)
    environment = os.environ | {
        "HOME": str(tmp_path / "home"),
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
    }

    def run(*arguments):
        (tmp_path / "calls").write_text("")
        command = ["bash", ROOT / "scripts" / "tpu_host.sh", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        return done, (tmp_path / "calls").read_text().splitlines()

    return run


def test_host_installs_once_and_mounts_every_bucket(host):
    done, calls = host("install", "abc", "b", "d")
    assert done.returncode == 0, done.stderr
    assert any(call.startswith("uv pip") and call.endswith("mrd_jax-abc[tpu]") for call in calls)
    mounts = [call.split()[-2:] for call in calls if " gcsfuse --foreground" in call]
    assert mounts == [["b", "/gs/b"], ["d", "/gs/d"]]
    assert host("install", "abc", "b", "d")[1] == ["mountpoint -q /gs/b", "mountpoint -q /gs/d"]


def test_host_stops_a_previous_run_and_returns_the_exit_status(host):
    done, (stop, start, log) = host("run", "abc", "--workdir", "/gs/b/run")
    assert done.returncode == 3
    assert stop == "sudo systemctl stop mrd_jax"
    assert start.endswith(" -m mrd_jax.main --multihost --workdir /gs/b/run")
    assert log.startswith("sudo journalctl --unit=mrd_jax")
