# SPDX-License-Identifier: Apache-2.0
"""Micro-batches give statistics, values and gradient of the whole batch, in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import assert_trees_close, tiny_config

from mrd_jax import models
from mrd_jax.models import microbatch, tokenizer


def column_statistics(rows, *, axis_name):
    mean = microbatch.average(rows, axis_name)
    return microbatch.Statistics(
        mean, microbatch.average((rows - mean) ** 2, axis_name), 8 if axis_name else len(rows)
    )


def whole_statistics(x, weights):
    rows = np.tanh(3 * x)
    return np.sum(weights[0] * rows.mean(0) + weights[1] * rows.var(0))


def micro_statistics(x, weights, *, axis_name=None):
    rows = microbatch.apply(lambda x: jnp.tanh(3 * x), microbatch.split(x, limit=2))
    statistics = microbatch.statistics(column_statistics, rows, axis_name=axis_name)
    assert statistics.count == 8
    return jnp.sum(weights[0] * statistics.mean + weights[1] * statistics.var)


@pytest.fixture(scope="module")
def rows():
    """Draws eight rows whose micro-batches differ in their means, and weights of a loss."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 3)) * 0.1 + np.repeat([[-1.0], [0.1], [0.3], [1.0]], 2, axis=0)
    return x.astype(np.float32), rng.normal(size=(2, 3)).astype(np.float32)


def test_statistics_cover_all_rows(rows):
    np.testing.assert_allclose(micro_statistics(*rows), whole_statistics(*rows), rtol=1e-5)


def test_gradient_of_statistics_reaches_every_row(rows):
    """The reference is central differences in double precision."""
    x, weights = (part.astype(np.float64) for part in rows)
    want = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = 1e-6
        difference = whole_statistics(x + step, weights) - whole_statistics(x - step, weights)
        want[index] = difference / 2e-6
    assert_trees_close(jax.grad(micro_statistics)(*rows), want, rtol=1e-5)


def test_statistics_cover_all_devices(rows):
    spec = jax.sharding.PartitionSpec
    sharded = jax.shard_map(
        lambda x, weights: micro_statistics(x, weights, axis_name="data"),
        mesh=jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)),
        in_specs=(spec("data"), spec()),
        out_specs=spec(),
        check_vma=False,
    )
    np.testing.assert_allclose(jax.jit(sharded)(*rows), whole_statistics(*rows), rtol=1e-5)


@pytest.mark.parametrize(("batch", "limit", "size"), [(12, 5, 4), (7, 3, 1), (6, 9, 6)])
def test_micro_batches_have_equal_size_and_keep_the_order(batch, limit, size):
    split = microbatch.split(jnp.arange(batch), limit=limit)
    assert split.shape == (size,)
    np.testing.assert_array_equal(split.source.ravel(), np.arange(batch))


def test_precomputed_results_are_computed_once_and_stay_with_their_samples():
    split = microbatch.split(jnp.arange(6.0), limit=2)
    pairs = microbatch.with_precomputed(lambda x: x**2, split)
    np.testing.assert_array_equal(pairs.source[1], [[0, 1], [4, 9], [16, 25]])
    x, squared = pairs.function((split.source[1], pairs.source[1][1]))
    np.testing.assert_array_equal(x**2, squared)


@pytest.mark.slow
def test_memory_depends_on_the_micro_batch():
    """The gradient of 256 samples takes less memory than one tokenizer layer of all of them."""
    model = models.build_model(tiny_config(model__micro_batch=4).model)
    clouds = jax.ShapeDtypeStruct((256, 64, 3), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 256))
    variables = jax.eval_shape(model.init, jax.random.key(0), clouds, clouds)

    def loss(params, stats, clouds, keys):
        embeddings, _ = model.apply(
            {"params": params, "batch_stats": stats}, clouds, clouds, train=True, keys=keys,
            mutable=["batch_stats"],
        )  # fmt: skip
        return jnp.sum(embeddings**2)

    arguments = variables["params"], variables["batch_stats"], clouds, keys
    compiled = jax.jit(jax.grad(loss)).lower(*arguments).compile()
    points_of_groups = 256 * 6 * model.group_size
    layer = points_of_groups * tokenizer.HIDDEN[0] * 4
    assert compiled.memory_analysis().temp_size_in_bytes < layer
