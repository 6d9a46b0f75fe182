# SPDX-License-Identifier: Apache-2.0
"""Checkpoints restore bit for bit, and a workdir belongs to one run."""

import json

import jax.numpy as jnp
import pytest
from tiny import assert_trees_equal, tiny_config

from configs import finetune
from mrd_jax.checkpoints import manager, manifest, run_identity


def open_workdir(folder, config, fingerprint="data-1"):
    return manager.CheckpointManager(str(folder), config=config, fingerprint=fingerprint)


def test_the_newest_checkpoint_restores_bit_for_bit(tmp_path):
    checkpoints = open_workdir(tmp_path, tiny_config())
    states = {s: {"w": jnp.arange(5.0) * s, "n": jnp.int32(s)} for s in (1, 2, 3)}
    for s, tree in states.items():
        checkpoints.save(tree, step=s)
    checkpoints.close()
    reopened = open_workdir(tmp_path, tiny_config())
    assert reopened.latest_step() == 3
    assert_trees_equal(reopened.restore(states[1]), states[3])
    reopened.close()


def test_a_new_workdir_has_nothing_to_restore(tmp_path):
    checkpoints = open_workdir(tmp_path, tiny_config())
    assert checkpoints.latest_step() is None
    with pytest.raises(FileNotFoundError, match="--mode train"):
        checkpoints.restore({})
    checkpoints.close()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"config": 1, "data": "x"}', "[" * 100_000])
def test_a_corrupt_run_file_is_named(tmp_path, text):
    open_workdir(tmp_path, tiny_config()).close()
    (tmp_path / run_identity.RUN_FILE).write_text(text)
    with pytest.raises(manifest.CorruptCheckpointError, match="run.json is corrupt .*run/metadata"):
        open_workdir(tmp_path, tiny_config())


def test_another_config_is_rejected_with_every_field_and_both_values(tmp_path):
    open_workdir(tmp_path, tiny_config()).close()
    other = tiny_config(loss__lambda_intra=0.25, seed=7)
    with pytest.raises(run_identity.WorkdirMismatchError) as error:
        open_workdir(tmp_path, other)
    assert "config.loss.lambda_intra: 1.0 there, 0.25 now" in str(error.value)
    assert "config.seed: 0 there, 7 now" in str(error.value)
    assert "batch_size" not in str(error.value)


def test_other_data_is_rejected(tmp_path):
    open_workdir(tmp_path, tiny_config()).close()
    with pytest.raises(run_identity.WorkdirMismatchError, match="data-1 there, data-2 now"):
        open_workdir(tmp_path, tiny_config(), fingerprint="data-2")


@pytest.mark.parametrize("field", sorted(run_identity.NEUTRAL_FIELDS))
def test_neutral_fields_may_change(tmp_path, field):
    config, other = tiny_config(), tiny_config()
    if field.startswith("finetune."):
        config.finetune, other.finetune = finetune.finetune(), finetune.finetune()
    open_workdir(tmp_path, config).close()
    value = run_identity.flatten(config)[field]
    changed = {bool: not value, int: 77, float: 7.5, str: "shard_map", list: (0.5, 2.0)}[
        type(value)
    ]
    other.update_from_flattened_dict({field: changed})
    assert run_identity.flatten(other)[field] != value
    open_workdir(tmp_path, other).close()


def test_a_field_that_an_older_version_lacks_is_named(tmp_path):
    open_workdir(tmp_path, tiny_config()).close()
    path = tmp_path / "run.json"
    run = json.loads(path.read_text())
    del run["config"]["loss"]["mix"]
    path.write_text(json.dumps(run))
    with pytest.raises(run_identity.WorkdirMismatchError, match="config.loss.mix: 'absent' there"):
        open_workdir(tmp_path, tiny_config())
