# SPDX-License-Identifier: Apache-2.0
"""MRD on CAD models of electronic parts; `make parts` builds the data and runs it.

python -m mrd_jax.main --config configs/parts.py --workdir runs/parts
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    """Returns the quickstart config for parts, which stand on the board in any direction."""
    config = quickstart.get_config()
    # 22 epochs of the training split; not tuned.
    config.total_steps = 600
    config.eval_every = 300
    config.checkpoint_every = 150

    config.data.directory = "data/kicad_parts/1.0.0"

    # z is up, and a part has no front.
    config.augment.rotate_z = 180.0
    return config
