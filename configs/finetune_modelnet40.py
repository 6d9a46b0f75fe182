# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes an encoder on ModelNet40, by the protocol of Point-BERT and Point-MAE.

python -m mrd_jax.main --mode finetune --config configs/finetune_modelnet40.py \
    --config.initial_weights=encoders/openshape --workdir runs/finetune_modelnet40

Batch, epochs, learning rate, weight decay, clipping and warm-up are those of Point-MAE (Pang et
al., ECCV 2022; its code, cfgs/finetune_modelnet.yaml), as are the 10 votes. The number of points is
the encoder's.
"""

from ml_collections import ConfigDict

from configs import finetune

# Training shapes of the data set.
SHAPES = 9_843
EPOCHS = 300


def get_config() -> ConfigDict:
    """Returns 300 epochs of AdamW with a cosine schedule; random scale and shift, no rotation."""
    config = finetune.get_config()
    set_epochs(config, EPOCHS, shapes=SHAPES)
    config.log_every = 100
    config.eval_windows = 1

    config.data.directory = "data/modelnet40/1.0.0"
    config.data.cache = False

    config.augment.dropout_max = 0.0
    config.augment.scale = (2 / 3, 3 / 2)
    config.augment.shift = 0.2
    config.augment.rotate_sigma = 0.0
    config.augment.rotate_z = 0.0
    # The shapes have no colours.
    config.augment.color_drop = 0.0

    config.optimizer.learning_rate = 5e-4
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 10.0
    config.optimizer.layer_decay = 1.0
    config.finetune.label_smoothing = 0.0
    config.finetune.votes = 10
    return config


def set_epochs(config: ConfigDict, epochs: int, *, shapes: int) -> None:
    """Sets the numbers of steps to epochs, with a warm-up and a period of evaluations of ten.

    Args:
      config: config to change.
      epochs: number of epochs.
      shapes: training shapes of the data set.
    """
    steps_per_epoch = shapes // config.batch_size
    config.total_steps = epochs * steps_per_epoch
    config.eval_every = config.checkpoint_every = 10 * steps_per_epoch
    config.optimizer.warmup_steps = 10 * steps_per_epoch
