# SPDX-License-Identifier: Apache-2.0
"""The model's matrix products by formula equal those that the traced student asks for."""

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


def asked(function, *shapes):
    return flops.of_program(jax.make_jaxpr(function)(*shapes))


def asked_per_cloud(model):
    """The difference of two batches: products of kernels with kernels do not count."""

    def of_batch(batch):
        shape = jax.ShapeDtypeStruct((batch, 64, 3), jnp.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), shape, shape)
        return asked(model.apply, variables, shape, shape)

    return of_batch(3) - of_batch(2)


@pytest.mark.parametrize(
    "fields", [POINT_BERT, UNI3D, UNI3D | {"mlp": "gelu"}], ids=["point_bert", "gated", "gelu"]
)
def test_the_formula_equals_the_program(fields):
    model = models.build_model(fields)
    wanted = flops.student(model, points=64, train=False)
    wanted.pop("first")
    assert sum(wanted.values()) == asked_per_cloud(model)


def test_point_bert_in_numbers():
    model = models.build_model(POINT_BERT)
    assert flops.student(model, points=64) == {
        # 8 groups of 8 points through 9, 64, 64, 16.
        "tokenizer": 2 * 64 * (9 * 64 + 64 * 64 + 64 * 16),
        # 9 tokens of width 64; the second block has one query.
        "transformer": 2 * (9 * 64 * 192 + 2 * 9 * 9 * 64 + 9 * 64 * 64 + 2 * 9 * 64 * 96)
        + 2 * (64 * 64 + 9 * 64 * 128 + 2 * 9 * 64 + 64 * 64 + 2 * 64 * 96),
        "maps": 2 * (8 * 19 * 64 + 64 * 24),
        "first": 2 * 64 * 9 * 64,
    }


def test_dropped_groups_are_not_computed():
    half = models.build_model(UNI3D | {"patch_dropout": 0.5})
    whole = models.build_model(UNI3D | {"groups": 4})
    assert flops.student(half, points=64) == flops.student(whole, points=64)
    assert flops.student(half, points=64, train=False) != flops.student(half, points=64)


def test_a_step_takes_three_times_the_forward_pass_less_gradients_of_coordinates():
    config = tiny_config(model__patch_dropout=0.0)
    model = models.build_model(config.model)
    forward = flops.student(model, points=64)
    found = flops.step(model, config, local_batch=2, chips=4)
    assert found["transformer"] == 2 * 3 * forward["transformer"]
    assert found["tokenizer"] == 2 * (3 * forward["tokenizer"] - forward["first"])
    # Forward: PV PT PP VV TT VT. Back: PV and PT once, PP twice.
    assert found["losses"] == 10 * (2 * 2 * 24 * 8)


def test_terms_that_are_off_need_no_products():
    loss = tiny_config(loss__lambda_intra=0.0, loss__lambda_text=0.0, loss__text_weight=0.0).loss
    # PV forward and back, VV and TV forward.
    assert flops.losses(loss, local_batch=2, dim=24, chips=4) == 4 * (2 * 2 * 24 * 8)


def test_loops_count_their_rounds_and_choices_their_costliest_branch():
    x = jax.ShapeDtypeStruct((4, 4), jnp.float32)

    def looped(x):
        return jax.lax.scan(lambda carry, _: (carry @ x, None), x, length=7)[0]

    def chosen(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x, x)

    assert asked(looped, x) == 7 * 2 * 4**3
    assert asked(chosen, x) == 2 * 2 * 4**3


def test_a_product_with_batch_dimensions_counts_each():
    left = jax.ShapeDtypeStruct((5, 2, 3), jnp.float32)
    right = jax.ShapeDtypeStruct((5, 3, 4), jnp.float32)
    assert asked(jnp.matmul, left, right) == 5 * 2 * 2 * 3 * 4


def test_the_plain_losses_ask_for_more_than_the_floor():
    config = tiny_config()
    rows = jax.ShapeDtypeStruct((8, 24), jnp.float32)
    has = jax.ShapeDtypeStruct((8,), bool)
    batch = dict(points=rows, image=rows, text=rows, has_image=has, has_text=has, log_scale=0.0)
    weights = losses.init_loss_params(config.loss)

    def gradient(points, batch):
        return jax.grad(
            lambda points: losses.mrd_loss(batch | {"points": points}, weights, config.loss)[0]
        )(points)

    floor = flops.losses(config.loss, local_batch=8, dim=24, chips=1)
    assert floor < asked(gradient, rows, batch) < 4 * floor
