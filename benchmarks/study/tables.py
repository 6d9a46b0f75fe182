# SPDX-License-Identifier: Apache-2.0
"""Tables of the study on held-out shapes, with intervals and p-values, from stored results."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.study import comparisons, execution, measure, settings
from mrd_jax.evaluation import table
from mrd_jax.evaluation.metrics import statistics

_TEACHER = "teacher"
_MAIN = (measure.TOP1, measure.MEAN_PER_CLASS, measure.MAP, measure.RETRIEVAL)


def methods(found: comparisons.Results, baselines: Mapping[str, Any]) -> str:
    """Formats every metric of every method on one data set, and all differences.

    Args:
      found: runs of one data set in the stage `test`, with every method on the same shapes.
      baselines: baselines by name of the split, see `execution.Study.baselines`.
    """
    by_method = comparisons.paired(found)
    means, differences, count = _compare(by_method, settings.CONTRASTIVE.name)
    return "\n\n".join(
        [
            means,
            differences,
            f"{_runs(by_method)} p-values: Holm's correction over the {count} tests of the table. "
            + " ".join([_mcnemar(by_method), *_on_first_fold(by_method)]),
            _ablation(by_method),
            _baselines(by_method[settings.MRD], baselines),
        ]
    )


def transfer(found: comparisons.Results) -> str:
    """Formats what the parts add to MRD on the furniture.

    Args:
      found: runs of the stage `transfer`, and those of MRD on the furniture of the stage `test`.
    """
    by_method = comparisons.paired(found)
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
    rows, differences = [["%", "queries", base, *others]], [[f"difference to {base}", *titles]]
    tests = []
    for metric in metrics:
        count = comparisons.query_count(metric, by_method[base])
        intervals = (comparisons.interval(metric, by_method[name]) for name in (base, *others))
        rows.append([metric.title, f"{count:,}", *intervals])
        found = [
            comparisons.difference(metric, by_method[first], by_method[second])
            for first, second in pairs
        ]
        tests += [each.p_value for each in found]
        differences.append([metric.title, *map(comparisons.signed, found)])
    differences = comparisons.fill(differences, comparisons.corrected(tests))
    return table.format_markdown(rows), table.format_markdown(differences), len(tests)


def _ablation(by_method: Mapping[str, list[execution.Result]]) -> str:
    """Formats MRD against contrastive alignment with one of its terms."""
    whole, others = settings.MRD, (settings.WITH_INTRA, settings.WITH_CROSS)
    rows, tests = [["difference", *(f"{whole} minus {name}" for name in others)]], list[float]()
    for metric in _MAIN:
        found = [
            comparisons.difference(metric, by_method[whole], by_method[name]) for name in others
        ]
        tests += [each.p_value for each in found]
        rows.append([metric.title, *map(comparisons.signed, found)])
    rows = comparisons.fill(rows, comparisons.corrected(tests))
    return (
        f"{table.format_markdown(rows)}\n\np-values: Holm's correction over the {len(tests)} tests "
        "of this table."
    )


def regimes(found: comparisons.Results) -> str:
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
    for metric in measure.AIMS:
        rows = [[metric.title, *bases, settings.MRD, *(f"MRD minus {base}" for base in bases)]]
        for condition, by_method in paired.items():
            means = [
                comparisons.percent(comparisons.mean(metric, runs)) for runs in by_method.values()
            ]
            differences = [
                comparisons.difference(metric, by_method[settings.MRD], by_method[base])
                for base in bases
            ]
            tests += [each.p_value for each in differences]
            rows.append([condition, *means, *map(comparisons.signed, differences)])
        tables.append(rows)
    p_values = comparisons.corrected(tests)
    formatted = [table.format_markdown(comparisons.fill(rows, p_values)) for rows in tables]
    title = "Folds" if len(folds) > 1 else "Fold"
    return "\n\n".join(
        [
            *formatted,
            f"{title} {', '.join(map(str, folds))}, in %. p-values: Holm's correction over the "
            f"{len(tests)} tests of these tables.",
        ]
    )


def _regimes_on_common_folds(
    found: comparisons.Results, names: Sequence[str]
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
        condition: comparisons.paired(results)
        for condition, results in by_regime.items()
        if comparisons.comparable(results, names)
    }
    folds = set(settings.REGIME_FOLDS).intersection(
        *({run.run["seed"] for run in runs[names[0]]} for runs in paired.values())
    )
    chosen = {
        condition: {name: [run for run in runs[name] if run.run["seed"] in folds] for name in names}
        for condition, runs in paired.items()
    }
    return chosen, sorted(folds)


def _mcnemar(by_method: Mapping[str, comparisons.Results]) -> str:
    """Describes McNemar's test of MRD against contrastive, for runs on disjoint shapes."""
    first, second = by_method[settings.MRD], by_method[settings.CONTRASTIVE.name]
    if len({execution.split_name(result.run) for result in first}) < len(first):
        return "McNemar's test does not fit: the runs share their shapes."
    correct = [[np.asarray(r.values["top1"]) == 1 for r in runs] for runs in (first, second)]
    test = statistics.mcnemar(*correct)
    return (
        f"Top-1 by McNemar's exact test, which takes shapes as independent: {test.count} shapes, "
        f"{test.only_first} correct by MRD alone, {test.only_second} by contrastive alone, "
        f"{comparisons.p_text(test.p_value)}."
    )


