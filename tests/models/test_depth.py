# SPDX-License-Identifier: Apache-2.0
"""The compiler sees one transformer block, for any depth of the encoder."""

import jax
import jax.numpy as jnp
import pytest

from mrd_jax import models


def program_length(size, **changes):
    """Counts the lines of the lowered gradient of a training step."""
    model = models.build_model(models.RELEASED[size] | {"out_dim": 8} | changes)
    clouds = jax.ShapeDtypeStruct((2, 1024, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), clouds, clouds)

    def loss(variables, clouds):
        embeddings, _ = model.apply(variables, clouds, clouds, train=True, mutable=["batch_stats"])
        return jnp.sum(embeddings)

    return len(jax.jit(jax.grad(loss)).lower(variables, clouds).as_text().splitlines())


@pytest.mark.parametrize("size", ["openshape-1", "uni3d-ti"])
def test_program_size_and_compile_time_do_not_grow_with_depth(size):
    assert program_length(size, depth=24) == program_length(size, depth=4)


def test_an_unrolled_program_grows_with_depth():
    short, long = (program_length("openshape-1", depth=n, scan=False) for n in (4, 24))
    assert long > 1.5 * short
