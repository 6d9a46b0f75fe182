# SPDX-License-Identifier: Apache-2.0
"""Estimates time, disk and cost of a preparation from measured rates.

python -m data_prep.estimate --shapes 800000 --hosts 10 --cores 112 --devices 8

Rates that no flag gives are those of `data_prep/measured_rates.json`, which states the command and
the machine that measured them. The speed of the teacher follows from the operations of ViT-bigG-14
and the share of a device's peak that it reaches, unless --pictures_per_second gives a measured one:
the status file of a short build has it. Prints a table to stderr and one JSON line to stdout.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep import flag_types, status_file
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
      peak_flops: floating-point operations per second of a device, at best.
      utilisation: share of the peak that the teacher reaches.
      pictures_per_second: measured pictures per second of a device; None to estimate them.
      disk_bytes: bytes per second of the file system, over all hosts.
      download_bytes: bytes per second of downloads, over all hosts; None to leave them out.
      price: price of a host for an hour; None if unknown.
    """

    hosts: int
    cores: int
    devices: int
    peak_flops: float
    utilisation: float
    disk_bytes: float
    pictures_per_second: float | None = None
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
    per_second = cluster.peak_flops * cluster.utilisation / rates["picture_flops"]
    if cluster.pictures_per_second is not None:
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
    add(
        "--peak_tflops",
        type=number,
        default=989.0,
        help="peak of a device in bfloat16, in 10^12 operations per second; default: %(default)s, "
        "that of an H100 SXM by its data sheet",
    )
    add(
        "--utilisation",
        type=number,
        default=0.4,
        help="assumed share of the peak that the teacher reaches; default: %(default)s",
    )
    add("--pictures_per_second", type=number, help="measured pictures per second of a device")
    add(
        "--disk_mb",
        type=number,
        default=1000.0,
        help="assumed megabytes per second of the file system; default: %(default)s",
    )
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
    cluster = Cluster(
        hosts=options.hosts,
        cores=options.cores,
        devices=options.devices,
        peak_flops=options.peak_tflops * 1e12,
        utilisation=options.utilisation,
        disk_bytes=options.disk_mb * 1e6,
        pictures_per_second=options.pictures_per_second,
        download_bytes=options.download_mb and options.download_mb * 1e6,
        price=options.price,
    )
    result = estimate(options.shapes, measured["rates"] | given, cluster)
    print(format_table(result, cluster), file=sys.stderr)
    source = f"{measured['command']} ({measured['machine']}, {measured['date']})"
    print(f"  rates measured by {source}", file=sys.stderr)
    assumed = [f"a file system of {options.disk_mb:g} MB/s"]
    if options.pictures_per_second is None:
        share = f"{options.utilisation:.0%} of {options.peak_tflops:g} TFLOP/s"
        assumed.append(f"a teacher that reaches {share}")
    print(f"  assumed, not measured: {', '.join(assumed)}", file=sys.stderr)
    print(json.dumps(result | {"given": given}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
