# SPDX-License-Identifier: Apache-2.0
"""A Cloud TPU slice on this machine: programs named gcloud, sudo, systemd-run and so on.

`install` writes them. `gcloud ... ssh` runs the launcher's command in a local shell for every host,
with a fresh environment and a home folder of its own; `systemd-run` starts a service with a fresh
environment, too. Buckets are folders, or an emulated bucket.

State is in the folder of the cloud: `state` of the queued resource, `node` (JSON of the node),
`hosts/I` (home folders), `buckets/NAME`, `calls` (JSON lines).
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

HOSTS = 2
_HOST_PROGRAMS = ("sudo", "systemd-run", "systemctl", "journalctl", "hostname")


def install(folder: pathlib.Path, *, endpoint: str = "") -> None:
    """Writes the programs of a new cloud.

    Args:
      folder: folder of the cloud; programs of the user go to `bin/`, of the hosts to `host_bin/`.
      endpoint: URL of an emulated bucket service; "" keeps buckets as folders.
    """
    for place, names in (("bin", ("gcloud",)), ("host_bin", _HOST_PROGRAMS)):
        (folder / place).mkdir(parents=True)
        for name in names:
            path = folder / place / name
            # Site packages take time to find, and only the emulated bucket needs them.
            python = f"{sys.executable} -E {'' if endpoint and name == 'gcloud' else '-S'}"
            command = f"exec {python} {__file__} {folder} {endpoint or '-'} {name}"
            path.write_text(f'#!/bin/sh\n{command} "$@"\n')
            path.chmod(0o755)
    for index in range(HOSTS):
        (folder / "hosts" / str(index)).mkdir(parents=True)
    (folder / "buckets").mkdir()


def calls(folder: pathlib.Path) -> list[list[str]]:
    """Returns the arguments of every call of gcloud."""
    path = folder / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Gcloud:
    """The commands of gcloud that the launcher uses."""

    def __init__(self, folder: pathlib.Path, endpoint: str):
        self.folder, self.endpoint = folder, endpoint
        self.state = folder / "state"

    def run(self, arguments: list[str]) -> int:
        with (self.folder / "calls").open("a") as file:
            file.write(json.dumps(arguments) + "\n")
        if arguments[0] == "storage":
            emulated = self.endpoint != "-"
            storage = EmulatedStorage(self.endpoint) if emulated else FolderStorage(self.folder)
            return run_storage(storage, arguments[1:])
        group, verb = arguments[2:4]
        if (group, verb) == ("tpu-vm", "list"):
            return self.list_nodes()
        flags = dict(word.partition("=")[::2] for word in arguments[4:] if word.startswith("--"))
        words = [word for word in arguments[4:] if not word.startswith("--")]
        return getattr(self, verb)(words, flags)

    def list(self, words, flags):
        resources = []
        if self.state.exists():
            state = self.state.read_text()
            name = "projects/p/locations/z/queuedResources/mrd"
            resources.append({"name": name, "state": {"state": state}})
            if state == "WAITING_FOR_RESOURCES":
                self.state.write_text("ACTIVE")
        print(json.dumps(resources))
        return 0

    def list_nodes(self):
        node = {
            "name": "projects/p/locations/z/nodes/mrd",
            "queuedResource": "projects/p/locations/z/queuedResources/mrd",
            "state": "READY",
            "health": "HEALTHY",
        }
        path = self.folder / "node"
        node |= json.loads(path.read_text()) if path.exists() else {}
        print(json.dumps([node]))
        return 0

    def create(self, words, flags):
        (self.folder / "node").unlink(missing_ok=True)
        self.state.write_text("WAITING_FOR_RESOURCES")
        return 0

    def delete(self, words, flags):
        self.state.unlink()
        for home in (self.folder / "hosts").iterdir():
            shutil.rmtree(home)
            home.mkdir()
        return 0

    def scp(self, words, flags):
        for home in self.hosts(flags):
            for path in words[:-1]:
                shutil.copy(path, home)
        return 0

    def ssh(self, words, flags):
        """Runs the command on every host at once, as `bash -c` of sshd does."""
        started = []
        for home in self.hosts(flags):
            environment = ["HOME=" + str(home), f"PATH={self.folder}/host_bin:/usr/bin:/bin"]
            command = ["env", "-i", *environment, "bash", "-c", flags["--command"]]
            started.append(subprocess.Popen(command, cwd=home))
        statuses = [process.wait() for process in started]
        return next(filter(None, statuses), 0)

    def hosts(self, flags):
        homes = sorted((self.folder / "hosts").iterdir())
        return homes if flags["--worker"] == "all" else [homes[int(flags["--worker"])]]


class FolderStorage:
    """`gcloud storage` for buckets that are folders."""

    def __init__(self, folder):
        self.root = folder / "buckets"

    def ls(self, path):
        place = self.root / path
        names = sorted(p.name for p in place.iterdir()) if place.is_dir() else [None]
        place.stat()
        return [f"{path}/{name}" if name else path for name in names]

    def write(self, path, text):
        # Buckets exist; folders in them need not.
        (self.root / path.partition("/")[0]).stat()
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def read(self, path):
        return (self.root / path).read_text()

    def remove(self, path):
        (self.root / path).unlink()


class EmulatedStorage:
    """`gcloud storage` for an emulated bucket service."""

    def __init__(self, endpoint):
        import gcsfs

        # Without it gcsfs asks for the bucket's type by gRPC, which no emulator answers.
        os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
        self.files = gcsfs.GCSFileSystem(endpoint_url=endpoint, token="anon")

    def ls(self, path):
        return self.files.ls(path, detail=False)

    def write(self, path, text):
        self.files.pipe_file(path, text.encode())

    def read(self, path):
        return self.files.cat_file(path).decode()

    def remove(self, path):
        self.files.rm_file(path)


def run_storage(storage, arguments):
    """Runs a command of `gcloud storage`; returns its exit status."""
    verb, *words = arguments
    path = words[-1].removeprefix("gs://").rstrip("/")
    try:
        if verb == "ls":
            print("\n".join(f"gs://{name}" for name in storage.ls(path)))
        elif verb == "cp":
            storage.write(path, sys.stdin.read())
        elif verb == "cat":
            print(storage.read(path), end="")
        elif verb == "rm":
            storage.remove(path)
        else:
            print(json.dumps({"location": "US-WEST4"}))
    except FileNotFoundError:
        print("ERROR: One or more URLs matched no objects.", file=sys.stderr)
        return 1
    return 0


class Service:
    """Programs of the host: services that run with an environment of their own."""

    def __init__(self, folder):
        self.folder, self.home = folder, pathlib.Path(os.environ["HOME"])

    def sudo(self, words):
        os.execvp(words[0], words)

    def hostname(self, words):
        print(f"host-{self.home.name}")

    def systemctl(self, words):
        verb, unit = words
        assert verb == "stop"
        pid = self.home / f"{unit}.pid"
        if not pid.exists():
            return 5
        os.kill(int(pid.read_text()), signal.SIGTERM)
        while pid.exists():
            time.sleep(0.05)
        return 0

    def journalctl(self, words):
        flags = dict(word.partition("=")[::2] for word in words)
        lines = (self.home / f"{flags['--unit']}.log").read_text().splitlines()
        print("\n".join(lines[-int(flags["--lines"]) :]), flush=True)

    def systemd_run(self, words):
        split = words.index("--")
        options = [word.removeprefix("--").partition("=")[::2] for word in words[:split]]
        known = {"quiet", "collect", "unit", "uid", "wait", "property", "setenv",
                 "working-directory"}  # fmt: skip
        assert {name for name, _ in options} <= known, options
        values = dict(options)
        # What systemd sets for a unit with User=, and what tells JAX of the other hosts: on a TPU
        # VM that is the metadata server.
        environment = {
            "HOME": str(self.home),
            "USER": "user",
            "LOGNAME": "user",
            "SHELL": "/bin/sh",
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "SLURM_JOB_ID": str(_port(self.folder)),
            "SLURM_STEP_NODELIST": "127.0.0.1",
            "SLURM_NTASKS": str(HOSTS),
            "SLURM_PROCID": self.home.name,
            "SLURM_LOCALID": "0",
        }
        environment |= dict(v.split("=", 1) for name, v in options if name == "setenv")
        with (self.home / f"{values['unit']}.log").open("w") as log:
            program, *rest = words[split + 1 :]
            process = subprocess.Popen(
                [shutil.which(program), *rest],
                cwd=values.get("working-directory"),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            pid = self.home / f"{values['unit']}.pid"
            pid.write_text(str(process.pid))
        if "wait" not in values:
            return 0
        status = process.wait()
        pid.unlink()
        return status % 256


def _port(folder):
    """Returns a job id for which JAX chooses a port that differs between tests."""
    return int(folder.stat().st_ino) % 4000


def main() -> int:
    folder, endpoint, name, *arguments = sys.argv[1:]
    if name == "gcloud":
        return Gcloud(pathlib.Path(folder), endpoint).run(arguments)
    service = Service(pathlib.Path(folder))
    return getattr(service, name.replace("-", "_"))(arguments) or 0


if __name__ == "__main__":
    sys.exit(main())
