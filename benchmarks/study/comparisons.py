# SPDX-License-Identifier: Apache-2.0
"""Comparisons of finished runs: means, paired differences with intervals, and their text."""

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.study import execution, measure
from mrd_jax.evaluation import table
from mrd_jax.evaluation.metrics import bootstrap, classification

Results = Sequence[execution.Result]
# With 10,000, no p-value that is corrected for 85 tests could be below 0.01.
DRAWS = 20_000


def paired(found: Results) -> dict[str, list[execution.Result]]:
    """Returns the runs by method that every method has, in one order."""
    by_method: dict[str, dict[int, execution.Result]] = {}
    for result in found:
        by_method.setdefault(result.run["setting"], {})[result.run["seed"]] = result
    seeds = set.intersection(*(set(runs) for runs in by_method.values()))
    return {name: [runs[seed] for seed in sorted(seeds)] for name, runs in by_method.items()}


def comparable(found: Results, names: Sequence[str]) -> bool:
    """Returns whether some seed has a run of each of these methods."""
    by_method = paired(found)
    return set(names) <= by_method.keys() and all(by_method.values())


def mean(metric: measure.Metric, runs: Results) -> float:
    """Returns the metric over the shapes of all runs, between 0 and 1."""
    values, _, classes = _per_query(metric, runs)
    return classification.mean_per_class(np.concatenate(values), labels=np.concatenate(classes))


def interval(metric: measure.Metric, runs: Results) -> str:
    """Formats the metric over all runs, and its interval."""
    values, groups, classes = _per_query(metric, runs)
    found = bootstrap.mean_interval(values, groups=groups, classes=classes, draws=DRAWS)
    return f"{table.percent(found.mean)} [{table.percent(found.low)}, {table.percent(found.high)}]"


def difference(metric: measure.Metric, first: Results, second: Results) -> bootstrap.Difference:
    """Returns the first method minus the second, whose runs have the same shapes in pairs."""
    values, groups, classes = _per_query(metric, first)
    return bootstrap.paired_difference(
        values, _per_query(metric, second)[0], groups=groups, classes=classes, draws=DRAWS
    )


def _per_query(metric: measure.Metric, runs: Results) -> tuple[list, list, list]:
    values, groups, classes = zip(
        *(metric.per_query(run.values, run.layout) for run in runs), strict=True
    )
    return list(values), list(groups), list(classes)


def query_count(metric: measure.Metric, runs: Results) -> int:
    """Returns the number of different queries; those of runs on the same shapes are the same."""
    layouts = {execution.split_name(run.run): run.layout for run in runs}
    return sum(
        len(layout.queries[kind]) for layout in layouts.values() for kind in set(metric.kinds)
    )


def percent(value: float | None) -> str:
    """Formats a fraction in percent; "" for None."""
    return "" if value is None else table.percent(value)


def signed(found: bootstrap.Difference) -> str:
    """Formats a difference and its interval in points, and a place for its p-value."""
    center, low, high = (f"{100 * value:+.1f}" for value in found[:3])
    return f"{center} [{low}, {high}], {{}}"


def fill(rows: Sequence[Sequence[str]], p_values: Iterator[str]) -> list[list[str]]:
    """Returns rows whose places `{}` have the next p-values."""
    return [[cell.format(next(p_values)) if "{}" in cell else cell for cell in row] for row in rows]


def corrected(p_values: Sequence[float]) -> Iterator[str]:
    """Formats p-values after Holm's correction, in their order.

    Args:
      p_values: of `difference`, whose resamples bound them from below: where none contradicts the
        sign of the difference, the text is an upper bound.
    """
    lowest = len(p_values) * 2 / (DRAWS + 1)
    for value in bootstrap.holm(p_values):
        bounded = value < 1 and value <= lowest * (1 + 1e-9)
        yield f"p ≤ {value:.4f}" if bounded else p_text(value)


def p_text(value: float) -> str:
    """Formats a p-value."""
    return f"p = {value:.4f}" if value >= 0.0001 else "p < 0.0001"
