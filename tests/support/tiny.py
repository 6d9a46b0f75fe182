# SPDX-License-Identifier: Apache-2.0
"""The smallest run with all parts, for tests of the step, the loop and the checkpoints."""

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import base
from mrd_jax.checkpoints import run_identity


def tiny_config(**fields: Any) -> ConfigDict:
    """Returns a config of full MRD on 64 points; `fields` are dotted names with __ for a dot."""
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
    # As large as the contrastive terms, so that tolerances tell errors of the relations.
    config.loss.update(lambda_intra=1.0, lambda_image=1.0, lambda_text=1.0)
    for name, value in fields.items():
        path = name.replace("__", ".")
        assert path in run_identity.flatten(config), f"no field {path}"
        config.update_from_flattened_dict({path: value})
    return config


def assert_trees_close(actual: Any, expected: Any, *, rtol: float, atol: float = 0.0) -> None:
    """Compares leaves within atol + rtol times the largest magnitude of the expected leaf."""
    actual, expected = jax.device_get((actual, expected))
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    pairs = zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(actual), strict=True)
    for (path, want), leaf in pairs:
        scale = np.max(np.abs(want)) if np.size(want) else 0.0
        np.testing.assert_allclose(
            leaf, want, rtol=0, atol=atol + rtol * scale, err_msg=jax.tree_util.keystr(path)
        )


def assert_trees_equal(actual: Any, expected: Any) -> None:
    """Asserts that all leaves are bitwise equal."""
    actual, expected = jax.device_get((actual, expected))
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for leaf, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(want))
