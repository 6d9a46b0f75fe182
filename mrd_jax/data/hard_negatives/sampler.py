# SPDX-License-Identifier: Apache-2.0
"""Which records a batch with hard negatives holds, a pure function of (seed, step)."""

import functools
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict


class Order:
    """Records of all rows of all batches, batch after batch.

    A batch begins with its seeds, the next records of the shuffled split, and goes on with
    neighbours of them: neighbour j belongs to seed j modulo the number of seeds, and is drawn
    evenly from the nearest records of that seed that the batch does not have yet. Where it has
    them all, a random record takes the place. So no neighbour repeats a record of its batch, and
    every record is a seed once an epoch.

    Args:
      seeds: record of each seed of the stream, endless.
      nearest: int32 [records, neighbours] to draw from; -1 where there are fewer.
      config: the run's config; reads seed, batch_size (at most the number of records) and
        data.hard_negatives (less than batch_size).
      length: rows of the whole stream.
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
        # A batch is asked for row by row, and a few may be read at once.
        self._batch = functools.lru_cache(maxsize=16)(self.batch)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: int) -> int:
        step, row = divmod(position, self._batch_size)
        return self._batch(step)[row]

    def batch(self, step: int) -> list[int]:
        """Records of the rows of one batch; the same in every process."""
        count = self._batch_size - self._hard
        rows = [int(self._seeds[step * count + place]) for place in range(count)]
        # What marks the end of a list is no record.
        taken = {-1, *rows}
        for j, chance in enumerate(np.random.default_rng((self._seed, step)).random(self._hard)):
            near = self._nearest[rows[j % count]].tolist()
            chosen = self._draw([index for index in near if index not in taken], chance, taken)
            rows.append(chosen)
            taken.add(chosen)
        return rows

    def _draw(self, choices: list[int], chance: float, taken: set[int]) -> int:
        """One of the choices, or of all records that are not taken; chance is in [0, 1)."""
        if choices:
            return choices[int(chance * len(choices))]
        records = len(self._nearest)
        index = int(chance * records)
        while index in taken:
            index = (index + 1) % records
        return index


def epoch_of(position: int, records: int, config: ConfigDict) -> int:
    """Tells apart the appearances of one record, for the random numbers that each has of its own.

    Args:
      position: of the row in the stream of all rows.
      records: of the split.
      config: the run's config; reads batch_size and data.hard_negatives.

    Returns:
      how often the record had been a seed before; for a neighbour -(1 + step), which no other
      appearance of the record has.
    """
    step, row = divmod(position, config.batch_size)
    seeds = config.batch_size - config.data.hard_negatives
    return (step * seeds + row) // records if row < seeds else unplanned_epoch(position, config)


def unplanned_epoch(position: int, config: ConfigDict) -> int:
    """`epoch_of` a record that is at this place for another reason than its turn."""
    return -1 - position // config.batch_size