def _baselines(runs: comparisons.Results, baselines: Mapping[str, Any]) -> str:
    """Formats the baselines, and MRD against them."""
    names = {execution.split_name(run.run) for run in runs}
    if not names <= baselines.keys():
        return ""
    rows = [["baseline", measure.TOP1.title, measure.MAP.title, "MRD minus it, top-1", "mAP"]]
    tests: list[float] = []
    for name in baselines[next(iter(names))]["metrics"]:
        # The teacher has seen the training split, which the other folds test on.
        chosen = [run for run in runs if name != _TEACHER or _is_first_fold(run)]
        if not chosen:
            continue
        splits = [baselines[execution.split_name(run.run)] for run in chosen]
        others = [
            execution.Result(run.run, split["baselines"].get(name, {}), run.layout)
            for run, split in zip(chosen, splits, strict=True)
        ]
        found = [
            comparisons.difference(metric, chosen, others) if _present(metric, others) else None
            for metric in (measure.TOP1, measure.MAP)
        ]
        tests += [each.p_value for each in found if each]
        expected = np.mean([split["metrics"][name]["top1"] for split in splits])
        top1, precision = (
            comparisons.mean(metric, others) if _present(metric, others) else default
            for metric, default in ((measure.TOP1, float(expected)), (measure.MAP, None))
        )
        title = name if len(chosen) == len(runs) else f"{name}, fold 0"
        cells = (comparisons.signed(each) if each else "" for each in found)
        rows.append([title, comparisons.percent(top1), comparisons.percent(precision), *cells])
    rows = comparisons.fill(rows, comparisons.corrected(tests))
    return (
        f"{table.format_markdown(rows)}\n\np-values: Holm's correction over the {len(tests)} tests "
        "of this table."
    )


def _present(metric: measure.Metric, runs: comparisons.Results) -> bool:
    return all(metric.present(run.values) for run in runs)


def _on_first_fold(by_method: Mapping[str, comparisons.Results]) -> list[str]:
    """Describes MRD against contrastive on the fold whose shapes the teacher has not seen."""
    chosen = [
        [run for run in by_method[name] if run.run["derivation"] and _is_first_fold(run)]
        for name in (settings.MRD, settings.CONTRASTIVE.name)
    ]
    if not all(chosen):
        return []
    differences = []
    for metric in measure.AIMS:
        first, second = (comparisons.mean(metric, runs) for runs in chosen)
        differences.append(f"{metric.title} {100 * (first - second):+.1f}")
    return [f"MRD minus contrastive on fold 0 alone: {'; '.join(differences)}."]


def _is_first_fold(result: execution.Result) -> bool:
    derivation = result.run["derivation"]
    return derivation is None or derivation["fold"] == 0


def _runs(by_method: Mapping[str, comparisons.Results]) -> str:
    return f"Runs of each method: {len(next(iter(by_method.values())))}."
