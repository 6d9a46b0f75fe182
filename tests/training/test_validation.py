# SPDX-License-Identifier: Apache-2.0
"""A config is validated once, and every fault is in one message."""

import importlib

import numpy as np
import pytest
from tiny import tiny_config

from configs import base
from mrd_jax.checkpoints import run_identity
from mrd_jax.training import config_schema, validation


@pytest.mark.parametrize(
    "name", ["base", "quickstart", "furniture", "mrd_pointbert", "mrd_uni3d", "openshape", "uni3d"]
)
def test_every_experiment_is_valid(name):
    validation.validate(importlib.import_module(f"configs.{name}").get_config())


def test_table_has_a_rule_for_every_field():
    fields = {
        name for name in run_identity.flatten(base.get_config()) if not name.startswith("model.")
    }
    assert fields == set(config_schema.RULES)


# A value outside its range for every kind of rule, and words of the message.
@pytest.mark.parametrize(
    "fields, message",
    [
        ({"optimizer__learning_rate": -1.0}, r"learning_rate is -1.0; .* greater than 0"),
        ({"optimizer__learning_rate": float("nan")}, r"learning_rate is nan; expected a number"),
        ({"optimizer__b2": 1.0}, r"optimizer.b2 is 1.0; .* less than 1"),
        ({"optimizer__schedule": "cosin"}, r"schedule is 'cosin'; expected one of 'cosine'"),
        ({"optimizer__decay_every": 0}, r"decay_every is 0; .* at least 1"),
        ({"optimizer__decay_rate": 1.5}, r"decay_rate is 1.5; .* at most 1"),
        ({"optimizer__layer_decay": 0.0}, r"layer_decay is 0.0; .* greater than 0"),
        ({"optimizer__warmup_steps": 6}, r"warmup_steps is 6; expected less than .* 6"),
        ({"augment__mirror": 1.5}, r"augment.mirror is 1.5; .* at most 1"),
        ({"augment__scale": (1.2, 0.8)}, r"augment.scale is \(1.2, 0.8\); expected two numbers"),
        ({"augment__color_drop": -0.1}, r"color_drop is -0.1; .* at least 0"),
        ({"loss__relation": "dot"}, r"loss.relation is 'dot'; expected one of"),
        ({"loss__divergence": "l2"}, r"loss.divergence is 'l2'"),
        ({"loss__lambda_intra": -1.0}, r"loss.lambda_intra is -1.0"),
        ({"loss__lambda_warmup": 1.5}, r"loss.lambda_warmup is 1.5; .* at most 1"),
        ({"model__relation_head": "mlp"}, r"relation_head is 'mlp'; expected one of \['linear'"),
        ({"eval_head": "both"}, r"eval_head is 'both'; expected one of 'contrastive', 'relation'"),
        ({"eval_head": "mean"}, r"eval_head is 'mean', but the student has a contrastive head"),
        (
            {"model__relation_head": "linear", "loss__lambda_intra": 0.0}
            | {"loss__lambda_image": 0.0, "loss__lambda_text": 0.0},
            r"relation_head is 'linear', but the objective has no distillation term",
        ),
        (
            {"model__relation_head": "linear", "loss__image_weight": 0.0, "loss__text_weight": 0.0},
            r"relation_head is 'linear', but the objective has no contrastive term",
        ),
        ({"data__corrupt_records": -1}, r"corrupt_records is -1; .* at least 0"),
        ({"data__caption_kinds": ("poem",)}, r"caption_kinds.*'poem'"),
        ({"data__caption_chances": ("high",)}, r"caption_chances is .*; expected a tuple of num"),
        ({"data__caption_groups": ("name",)}, r"caption_groups is .*; each group must be a tuple"),
        ({"data__hard_negatives": 16}, r"hard_negatives is 16"),
        ({"data__image_positives": 0}, r"image_positives is 0; .* at least 1"),
        (
            {"data__text_positives": 2, "loss__text_weight": 0.0},
            r"text_positives is 2, but config.loss.text_weight is 0.0, so that no term uses them",
        ),
        ({"loss__relation_features": "first"}, r"relation_features is 'first'; expected one of"),
        (
            {"data__directory": "s3://b/x"},
            r"data.directory is 's3://b/x': expected a local path or",
        ),
        ({"initial_weights": "/gs/b/x"}, r"initial_weights is '/gs/b/x': a local folder below /gs"),
        ({"data__train_split": ""}, r"train_split is ''; expected name of a split"),
        ({"batch_size": 0}, r"batch_size is 0; .* at least 1"),
        ({"spmd": "jit"}, r"spmd is 'jit'; expected one of 'pmap', 'shard_map'"),
        ({"shard_state": True}, r"shard_state is True, but config.spmd is 'pmap'"),
        ({"hang_minutes": -1.0}, r"hang_minutes is -1.0; .* at least 0"),
        ({"model__heads": 3}, r"heads"),
        ({"model__out_dim": 12}, r"out_dim is 12 and config.teacher.dim is 24"),
        ({"model__out_dim": 0}, r"model.out_dim is 0; expected an integer, at least 1"),
        ({"model__points": 97}, r"model.points is 97, but records have 96 points"),
        ({"eval_windows": 2}, r"eval_windows is 2; .* must be 1 to 1"),
    ],
)
def test_invalid_value_is_named(fields, message):
    with pytest.raises(validation.ConfigError, match=message) as error:
        validation.validate(tiny_config(**fields))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("field", ["points", "out_dim"])
