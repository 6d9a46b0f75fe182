# SPDX-License-Identifier: Apache-2.0
"""Compile a config's training step for a TPU slice, without a TPU: does it fit, where does it go.

python -m mrd_jax.tools.compile_tpu --config configs/mrd_pointbert.py --topology v5e:16x16

Prints one JSON line; to stderr a table for people, which says what the figures are and are not.
`--sweep` finds the largest batch per chip that fits. Needs `pip install -e ".[tpu]"` once (Linux).
"""

import json
import sys

import jax
from absl import app, flags
from ml_collections import config_flags

from mrd_jax.analysis import ahead, chips, sweep, table

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment, such as configs/x.py.")
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "Slice: v4:AxBxC, v5e:AxB, v5p:AxBxC or v6e:AxB, in chips."
)
_BATCH_PER_CHIP = flags.DEFINE_integer(
    "batch_per_chip", None, "Sets config.batch_size to so many times the chips.", lower_bound=1
)
_SWEEP = flags.DEFINE_bool(
    "sweep", False, "Find the largest batch per chip that fits: some ten compilations."
)


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit status, 1 where the step does not fit."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; every option starts with --")
    # A TPU of this machine stays free: compiling needs none.
    jax.config.update("jax_platforms", "cpu")
    config, topology = _CONFIG.value, _TOPOLOGY.value
    try:
        if _BATCH_PER_CHIP.value:
            config = sweep.with_batch(config, _BATCH_PER_CHIP.value, topology=topology)
        if _SWEEP.value:
            report = sweep.measure_largest(config, topology=topology)
        else:
            report = ahead.measure(config, topology=topology)
    except (ValueError, chips.MissingCompilerError) as error:
        print(error, file=sys.stderr)
        return 2
    print(table.text(report), file=sys.stderr)
    print(json.dumps(report))
    return int(not report["fits"])


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "topology"])
    app.run(main)
