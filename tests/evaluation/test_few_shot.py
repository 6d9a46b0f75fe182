# SPDX-License-Identifier: Apache-2.0
"""Few-shot probes: the draw of shapes, the averages over draws, and invalid arguments."""

import numpy as np
import pytest

from mrd_jax.evaluation import few_shot, linear_probe

rng = np.random.default_rng(0)
CENTRES = rng.normal(size=(3, 5))
# Class 2 has only two shapes; two shapes have an unknown class.
LABELS = np.array([0] * 6 + [1] * 6 + [2] * 2 + [-1] * 2)
FEATURES = CENTRES[LABELS] + 0.9 * rng.normal(size=(16, 5))
TEST_LABELS = np.repeat([0, 1, 2], 30)
TEST_FEATURES = CENTRES[TEST_LABELS] + 0.9 * rng.normal(size=(90, 5))
GIVEN = {"labels": LABELS, "test_features": TEST_FEATURES, "test_labels": TEST_LABELS}


def test_accuracy_is_mean_and_sample_standard_deviation_over_seeds():
    got = few_shot.few_shot(FEATURES, **GIVEN, shots=(4,), seeds=3)
    top1 = []
    for seed in range(3):
        drawn = few_shot.draw(LABELS, shots=4, seed=seed)
        test = {"test_features": TEST_FEATURES, "test_labels": TEST_LABELS, "seed": seed}
        probe = linear_probe.linear_probe(FEATURES[drawn], labels=LABELS[drawn], **test)
        top1.append(probe["top1"])
    mean = sum(top1) / 3
    assert len(set(top1)) > 1
    assert got["4/top1"] == pytest.approx(mean)
    assert got["4/top1_std"] == pytest.approx(np.sqrt(sum((x - mean) ** 2 for x in top1) / 2))


def test_class_with_fewer_shapes_than_shots_contributes_all_and_is_counted():
    got = few_shot.few_shot(FEATURES, **GIVEN, shots=(1, 2, 4, 8), seeds=2)
    assert [got[f"{n}/train"] for n in (1, 2, 4, 8)] == [3, 6, 10, 14]
    assert [got[f"{n}/short_classes"] for n in (1, 2, 4, 8)] == [0, 0, 1, 3]
    assert (got["count"], got["absent"], got["classes"], got["seeds"]) == (90, 0, 3, 2)


def test_draw_is_deterministic_depends_on_the_seed_and_is_nested_in_the_shots():
    few, more = (few_shot.draw(LABELS, shots=shots, seed=1) for shots in (2, 4))
    np.testing.assert_array_equal(few, few_shot.draw(LABELS, shots=2, seed=1))
    assert set(few) < set(more)
    assert set(LABELS[few]) == {0, 1, 2}
    draws = {tuple(few_shot.draw(LABELS, shots=2, seed=seed)) for seed in range(10)}
    assert len(draws) > 5


def test_shapes_that_are_not_drawn_do_not_matter():
    first = few_shot.few_shot(FEATURES, **GIVEN, shots=(2,), seeds=2)
    unused = np.ones(16, dtype=bool)
    for seed in range(2):
        unused[few_shot.draw(LABELS, shots=2, seed=seed)] = False
    assert unused.sum() > 3
    changed = np.where(unused[:, None], 100.0, FEATURES)
    assert few_shot.few_shot(changed, **GIVEN, shots=(2,), seeds=2) == first


@pytest.mark.parametrize("fields", [{"seeds": 1}, {"shots": ()}, {"shots": (0, 1)}])
def test_too_few_seeds_or_shots_raise(fields):
    with pytest.raises(ValueError, match="two seeds or more.*one shot or more"):
        few_shot.few_shot(FEATURES, **GIVEN, **fields)
