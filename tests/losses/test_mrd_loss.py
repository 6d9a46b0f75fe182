# SPDX-License-Identifier: Apache-2.0
"""The objective on one device: every option, in value and gradient."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import loss_inputs
import numpy as np
import pytest
import reference_losses as reference

from mrd_jax import losses


def numeric_gradients(config, embeddings, **options):
    """Computes central differences of the slow objective, as a tree like `evaluate`'s gradients."""
    names = {"points", "relation_points", "log_scale"} & embeddings.keys()
    learnt = {name: np.float64(embeddings[name]) for name in names}
    leaves, tree = jax.tree.flatten(learnt | {"weights": loss_inputs.weights_of(config)})

    def total(leaf, position):
        learnt = tree.unflatten(leaves[:position] + [leaf] + leaves[position + 1 :])
        weights = learnt.pop("weights")
        return reference.mrd_loss(embeddings | learnt, weights, config, **options)["total"]

    return tree.unflatten(
        reference.numeric_gradient(functools.partial(total, position=position), leaf)
        for position, leaf in enumerate(leaves)
    )


def assert_equals_the_loops(config, embeddings, **options):
    parts, gradients = loss_inputs.evaluate(config, embeddings, **options)
    expected = reference.mrd_loss(embeddings, loss_inputs.weights_of(config), config, **options)
    assert parts.keys() == expected.keys()
    for part, value in parts.items():
        assert value.shape == () and value.dtype == jnp.float32, part
        reference.assert_close(value, expected[part])
    numeric = numeric_gradients(config, embeddings, **options)
    jax.tree.map(reference.assert_close, gradients, numeric)
    return expected, numeric


@pytest.mark.parametrize("name", loss_inputs.VARIANTS)
def test_every_part_and_gradient_equals_the_loops(name):
    config = loss_inputs.loss_config(**loss_inputs.VARIANTS[name])
    assert_equals_the_loops(config, loss_inputs.embeddings_of())


def test_relation_head_enters_the_distillation_terms_and_them_only():
    embeddings = loss_inputs.embeddings_of(relation_head=True)
    two, gradients = assert_equals_the_loops(loss_inputs.loss_config(), embeddings)
    assert min(np.abs(gradients[name]).max() for name in ("points", "relation_points")) > 1e-2
    one = embeddings | {"relation_points": embeddings["points"]}
    one = reference.mrd_loss(
        one, loss_inputs.weights_of(loss_inputs.loss_config()), loss_inputs.loss_config()
    )
    assert one["contrastive"] == two["contrastive"]
    assert min(abs(one[term] - two[term]) for term in losses.options.TERMS) > 1e-2


def test_factor_of_the_lambdas_scales_the_distillation_terms_only():
    config, embeddings = loss_inputs.loss_config(), loss_inputs.embeddings_of()
    half, _ = assert_equals_the_loops(config, embeddings, lambda_factor=0.5)
    whole = loss_inputs.evaluate(config, embeddings)[0]
    distilled = whole["total"] - whole["contrastive"] - whole["entropy"]
    reference.assert_close(whole["total"] - half["total"], distilled / 2)
    reference.assert_close(half["entropy"], whole["entropy"])
    # A traced factor, as in the step, has the effect of a number.
    traced, _ = loss_inputs.evaluate(config, embeddings, lambda_factor=jnp.float32(0.5))
    reference.assert_close(traced["total"], half["total"])


def test_no_two_variants_have_the_same_value():
    embeddings = loss_inputs.embeddings_of()
    values = {
        name: reference.mrd_loss(embeddings, loss_inputs.weights_of(config), config)["total"]
        for name, config in (
            (name, loss_inputs.loss_config(**loss_inputs.VARIANTS[name]))
            for name in loss_inputs.VARIANTS
        )
    }
    for (left, first), (right, second) in itertools.combinations(values.items(), 2):
        assert abs(first - second) > 1e-3, (left, right)


def test_term_with_lambda_zero_is_not_computed():
    config = loss_inputs.loss_config(lambda_text=0.0, image_weight=0.0)
    parts, gradients = loss_inputs.evaluate(config, loss_inputs.embeddings_of())
    assert {"intra/VV", "image/TV", "accuracy_text"} < parts.keys()
    assert not {"text/TT", "text/VT", "accuracy_image"} & parts.keys()
    assert set(losses.PARTS) < parts.keys()
    assert float(parts["text"]) == 0.0 == float(parts["contrastive_image"])
    np.testing.assert_array_equal(gradients["weights"]["mixing"]["text"], 0)


def test_static_weights_receive_no_gradient_and_dynamic_ones_do():
    for weights, learns in (("static", False), ("dynamic", True)):
        _, gradients = loss_inputs.evaluate(
            loss_inputs.loss_config(weights=weights), loss_inputs.embeddings_of()
        )
        for leaf in gradients["weights"]["mixing"].values():
            assert bool(np.any(np.abs(leaf) > 1e-4)) == learns


