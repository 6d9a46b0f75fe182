# SPDX-License-Identifier: Apache-2.0
"""Student and objective that the study starts from.

Every field that results depend on is set here, those that only decide how they are computed are
not: `configs/` takes what the study chooses, and its stored results keep their meaning.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns MRD with a small student, whatever the defaults are."""
    config = base.get_config()
    config.batch_size = 64
    config.eval_windows = 4
    config.eval_head = "contrastive"
    config.data.cache = True
    config.data.image_positives = 1
    config.data.text_positives = 1
    config.teacher.dim = 384

    config.augment.dropout_max = 0.5
    config.augment.scale = (0.8, 1.25)
    config.augment.shift = 0.1
    config.augment.rotate_sigma = 0.06
    config.augment.rotate_clip = 0.18
    config.augment.rotate_z = 180.0
    config.augment.color_drop = 0.2
    config.augment.color_fill = 0.4
    config.augment.mirror = config.augment.jitter_sigma = config.augment.color_jitter = 0.0

    model = config.model
    model.name = "point_bert"
    model.points, model.groups, model.group_size, model.radius = 1_024, 48, 32, 0.3
    model.dim, model.depth, model.heads, model.mlp_dim, model.sa_dim = 256, 4, 4, 512, 128
    model.patch_dropout, model.patch_choice = 0.0, "fewer"
    model.out_dim, model.dtype = 384, "float32"
    model.relation_head = "none"

    optimizer = config.optimizer
    optimizer.learning_rate, optimizer.schedule, optimizer.warmup_steps = 1e-3, "cosine", 50
    optimizer.final_learning_rate, optimizer.decay_rate, optimizer.decay_every = 0.01, 1.0, 10_000
    optimizer.layer_decay = 1.0
    optimizer.b1, optimizer.b2, optimizer.weight_decay = 0.9, 0.98, 0.05
    optimizer.clip_norm, optimizer.ema_decay = 1.0, 0.99

    loss = config.loss
    loss.image_weight = loss.text_weight = 0.5
    loss.log_scale_init, loss.log_scale_max = 2.6592600369327783, 4.605170185988092
    loss.lambda_intra = loss.lambda_image = loss.lambda_text = 1.0
    loss.lambda_warmup = loss.lambda_anneal = 0.0
    loss.relation, loss.divergence = "similarity", "jeffrey"
    loss.weights, loss.term_weights, loss.mix = "dynamic", "static", "divergences"
    loss.entropy_weight, loss.term_weight_floor = 0.01, 0.25
    loss.teacher_temperature = 0.1
    loss.teacher_temperatures = ConfigDict({"intra": (), "image": (), "text": ()})
    loss.neighbours_within = loss.neighbours_across = 0.0
    loss.student_temperature, loss.student_temperature_cross = 0.1, 0.0
    loss.learn_student_temperature, loss.student_temperature_follows = False, "none"
    loss.exclude_self_intra, loss.exclude_self_cross = True, False
    loss.relation_features = "drawn"
    loss.candidates.intra = ("VV", "TT")
    loss.candidates.image = ("VV", "TV")
    loss.candidates.text = ("TT", "VT")
    return config
