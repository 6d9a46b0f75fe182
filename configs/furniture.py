# SPDX-License-Identifier: Apache-2.0
"""Longer training on furniture; `make furniture` runs it on both test catalogues.

python -m mrd_jax.main --config configs/furniture.py --workdir runs/furniture/furniture
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    """Returns the quickstart config with about three times as many steps."""
    config = quickstart.get_config()
    config.total_steps = 1_000
    config.eval_every = 500
    config.checkpoint_every = 250
    config.optimizer.warmup_steps = 100
    return config
