# SPDX-License-Identifier: Apache-2.0
"""The compiler gets one block of a student, whatever the depth."""

import jax
import jax.numpy as jnp
import pytest

from mrd_jax import models


def length_of_program(size, **changes):
    """Lines of the gradient of a training pass."""
    model = models.build_model(models.RELEASED[size] | {"out_dim": 8} | changes)
    clouds = jax.ShapeDtypeStruct((2, 1024, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), clouds, clouds)

    def loss(variables, clouds):
        found, _ = model.apply(variables, clouds, clouds, train=True, mutable=["batch_stats"])
        return jnp.sum(found)

    return len(jax.jit(jax.grad(loss)).lower(variables, clouds).as_text().splitlines())


@pytest.mark.parametrize("size", ["openshape-1", "uni3d-ti"])
def test_the_program_and_so_its_compile_time_does_not_grow_with_depth(size):
    assert length_of_program(size, depth=24) == length_of_program(size, depth=4)


def test_an_unrolled_program_grows_with_depth():
    short, long = (length_of_program("openshape-1", depth=n, scan=False) for n in (4, 24))
    assert long > 1.5 * short
