# SPDX-License-Identifier: Apache-2.0
"""Schedule, clipping and decay mask, each against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from mrd_jax import models, optimizer, state


def optimizer_config(**fields):
    config = base.get_config().optimizer
    config.update(fields)
    return config


def test_the_learning_rate_warms_up_and_decays_by_a_cosine():
    config = optimizer_config(learning_rate=1.0, warmup_steps=10, final_learning_rate=0.1)
    schedule = optimizer.learning_rate_schedule(config, total_steps=110)
    assert float(schedule(0)) == 0
    assert float(schedule(5)) == pytest.approx(0.5)
    assert float(schedule(10)) == pytest.approx(1.0)
    assert float(schedule(60)) == pytest.approx(0.55)  # halfway: mean of peak and end
    assert float(schedule(110)) == pytest.approx(0.1)


def test_no_warm_up_starts_at_the_peak():
    config = optimizer_config(learning_rate=1.0, warmup_steps=0)
    assert float(optimizer.learning_rate_schedule(config, total_steps=5)(0)) == 1.0


def test_a_warm_up_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match="warmup_steps is 10.*total_steps .10"):
        optimizer.learning_rate_schedule(optimizer_config(warmup_steps=10), total_steps=10)


def gradient_step(config, params, gradients):
    chain = optimizer.build_optimizer(config, total_steps=10)
    return chain.update(gradients, chain.init(params), params)[0]


def test_the_first_adamw_step_is_lr_times_sign_plus_decay():
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
        _, after = chain.update(gradients, chain.init(params), params)
        # Adam's first moment holds (1 - b1) times the clipped gradient.
        moments = [s for s in jax.tree.leaves(after, is_leaf=lambda x: hasattr(x, "mu"))
                   if hasattr(s, "mu")]  # fmt: skip
        seen.append(float(moments[0].mu["student"]["b"][0]) / (1 - config.b1))
    assert seen == pytest.approx([4.0, 40.0], rel=1e-5)


def test_only_matrices_of_the_student_decay():
    config = base.get_config()
    model = models.build_model(config.model)
    params = jax.eval_shape(
        lambda: state.create_state(
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
