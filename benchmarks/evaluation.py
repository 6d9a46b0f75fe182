# SPDX-License-Identifier: Apache-2.0
"""Measures whether the devices wait for the host when a large split is embedded.

python -m benchmarks.evaluation --records 46832 --devices 4

Embeds a split the size of Objaverse-LVIS with a small Point-BERT on emulated CPU devices, in
batches of 64 records of 10,000 points. The emulated devices take the cores that the host needs;
with `--device_ms` they compute nothing and each batch takes this time, as on an accelerator.

Prints one JSON line: records per second, `wait_fraction`, the share of the time in which the loop
waits for the next batch, and the resident memory after a quarter and at the end, which grows by the
embeddings only. The records repeat those of a small synthetic data set; `--latency_ms` adds a
latency to every read, as a bucket has it.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from benchmarks import input_pipeline
from mrd_jax.cli import command


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = command.Parser(__doc__, prog="python -m benchmarks.evaluation")
    add = parser.add_argument
    add("--records", type=int, default=46_832, help="records to embed")
    add("--devices", type=int, default=4, help="emulated devices")
    add("--device_ms", type=float, help="time per batch of devices that need no core")
    add("--latency_ms", type=float, default=0, help="time that every read takes in addition")
    add("--read_threads", type=int, default=0, help="threads that read ahead; 64 for a bucket")
    return parser.parse_args(arguments)


def resident_mb() -> float:
    """Returns the resident memory of this process, in MB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


def measure(options: argparse.Namespace) -> dict:
    """Embeds the records and returns the printed fields."""
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={options.devices}"
    import jax

    from mrd_jax import models
    from mrd_jax.distributed import backends
    from mrd_jax.evaluation import evaluator as evaluators

    small = input_pipeline.parse_arguments(["--records", "128"])
    config = input_pipeline.make_config(small)
    config.data.read_threads = options.read_threads
    config.model.update({"dim": 32, "depth": 1, "heads": 1, "mlp_dim": 32, "points": 1_024})
    config.model.update({"groups": 32, "group_size": 16})
    model = models.build_model(config.model)
    backend = backends.make_backend("shard_map", devices=tuple(jax.devices()))
    waits: list[float] = []
    memory: list[float] = []

    class Timed(evaluators.Evaluator):
        """Evaluator that measures the time until it has the next batch."""

        def _batches(self, *arguments) -> Iterator[dict[str, np.ndarray]]:
            batches = super()._batches(*arguments)
            while True:
                started = time.perf_counter()
                batch = next(batches, None)
                waits.append(time.perf_counter() - started)
                memory.append(resident_mb())
                if batch is None:
                    return
                yield batch

    def emulated_step(_: object, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Takes the time of an accelerator, and no core; returns embeddings without content."""
        time.sleep(options.device_ms / 1000)
        return np.zeros((len(batch["xyz"]), config.teacher.dim), np.float32)

    with tempfile.TemporaryDirectory() as folder:
        written = input_pipeline.make_data_set(pathlib.Path(folder), small)
        config.data.directory, config.data.test_split = str(written), "train"
        evaluator = Timed(config, model=model, backend=backend)
        stored = input_pipeline.open_records(written)[2]
        repeated = input_pipeline.Repeated(
            stored, count=options.records, latency=options.latency_ms / 1000
        )
        records = input_pipeline.as_source(repeated, written)
        points = np.zeros((1, 1_024, 3), np.float32)
        variables = model.init(jax.random.key(0), points, points)
        variables = backend.place_state({"batch_stats": {}, **variables})
        evaluator.embed(variables, records, np.arange(2 * config.batch_size))  # compiles
        if options.device_ms is not None:
            evaluator._embed_step = emulated_step
        waits.clear()
        memory.clear()
        started = time.perf_counter()
        embeddings = evaluator.embed(variables, records)
        seconds = time.perf_counter() - started
    assert embeddings.shape == (options.records, config.teacher.dim)
    return {
        "benchmark": "evaluation",
        **{name: value for name, value in vars(options).items() if name != "debug"},
        "records_per_s": round(options.records / seconds),
        # The first batch has nothing to be read ahead of.
        "wait_fraction": round(sum(waits[1:]) / seconds, 3),
        "resident_mb": {"quarter": memory[len(memory) // 4], "end": memory[-1]},
        "cores": len(os.sched_getaffinity(0)),
    }


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints one JSON line."""
    print(json.dumps(measure(parse_arguments(arguments))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
