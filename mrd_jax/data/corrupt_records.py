# SPDX-License-Identifier: Apache-2.0
"""Replaces, counts and logs corrupt records of the training split.

Another record of the split replaces a corrupt one, chosen by the seed and the position of its row
in the stream. Batches therefore keep their shape, batch-norm statistics see real samples only, and
the stream remains a pure function of (seed, step) and the set of corrupt records: the same for any
number of processes, and after a restart.
"""

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mrd_jax import storage
from mrd_jax.data import source

LOGGER = logging.getLogger(__name__)

# Files in the workdir, one per process; each process writes its own and reads all.
FILES = "corrupt_records.*.jsonl"
# Files that version 0.1 wrote; read when a run of that version is continued.
OLD_FILES = "damaged_records.*.jsonl"
# Fields of a record that must have the same length.
EQUAL_LENGTHS = (("image_kinds", "image_features"), ("caption_kinds", "text_features"))
# Labels are transferred to the devices as int32.
MAX_LABEL = 2**31


class TooManyCorruptRecordsError(RuntimeError):
    """More records are corrupt than `config.data.corrupt_records` allows; names the last one."""


def find_inconsistency(record: Mapping[str, Any]) -> str:
    """Returns why the decoded fields of a record are inconsistent; "" if they are consistent."""
    for kinds, features in EQUAL_LENGTHS:
        counts = len(record[kinds]), len(record[features])
        if counts[0] != counts[1]:
            return f"{counts[0]} {kinds} for {counts[1]} {features}"
    if not -1 <= record["label"] < MAX_LABEL:
        return f"label {record['label']}, expected -1 to {MAX_LABEL - 1}"
    return ""


class CorruptRecords:
    """Corrupt records that a run has met, and the records that replace them."""

    def __init__(
        self,
        records: source.RecordSource,
        config: ConfigDict,
        *,
        workdir: storage.PathLike | None = None,
        process_index: int = 0,
    ):
        """Reads the corrupt records that the run has met so far.

        Args:
          records: training split.
          config: config of the run; reads seed, batch_size and data.corrupt_records.
          workdir: folder of the run; its files `corrupt_records.PROCESS.jsonl` persist the corrupt
            records, so that a restart continues counting. None keeps no files.
          process_index: index of this process.
        """
        self._records = records
        self._seed = config.seed
        self._batch_size = config.batch_size
        self._limit = config.data.corrupt_records
        self._path = None
        # First step that met each corrupt record, and its error, by position in the split.
        self._first_steps: dict[int, int] = {}
        self._errors: dict[int, str] = {}
        # Batches are loaded by several threads.
        self._lock = threading.Lock()
        if workdir is not None:
            folder = storage.path(workdir)
            self._path = folder / FILES.replace("*", str(process_index))
            for path in sorted([*folder.glob(OLD_FILES), *folder.glob(FILES)]):
                for line in path.read_text().splitlines():
                    # A crash can truncate the last line only; its record will be met again.
                    if line.endswith("}"):
                        entry = json.loads(line)
                        self._add_step(entry["record"], entry["step"])

    def count(self, step: int) -> int:
        """Returns the number of distinct corrupt records met up to and including a step."""
        return sum(first <= step for first in list(self._first_steps.values()))

    def check(self, step: int) -> None:
        """Checks the number of distinct corrupt records met up to and including a step.

        Raises:
          TooManyCorruptRecordsError: it is larger than `config.data.corrupt_records`.
        """
        if self.count(step) > self._limit:
            met = [index for index, first in list(self._first_steps.items()) if first <= step]
            error = self._errors.get(max(met, key=self._first_steps.__getitem__), "")
            raise TooManyCorruptRecordsError(
                f"{error} config.data.corrupt_records allows {self._limit} corrupt records, and "
                "this is one more; `python -m data_prep.verify` lists all of them."
            )

    def replace(
        self,
        index: int,
        error: source.CorruptRecordError,
        *,
        position: int,
        read: Callable[[int], dict[str, Any]],
        batch: Callable[[int], Sequence[int]],
    ) -> dict[str, Any]:
        """Adds a corrupt record and reads a replacement.

        The replacement is a record that the batch does not contain, if there are enough: the
        losses would take two copies of a record for different shapes.

        Args:
          index: position of the corrupt record in the split.
          error: error raised by reading it.
          position: position of its row in the stream of all rows.
          read: function that reads a record; raises CorruptRecordError.
          batch: function from a step to the planned records of its rows.

        Returns:
          The result of `read` for the replacement.

        Raises:
          TooManyCorruptRecordsError: the config allows fewer corrupt records, or every record of
            the split is corrupt.
        """
        step, row = divmod(position, self._batch_size)
        self._add(index, error, step=step)
        order = np.random.default_rng((self._seed, step, 1)).permutation(len(self._records))
        planned = set(batch(step))
        unused = [i for i in order.tolist() if i not in planned]
        # Rows try disjoint candidates first, so that no two rows of a batch take the same one.
        for candidate in (*unused[row :: self._batch_size], *unused, *order.tolist()):
            try:
                return read(candidate)
            except source.CorruptRecordError as candidate_error:
                self._add(candidate, candidate_error, step=step)
        raise TooManyCorruptRecordsError(
            f"every record of the split is corrupt; the last error: {error}"
        )

    def _add(self, index: int, error: source.CorruptRecordError, *, step: int) -> None:
        """Adds a corrupt record, with a warning if it is new; raises if there are too many."""
        with self._lock:
            is_new = index not in self._first_steps
            # Threads may meet a record in a later step first; then the file gets a second line.
            has_changed = self._add_step(index, step)
            self._errors[index] = str(error)
            if has_changed and self.count(step) <= self._limit:
                entry = {"record": index, "step": step, "id": self._read_id(index)}
                self._append(entry | {"error": str(error)})
                if is_new:
                    LOGGER.warning(
                        "record %s is corrupt and is replaced, %d of at most %d: %s",
                        entry["id"] or "of unknown id",
                        len(self._first_steps),
                        self._limit,
                        error,
                    )
        self.check(step)

    def _append(self, entry: dict[str, Any]) -> None:
        """Appends a line to the file of this process."""
        if self._path is not None:
            storage.append_text(self._path, json.dumps(entry) + "\n")

    def _add_step(self, index: int, step: int) -> bool:
        """Updates the first step that met a record; returns whether it has changed."""
        first = min(step, self._first_steps.get(index, step))
        changed = self._first_steps.get(index) != first
        self._first_steps[index] = first
        return changed

    def _read_id(self, index: int) -> str:
        """Returns the id of a corrupt record if that field is intact, otherwise ""."""
        try:
            return self._records.read(index, ("id",))["id"]
        except source.CorruptRecordError:
            return ""
