# SPDX-License-Identifier: Apache-2.0
"""Schedules, clipping, decay mask and layer decay, compared with values computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import base, mrd_uni3d
from mrd_jax import models
from mrd_jax.training import initial_state, optimizer


def optimizer_config(**fields):
    config = base.get_config().optimizer
    config.update(fields)
    return config


def test_learning_rate_warms_up_and_decays_by_a_cosine():
    config = optimizer_config(learning_rate=1.0, warmup_steps=10, final_learning_rate=0.1)
    schedule = optimizer.learning_rate_schedule(config, total_steps=110)
    assert float(schedule(0)) == 0
    assert float(schedule(5)) == pytest.approx(0.5)
    assert float(schedule(10)) == pytest.approx(1.0)
    assert float(schedule(60)) == pytest.approx(0.55)  # halfway: mean of peak and end
    assert float(schedule(110)) == pytest.approx(0.1)


def test_learning_rate_without_warm_up_starts_at_the_peak():
    config = optimizer_config(learning_rate=1.0, warmup_steps=0)
    assert float(optimizer.learning_rate_schedule(config, total_steps=5)(0)) == 1.0


def gradient_step(config, params, gradients):
    chain = optimizer.build_optimizer(config, total_steps=10)
    return chain.update(gradients, chain.init(params), params)[0]


def test_first_adamw_step_is_lr_times_sign_plus_decay():
    config = optimizer_config(learning_rate=0.1, warmup_steps=0, weight_decay=0.25, clip_norm=0.0)
    params = {"student": {"dense": {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.ones(2)}}}
    gradients = jax.tree.map(lambda p: jnp.full_like(p, -3.0), params)
    updates = gradient_step(config, params, gradients)["student"]["dense"]
    np.testing.assert_allclose(updates["kernel"], 0.1 * (1 - 0.25 * 2.0), rtol=1e-5)
    np.testing.assert_allclose(updates["bias"], 0.1, rtol=1e-5)


def test_clipping_bounds_the_global_norm():
    params = {"student": {"a": jnp.zeros(1), "b": jnp.zeros(1)}}
    gradients = {"student": {"a": jnp.array([30.0]), "b": jnp.array([40.0])}}
    seen = []
    for clip in (5.0, 0.0):
        config = optimizer_config(warmup_steps=0, clip_norm=clip)
        chain = optimizer.build_optimizer(config, total_steps=10)
        _, after = chain.update(gradients, chain.init(params), params, grad_norm=50.0)
        # Adam's first moment holds (1 - b1) times the clipped gradient.
        moments = [s for s in jax.tree.leaves(after, is_leaf=lambda x: hasattr(x, "mu"))
                   if hasattr(s, "mu")]  # fmt: skip
        seen.append(float(moments[0].mu["student"]["b"][0]) / (1 - config.b1))
    assert seen == pytest.approx([4.0, 40.0], rel=1e-5)


def test_weight_decay_applies_to_matrices_of_the_student_only():
    config = base.get_config()
    model = models.build_model(config.model)
    params = jax.eval_shape(
        lambda: initial_state.create_state(
            config, model=model, optimizer=optimizer.build_optimizer(
                config.optimizer, total_steps=config.total_steps)
        )
    ).params  # fmt: skip
    mask = optimizer.decay_mask(params)
    assert not any(jax.tree.leaves(mask["loss"]))
    names = {True: set(), False: set()}
    for path, decayed in jax.tree_util.tree_leaves_with_path(mask["student"]):
        names[decayed].add(path[-1].key)
    assert names[True] == {"kernel", "qkv"}
    assert names[False] == {"bias", "scale", "shift", "cls_token"}


@pytest.mark.parametrize("warmup_steps", [0, 4])
def test_step_schedule_multiplies_the_learning_rate_at_fixed_intervals(warmup_steps):
    config = optimizer_config(
        schedule="steps", learning_rate=0.5, decay_rate=0.9, decay_every=3,
        warmup_steps=warmup_steps,
    )  # fmt: skip
    schedule = optimizer.learning_rate_schedule(config, total_steps=20)
    for step in range(20):
        wanted = 0.5 * 0.9 ** (step // 3) * (min(step / 4, 1) if warmup_steps else 1)
        assert float(schedule(step)) == pytest.approx(wanted, rel=1e-6), step


def student_params(rng, *, depth):
    """Returns parameters of `depth` blocks with one kernel and one bias, and those around them."""
    layer = {"kernel": (3, 3), "bias": (3,)}
    shapes = {
        "lift": layer,
        "transformer": {
            "blocks": {name: (depth - 1, *shape) for name, shape in layer.items()},
            "last_block": layer,
        },
    }
    draw = {"student": shapes, "loss": {"log_scale": ()}}
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        draw,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def numpy_adamw(gradients, value, *, config, rate, decay):
    """Computes AdamW (Loshchilov and Hutter 2019, algorithm 2) with a constant learning rate."""
    value = np.asarray(value, np.float64)
    first, second = np.zeros_like(value), np.zeros_like(value)
    for step, gradient in enumerate(gradients, start=1):
        gradient = np.asarray(gradient, np.float64)
        first = config.b1 * first + (1 - config.b1) * gradient
        second = config.b2 * second + (1 - config.b2) * gradient**2
        direction = first / (1 - config.b1**step)
        direction /= np.sqrt(second / (1 - config.b2**step)) + 1e-8
        value = value - rate * (direction + decay * value)
    return value


def test_layer_decay_scales_the_learning_rate_of_each_block():
    """Three steps agree with AdamW in NumPy, block by block, each with its own learning rate."""
    depth, decay, peak = 4, 0.5, 0.01
    config = optimizer_config(
        schedule="steps", learning_rate=peak, warmup_steps=0, clip_norm=0.0, weight_decay=0.1,
        layer_decay=decay,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    params = student_params(rng, depth=depth)
    gradients = [student_params(rng, depth=depth) for _ in range(3)]
    chain = optimizer.build_optimizer(config, total_steps=10)
    found, memory = params, chain.init(params)
    for gradient in gradients:
        updates, memory = chain.update(gradient, memory, found)
        found = optax.apply_updates(found, updates)

    def check(pick, *, rate, weight_decay):
        wanted = numpy_adamw(
            [pick(gradient) for gradient in gradients], pick(params),
            config=config, rate=rate, decay=weight_decay,
        )  # fmt: skip
        np.testing.assert_allclose(pick(found), wanted, rtol=0, atol=2e-6)

    for name, weight_decay in (("kernel", 0.1), ("bias", 0.0)):
        options = {"weight_decay": weight_decay}
        check(lambda p, n=name: p["student"]["lift"][n], rate=peak, **options)
        for i in range(depth - 1):
            check(
                lambda p, n=name, i=i: p["student"]["transformer"]["blocks"][n][i],
                rate=peak * decay ** (depth - i),
                **options,
            )
        check(
            lambda p, n=name: p["student"]["transformer"]["last_block"][n],
            rate=peak * decay,
            **options,
        )
    check(lambda p: p["loss"]["log_scale"], rate=peak, weight_decay=0.0)


def test_every_block_of_a_uni3d_has_its_scale():
    config = mrd_uni3d.get_config()
    model = models.build_model(config.model)
    chain = optimizer.build_optimizer(config.optimizer, total_steps=config.total_steps)
    params = jax.eval_shape(
        lambda: initial_state.create_state(config, model=model, optimizer=chain)
    ).params  # fmt: skip
    scales = optimizer.layer_scales(params, 0.95)
    for scale in jax.tree.leaves(scales["student"]["transformer"]["blocks"]):
        np.testing.assert_allclose(scale.ravel(), 0.95 ** np.arange(12, 1, -1), rtol=1e-6)
    assert set(jax.tree.leaves(scales["student"]["transformer"]["last_block"])) == {0.95}
    assert set(jax.tree.leaves(scales["student"]["lift"])) == {1.0}


def test_chain_has_no_layer_decay_by_default():
    params = student_params(np.random.default_rng(0), depth=2)
    plain, scaled = (
        optimizer.build_optimizer(optimizer_config(warmup_steps=0, layer_decay=d), total_steps=9)
        for d in (1.0, 0.9)
    )
    assert len(scaled.init(params)) == len(plain.init(params)) + 1
