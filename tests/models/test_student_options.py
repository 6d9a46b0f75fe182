# SPDX-License-Identifier: Apache-2.0
"""Options of the encoders change only what they should; devices share batch statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import assert_trees_close

from mrd_jax import models
from mrd_jax.models import grouping, transformer

pytestmark = pytest.mark.usefixtures("fast_compile")

STUDENTS = {
    "point_bert": dict(
        dim=16, depth=3, heads=2, mlp_dim=24, sa_dim=12, groups=8, radius=0.5, group_size=4,
        out_dim=10,
    ),
    "uni3d": dict(
        dim=16, depth=3, heads=2, mlp_dim=24, mlp="swiglu_norm", encoder_dim=12, groups=8,
        group_size=4, out_dim=10,
    ),
}  # fmt: skip
both = pytest.mark.parametrize("name", STUDENTS)


def tiny(name="point_bert", **changes):
    return models.build_model({"name": name, **STUDENTS[name]} | changes)


@functools.cache
def tiny_clouds(batch=8, points=48):
    rng = np.random.default_rng(0)
    xyz = rng.uniform(-0.6, 0.6, (batch, points, 3)).astype(np.float32)
    return xyz, rng.random((batch, points, 3), np.float32)


@functools.cache
def tiny_variables(name="point_bert"):
    variables = jax.jit(tiny(name).init)(jax.random.key(1), *tiny_clouds())
    # Scales of both signs and offsets away from zero, so that every term of the norm matters.
    keys = iter(jax.random.split(jax.random.key(2), 100))
    variables["params"] = jax.tree.map(
        lambda leaf: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape), variables["params"]
    )
    layer = variables["params"]["tokenizer"][{"point_bert": "layer_2", "uni3d": "layer_1"}[name]]
    columns = jnp.arange(layer["scale"].shape[0])
    layer["scale"] = layer["scale"] * jnp.where(columns % 3 == 0, -1.0, 1.0)
    return variables


@functools.cache
def jitted_apply(name="point_bert", **changes):
    return jax.jit(tiny(name, **changes).apply, static_argnames=("train", "mutable"))


def embed_tiny(name, xyz, rgb):
    return jitted_apply(name)(tiny_variables(name), xyz, rgb)


@functools.cache
def tiny_weights():
    """Draws weights of the outputs, whose weighted sum is the loss."""
    return np.random.default_rng(3).normal(size=(8, 10)).astype(np.float32)


def sample_keys(seed=8):
    return jax.random.split(jax.random.key(seed), 8)


@functools.cache
def value_and_gradient(name="point_bert", **changes):
    """Returns output, running statistics and gradient of one training step of the tiny model."""
    model, variables = tiny(name, **changes), tiny_variables(name)

    @jax.jit
    def run(params):
        def loss(params):
            output, state = model.apply(
                variables | {"params": params}, *tiny_clouds(), train=True, keys=sample_keys(),
                mutable=["batch_stats"],
            )  # fmt: skip
            return jnp.sum(output * tiny_weights()), (output, state)

        return jax.grad(loss, has_aux=True)(params)

    gradient, (output, state) = run(variables["params"])
    return output, state, gradient


@both
def test_eight_devices_share_batch_statistics(name):
    model, variables = tiny(name), tiny_variables(name)

    def contribution(params, xyz, rgb, weights):
        output, state = model.apply(
            variables | {"params": params}, xyz, rgb, train=True, axis_name="data",
            mutable=["batch_stats"],
        )  # fmt: skip
        return jnp.sum(output * weights), (output, state)

    def step(params, *batch):
        gradient, (output, state) = jax.grad(contribution, has_aux=True)(params, *batch)
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
    assert_trees_close(got, value_and_gradient(name), rtol=1e-5, atol=1e-5)


@both
@pytest.mark.parametrize("changes", [{"remat": True}, {"scan": False}, {"micro_batch": 2}], ids=str)
def test_memory_and_loop_options_change_neither_value_nor_gradient(name, changes):
    got, want = value_and_gradient(name, **changes), value_and_gradient(name)
    assert_trees_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["point_bert", pytest.param("uni3d", marks=pytest.mark.slow)])
def test_relation_head_is_a_second_projection_of_the_same_features(name):
    one, extra = tiny_variables(name), tiny_variables(name)["params"]["projection"]
    extra = jax.tree.map(lambda leaf: 1 - 2 * leaf[..., ::-1], extra)
    params = one["params"]
    two = one | {"params": params | {"relation_projection": extra}}
    options = {"relation_head": "linear"}
    shapes = jax.eval_shape(tiny(name, **options).init, jax.random.key(0), *tiny_clouds())
    assert jax.tree.map(jnp.shape, two) == jax.tree.map(jnp.shape, shapes)
    found = jax.jit(tiny(name, **options).clone(all_heads=True).apply)(two, *tiny_clouds())
    swapped = one | {"params": params | {"projection": extra}}
    wanted = [jitted_apply(name)(variables, *tiny_clouds()) for variables in (one, swapped)]
    np.testing.assert_allclose(found, np.stack(wanted, axis=1), rtol=1e-5, atol=1e-5)
    assert np.abs(wanted[0] - wanted[1]).max() > 0.1


@pytest.mark.slow
@both
def test_heads_do_not_depend_on_micro_batches_and_the_first_is_the_default(name):
    params = tiny_variables(name)["params"]
    extra = jax.tree.map(lambda leaf: 1 - 2 * leaf[..., ::-1], params["projection"])
    two = tiny_variables(name) | {"params": params | {"relation_projection": extra}}

    def embed(all_heads, **options):
        model = tiny(name, relation_head="linear", **options).clone(all_heads=all_heads)
        options = {"train": True, "mutable": ["batch_stats"], "keys": sample_keys()}
        return jax.jit(lambda *clouds: model.apply(two, *clouds, **options)[0])(*tiny_clouds())

    found, wanted, first = embed(True, micro_batch=2), embed(True), embed(False)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(first, wanted[:, 0], rtol=1e-6, atol=1e-6)


@both
def test_bfloat16_stays_close_and_returns_float32(name):
    want, _, _ = value_and_gradient(name)
    got, state, gradient = value_and_gradient(name, dtype="bfloat16")
    assert not np.array_equal(got, want)
    assert np.linalg.norm(got - want) < 0.03 * np.linalg.norm(want)
    assert {leaf.dtype for leaf in jax.tree.leaves((got, state, gradient))} == {np.dtype("float32")}


@both
def test_embedding_does_not_depend_on_the_rest_of_the_batch(name):
    xyz, rgb = tiny_clouds()
    order = np.array([5, 2, 7, 2, 1, 0, 3, 3])
    np.testing.assert_allclose(
        embed_tiny(name, xyz[order], rgb[order]),
        embed_tiny(name, xyz, rgb)[order],
        rtol=1e-5,
        atol=1e-5,
    )


@both
def test_colour_and_position_reach_the_embedding(name):
    xyz, rgb = tiny_clouds()
    whole = embed_tiny(name, xyz, rgb)
    assert np.abs(embed_tiny(name, xyz, 1 - rgb) - whole).max() > 1e-2
    assert np.abs(embed_tiny(name, xyz + 0.1, rgb) - whole).max() > 1e-2


def test_dropped_groups_are_a_fixed_fraction_and_depend_on_the_samples_own_key_only():
    index = jnp.arange(40).reshape(2, 20) * 3
    keys = jax.random.split(jax.random.key(6), 2)
    kept = np.asarray(grouping.random_subset(index, 14, keys=keys))
    assert kept.shape == (2, 14)
    for row, source in zip(kept, np.asarray(index), strict=True):
        assert len(set(row)) == 14 and set(row) <= set(source)
    assert not np.array_equal(kept[0] - index[0, 0], kept[1] - index[1, 0])
    alone = grouping.random_subset(index[1:], 14, keys=keys[1:])
    np.testing.assert_array_equal(alone[0], kept[1])


def test_every_group_is_dropped_equally_often():
    keys = jax.random.split(jax.random.key(7), 2000)
    index = jnp.broadcast_to(jnp.arange(8), (2000, 8))
    kept = grouping.random_subset(index, 4, keys=keys)
    fraction = np.bincount(np.ravel(kept), minlength=8) / 2000
    np.testing.assert_allclose(fraction, 0.5, atol=0.05)  # 4.5 standard deviations


@both
@pytest.mark.parametrize("choice", grouping.CENTRE_CHOICES)
def test_patch_dropout_acts_in_training_only_and_saves_compute(name, choice):
    options = dict(train=True, keys=sample_keys(), mutable="batch_stats")
    whole, dropped = (
        jitted_apply(name, **changes)
        .lower(tiny_variables(name), *tiny_clouds(), **options)
        .compile()
        # Large groups, so that the cost per group dominates.
        for changes in (
            {"group_size": 32},
            {"group_size": 32, "patch_dropout": 0.5, "patch_choice": choice},
        )
    )
    assert dropped.cost_analysis()["flops"] < 0.65 * whole.cost_analysis()["flops"]
    dropping = jitted_apply(name, patch_dropout=0.5, patch_choice=choice)
    embedding = dropping(tiny_variables(name), *tiny_clouds())
    np.testing.assert_array_equal(embedding, embed_tiny(name, *tiny_clouds()))


@both
def test_fewer_groups_equal_a_model_with_fewer_groups(name):
    options = dict(train=True, mutable="batch_stats")
    dropping = jitted_apply(name, patch_dropout=0.5, patch_choice="fewer")
    got = dropping(tiny_variables(name), *tiny_clouds(), **options)
    want = jitted_apply(name, groups=4)(tiny_variables(name), *tiny_clouds(), **options)
    assert_trees_close(got, want, rtol=1e-6, atol=1e-6)


@both
def test_random_groups_are_a_subset_and_dropped_groups_have_no_effect(name, monkeypatch):
    options = dict(train=True, keys=sample_keys(), mutable="batch_stats")
    dropping = jitted_apply(name, patch_dropout=0.5, patch_choice="random")
    got = dropping(tiny_variables(name), *tiny_clouds(), **options)

    skip = 1e-3 if name == "uni3d" else None
    chosen = grouping.farthest_point_sample(tiny_clouds()[0], 8, skip_squared_norm=skip)
    kept = grouping.random_subset(chosen, 4, keys=sample_keys())
    monkeypatch.setattr(grouping, "farthest_point_sample", lambda xyz, count, **_: kept)
    small = jitted_apply(name, groups=4, remat=True)  # another entry of the cache
    want = small(tiny_variables(name), *tiny_clouds(), **options)
    assert_trees_close(got, want, rtol=1e-5, atol=1e-5)


@both
def test_random_choices_without_keys_raise(name):
    for changes in ({"patch_dropout": 0.5, "patch_choice": "random"}, {"drop_path": 0.1}):
        if name == "point_bert" and "drop_path" in changes:
            continue
        with pytest.raises(ValueError, match="needs keys"):
            tiny(name, **changes).apply(
                tiny_variables(name), *tiny_clouds(), train=True, mutable=["batch_stats"]
            )


def test_drop_path_acts_in_training_only_and_depends_on_the_samples_own_key():
    variables, clouds = tiny_variables("uni3d"), tiny_clouds()
    apply = jitted_apply("uni3d", drop_path=0.9)
    np.testing.assert_array_equal(apply(variables, *clouds), embed_tiny("uni3d", *clouds))
    embed = functools.partial(apply, variables, *clouds, train=True, mutable="batch_stats")
    got = embed(keys=sample_keys())[0]
    changed = sample_keys().at[3].set(jax.random.key(99))
    other = embed(keys=changed)[0]
    assert np.abs(got - value_and_gradient("uni3d")[0]).max() > 1e-2
    assert np.abs(got[3] - other[3]).max() > 1e-2
    keep = np.arange(8) != 3
    np.testing.assert_allclose(got[keep], other[keep], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("changes", [{"remat": True}, {"scan": False}, {"micro_batch": 4}], ids=str)
def test_drop_path_is_the_same_under_memory_and_loop_options(changes):
    got = value_and_gradient("uni3d", drop_path=0.5, **changes)
    assert_trees_close(got, value_and_gradient("uni3d", drop_path=0.5), rtol=1e-5, atol=1e-5)


def test_drop_path_keeps_the_mean_of_a_branch():
    branch = jnp.ones((4000 * 2, 3))
    keys = jax.random.split(jax.random.key(0), 4000)
    got = transformer.drop_path(branch, rate=jnp.float32(0.3), keys=keys).reshape(4000, 6)
    assert set(np.unique(got)) == {0, np.float32(1 / np.float32(0.7))}
    assert np.all(got == got[:, :1])  # the same for all tokens of a sample
    np.testing.assert_allclose(np.mean(got), 1, atol=0.05)  # 4.8 standard deviations


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "pointnet"}, "model.name is 'pointnet'; expected one of"),
        ({"name": ["point_bert"]}, r"model.name is \['point_bert'\]; expected one of"),
        ({"dim": True}, "model.dim is True; expected an integer"),
        ({"radius": "0.2"}, "model.radius is '0.2'; expected a float"),
        ({"patch_dropout": None}, "model.patch_dropout is None; expected a float"),
        ({"remat": 1}, "model.remat is 1; expected a bool"),
        ({"patch_choice": 3}, "model.patch_choice is 3; expected a str"),
        ({"widht": 3}, "model.widht is not a field of point_bert; it has"),
        ({"dim": 0}, "model.dim is 0"),
        ({"heads": 3}, "model.dim is 16; expected a multiple of config.model.heads, 3"),
        ({"radius": 0.0}, "model.radius is 0.0"),
        ({"patch_dropout": 1.0}, "model.patch_dropout is 1.0"),
        ({"dtype": "float16"}, "model.dtype is 'float16'"),
        ({"patch_choice": "best"}, "model.patch_choice is 'best'"),
        ({"name": "uni3d", "mlp": "relu"}, "model.mlp is 'relu'"),
        ({"name": "uni3d", "drop_path": -0.1}, "model.drop_path is -0.1"),
        ({"name": "uni3d", "radius": 0.2}, "model.radius is not a field of uni3d; it has"),
        ({"micro_batch": -1}, "model.micro_batch is -1; expected an integer, at least 0"),
        ({"points": 4}, "model.groups is 8; expected at most config.model.points, 4"),
    ],
)
def test_invalid_config_raises_with_field_and_value(changes, message):
    student = STUDENTS["uni3d" if changes.get("name") == "uni3d" else "point_bert"]
    with pytest.raises(ValueError, match=message):
        models.build_model({"name": "point_bert", **student} | changes)


def test_missing_fields_are_listed():
    with pytest.raises(ValueError, match="model.depth is missing(.|\n)*model.dim is missing"):
        models.build_model({"name": "point_bert"})
