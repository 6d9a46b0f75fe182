# SPDX-License-Identifier: Apache-2.0
"""Tables of what the study chooses on validation, from stored results."""

from benchmarks.study import execution, settings, tables
from benchmarks.study.training_run import Recipe
from mrd_jax.evaluation import table


def recipe(found: tables.Results, chosen: Recipe) -> str:
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
        rows.append([name, *(tables.percent(criteria.get(objective)) for objective in rows[0][1:])])
    fields = ", ".join(f"`{key}` = {value}" for key, value in chosen.overrides.items())
    return (
        f"{table.format_markdown(rows)}\n\nCriterion in %, one seed. The study goes on with "
        f"{chosen.steps:,} steps and {fields or 'the recipe as it is'}."
    )


def relations(found: tables.Results, chosen: settings.Setting) -> str:
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
    rows, notes = [["setting", *rounds, *(metric.title for metric in tables.AIMS)]], list[str]()
    for name, by_round in by_setting.items():
        cells = [
            tables.percent(tables.mean([each.criterion for each in by_round.get(round_, [])]))
            for round_ in rounds
        ]
        # A setting's last round has the most steps.
        last = list(by_round.values())[-1]
        aims = [
            tables.percent(tables.mean([m.mean(r.values, r.layout) for r in last]))
            for m in tables.AIMS
        ]
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


def lengths(found: tables.Results) -> str:
    """Formats the criterion and its parts after trainings of different length, on validation.

    Args:
      found: runs of the stage `length`.
    """
    titles = ["criterion", *(metric.title for metric in tables.AIMS)]
    rows = [["training", "method", *titles]]
    for result in found:
        parts = [metric.mean(result.values, result.layout) for metric in tables.AIMS]
        cells = [tables.percent(value) for value in (result.criterion, *parts)]
        rows.append([result.run["condition"], result.run["setting"], *cells])
    return f"{table.format_markdown(rows)}\n\nIn %, one seed."
