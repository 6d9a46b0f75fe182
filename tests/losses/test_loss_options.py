# SPDX-License-Identifier: Apache-2.0
"""Loss parameters, mixing weights, and validation of options."""

import math

import loss_inputs
import numpy as np
import pytest
import reference_losses as reference

from mrd_jax import losses


def test_initial_mixing_weights_are_equal():
    config = loss_inputs.loss_config(learn_student_temperature=True)
    params = losses.init_loss_params(config)
    assert float(params["log_scale"]) == pytest.approx(math.log(1 / 0.07))
    assert float(params["student_log_temperature"]) == pytest.approx(math.log(0.5))
    weights = losses.mixing_weights(params, config)
    assert list(weights) == [
        f"weight/{name}"
        for name in ("intra/VV", "intra/TT", "image/VV", "image/TV", "text/TT", "text/VT")
    ]
    assert all(float(weight) == 0.5 for weight in weights.values())
    assert "student_log_temperature" not in losses.init_loss_params(loss_inputs.loss_config())


def test_mixing_weights_are_the_softmax_of_the_active_terms():
    config = loss_inputs.loss_config(lambda_image=0.0)
    weights = {
        "mixing": loss_inputs.float32({"intra": np.array([math.log(3), 0.0]), "text": np.zeros(2)})
    }
    active = losses.mixing_weights(weights, config)
    names = ["weight/intra/VV", "weight/intra/TT", "weight/text/TT", "weight/text/VT"]
    assert list(active) == names
    reference.assert_close(list(active.values()), [0.75, 0.25, 0.5, 0.5])
    static = losses.mixing_weights(weights, loss_inputs.loss_config(weights="static"))
    reference.assert_close(static["weight/intra/VV"], 0.5)


