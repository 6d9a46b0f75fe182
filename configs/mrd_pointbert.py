# SPDX-License-Identifier: Apache-2.0
"""MRD at the paper's scale: Point-BERT scaling 4 on the OpenShape ensemble.

python -m mrd_jax.main --config configs/mrd_pointbert.py --workdir gs://BUCKET/RUN \
    --config.data.directory=gs://BUCKET/openshape/1.0.0

Other training lists: `--config configs/mrd_pointbert.py:ensembled_no_lvis` or `:shapenet`.
"""

from ml_collections import ConfigDict

from configs import base, ensembles


def get_config(variant: str = "ensembled") -> ConfigDict:
    """Returns MRD with the sizes of OpenShape (NeurIPS 2023) where the MRD abstract gives none."""
    config = base.get_config()

    # jit over a device mesh, suited to several hosts.
    config.spmd = "shard_map"
    # OpenShape uses 200 on one GPU; a power of two divides over the chips of a pod. Ours.
    config.batch_size = 1_024
    # Number of epochs: that of Uni3D. Ours.
    ensembles.choose(config, variant, epochs=200)

    # Dimension of the teacher's features.
    config.model.out_dim = 1_280
    # Activations in half the memory. Ours.
    config.model.dtype = "bfloat16"
    # Recompute each block in the backward pass. Ours.
    config.model.remat = True

    # OpenShape: AdamW with a peak learning rate of 5e-4.
    config.optimizer.learning_rate = 5e-4
    # OpenShape.
    config.optimizer.weight_decay = 0.01
    # Ours.
    config.optimizer.warmup_steps = 5_000
    return config
