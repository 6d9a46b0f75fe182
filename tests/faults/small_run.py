# SPDX-License-Identifier: Apache-2.0
"""The run that the harness disturbs: small, with a checkpoint after every second step.

python -m mrd_jax.main --config tests/faults/small_run.py --workdir DIR --config.data.directory=DATA
"""

import pathlib
import sys

from ml_collections import ConfigDict

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "support"))
from fake_data import DIM
from tiny import tiny_config


def get_config() -> ConfigDict:
    """Returns the config; without evaluation, which would take most of the time."""
    return tiny_config(
        total_steps=60,
        checkpoint_every=2,
        data__test_split="",
        teacher__dim=DIM,
        model__out_dim=DIM,
    )
