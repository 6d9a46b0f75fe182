# SPDX-License-Identifier: Apache-2.0
"""Compiles the training step of a config for TPUs or GPUs, without one: memory, traffic and cost.

python -m mrd_jax.tools.compile --config configs/mrd_pointbert.py --topology v5e:16x16
python -m mrd_jax.tools.compile --config configs/mrd_pointbert.py --topology h100:8

Prints one JSON line to stdout and a table to stderr; the exit status is 1 if the step does not fit.
`--sweep` finds the largest batch per chip that fits. Requires the extra `tpu` for TPU slices and
`cuda12` or `cuda13` for GPUs (Linux on x86_64). For a GPU, memory is compared with the share that
JAX allocates, 0.75 or XLA_CLIENT_MEM_FRACTION, as in a run.
"""

import functools
import json
import sys

import jax
from absl import app, flags
from ml_collections import config_flags

from mrd_jax.analysis import ahead, sweep, table
from mrd_jax.cli import command, flag_parsing
from mrd_jax.training import validation

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment, such as configs/x.py.")
_TOPOLOGY = flags.DEFINE_string(
    "topology",
    None,
    "TPU slice in chips (v4:AxBxC, v5e:AxB, v5p:AxBxC, v6e:AxB), or GPUs (h100:8 of one node, "
    "h100:2x8 of two; h200, a100-80, a100-40, l4, b200).",
)
_BATCH_PER_CHIP = flags.DEFINE_integer(
    "batch_per_chip",
    None,
    "Set config.batch_size to this times the number of chips.",
    lower_bound=1,
)
_SWEEP = flags.DEFINE_bool(
    "sweep", False, "Find the largest batch per chip that fits, in about ten compilations."
)
flags.DEFINE_bool("debug", False, command.DEBUG_HELP)


def main(_: list[str]) -> int:
    """Compiles the step, prints the report and returns the exit status, 1 if it does not fit."""
    # Compilation needs no chip, and leaves one that the machine has to other programs.
    jax.config.update("jax_platforms", "cpu")
    # JAX cannot load a program for a GPU that is not there from its cache.
    jax.config.update("jax_enable_compilation_cache", False)
    config, topology = _CONFIG.value, _TOPOLOGY.value
    if _BATCH_PER_CHIP.value:
        config = sweep.with_batch(config, _BATCH_PER_CHIP.value, topology=topology)
    if _SWEEP.value:
        report = sweep.measure_largest(config, topology=topology)
    else:
        report = ahead.measure(config, topology=topology)
    print(table.format_text(report), file=sys.stderr)
    print(json.dumps(report))
    return int(not report["fits"])


def run() -> None:
    """Parses the command line and runs `main`."""
    flags.mark_flags_as_required(["config", "topology"])
    app.run(
        command.reports_errors(main),
        flags_parser=functools.partial(flag_parsing.parse, explain=validation.renamed),
    )


if __name__ == "__main__":
    run()
