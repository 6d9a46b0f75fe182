# SPDX-License-Identifier: Apache-2.0
"""Tables of the study on held-out shapes, with intervals and p-values, from stored results."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.study import execution, measure, settings
from mrd_jax.evaluation import table
from mrd_jax.evaluation.metrics import bootstrap, statistics

Results = Sequence[execution.Result]
# With 10,000, no p-value that is corrected for 60 tests could be below 0.01.
DRAWS = 20_000
_TEACHER = "teacher"
AIMS = (measure.TOP1, measure.MAP, measure.RETRIEVAL)


def methods(found: Results, baselines: Mapping[str, Any]) -> str:
    """Formats every metric of every method on one data set, and all differences.

    Args:
      found: runs of one data set in the stage `test`, with every method on the same shapes.
      baselines: baselines by name of the split, see `execution.Study.baselines`.
    """
    by_method = _paired(found)
    means, differences, count = _compare(by_method, settings.CONTRASTIVE.name)
    return "\n\n".join(
        [
            means,
            differences,
            f"{_runs(by_method)} p-values: Holm's correction over the {count} tests of the table. "
            + " ".join([_mcnemar(by_method), *_on_first_fold(by_method)]),
            _baselines(by_method[settings.MRD], baselines),
        ]
    )


def transfer(found: Results) -> str:
    """Formats what the parts add to MRD on the furniture.

    Args:
      found: runs of the stage `transfer`, and those of MRD on the furniture of the stage `test`.
    """
    by_method = _paired(found)
    means, differences, count = _compare(by_method, settings.MRD)
    return (
        f"{means}\n\n{differences}\n\n{_runs(by_method)} p-values: Holm's correction over the "
        f"{count} tests of the table."
    )


def _compare(by_method: Mapping[str, list[execution.Result]], base: str) -> tuple[str, str, int]:
    """Formats every metric of every method, and the differences to one of them.

    MRD is also compared with contrastive alignment with half the steps, where that was run.

    Args:
      by_method: runs on the same shapes.
      base: method that the others are compared with.

    Returns:
      Table of metrics, table of differences with corrected p-values, and number of tests.
    """
    others = [name for name in by_method if name != base]
    pairs, titles = [(name, base) for name in others], list(others)
    if settings.SHORTER in by_method:
        pairs.append((settings.MRD, settings.SHORTER))
        titles.append(f"{settings.MRD}, difference to {settings.SHORTER}")
    metrics = [metric for metric in measure.METRICS if metric.present(by_method[base][0].values)]
    rows, differences = [["%", base, *others]], [[f"difference to {base}", *titles]]
    tests = []
    for metric in metrics:
        intervals = (_interval(metric, by_method[name]) for name in (base, *others))
        rows.append([metric.title, *intervals])
        found = [
            _difference(metric, by_method[first], by_method[second]) for first, second in pairs
        ]
        tests += [each.p_value for each in found]
        differences.append([metric.title, *(f"{_signed(each)}, {{}}" for each in found)])
    differences = _with_corrected(differences, tests)
    return table.format_markdown(rows), table.format_markdown(differences), len(tests)


def comparable(found: Results, names: Sequence[str]) -> bool:
    """Returns whether some seed has a run of each of these methods."""
    by_method = _paired(found)
    return set(names) <= by_method.keys() and all(by_method.values())


def regimes(found: Results) -> str:
    """Formats MRD against contrastive alignment, of both lengths, in every regime.

    Args:
      found: runs of the stage `regimes`, and of the parts in the stage `test`. Folds that some
        condition lacks are ignored.
    """
    bases = (settings.CONTRASTIVE.name, settings.SHORTER)
    paired, folds = _regimes_on_common_folds(found, (*bases, settings.MRD))
    if not folds:
        return "No fold has all methods under every condition."
    tables, tests = [], list[float]()
    for metric in AIMS:
        rows = [[metric.title, *bases, settings.MRD, *(f"MRD minus {base}" for base in bases)]]
        for condition, by_method in paired.items():
            means = [
                mean([metric.mean(run.values, run.layout) for run in runs])
                for runs in by_method.values()
            ]
            differences = [
                _difference(metric, by_method[settings.MRD], by_method[base]) for base in bases
            ]
            tests += [each.p_value for each in differences]
            cells = (f"{_signed(each)}, {{}}" for each in differences)
            rows.append([condition, *map(percent, means), *cells])
        tables.append(rows)
    corrected = iter(bootstrap.holm(tests))
    formatted = [table.format_markdown(_with_p_values(rows, corrected)) for rows in tables]
    title = "Folds" if len(folds) > 1 else "Fold"
    return "\n\n".join(
        [
            *formatted,
            f"{title} {', '.join(map(str, folds))}, in %. p-values: Holm's correction over the "
            f"{len(tests)} tests of these tables.",
        ]
    )


def _regimes_on_common_folds(
    found: Results, names: Sequence[str]
) -> tuple[dict[str, dict[str, list[execution.Result]]], list[int]]:
    """Selects the runs of the folds on which every condition has every method.

    Args:
      found: runs.
      names: methods.

    Returns:
      Runs by condition and by method in the order of `names`, and the folds.
    """
    by_regime: dict[str, list[execution.Result]] = {}
    for result in found:
        if result.run["setting"] in names:
            by_regime.setdefault(result.run["condition"], []).append(result)
    paired = {
        condition: _paired(results)
        for condition, results in by_regime.items()
        if comparable(results, names)
    }
    folds = set(settings.REGIME_FOLDS).intersection(
        *({run.run["seed"] for run in runs[names[0]]} for runs in paired.values())
    )
    chosen = {
        condition: {name: [run for run in runs[name] if run.run["seed"] in folds] for name in names}
        for condition, runs in paired.items()
    }
    return chosen, sorted(folds)


def _paired(found: Results) -> dict[str, list[execution.Result]]:
    """Returns the runs by method that every method has, in one order."""
    by_method: dict[str, dict[int, execution.Result]] = {}
    for result in found:
        by_method.setdefault(result.run["setting"], {})[result.run["seed"]] = result
    seeds = set.intersection(*(set(runs) for runs in by_method.values()))
    return {name: [runs[seed] for seed in sorted(seeds)] for name, runs in by_method.items()}


def _per_query(metric: measure.Metric, runs: Results) -> tuple[list, list, list]:
    values, groups, classes = zip(
        *(metric.per_query(run.values, run.layout) for run in runs), strict=True
    )
    return list(values), list(groups), list(classes)


def _interval(metric: measure.Metric, runs: Results) -> str:
    values, groups, classes = _per_query(metric, runs)
    found = bootstrap.mean_interval(values, groups=groups, classes=classes, draws=DRAWS)
    return f"{table.percent(found.mean)} [{table.percent(found.low)}, {table.percent(found.high)}]"


def _difference(metric: measure.Metric, first: Results, second: Results) -> bootstrap.Difference:
    values, groups, classes = _per_query(metric, first)
    return bootstrap.paired_difference(
        values, _per_query(metric, second)[0], groups=groups, classes=classes, draws=DRAWS
    )


def _mcnemar(by_method: Mapping[str, Results]) -> str:
    """Describes McNemar's test of MRD against contrastive, for runs on disjoint shapes."""
    first, second = by_method[settings.MRD], by_method[settings.CONTRASTIVE.name]
    if len({execution.split_name(result.run) for result in first}) < len(first):
        return "McNemar's test does not fit: the runs share their shapes."
    correct = [[np.asarray(r.values["top1"]) == 1 for r in runs] for runs in (first, second)]
    test = statistics.mcnemar(*correct)
    return (
        f"Top-1 by McNemar's exact test, which takes shapes as independent: {test.count} shapes, "
        f"{test.only_first} correct by MRD alone, {test.only_second} by contrastive alone, "
        f"{_p(test.p_value)}."
    )


