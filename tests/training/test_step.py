# SPDX-License-Identifier: Apache-2.0
"""The step computes the same on any number of devices, under either backend."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import assert_trees_close, tiny_config

from mrd_jax import models
from mrd_jax.data import batch_spec
from mrd_jax.distributed import backends, fsdp
from mrd_jax.encoder import embedding
from mrd_jax.training import initial_state, step

pytestmark = pytest.mark.usefixtures("fast_compile")

CONFIG = tiny_config()
MODEL = models.build_model(CONFIG.model)
# Plain SGD whose state is the gradient, so that the result of a step holds both.
SGD = optax.GradientTransformation(
    init=lambda params: jax.tree.map(jnp.zeros_like, params),
    update=lambda gradients, _, params=None: (
        jax.tree.map(lambda g: -0.1 * g, gradients),
        gradients,
    ),
)
BODY = functools.partial(step.train_step, model=MODEL, optimizer=SGD, config=CONFIG)

# Float32 sums in another order; the injected error below is 5 orders of magnitude larger.
RTOL = 1e-5


@pytest.fixture(scope="module")
def start():
    return jax.device_get(initial_state.create_state(CONFIG, model=MODEL, optimizer=SGD))


@pytest.fixture(scope="module")
def batch():
    return batch_spec.fake_batch(CONFIG, seed=1)


one_device = jax.jit(functools.partial(BODY, axis_name=None))


@pytest.fixture(scope="module")
def reference(start, batch):
    """State and metrics of one step on one device, without a mesh axis."""
    return jax.device_get(one_device(start, batch))


def run(start, batch, *, spmd, devices, body=BODY, shard_state=False):
    backend = backends.make_backend(
        spmd,
        shard_state=shard_state,
        devices=jax.devices()[:devices],
    )
    compiled = backend.train(functools.partial(body, axis_name=backends.AXIS))
    return compiled(backend.place_state(start), backend.place_batch(batch))


@pytest.mark.parametrize("devices, spmd", [
    (1, "pmap"),
    pytest.param(1, "shard_map", marks=pytest.mark.slow),
    pytest.param(2, "pmap", marks=pytest.mark.slow),
    (2, "shard_map"),
    pytest.param(4, "pmap", marks=pytest.mark.slow),
    pytest.param(4, "shard_map", marks=pytest.mark.slow),
    (8, "pmap"),
    (8, "shard_map"),
])  # fmt: skip
def test_loss_parts_gradients_and_an_sgd_step_do_not_depend_on_devices(
    start, batch, reference, spmd, devices
):
    found = run(start, batch, spmd=spmd, devices=devices)
    assert_trees_close(found, reference, rtol=RTOL, atol=1e-7)


@pytest.mark.parametrize("spmd", [
    None, pytest.param("pmap", marks=pytest.mark.slow), "shard_map",
])  # fmt: skip
def test_micro_batches_do_not_change_loss_gradients_and_statistics(start, batch, reference, spmd):
    """Under shard_map, with FSDP; see also `test_sharded_state`."""
    model = models.build_model(tiny_config(model__micro_batch=2).model)
    body = functools.partial(BODY, model=model)
    if spmd is None:
        found = jax.jit(body)(start, batch)
    else:
        fsdp_on = spmd == "shard_map"
        found = run(start, batch, spmd=spmd, devices=4, body=body, shard_state=fsdp_on)
    assert_trees_close(found, reference, rtol=RTOL, atol=1e-7)


@pytest.mark.slow
def test_summing_gradients_twice_would_fail_these_tests(start, batch, reference, monkeypatch):
    """On eight devices, a second sum would multiply the gradients by eight."""
    psum = fsdp.psum
    monkeypatch.setattr(
        fsdp, "psum", lambda tree, axis: jax.tree.map(lambda x: 8 * x, psum(tree, axis))
    )
    found = run(start, batch, spmd="shard_map", devices=8)
    with pytest.raises(AssertionError):
        assert_trees_close(found[0].opt_state, reference[0].opt_state, rtol=RTOL, atol=1e-7)


def test_check_vma_raises_instead_of_summing_gradients_twice(start, batch, monkeypatch):
    """With check_vma=True, shard_map would return summed gradients; tracing fails instead."""
    shard_map = jax.shard_map
    monkeypatch.setattr(jax, "shard_map", lambda *a, **k: shard_map(*a, **k | {"check_vma": True}))
    with pytest.raises(TypeError, match="manual axis types do not match"):
        run(start, batch, spmd="shard_map", devices=8)


@pytest.mark.slow
def test_the_loss_depends_on_the_whole_batch(start, batch, reference):
    """Half of the batch has another loss, so the devices compare their rows with all others."""
    half = {name: x[: CONFIG.batch_size // 2] for name, x in batch.items()}
    found = one_device(start, half)
    assert abs(float(found[1]["loss"]) - float(reference[1]["loss"])) > 1e-2


def test_the_loss_does_not_depend_on_the_order_of_the_batch(start, batch, reference):
    order = np.random.default_rng(0).permutation(CONFIG.batch_size)
    shuffled = {name: x[order] for name, x in batch.items()}
    found = one_device(start, shuffled)
    assert_trees_close(found, reference, rtol=RTOL, atol=1e-6)


def test_random_numbers_depend_on_seed_sample_and_epoch(start, batch, reference):
    again = one_device(start, batch)
    assert float(again[1]["loss"]) == float(reference[1]["loss"])
    for field in ("index", "epoch"):
        other = dict(batch, **{field: batch[field] + 1})
        found = one_device(start, other)
        assert float(found[1]["loss"]) != float(reference[1]["loss"])


def test_the_contrastive_scale_is_clipped_after_the_update(start, batch):
    loss = start.params["loss"] | {"log_scale": np.float32(9)}
    new, metrics = one_device(start.replace(params=start.params | {"loss": loss}), batch)
    assert float(new.params["loss"]["log_scale"]) == pytest.approx(CONFIG.loss.log_scale_max)
    assert float(metrics["scale"]) == pytest.approx(np.exp(9), rel=1e-5)


def test_the_decay_of_the_moving_average_rises_from_0_1_to_its_limit():
    ema, value = {"w": np.float32(1.0)}, {"w": np.float32(3.0)}
    early = step.moving_average(ema, value, 0.9, np.int32(0))
    late = step.moving_average(ema, value, 0.9, np.int32(10_000))
    assert float(early["w"]) == pytest.approx(0.1 * 1 + 0.9 * 3)
    assert float(late["w"]) == pytest.approx(0.9 * 1 + 0.1 * 3)
    assert step.moving_average(None, value, 0.9, np.int32(0)) is None


def test_embeddings_do_not_depend_on_devices_and_come_in_order(start, batch):
    variables = start.variables()
    embed = functools.partial(embedding.embed_step, model=MODEL, config=CONFIG)
    wanted = jax.jit(embed)(variables, batch)
    np.testing.assert_allclose(np.linalg.norm(wanted, axis=1), 1, rtol=1e-5)
    for spmd in ("pmap", "shard_map"):
        backend = backends.make_backend(spmd, devices=jax.devices())
        compiled = backend.embed(embed)
        found = backend.gather(compiled(backend.place_state(variables), backend.place_batch(batch)))
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_evaluation_windows_are_averaged(start, batch):
    """The embedding is the normalised mean of the unit embeddings of two windows of 48 points."""
    config = tiny_config(model__points=48, eval_windows=2)
    variables = start.variables()
    apply = jax.jit(MODEL.apply)
    halves = [
        apply(
            variables,
            batch["xyz"][:, part].astype(np.float32),
            batch["rgb"][:, part].astype(np.float32) / 255,
        )
        for part in (slice(0, 48), slice(48, 96))
    ]
    mean = sum(half / np.linalg.norm(half, axis=1, keepdims=True) for half in halves)
    wanted = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    embed = functools.partial(embedding.embed_step, model=MODEL, config=config)
    found = jax.jit(embed)(variables, batch)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(found - halves[0] / np.linalg.norm(halves[0], axis=1, keepdims=True)).max() > 1e-3


def test_a_batch_size_that_does_not_divide_over_devices_is_rejected():
    with pytest.raises(ValueError, match="batch_size is 12.*8 devices"):
        batch_spec.check_batch_size(12, process_count=1, device_count=8)


def test_an_unknown_backend_is_rejected():
    with pytest.raises(ValueError, match="pmap.*shard_map"):
        backends.make_backend("pjit")
