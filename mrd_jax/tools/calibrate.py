# SPDX-License-Identifier: Apache-2.0
r"""Measures how soft the teacher's relations are, and solves for temperatures.

python -m mrd_jax.tools.calibrate --config configs/quickstart.py \
    --config.loss.neighbours_within=8 --config.loss.neighbours_across=8

Reads the first batches of the run. For each target of the objective, prints its temperature, the
effective number of neighbours of a row and the share of the row that falls on the sample itself
(diagonal); then flags that set these temperatures in a later run. Without `neighbours_*`, it solves
nothing and reports the temperatures of the config. The student's temperature is not solved for;
with `student_temperature_follows` = "teacher", it is that of the target.
"""

import functools

import jax
from absl import app, flags
from ml_collections import config_flags

from mrd_jax.cli import command, flag_parsing
from mrd_jax.training import calibration, validation
from mrd_jax.training import run as training_run

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment, such as configs/x.py.")
flags.DEFINE_bool("debug", False, command.DEBUG_HELP)


def main(_: list[str]) -> int:
    """Prints the calibration of a config and returns the exit status."""
    jax.config.update("jax_platforms", "cpu")
    config = _CONFIG.value
    validation.validate(config)
    if config.loss.relation != "similarity":
        raise ValueError(
            f"config.loss.relation is {config.loss.relation!r}, which has no temperature; expected "
            "'similarity'"
        )
    data = training_run.open_data(config)
    measured = calibration.measure(config, data.records, neighbours=data.neighbours)
    print(f"{measured.samples} samples in batches of {config.batch_size}")
    print("\n".join(measured.lines()))
    fixed = calibration.with_temperatures(config.loss, measured)
    for term, values in fixed.teacher_temperatures.items():
        if values:
            rounded = tuple(float(f"{value:.6g}") for value in values)
            print(f"--config.loss.teacher_temperatures.{term}='{rounded}'")
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(
        command.reports_errors(main),
        flags_parser=functools.partial(flag_parsing.parse, explain=validation.renamed),
    )
