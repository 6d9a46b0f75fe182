# SPDX-License-Identifier: Apache-2.0
"""Checksums do not depend on sharding, and detect every changed word."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mrd_jax.checkpoints import checksums

WORD = 2**32


def mixed(word):
    for factor, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):
        word = (word ^ (word >> shift)) * factor % WORD
    return word ^ (word >> 16)


def by_hand(array):
    """Computes the checksum with Python integers."""
    kinds = {1: np.uint8, 2: np.uint16, 4: np.uint32}
    words = np.ascontiguousarray(array).view(kinds[array.dtype.itemsize]).ravel().tolist()
    linear = sum(word * (mixed(place) | 1) for place, word in enumerate(words)) % WORD
    second = sum(
        mixed((word + mixed((place + 0x9E3779B9) % WORD)) % WORD)
        for place, word in enumerate(words)
    )
    return f"{linear:08x}{second % WORD:08x}"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "uint8", "bool"])
def test_checksums_match_a_loop_in_python(dtype):
    values = np.random.default_rng(0).normal(size=(3, 5, 2)) * 10
    array = np.asarray(jnp.asarray(np.abs(values)).astype(dtype))
    assert checksums.tree_checksums({"a": {"b": array}}) == {"a/b": by_hand(array)}


def test_scalars_and_empty_arrays_have_checksums():
    found = checksums.tree_checksums({"scalar": np.int32(7), "empty": np.zeros((0, 3), np.float32)})
    assert found == {"scalar": by_hand(np.array([7], np.int32)), "empty": "0" * 16}


@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("spec", [PartitionSpec("data"), PartitionSpec(None, "data")])
def test_sharded_arrays_have_the_checksum_of_whole_ones(devices, spec):
    array = np.random.default_rng(1).normal(size=(16, 8)).astype(np.float32)
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    sharded = jax.device_put(array, NamedSharding(mesh, spec))
    assert checksums.tree_checksums({"w": sharded}) == {"w": by_hand(array)}


def test_every_flipped_bit_of_an_array_changes_its_checksum():
    array = np.random.default_rng(2).normal(size=3).astype(np.float32)
    intact = checksums.tree_checksums({"w": array})["w"]
    for bit in range(8 * array.nbytes):
        corrupt = bytearray(array.tobytes())
        corrupt[bit // 8] ^= 1 << bit % 8
        found = checksums.tree_checksums({"w": np.frombuffer(corrupt, np.float32)})["w"]
        # The first half of the checksum detects every change of one word.
        assert found[:8] != intact[:8] and found != intact


def test_permuted_elements_change_the_checksum():
    array = np.arange(6, dtype=np.float32)
    assert checksums.tree_checksums({"w": array}) != checksums.tree_checksums(
        {"w": array[::-1].copy()}
    )
    assert (
        checksums.tree_checksums({"w": array.reshape(2, 3)})
        == checksums.tree_checksums({"w": array})
        != checksums.tree_checksums({"w": array.reshape(2, 3).T.copy()})
    )
