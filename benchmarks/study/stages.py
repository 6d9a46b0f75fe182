# SPDX-License-Identifier: Apache-2.0
"""Runs of each stage of the study.

A stage consists of rounds; the runs of a round do not depend on choices within it. Everything here
is a pure function of what was chosen before, so that a study that was interrupted continues with
the same runs.
"""

import dataclasses
import itertools
from collections.abc import Sequence

from benchmarks.study import derived, settings
from benchmarks.study.settings import CONTRASTIVE, REFERENCE, Setting
from benchmarks.study.training_run import Recipe, Run, run_name

PARTS_CONFIG = "benchmarks/study/configs/parts.py"
FURNITURE_CONFIG = "benchmarks/study/configs/furniture.py"
# On the furniture there is no patch dropout, so that a step costs twice as much.
FURNITURE_STEPS, FURNITURE_SEEDS, FURNITURE_COST = 300, 5, 2.0
# Factors of the recipe's steps in the stage `length`.
LENGTH_FACTORS = (1, 2)
# On furniture and parts together, as many passes over the furniture.
JOINT_STEPS = 1_070
TEST_CONDITION = f"all shapes, batch {settings.BATCH_SIZE}"
FURNITURE_CONDITION = "furniture"
# Fraction of the steps, and seeds, of each round of successive halving.
ROUNDS: tuple[tuple[float, tuple[int, ...]], ...] = ((0.25, (0,)), (0.5, (0,)), (1.0, (0, 1)))


