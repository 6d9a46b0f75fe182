# SPDX-License-Identifier: Apache-2.0
"""Checksums do not depend on how an array is split, and every changed word changes them."""

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
    """One Python integer after another."""
    kinds = {1: np.uint8, 2: np.uint16, 4: np.uint32}
    words = np.ascontiguousarray(array).view(kinds[array.dtype.itemsize]).ravel().tolist()
    linear = sum(word * (mixed(place) | 1) for place, word in enumerate(words)) % WORD
    second = sum(
        mixed((word + mixed((place + 0x9E3779B9) % WORD)) % WORD)
        for place, word in enumerate(words)
    )
    return f"{linear:08x}{second % WORD:08x}"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "uint8", "bool"])
def test_checksums_equal_the_sums_by_hand(dtype):
    values = np.random.default_rng(0).normal(size=(3, 5, 2)) * 10
    array = np.asarray(jnp.asarray(np.abs(values)).astype(dtype))
    assert checksums.checksums({"a": {"b": array}}) == {"a/b": by_hand(array)}


def test_scalars_and_empty_arrays_have_checksums():
    found = checksums.checksums({"one": np.int32(7), "none": np.zeros((0, 3), np.float32)})
    assert found == {"one": by_hand(np.array([7], np.int32)), "none": "0" * 16}


@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("spec", [PartitionSpec("data"), PartitionSpec(None, "data")])
def test_an_array_that_is_split_has_the_checksum_of_the_whole(devices, spec):
    array = np.random.default_rng(1).normal(size=(16, 8)).astype(np.float32)
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    split = jax.device_put(array, NamedSharding(mesh, spec))
    assert checksums.checksums({"w": split}) == {"w": by_hand(array)}


def test_every_flipped_bit_of_an_array_changes_its_checksum():
    array = np.random.default_rng(2).normal(size=3).astype(np.float32)
    whole = checksums.checksums({"w": array})["w"]
    for bit in range(8 * array.nbytes):
        damaged = bytearray(array.tobytes())
        damaged[bit // 8] ^= 1 << bit % 8
        found = checksums.checksums({"w": np.frombuffer(damaged, np.float32)})["w"]
        # The first half alone is certain to notice one changed word.
        assert found[:8] != whole[:8] and found != whole


def test_exchanged_elements_change_the_checksum():
    array = np.arange(6, dtype=np.float32)
    assert checksums.checksums({"w": array}) != checksums.checksums({"w": array[::-1].copy()})
    assert (
        checksums.checksums({"w": array.reshape(2, 3)})
        == checksums.checksums({"w": array})
        != checksums.checksums({"w": array.reshape(2, 3).T.copy()})
    )
