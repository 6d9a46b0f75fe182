# SPDX-License-Identifier: Apache-2.0
"""Effective neighbours of relations, and the temperatures that are solved for."""

import math

import numpy as np
import pytest

from mrd_jax.evaluation.metrics import neighbourhood


def features(count=48, dim=32, spread=1.0, seed=0):
    """Unit rows around a common direction; a small spread makes all of them similar."""
    rng = np.random.default_rng(seed)
    rows = np.eye(dim)[0] + spread * rng.normal(size=(count, dim)) / math.sqrt(dim)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def slow_rows(similarities, temperature, exclude_self):
    """Relation rows by loops, a list of {column: probability}."""
    rows = []
    for i in range(len(similarities)):
        columns = [j for j in range(similarities.shape[1]) if not (exclude_self and i == j)]
        weights = {j: math.exp((similarities[i, j] - 1) / temperature) for j in columns}
        rows.append({j: weight / sum(weights.values()) for j, weight in weights.items()})
    return rows


@pytest.mark.parametrize("exclude_self", [False, True])
def test_softness_equals_loops_over_rows_and_columns(exclude_self):
    batches = [features(5, seed=1) @ features(5, seed=2).T, features(7)[:3] @ features(7).T]
    rows = [row for each in batches for row in slow_rows(each, 0.3, exclude_self)]
    neighbours = [math.exp(-sum(p * math.log(p) for p in row.values())) for row in rows]
    diagonal = [row.get(i, 0) for i, row in zip([*range(5), *range(3)], rows, strict=True)]
    soft = neighbourhood.softness(batches, temperature=0.3, exclude_self=exclude_self)
    assert soft.neighbours == pytest.approx(np.mean(neighbours), rel=1e-12)
    assert soft.diagonal == pytest.approx(np.mean(diagonal), rel=1e-12)


@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("wanted", [2, 8, 30])
def test_solved_temperature_gives_the_wanted_neighbours(spread, wanted):
    rows = features(spread=spread)
    temperature = neighbourhood.solve_temperature(
        [rows @ rows.T], neighbours=wanted, exclude_self=True
    )
    relation = slow_rows(rows @ rows.T, temperature, True)
    perplexities = [math.exp(-sum(p * math.log(p) for p in row.values() if p)) for row in relation]
    assert np.mean(perplexities) == pytest.approx(wanted, rel=1e-4)


def test_relation_does_not_depend_on_the_scale_of_the_similarities():
    similarities = features() @ features(seed=5).T
    relations = []
    for scale in (1.0, 0.05):
        temperature = neighbourhood.solve_temperature([scale * similarities + 0.4], neighbours=6)
        logits = (scale * similarities + 0.4) / temperature
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        relations.append(weights / weights.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(relations[0], relations[1], rtol=1e-4)


@pytest.mark.parametrize("wanted, rows, message", [
    (48, features(), "fewer than 47"),
    (0.5, features(), "more than 1"),
    (2, np.ones((4, 8)), "2 effective neighbours: all similarities of a row are equal"),
    # Each is as far from every other one; only the excluded diagonal differs.
    (2, np.eye(4), "all similarities of a row are equal"),
    (1.5, np.repeat(features(6), 8, axis=0), "more than 7"),
])  # fmt: skip
def test_numbers_of_neighbours_that_no_temperature_gives_are_errors(wanted, rows, message):
    with pytest.raises(ValueError, match=message):
        neighbourhood.solve_temperature([rows @ rows.T], neighbours=wanted, exclude_self=True)


@pytest.mark.parametrize("empty", [[np.zeros((0, 0))], []])
def test_no_sample_with_both_modalities_is_an_error(empty):
    message = "^no sample has both modalities of the relation$"
    with pytest.raises(ValueError, match=message):
        neighbourhood.softness(empty, temperature=0.1)
    for exclude_self in (False, True):
        with pytest.raises(ValueError, match=message):
            neighbourhood.solve_temperature(empty, neighbours=8, exclude_self=exclude_self)


def test_rows_of_equal_similarities_have_no_temperature_even_if_the_rows_differ():
    rows = np.repeat([[0.9], [0.2], [0.4]], 3, axis=1)
    with pytest.raises(ValueError, match="all similarities of a row are equal"):
        neighbourhood.solve_temperature([rows], neighbours=2)
    # One row of unequal similarities suffices: the others have 3 neighbours at any temperature.
    rows[0, 0] += 0.1
    temperature = neighbourhood.solve_temperature([rows], neighbours=2.9)
    relation = slow_rows(rows, temperature, False)
    perplexities = [math.exp(-sum(p * math.log(p) for p in row.values())) for row in relation]
    assert perplexities == pytest.approx([2.7, 3, 3], rel=1e-4)
