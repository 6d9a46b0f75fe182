# SPDX-License-Identifier: Apache-2.0
"""FSDP: a sharded train state trains and is restored like a replicated one."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import assert_trees_close, assert_trees_equal, tiny_config

from mrd_jax import models
from mrd_jax.analysis import ahead
from mrd_jax.checkpoints import manager
from mrd_jax.data import batch_spec
from mrd_jax.distributed import backends, fsdp
from mrd_jax.encoder import embedding
from mrd_jax.training import initial_state, optimizer, step
from mrd_jax.training import run as run_lib

pytestmark = pytest.mark.usefixtures("fast_compile")

# Every part of the optimizer is active: clipping, layer decay, weight decay, moving average, the
# bound of the scale. Most losses and augmentations are off: they take longest to compile.
CONFIG = tiny_config(
    spmd="shard_map", optimizer__clip_norm=0.5, optimizer__layer_decay=0.5,
    optimizer__warmup_steps=1, optimizer__learning_rate=0.01, loss__log_scale_max=2.0,
    loss__lambda_intra=0.0, loss__lambda_image=0.0, loss__lambda_text=0.0,
    loss__learn_student_temperature=False, augment__dropout_max=0.0, augment__rotate_sigma=0.0,
    augment__rotate_z=0.0, augment__color_drop=0.0, augment__shift=0.0,
)  # fmt: skip
WIDTH = 16
dense = functools.partial(nn.Dense, bias_init=nn.initializers.normal(0.5))


class Blocks(nn.Module):
    """Four linear maps, stacked like the blocks of a transformer."""

    @nn.compact
    def __call__(self, x):
        kernels = self.param("kernel", nn.initializers.lecun_normal(), (4, WIDTH, WIDTH))
        for kernel in kernels:
            x = x + jnp.tanh(x @ kernel)
        return x


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return dense(WIDTH, name="last_block")(Blocks(name="blocks")(x))


class SmallStudent(nn.Module):
    """Student that compiles fast and has parameters of every kind; sees the extent of a cloud.

    A matrix of 12 rows and 20 columns can be sharded over two and four devices, not over eight.
    """

    @nn.compact
    def __call__(self, xyz, rgb, train=False, axis_name=None, keys=None):
        x = jnp.concatenate([xyz, rgb], axis=-1)
        x = jnp.concatenate([x.min(axis=1), x.max(axis=1)], axis=-1)
        x = jnp.tanh(dense(20, name="odd")(x))
        x = Transformer(name="transformer")(dense(WIDTH, name="lift")(x))
        mean = jnp.mean(x, axis=0)
        mean = mean if axis_name is None else jax.lax.pmean(mean, axis_name)
        running = self.variable("batch_stats", "mean", jnp.zeros, (WIDTH,))
        if train and not self.is_initializing():
            running.value = 0.9 * running.value + 0.1 * mean
        return dense(24, name="projection")(x * (1 + (mean if train else running.value)))


MODEL = SmallStudent()
OPTIMIZER = optimizer.build_optimizer(CONFIG.optimizer, total_steps=CONFIG.total_steps)
BODY = functools.partial(step.train_step, model=MODEL, optimizer=OPTIMIZER, config=CONFIG)
BATCHES = [batch_spec.fake_batch(CONFIG, seed=seed) for seed in range(5)]
create = functools.partial(initial_state.create_state, CONFIG, model=MODEL, optimizer=OPTIMIZER)


def make_backend(devices, *, spmd="shard_map", shard_state=True):
    return backends.make_backend(spmd, shard_state=shard_state, devices=jax.devices()[:devices])


def shapes(backend):
    """Returns the shapes and shardings of a state to restore."""
    state = jax.eval_shape(create)
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        state,
        backend.state_shardings(state),
    )


def train(backend, *, steps=5):
    """Returns the state after some steps, and the metrics of each step."""
    state = create(shardings=backend.state_shardings)
    train_step = backend.train(functools.partial(BODY, axis_name=backends.AXIS))
    history = []
    for batch in BATCHES[:steps]:
        state, metrics = train_step(state, backend.place_batch(batch))
        history.append(metrics)
    return state, history


@pytest.fixture(scope="module")
def reference():
    """State and metrics of five steps on one device, without a mesh axis."""
    state, train_step, history = create(), jax.jit(BODY), []
    for batch in BATCHES:
        state, metrics = train_step(state, batch)
        history.append(metrics)
    assert float(state.params["loss"]["log_scale"]) <= 2.0  # from 2.66
    assert all(metrics["grad_norm"] > 2 * CONFIG.optimizer.clip_norm for metrics in history)
    return jax.device_get((state, history))


@pytest.fixture(scope="module")
def on_eight():
    """State and metrics of five steps with FSDP on eight devices."""
    return train(make_backend(8))


@pytest.mark.parametrize("devices", [
    pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow),
])  # fmt: skip
def test_five_steps_with_fsdp_match_one_device(reference, devices):
    assert_trees_close(train(make_backend(devices)), reference, rtol=1e-5, atol=1e-7)


def test_five_steps_with_fsdp_on_eight_devices_match_one_device(reference, on_eight):
    assert_trees_close(on_eight, reference, rtol=1e-5, atol=1e-7)


def test_gradients_are_summed_once_over_devices_and_counted_once_in_the_norm():
    """Every gradient of device i of eight is i + 1: the sums are 36, in 2 x 16 + 3 elements."""
    params = {"sharded": jnp.zeros((2, 16)), "replicated": jnp.zeros(3)}
    sharding = fsdp.FullySharded(params, 8, backends.AXIS)

    def body(params):
        gradients = jax.tree.map(lambda x: x + 1.0 + jax.lax.axis_index(backends.AXIS), params)
        shards = sharding.reduce_gradients(gradients)
        assert jax.tree.map(jnp.shape, shards) == {"sharded": (2, 2), "replicated": (3,)}
        return sharding.gather_params(shards), sharding.global_norm(shards)

    mesh = jax.make_mesh((8,), (backends.AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec()
    run = jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    sums, norm = jax.jit(run)(params)
    assert_trees_equal(sums, jax.tree.map(lambda x: x + 36.0, params))
    assert float(norm) == pytest.approx(36 * 35**0.5)


def test_parameters_optimizer_state_and_moving_average_are_sharded_if_they_divide(on_eight):
    state, _ = on_eight
    for leaf in (
        state.params["student"]["transformer"]["blocks"]["kernel"],
        state.ema["transformer"]["blocks"]["kernel"],
        state.opt_state[1][0].nu["student"]["transformer"]["blocks"]["kernel"],
    ):
        assert leaf.shape == (4, 16, 16)
        assert {shard.data.shape for shard in leaf.addressable_shards} == {(4, 2, 16)}
    replicated = (state.params["student"]["odd"]["kernel"], state.batch_stats["mean"], state.step)
    assert all(leaf.sharding.is_fully_replicated for leaf in replicated)


@pytest.mark.parametrize(
    ("shape", "count", "axis"),
    [
        ((), 8, None),
        ((16,), 8, 0),
        ((12,), 8, None),
        ((16, 24), 8, 1),
        ((16, 20), 8, None),  # the leading axis may stack layers
        ((39, 1408, 6144), 16, 1),
        ((39, 1404, 6144), 16, 2),
    ],
)
def test_the_first_axis_after_the_leading_one_that_divides_is_sharded(shape, count, axis):
    assert fsdp.shard_axis(shape, count=count) == axis


def test_almost_all_of_the_largest_student_is_sharded_over_16_devices():
    fields = models.RELEASED["uni3d-g"] | {"out_dim": 1280}
    clouds = jax.ShapeDtypeStruct((1, 1024, 3), jnp.float32)
    shapes = jax.eval_shape(models.build_model(fields).init, jax.random.key(0), clouds, clouds)
    leaves = jax.tree.leaves(shapes["params"])
    replicated = [leaf.size for leaf in leaves if fsdp.shard_axis(leaf.shape, count=16) is None]
    assert sum(replicated) < 1e-4 * sum(leaf.size for leaf in leaves)


@pytest.mark.parametrize(
    "target",
    [
        make_backend(2),
        make_backend(4, shard_state=False),
        make_backend(1, spmd="pmap", shard_state=False),
    ],
    ids=["two devices", "replicated on four", "pmap on one"],
)
def test_a_sharded_checkpoint_restores_onto_any_number_of_devices_and_back(
    on_eight, tmp_path, target
):
    saved, _ = on_eight
    folders = (tmp_path / "first", tmp_path / "second")
    first, second = (
        manager.CheckpointManager(str(folder), config=CONFIG, fingerprint="") for folder in folders
    )
    first.save(saved, step=5)
    restored = first.restore(shapes(target))
    assert_trees_equal(restored, saved)
    assert jax.tree.map(lambda x: x.sharding, restored) == target.state_shardings(restored)
    second.save(restored, step=5)
    resharded = second.restore(shapes(make_backend(8)))
    assert_trees_equal(resharded, saved)
    assert jax.tree.map(lambda x: x.sharding, resharded) == make_backend(8).state_shardings(saved)
    first.close()
    second.close()


def test_placing_a_state_shards_it_and_copies_it(reference):
    backend = make_backend(8)
    state = create(shardings=backend.state_shardings)
    kernel = np.asarray(state.params["student"]["lift"]["kernel"])
    on_host = state.replace(ema=jax.device_get(state.ema))  # as from config.initial_weights
    placed = backend.place_state(on_host)
    assert jax.tree.map(lambda x: x.sharding, placed) == backend.state_shardings(placed)
    jax.tree.map(lambda x: x.delete(), placed)
    np.testing.assert_array_equal(state.params["student"]["lift"]["kernel"], kernel)


def test_a_sharded_student_embeds_like_a_replicated_one(on_eight, reference):
    body = functools.partial(embedding.embed_step, model=MODEL, config=CONFIG)
    backend, (state, _) = make_backend(8), on_eight
    found = backend.embed(body)(state.variables(), backend.place_batch(BATCHES[0]))
    wanted = jax.jit(body)(reference[0].variables(), BATCHES[0])
    np.testing.assert_allclose(backend.gather(found), wanted, atol=1e-5)


def test_transformer_blocks_are_gathered_one_at_a_time():
    """The kernels of single blocks are all-gathered, and no array that stacks blocks is."""
    config = tiny_config(spmd="shard_map", shard_state=True, model__depth=4)
    run = run_lib.build_run(config, devices=jax.devices()[:8])
    text = ahead.trace(run).lower().as_text()
    gathered = re.findall(r"all_gather.*-> tensor<([\dx]+)xf32>", text)
    width, hidden = config.model.dim, config.model.mlp_dim
    assert f"{width}x{hidden}" in gathered
    assert not [shape for shape in gathered if shape.startswith("3x")]


def test_pmap_does_not_support_fsdp():
    with pytest.raises(ValueError, match="shard_state is True.*spmd is 'pmap'.*'shard_map'"):
        make_backend(8, spmd="pmap")
