# SPDX-License-Identifier: Apache-2.0
"""Estimates time, disk and cost of a preparation from measured rates.

python -m data_prep.estimate --shapes 800000 --hosts 10 --cores 112 --devices 8 --device h100

Rates that no flag gives are those of `data_prep/measured_rates.json`, which states the command and
the machine that measured them. The speed of the teacher (ViT-bigG-14), of the file system and the
size of the raw data are published ones, see `data_prep.published_rates`; --pictures_per_second,
--disk_mb and --source_bytes replace them by your own: the status file of a short build has items
per second, and `python -m benchmarks.teacher_features` measures a teacher. Prints a table and the
sources of its rates to stderr, and one JSON line to stdout.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep import flag_types, published_rates, status_file
from mrd_jax.cli import command

RATES = Path(__file__).with_name("measured_rates.json")
# Share of the cores that the scheduler keeps busy: the lower bound that `benchmarks.preparation`
# checks.
BUSY = 0.9
# Flags that replace a measured rate, and their help.
_OVERRIDES = {
    "--shape_cpu_seconds": "CPU seconds of preparing a shape",
    "--pictures_per_shape": "pictures per shape",
    "--captions_per_shape": "captions per shape",
    "--picture_cpu_seconds": "CPU seconds of preprocessing a picture for the teacher",
    "--record_cpu_seconds": "CPU seconds of writing a record",
    "--source_bytes": "bytes of raw data per shape",
    "--picture_flops": "floating-point operations of the teacher for a picture",
    "--text_flops": "floating-point operations of the teacher for a text",
}
_NAMES = tuple(flag[2:] for flag in _OVERRIDES)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Machines of a preparation.

    Attributes:
      hosts: number of hosts.
      cores: cores per host.
      devices: accelerators per host.
      pictures_per_second: pictures per second that the teacher encodes on a device.
      disk_bytes: bytes per second of the file system, over all hosts.
      download_bytes: bytes per second of downloads, over all hosts; None to leave them out.
      price: price of a host for an hour; None if unknown.
    """

    hosts: int
    cores: int
    devices: int
    pictures_per_second: float
    disk_bytes: float
    download_bytes: float | None = None
    price: float | None = None


def read_rates(path: Path = RATES) -> dict[str, Any]:
    """Reads a file of `benchmarks.preparation_rates`.

    Raises:
      ValueError: it is not such a file.
    """
    try:
        content = json.loads(path.read_bytes())
        content["rates"] = {name: float(value) for name, value in content["rates"].items()}
        missing = [name for name in (*_NAMES, "cache_bytes") if name not in content["rates"]]
        if missing:
            raise ValueError(f"no {', '.join(missing)}")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path}: no measured rates ({error}); python -m benchmarks.preparation_rates writes "
            "them"
        ) from error
    return content


def estimate(shapes: int, rates: Mapping[str, float], cluster: Cluster) -> dict[str, Any]:
    """Returns seconds per stage, bytes per kind of file, and the cost.

    Args:
      shapes: number of shapes.
      rates: content of "rates" in the file of measured rates.
      cluster: machines.
    """
    cores = cluster.hosts * cluster.cores
    devices = cluster.hosts * cluster.devices
    pictures = shapes * rates["pictures_per_shape"]
    per_second = cluster.pictures_per_second
    # Texts cost as many pictures as their operations.
    texts = shapes * rates["captions_per_shape"] * rates["text_flops"] / rates["picture_flops"]
    space = {
        "raw data": shapes * rates["source_bytes"],
        "shape cache": shapes * rates["cache_bytes"],
        "features": shapes * rates["feature_bytes"],
        "records": shapes * rates["record_bytes"],
    }
    # What a stage reads and writes.
    moved = {
        "shapes": space["raw data"] + space["shape cache"],
        "features": space["shape cache"] + space["features"],
        "records": space["shape cache"] + space["features"] + space["records"],
    }
    # Seconds by what may bound a stage; all of it works at the same time.
    limits = {
        "shapes": {"cores": shapes * rates["shape_cpu_seconds"] / (cores * BUSY)},
        "features": {
            "devices": (pictures + texts) / (devices * per_second),
            "cores": pictures * rates["picture_cpu_seconds"] / cores,
        },
        # One host writes the records.
        "records": {"cores": shapes * rates["record_cpu_seconds"] / cluster.cores},
    }
    for stage, each in limits.items():
        each["file system"] = moved[stage] / cluster.disk_bytes
    if cluster.download_bytes is not None:
        limits = {"download": {"network": space["raw data"] / cluster.download_bytes}} | limits
    bounds = {stage: max(each, key=each.__getitem__) for stage, each in limits.items()}
    seconds = {stage: limits[stage][bound] for stage, bound in bounds.items()}
    hours = sum(seconds.values()) / 3600
    result = {
        "shapes": shapes,
        "seconds": {name: round(value) for name, value in seconds.items()},
        "hours": round(hours, 2),
        "host_hours": round(hours * cluster.hosts, 1),
        "cpu_core_hours": round(shapes * rates["shape_cpu_seconds"] / 3600, 1),
        "bound_by": bounds,
        "pictures_per_second_and_device": round(per_second, 1),
        "bytes": {name: round(value) for name, value in space.items()},
    }
    if cluster.price is not None:
        result["cost"] = round(hours * cluster.hosts * cluster.price)
    return result


