# SPDX-License-Identifier: Apache-2.0
"""Nearest classes and coverage agree with a sort of the whole matrix of scores."""

import types

import numpy as np
import pytest
import tiny_index

from mrd_jax.library import coverage, labelling

NAMES = [f"class {number}" for number in range(40)]


@pytest.fixture(scope="module")
def features():
    return tiny_index.unit_rows(len(NAMES), seed=1)


def add_in_chunks(target, names, features, size):
    for start in range(0, len(names), size):
        target.add(names[start : start + size], features[start : start + size])


@pytest.mark.parametrize("size", [1, 7, 40])
def test_best_classes_do_not_depend_on_the_chunks(features, size):
    queries = tiny_index.unit_rows(9)
    best = labelling.TopClasses(queries, count=3)
    add_in_chunks(best, NAMES, features, size)
    scores = queries @ features.T
    order = np.argsort(-scores, axis=1)[:, :3]
    labels = best.labels()
    assert labels.names == [[NAMES[column] for column in row] for row in order]
    np.testing.assert_allclose(labels.scores, np.take_along_axis(scores, order, 1), rtol=1e-5)
    expected = np.diff(-np.take_along_axis(scores, order, 1), axis=1)[:, 0]
    np.testing.assert_allclose(labels.margins(), expected, atol=1e-6)


@pytest.mark.parametrize("size", [2, 5, 80])
def test_repeated_name_takes_no_second_place(features, size):
    queries = tiny_index.unit_rows(9)
    once, twice = (labelling.TopClasses(queries, count=4) for _ in range(2))
    add_in_chunks(once, NAMES, features, 40)
    add_in_chunks(twice, NAMES * 2, np.concatenate([features, features]), size)
    assert twice.labels().names == once.labels().names


def test_single_class_has_no_margin(features):
    best = labelling.TopClasses(tiny_index.unit_rows(2), count=3)
    best.add(NAMES[:1], features[:1])
    assert best.labels().names == [["class 0"], ["class 0"]]
    assert best.labels().margins() == [None, None]


def index_of(rows):
    class Index(types.SimpleNamespace):
        def __len__(self):
            return len(self.rows)

    return Index(rows=rows)


@pytest.mark.parametrize("size", [3, 41])
def test_coverage_counts_each_shape_at_its_nearest_class(features, size, monkeypatch):
    monkeypatch.setattr(coverage, "_ROWS", 16)  # several blocks of rows
    rows = tiny_index.unit_rows(100).astype(np.float16)
    names = [*NAMES, "class 3"]
    counts = coverage.Counts(index_of(rows), classes=len(names))
    add_in_chunks(counts, names, np.concatenate([features, features[3:4]]), size)
    results = [*counts.results(names, few=3)]
    scores = rows.astype(np.float32) @ features.T
    expected = np.bincount(scores.argmax(axis=1), minlength=len(NAMES))
    assert [found.shapes for found in results[:-1]] == expected.tolist()
    assert [found.best for found in results[:-1]] == scores.argmax(axis=0).tolist()
    statuses = ["missing" if n == 0 else "few" if n < 3 else "covered" for n in expected]
    assert [found.status for found in results] == [*statuses, "repeated"]
    assert len(set(statuses)) == 3
