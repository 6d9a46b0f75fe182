# SPDX-License-Identifier: Apache-2.0
r"""Uni3D size g, 1.02 billion parameters, on a slice of sixteen small TPU chips.

python -m mrd_jax.tools.convert --from eva --size g --checkpoint eva_giant.safetensors \
    --output encoders/eva_g.npz
python -m mrd_jax.main --config configs/uni3d_g.py --workdir gs://BUCKET/RUN \
    --config.data.directory=gs://BUCKET/openshape/1.0.0

Objective and schedule are those of configs/uni3d.py. `docs/performance.md` reports memory and step
time on v5e:4x4 as estimated by the TPU compiler.
"""

from ml_collections import ConfigDict

from configs import uni3d


def get_config(variant: str = "ensembled") -> ConfigDict:
    """Returns configs/uni3d.py with the largest released student."""
    config = uni3d.get_config(variant)

    # FSDP: the replicated train state does not fit on one chip. Ours.
    config.shard_state = True
    config.initial_weights = "encoders/eva_g.npz"
    # Sizes of the released size g (`mrd_jax.models.uni3d.SIZES`).
    config.model.dim = 1_408
    config.model.depth = 40
    config.model.heads = 16
    config.model.mlp_dim = 6_144
    config.model.mlp = "gelu"
    # A third of the 72 clouds that each of sixteen chips holds. Ours.
    config.model.micro_batch = 24
    return config
