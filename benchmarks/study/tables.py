# SPDX-License-Identifier: Apache-2.0
"""Tables of the study, from its stored results alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.study import execution, measure, settings
from benchmarks.study.training_run import Recipe
from mrd_jax.evaluation import table
from mrd_jax.evaluation.metrics import bootstrap, statistics

Results = Sequence[execution.Result]
# With 10,000, no p-value that is corrected for 60 tests could be below 0.01.
DRAWS = 20_000
_TEACHER = "teacher"
AIMS = (measure.TOP1, measure.MAP, measure.RETRIEVAL)


def recipe(found: Results, chosen: Recipe) -> str:
    """Formats the criterion of every option of the recipe, on validation.

    Args:
      found: runs of the stage `recipe`.
      chosen: recipe that follows from them.
    """
    rows = [["option", settings.CONTRASTIVE.name, settings.REFERENCE.name]]
    by_option: dict[str, dict[str, float]] = {}
    for result in found:
        option = by_option.setdefault(result.run["setting"], {})
        option[result.run["condition"]] = result.criterion
    for name, criteria in by_option.items():
        rows.append([name, *(_percent(criteria.get(objective)) for objective in rows[0][1:])])
    fields = ", ".join(f"`{key}` = {value}" for key, value in chosen.overrides.items())
    return (
        f"{table.format_markdown(rows)}\n\nCriterion in %, one seed. The study goes on with "
        f"{chosen.steps:,} steps and {fields or 'the recipe as it is'}."
    )


def relations(found: Results, chosen: settings.Setting) -> str:
    """Formats the rounds of successive halving, on validation.

    Args:
      found: runs of the stage `relations`, in the order of the rounds.
      chosen: objective that follows from them.
    """
    rounds = list(dict.fromkeys(result.run["condition"] for result in found))
    by_setting: dict[str, dict[str, list[execution.Result]]] = {}
    for result in found:
        runs = by_setting.setdefault(result.run["setting"], {})
        runs.setdefault(result.run["condition"], []).append(result)
    rows, notes = [["setting", *rounds, *(metric.title for metric in AIMS)]], list[str]()
    for name, by_round in by_setting.items():
        cells = [
            _percent(_mean([each.criterion for each in by_round.get(round_, [])]))
            for round_ in rounds
        ]
        # A setting's last round has the most steps.
        last = list(by_round.values())[-1]
        aims = [_percent(_mean([m.mean(r.values, r.layout) for r in last])) for m in AIMS]
        names = name.split(" + ")
        if len(names) > 2:
            name = f"combination of {len(names)} settings"
            notes.append(f" The {name}: {'; '.join(names)}.")
        rows.append([name, *cells, *aims])
    fields = ", ".join(f"`{key}` = {value}" for key, value in chosen.overrides.items())
    return (
        f"{table.format_markdown(rows)}\n\nCriterion in % per round, and its parts in the last "
        f"round of a setting. Chosen: {chosen.name} ({fields or 'no field changed'})."
        + "".join(notes)
    )


def lengths(found: Results) -> str:
    """Formats the criterion and its parts after trainings of different length, on validation.

    Args:
      found: runs of the stage `length`.
    """
    titles = ["criterion", *(metric.title for metric in AIMS)]
    rows = [["training", "method", *titles]]
    for result in found:
        parts = [metric.mean(result.values, result.layout) for metric in AIMS]
        cells = [_percent(value) for value in (result.criterion, *parts)]
        rows.append([result.run["condition"], result.run["setting"], *cells])
    return f"{table.format_markdown(rows)}\n\nIn %, one seed."


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
    """Formats MRD against contrastive alignment in every regime.

    Args:
      found: runs of the stage `regimes`, and of the parts in the stage `test`. Folds that some
        condition lacks are ignored.
    """
    methods = (settings.CONTRASTIVE.name, settings.MRD)
    by_regime: dict[str, list[execution.Result]] = {}
    for result in found:
        if result.run["setting"] in methods:
            by_regime.setdefault(result.run["condition"], []).append(result)
    paired = {
        condition: _paired(results)
        for condition, results in by_regime.items()
        if comparable(results, methods)
    }
    folds = set(settings.REGIME_FOLDS).intersection(
        *({run.run["seed"] for run in runs[settings.MRD]} for runs in paired.values())
    )
    if not folds:
        return "No fold has both methods under every condition."
    rows = [["condition", *(f"{metric.title}: contrastive, difference" for metric in AIMS)]]
    tests: list[float] = []
    for condition, runs in paired.items():
        second, first = (
            [run for run in runs[name] if run.run["seed"] in folds] for name in methods
        )
        cells = []
        for metric in AIMS:
            difference = _difference(metric, first, second)
            tests.append(difference.p_value)
            mean = _mean([metric.mean(result.values, result.layout) for result in second])
            cells.append(f"{_percent(mean)}, {_signed(difference)}, {{}}")
        rows.append([condition, *cells])
    rows = _with_corrected(rows, tests)
    return (
        f"{table.format_markdown(rows)}\n\n{'Folds' if len(folds) > 1 else 'Fold'} "
        f"{', '.join(map(str, sorted(folds)))}; "
        "MRD minus contrastive in points. p-values: Holm's correction over the "
        f"{len(tests)} tests of the table."
    )


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
        cells = [_percent(_mean([each["top1"] for each in metrics]))]
        cells.append(_percent(None if None in maps else _mean(maps)))
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
        first, second = (_mean([metric.mean(r.values, r.layout) for r in runs]) for runs in chosen)
        differences.append(f"{metric.title} {100 * (first - second):+.1f}")
    return [f"MRD minus contrastive on fold 0 alone: {'; '.join(differences)}."]


def _is_first_fold(result: execution.Result) -> bool:
    derivation = result.run["derivation"]
    return derivation is None or derivation["fold"] == 0


def _with_corrected(rows: list[list[str]], p_values: Sequence[float]) -> list[list[str]]:
    """Returns rows whose places `{}` have the p-values after Holm's correction, in order."""
    corrected = iter(bootstrap.holm(p_values) if p_values else ())
    return [
        [cell.format(_p(next(corrected))) if "{}" in cell else cell for cell in row] for row in rows
    ]


def _runs(by_method: Mapping[str, Results]) -> str:
    return f"Runs of each method: {len(next(iter(by_method.values())))}."


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _percent(value: float | None) -> str:
    return "" if value is None else table.percent(value)


def _signed(difference: bootstrap.Difference) -> str:
    mean, low, high = (f"{100 * value:+.1f}" for value in difference[:3])
    return f"{mean} [{low}, {high}]"


def _p(value: float) -> str:
    return f"p = {value:.4f}" if value >= 0.0001 else "p < 0.0001"
