# SPDX-License-Identifier: Apache-2.0
"""Records that training leaves out because they are damaged: counted, named, and replaced.

The row of a damaged record goes to another record of the split, which the seed and the row's place
in the stream decide. So the batches keep their shapes, no row is made up (it would enter the
statistics of the batch norms), and the stream stays a pure function of (seed, step) and of what is
damaged: the same for any number of processes, and after a restart.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from mrd_jax.data import source

LOGGER = logging.getLogger(__name__)

# Every process of a run writes one of these into the workdir, and reads all.
FILES = "corrupt_records.*.jsonl"
# Lists of a record that say things of the rows of another field.
PAIRS = (("image_kinds", "image_features"), ("caption_kinds", "text_features"))
# Labels cross to the devices as int32.
MAX_LABEL = 2**31


class TooManyCorruptRecordsError(RuntimeError):
    """More records are damaged than the config allows; names the last of them."""


def check(data: ConfigDict) -> None:
    """ValueError where data.corrupt_records is negative."""
    if data.corrupt_records < 0:
        raise ValueError(
            f"config.data.corrupt_records is {data.corrupt_records}; expected 0, which stops at "
            "the first, or how many may be left out"
        )


def contradiction(record: Mapping[str, Any]) -> str:
    """What no row of a batch can be made of, although every field could be read; "" for nothing."""
    for kinds, features in PAIRS:
        counts = len(record[kinds]), len(record[features])
        if counts[0] != counts[1]:
            return f"{counts[0]} {kinds} of {counts[1]} {features}"
    if not -1 <= record["label"] < MAX_LABEL:
        return f"label {record['label']}, expected -1 to {MAX_LABEL - 1}"
    return ""


class CorruptRecords:
    """The damaged records that a run has met, and what stands in for them."""

    def __init__(
        self,
        records: source.RecordSource,
        config: ConfigDict,
        *,
        workdir: str | os.PathLike | None = None,
        process_index: int = 0,
    ):
        """Begins with those that earlier processes of the run have met.

        Args:
          records: the training split.
          config: the run's config; reads seed, batch_size and data.corrupt_records.
          workdir: of the run, whose `corrupt_records.PROCESS.jsonl` remember what was met, so that
            a restart does not begin to count anew; None remembers nothing.
          process_index: of this process.
        """
        self._records = records
        self._seed = config.seed
        self._batch_size = config.batch_size
        self._limit = config.data.corrupt_records
        self._path = None
        # Record -> the first step that met it.
        self._met: dict[int, int] = {}
        if workdir is not None:
            self._path = epath.Path(workdir) / FILES.replace("*", str(process_index))
            for path in sorted(epath.Path(workdir).glob(FILES)):
                for line in path.read_text().splitlines():
                    # A line cut by a crash can only be the last; its record will be met again.
                    if line.endswith("}"):
                        entry = json.loads(line)
                        self._remember(entry["record"], entry["step"])

    def count(self, step: int) -> int:
        """Distinct records met up to and with this step, counted from 0."""
        return sum(first <= step for first in list(self._met.values()))

    def replace(
        self,
        index: int,
        error: source.CorruptRecordError,
        *,
        position: int,
        read: Callable[[int], dict[str, Any]],
        batch: Callable[[int], Sequence[int]],
    ) -> dict[str, Any]:
        """Takes note of a damaged record, and reads the one that stands in for it.

        It is one that the batch does not hold, as long as there are enough: a record that is there
        twice would be taken for two shapes that differ.

        Args:
          index: of the damaged record.
          error: what is wrong with it.
          position: of its row in the stream of all rows.
          read: reads a record; raises CorruptRecordError.
          batch: step -> the records of its rows, as they were meant.

        Returns:
          what `read` gives for the record that stands in.

        Raises:
          TooManyCorruptRecordsError: with this one, more are damaged than the config allows, or no record
            is left.
        """
        step, row = divmod(position, self._batch_size)
        self._note(index, error, step=step)
        order = np.random.default_rng((self._seed, step, 1)).permutation(len(self._records))
        held = set(batch(step))
        free = [i for i in order.tolist() if i not in held]
        # Each row has candidates of its own, so that no two rows of a batch take the same one.
        for other in (*free[row :: self._batch_size], *free, *order.tolist()):
            try:
                return read(other)
            except source.CorruptRecordError as second:
                self._note(other, second, step=step)
        raise TooManyCorruptRecordsError(
            f"every record of the split is damaged. The last one: {error}"
        )

    def _note(self, index: int, error: source.CorruptRecordError, *, step: int) -> None:
        """Counts a record that was not met before, unless that is one too many."""
        known = index in self._met
        if not known and len(self._met) >= self._limit:
            raise TooManyCorruptRecordsError(
                f"{error} config.data.corrupt_records lets {self._limit} damaged records be left "
                "out, and this is one more; `python -m data_prep.verify` lists all of them."
            ) from error
        if self._remember(index, step) and not known:
            entry = {"record": index, "step": step, "id": self._id(index), "error": str(error)}
            LOGGER.warning(
                "record %s is damaged and left out, %d of at most %d: %s",
                entry["id"] or "of unknown id",
                len(self._met),
                self._limit,
                error,
            )
            if self._path is not None:
                with self._path.open("a") as file:
                    file.write(json.dumps(entry) + "\n")

    def _remember(self, index: int, step: int) -> bool:
        """Keeps the first step that met a record, and says whether that is this one."""
        first = min(step, self._met.get(index, step))
        news = self._met.get(index) != first
        self._met[index] = first
        return news

    def _id(self, index: int) -> str:
        """The record's id, which may have been spared."""
        try:
            return self._records.read(index, ("id",))["id"]
        except source.CorruptRecordError:
            return ""
