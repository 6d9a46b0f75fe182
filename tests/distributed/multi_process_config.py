# SPDX-License-Identifier: Apache-2.0
"""Config of the multi-process tests: twelve steps; evaluates and saves at every step."""

import pathlib
import sys

from ml_collections import ConfigDict

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "support"))
from fake_data import DIM
from tiny import tiny_config


def get_config() -> ConfigDict:
    """Returns the tiny config for the fake data set."""
    return tiny_config(
        total_steps=12,
        checkpoint_every=1,
        eval_every=1,
        checkpoints_kept=3,
        teacher__dim=DIM,
        model__out_dim=DIM,
        model__depth=1,
    )
