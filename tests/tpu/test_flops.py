# SPDX-License-Identifier: Apache-2.0
"""Operations of the matrix products by formula, against those of the traced student."""

import jax
import jax.numpy as jnp
import pytest
from tiny import tiny_config

from mrd_jax import losses, models
from mrd_jax.analysis import flops

POINT_BERT = dict(tiny_config().model) | {"patch_dropout": 0.0}
UNI3D = dict(
    name="uni3d", dim=32, depth=3, heads=2, mlp_dim=48, mlp="swiglu_norm", encoder_dim=40, groups=8,
    group_size=4, out_dim=24,
)  # fmt: skip


def traced(function, *shapes):
    return flops.count_program(jax.make_jaxpr(function)(*shapes))


def traced_per_cloud(model):
    """Difference of two batch sizes: products of weights with weights do not depend on it."""

    def of_batch(batch):
        shape = jax.ShapeDtypeStruct((batch, 64, 3), jnp.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), shape, shape)
        return traced(model.apply, variables, shape, shape)

    return of_batch(3) - of_batch(2)


@pytest.mark.parametrize(
    "fields", [POINT_BERT, UNI3D, UNI3D | {"mlp": "gelu"}], ids=["point_bert", "gated", "gelu"]
)
def test_formula_equals_the_traced_program(fields):
    model = models.build_model(fields)
    wanted = flops.count_student(model, points=64, train=False)
    wanted.pop("first")
    assert sum(wanted.values()) == traced_per_cloud(model)


def test_point_bert_by_hand():
    model = models.build_model(POINT_BERT)
    assert flops.count_student(model, points=64) == {
        # 8 groups of 8 points through 9, 64, 64, 16.
        "tokenizer": 2 * 64 * (9 * 64 + 64 * 64 + 64 * 16),
        # 9 tokens of width 64; the second block has one query.
        "transformer": 2 * (9 * 64 * 192 + 2 * 9 * 9 * 64 + 9 * 64 * 64 + 2 * 9 * 64 * 96)
        + 2 * (64 * 64 + 9 * 64 * 128 + 2 * 9 * 64 + 64 * 64 + 2 * 64 * 96),
        "maps": 2 * (8 * 19 * 64 + 64 * 24),
        "first": 2 * 64 * 9 * 64,
    }


def test_dropped_groups_are_not_counted():
    half = models.build_model(UNI3D | {"patch_dropout": 0.5})
    whole = models.build_model(UNI3D | {"groups": 4})
    assert flops.count_student(half, points=64) == flops.count_student(whole, points=64)
    assert flops.count_student(half, points=64, train=False) != flops.count_student(half, points=64)


def test_step_is_three_forward_passes_without_gradients_of_coordinates():
    config = tiny_config(model__patch_dropout=0.0)
    model = models.build_model(config.model)
    forward = flops.count_student(model, points=64)
    step = flops.count_step(model, config, local_batch=2, chips=4)
    assert step["transformer"] == 2 * 3 * forward["transformer"]
    assert step["tokenizer"] == 2 * (3 * forward["tokenizer"] - forward["first"])
    # Forward: PV PT PP VV TT VT. Backward: PV and PT once, PP twice.
    assert step["losses"] == 10 * (2 * 2 * 24 * 8)


def test_disabled_terms_are_not_counted():
    loss = tiny_config(loss__lambda_intra=0.0, loss__lambda_text=0.0, loss__text_weight=0.0).loss
    # PV forward and backward, VV and TV forward.
    assert flops.count_losses(loss, local_batch=2, dim=24, chips=4) == 4 * (2 * 2 * 24 * 8)


def test_loops_count_every_iteration_and_conditionals_the_most_expensive_branch():
    x = jax.ShapeDtypeStruct((4, 4), jnp.float32)

    def looped(x):
        return jax.lax.scan(lambda carry, _: (carry @ x, None), x, length=7)[0]

    def conditional(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x, x)

    assert traced(looped, x) == 7 * 2 * 4**3
    assert traced(conditional, x) == 2 * 2 * 4**3


def test_batch_dimensions_multiply_the_operations():
    left = jax.ShapeDtypeStruct((5, 2, 3), jnp.float32)
    right = jax.ShapeDtypeStruct((5, 3, 4), jnp.float32)
    assert traced(jnp.matmul, left, right) == 5 * 2 * 2 * 3 * 4


def test_plain_losses_need_more_than_the_lower_bound():
    config = tiny_config()
    rows = jax.ShapeDtypeStruct((8, 24), jnp.float32)
    has = jax.ShapeDtypeStruct((8,), bool)
    batch = dict(points=rows, image=rows, text=rows, has_image=has, has_text=has, log_scale=0.0)
    weights = losses.init_loss_params(config.loss)

    def gradient(points, batch):
        return jax.grad(
            lambda points: losses.mrd_loss(batch | {"points": points}, weights, config.loss)[0]
        )(points)

    lower_bound = flops.count_losses(config.loss, local_batch=8, dim=24, chips=1)
    assert lower_bound < traced(gradient, rows, batch) < 4 * lower_bound
