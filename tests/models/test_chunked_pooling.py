# SPDX-License-Identifier: Apache-2.0
"""Chunked max-pooling equals the plain maximum in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import assert_trees_close

from mrd_jax.kernels import chunked_pooling


def layers(groups, params):
    x, common = groups
    hidden = jnp.tanh(chunked_pooling.product(x, params["first"]) + common[:, None])
    return chunked_pooling.product(hidden, params["second"])


def inputs(groups):
    rng = np.random.default_rng(0)
    x, common = rng.normal(size=(groups, 5, 3)), rng.normal(size=(groups, 4))
    params = {"first": rng.normal(size=(3, 4)), "second": rng.normal(size=(4, 6))}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), ((x, common), params))


@pytest.mark.parametrize(("groups", "points"), [(12, 4096), (12, 20), (13, 20), (12, 1), (1, 5)])
def test_values_and_gradients_equal_the_plain_maximum(monkeypatch, groups, points):
    monkeypatch.setattr(chunked_pooling, "CHUNK_POINTS", points)
    arrays, params = inputs(groups)
    weights = np.random.default_rng(1).normal(size=(groups, 6)).astype(np.float32)

    def chunked(arrays, params):
        return jnp.sum(weights * chunked_pooling.group_maximum(layers, arrays, params))

    def plain(arrays, params):
        return jnp.sum(weights * jnp.max(layers(arrays, params), axis=1))

    got = jax.jit(jax.value_and_grad(chunked, argnums=(0, 1)))(arrays, params)
    want = jax.value_and_grad(plain, argnums=(0, 1))(arrays, params)
    assert_trees_close(got, want, rtol=1e-6, atol=1e-6)


def test_first_of_equal_points_receives_the_gradient():
    groups = jnp.asarray([[[1.0], [3.0], [3.0], [2.0]]])
    to_groups = jax.grad(
        lambda x: chunked_pooling.group_maximum(chunked_pooling.product, x, jnp.ones((1, 1))).sum()
    )(groups)
    np.testing.assert_array_equal(to_groups[0, :, 0], [0, 1, 0, 0])


def test_repeated_points_do_not_change_the_gradient_of_the_parameters():
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(size=(4, 3, 2)), jnp.float32)
    repeated = jnp.concatenate([x, x[:, :1], x[:, :1]], axis=1)

    def total(kernel, x):
        return jnp.sum(chunked_pooling.group_maximum(chunked_pooling.product, x, kernel) ** 2)

    kernel = jnp.asarray(rng.normal(size=(2, 7)), jnp.float32)
    want = jax.grad(total)(kernel, x)
    np.testing.assert_allclose(jax.grad(total)(kernel, repeated), want, rtol=1e-6, atol=1e-6)


def test_widest_array_is_never_stored_whole(monkeypatch):
    monkeypatch.setattr(chunked_pooling, "CHUNK_POINTS", 64)
    x, kernel = jax.ShapeDtypeStruct((64, 16, 8), jnp.float32), jnp.ones((8, 256))

    def total(x):
        return jnp.sum(chunked_pooling.group_maximum(chunked_pooling.product, x, kernel) ** 2)

    compiled = jax.jit(jax.grad(total)).lower(x).compile()
    whole = 64 * 16 * 256 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < whole / 2


@pytest.mark.parametrize(("platform", "chunks"), [("cpu", "4x128"), ("tpu", "1x512")])
def test_chunks_are_larger_on_a_tpu(platform, chunks):
    groups = jax.ShapeDtypeStruct((512, 32, 3), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 4), jnp.float32)
    gradient = jax.grad(
        lambda *x: jnp.sum(chunked_pooling.group_maximum(chunked_pooling.product, *x))
    )
    lowered = jax.jit(gradient).trace(groups, kernel).lower(lowering_platforms=(platform,))
    assert f"tensor<{chunks}x32x3xf32>" in lowered.as_text()