def format_table(result: Mapping[str, Any], cluster: Cluster) -> str:
    """Returns an estimate as text."""
    lines = [
        f"{result['shapes']:,} shapes on {cluster.hosts} hosts of {cluster.cores} cores and "
        f"{cluster.devices} devices"
    ]
    lines += [
        f"  {name:12} {status_file.format_seconds(seconds)}, bound by {result['bound_by'][name]}"
        for name, seconds in result["seconds"].items()
    ]
    lines.append(
        f"  {'all':12} {result['hours']} h, {result['host_hours']} host-hours"
        + (f", cost {result['cost']:,}" if "cost" in result else "")
    )
    lines += [f"  {name:12} {size / 1e9:,.0f} GB" for name, size in result["bytes"].items()]
    return "\n".join(lines)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m data_prep.estimate")
    add, positive, number = parser.add_argument, flag_types.integer(1), flag_types.positive_number
    add("--shapes", required=True, type=positive, help="number of shapes")
    add("--hosts", type=positive, default=1, help="hosts; default: %(default)s")
    add("--cores", type=positive, default=112, help="cores per host; default: %(default)s")
    add("--devices", type=positive, default=8, help="devices per host; default: %(default)s")
    devices, systems, raw = (
        sorted(published_rates.RATES[kind]) for kind in published_rates.NUMBERS
    )
    add(
        "--device",
        choices=devices,
        default="h100",
        help="device with a published speed of the teacher; default: %(default)s",
    )
    add("--pictures_per_second", type=number, help="pictures per second of a device, instead")
    add(
        "--file_system",
        choices=systems,
        default="filestore_zonal_10tib",
        help="file system with a published speed; default: %(default)s",
    )
    add("--disk_mb", type=number, help="megabytes per second of the file system, instead")
    add("--source", choices=raw, help="raw data of a published size; default: as measured")
    add("--download_mb", type=number, help="megabytes per second of downloads, over all hosts")
    add("--price", type=number, help="price of a host for an hour")
    add("--rates", type=command.local_path, default=RATES, help="file of measured rates")
    for flag, text in _OVERRIDES.items():
        add(flag, type=number, help=f"{text}; default: as measured")
    return parser.parse_args(arguments)


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    options = parse_options(arguments)
    measured = read_rates(options.rates)
    given = {name: getattr(options, name) for name in _NAMES if getattr(options, name)}
    chosen = {
        "devices": None if options.pictures_per_second else options.device,
        "file_systems": None if options.disk_mb else options.file_system,
        "raw_data": None if options.source_bytes else options.source,
    }
    published = {kind: name for kind, name in chosen.items() if name is not None}
    found = {kind: published_rates.number(kind, name) for kind, name in published.items()}
    rates = measured["rates"] | given
    if "raw_data" in found:
        rates["source_bytes"] = found["raw_data"]
    cluster = Cluster(
        hosts=options.hosts,
        cores=options.cores,
        devices=options.devices,
        pictures_per_second=options.pictures_per_second or found["devices"],
        disk_bytes=(options.disk_mb or found["file_systems"]) * 1e6,
        download_bytes=options.download_mb and options.download_mb * 1e6,
        price=options.price,
    )
    result = estimate(options.shapes, rates, cluster)
    print(format_table(result, cluster), file=sys.stderr)
    source = f"{measured['command']} ({measured['machine']}, {measured['date']})"
    print(f"  measured: rates per shape and picture, by {source}", file=sys.stderr)
    for kind, name in published.items():
        print(f"  published: {name}, {published_rates.describe(kind, name)}", file=sys.stderr)
    print(json.dumps(result | {"given": given, "published": published}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
