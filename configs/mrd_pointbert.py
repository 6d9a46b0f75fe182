# SPDX-License-Identifier: Apache-2.0
"""MRD at the paper's scale: Point-BERT scaling 4 on the OpenShape ensemble.

python -m mrd_jax.main --config configs/mrd_pointbert.py --workdir gs://BUCKET/RUN \
    --config.data.directory=gs://BUCKET/openshape/1.0.0
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Sizes of OpenShape (NeurIPS 2023) where the MRD abstract leaves them open."""
    config = base.get_config()

    # jit over a mesh: several hosts without round trips.
    config.spmd = "shard_map"
    # OpenShape trains with 200 on one GPU; a pod takes a power of two. Ours.
    config.batch_size = 1_024
    # About 200 epochs of 875,000 shapes. Ours.
    config.total_steps = 170_000
    config.log_every = 100
    config.eval_every = 5_000
    config.checkpoint_every = 1_000

    # OpenCLIP ViT-bigG-14, the teacher of OpenShape's released features.
    config.teacher.name = "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"
    config.teacher.dim = 1_280
    config.model.out_dim = 1_280
    config.model.dtype = "bfloat16"
    config.model.remat = True
    # Half of the draws from Objaverse's thumbnails (OpenShape).
    config.data.picture_probability = 0.5

    # OpenShape: AdamW, 5e-4, weight decay 0.01.
    config.optimizer.learning_rate = 5e-4
    config.optimizer.weight_decay = 0.01
    config.optimizer.warmup_steps = 5_000
    return config
