# SPDX-License-Identifier: Apache-2.0
r"""MRD at the paper's scale: Uni3D size b on the OpenShape ensemble.

python -m mrd_jax.main --config configs/mrd_uni3d.py --workdir gs://BUCKET/RUN \
    --config.data.directory=gs://BUCKET/openshape/1.0.0

Other training lists: `--config configs/mrd_uni3d.py:ensembled_no_lvis` or `:shapenet`. Training
starts from EVA's image weights; see `configs/uni3d.py` for how to convert them.
"""

from ml_collections import ConfigDict

from configs import base, uni3d


def get_config(variant: str = "ensembled") -> ConfigDict:
    """Returns the config of Uni3D with the MRD objective; all other fields are equal."""
    config = uni3d.get_config(variant)
    config.loss = base.loss()
    return config
