# SPDX-License-Identifier: Apache-2.0
"""Status of a build in one JSON file, and one line per minute on stdout.

The file is replaced atomically every few seconds, also while no item finishes. A build that was
killed leaves the state "running" and a time of the last update in the past.
"""

import collections
import contextlib
import dataclasses
import datetime
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import tqdm

from data_prep import parts, summary
from data_prep.geometry.listing import printable
from data_prep.options import Options
from data_prep.progress import Snapshot
from mrd_jax import atomic_io

# Seconds between two versions of the file, and between two lines.
WRITE_SECONDS, LINE_SECONDS = 10.0, 60.0
# Rates are those of the last ten minutes: the cost of items varies, and machines join and leave.
WINDOW_SECONDS = 600.0
# Reasons that the file lists by name.
MAX_REASONS = 50
# Reasons in a line.
_LINE_REASONS = 3


def path_of(output: Path, part: parts.Part) -> Path:
    """Returns the status file of a build.

    Args:
      output: folder of the build.
      part: part that it prepares; parts may share a folder.
    """
    suffix = "" if part == parts.WHOLE else f"-{part.index}-of-{part.count}"
    return output / f"status{suffix}.json"


class Rate:
    """Items per second over the last `WINDOW_SECONDS`."""

    def __init__(self) -> None:
        self._samples: collections.deque[tuple[float, int]] = collections.deque()

    def add(self, now: float, done: int) -> None:
        """Adds a sample.

        Args:
          now: time in seconds.
          done: number of items that were done until then, without reused ones.
        """
        self._samples.append((now, done))
        while len(self._samples) > 2 and self._samples[1][0] <= now - WINDOW_SECONDS:
            self._samples.popleft()

    def per_second(self, now: float) -> float:
        """Returns the rate until now; 0 without two samples."""
        if not self._samples or now <= self._samples[0][0]:
            return 0.0
        return (self._samples[-1][1] - self._samples[0][1]) / (now - self._samples[0][0])


class Status:
    """Listener of the progress of a build that keeps its status file; a context manager.

    Args:
      path: file to write; its folder exists.
      about: facts of the build, such as source and teacher.
      clock: returns the time in seconds.
    """

    def __init__(
        self,
        path: Path,
        about: Mapping[str, Any],
        *,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._path = path
        self._about = dict(about)
        self._clock = clock
        self._started = datetime.datetime.now(datetime.UTC)
        self._lock = threading.Lock()
        self._snapshots: dict[str, Snapshot] = {}
        self._rates: dict[str, Rate] = {}
        self._times: dict[str, tuple[float, float]] = {}  # of the first and the last snapshot
        self._is_written = True
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)

    def __enter__(self) -> "Status":
        self._write("running")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        if error is None:
            self._write("finished")
        else:
            state = "failed" if isinstance(error, Exception) else "interrupted"
            self._write(state, error=f"{type(error).__name__}: {error}")

    def __call__(self, snapshot: Snapshot) -> None:
        """Notes the progress of a stage; implements `progress.Listener`."""
        now = self._clock()
        with self._lock:
            is_new = snapshot.stage not in self._snapshots
            self._snapshots[snapshot.stage] = snapshot
            self._times[snapshot.stage] = (self._times.get(snapshot.stage, (now,))[0], now)
            rate = self._rates.setdefault(snapshot.stage, Rate())
            rate.add(now, snapshot.done - snapshot.reused)
        if is_new or snapshot.finished:
            self._write("running")

    def content(self, state: str, *, error: str = "") -> dict[str, Any]:
        """Returns the content of the file.

        Args:
          state: "running", "finished", "failed" or "interrupted".
          error: what ended the build, or "".
        """
        with self._lock:
            stages = {name: self._describe(name) for name in self._snapshots}
        now = datetime.datetime.now(datetime.UTC)
        return {
            "state": state,
            **({"error": error} if error else {}),
            "started": self._started.isoformat(timespec="seconds"),
            "updated": now.isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "build": self._about,
            "stages": stages,
        }

    def line(self) -> str:
        """Returns the progress of the stage that works, in one line; "" if none does."""
        with self._lock:
            working = [name for name, each in self._snapshots.items() if not each.finished]
            return format_line(working[-1], self._describe(working[-1])) if working else ""

    def _describe(self, stage: str) -> dict[str, Any]:
        """Returns the counts and times of a stage."""
        snapshot, (first, last) = self._snapshots[stage], self._times[stage]
        now = last if snapshot.finished else self._clock()
        per_second = self._rates[stage].per_second(now)
        if snapshot.finished:
            per_second = (snapshot.done - snapshot.reused) / (last - first) if last > first else 0.0
        left = None
        if snapshot.total is not None and per_second > 0:
            left = round((snapshot.total - snapshot.done) / per_second)
        fields = dataclasses.asdict(snapshot) | {
            "skipped": count_by_kind(snapshot.skipped),
            "retried": count_by_kind(snapshot.retried),
            "seconds": round(now - first, 1),
            "seconds_since_progress": round(now - last, 1),
            "per_second": float(f"{per_second:.4g}"),
            "seconds_left": left,
        }
        del fields["stage"]
        return fields

    def _run(self) -> None:
        """Writes the file and prints lines until the build ends."""
        next_line = self._clock() + LINE_SECONDS
        while not self._ended.wait(WRITE_SECONDS):
            self._write("running")
            if self._clock() >= next_line:
                next_line += LINE_SECONDS
                line = self.line()
                if line:
                    # Moves a progress bar out of the way.
                    tqdm.tqdm.write(f"{datetime.datetime.now():%H:%M:%S} {line}", file=sys.stdout)
                    sys.stdout.flush()

    def _write(self, state: str, *, error: str = "") -> None:
        """Replaces the file. A full disk ends a build where it writes data, not here."""
        text = json.dumps(self.content(state, error=error), indent=1, ensure_ascii=False)
        try:
            atomic_io.write_bytes(self._path, f"{text}\n".encode("utf-8", "replace"))
        except OSError as problem:
            if self._is_written:
                print(f"warning: {self._path} cannot be written: {problem}", file=sys.stderr)
            self._is_written = False


