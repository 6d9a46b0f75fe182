# SPDX-License-Identifier: Apache-2.0
"""The longer furniture run, for both folds: `make furniture`.

python -m mrd_jax.main --config configs/furniture.py --workdir runs/furniture/furniture
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    """The quickstart's student, trained three times as long."""
    config = quickstart.get_config()
    config.total_steps = 1_000
    config.eval_every = 500
    config.checkpoint_every = 250
    config.optimizer.warmup_steps = 100
    return config