def _baselines(runs: Results, baselines: Mapping[str, Any]) -> str:
    """Formats the baselines, and MRD against them."""
    names = {execution.split_name(run.run): run for run in runs}
    if not names.keys() <= baselines.keys():
        return ""
    rows = [["baseline", measure.TOP1.title, measure.MAP.title, "MRD minus it, top-1", "mAP"]]
    tests: list[float] = []
    for name in baselines[next(iter(names))]["metrics"]:
        # The teacher has seen the training split, which the other folds test on.
        chosen = [run for run in runs if name != _TEACHER or _is_first_fold(run)]
        if not chosen:
            continue
        splits = [baselines[execution.split_name(run.run)] for run in chosen]
        metrics = [split["metrics"][name] for split in splits]
        maps = [each.get("points_to_points/map") for each in metrics]
        cells = [percent(mean([each["top1"] for each in metrics]))]
        cells.append(percent(None if None in maps else mean(maps)))
        values = [split["baselines"].get(name, {}) for split in splits]
        for metric in (measure.TOP1, measure.MAP):
            if not all(metric.present(each) for each in values):
                cells.append("")
                continue
            others = [
                execution.Result(run.run, each, run.layout)
                for run, each in zip(chosen, values, strict=True)
            ]
            difference = _difference(metric, chosen, others)
            cells.append(f"{_signed(difference)}, {{}}")
            tests.append(difference.p_value)
        rows.append([name if len(chosen) == len(runs) else f"{name}, fold 0", *cells])
    rows = _with_corrected(rows, tests)
    return (
        f"{table.format_markdown(rows)}\n\np-values: Holm's correction over the {len(tests)} tests "
        "of this table."
    )


