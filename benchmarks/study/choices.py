# SPDX-License-Identifier: Apache-2.0
"""What the study chooses from the criteria of finished runs: the recipe and the objective."""

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.study import settings, stages
from benchmarks.study.settings import REFERENCE, Setting
from benchmarks.study.training_run import Recipe


def choose_recipe(criteria: Mapping[str, float], *, budget_hours: float) -> Recipe:
    """Returns the recipe with every option that helps and that the budget of the study permits.

    Args:
      criteria: criterion of every option, averaged over both objectives.
      budget_hours: core-hours of the stages that follow.
    """
    start = criteria["as it is"]
    lengths = sorted(settings.LENGTHS)
    recipe = Recipe(steps=lengths[0])
    gains = {name: criteria[name] - start for name in settings.RECIPE if name != "as it is"}
    options: list[tuple[float, settings.Option]] = [
        (gain, settings.RECIPE[name]) for name, gain in gains.items()
    ]
    base = criteria[stages.length_name(lengths[0])]
    options += [
        (criteria[stages.length_name(n)] - base, settings.Option(step_factor=n / lengths[0]))
        for n in lengths[1:]
    ]
    # The largest gain first; of equal ones, the first in the list.
    for gain, option in sorted(options, key=lambda each: -each[0]):
        if recipe.overrides.keys() & option.overrides.keys():
            continue
        compared = recipe.compared_steps
        extended = Recipe(
            {**recipe.overrides, **option.overrides},
            steps=round(recipe.steps * option.step_factor),
            # Objectives are compared in runs of the first length.
            compared_steps=round(compared * option.step_factor) if option.overrides else compared,
            cost=recipe.cost * option.cost,
        )
        if gain > 0 and later_hours(extended) <= budget_hours:
            recipe = extended
    return recipe


def later_hours(recipe: Recipe) -> float:
    """Returns the estimated core-hours of the stages after `recipe`."""
    return (
        sum(run.seconds for stage in stages.STAGES[1:] for run in stages.planned(stage, recipe))
        / 3600
    )


def next_settings(
    current: Sequence[Setting], criteria: Mapping[str, float], *, round_: int
) -> list[Setting]:
    """Returns the settings of the next round: half of the present ones, combinations included.

    Args:
      current: settings of the present round, without the controls.
      criteria: criterion by name of the setting, averaged over seeds, controls included.
      round_: index of the next round.
    """
    count = stages.remaining(round_)
    ranked = sorted((s for s in current if s.name in criteria), key=lambda s: -criteria[s.name])
    reference = criteria.get(REFERENCE.name, -np.inf)
    combined = combine([s for s in ranked if criteria[s.name] > reference])
    known = {setting.name for setting in ranked}
    combined = [setting for setting in combined if setting.name not in known]
    return [*ranked[: count - len(combined)], *combined]


def combine(winners: Sequence[Setting]) -> list[Setting]:
    """Returns the combinations of the two best settings and of all of them, one per family.

    Args:
      winners: settings that beat the reference, the best first. Combinations and averaged weights
        are not combined further.
    """
    by_family: dict[str, Setting] = {}
    for setting in winners:
        if setting.family != "combination" and not setting.branched:
            by_family.setdefault(setting.family, setting)
    parts = list(by_family.values())
    groups = [parts[:2], parts] if len(parts) > 2 else [parts] if len(parts) == 2 else []
    return [
        Setting(
            " + ".join(sorted(part.name for part in group)),
            "combination",
            {key: value for part in group for key, value in part.overrides.items()},
        )
        for group in groups
    ]


def choose_setting(current: Sequence[Setting], criteria: Mapping[str, float]) -> Setting:
    """Returns the objective with the best criterion in the last round, the reference included.

    Args:
      current: settings of the last round.
      criteria: criterion by name of the setting, averaged over seeds.
    """
    candidates = [s for s in (REFERENCE, *current) if s.name in criteria]
    if not candidates:
        raise ValueError("no run of the last round of stage 'relations' has finished: see its logs")
    return max(candidates, key=lambda setting: criteria[setting.name])
