# SPDX-License-Identifier: Apache-2.0
"""Measures the changes of a large index; prints one JSON line.

python -m benchmarks.index --shapes 100000

Builds an index of made-up shapes, adds some, removes some, and searches it, each in a process of
its own. For each: its seconds and its peak memory in MB; for the search, the seconds to open the
index and the median milliseconds of a query. The encoder is not part of the measurement: rows,
points and pictures are random.
"""

import argparse
import dataclasses
import json
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import numpy as np

from mrd_jax.checkpoints import model_card
from mrd_jax.cli import command
from mrd_jax.search import entries, index_search, index_writer, pictures, shape_index

STEPS = ("build", "add", "remove", "query")
# Distinct point clouds and pictures; shapes repeat them.
_KINDS = 64
_QUERIES = 100


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit status."""
    parser = command.Parser(__doc__, prog="python -m benchmarks.index")
    add = parser.add_argument
    add("--shapes", type=int, default=100_000, help="shapes to build (default: 100000)")
    add("--changes", type=int, default=1_000, help="shapes to add and to remove (default: 1000)")
    add("--dim", type=int, default=512, help="length of a row (default: 512)")
    add("--points", type=int, default=1_024, help="points per shape (default: 1024)")
    add("--ann", action="store_true", help="with approximate search, from 200,000 shapes")
    add("--folder", help="folder of the index (default: a temporary one)")
    add("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.step:
        print(json.dumps(measure(options)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        options.folder = options.folder or f"{folder}/index"
        measured = {step: run_step(step, options) for step in STEPS}
        index = pathlib.Path(options.folder)
        size = sum(path.stat().st_size for path in index.rglob("*") if path.is_file())
    fields = {name: getattr(options, name) for name in ("shapes", "changes", "dim", "points")}
    machine = {"machine": platform.machine(), "megabytes": round(size / 1e6)}
    print(json.dumps({"benchmark": "index", **fields, **machine, **measured}))
    return 0


def run_step(step: str, options: argparse.Namespace) -> dict[str, float]:
    """Runs a step in a process of its own, whose peak memory is that of the step."""
    arguments = [sys.executable, "-m", "benchmarks.index", "--step", step]
    for name in ("shapes", "changes", "dim", "points", "folder"):
        arguments += [f"--{name}", str(getattr(options, name))]
    arguments += ["--ann"] if options.ann else []
    done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Measures one step in this process."""
    before = peak_megabytes()
    started = time.perf_counter()
    step = {"build": build, "add": add_shapes, "remove": remove_shapes, "query": query}
    result = step[options.step](options) or {}
    seconds = round(time.perf_counter() - started, 2)
    return {
        "s": seconds,
        "peak_mb": peak_megabytes(),
        "before_mb": before,
        **result,
    }


def build(options: argparse.Namespace) -> None:
    """Writes the index."""
    shape_index.write(
        options.folder,
        made_up(range(options.shapes), options),
        count=options.shapes,
        points=options.points,
        card=card(options.dim),
        checkpoint="made up",
        teacher=entries.Teacher("made up"),
        ann=options.ann,
    )


def add_shapes(options: argparse.Namespace) -> None:
    """Adds shapes."""
    numbers = range(options.shapes, options.shapes + options.changes)
    with index_writer.open_writer(options.folder, user="benchmarks.index") as writer:
        writer.add(made_up(numbers, options))
        writer.publish()


def remove_shapes(options: argparse.Namespace) -> None:
    """Removes shapes that are spread over the index."""
    stride = max(options.shapes // options.changes, 1)
    ids = [f"made_up/{number * stride}" for number in range(options.changes)]
    with index_writer.open_writer(options.folder, user="benchmarks.index") as writer:
        writer.remove(ids)
        writer.publish()


def query(options: argparse.Namespace) -> dict[str, float]:
    """Opens the index and searches it."""
    started = time.perf_counter()
    index = shape_index.read(options.folder)
    opened = time.perf_counter() - started
    search = index_search.open_search(index, ann=options.ann)
    times = []
    for row in unit_rows(_QUERIES, options.dim, seed=1):
        started = time.perf_counter()
        numbers, _ = search.nearest(row, count=12)
        titles = [index.items[number].title for number in numbers.tolist()]
        times.append(1_000 * (time.perf_counter() - started))
        assert len(titles) == 12
    return {
        "open_s": round(opened, 3),
        "query_ms": round(statistics.median(times), 2),
        "shapes": len(index),
    }


def made_up(numbers: Sequence[int], options: argparse.Namespace) -> Iterator[shape_index.Entry]:
    """Yields shapes with random rows, and a few kinds of point clouds and pictures."""
    random = np.random.default_rng(numbers[0])
    clouds = random.uniform(-0.5, 0.5, (_KINDS, options.points, 3))
    colours = random.integers(0, 256, (_KINDS, options.points, 3), dtype=np.uint8)
    drawn = [
        pictures.draw_cloud(cloud, colour, size=128)
        for cloud, colour in zip(clouds, colours, strict=True)
    ]
    for start in range(0, len(numbers), 1_000):
        part = numbers[start : start + 1_000]
        rows = unit_rows(len(part), options.dim, seed=part[0])
        for number, row in zip(part, rows, strict=True):
            kind = number % _KINDS
            item = shape_index.Item(
                f"made_up/{number}", f"shape {number}", "nobody", "CC0", f"{number}.jpg"
            )
            yield shape_index.Entry(item, row, clouds[kind], colours[kind], drawn[kind])


def unit_rows(count: int, dim: int, *, seed: int) -> np.ndarray:
    """Returns random rows, float32 [count, dim], of unit norm."""
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def card(dim: int) -> model_card.ModelCard:
    """Returns the model card of an encoder that does not exist."""
    values = {
        field.name: {"int": 1, "float": 0.5}.get(str(field.type), "")
        for field in dataclasses.fields(model_card.ModelCard)
    }
    values |= {"student": {"name": "point_bert", "out_dim": dim}, "teacher_dim": dim}
    values |= {name: choices[0] for name, choices in model_card.CHOICES.items()}
    values |= {"parameters": 1, "points": 1_024, "colour_fill": 0.4}
    return model_card.ModelCard(**values)


def peak_megabytes() -> float:
    """Returns the largest resident memory of this process so far."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(size / (1e6 if sys.platform == "darwin" else 1_024), 1)


if __name__ == "__main__":
    sys.exit(main())