def test_missing_field_of_the_student_is_named(field):
    config = tiny_config()
    with config.unlocked():
        del config.model[field]
    with pytest.raises(validation.ConfigError, match=rf"config.model.{field} is missing"):
        validation.validate(config)


def test_every_fault_is_in_one_message():
    config = tiny_config(
        seed=-1, augment__mirror=2.0, loss__block=0, model__heads=3, optimizer__clip_norm=-1.0
    )
    with pytest.raises(validation.ConfigError) as error:
        validation.validate(config)
    lines = str(error.value).splitlines()
    assert len(lines) == 5
    for word in ("seed", "mirror", "block", "heads", "clip_norm"):
        assert sum(word in line for line in lines) == 1


@pytest.mark.parametrize("value", ["3", None, 2.5, True, np.float32(3)])
def test_value_of_another_type_is_refused(value):
    assert not config_schema.RULES["total_steps"].accepts(value)


def test_unknown_missing_and_renamed_fields_are_named():
    config = tiny_config()
    with config.unlocked():
        config.batchsize = 4
        config.stall_minutes = 3.0
        del config.hang_minutes
        del config.optimizer.b1
    with pytest.raises(validation.ConfigError) as error:
        validation.validate(config)
    assert str(error.value).splitlines() == [
        "config.batchsize is not a field of a run; did you mean config.batch_size?",
        "config.stall_minutes has been renamed to config.hang_minutes",
        "config.optimizer.b1 is missing; expected a number, at least 0, less than 1 "
        "(configs/base.py has every field)",
    ]


@pytest.mark.parametrize(
    ("devices", "used"), [(16, 16), (32, 16), (64, 8), (512, 1), (1, 16)], ids=str
)
def test_micro_batch_is_the_largest_divisor_up_to_the_configured_one(devices, used):
    """uni3d_g has 512 samples and micro-batches of 24, which divide over no power of two."""
    config = tiny_config(batch_size=512, model__micro_batch=24)
    assert validation.micro_batch(config, device_count=devices) == used
    validation.validate_devices(config, device_count=devices, process_count=1)


def test_micro_batch_that_divides_is_kept_and_0_means_none():
    for wanted in (0, 1, 4):
        config = tiny_config(batch_size=16, model__micro_batch=wanted)
        assert validation.micro_batch(config, device_count=2) == wanted


def test_batch_must_divide_over_devices_and_fit_the_data_set():
    config = tiny_config(batch_size=12)
    with pytest.raises(validation.ConfigError, match="batch_size is 12.*8 devices"):
        validation.validate_devices(config, device_count=8, process_count=1)
    config = tiny_config(batch_size=46, model__micro_batch=8)
    with pytest.raises(
        validation.ConfigError, match="micro_batch is 8; .* 23 samples per device .* one of 1, 23"
    ):
        validation.validate_devices(config, device_count=2, process_count=1)
    config = tiny_config()
    with pytest.raises(validation.ConfigError, match="batch_size is 16, but .* has 15 records"):
        validation.validate_records(config, records=15)
    validation.validate_records(config, records=16)
