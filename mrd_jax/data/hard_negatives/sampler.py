# SPDX-License-Identifier: Apache-2.0
"""Sampling of batches with hard negatives, a pure function of (seed, step)."""

import functools
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict


class HardNegativeSampler:
    """Sequence of the records of all rows of all batches.

    A batch starts with its seeds, the next records of the shuffled split, followed by neighbours:
    neighbour j belongs to seed j modulo the number of seeds, and is drawn uniformly from the
    nearest records of that seed that the batch does not contain yet. If it contains all of them, a
    random record is taken. Hence no neighbour repeats a record of its batch, and every record is a
    seed once per epoch.

    Args:
      seeds: record of each seed of the stream, an infinite sequence.
      nearest: int32 [records, neighbours] to draw from; -1 pads short lists.
      config: config of the run; reads seed, batch_size (at most the number of records) and
        data.hard_negatives (less than batch_size).
      length: number of rows of the stream.
    """

    def __init__(
        self, seeds: Sequence[int], nearest: np.ndarray, config: ConfigDict, *, length: int
    ):
        self._seeds = seeds
        self._nearest = nearest
        self._seed = config.seed
        self._batch_size = config.batch_size
        self._hard = config.data.hard_negatives
        self._length = length
        # Batches are read row by row, a few of them at a time.
        self._batch = functools.lru_cache(maxsize=16)(self.batch)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: int) -> int:
        step, row = divmod(position, self._batch_size)
        return self._batch(step)[row]

    def batch(self, step: int) -> list[int]:
        """Returns the records of the rows of one batch, the same in every process."""
        count = self._batch_size - self._hard
        rows = [int(self._seeds[step * count + row]) for row in range(count)]
        # -1 pads short lists and is not a record.
        taken = {-1, *rows}
        for j, draw in enumerate(np.random.default_rng((self._seed, step)).random(self._hard)):
            nearest = self._nearest[rows[j % count]].tolist()
            chosen = self._choose([index for index in nearest if index not in taken], draw, taken)
            rows.append(chosen)
            taken.add(chosen)
        return rows

    def _choose(self, choices: list[int], draw: float, taken: set[int]) -> int:
        """Picks one of the choices, or any record that is not taken; draw is in [0, 1)."""
        if choices:
            return choices[int(draw * len(choices))]
        records = len(self._nearest)
        index = int(draw * records)
        while index in taken:
            index = (index + 1) % records
        return index


def epoch_of(position: int, records: int, config: ConfigDict) -> int:
    """Returns a number that distinguishes the uses of one record, for their random keys.

    Args:
      position: position of the row in the stream of all rows.
      records: number of records of the split.
      config: config of the run; reads batch_size and data.hard_negatives.

    Returns:
      For a seed, its epoch, from 0; for a neighbour -(1 + step).
    """
    step, row = divmod(position, config.batch_size)
    seeds = config.batch_size - config.data.hard_negatives
    return (step * seeds + row) // records if row < seeds else unscheduled_epoch(position, config)


def unscheduled_epoch(position: int, config: ConfigDict) -> int:
    """Returns -(1 + step), the epoch of neighbours and of records that replace corrupt ones."""
    return -1 - position // config.batch_size
