# SPDX-License-Identifier: Apache-2.0
"""MRD on furniture models, in minutes on the CPU of a laptop.

python -m mrd_jax.main --config configs/quickstart.py --workdir runs/quickstart
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns the config; its values were compared on the catalogue KatorLegaz, a training one."""
    config = base.get_config()
    config.batch_size = 64
    config.total_steps = 300
    config.log_every = 20
    config.eval_every = 100
    config.checkpoint_every = 100
    # Top-1 on KatorLegaz with 1, 2, 4 and 9 windows: 50.0, 51.7, 51.7, 51.7.
    config.eval_windows = 4

    config.data.directory = "data/furniture/1.0.0"
    # 640 shapes of 10,000 points take 60 MB.
    config.data.cache = True

    config.augment.dropout_max = 0.5
    # All catalogues orient furniture in the same way.
    config.augment.rotate_z = 15.0
    config.augment.color_drop = 0.2

    config.model.points = 1_024
    config.model.dim = 256
    config.model.depth = 4
    config.model.heads = 4
    config.model.mlp_dim = 512
    config.model.sa_dim = 128
    config.model.groups = 48
    config.model.group_size = 32
    config.model.radius = 0.3

    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 50
    config.optimizer.ema_decay = 0.99
    return config
