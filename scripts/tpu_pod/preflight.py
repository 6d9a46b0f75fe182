# SPDX-License-Identifier: Apache-2.0
"""Checks on this machine, before anything is created: commit, config, data, weights, buckets."""

import argparse
import importlib.util
import json
import os
import posixpath
import subprocess
import sys

from scripts.tpu_pod import bucket, commands
from scripts.tpu_pod import options as option_parsing

# Fields that hold paths, with a file that their folder contains, if it does.
PATHS = {
    "data.directory": "dataset_info.json",
    "data.test_directory": "dataset_info.json",
    "data.neighbours_file": "",
    "initial_weights": "",
}


def check(options: argparse.Namespace) -> None:
    """Checks what can be checked without a slice.

    Args:
      options: result of `options.parse`.

    Raises:
      commands.LaunchError: lists every fault.
    """
    faults = _commit_faults(options)
    paths = {
        field: options.values[f"config.{field}"]
        for field in PATHS
        if options.values.get(f"config.{field}")
    }
    if not faults:
        if importlib.util.find_spec("mrd_jax") and importlib.util.find_spec("ml_collections"):
            config_paths, faults = _check_config(options)
            paths = config_paths | paths
        else:
            commands.log("mrd_jax is not installed here: the first host will validate the config")
    for field, path in paths.items():
        faults += _path_faults(field, path, options)
    if fault := bucket.find_write_fault(options.workdir):
        faults.append(
            f"--workdir {options.workdir} cannot be written to: {fault}\n  create the bucket, or "
            "give this account and that of the hosts the role roles/storage.objectUser"
        )
    if faults:
        raise commands.LaunchError("nothing was created:\n" + "\n".join(faults))
    _note_locations(options, paths)


def _commit_faults(options: argparse.Namespace) -> list[str]:
    """Checks that the config is part of the commit, and notes other changes."""
    path = options.values.get("config", "").partition(":")[0]
    if not path:
        return ["after --, pass --config configs/NAME.py"]
    faults = []
    inside = ["cat-file", "-e", f"{options.commit}:{posixpath.normpath(path)}"]
    if os.path.isabs(path) or _git(*inside).returncode:
        faults.append(
            f"--config {path} is not in commit {options.commit}, which the hosts run; expected a "
            "committed file, by its path in the repository"
        )
    changed = _git("status", "--porcelain").stdout.splitlines()
    names = ", ".join(line[3:] for line in changed[:3]) + ", ..." * (len(changed) > 3)
    if changed:
        commands.log(f"not part of commit {options.commit}, which the hosts run: {names}")
    return faults


def _git(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([*option_parsing.GIT, *words], capture_output=True, text=True)


def _check_config(options: argparse.Namespace) -> tuple[dict[str, str], list[str]]:
    """Validates the config for the slice; returns its paths by field, and the faults."""
    command = [sys.executable, "-m", "mrd_jax.main", *options.arguments]
    # Not the workdir of the run: this machine need not be able to read buckets.
    command += ["--mode=validate", f"--devices={options.devices}", "--workdir=."]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        command, cwd=option_parsing.ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        return {}, [done.stderr.strip().removeprefix("error: ")]
    fields = json.loads(done.stdout)
    return {field: fields[field] for field in PATHS if fields.get(field)}, []


def _path_faults(field: str, path: str, options: argparse.Namespace) -> list[str]:
    """Checks a path of the config: an object in a bucket, or a file that the hosts will have."""
    if path.startswith("gs://"):
        wanted = posixpath.join(path, PATHS[field])
        fault = bucket.find_missing(wanted)
        return [f"config.{field} is {path}, but {wanted} cannot be read: {fault}"] * bool(fault)
    committed = (
        not os.path.isabs(path)
        and not _git("cat-file", "-e", f"{options.commit}:{posixpath.normpath(path)}").returncode
    )
    # What --setup copies, and what is on the disk, is checked on the first host.
    if committed or options.setup or options.data_disk:
        return []
    return [
        f"config.{field} is {path}, a path of this machine, which the hosts do not have; copy it "
        f"to a bucket (gcloud storage cp --recursive {path} gs://...) and pass that path"
    ]


def _note_locations(options: argparse.Namespace, paths: dict[str, str]) -> None:
    """Logs buckets in another region than the slice: reading from them is slow and billed."""
    region = options.zone.rpartition("-")[0]
    urls = [path for path in (options.workdir, *paths.values()) if path.startswith("gs://")]
    for url in sorted({"/".join(url.split("/")[:3]) for url in urls}):
        location = bucket.read_location(url)
        if location and location != region:
            commands.log(f"{url} is in {location}, the slice in {region}: traffic is billed")
