# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes an encoder on the classes of furniture, in minutes on the CPU of a laptop.

python -m mrd_jax.main --mode finetune --config configs/finetune.py \
    --config.initial_weights=runs/quickstart --workdir runs/finetune
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns fine-tuning of any encoder, with a small learning rate for few labelled shapes.

    `config.initial_weights` names the encoder, whose model card overrides the architecture in
    `config.model`, `config.teacher` and `config.augment.color_fill`. The fields of `config.loss`
    and those of captions and pictures have no effect.
    """
    config = base.get_config()
    config.finetune = finetune()
    config.batch_size = 32
    # 4.5 epochs of the 283 labelled shapes.
    config.total_steps = 40
    config.log_every = 5
    config.eval_every = 20
    config.checkpoint_every = 20
    config.eval_windows = 4

    config.data.directory = "data/furniture/1.0.0"
    config.data.cache = True

    config.augment.dropout_max = 0.5
    # All catalogues orient furniture in the same way.
    config.augment.rotate_z = 15.0
    config.augment.color_drop = 0.2

    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 5
    config.optimizer.layer_decay = 0.75
    return config


def finetune() -> ConfigDict:
    """Returns the class head, what is trained, and how it is compared."""
    config = ConfigDict()
    # Initial class head: "class_names", the teacher's text features of the names, so that training
    # starts from the zero-shot classifier; or "zeros".
    config.head = "class_names"
    # Factor on the cosine similarities of the class head: 1 / 0.07 (CLIP).
    config.head_scale = 14.285714
    # Probability that is spread evenly over all classes.
    config.label_smoothing = 0.1
    # Last transformer blocks that are trained, with the layers after them and the class head. 0
    # trains the whole encoder.
    config.trainable_blocks = 0
    # Fit a linear probe to the encoder before fine-tuning, for comparison.
    config.linear_probe = True
    # Randomly scaled copies of each shape whose logits are averaged after the last step, beside the
    # accuracy without votes. 1 disables voting.
    config.votes = 1
    # Range of the scales of votes.
    config.vote_scale = (0.8, 1.25)
    return config
