# SPDX-License-Identifier: Apache-2.0
"""Batches with hard negatives are a pure function of (seed, step), on records from disk."""

import collections
import itertools

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny import tiny_config

from mrd_jax.data import batch_spec, loader, source
from mrd_jax.data.hard_negatives import neighbour_index, sampler

# Number of records of the split, of rows of a batch, and of neighbours among these.
RECORDS, BATCH, HARD = 29, 8, 5
SEEDS = BATCH - HARD
NEAREST = 4


def config_of(*, seed: int = 0, hard: int = HARD) -> ConfigDict:
    return tiny_config(seed=seed, batch_size=BATCH, data__hard_negatives=hard, teacher__dim=6)


@pytest.fixture(scope="module")
def near():
    """Index of four random neighbours per record."""
    rng = np.random.default_rng(0)
    rows = [rng.permutation(np.delete(np.arange(RECORDS), i))[:NEAREST] for i in range(RECORDS)]
    return neighbour_index.NeighbourIndex(
        np.array(rows, np.int32), fingerprint="", split="train", feature="image"
    )


@pytest.fixture(scope="module")
def batches(made, near):
    """Function that returns batches of the train split of the fake data set."""
    records = source.open_split(made, "train", cache=True)
    assert len(records) == RECORDS

    def take(count, config=None, **kwargs):
        config = config or config_of()
        stream = loader.train_stream(records, config, neighbours=near, **kwargs)
        return list(itertools.islice(stream, count))

    return take


@pytest.fixture(scope="module")
def stream(batches):
    """Batches of three epochs of seeds."""
    return batches(3 * RECORDS // SEEDS)


def assert_same(got, want):
    assert len(got) == len(want)
    for batch, expected in zip(got, want, strict=True):
        for name in batch.keys() | expected.keys():
            np.testing.assert_array_equal(batch[name], expected[name], err_msg=name)


def test_every_record_is_a_seed_once_per_epoch(stream):
    index = np.concatenate([got["index"][:SEEDS] for got in stream]).reshape(3, RECORDS)
    epoch = np.concatenate([got["epoch"][:SEEDS] for got in stream]).reshape(3, RECORDS)
    np.testing.assert_array_equal(np.sort(index), np.tile(np.arange(RECORDS), (3, 1)))
    np.testing.assert_array_equal(epoch, np.repeat(np.arange(3), RECORDS).reshape(3, RECORDS))


def test_the_other_rows_are_neighbours_of_the_seeds_in_turn(stream, near):
    for step, got in enumerate(stream):
        rows = got["index"].tolist()
        for j in range(HARD):
            assert rows[SEEDS + j] in near.indices[rows[j % SEEDS]]
        assert got["epoch"][SEEDS:].tolist() == [-1 - step] * HARD


def test_no_neighbour_repeats_a_record_of_its_batch(stream):
    for got in stream:
        seeds, others = got["index"][:SEEDS], got["index"][SEEDS:]
        assert len(set(others)) == HARD and not set(others) & set(seeds)


def test_every_row_holds_the_record_at_its_index(stream, made):
    records = source.open_split(made, "train")
    for got in stream[:3]:
        for row, index in enumerate(got["index"]):
            record = records[int(index)]
            np.testing.assert_array_equal(got["xyz"][row], record["xyz"])
            for name in ("image", "text"):
                found = (record[f"{name}_features"] == got[name][row]).all(axis=1).any()
                assert found == got[f"has_{name}"][row]


def test_a_later_start_step_continues_the_same_stream(batches, stream):
    assert_same(batches(5, start_step=6), stream[6:11])


@pytest.mark.parametrize("processes", [2, 8])
def test_processes_together_load_the_batches_of_one(batches, stream, processes):
    """With two processes, a neighbour and its seed are in different parts of the batch."""
    parts = [
        batches(4, start_step=2, process_index=index, process_count=processes)
        for index in range(processes)
    ]
    joined = [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(joined, stream[2:6])


def test_without_hard_negatives_the_neighbours_are_not_used(batches, made):
    config = config_of(hard=0)
    plain = loader.train_stream(source.open_split(made, "train"), config)
    assert_same(batches(5, config), list(itertools.islice(plain, 5)))


def test_every_use_of_a_record_has_its_own_random_key(stream):
    """Otherwise augmentation would repeat; the epochs of neighbours are negative."""
    index, epoch = (np.concatenate([got[name] for got in stream]) for name in ("index", "epoch"))
    keys = jax.random.key_data(batch_spec.sample_keys(0, index, epoch))
    assert len(np.unique(keys, axis=0)) == len(index)


def make_sampler(near, *, count=BATCH, hard=HARD, seed=0):
    config = ConfigDict({"seed": seed, "batch_size": count, "data": {"hard_negatives": hard}})
    seeds = list(range(len(near))) * 2_000
    return sampler.HardNegativeSampler(seeds, np.array(near, np.int32), config, length=2**48)


def test_neighbours_are_drawn_uniformly_in_every_step_and_for_every_seed(near):
    """Record 0 is the first seed of step 0 and of every 29th step after it."""
    first = make_sampler(near.indices)
    batches = [first.batch(step) for step in range(0, 600 * RECORDS, RECORDS)]
    assert all(rows[0] == 0 for rows in batches)
    drawn = collections.Counter(rows[SEEDS] for rows in batches)
    allowed = [index for index in near.indices[0].tolist() if index not in (0, 1, 2)]
    assert set(drawn) == set(allowed)
    assert all(abs(drawn[index] - 600 / len(allowed)) < 60 for index in allowed)

    other = make_sampler(near.indices, seed=1)
    assert [other.batch(step) for step in range(9)] != [first.batch(step) for step in range(9)]


def test_a_random_record_is_drawn_if_the_batch_contains_all_neighbours():
    near = [[1, -1], [0, 2], [-1, -1], [2, 1], [1, 0]]
    batches = [make_sampler(near, count=4, hard=2, seed=seed).batch(0) for seed in range(40)]
    # The seeds are 0 and 1; 1 is the only neighbour of 0.
    assert {tuple(rows[:2]) for rows in batches} == {(0, 1)}
    assert {rows[2] for rows in batches} == {2, 3, 4}
    assert all(rows[3] == 2 for rows in batches if rows[2] != 2)
    assert {rows[3] for rows in batches if rows[2] == 2} == {3, 4}