def _on_first_fold(by_method: Mapping[str, Results]) -> list[str]:
    """Describes MRD against contrastive on the fold whose shapes the teacher has not seen."""
    chosen = [
        [run for run in by_method[name] if run.run["derivation"] and _is_first_fold(run)]
        for name in (settings.MRD, settings.CONTRASTIVE.name)
    ]
    if not all(chosen):
        return []
    differences = []
    for metric in AIMS:
        first, second = (mean([metric.mean(r.values, r.layout) for r in runs]) for runs in chosen)
        differences.append(f"{metric.title} {100 * (first - second):+.1f}")
    return [f"MRD minus contrastive on fold 0 alone: {'; '.join(differences)}."]


def _is_first_fold(result: execution.Result) -> bool:
    derivation = result.run["derivation"]
    return derivation is None or derivation["fold"] == 0


def _with_corrected(rows: list[list[str]], p_values: Sequence[float]) -> list[list[str]]:
    """Returns rows whose places `{}` have the p-values after Holm's correction, in order."""
    return _with_p_values(rows, iter(bootstrap.holm(p_values) if p_values else ()))


def _with_p_values(rows: list[list[str]], corrected: Iterator[float]) -> list[list[str]]:
    """Returns rows whose places `{}` have the next p-values."""
    return [
        [cell.format(_p(next(corrected))) if "{}" in cell else cell for cell in row] for row in rows
    ]


def _runs(by_method: Mapping[str, Results]) -> str:
    return f"Runs of each method: {len(next(iter(by_method.values())))}."


def mean(values: Sequence[float]) -> float | None:
    """Returns the mean of some values; None of no values."""
    return float(np.mean(values)) if len(values) else None


def percent(value: float | None) -> str:
    """Formats a fraction in percent; "" for None."""
    return "" if value is None else table.percent(value)


def _signed(difference: bootstrap.Difference) -> str:
    mean, low, high = (f"{100 * value:+.1f}" for value in difference[:3])
    return f"{mean} [{low}, {high}]"


def _p(value: float) -> str:
    return f"p = {value:.4f}" if value >= 0.0001 else "p < 0.0001"
