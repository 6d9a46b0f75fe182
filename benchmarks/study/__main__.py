# SPDX-License-Identifier: Apache-2.0
"""Compares relation distillation with contrastive alignment, after the protocol of docs/science.md.

python -m benchmarks.study --parts data/kicad_parts/1.0.0 --furniture data/furniture/1.0.0

Finished runs are not repeated, unfinished ones continue: interrupt it with Ctrl-C and start it
again at any time. --dry_run prints the runs and their hours.
"""

import os
import pathlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from benchmarks.study import (
    choices,
    comparisons,
    execution,
    settings,
    stages,
    tables,
    validation_tables,
)
from benchmarks.study.training_run import Recipe, Run
from mrd_jax import atomic_io
from mrd_jax.cli import command

DATA = {
    "parts": pathlib.Path("data/kicad_parts/1.0.0"),
    "furniture": pathlib.Path("data/furniture/1.0.0"),
}


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Executes the stages of the study and writes its tables."""
    parser = command.Parser(__doc__, prog="python -m benchmarks.study")
    add = parser.add_argument
    for name, default in DATA.items():
        add(f"--{name}", type=pathlib.Path, default=default, help=f"data set (default: {default})")
    add("--runs", type=pathlib.Path, default=pathlib.Path("runs/study"), help="folder of workdirs")
    add(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("docs/study"),
        help="folder of the files of results, which are read too",
    )
    add("--page", type=pathlib.Path, help="Markdown page whose tables are replaced")
    add("--parallel", type=int, default=os.cpu_count(), help="runs at a time, one per core")
    add(
        "--stages",
        nargs="+",
        choices=stages.STAGES,
        default=list(stages.STAGES),
        help="stages to execute; of the others, stored results are used (default: all)",
    )
    add(
        "--budget_hours",
        type=float,
        default=16.0,
        help="core-hours of all stages, which limit what the recipe may combine; keep the number "
        "of a study that was begun (default: 16)",
    )
    add("--dry_run", action="store_true", help="print runs and hours, and stop")
    options = parser.parse_args(arguments)
    study = execution.Study(
        data={name: getattr(options, name) for name in DATA},
        runs=options.runs,
        output=options.output,
        parallel=options.parallel,
    )
    if options.dry_run:
        print(describe_plan(study, options.stages, budget_hours=options.budget_hours))
        return 0
    # What is stored needs no data.
    begun = [(options.output / f"{stage}.json").exists() for stage in options.stages]
    if not all(begun):
        execution.check_data(study.data["parts"], name="parts")
        if "test" in options.stages:
            execution.check_data(study.data["furniture"], name="furniture")
    print(describe_plan(study, options.stages, budget_hours=options.budget_hours), flush=True)
    found = run_stages(study, options.stages, budget_hours=options.budget_hours)
    if options.page:
        replace_tables(options.page, found)
    for name, text in found.items():
        print(f"\n{name}\n\n{text}")
    for message in study.failures:
        print(f"error: {message}", file=sys.stderr)
    return 1 if study.failures else 0


def describe_plan(study: execution.Study, wanted: Sequence[str], *, budget_hours: float) -> str:
    """Describes the runs of each stage, their hours, and how many are finished.

    Args:
      study: folders of the study.
      wanted: stages.
      budget_hours: core-hours of all stages.
    """
    recipe = recipe_of(study, budget_hours=budget_hours)
    lines, total = [], 0.0
    for stage in wanted:
        planned = stages.planned(stage, recipe)
        stored = execution.read(study.output / f"{stage}.json")
        hours = sum(run.seconds for run in planned) / 3600
        total += hours
        lines.append(
            f"{stage:9s} {len(planned):3d} runs, {hours:4.1f} core-hours; {len(stored)} stored"
        )
    lines.append(
        f"{'total':9s} {total:.1f} core-hours of {budget_hours:g}; about "
        f"{total / study.parallel:.1f} h with --parallel {study.parallel} on as many cores, less "
        "for what is stored. The runs of relations depend on what wins."
    )
    return "\n".join(lines)


def recipe_of(study: execution.Study, *, budget_hours: float) -> Recipe:
    """Returns the recipe that the stored runs choose; the recipe as it is before they finished.

    Args:
      study: folders of the study.
      budget_hours: core-hours of all stages.
    """
    planned = stages.recipe_round()
    found = study.load(planned)
    if len(found) < len(planned):
        return Recipe()
    spent = sum(run.seconds for run in planned) / 3600
    return choices.choose_recipe(criteria(found), budget_hours=budget_hours - spent)


def criteria(found: Sequence[execution.Result]) -> dict[str, float]:
    """Returns the criterion by name of the setting, averaged over its runs."""
    by_setting: dict[str, list[float]] = {}
    for result in found:
        by_setting.setdefault(result.run["setting"], []).append(result.criterion)
    return {name: float(np.mean(values)) for name, values in by_setting.items()}


def run_stages(
    study: execution.Study, wanted: Sequence[str], *, budget_hours: float
) -> dict[str, str]:
    """Executes stages in their order; a stage that is not wanted gives what is stored of it.

    Args:
      study: folders of the study.
      wanted: stages to execute.
      budget_hours: core-hours of all stages.

    Returns:
      Tables in Markdown by name of their marker.

    Raises:
      ValueError: a stage lacks the results of the one before it.
    """
    last = max(stages.STAGES.index(stage) for stage in wanted)

    def results(stage: str, planned: Sequence[Run]) -> list[execution.Result]:
        return study.execute(planned) if stage in wanted else study.load(planned)

    def chooses(stage: str, planned: Sequence[Run]) -> list[execution.Result]:
        """Returns the results of all runs, which a choice depends on."""
        found = results(stage, planned)
        if len(found) < len(planned):
            raise ValueError(
                f"stage {stage!r} has {len(found)} of {len(planned)} runs, and what follows needs "
                "all of them; run it again. "
                + (f"Failed: {'; '.join(study.failures)}" if study.failures else "")
            )
        return found

    found: dict[str, str] = {}
    tried = chooses("recipe", stages.recipe_round())
    recipe = recipe_of(study, budget_hours=budget_hours)
    found["recipe"] = validation_tables.recipe(tried, recipe)
    if last == 0:
        return found
    compared, chosen = choose_objective(chooses, recipe=recipe)
    found["relations"] = validation_tables.relations(_in_tables(compared), chosen)
    if last == 1:
        return found
    planned = stages.test_round(chosen, recipe)
    tested = _in_tables(results("test", planned))
    if "test" in wanted:
        study.baselines(planned)
    conditions = _in_tables(results("regimes", stages.regimes_round(chosen, recipe)))
    moved = _in_tables(results("transfer", stages.transfer_round(chosen, recipe)))
    baselines = execution.read(study.output / execution.BASELINES_FILE)
    by_data = {
        name: [result for result in tested if result.run["data"] == name] for name in study.data
    }
    names = [method.name for method in settings.methods(chosen)]
    for name, of_data in by_data.items():
        if comparisons.comparable(of_data, names):
            found[name] = tables.methods(of_data, baselines)
    if conditions:
        found["regimes"] = tables.regimes([*by_data["parts"], *conditions])
    alone = [each for each in by_data["furniture"] if each.run["setting"] == settings.MRD]
    if moved and comparisons.comparable([*alone, *moved], [settings.MRD]):
        found["transfer"] = tables.transfer([*alone, *moved])
    longer = _in_tables(results("length", stages.length_round(chosen, recipe)))
    if longer:
        found["length"] = validation_tables.lengths(longer)
    return found


def _in_tables(found: Sequence[execution.Result]) -> list[execution.Result]:
    return [result for result in found if not result.run.get("helper")]


def choose_objective(
    results: Callable[[str, Sequence[Run]], list[execution.Result]],
    *,
    recipe: Recipe,
) -> tuple[list[execution.Result], settings.Setting]:
    """Runs successive halving.

    Args:
      results: executes runs of a stage and returns the results of all of them.
      recipe: recipe of the student.

    Returns:
      Results of all rounds, and the chosen objective.
    """
    current = list(settings.RELATIONS)
    compared: list[execution.Result] = []
    for round_ in range(len(stages.ROUNDS)):
        found = results("relations", stages.relations_round(round_, current, recipe))
        compared += found
        ranked = criteria(found)
        if round_ + 1 < len(stages.ROUNDS):
            current = choices.next_settings(current, ranked, round_=round_ + 1)
    return compared, choices.choose_setting(current, ranked)


def replace_tables(page: pathlib.Path, found: Mapping[str, str]) -> None:
    """Replaces what is between `<!-- study: NAME -->` and `<!-- end of study -->` on a page.

    Args:
      page: Markdown file.
      found: text by name of the marker.

    Raises:
      ValueError: the page lacks a marker.
    """
    text = page.read_text("utf-8")
    for name, content in found.items():
        pattern = rf"(<!-- study: {name} -->\n).*?(<!-- end of study -->)"
        text, count = re.subn(
            pattern,
            lambda match, content=content: f"{match[1]}\n{content}\n\n{match[2]}",
            text,
            flags=re.DOTALL,
        )
        if count != 1:
            raise ValueError(f"{page} has {count} places '<!-- study: {name} -->': expected one")
    atomic_io.write_text(page, text)


if __name__ == "__main__":
    sys.exit(main())
