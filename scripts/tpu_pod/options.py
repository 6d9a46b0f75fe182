# SPDX-License-Identifier: Apache-2.0
"""Command line of the launcher."""

import argparse
import pathlib
import re
from collections.abc import Sequence

from scripts.tpu_pod import commands

ROOT = pathlib.Path(__file__).resolve().parents[2]
GIT = ("git", "-C", str(ROOT))
# Folder of the hosts that --mount mounts buckets in. Not /gs, which etils.epath, and so TFDS and
# Orbax, take for an alias of gs://, as they do with /s3, /az and /hf.
MOUNTS = "/mnt/gcs"
# Folder of the hosts that --data_disk is mounted at.
DISK = "/mnt/data"
# Machine images by prefix of the TPU type; the first match is used
# (cloud.google.com/tpu/docs/runtimes).
RUNTIMES = (
    ("v6e", "v2-alpha-tpuv6e"),
    ("v5p", "v2-alpha-tpuv5"),
    ("v5litepod", "v2-alpha-tpuv5-lite"),
    ("", "tpu-ubuntu2204-base"),
)
# Versions whose accelerator types count cores, two per chip, and whose devices in JAX are chips.
_TWO_CORES_PER_DEVICE = ("v4", "v5p")


def parse(
    arguments: Sequence[str] | None = None, *, description: str | None = None
) -> argparse.Namespace:
    """Parses the command line.

    Args:
      arguments: arguments of the launcher; None for those of this process.
      description: text of --help.

    Returns:
      The options; in addition `values`, the flags among `arguments` as a dict; `workdir`;
      `buckets`, those to mount; `environment`, the variables of the run; `commit`; and `devices`,
      the number of JAX devices.
    """
    parser = _parser(description)
    options = parser.parse_args(arguments)
    options.values = read_flags(options.arguments)
    options.workdir = options.values.get("workdir", "").rstrip("/")
    if not re.fullmatch(r"gs://[^/]+/.+", options.workdir):
        parser.error("after --, pass --workdir gs://BUCKET/...: a slice loses its local files")
    if options.values.get("mode", "train") != "train":
        parser.error("the launcher starts trainings: their end is a file in the workdir")
    if options.spot and options.reserved:
        parser.error("--spot and --reserved exclude each other")
    if options.node_count < 1:
        parser.error(f"--node_count is {options.node_count}; expected at least 1")
    invalid = [text for text in options.env if not re.fullmatch(r"[A-Za-z_]\w*=.*", text, re.S)]
    if invalid:
        parser.error(f"--env is {invalid[0]!r}; expected NAME=VALUE")
    options.environment = {
        # JAX writes the cache from process 0 only, so the hosts have to share it.
        "JAX_COMPILATION_CACHE_DIR": f"{options.workdir.rpartition('/')[0]}/compilation_cache"
    } | dict(text.split("=", 1) for text in options.env)
    options.runtime = options.runtime or next(
        image for prefix, image in RUNTIMES if options.type.startswith(prefix)
    )
    options.devices = count_devices(options.type) * options.node_count
    texts = [argument for argument in options.arguments if is_data(argument)] * options.mount
    options.buckets = sorted(set(re.findall(r"gs://([^/\s]+)", " ".join(texts))))
    options.commit = commands.capture([*GIT, "rev-parse", "--short", "HEAD"]).strip()
    return options


def read_flags(arguments: Sequence[str]) -> dict[str, str]:
    """Reads flags of the forms `--name=value` and `--name value`; the last of a name counts."""
    flags = {}
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument.startswith("-"):
            name, equals, value = argument.lstrip("-").partition("=")
            flags[name] = value if equals else following
    return flags


def count_devices(accelerator_type: str) -> int:
    """Returns the number of JAX devices of a slice, such as 64 for v5litepod-64; 0 if unknown."""
    version, _, size = accelerator_type.partition("-")
    if not size.isdecimal():
        return 0
    return int(size) // 2 if version in _TWO_CORES_PER_DEVICE else int(size)


def is_data(argument: str) -> bool:
    """Returns whether an argument overrides a field of `config.data`."""
    return argument.startswith("--config.data.")


def mounted(argument: str) -> str:
    """Replaces buckets in an argument by the folders where --mount mounts them."""
    return argument.replace("gs://", f"{MOUNTS}/") if is_data(argument) else argument


def _parser(description: str | None) -> argparse.ArgumentParser:
    # Errors are one line without the usage; the description has an example.
    parser = argparse.ArgumentParser(
        prog="python -m scripts.tpu_pod",
        usage=argparse.SUPPRESS,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument_group("slice").add_argument
    add("--name", required=True, help="name of the slice; an existing one is used")
    add("--zone", required=True, help="Cloud zone of the slice")
    add("--type", required=True, help="accelerator type, such as v5litepod-64")
    add("--node_count", type=int, default=1, help="slices of this type, joined by multislice")
    add("--project", help="Cloud project (default: that of gcloud)")
    add("--runtime", help="machine image (default: by accelerator type)")
    add("--service_account", help="service account of the hosts, with access to the bucket")
    add("--spot", action="store_true", help="request spot capacity: cheaper, preemptible")
    add("--reserved", action="store_true", help="request capacity of a reservation")
    add("--network", help="VPC network (default: default)")
    add("--subnetwork", help="subnetwork of the network")
    add("--internal_ips", action="store_true",
        help="no external addresses; run the launcher in the same VPC, or with --iap")  # fmt: skip
    add("--iap", action="store_true", help="reach the hosts through the Identity-Aware Proxy")
    add("--labels", help="labels of the slice: KEY=VALUE,...")
    add("--data_disk", metavar="DISK",
        help=f"projects/P/zones/Z/disks/D, attached read-only to every host at {DISK}")  # fmt: skip

    add = parser.add_argument_group("run").add_argument
    add("--env", action="append", default=[], metavar="NAME=VALUE",
        help="environment variable of the run; repeatable")  # fmt: skip
    add("--mount", action="store_true",
        help="read the buckets in --config.data.* through gcsfuse with a file cache")  # fmt: skip
    add("--mount_cache_gb", type=int, default=50, help="file cache per bucket and host")
    add("--python", metavar="PATH",
        help="Python on the hosts that has all packages (default: install them)")  # fmt: skip
    add("--setup", default="", help="shell commands to run on every host after installation")
    add("--attempts", type=int, default=5, help="give up after this many without a checkpoint")
    add("--poll", type=float, default=30, help="seconds between checks of the slice")
    add("--delete", action="store_true",
        help="delete the slice at the end, finished or given up, and the remains of preempted "
        "slices; without this flag nothing is deleted")  # fmt: skip
    add("--dry_run", action="store_true", help="print the commands of the first attempt and exit")
    add("arguments", nargs="+", metavar="-- ARGUMENT", help="arguments of python -m mrd_jax.main")
    return parser
