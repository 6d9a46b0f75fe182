# SPDX-License-Identifier: Apache-2.0
"""The program that is compiled ahead of time is that of the run."""

import jax
from tiny import tiny_config

from mrd_jax.analysis import ahead
from mrd_jax.losses import loss_plan


def test_a_calibrated_run_is_compiled_with_a_temperature_per_target():
    """A student that follows them has as many relations, each of which is computed."""
    fields = {"loss__neighbours_within": 4.0, "loss__learn_student_temperature": False}
    config = tiny_config(**fields, loss__student_temperature_follows="teacher")
    built = ahead.build(config, jax.devices()[:2])
    plan = loss_plan.make(built.config.loss)
    assert (
        len({comparison.student for comparison in plan.comparisons}) == len(plan.comparisons) == 6
    )
    assert config.loss.neighbours_within == 4.0
