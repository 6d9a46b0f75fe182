# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes an encoder on the hardest variant of ScanObjectNN, PB_T50_RS.

python -m mrd_jax.main --mode finetune --config configs/finetune_scanobjectnn.py \
    --config.initial_weights=encoders/openshape --workdir runs/finetune_scanobjectnn

Batch, epochs, learning rate, weight decay, clipping and warm-up are those of Point-MAE (Pang et
al., ECCV 2022; its code, cfgs/finetune_scan_hardest.yaml). Rotations and label smoothing are not.
"""

from ml_collections import ConfigDict

from configs import finetune_modelnet40

# Training shapes of the variant.
SHAPES = 11_416
EPOCHS = 200


def get_config() -> ConfigDict:
    """Returns the schedule of ModelNet40 with rotations about the vertical axis."""
    config = finetune_modelnet40.get_config()
    finetune_modelnet40.set_epochs(config, EPOCHS, shapes=SHAPES)

    config.data.directory = "data/scanobjectnn_pb_t50_rs/1.0.0"
    config.augment.scale = (0.8, 1.25)
    config.augment.shift = 0.1
    config.augment.rotate_z = 180.0
    config.finetune.label_smoothing = 0.2
    config.finetune.votes = 1
    return config
