# SPDX-License-Identifier: Apache-2.0
"""Every experiment builds, and the paper-scale one trains."""

import functools

import jax
import numpy as np
import pytest

from configs import base, furniture, mrd_pointbert, quickstart
from mrd_jax import checkpointing, sharding, state, step, train
from mrd_jax.data import batch as batches

pytestmark = pytest.mark.usefixtures("fast_compile")


@pytest.mark.parametrize("experiment", [quickstart, furniture, mrd_pointbert])
def test_an_experiment_overrides_fields_and_adds_none(experiment):
    known = set(checkpointing.flatten(base.get_config()))
    assert set(checkpointing.flatten(experiment.get_config())) == known


@pytest.mark.parametrize("experiment", [quickstart, furniture, mrd_pointbert])
def test_an_experiment_builds_and_fits_eight_devices(experiment):
    run = train.build_run(experiment.get_config(), devices=jax.devices())
    assert isinstance(run.runner, sharding.RUNNERS[experiment.get_config().spmd])


def test_the_paper_scale_run_takes_two_steps_on_fake_data():
    """Scaling 4, 10,000 points, 1,280 dimensions; a batch of two is all that is small."""
    config = mrd_pointbert.get_config()
    config.batch_size = 2
    run = train.build_run(config, devices=jax.devices()[:1])
    now = run.initial_state()
    sizes = jax.tree.map(lambda x: x.size, now.params["student"])
    assert sum(jax.tree.leaves(sizes)) == pytest.approx(32.3e6, rel=0.01)
    before = np.asarray(jax.tree.leaves(now.params["student"])[0])
    train_step = run.train_step()
    for seed in range(2):
        batch = run.runner.place_batch(batches.fake_batch(config, seed=seed))
        assert batch["xyz"].shape == (2, 10_000, 3) and batch["image"].shape == (2, 1_280)
        now, metrics = train_step(now, batch)
        assert np.isfinite(float(metrics["total"])) and float(metrics["grad_norm"]) > 0
    assert int(now.step) == 2
    assert not np.array_equal(np.asarray(jax.tree.leaves(now.params["student"])[0]), before)


def test_abstract_shapes_of_a_step_need_no_memory():
    """What ahead-of-time compilation relies on: the spec of a batch is enough to trace the step."""
    config = mrd_pointbert.get_config()
    run = train.build_run(config, devices=jax.devices()[:1])
    create = functools.partial(
        state.create_state, run.config, model=run.model, optimizer=run.optimizer
    )
    body = functools.partial(
        step.train_step, model=run.model, optimizer=run.optimizer, config=run.config
    )
    now = jax.eval_shape(create)
    after, metrics = jax.eval_shape(body, now, batches.batch_spec(config))
    assert jax.tree.structure(after) == jax.tree.structure(now)
    assert metrics["total"].shape == ()
