# SPDX-License-Identifier: Apache-2.0
"""Initial weights: a new run starts from given weights and initialises the rest at random."""

import jax
import numpy as np
import pytest
from fake_data import DIM, run_build
from tiny import assert_trees_equal, tiny_config

from mrd_jax import encoder
from mrd_jax.checkpoints import initial_weights, train_state
from mrd_jax.training import run as run_lib
from mrd_jax.training import train

pytestmark = pytest.mark.usefixtures("fast_compile")


def new_state(config):
    return jax.device_get(run_lib.build_run(config).initial_state())


@pytest.fixture(scope="module")
def config():
    return tiny_config()


def test_given_leaves_replace_random_ones_and_the_rest_is_kept(config):
    state = new_state(config)
    bias = np.full_like(state.params["student"]["projection"]["bias"], 7)
    mean = np.full_like(state.batch_stats["tokenizer"]["layer_0"]["mean"], 3)
    given = {
        "params": {"projection": {"bias": bias}},
        "batch_stats": {"tokenizer": {"layer_0": {"mean": mean}}},
    }
    got = initial_weights.start_from(state, given)
    assert_trees_equal(got.params["student"]["projection"]["bias"], bias)
    assert_trees_equal(got.ema["projection"]["bias"], bias)
    assert_trees_equal(got.batch_stats["tokenizer"]["layer_0"]["mean"], mean)
    assert_trees_equal(got.params["student"]["transformer"], state.params["student"]["transformer"])
    assert_trees_equal(got.params["loss"], state.params["loss"])
    assert_trees_equal(got.opt_state, state.opt_state)


def test_the_moving_average_does_not_share_memory_with_the_parameters(config):
    state = initial_weights.start_from(new_state(config), {"params": {}})
    assert isinstance(state, train_state.TrainState)
    for average, parameter in zip(
        jax.tree.leaves(state.ema), jax.tree.leaves(state.params["student"]), strict=True
    ):
        assert not np.shares_memory(average, parameter)


def test_leaves_that_do_not_fit_are_all_listed(config):
    given = {"params": {"projection": {"bias": np.zeros(5)}, "head": {"kernel": np.zeros(2)}}}
    with pytest.raises(ValueError) as error:
        initial_weights.start_from(new_state(config), given)
    assert "params/projection/bias: (5,) there, (24,) here" in str(error.value)
    assert "params/head/kernel: (2,) there, absent here" in str(error.value)


def test_initial_weights_round_trip_through_a_file(tmp_path):
    part = {"params": {"a": {"kernel": np.arange(6.0).reshape(2, 3)}}}
    initial_weights.save(tmp_path / "part.npz", part)
    assert_trees_equal(initial_weights.load(str(tmp_path / "part.npz")), part)
    with pytest.raises(FileExistsError, match="part.npz exists; choose another"):
        initial_weights.save(tmp_path / "part.npz", part)
    with pytest.raises(ValueError, match="part: the path must end in .npz"):
        initial_weights.save(tmp_path / "part", part)
    (tmp_path / "bad.npz").write_bytes(b"PK no")
    with pytest.raises(ValueError, match="bad.npz: not a valid .npz file"):
        initial_weights.load(str(tmp_path / "bad.npz"))


@pytest.mark.usefixtures("without_curves")
def test_a_run_can_start_from_the_weights_of_another_run(tmp_path, monkeypatch):
    data, _ = run_build(tmp_path, monkeypatch, points=64)
    fields = dict(
        data__directory=str(data), teacher__dim=DIM, model__out_dim=DIM, data__points=64,
        eval_every=100, optimizer__ema_decay=0.0, total_steps=1, optimizer__warmup_steps=0,
    )  # fmt: skip
    first = tiny_config(**fields)
    train.train_and_evaluate(first, str(tmp_path / "first"))
    trained = encoder.load(tmp_path / "first").variables

    # The first step of a warm-up has learning rate 0, so that step 1 saves the initial weights.
    warm_up = dict(total_steps=2, optimizer__warmup_steps=1, checkpoint_every=1)
    second = tiny_config(**fields | warm_up, initial_weights=str(tmp_path / "first"), seed=5)
    train.train_and_evaluate(second, str(tmp_path / "second"))
    found = encoder.load(tmp_path / "second" / "checkpoints" / "1").variables
    assert_trees_equal(found["params"], trained["params"])
    last = encoder.load(tmp_path / "second").variables
    assert np.any(last["params"]["projection"]["bias"] != trained["params"]["projection"]["bias"])
