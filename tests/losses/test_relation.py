# SPDX-License-Identifier: Apache-2.0
"""Relation matrices and divergences equal slow loops in value and gradient."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_losses as reference
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from mrd_jax.losses import relation

MASK = np.array([True, True, False, True, True, False])
PAIR_OPTIONS = list(itertools.product([False, True], [None, MASK]))
DISTRIBUTIONS = relation.FAMILIES["similarity"]
DISTANCES = relation.FAMILIES["euclidean"]


def unit(seed, rows=6, dim=4):
    return reference.unit_rows(np.random.default_rng(seed).normal(size=(rows, dim)))


def float32(values):
    return jnp.asarray(values, jnp.float32)


def weighted_sum(matrix):
    """Returns a sum over all entries that are not masked, each with a different weight."""
    weights = 1 + np.arange(np.size(matrix)).reshape(np.shape(matrix)) / np.size(matrix)
    if isinstance(matrix, np.ndarray):
        return np.sum(weights * np.where(np.isfinite(matrix), matrix, 0))
    return jnp.sum(weights * jnp.where(jnp.isfinite(matrix), matrix, 0))


def test_log_relation_of_two_samples_by_hand():
    rows = columns = jnp.eye(2)
    actual = jnp.exp(relation.log_relation(rows, columns, temperature=0.5))
    near, far = math.exp(2) / (math.exp(2) + 1), 1 / (math.exp(2) + 1)
    reference.assert_close(actual, [[near, far], [far, near]])


@pytest.mark.parametrize("exclude_self, mask", PAIR_OPTIONS)
def test_log_relation_equals_the_loop(exclude_self, mask):
    rows, columns = unit(0), unit(1)
    options = {"temperature": 0.2, "exclude_self": exclude_self, "mask": mask}
    actual = relation.log_relation(float32(rows), float32(columns), **options)
    assert actual.dtype == jnp.float32
    reference.assert_close(actual, reference.log_relation(rows, columns, **options))


@pytest.mark.parametrize("exclude_self, mask", PAIR_OPTIONS)
def test_log_relation_has_the_gradient_of_the_loop(exclude_self, mask):
    rows, columns = unit(0), unit(1)
    options = {"temperature": 0.2, "exclude_self": exclude_self, "mask": mask}
    actual = jax.grad(lambda *xy: weighted_sum(relation.log_relation(*xy, **options)), (0, 1))(
        float32(rows), float32(columns)
    )
    slow = reference.log_relation
    by_rows = reference.numeric_gradient(lambda x: weighted_sum(slow(x, columns, **options)), rows)
    by_columns = reference.numeric_gradient(
        lambda y: weighted_sum(slow(rows, y, **options)), columns
    )
    reference.assert_close(actual[0], by_rows)
    reference.assert_close(actual[1], by_columns)


def test_smaller_temperature_sharpens_rows_and_has_a_gradient():
    rows = unit(0)
    mass = [
        float(jnp.exp(relation.log_relation(float32(rows), float32(rows), temperature=t))[0, 0])
        for t in (1.0, 0.1)
    ]
    assert mass[1] > mass[0] + 0.3
    actual = jax.grad(
        lambda t: weighted_sum(relation.log_relation(float32(rows), float32(rows), temperature=t))
    )(0.2)
    expected = reference.numeric_gradient(
        lambda t: weighted_sum(reference.log_relation(rows, rows, temperature=float(t))), 0.2
    )
    reference.assert_close(actual, expected)


def test_bfloat16_rows_are_compared_in_float32():
    rows = float32(unit(0)).astype(jnp.bfloat16)
    actual = relation.log_relation(rows, rows, temperature=0.05)
    exact = np.asarray(rows, np.float64)
    assert actual.dtype == jnp.float32
    reference.assert_close(actual, reference.log_relation(exact, exact, temperature=0.05))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("exclude_self, mask", PAIR_OPTIONS)
def test_distance_relation_equals_the_loop(metric, exclude_self, mask):
    rows, columns = unit(2), unit(3)
    options = {"metric": metric, "exclude_self": exclude_self, "mask": mask}
    actual = relation.distance_relation(float32(rows), float32(columns), **options)
    reference.assert_close(actual, reference.distance_relation(rows, columns, **options))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_distance_relation_has_the_gradient_of_the_loop_through_its_mean(metric):
    rows, columns = unit(2), unit(3)
    options = {"metric": metric, "exclude_self": True, "mask": MASK}
    actual = jax.grad(lambda *xy: weighted_sum(relation.distance_relation(*xy, **options)), (0, 1))(
        float32(rows), float32(columns)
    )
    slow = reference.distance_relation
    by_rows = reference.numeric_gradient(lambda x: weighted_sum(slow(x, columns, **options)), rows)
    by_columns = reference.numeric_gradient(
        lambda y: weighted_sum(slow(rows, y, **options)), columns
    )
    reference.assert_close(actual[0], by_rows)
    reference.assert_close(actual[1], by_columns)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_duplicate_points_have_a_finite_distance_gradient(metric):
    rows = float32(np.repeat(unit(4, rows=2), 2, axis=0))

    def value(x):
        return weighted_sum(relation.distance_relation(x, x, metric=metric))

    gradient = jax.grad(value)(rows)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
    if metric == "euclidean":
        distances = relation.distance_relation(rows, rows, metric=metric)
        assert float(distances[0, 1]) == 0.0 == float(distances[2, 2])


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("mask", [np.zeros(4, bool), np.arange(4) == 2])
def test_fewer_than_two_samples_have_no_distances(metric, mask):
    rows = float32(unit(5, rows=4))
    actual = relation.distance_relation(rows, rows, metric=metric, mask=mask)
    np.testing.assert_array_equal(actual, np.where(mask[:, None] & mask[None], 0, -np.inf))
    gradient = jax.grad(
        lambda x: weighted_sum(relation.distance_relation(x, x, metric=metric, mask=mask))
    )(rows)
    np.testing.assert_array_equal(gradient, 0)


def relations_of(kind, *, mask=MASK):
    """Returns target and student of the family that `kind` belongs to, with masked entries."""
    options = {"exclude_self": True, "mask": mask}
    if kind in DISTRIBUTIONS:
        target = reference.log_relation(unit(6), unit(6), temperature=0.2, **options)
        student = reference.log_relation(unit(7), unit(7), temperature=0.5, **options)
    else:
        target = reference.distance_relation(unit(6), unit(6), metric="euclidean", **options)
        student = 3 * reference.distance_relation(unit(7), unit(7), metric="euclidean", **options)
    return target, student


@pytest.mark.parametrize("kind, expected", [("kl", 0.5108256), ("jeffrey", 0.8788898)])
def test_divergence_by_hand(kind, expected):
    # KL = 1/2 log(5/9) + 1/2 log 5; reversed: 9/10 log(9/5) + 1/10 log(1/5).
    target, student = jnp.log(float32([[0.5, 0.5]])), jnp.log(float32([[0.9, 0.1]]))
    reference.assert_close(relation.divergence(target, student, kind=kind), [expected])


def test_smooth_l1_by_hand():
    # Errors 1/2 and -3 cost 1/8 and 5/2.
    target, student = float32([[1.0, 4.0]]), float32([[1.5, 1.0]])
    reference.assert_close(relation.divergence(target, student, kind="smooth_l1"), [1.3125])
    reference.assert_close(relation.divergence(target, student, kind="l2"), [4.625])


@pytest.mark.parametrize("kind", DISTRIBUTIONS + DISTANCES)
def test_divergence_equals_the_loop(kind):
    target, student = relations_of(kind)
    actual = relation.divergence(float32(target), float32(student), kind=kind)
    reference.assert_close(actual, reference.divergence(target, student, kind=kind))
    np.testing.assert_array_equal(np.asarray(actual)[~MASK], 0)


@pytest.mark.parametrize("kind", DISTRIBUTIONS + DISTANCES)
def test_divergence_has_the_gradient_of_the_loop_and_none_where_masked(kind):
    target, student = relations_of(kind)
    entries = np.isfinite(target)

    def slow(values, which):
        both = [target.copy(), student.copy()]
        both[which][entries] = values
        return reference.divergence(*both, kind=kind).sum()

    actual = jax.grad(lambda q, r: relation.divergence(q, r, kind=kind).sum(), (0, 1))(
        float32(target), float32(student)
    )
    for which, values in enumerate((target, student)):
        expected = np.zeros_like(values)
        expected[entries] = reference.numeric_gradient(
            lambda x, which=which: slow(x, which), values[entries]
        )
        reference.assert_close(actual[which], expected)


@pytest.mark.parametrize("kind", DISTRIBUTIONS + DISTANCES)
def test_divergence_is_zero_only_between_equal_relations(kind):
    target, student = (float32(values) for values in relations_of(kind))
    reference.assert_close(relation.divergence(target, target, kind=kind), np.zeros(6))
    assert (relation.divergence(target, student, kind=kind)[MASK] > 1e-3).all()


def test_only_kl_depends_on_which_relation_is_the_target():
    target, student = (float32(values) for values in relations_of("kl"))
    for kind in DISTRIBUTIONS:
        forward = relation.divergence(target, student, kind=kind)
        reverse = relation.divergence(student, target, kind=kind)
        assert np.allclose(forward, reverse, rtol=1e-4) == (kind != "kl")


def test_js_is_bounded_for_disjoint_supports():
    target, student = float32([[0.0, -np.inf]]), float32([[-np.inf, 0.0]])
    reference.assert_close(relation.divergence(target, student, kind="js"), [math.log(2)])
    assert np.isposinf(relation.divergence(target, student, kind="kl")).all()


@pytest.mark.parametrize("family", relation.FAMILIES)
def test_mixture_is_convex_in_the_relations_themselves(family):
    kind = relation.FAMILIES[family][0]
    first, second = relations_of(kind)
    weights = np.array([0.25, 0.75])
    if family == "similarity":
        with np.errstate(divide="ignore"):
            expected = np.log(weights[0] * np.exp(first) + weights[1] * np.exp(second))
    else:
        expected = weights[0] * first + weights[1] * second
    targets = float32(np.stack([first, second]))
    actual = relation.mix(targets, jnp.log(float32(weights)), family=family)
    reference.assert_close(actual, expected)
    gradient = jax.grad(lambda q, w: weighted_sum(relation.mix(q, w, family=family)), (0, 1))(
        targets, jnp.log(float32(weights))
    )
    assert all(np.isfinite(leaf).all() for leaf in gradient)


def test_row_without_another_valid_sample_contributes_nothing():
    rows = float32(unit(8, rows=3))
    mask = np.array([False, True, False])

    def value(x):
        options = {"temperature": 0.1, "exclude_self": True, "mask": mask}
        student = relation.log_relation(x, x, **options)
        return relation.divergence(student, student, kind="jeffrey").sum()

    with jax.debug_nans(True):  # intermediate results may not be nan either
        loss, gradient = jax.value_and_grad(value)(rows)
    assert float(loss) == 0.0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_diagonal_and_mean_are_those_of_the_global_batch(backend):
    rows, columns = float32(unit(9, rows=16)), float32(unit(10, rows=16))
    mask = np.arange(16) % 3 > 0

    def both(x, y, mask, axis_name=None):
        options = {"exclude_self": True, "mask": mask, "axis_name": axis_name}
        return (
            relation.log_relation(x, y, temperature=0.1, **options),
            relation.distance_relation(x, y, metric="euclidean", **options),
        )

    def sharded(*arrays):
        return both(*arrays, axis_name="data")

    if backend == "pmap":
        arrays = [values.reshape(8, 2, *values.shape[1:]) for values in (rows, columns, mask)]
        actual = [m.reshape(16, 16) for m in jax.pmap(sharded, axis_name="data")(*arrays)]
    else:
        mesh = Mesh(np.array(jax.devices()), ("data",))
        actual = jax.jit(
            jax.shard_map(
                sharded, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False
            )
        )(rows, columns, mask)
    for sharded_relation, expected in zip(actual, both(rows, columns, mask), strict=True):
        reference.assert_close(sharded_relation, expected)


def test_unknown_names_raise_with_the_known_ones():
    rows = float32(unit(0))
    with pytest.raises(ValueError, match="'kl'.*'smooth_l1'"):
        relation.divergence(rows, rows, kind="hellinger")
    with pytest.raises(ValueError, match="'euclidean' or 'cosine'"):
        relation.distance_relation(rows, rows, metric="manhattan")


def test_unit_rows_keeps_zero_rows_and_their_gradient_finite():
    values = float32([[3.0, 4.0], [0.0, 0.0]])
    reference.assert_close(relation.unit_rows(values), [[0.6, 0.8], [0.0, 0.0]])
    gradient = jax.grad(lambda x: weighted_sum(relation.unit_rows(x)))(values)
    assert np.isfinite(gradient).all()
