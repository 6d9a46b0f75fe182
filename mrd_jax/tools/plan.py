# SPDX-License-Identifier: Apache-2.0
"""Estimates what a run takes before any chip is paid for: hosts, data rate, hours and cost.

python -m mrd_jax.tools.plan --config configs/mrd_pointbert.py --topology v5e:8x8 \
    --records 875665 --price 1.2

The time of a step is `--step_ms`, such as that of a short run (batch size over its
`train/samples_per_second`), or else what the compiler says (`mrd_jax.tools.compile`, which needs
the extra `tpu` or `cuda12`): an estimate for TPUs; for GPUs, whose compiler has no schedule, a
lower bound, the larger of matrix products at the peak and memory traffic at full bandwidth. The
number of records is that of the data set in `config.data.directory`, or `--records`. Prints a
table to stderr and one JSON line to stdout.
"""

import functools
import json
import sys

import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from mrd_jax.analysis import ahead, chips, planning
from mrd_jax.cli import command, flag_parsing
from mrd_jax.data import batch_spec, dataset_metadata, source
from mrd_jax.training import validation

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment, such as configs/x.py.")
_TOPOLOGY = flags.DEFINE_string(
    "topology",
    None,
    "Slice or GPUs, such as v5e:8x8 or h100:2x8; with --step_ms, KIND:CHIPS of any kind.",
)
_BATCH_PER_CHIP = flags.DEFINE_integer(
    "batch_per_chip", None, "Set config.batch_size to this times the chips.", lower_bound=1
)
_STEP_MS = flags.DEFINE_float("step_ms", None, "Time of a step, if known.", lower_bound=0.001)
_RECORDS = flags.DEFINE_integer("records", None, "Number of training records.", lower_bound=1)
_RECORD_BYTES = flags.DEFINE_integer(
    "record_bytes", None, "Stored bytes of a record; by default an estimate.", lower_bound=1
)
_PRICE = flags.DEFINE_float("price", None, "Price of a chip for an hour.", lower_bound=0)
flags.DEFINE_bool("debug", False, command.DEBUG_HELP)


def main(_: list[str]) -> int:
    """Prints the plan and returns the exit status, 1 if the step does not fit."""
    jax.config.update("jax_platforms", "cpu")
    # JAX cannot load a program for a GPU that is not there from its cache.
    jax.config.update("jax_enable_compilation_cache", False)
    config, topology = _CONFIG.value, _TOPOLOGY.value
    if _BATCH_PER_CHIP.value:
        config.batch_size = _BATCH_PER_CHIP.value * chips.count_chips(topology)
    ahead.validate(config, topology=topology)
    config = dataset_metadata.with_points(config, assumed=batch_spec.DEFAULT_POINTS)
    records = _RECORDS.value or _count_records(config)
    if _STEP_MS.value:
        seconds, parameters = _STEP_MS.value / 1000, ahead.count_parameters(config)
        bound = False
    else:
        report = ahead.measure(config, topology=topology, calibrated=False)
        if not report["fits"]:
            gib = report["allocated_bytes"] / 2**30
            print(
                f"the step does not fit: it needs {gib:.1f} GiB per chip; pass a smaller "
                "--batch_per_chip, or see python -m mrd_jax.tools.compile --sweep",
                file=sys.stderr,
            )
            return 1
        bound, parameters = report["platform"] == "gpu", report["parameters"]
        seconds = max(report["floor_s"], report["bytes_s"]) if bound else report["estimate_s"]
    figures = {"estimated": not _STEP_MS.value, "lower_bound": bound} | planning.plan(
        config,
        topology=topology,
        parameters=parameters,
        step_seconds=seconds,
        records=records,
        record_bytes=_RECORD_BYTES.value,
        price=_PRICE.value,
    )
    print(planning.format_text(figures), file=sys.stderr)
    print(json.dumps(figures))
    return 0


def _count_records(config: ConfigDict) -> int:
    """Returns the number of records of the training split of a config."""
    try:
        return len(source.open_split(config.data.directory, config.data.train_split))
    except FileNotFoundError as error:
        raise ValueError(f"{error}; or pass --records, the number of training records") from error


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "topology"])
    app.run(
        command.reports_errors(main),
        flags_parser=functools.partial(flag_parsing.parse, explain=validation.renamed),
    )
