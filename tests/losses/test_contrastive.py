# SPDX-License-Identifier: Apache-2.0
"""Contrastive losses equal slow loops in value and gradient, on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_losses as reference
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from mrd_jax.losses import contrastive

MASK = np.array([True, False, True, True, False, True])
MASKS = {"all": None, "some": MASK, "one": np.arange(6) == 2, "none": np.zeros(6, bool)}


def unit(seed, rows=6, dim=4):
    return reference.unit_rows(np.random.default_rng(seed).normal(size=(rows, dim)))


def float32(values):
    return jnp.asarray(values, jnp.float32)


def test_loss_of_two_samples_by_hand():
    # Logits [[s, 0], [0, s]]: every row and column costs log(1 + exp(-s)).
    actual = contrastive.contrastive_loss(jnp.eye(2), jnp.eye(2), scale=2.0)
    reference.assert_close(actual, np.full(2, np.log1p(np.exp(-2))))


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_rows_equal_the_loop(mask):
    points, teacher = unit(0), unit(1)
    actual = contrastive.contrastive_loss(float32(points), float32(teacher), scale=14.0, mask=mask)
    assert actual.shape == (6,) and actual.dtype == jnp.float32
    expected = reference.contrastive_loss(points, teacher, scale=14.0, mask=mask)
    reference.assert_close(actual, expected)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_gradient_equals_the_loop(mask):
    points, teacher = unit(0), unit(1)
    weights = np.arange(1, 7) / 6  # different, so that a permutation of rows is detected

    def slow(x, scale):
        return weights @ reference.contrastive_loss(x, teacher, scale=scale, mask=mask)

    by_points, by_scale = jax.grad(
        lambda x, scale: jnp.dot(
            float32(weights),
            contrastive.contrastive_loss(x, float32(teacher), scale=scale, mask=mask),
        ),
        (0, 1),
    )(float32(points), jnp.float32(14.0))
    reference.assert_close(by_points, reference.numeric_gradient(lambda x: slow(x, 14.0), points))
    reference.assert_close(
        by_scale, reference.numeric_gradient(lambda scale: slow(points, float(scale)), 14.0)
    )


def test_teacher_receives_no_gradient():
    gradient = jax.grad(
        lambda teacher: contrastive.contrastive_loss(float32(unit(0)), teacher, scale=5.0).sum()
    )(float32(unit(1)))
    np.testing.assert_array_equal(gradient, 0)


def test_masked_samples_are_not_negatives():
    points, teacher = float32(unit(0)), float32(unit(1))
    actual = contrastive.contrastive_loss(points, teacher, scale=5.0, mask=MASK)
    alone = contrastive.contrastive_loss(points[MASK], teacher[MASK], scale=5.0)
    reference.assert_close(actual[MASK], alone)
    np.testing.assert_array_equal(actual[~MASK], 0)


def test_accuracy_retrieves_the_teacher_feature_from_the_points():
    # Teacher 0 is nearest to points 0 and 1, teacher 2 to point 2. In the other direction every
    # sample is correct, so that the two directions differ.
    points = jnp.eye(3)
    teacher = float32([[0.9, 0.8, 0.0], [0.1, 0.2, 0.0], [0.0, 0.0, 0.5]])
    actual = contrastive.retrieval_accuracy(points, teacher)
    np.testing.assert_array_equal(actual, [1, 0, 1])
    np.testing.assert_array_equal(contrastive.retrieval_accuracy(teacher, points), [1, 1, 1])
    without_first = contrastive.retrieval_accuracy(points, teacher, mask=np.arange(3) > 0)
    np.testing.assert_array_equal(without_first, [0, 1, 1])


@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_sharded_rows_and_gradients_equal_one_device(backend):
    arrays = (float32(unit(2, rows=16)), float32(unit(3, rows=16)), np.arange(16) % 3 > 0)

    def rows_and_gradient(points, teacher, mask, axis_name=None):
        def contribution(x):
            options = {"mask": mask, "axis_name": axis_name}
            rows = contrastive.contrastive_loss(x, teacher, scale=14.0, **options)
            correct = contrastive.retrieval_accuracy(x, teacher, **options)
            return rows.sum(), (rows, correct)

        gradient, rows = jax.grad(contribution, has_aux=True)(points)
        return gradient, *rows

    def sharded(*arrays):
        return rows_and_gradient(*arrays, axis_name="data")

    if backend == "pmap":
        split = [values.reshape(8, 2, *values.shape[1:]) for values in arrays]
        actual = jax.pmap(sharded, axis_name="data")(*split)
        actual = [values.reshape(16, *values.shape[2:]) for values in actual]
    else:
        mesh = Mesh(np.array(jax.devices()), ("data",))
        actual = jax.jit(
            jax.shard_map(
                sharded, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False
            )
        )(*arrays)
    for sharded_array, expected in zip(actual, rows_and_gradient(*arrays), strict=True):
        reference.assert_close(sharded_array, expected)
