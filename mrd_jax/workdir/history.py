# SPDX-License-Identifier: Apache-2.0
"""Reads metrics.jsonl back as one curve per key."""

import json
import math
import pathlib

import numpy as np

# In the workdir; see `mrd_jax.workdir.metrics.MetricWriter`.
FILE = "metrics.jsonl"

# json has no word for these, so the writer puts them in quotes.
_NOT_FINITE = ("nan", "inf", "-inf")


def read_metrics(path: str | pathlib.Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads the metrics of a run, each key as a curve over steps.

    Where a step occurs twice, the later value counts. A last line without its newline is the
    mark of a killed run and is left out.

    Args:
      path: one JSON object per line with "step" and numbers.

    Returns:
      By key, int64 [points] steps in rising order and float64 [points] values; a number that is
      not finite comes back as NaN, which a figure shows as a gap.

    Raises:
      ValueError: where a whole line is not JSON or has no step, naming file and line.
    """
    path = pathlib.Path(path)
    whole, _, _ = path.read_text("utf-8").rpartition("\n")
    curves: dict[str, dict[int, float]] = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        step, values = _parse(line, where=f"{path}, line {number}")
        for key, value in values.items():
            curves.setdefault(key, {})[step] = value
    return {key: _as_arrays(points) for key, points in curves.items()}


def _parse(line: str, *, where: str) -> tuple[int, dict[str, float]]:
    """Returns the step and the numbers of one line."""
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error}); remove the line") from error
    if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
        raise ValueError(f'{where}: found {line[:60]!r}, expected an object with a whole "step"')
    numbers = {
        key: math.nan if value in _NOT_FINITE else float(value)
        for key, value in entry.items()
        if isinstance(value, int | float) or value in _NOT_FINITE
    }
    step = numbers.pop("step")
    return int(step), numbers


def _as_arrays(points: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """Sorts the points of a curve by step."""
    steps = np.asarray(sorted(points), dtype=np.int64)
    return steps, np.asarray([points[step] for step in steps])
