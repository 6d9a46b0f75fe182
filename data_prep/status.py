# SPDX-License-Identifier: Apache-2.0
"""Shows the status of builds that run elsewhere, such as the parts of a job array.

python -m data_prep.status OUTPUT...

Each OUTPUT is the --output of a `data_prep.build`, or its `status.json`. The exit status is 1 if a
build has failed, or has not updated its file for a minute although it should run.
"""

import datetime
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep import status_file
from data_prep.geometry.listing import printable
from mrd_jax.cli import command

# A build updates its file every few seconds; clocks of two machines may differ a little.
SILENT_SECONDS = 60


def find(places: Sequence[Path]) -> list[Path]:
    """Returns the status files in folders, in their order.

    Raises:
      ValueError: a place is neither a status file nor a folder with one.
    """
    found = []
    for place in places:
        files = sorted(place.glob("status*.json")) if place.is_dir() else [place]
        if not files or not files[0].is_file():
            raise ValueError(f"{place}: no status.json in it; expected the --output of a build")
        found += files
    return found


def read(path: Path) -> dict[str, Any]:
    """Reads a status file.

    Raises:
      ValueError: it is not a status file.
    """
    try:
        content = json.loads(path.read_bytes())
        content["silent"] = silence(content)
        return content
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: not the status of a build ({error!r})") from error


def silence(content: dict[str, Any]) -> float:
    """Returns the seconds since a running build has updated its file; 0 for others."""
    if content["state"] != "running":
        return 0.0
    updated = datetime.datetime.fromisoformat(content["updated"])
    return (datetime.datetime.now(datetime.UTC) - updated).total_seconds()


def describe(path: Path, content: dict[str, Any]) -> list[str]:
    """Returns the state of a build and one line for each of its stages."""
    state = content["state"]
    if content["silent"] > SILENT_SECONDS:
        silent = status_file.format_seconds(content["silent"])
        state = f"killed? It has not updated the file for {silent}"
    elif "error" in content:
        state += f": {content['error']}"
    lines = [f"{path}: {printable(state)} ({content['host']}, process {content['pid']})"]
    for stage, fields in content["stages"].items():
        lines.append(f"  {status_file.format_line(stage, fields)}")
    return lines


def add_up(contents: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the sums over several builds, one line for each stage."""
    names = dict.fromkeys(name for content in contents for name in content["stages"])
    lines = []
    for name in names:
        stages = [content["stages"][name] for content in contents if name in content["stages"]]
        # Builds that wait for their turn have no stage yet, so their items are unknown.
        total = sum(stage["total"] or 0 for stage in stages)
        working = [stage for stage in stages if not stage["finished"]]
        fields = {
            "unit": stages[0]["unit"],
            "total": total,
            "done": sum(stage["done"] for stage in stages),
            "per_second": sum(stage["per_second"] for stage in working or stages),
            "seconds_left": max((stage["seconds_left"] or 0 for stage in stages), default=0),
            "finished": not working,
            "skipped": status_file.sum_counts(stage["skipped"] for stage in stages),
            "retried": status_file.sum_counts(stage["retried"] for stage in stages),
        }
        lines.append(f"  {status_file.format_line(name, fields)}")
    return lines


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m data_prep.status")
    parser.add_argument(
        "outputs", nargs="+", type=command.local_path, help="values of --output, or status files"
    )
    paths = find(parser.parse_args(arguments).outputs)
    contents = [read(path) for path in paths]
    for path, content in zip(paths, contents, strict=True):
        print("\n".join(describe(path, content)))
    if len(contents) > 1:
        print("\n".join([f"all {len(contents)} builds:", *add_up(contents)]))
    is_fine = all(
        content["state"] in ("running", "finished") and content["silent"] <= SILENT_SECONDS
        for content in contents
    )
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
