# SPDX-License-Identifier: Apache-2.0
r"""MRD at the paper's scale with Uni3D, size b, on the OpenShape ensemble.

python -m mrd_jax.main --config configs/mrd_uni3d.py --workdir /gs/BUCKET/RUN \
    --config.data.directory=/gs/BUCKET/openshape/1.0.0

The other training lists: `--config configs/mrd_uni3d.py:ensembled_no_lvis` or `:shapenet`.
Starts from EVA's image weights, which `configs/uni3d.py` says how to convert.
"""

from ml_collections import ConfigDict

from configs import base, uni3d


def get_config(variant: str = "ensembled") -> ConfigDict:
    """Uni3D's recipe with the objective of MRD, so that the two differ in nothing else."""
    config = uni3d.get_config(variant)
    config.loss = base.loss()
    return config