def test_the_regulariser_pulls_towards_equal_weights():
    # At a = (log 3, 0): w = (3/4, 1/4), whose entropy is below that of equal weights, log 2.
    config = loss_inputs.loss_config(lambda_image=0.0, lambda_text=0.0, entropy_weight=2.0)
    weights = loss_inputs.float32({"mixing": {"intra": np.array([math.log(3), 0.0])}})
    embeddings = loss_inputs.float32(loss_inputs.embeddings_of())
    parts = losses.mrd_loss(embeddings, weights, config)[1]
    expected = 2 * (math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    reference.assert_close(parts["entropy"], expected)
    gradient = jax.grad(lambda w: losses.mrd_loss(embeddings, w, config)[1]["entropy"])(weights)
    assert gradient["mixing"]["intra"][0] > 0.1 > -0.1 > gradient["mixing"]["intra"][1]


def test_embeddings_may_have_any_length():
    config, embeddings = loss_inputs.loss_config(), loss_inputs.embeddings_of()
    scaled = embeddings | {"points": 7 * embeddings["points"], "image": embeddings["image"] / 50}
    reference.assert_close(
        loss_inputs.evaluate(config, scaled)[0]["total"],
        loss_inputs.evaluate(config, embeddings)[0]["total"],
    )


def test_teacher_features_receive_no_gradient():
    config = loss_inputs.loss_config()
    embeddings = loss_inputs.float32(loss_inputs.embeddings_of())
    weights = loss_inputs.float32(loss_inputs.weights_of(config))

    def value(image, text):
        return losses.mrd_loss(embeddings | {"image": image, "text": text}, weights, config)[0]

    for gradient in jax.grad(value, (0, 1))(embeddings["image"], embeddings["text"]):
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_features_of_a_missing_modality_have_no_effect(modality):
    config, embeddings = loss_inputs.loss_config(), loss_inputs.embeddings_of()
    garbage = np.where(embeddings[f"has_{modality}"][:, None], embeddings[modality], np.nan)
    clean, dirty = (
        loss_inputs.evaluate(config, embeddings | {modality: value})
        for value in (embeddings[modality], garbage)
    )
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)


@pytest.mark.parametrize("texts", [0, 1])
@pytest.mark.parametrize(
    "overrides",
    [{}, {"mix": "targets"}, loss_inputs.SMOOTH, loss_inputs.SMOOTH | {"mix": "targets"}],
)
def test_a_batch_with_too_few_texts_has_no_text_terms_and_finite_gradients(texts, overrides):
    config = loss_inputs.loss_config(**overrides)
    embeddings = loss_inputs.embeddings_of() | {
        "has_text": np.arange(6) < texts,
        "has_image": np.ones(6, bool),
    }
    with jax.debug_nans(True):
        parts, gradients = loss_inputs.evaluate(config, embeddings)
    assert float(parts["text"]) == 0.0 == float(parts["contrastive_text"])
    assert float(parts["contrastive_image"]) > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert np.abs(gradients["points"]).max() > 0


@pytest.mark.parametrize("relation, divergence", [("euclidean", "l2"), ("similarity", "jeffrey")])
def test_duplicate_samples_have_finite_gradients(relation, divergence):
    config = loss_inputs.loss_config(
        relation=relation, divergence=divergence, exclude_self_intra=False
    )
    embeddings = loss_inputs.embeddings_of()
    for name in ("points", "image", "text"):
        embeddings[name][1:3] = embeddings[name][0]
    parts, gradients = loss_inputs.evaluate(config, embeddings)
    assert np.isfinite(parts["total"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("overrides", [{}, loss_inputs.SMOOTH | {"mix": "targets"}])
def test_every_product_has_float32_precision(overrides):
    # By default, accelerators multiply float32 in bfloat16 or TF32; results on a CPU do not differ.
    config = loss_inputs.loss_config(**overrides)
    embeddings = loss_inputs.float32(loss_inputs.embeddings_of())
    learnt = {name: embeddings[name] for name in ("points", "log_scale")}
    learnt["weights"] = loss_inputs.float32(loss_inputs.weights_of(config))
    run = jax.value_and_grad(functools.partial(loss_inputs.objective, config=config), has_aux=True)
    text = str(jax.make_jaxpr(run)(learnt, embeddings))
    highest = "precision=(Precision.HIGHEST, Precision.HIGHEST)"
    assert text.count("dot_general[") == text.count(highest) > 10


def test_scale_at_its_limit_receives_the_full_gradient():
    config, embeddings = loss_inputs.loss_config(log_scale_max=2.0), loss_inputs.embeddings_of()
    at_limit = loss_inputs.evaluate(config, embeddings)
    free = loss_inputs.evaluate(loss_inputs.loss_config(), embeddings)
    above = loss_inputs.evaluate(config, embeddings | {"log_scale": 2.5})
    jax.tree.map(np.testing.assert_array_equal, at_limit, free)
    assert float(above[0]["total"]) == float(at_limit[0]["total"])
    assert float(above[1]["log_scale"]) == 0.0