def count_by_kind(counts: Mapping[str, int]) -> dict[str, int]:
    """Sums counts of reasons that differ in numbers only, the most frequent ones first.

    Returns:
      Reason, with "N" for numbers that differ -> count; "other" for those beyond `MAX_REASONS`.
    """
    return sum_counts(
        {kind: sum(counts[text] for text in texts)} for kind, texts in summary.group(counts)
    )


def sum_counts(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Sums counts by kind, the most frequent kinds first; see `count_by_kind`."""
    totals: collections.Counter[str] = collections.Counter()
    for counts in parts:
        totals.update(counts)
    ordered = sorted(totals.items(), key=lambda pair: (-pair[1], pair[0]))
    kinds = dict(ordered[:MAX_REASONS])
    other = sum(count for _, count in ordered[MAX_REASONS:])
    return kinds | ({"other": other} if other else {})


def format_line(stage: str, fields: Mapping[str, Any]) -> str:
    """Returns the progress of a stage in one line.

    Args:
      stage: name of the stage.
      fields: its fields in the status file.
    """
    total, done = fields["total"], fields["done"]
    share = f" of {total:,} ({done / total:.1%})" if total else ""
    line = f"{stage}: {done:,}{share} {fields['unit']}s, {fields['per_second']:.3g}/s"
    if not fields["finished"] and fields["seconds_left"] is not None:
        line += f", {format_seconds(fields['seconds_left'])} left"
    for name in ("skipped", "retried"):
        kinds = fields[name]
        if kinds:
            first = [*kinds.items()][:_LINE_REASONS]
            listed = [f"{printable(kind)}: {count:,}" for kind, count in first]
            more = ", ..." if len(kinds) > _LINE_REASONS else ""
            line += f"; {name} {sum(kinds.values()):,} ({', '.join(listed)}{more})"
    return line


def format_seconds(seconds: float) -> str:
    """Returns a duration in two units: "2 d 3 h", "3 h 20 min", "4 min", "50 s"."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{round(seconds)} s"
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return "{} d {} h".format(*divmod(hours, 24))


@contextlib.contextmanager
def watching(options: Options) -> Iterator[Options]:
    """Keeps the status file of a build, and returns options whose listener fills it.

    Args:
      options: options of the build.
    """
    execution = options.execution
    about = {"source": options.source, "input": str(options.input), "teacher": options.teacher}
    about["part"] = str(execution.part)
    with Status(path_of(options.output, execution.part), about) as status:

        def listener(snapshot: Snapshot) -> None:
            status(snapshot)
            execution.listener(snapshot)

        yield dataclasses.replace(
            options, execution=dataclasses.replace(execution, listener=listener)
        )
