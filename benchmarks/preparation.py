# SPDX-License-Identifier: Apache-2.0
"""Measures how busy the scheduler of data preparation keeps its workers.

python -m benchmarks.preparation

Items have lognormal costs (sigma 1.2), as shapes of a large collection do. The first part prepares
shapes of the default size in real worker processes, one per core, and measures the time that the
parent needs per item. The second part runs the same scheduling code on simulated workers, whose
parent needs that time. Prints one line per part and one JSON line.
"""

import dataclasses
import heapq
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep import build_flags, executors, prepare, shapes, shards
from data_prep.executors import local, process_pool, scheduler
from data_prep.shards import Outcome, Shard
from mrd_jax.cli import command

SIGMA = 1.2
# Mean CPU seconds of an item in the simulation: 264 s for the 820 shapes of furniture.
MEAN_SECONDS = 0.32
# Bytes of a view of furniture at the default size.
VIEW_BYTES = 8_000


@dataclasses.dataclass(frozen=True)
class Item:
    """Item of known cost.

    Attributes:
      id: unique id.
      seconds: CPU seconds of preparing it.
    """

    id: str
    seconds: float


def prepare_item(item: Item, *, points: int, views: int) -> shapes.Shape:
    """Works for the cost of an item; its shape has the wall time for a name.

    Args:
      item: item to prepare.
      points: points of the shape.
      views: pictures of the shape.
    """
    start, cpu = time.perf_counter(), time.process_time()
    while time.process_time() - cpu < item.seconds:
        pass
    return shapes.Shape(
        id=item.id,
        source="synthetic",
        name=str(time.perf_counter() - start),
        catalogue="",
        category="",
        creator="",
        licence="",
        xyz=np.zeros((points, 3), np.float32),
        rgb=np.zeros((points, 3), np.uint8),
        images=(bytes(VIEW_BYTES),) * views,
        image_kinds=("render",) * views,
        captions=(),
        label="",
    )


def costs(count: int, *, mean: float) -> list[float]:
    """Returns lognormal costs with a mean in seconds, the same ones in every run."""
    values = np.random.default_rng(0).lognormal(math.log(mean) - SIGMA**2 / 2, SIGMA, count)
    return values.tolist()


def split(items: Sequence[Item], folder: Path) -> list[Shard]:
    """Returns shards of the usual size."""
    size = prepare.ITEMS_PER_SHARD
    return [
        Shard(start // size, shards.path_of(folder, start // size), items[start : start + size])
        for start in range(0, len(items), size)
    ]


def measure(count: int, *, mean: float, workers: int) -> dict[str, float]:
    """Prepares items in worker processes.

    Args:
      count: number of items.
      mean: mean CPU seconds of an item.
      workers: number of processes.

    Returns:
      The part of the time during which the workers were busy, and the CPU seconds of the parent
      per item. The time in which the processes start is not counted.
    """
    items = [Item(str(n), seconds) for n, seconds in enumerate(costs(count, mean=mean))]
    with tempfile.TemporaryDirectory() as folder:
        job = executors.Job(
            prepare=prepare_item,
            options={"points": build_flags.POINTS, "views": build_flags.VIEWS},
            header={},
            limits=executors.Limits(),
            input=Path(folder),
            cache_dir=Path(folder),
        )
        first = split([Item(f"first {n}", 0.5) for n in range(workers)], Path(folder) / "first")
        with process_pool.ProcessPool(job, workers) as pool:
            list(scheduler.run(first, pool))
            start, cpu, busy = time.perf_counter(), time.process_time(), 0.0
            for prepared in scheduler.run(split(items, Path(folder)), pool):
                local.finish(job, prepared)
                busy += sum(float(each.shape.name) for each in prepared.in_order())
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"busy": busy / (workers * wall), "parent_seconds": cpu / count, "seconds": wall}


class SimulatedPool:
    """Workers that need the cost of an item, of a parent that needs a time per item.

    Attributes:
      now: simulated seconds since the start.
    """

    def __init__(self, workers: int, *, parent_seconds: float):
        self.now = 0.0
        self._workers = workers
        self._parent_seconds = parent_seconds
        self._running: list[tuple[float, int, scheduler.Task]] = []
        self._started = 0

    def free(self) -> int:
        """Implements `scheduler.Pool`."""
        return self._workers - len(self._running)

    def start(self, task: scheduler.Task) -> None:
        """Implements `scheduler.Pool`."""
        self._started += 1  # orders tasks that end at the same moment
        heapq.heappush(self._running, (self.now + task.item.seconds, self._started, task))
        self.now += self._parent_seconds

    def wait(self) -> list[tuple[scheduler.Task, Outcome]]:
        """Implements `scheduler.Pool`."""
        self.now = max(self.now, self._running[0][0])
        ended = []
        while self._running and self._running[0][0] <= self.now:
            ended.append((heapq.heappop(self._running)[2], Outcome(None)))
        return ended


def simulate(count: int, *, workers: int, parent_seconds: float) -> dict[str, float]:
    """Simulates a preparation.

    Args:
      count: number of items.
      workers: number of workers.
      parent_seconds: seconds of the parent per item.

    Returns:
      The part of the time during which the workers were busy, and the simulated seconds.
    """
    items = [Item("", seconds) for seconds in costs(count, mean=MEAN_SECONDS)]
    pool = SimulatedPool(workers, parent_seconds=parent_seconds)
    done = sum(1 for _ in scheduler.run(split(items, Path()), pool))
    assert done == -(-count // prepare.ITEMS_PER_SHARD), "every shard is finished once"
    return {"busy": sum(item.seconds for item in items) / (workers * pool.now), "seconds": pool.now}


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m benchmarks.preparation")
    add = parser.add_argument
    add("--items", type=int, default=600, help="real items; default: %(default)s")
    add("--mean", type=float, default=0.1, help="mean CPU seconds of these; default: %(default)s")
    add("--workers", type=int, help="worker processes; default: one per core")
    add("--simulated_items", type=int, default=800_000, help="default: %(default)s")
    add("--simulated_workers", type=int, nargs="+", default=[112, 224], help="default: 112 224")
    options = parser.parse_args(arguments)
    workers = options.workers or local.available_cores()
    real = measure(options.items, mean=options.mean, workers=workers)
    print(f"{workers} workers, {options.items} items: {real['busy']:.1%} busy")
    simulated = {}
    for count in options.simulated_workers:
        simulated[count] = simulate(
            options.simulated_items, workers=count, parent_seconds=real["parent_seconds"]
        )
        print(f"{count} simulated workers: {simulated[count]['busy']:.1%} busy")
    line = {"benchmark": "preparation", "workers": workers, "sigma": SIGMA}
    print(json.dumps(line | {"real": real, "simulated": simulated}))
    return 0


if __name__ == "__main__":
    # Workers import the module of the items by its name, which is not "__main__" there.
    from benchmarks import preparation

    sys.exit(preparation.main())
