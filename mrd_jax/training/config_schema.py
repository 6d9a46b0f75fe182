# SPDX-License-Identifier: Apache-2.0
"""Type and range of every field of a run's config, as a table."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from mrd_jax.distributed import backends
from mrd_jax.encoder import embedding
from mrd_jax.evaluation import evaluator
from mrd_jax.losses import options
from mrd_jax.training import optimizer


@dataclasses.dataclass(frozen=True)
class Rule:
    """Values that a field may take.

    Attributes:
      accepts: returns whether a value is valid.
      expected: description of the valid values, which completes "expected ...".
    """

    accepts: Callable[[Any], bool]
    expected: str


def integer(least: int) -> Rule:
    """Accepts integers from `least` on."""
    return Rule(
        lambda value: type(value) is int and value >= least, f"an integer, at least {least}"
    )


def real(
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
) -> Rule:
    """Accepts finite numbers in [least, most], greater than `above` and less than `below`."""
    bounds = {"at least": least, "greater than": above, "at most": most, "less than": below}
    words = [f"{word} {bound:g}" for word, bound in bounds.items() if math.isfinite(bound)]
    return Rule(
        lambda value: is_number(value) and least <= value <= most and above < value < below,
        ", ".join(["a number", *words]),
    )


def choice(values: Sequence[str]) -> Rule:
    """Accepts one of the given strings."""
    return Rule(
        lambda value: isinstance(value, str) and value in values,
        f"one of {', '.join(map(repr, values))}",
    )


def interval(least: float) -> Rule:
    """Accepts two numbers (low, high) with `least` < low <= high."""
    return Rule(
        lambda value: (
            isinstance(value, (tuple, list))
            and len(value) == 2
            and all(map(is_number, value))
            and least < value[0] <= value[1]
        ),
        f"two numbers (low, high), greater than {least:g}",
    )


def is_number(value: Any) -> bool:
    """Returns whether a value is a finite int or float; bool is neither."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


TEXT = Rule(lambda value: isinstance(value, str), "a string")
FLAG = Rule(lambda value: isinstance(value, bool), "True or False")
SEQUENCE = Rule(lambda value: isinstance(value, (tuple, list)), "a tuple")
TEXTS = Rule(
    lambda value: SEQUENCE.accepts(value) and all(map(TEXT.accepts, value)), "a tuple of strings"
)
NUMBERS = Rule(
    lambda value: SEQUENCE.accepts(value) and all(map(is_number, value)), "a tuple of numbers"
)
# Of `mrd_jax.training.trackers`.
TRACKERS = ("none", "wandb")
PROBABILITY = real(0, 1)
NOT_NEGATIVE = real(0)
POSITIVE = real(above=0)

_RUN = {
    "seed": integer(0),
    "initial_weights": TEXT,
    "spmd": choice(tuple(backends.BACKENDS)),
    "shard_state": FLAG,
    "deterministic": FLAG,
    "batch_size": integer(1),
    "total_steps": integer(1),
    "log_every": integer(1),
    "eval_every": integer(1),
    "checkpoint_every": integer(1),
    "eval_windows": integer(1),
    "eval_head": choice(embedding.HEADS),
    "checkpoints_kept": integer(1),
    "checkpoints_best": integer(0),
    "best_metric": choice(evaluator.metric_names()),
    "max_nonfinite_steps": integer(0),
    "profile_steps": integer(0),
    "tracker": choice(TRACKERS),
    "hang_minutes": NOT_NEGATIVE,
    "exit_on_hang": FLAG,
    "teacher.name": TEXT,
    "teacher.dim": integer(1),
}
_DATA = {
    "directory": TEXT,
    "train_split": Rule(lambda value: isinstance(value, str) and bool(value), "name of a split"),
    "test_split": TEXT,
    "test_directory": TEXT,
    "points": integer(0),
    "caption_kinds": TEXTS,
    "caption_groups": SEQUENCE,
    "caption_chances": NUMBERS,
    "picture_probability": real(most=1),
    "image_positives": integer(1),
    "text_positives": integer(1),
    "hard_negatives": integer(0),
    "neighbours": integer(1),
    "neighbours_file": TEXT,
    "corrupt_records": integer(0),
    "read_threads": integer(-1),
    "cache": FLAG,
}
_AUGMENT = {
    "dropout_max": PROBABILITY,
    "scale": interval(0),
    "shift": NOT_NEGATIVE,
    "rotate_sigma": NOT_NEGATIVE,
    "rotate_clip": NOT_NEGATIVE,
    "rotate_z": real(0, 180),
    "color_drop": PROBABILITY,
    "color_fill": PROBABILITY,
    "mirror": PROBABILITY,
    "jitter_sigma": NOT_NEGATIVE,
    "color_jitter": PROBABILITY,
}
_LOSS = {
    **{name: choice(values) for name, values in options.CHOICES.items()},
    **dict.fromkeys(options.NOT_NEGATIVE, NOT_NEGATIVE),
    **dict.fromkeys(options.POSITIVE, POSITIVE),
    "divergence": TEXT,
    "term_weight_floor": real(0, below=1),
    "lambda_warmup": PROBABILITY,
    "lambda_anneal": PROBABILITY,
    "learn_student_temperature": FLAG,
    "exclude_self_intra": FLAG,
    "exclude_self_cross": FLAG,
    **{f"candidates.{term}": TEXTS for term in options.TERMS},
    **{f"teacher_temperatures.{term}": NUMBERS for term in options.TERMS},
    "block": integer(1),
    "log_scale_init": real(),
    "log_scale_max": real(),
}
_OPTIMIZER = {
    "learning_rate": POSITIVE,
    "schedule": choice(optimizer.SCHEDULES),
    "final_learning_rate": PROBABILITY,
    "decay_rate": real(above=0, most=1),
    "decay_every": integer(1),
    "layer_decay": real(above=0, most=1),
    "warmup_steps": integer(0),
    "b1": real(0, below=1),
    "b2": real(0, below=1),
    "weight_decay": NOT_NEGATIVE,
    "clip_norm": NOT_NEGATIVE,
    "ema_decay": real(0, below=1),
}

# Fields that only a config of fine-tuning has.
FINETUNE: dict[str, Rule] = {
    "finetune.head": choice(("class_names", "zeros")),
    "finetune.head_scale": POSITIVE,
    "finetune.label_smoothing": real(0, below=1),
    "finetune.trainable_blocks": integer(0),
    "finetune.linear_probe": FLAG,
    "finetune.votes": integer(1),
    "finetune.vote_scale": interval(0),
}

# Fields of `config.model` that a run needs with any student.
MODEL_RULES = {"points": integer(1), "out_dim": integer(1)}
# Rule by field. The other fields of `config.model` depend on the student; `models.build_model`
# checks them.
RULES: dict[str, Rule] = _RUN | {
    f"{section}.{name}": rule
    for section, fields in {
        "data": _DATA,
        "augment": _AUGMENT,
        "loss": _LOSS,
        "optimizer": _OPTIMIZER,
    }.items()
    for name, rule in fields.items()
}


def rules(config: ConfigDict) -> dict[str, Rule]:
    """Returns the rules of the fields of a config: those of a run, or also of fine-tuning."""
    return RULES | FINETUNE if "finetune" in config else RULES
