# SPDX-License-Identifier: Apache-2.0
"""The run that several processes share: twelve steps, everything at every step.

python -m mrd_jax.main --config tests/hosts/hosts_run.py --workdir DIR --config.data.directory=DATA
"""

import pathlib
import sys

from ml_collections import ConfigDict

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "support"))
from made_up import DIM
from tiny import tiny_config


def get_config() -> ConfigDict:
    """A batch of 16 on the made-up data set."""
    return tiny_config(
        total_steps=12,
        checkpoint_every=1,
        eval_every=1,
        checkpoints_kept=3,
        teacher__dim=DIM,
        model__out_dim=DIM,
        model__depth=1,
    )
