# SPDX-License-Identifier: Apache-2.0
"""Tables of what the study chooses on validation, from stored results."""

from benchmarks.study import comparisons, execution, measure, settings
from benchmarks.study.training_run import Recipe
from mrd_jax.evaluation import table


def recipe(found: comparisons.Results, chosen: Recipe) -> str:
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
        rows.append(
            [name, *(comparisons.percent(criteria.get(objective)) for objective in rows[0][1:])]
        )
    fields = ", ".join(f"`{key}` = {value}" for key, value in chosen.overrides.items())
    return (
        f"{table.format_markdown(rows)}\n\nCriterion in %, one seed. The study goes on with "
        f"{chosen.steps:,} steps and {fields or 'the recipe as it is'}."
    )


def relations(found: comparisons.Results, chosen: settings.Setting) -> str:
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
    rows, notes = [["setting", *rounds, *(metric.title for metric in measure.AIMS)]], list[str]()
    for name, by_round in by_setting.items():
        cells = [
            _percent(measure.CRITERION, by_round[round_]) if round_ in by_round else ""
            for round_ in rounds
        ]
        last = by_round.get(rounds[-1])
        aims = [_percent(metric, last) if last else "" for metric in measure.AIMS]
        names = name.split(" + ")
        if len(names) > 2:
            name = f"combination of {len(names)} settings"
            notes.append(f" The {name}: {'; '.join(names)}.")
        rows.append([name, *cells, *aims])
    fields = ", ".join(f"`{key}` = {value}" for key, value in chosen.overrides.items())
    return (
        f"{table.format_markdown(rows)}\n\nCriterion in % per round, and its parts in the last "
        f"round. Chosen: {chosen.name} ({fields or 'no field changed'})." + "".join(notes)
    )


def lengths(found: comparisons.Results) -> str:
    """Formats the criterion and its parts after trainings of different length, on validation.

    Args:
      found: runs of the stage `length`.
    """
    metrics = (measure.CRITERION, *measure.AIMS)
    rows = [["training", "method", *(metric.title for metric in metrics)]]
    for result in found:
        cells = (_percent(metric, [result]) for metric in metrics)
        rows.append([result.run["condition"], result.run["setting"], *cells])
    return f"{table.format_markdown(rows)}\n\nIn %, one seed."


def _percent(metric: measure.Metric, runs: comparisons.Results) -> str:
    return comparisons.percent(comparisons.mean(metric, runs))
