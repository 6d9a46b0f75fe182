# SPDX-License-Identifier: Apache-2.0
"""Conversion tables are applied strictly in both directions, and errors list every fault."""

import numpy as np
import pytest

from mrd_jax.convert import layers, rules

EXPECTED = {"a": {"kernel": np.zeros((2, 3))}, "b": {"kernel": np.zeros((2, 6))}}
TABLE = (
    rules.Rule(r"(a)\.weight", r"\1.kernel", rules.DENSE),
    rules.Rule(r"one\.weight", "b/kernel", rules.DENSE, part=(0, 2)),
    rules.Rule(r"two\.weight", "b/kernel", rules.DENSE, (2,), part=(1, 2)),
)


def state(**changes):
    arrays = {
        "two.weight": np.arange(6.0, 12.0).reshape(3, 2, 1),
        "a.weight": np.arange(6.0).reshape(3, 2),
        "one.weight": np.arange(6.0).reshape(3, 2),
        "count": np.zeros(()),
    } | changes
    return {key: value for key, value in arrays.items() if value is not None}


def apply(state, table=TABLE):
    return rules.apply(
        state, rules=table, ignored=(r"count",), expected=EXPECTED, source="model.pt"
    )


def test_rules_rename_transpose_and_concatenate_parts_in_the_order_of_the_table():
    got = apply(state())
    np.testing.assert_array_equal(got.tree["a"]["kernel"], np.arange(6.0).reshape(3, 2).T)
    np.testing.assert_array_equal(got.tree["b"]["kernel"], np.arange(12.0).reshape(6, 2).T)


def test_every_key_has_a_destination():
    assert apply(state()).destinations == {
        "two.weight": "b/kernel", "a.weight": "a/kernel", "one.weight": "b/kernel", "count": "",
    }  # fmt: skip


def test_all_faults_of_a_file_are_listed_in_one_error():
    wrong = state(**{
        "a.weight": None, "one.weight": np.zeros((3, 3)), "two.weight": np.zeros((3, 2, 2)),
        "c.bias": np.zeros(3),
    })  # fmt: skip
    with pytest.raises(ValueError) as error:
        apply(wrong)
    message = str(error.value)
    for part in (
        "model.pt does not fit the model",
        "c.bias: 0 rules match, expected 1",
        "a/kernel: nothing in the file fills it",
        "one.weight: b/kernel expects 2 parts of (2, 6) in all, found shape (3, 3)",
        "two.weight: shape (3, 2, 2), expected length 1 on axes (2,)",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("wrong", "table", "message"),
    [
        (state(**{"one.weight": None}), TABLE, "part 1 of 2 of b/kernel: nothing in the file"),
        (state(**{"a.weight": np.zeros((2, 3))}), TABLE, r"expects \(2, 3\), found shape \(3, 2\)"),
        (state(**{"a.weight": np.zeros(3)}), TABLE, "a.weight: 1 axes, expected 2"),
        (state(), (*TABLE, rules.Rule("a.*", "a/kernel")), "a.weight: 2 rules match"),
        (
            state(again=np.zeros((2, 3))),
            (*TABLE, rules.Rule("again", "a/kernel")),
            "a/kernel is filled twice",
        ),
        (
            state(again=np.zeros((2, 6))),
            (*TABLE, rules.Rule("again", "b/kernel")),
            "b/kernel is filled twice",
        ),
        (
            state(again=np.zeros(3)),
            (*TABLE, rules.Rule("again", "d/bias")),
            "again: the model has no d/bias",
        ),
    ],
)
def test_a_single_fault_is_an_error(wrong, table, message):
    with pytest.raises(ValueError, match=message):
        apply(wrong, table)


@pytest.mark.parametrize("depth", [1, 2, 12])
def test_unstacked_layers_are_stacked_again(depth):
    rng = np.random.default_rng(0)
    tree = {
        "params": {
            "lift": rng.normal(size=3),
            "transformer": {"last_block": {"w": rng.normal(size=(2, 3))}},
        }
    }
    if depth > 1:
        tree["params"]["transformer"]["blocks"] = {"w": rng.normal(size=(depth - 1, 2, 3))}
    unstacked = layers.unstack_shapes(tree)["params"]["transformer"]["layers"]
    assert sorted(map(int, unstacked)) == list(range(depth))
    assert {leaf["w"].shape for leaf in unstacked.values()} == {(2, 3)}
    singles = {str(n): {"w": np.full((2, 3), n)} for n in range(depth)}
    stacked = layers.stack({"transformer": {"layers": singles}})["transformer"]
    np.testing.assert_array_equal(stacked["last_block"]["w"], np.full((2, 3), depth - 1))
    if depth > 1:
        np.testing.assert_array_equal(stacked["blocks"]["w"][:, 1, 2], np.arange(depth - 1))
    assert set(stacked) == set(tree["params"]["transformer"])
