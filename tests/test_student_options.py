# SPDX-License-Identifier: Apache-2.0
"""Options of the student change only what they should; devices share batch statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrd_jax import models
from mrd_jax.models import grouping, norm, point_bert


def tiny(**changes):
    fields = dict(
        name="point_bert", dim=16, depth=3, heads=2, mlp_dim=24, sa_dim=12, groups=8,
        radius=0.5, group_size=4, out_dim=10,
    )  # fmt: skip
    return models.build_model(fields | changes)


@functools.cache
def tiny_clouds(batch=8, points=48):
    rng = np.random.default_rng(0)
    xyz = rng.uniform(-0.6, 0.6, (batch, points, 3)).astype(np.float32)
    return xyz, rng.random((batch, points, 3), np.float32)


@functools.cache
def tiny_variables():
    variables = jax.jit(tiny().init)(jax.random.key(1), *tiny_clouds())
    # Scales of both signs and offsets off zero, so that no term of the norm is invisible.
    keys = iter(jax.random.split(jax.random.key(2), 100))
    variables["params"] = jax.tree.map(
        lambda leaf: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape), variables["params"]
    )
    layer = variables["params"]["tokenizer"]["layer_2"]
    layer["scale"] = layer["scale"] * jnp.where(jnp.arange(12) % 3 == 0, -1.0, 1.0)
    return variables


@functools.cache
def jitted_apply(**changes):
    return jax.jit(tiny(**changes).apply, static_argnames=("train", "mutable"))


def embed_tiny(xyz, rgb):
    return jitted_apply()(tiny_variables(), xyz, rgb)


@functools.cache
def tiny_weights():
    """Weights of the outputs that make a loss."""
    return np.random.default_rng(3).normal(size=(8, 10)).astype(np.float32)


@functools.cache
def value_and_gradient(**changes):
    """Output, running statistics and gradient of one training pass of the tiny model."""
    model, variables = tiny(**changes), tiny_variables()

    @jax.jit
    def run(params):
        def loss(params):
            output, state = model.apply(
                variables | {"params": params}, *tiny_clouds(), train=True, mutable=["batch_stats"]
            )
            return jnp.sum(output * tiny_weights()), (output, state)

        return jax.grad(loss, has_aux=True)(params)

    gradient, (output, state) = run(variables["params"])
    return output, state, gradient


def assert_trees_close(got, want, tolerance):
    def close(path, a, b):
        bound = tolerance * max(1.0, float(np.max(np.abs(b))))
        np.testing.assert_allclose(a, b, rtol=0, atol=bound, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(close, got, want)


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
        assert_trees_close(got, want, 1e-5)


def test_eight_devices_share_batch_statistics():
    model, variables = tiny(), tiny_variables()

    def share(params, xyz, rgb, weights):
        output, state = model.apply(
            variables | {"params": params}, xyz, rgb, train=True, axis_name="data",
            mutable=["batch_stats"],
        )  # fmt: skip
        return jnp.sum(output * weights), (output, state)

    def step(params, *batch):
        gradient, (output, state) = jax.grad(share, has_aux=True)(params, *batch)
        return output, state, jax.lax.psum(gradient, "data")

    spec = jax.sharding.PartitionSpec
    sharded = jax.shard_map(
        step,
        mesh=jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)),
        in_specs=(spec(), *[spec("data")] * 3),
        out_specs=(spec("data"), spec(), spec()),
        check_vma=False,
    )
    got = jax.jit(sharded)(variables["params"], *tiny_clouds(), tiny_weights())
    assert_trees_close(got, value_and_gradient(), 1e-5)


@pytest.mark.parametrize("changes", [{"remat": True}, {"scan": False}], ids=str)
def test_memory_and_loop_options_change_neither_value_nor_gradient(changes):
    assert_trees_close(value_and_gradient(**changes), value_and_gradient(), 1e-5)


def test_bfloat16_stays_close_and_returns_float32():
    want, _, _ = value_and_gradient()
    got, state, gradient = value_and_gradient(dtype="bfloat16")
    assert not np.array_equal(got, want)
    assert np.linalg.norm(got - want) < 0.03 * np.linalg.norm(want)
    assert {leaf.dtype for leaf in jax.tree.leaves((got, state, gradient))} == {np.dtype("float32")}


def test_an_embedding_does_not_depend_on_the_rest_of_the_batch():
    xyz, rgb = tiny_clouds()
    order = np.array([5, 2, 7, 2, 1, 0, 3, 3])
    np.testing.assert_allclose(
        embed_tiny(xyz[order], rgb[order]), embed_tiny(xyz, rgb)[order], rtol=1e-5, atol=1e-5
    )


def test_colour_and_position_reach_the_embedding():
    xyz, rgb = tiny_clouds()
    whole = embed_tiny(xyz, rgb)
    assert np.abs(embed_tiny(xyz, 1 - rgb) - whole).max() > 1e-2
    assert np.abs(embed_tiny(xyz + 0.1, rgb) - whole).max() > 1e-2


def test_dropped_groups_are_a_fixed_share_and_a_function_of_the_samples_own_key():
    index = jnp.arange(40).reshape(2, 20) * 3
    keys = jax.random.split(jax.random.key(6), 2)
    kept = np.asarray(point_bert.keep_groups(index, share=0.7, keys=keys))
    assert kept.shape == (2, 14)
    for row, source in zip(kept, np.asarray(index), strict=True):
        assert len(set(row)) == 14 and set(row) <= set(source)
    assert not np.array_equal(kept[0] - index[0, 0], kept[1] - index[1, 0])
    alone = point_bert.keep_groups(index[1:], share=0.7, keys=keys[1:])
    np.testing.assert_array_equal(alone[0], kept[1])


def test_every_group_is_dropped_equally_often():
    keys = jax.random.split(jax.random.key(7), 2000)
    index = jnp.broadcast_to(jnp.arange(8), (2000, 8))
    kept = point_bert.keep_groups(index, share=0.5, keys=keys)
    share = np.bincount(np.ravel(kept), minlength=8) / 2000
    np.testing.assert_allclose(share, 0.5, atol=0.05)  # 4.5 standard deviations


def test_patch_dropout_acts_in_training_only_and_saves_compute():
    options = dict(train=True, keys=jax.random.split(jax.random.key(8), 8), mutable="batch_stats")
    whole, dropped = (
        jitted_apply(**changes).lower(tiny_variables(), *tiny_clouds(), **options).compile()
        for changes in ({}, {"patch_dropout": 0.5})
    )
    assert dropped.cost_analysis()["flops"] < 0.65 * whole.cost_analysis()["flops"]
    embedding = jitted_apply(patch_dropout=0.5)(tiny_variables(), *tiny_clouds())
    np.testing.assert_array_equal(embedding, embed_tiny(*tiny_clouds()))


def test_patch_dropout_equals_the_model_that_sees_only_the_kept_groups(monkeypatch):
    keys = jax.random.split(jax.random.key(8), 8)
    options = dict(train=True, keys=keys, mutable="batch_stats")
    got = jitted_apply(patch_dropout=0.5)(tiny_variables(), *tiny_clouds(), **options)

    chosen = grouping.farthest_point_sample(tiny_clouds()[0], 8)
    kept = point_bert.keep_groups(chosen, share=0.5, keys=keys)
    monkeypatch.setattr(grouping, "farthest_point_sample", lambda xyz, count: kept)
    want = jitted_apply(groups=4)(tiny_variables(), *tiny_clouds(), **options)
    assert_trees_close(got, want, 1e-5)


def test_patch_dropout_without_keys_is_refused():
    with pytest.raises(ValueError, match="needs keys"):
        tiny(patch_dropout=0.5).apply(
            tiny_variables(), *tiny_clouds(), train=True, mutable=["batch_stats"]
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "pointnet"}, "model.name is 'pointnet'; choose from"),
        ({"widht": 3}, r"unknown fields \['widht'\]"),
        ({"dim": 0}, "model.dim is 0"),
        ({"heads": 3}, "dim 16 does not divide over 3 heads"),
        ({"radius": 0.0}, "model.radius is 0.0"),
        ({"patch_dropout": 1.0}, "model.patch_dropout is 1.0"),
        ({"dtype": "float16"}, "model.dtype is 'float16'"),
        ({"points": 4}, "model.groups 8 exceeds model.points 4"),
    ],
)
def test_a_bad_config_is_refused_by_field_and_value(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_a_missing_field_is_named():
    with pytest.raises(ValueError, match=r"lacks the fields \['depth', 'dim', "):
        models.build_model({"name": "point_bert"})
