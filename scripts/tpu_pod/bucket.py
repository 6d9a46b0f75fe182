# SPDX-License-Identifier: Apache-2.0
"""What the launcher reads and checks in buckets, with `gcloud storage`."""

import dataclasses
import json
import subprocess
import uuid

from scripts.tpu_pod import commands

# File that a finished run writes to its workdir (see mrd_jax.training.train), and the folder of its
# checkpoints.
FINISHED, CHECKPOINTS = "finished", "checkpoints"


@dataclasses.dataclass(frozen=True)
class Progress:
    """Newest step of a run that has a checkpoint, -1 for none, and whether the run is finished."""

    step: int
    finished: bool


def list_names(folder: str) -> list[str]:
    """Returns the names in a folder of a bucket; empty if the folder does not exist.

    Raises:
      commands.AttemptError: the bucket cannot be read.
    """
    status, output, error = _storage("ls", f"{folder}/")
    if status and "matched no objects" not in error:
        raise commands.AttemptError(f"gcloud storage ls {folder}/: {error}")
    return [line.rstrip("/").rpartition("/")[2] for line in output.splitlines()]


def read_progress(workdir: str) -> Progress:
    """Reads the progress of a run from its workdir in the bucket."""
    steps = [int(name) for name in list_names(f"{workdir}/{CHECKPOINTS}") if name.isdecimal()]
    return Progress(max(steps, default=-1), FINISHED in list_names(workdir))


def find_missing(path: str) -> str:
    """Returns why a file or folder of a bucket cannot be read; "" if it can."""
    status, output, error = _storage("ls", path.rstrip("/"))
    return "" if status == 0 and output.strip() else error or "nothing is there"


def find_write_fault(folder: str) -> str:
    """Writes, reads and deletes a small object; returns what failed, or ""."""
    probe, text = f"{folder}/.preflight-{uuid.uuid4().hex}", "mrd_jax"
    for words, standard_input in (
        (("cp", "-", probe), text),
        (("cat", probe), None),
        (("rm", probe), None),
    ):
        status, output, error = _storage(*words, standard_input=standard_input)
        if status or (words[0] == "cat" and output != text):
            return error or f"gcloud storage {words[0]} failed"
    return ""


def read_location(path: str) -> str:
    """Returns the location of the bucket of a path in lower case, such as us-west4; "" if unknown.

    Reading it needs a permission (storage.buckets.get) that the run does not.
    """
    url = "/".join(path.split("/")[:3])
    status, output, _ = _storage("buckets", "describe", url, "--format=json")
    return "" if status else json.loads(output).get("location", "").lower()


def _storage(*words: str, standard_input: str | None = None) -> tuple[int, str, str]:
    done = subprocess.run(
        ["gcloud", "storage", *words], input=standard_input, capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr.strip()
