# SPDX-License-Identifier: Apache-2.0
"""MRD on CAD models of electronic parts; `make parts` builds the data and runs it.

python -m mrd_jax.main --config configs/parts.py --workdir runs/parts
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    """Returns the quickstart config for parts, which stand on the board in any direction."""
    config = quickstart.get_config()
    # 82 epochs of the training split.
    config.total_steps = 2_100
    config.eval_every = 700
    config.checkpoint_every = 350

    config.data.directory = "data/kicad_parts/1.0.0"

    # z is up, and a part has no front.
    config.augment.rotate_z = 180.0
    # The study's choices on `validation` (docs/science.md); its objective is the default.
    config.augment.color_drop = 0.0
    config.model.patch_dropout = 0.75
    config.optimizer.ema_decay = 0.0
    return config