INVALID = {
    "unknown relation": ({"relation": "angle"}, "relation is 'angle'.*'similarity'"),
    "unknown divergence": ({"divergence": "hellinger"}, "'hellinger'.*'kl', 'jeffrey', 'js'"),
    "distance divergence of distributions": ({"divergence": "l2"}, "'l2'.*'kl', 'jeffrey', 'js'"),
    "distribution divergence of distances": (
        {"relation": "euclidean"},
        "'jeffrey'.*'l2', 'smooth_l1'",
    ),
    "temperature of distances": (
        loss_inputs.SMOOTH | {"learn_student_temperature": True},
        "learn_student_temperature",
    ),
    "unknown weights": ({"weights": "fixed"}, "weights is 'fixed'.*'dynamic', 'static'"),
    "unknown mix": ({"mix": "both"}, "mix is 'both'.*'divergences', 'targets'"),
    "unknown form": ({"form": "fused"}, "form is 'fused'.*'plain', 'blockwise', 'auto'"),
    "unknown dtype": ({"dtype": "float16"}, "dtype is 'float16'.*'float32', 'bfloat16'"),
    "empty block": ({"block": 0}, "loss.block is 0; expected a number of columns >= 1"),
    "unknown weights of terms": (
        {"term_weights": "learned"},
        "term_weights is 'learned'.*'dynamic', 'static'",
    ),
    "floor without weights": ({"term_weight_floor": 1.0}, "term_weight_floor is 1.0; .* < 1"),
    "weights of one term": (
        {"term_weights": "dynamic", "lambda_intra": 0.0, "lambda_text": 0.0},
        "term_weights is 'dynamic', but 1 distillation terms",
    ),
    "negative warm-up": ({"lambda_warmup": -0.1}, "lambda_warmup is -0.1"),
    "schedules that overlap": (
        {"lambda_warmup": 0.6, "lambda_anneal": 0.5},
        "lambda_warmup is 0.6 and lambda_anneal is 0.5; .* at most 1",
    ),
    "negative lambda": ({"lambda_image": -1.0}, "lambda_image is -1.0"),
    "negative weight": ({"text_weight": -0.5}, "text_weight is -0.5"),
    "negative regulariser": ({"entropy_weight": -0.1}, "entropy_weight is -0.1"),
    "zero temperature": ({"teacher_temperature": 0.0}, "teacher_temperature is 0.0"),
    "temperatures of other targets": (
        {"teacher_temperatures": {"intra": (0.1,), "image": (), "text": ()}},
        r"teacher_temperatures.intra is \(0.1,\).*'VV', 'TT'",
    ),
    "negative temperature of a target": (
        {"teacher_temperatures": {"intra": (), "image": (0.1, -0.1), "text": ()}},
        "teacher_temperatures.image",
    ),
    "one neighbour": ({"neighbours_across": 1.0}, "neighbours_across is 1.0.*more than 1"),
    "neighbours of distances": (
        loss_inputs.SMOOTH | {"neighbours_within": 8.0},
        "neighbours_within is 8.0, but relations of family 'euclidean'",
    ),
    "neighbours and temperatures": (
        loss_inputs.TEMPERATURES | {"neighbours_within": 8.0},
        "teacher_temperatures.intra.*set one of them",
    ),
    "learnt and following": (
        {"learn_student_temperature": True, "student_temperature_follows": "contrastive"},
        "learn_student_temperature is True, but.*'contrastive'",
    ),
    "several teachers": (
        {"student_temperature_follows": "teacher", "mix": "targets"},
        "'targets' a relation has several teachers",
    ),
    "unknown temperature to follow": (
        {"student_temperature_follows": "image"},
        "student_temperature_follows is 'image'",
    ),
    "no active term": (
        dict.fromkeys(
            ("image_weight", "text_weight", "lambda_intra", "lambda_image", "lambda_text"), 0.0
        ),
        "no active term.*lambda_intra",
    ),
    "student as a target": (
        {"candidates": {"intra": ("PP",), "image": ("VV",), "text": ("TT",)}},
        r"candidates.intra is \('PP',\).*'VV', 'TT', 'VT', 'TV'",
    ),
    "no candidate": (
        {"candidates": {"intra": ("VV",), "image": (), "text": ("TT",)}},
        r"candidates.image is \(\)",
    ),
    "the same candidate twice": (
        {"candidates": {"intra": ("VV",), "image": ("VV",), "text": ("TT", "TT")}},
        "candidates.text.*at most once",
    ),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_options_raise_with_the_allowed_values(name):
    overrides, message = INVALID[name]
    config = loss_inputs.loss_config(**overrides)
    with pytest.raises(ValueError, match=message):
        losses.init_loss_params(config)
    with pytest.raises(ValueError, match=message):
        losses.mrd_loss(
            loss_inputs.float32(loss_inputs.embeddings_of()),
            loss_inputs.weights_of(loss_inputs.loss_config()),
            config,
        )


@pytest.mark.parametrize("form, few, many", [
    ("plain", False, False), ("blockwise", True, True), ("auto", False, True),
])  # fmt: skip
def test_auto_is_blockwise_from_four_million_matrix_entries(form, few, many):
    config = loss_inputs.loss_config(form=form)
    is_blockwise = losses.options.is_blockwise
    assert is_blockwise(config, local_batch=255, global_batch=2**14) == few
    assert is_blockwise(config, local_batch=256, global_batch=2**14) == many


def test_weights_of_another_candidate_list_raise():
    config = loss_inputs.loss_config(**loss_inputs.VARIANTS["three candidates"])
    with pytest.raises(ValueError, match=r"'intra'.*\(2,\).*needs \(3,\)"):
        losses.mrd_loss(
            loss_inputs.float32(loss_inputs.embeddings_of()),
            loss_inputs.float32(loss_inputs.weights_of(loss_inputs.loss_config())),
            config,
        )


def test_modalities_of_different_shape_raise():
    embeddings = loss_inputs.float32(loss_inputs.embeddings_of())
    embeddings["text"] = embeddings["text"][:, :3]
    with pytest.raises(ValueError, match=r"'text'.*\(6, 3\).*\(6, 4\)"):
        losses.mrd_loss(
            embeddings,
            loss_inputs.float32(loss_inputs.weights_of(loss_inputs.loss_config())),
            loss_inputs.loss_config(),
        )
