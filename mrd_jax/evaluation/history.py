# SPDX-License-Identifier: Apache-2.0
"""History of a run, read from its `metrics.jsonl`: curves over steps, and the evaluations."""

import json
import math

import numpy as np

from mrd_jax import storage

# File in the workdir, written by `mrd_jax.training.metrics.MetricWriter`.
FILE = "metrics.jsonl"
# Prefix of the metrics that evaluations report.
EVALUATION = "test/"

# Strings that stand for non-finite values, which JSON cannot represent.
_NON_FINITE = ("nan", "inf", "-inf")
# Metric names of version 0.1 -> current names.
_RENAMED = {
    "train/total": "train/loss",
    "train/waiting_for_data": "train/data_wait_fraction",
    "train/waiting_process": "train/data_wait_process",
    "train/damaged_records": "train/corrupt_records",
}


def read_metrics(path: storage.PathLike) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads the metrics of a run, each as a curve over steps.

    If a step occurs twice, the later value counts. An incomplete last line, which a killed process
    leaves behind, is ignored.

    Args:
      path: file with one JSON object per line, which has "step" and numbers.

    Returns:
      By metric name, the steps, int64 [points] in increasing order, and the values, float64
      [points]; a non-finite value is NaN.

    Raises:
      ValueError: a complete line is not JSON or has no step; the message names file and line.
    """
    curves: dict[str, dict[int, float]] = {}
    for number, line in enumerate(complete_lines(path), start=1):
        step, values = _parse(line, where=f"{path}, line {number}")
        for key, value in values.items():
            curves.setdefault(_RENAMED.get(key, key), {})[step] = value
    return {key: _as_arrays(points) for key, points in curves.items()}


def evaluations(workdir: storage.PathLike) -> dict[int, dict[str, float]]:
    """Reads the evaluations of a run.

    Args:
      workdir: folder of the run; it need not have any metrics yet.

    Returns:
      By step, the values of the `test/...` metrics by name.

    Raises:
      ValueError: a complete line is not JSON or has no step; the message names file and line.
    """
    path = storage.path(workdir) / FILE
    by_step: dict[int, dict[str, float]] = {}
    for name, (steps, values) in (read_metrics(path) if path.exists() else {}).items():
        if name.startswith(EVALUATION):
            for step, value in zip(steps.tolist(), values.tolist(), strict=True):
                by_step.setdefault(step, {})[name] = value
    return by_step


def complete_lines(path: storage.PathLike) -> list[str]:
    """Reads the lines of a file that end in a newline; a killed process may leave a partial one."""
    complete, _, _ = storage.path(path).read_text().rpartition("\n")
    return complete.splitlines()


def _parse(line: str, *, where: str) -> tuple[int, dict[str, float]]:
    """Parses one line into its step and its values by metric name."""
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error}); remove the line") from error
    if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
        raise ValueError(f'{where}: found {line[:60]!r}, expected an object with a whole "step"')
    numbers = {
        key: math.nan if value in _NON_FINITE else float(value)
        for key, value in entry.items()
        if isinstance(value, int | float) or value in _NON_FINITE
    }
    step = numbers.pop("step")
    return int(step), numbers


def _as_arrays(points: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the steps of a curve in increasing order, and the values."""
    steps = np.asarray(sorted(points), dtype=np.int64)
    return steps, np.asarray([points[step] for step in steps])
