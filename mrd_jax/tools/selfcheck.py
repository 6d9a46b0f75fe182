# SPDX-License-Identifier: Apache-2.0
"""Checks this installation on this device, and measures it: CPU, GPU or TPU.

python -m mrd_jax.tools.selfcheck --output selfcheck.json

Compares kernels, losses and backends with plain loops and with one device, kills and resumes a
run, and times attention, grouping, collectives, the step of a config and the data pipeline. Prints
a table and writes one JSON file; the exit status is 1 if something differs. `--quick` takes
seconds.
"""

import functools
import json
import os
import pathlib
import tempfile

import jax
from absl import app, flags
from ml_collections import config_flags

from mrd_jax import atomic_io, storage
from mrd_jax.cli import command, console, flag_parsing
from mrd_jax.data import batch_spec, dataset_metadata
from mrd_jax.distributed import determinism, gpus
from mrd_jax.selfcheck.results import FAIL, Context
from mrd_jax.training import validation

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    str(console.installed_configs() / "mrd_pointbert.py"),
    "Experiment whose step is timed.",
)
_QUICK = flags.DEFINE_bool("quick", False, "Small sizes, and no process is killed.")
_OUTPUT = flags.DEFINE_string("output", "selfcheck.json", "JSON file to write.")
_BATCHES = flags.DEFINE_list("batches", [], "Samples per device of the timed steps: 32,64,128.")
_SECONDS = flags.DEFINE_float(
    "seconds", 150.0, "Seconds after which no further batch is timed.", lower_bound=0
)
_DETERMINISTIC = flags.DEFINE_bool(
    "deterministic", False, "Check and time with the flags of config.deterministic."
)
flags.DEFINE_bool("debug", False, command.DEBUG_HELP)


def main(_: list[str]) -> int:
    """Runs the checks, prints the table and returns the exit status, 1 if a check fails.

    Raises:
      ImportError: the extra `prep` is not installed.
    """
    try:
        from mrd_jax.selfcheck import suite
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{error.name} is missing; the self-check prepares a data set with it. Run pip install "
            '"mrd_jax[prep]"'
        ) from error

    batches = _BATCHES.value
    if not all(batch.isdecimal() and int(batch) for batch in batches):
        raise ValueError(f"--batches is {','.join(batches)}; expected numbers such as 32,64")
    validation.validate(_CONFIG.value)
    output = storage.path(_OUTPUT.value)
    if _DETERMINISTIC.value and gpus.count_visible():
        determinism.enable()
    with tempfile.TemporaryDirectory() as folder:
        # For this process and those that it starts: equal programs are compiled once.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/compiled"
        jax.config.update("jax_compilation_cache_dir", f"{folder}/compiled")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
        if _QUICK.value and jax.default_backend() == "cpu":
            # Compilation takes most of the time there.
            jax.config.update("jax_disable_most_optimizations", True)
        context = Context(
            config=dataset_metadata.with_points(_CONFIG.value, assumed=batch_spec.DEFAULT_POINTS),
            config_file=config_flags.get_config_filename(flags.FLAGS["config"]),
            folder=pathlib.Path(folder),
            quick=_QUICK.value,
            batches=[int(batch) for batch in batches],
            seconds=_SECONDS.value,
        )
        results = suite.run(
            context, report=lambda result: print(suite.format_line(result), flush=True)
        )
        gpus.check_used(gpus.count_visible())
        report = suite.describe(context, results)
    atomic_io.write_text(output, json.dumps(report, indent=1) + "\n")
    print(
        f"{report['devices']} x {report['device']}: "
        + ", ".join(f"{count} {status}" for status, count in report["counts"].items())
        + f", {report['seconds']} s; wrote {output}"
    )
    return int(any(result.status == FAIL for result in results))


if __name__ == "__main__":
    app.run(
        command.reports_errors(main),
        flags_parser=functools.partial(flag_parsing.parse, explain=validation.renamed),
    )
