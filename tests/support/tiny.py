# SPDX-License-Identifier: Apache-2.0
"""The smallest run that has every part: for tests of the step, the loop and the checkpoints."""

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import base
from mrd_jax.checkpoints import run_identity


def tiny_config(**fields: Any) -> ConfigDict:
    """Full MRD on clouds of 64 points; `fields` override by dotted name with __ for a dot."""
    config = base.get_config()
    config.batch_size = 16
    config.total_steps = 6
    config.log_every = 1
    config.eval_every = 3
    config.checkpoint_every = 3
    config.data.points = 96
    config.teacher.dim = 24
    config.model.update(
        points=64, dim=64, depth=2, heads=1, mlp_dim=96, sa_dim=16, groups=8, group_size=8,
        radius=0.4, out_dim=24, patch_dropout=0.25,
        patch_choice="random",
    )  # fmt: skip
    config.optimizer.warmup_steps = 2
    config.optimizer.ema_decay = 0.9
    config.loss.learn_student_temperature = True
    for name, value in fields.items():
        path = name.replace("__", ".")
        assert path in run_identity.flatten(config), f"no field {path}"
        config.update_from_flattened_dict({path: value})
    return config


def assert_trees_close(found: Any, wanted: Any, *, rtol: float, atol: float = 0.0) -> None:
    """Every leaf within atol + rtol times the largest magnitude of the wanted leaf."""
    found, wanted = jax.device_get((found, wanted))
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    pairs = zip(jax.tree_util.tree_leaves_with_path(wanted), jax.tree.leaves(found), strict=True)
    for (path, leaf), other in pairs:
        scale = np.max(np.abs(leaf)) if np.size(leaf) else 0.0
        np.testing.assert_allclose(
            other, leaf, rtol=0, atol=atol + rtol * scale, err_msg=jax.tree_util.keystr(path)
        )


def assert_trees_equal(found: Any, wanted: Any) -> None:
    """Every leaf equal, bit for bit."""
    found, wanted = jax.device_get((found, wanted))
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
