# SPDX-License-Identifier: Apache-2.0
"""Folded layers equal plain ones in value, gradient and running statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import assert_trees_close

from mrd_jax.models import norm, tokenizer


def plain_normed_dense(x, params, mean, var):
    product = x @ params["kernel"] + params["bias"]
    normed = (product - mean) / jnp.sqrt(var + 1e-5) * params["scale"] + params["shift"]
    return jnp.maximum(normed, 0)


@pytest.mark.parametrize("pool", [None, 4])
def test_folded_norm_equals_batch_norm_in_value_gradient_and_statistics(pool):
    rng = np.random.default_rng(4)
    x = jnp.asarray(rng.normal(0.5, 1.0, (48, 5)).astype(np.float32))
    layer = norm.NormedDense(6, pool=pool)
    shapes = {"kernel": (5, 6), "bias": (6,), "scale": (6,), "shift": (6,)}
    params = {k: jnp.asarray(rng.normal(size=s).astype(np.float32)) for k, s in shapes.items()}
    running = {"mean": jnp.full(6, 0.2), "var": jnp.full(6, 0.7)}

    def folded(params, x, train):
        variables = {"params": params, "batch_stats": running}
        output, state = layer.apply(variables, x, train=train, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(output)), (output, state["batch_stats"])

    def plain(params, x, train):
        product = x @ params["kernel"] + params["bias"]
        stats = (jnp.mean(product, 0), jnp.var(product, 0)) if train else running.values()
        output = plain_normed_dense(x, params, *stats)
        output = output if pool is None else jnp.max(output.reshape(-1, pool, 6), 1)
        new = {
            "mean": 0.9 * 0.2 + 0.1 * jnp.mean(product, 0),
            "var": 0.9 * 0.7 + 0.1 * jnp.var(product, 0, ddof=1),
        }
        return jnp.sum(jnp.sin(output)), (output, new if train else running)

    for train in (True, False):
        got = jax.grad(folded, argnums=(0, 1), has_aux=True)(params, x, train)
        want = jax.grad(plain, argnums=(0, 1), has_aux=True)(params, x, train)
        assert_trees_close(got, want, rtol=1e-5, atol=1e-5)


def plain_mini_point_net(params, stats, groups, train):
    """Computes Uni3D's two shared MLPs as published: maximum, concatenation, batch norm."""
    new = {}

    def normed(name, x, weights):
        product = x @ weights["kernel"] + weights["bias"]
        own, running = params[name], stats[name]
        mean, var = (
            (product.mean(0), product.var(0)) if train else (running["mean"], running["var"])
        )
        new[name] = {
            "mean": 0.9 * running["mean"] + 0.1 * product.mean(0),
            "var": 0.9 * running["var"] + 0.1 * jnp.var(product, 0, ddof=1),
        }
        scaled = (product - mean) / jnp.sqrt(var + 1e-5) * own["scale"] + own["shift"]
        return jnp.maximum(scaled, 0)

    batch, count, size, channels = groups.shape
    x = normed("layer_0", groups.reshape(-1, channels), params["layer_0"])
    x = x @ params["local"]["kernel"] + params["local"]["bias"]
    maximum = jnp.repeat(x.reshape(-1, size, 256).max(axis=1), size, axis=0)
    x = normed("layer_1", jnp.concatenate([maximum, x], axis=-1), params["joined"])
    x = x @ params["output"]["kernel"] + params["output"]["bias"]
    return x.reshape(batch, count, size, -1).max(axis=2), (new if train else stats)


@pytest.mark.parametrize("train", [True, False])
def test_mini_point_net_equals_the_published_order_of_operations(train):
    rng = np.random.default_rng(5)
    groups = jnp.asarray(rng.normal(0.2, 0.5, (3, 6, 7, 6)).astype(np.float32))
    weights = rng.normal(size=(3, 6, 5)).astype(np.float32)
    layer = tokenizer.MiniPointNet(5)
    variables = layer.init(jax.random.key(0), groups, False)
    noise = iter(rng.normal(size=(20, 512)).astype(np.float32))
    variables = jax.tree.map(lambda leaf: leaf + 0.2 * next(noise)[: leaf.shape[-1]], variables)
    variables["batch_stats"]["layer_1"]["var"] = jnp.abs(variables["batch_stats"]["layer_1"]["var"])
    params, stats = variables["params"], variables["batch_stats"]

    def folded(params, groups):
        tokens, state = layer.apply(
            {"params": params, "batch_stats": stats}, groups, train, mutable=["batch_stats"]
        )
        return jnp.sum(tokens * weights), (tokens, state["batch_stats"])

    def plain(params, groups):
        tokens, new = plain_mini_point_net(params, stats, groups, train)
        return jnp.sum(tokens * weights), (tokens, new)

    got = jax.jit(jax.grad(folded, argnums=(0, 1), has_aux=True))(params, groups)
    want = jax.jit(jax.grad(plain, argnums=(0, 1), has_aux=True))(params, groups)
    # In training, a term that is the same for every point has no gradient: only rounding errors.
    assert_trees_close(got, want, rtol=1e-4, atol=1e-4)
    assert_trees_close(got[1], want[1], rtol=1e-5, atol=1e-5)


def test_relu_has_the_gradient_of_the_library_and_keeps_only_its_result():
    x = jnp.asarray([-2.0, -0.0, 0.0, 3.0], jnp.bfloat16)
    weights = jnp.asarray([1.0, 2.0, 4.0, 8.0], jnp.bfloat16)

    def gradient(function):
        return jax.grad(lambda x: (function(x) * weights).sum())(x)

    np.testing.assert_array_equal(norm.relu(x), jax.nn.relu(x))
    np.testing.assert_array_equal(gradient(norm.relu), gradient(jax.nn.relu))
    _, vjp = jax.vjp(norm.relu, x)
    (kept,) = jax.tree.leaves(vjp)
    np.testing.assert_array_equal(kept, jax.nn.relu(x))