def _expand(run: Run, objective: Setting) -> list[Run]:
    """Returns the run of a setting, after those that it averages if the setting is branched.

    Args:
      run: the run as if the setting were not branched.
      objective: the setting.
    """
    if not objective.branched:
        return [run]
    half = {**run.overrides, "total_steps": run.overrides["total_steps"] // 2}
    contrastive = {**half, **settings.lambdas(0.0, 0.0)}
    helper = dataclasses.replace(run, helper=True, probes=False)
    trunk = dataclasses.replace(helper, setting=f"{run.setting}: trunk", overrides=contrastive)
    branches = [
        dataclasses.replace(
            helper,
            setting=f"{run.setting}: {name}",
            overrides=fields,
            starts_from=trunk.name,
        )
        for name, fields in (("contrastive branch", contrastive), ("branch", half))
    ]
    averaged = dataclasses.replace(run, averages=tuple(branch.name for branch in branches))
    return [trunk, *branches, averaged]


def recipe_round() -> list[Run]:
    """Returns the runs of the stage `recipe`: every option and length, with both objectives."""
    runs = []
    for objective in (CONTRASTIVE, REFERENCE):
        common = {"objective": objective, "condition": objective.name}
        for name, option in settings.RECIPE.items():
            steps = round(settings.RECIPE_STEPS * option.step_factor)
            recipe = Recipe(option.overrides, steps=steps, cost=option.cost)
            runs += _validation_runs("recipe", name, recipe=recipe, **common)
        for steps in settings.LENGTHS:
            recipe = Recipe(steps=steps)
            runs += _validation_runs("recipe", length_name(steps), recipe=recipe, **common)
    return runs


def length_name(steps: int) -> str:
    """Returns the name of the option of a number of steps."""
    return f"{steps:,} steps"


def relations_round(round_: int, chosen: Sequence[Setting], recipe: Recipe) -> list[Run]:
    """Returns the runs of one round of successive halving, with both controls.

    Args:
      round_: index into `ROUNDS`.
      chosen: settings that remain.
      recipe: recipe of the student.
    """
    fraction, seeds = ROUNDS[round_]
    shortened = dataclasses.replace(recipe, steps=round(fraction * recipe.compared_steps))
    return [
        run
        for setting in (CONTRASTIVE, REFERENCE, *chosen)
        for seed in seeds
        for run in _validation_runs(
            "relations",
            setting.name,
            objective=setting,
            recipe=shortened,
            condition=length_name(shortened.steps),
            seed=seed,
        )
    ]


def remaining(round_: int) -> int:
    """Returns the number of settings in a round, the controls not included."""
    return len(settings.RELATIONS) // 2**round_


def test_round(chosen: Setting, recipe: Recipe) -> list[Run]:
    """Returns the runs of the stage `test`: every method on all folds and all furniture seeds.

    On the folds, contrastive alignment is also trained for half as many steps, which suits it more.
    """
    methods = settings.methods(chosen)
    runs = [
        run
        for fold in range(derived.FOLDS)
        for method, its_recipe in _with_shorter(methods, recipe)
        for run in _fold_runs(
            "test", method, recipe=its_recipe, fold=fold, condition=TEST_CONDITION
        )
    ]
    for seed, method in itertools.product(range(FURNITURE_SEEDS), methods):
        runs += _expand(_furniture_run("test", method, seed=seed), method)
    return runs


def transfer_round(chosen: Setting, recipe: Recipe) -> list[Run]:
    """Returns the runs of the stage `transfer`: the chosen setting on furniture, with the parts.

    Args:
      chosen: chosen objective.
      recipe: recipe of the student on the parts. If it is wider than that on the furniture, or if
        the setting is branched, the former has no weights for the latter.
    """
    mrd = settings.methods(chosen)[-1]
    alone = [_furniture_run("transfer", mrd, seed=seed) for seed in range(FURNITURE_SEEDS)]
    started = [
        dataclasses.replace(
            run,
            setting=settings.FROM_PARTS,
            starts_from=f"test/{run_name(mrd.name, TEST_CONDITION, run.seed)}",
        )
        for run in alone
        if not mrd.branched and "model.dim" not in recipe.overrides
    ]
    together = [
        dataclasses.replace(
            run,
            setting=settings.WITH_PARTS,
            joined=True,
            overrides={**run.overrides, "total_steps": JOINT_STEPS},
        )
        for run in alone
    ]
    return [*started, *together]


def length_round(chosen: Setting, recipe: Recipe) -> list[Run]:
    """Returns the runs of the stage `length`: both methods with several lengths, on validation.

    Args:
      chosen: chosen objective.
      recipe: recipe of the student.
    """
    return [
        run
        for factor in LENGTH_FACTORS
        for longer in [dataclasses.replace(recipe, steps=factor * recipe.steps)]
        for method in settings.compared(chosen)
        for run in _validation_runs(
            "length",
            method.name,
            objective=method,
            recipe=longer,
            condition=length_name(longer.steps),
        )
    ]


def _furniture_run(stage: str, method: Setting, *, seed: int) -> Run:
    """Returns the run of a method on the furniture."""
    return Run(
        stage=stage,
        setting=method.name,
        condition=FURNITURE_CONDITION,
        seed=seed,
        config=FURNITURE_CONFIG,
        overrides={**method.overrides, "seed": seed, "total_steps": FURNITURE_STEPS},
        data="furniture",
        derivation=None,
        split="test",
        probes=True,
        cost=FURNITURE_COST,
    )


def _with_shorter(methods: Sequence[Setting], recipe: Recipe) -> list[tuple[Setting, Recipe]]:
    """Returns methods and their recipes, with the first one repeated for half as many steps.

    Args:
      methods: contrastive alignment, then others.
      recipe: recipe of all of them.
    """
    half = dataclasses.replace(recipe, steps=recipe.steps // 2)
    shorter = dataclasses.replace(methods[0], name=settings.SHORTER)
    first, *others = ((method, recipe) for method in methods)
    return [first, (shorter, half), *others]


def regimes_round(chosen: Setting, recipe: Recipe) -> list[Run]:
    """Returns the runs of the stage `regimes`: both lengths of contrastive, and MRD."""
    return [
        run
        # The outer loop is over folds, so that an interrupted study has all conditions of one.
        for fold in settings.REGIME_FOLDS
        for condition, regime in settings.REGIMES.items()
        for method, its_recipe in _with_shorter(settings.compared(chosen), recipe)
        for run in _fold_runs(
            "regimes",
            method,
            recipe=its_recipe,
            fold=fold,
            condition=condition,
            derivation=regime.derivation,
            batch_size=regime.batch_size,
        )
    ]


def _validation_runs(
    stage: str,
    name: str,
    *,
    objective: Setting,
    recipe: Recipe,
    condition: str,
    seed: int = 0,
) -> list[Run]:
    """Returns the runs of an objective on the parts, measured on their validation split."""
    fields = {**recipe.overrides, **objective.overrides}
    run = Run(
        stage=stage,
        setting=name,
        condition=condition,
        seed=seed,
        config=PARTS_CONFIG,
        overrides={**fields, "seed": seed, "total_steps": recipe.steps},
        data="parts",
        derivation=None,
        split="validation",
        cost=recipe.cost,
    )
    return _expand(run, objective)


def _fold_runs(
    stage: str,
    method: Setting,
    *,
    recipe: Recipe,
    fold: int,
    condition: str,
    derivation: derived.Derivation | None = None,
    batch_size: int = settings.BATCH_SIZE,
) -> list[Run]:
    """Returns the runs of a method on a fold of the parts, whose seed is the fold."""
    fields = {**recipe.overrides, **method.overrides}
    if batch_size != settings.BATCH_SIZE:
        fields["batch_size"] = batch_size
    run = Run(
        stage=stage,
        setting=method.name,
        condition=condition,
        seed=fold,
        config=PARTS_CONFIG,
        overrides={
            **fields,
            "seed": fold,
            "total_steps": recipe.steps * settings.BATCH_SIZE // batch_size,
        },
        data="parts",
        derivation=dataclasses.replace(derivation or derived.Derivation(), fold=fold, seed=fold),
        split="test",
        probes=stage == "test",
        cost=recipe.cost,
    )
    return _expand(run, method)


STAGES = ("recipe", "relations", "test", "regimes", "transfer", "length")


def planned(stage: str, recipe: Recipe) -> list[Run]:
    """Returns as many runs as a stage has, for estimates: later rounds are filled in any way.

    Args:
      stage: one of `STAGES`.
      recipe: recipe of the student.
    """
    if stage == "recipe":
        return recipe_round()
    if stage == "test":
        return test_round(REFERENCE, recipe)
    if stage == "regimes":
        return regimes_round(REFERENCE, recipe)
    if stage == "transfer":
        return transfer_round(REFERENCE, recipe)
    if stage == "length":
        return length_round(REFERENCE, recipe)
    return [
        run
        for round_ in range(len(ROUNDS))
        for run in relations_round(round_, settings.RELATIONS[: remaining(round_)], recipe)
    ]
