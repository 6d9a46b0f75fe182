# SPDX-License-Identifier: Apache-2.0
"""The best checkpoints are kept beside the newest one, from which a run continues."""

import json

import jax.numpy as jnp
import pytest
from tiny import assert_trees_equal, tiny_config

from mrd_jax.checkpoints import manager, paths, retention
from mrd_jax.evaluation import evaluator, history
from mrd_jax.training import validation

TOP1, RANK = "test/top1", "test/retrieval/points_to_text/median_rank"


def state(s):
    return {"w": jnp.arange(4.0) + s}


def open_workdir(folder, *, metric=TOP1, kept=1, count=1, **options):
    config = tiny_config(checkpoints_kept=kept, checkpoints_best=count, best_metric=metric)
    checkpoints = manager.CheckpointManager(
        str(folder), config=config, fingerprint="data", **options
    )
    checkpoints.recall_evaluations(history.evaluations(folder))
    return checkpoints


def evaluate(folder, checkpoints, step, value):
    """Notes an evaluation and writes its metrics, as the training loop does."""
    values = {TOP1: value, RANK: value}
    checkpoints.note_evaluation(step, values)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step} | values) + "\n")


def save(folder, checkpoints, values):
    """Saves a step for each (step, value); evaluates it first unless the value is None."""
    for step, value in values.items():
        if value is not None:
            evaluate(folder, checkpoints, step, value)
        checkpoints.save(state(step), step=step)


def kept(folder):
    return [int(path.name) for path in paths.steps(folder)]


@pytest.mark.parametrize(
    "metric, count, steps", [(TOP1, 1, [2, 5]), (TOP1, 2, [2, 4, 5]), (RANK, 1, [3, 5])]
)
def test_the_best_and_the_newest_checkpoints_are_kept(tmp_path, metric, count, steps):
    """Lower median ranks are better; of ties, the later step is kept."""
    checkpoints = open_workdir(tmp_path, metric=metric, count=count)
    save(tmp_path, checkpoints, {1: 0.5, 2: 0.9, 3: 0.1, 4: 0.5, 5: 0.2})
    checkpoints.close()
    assert kept(tmp_path) == steps


def test_a_checkpoint_without_evaluation_is_kept_only_while_it_is_the_newest(tmp_path):
    checkpoints = open_workdir(tmp_path, count=2)
    save(tmp_path, checkpoints, {1: 0.1, 2: None, 3: None})
    checkpoints.close()
    assert kept(tmp_path) == [1, 3]


def test_a_checkpoint_may_be_evaluated_after_it_was_saved(tmp_path):
    """At a graceful shutdown a run saves first, and its continuation evaluates."""
    checkpoints = open_workdir(tmp_path)
    save(tmp_path, checkpoints, {1: 0.1, 2: None})
    evaluate(tmp_path, checkpoints, 2, 0.8)
    save(tmp_path, checkpoints, {3: 0.3})
    checkpoints.close()
    assert kept(tmp_path) == [2, 3]


def test_a_continued_run_keeps_the_best_and_restores_the_newest(tmp_path):
    checkpoints = open_workdir(tmp_path)
    save(tmp_path, checkpoints, {1: 0.9, 2: 0.3})
    checkpoints.close()
    continued = open_workdir(tmp_path)
    assert_trees_equal(continued.restore(state(0)), state(2))
    save(tmp_path, continued, {3: 0.5, 4: 0.4})
    continued.close()
    assert kept(tmp_path) == [1, 4]


def test_a_corrupt_newest_checkpoint_is_moved_away_even_if_the_best_is_older(tmp_path):
    checkpoints = open_workdir(tmp_path, kept=2)
    save(tmp_path, checkpoints, {1: 0.9, 2: 0.3, 3: 0.2})
    checkpoints.close()
    (tmp_path / "checkpoints" / "3" / "manifest" / "metadata").unlink()
    reopened = open_workdir(tmp_path, kept=2)
    assert_trees_equal(reopened.restore(state(0)), state(2))
    reopened.close()
    assert kept(tmp_path) == [1, 2]


def test_find_accepts_newest_best_and_numbers(tmp_path):
    checkpoints = open_workdir(tmp_path, kept=3)
    save(tmp_path, checkpoints, {1: 0.2, 2: 0.9, 3: 0.3})
    checkpoints.close()
    reader = open_workdir(tmp_path, kept=3, read_only=True)
    assert [reader.find(which) for which in ("newest", "best", "1")] == [3, 2, 1]
    assert_trees_equal(reader.read(2, state(0)), state(2))
    with pytest.raises(FileNotFoundError, match=r"no checkpoint '7'; there are \[1, 2, 3\]"):
        reader.find("7")
    reader.close()


def test_a_non_finite_value_is_never_the_best():
    ranking = retention.BestCheckpoints(TOP1, count=1)
    for step, value in {1: 0.2, 2: float("nan"), 3: float("inf")}.items():
        ranking.note(step, {TOP1: value})
    assert ranking.ranked([1, 2, 3]) == [1]


def test_an_unknown_metric_is_rejected_with_the_known_ones():
    with pytest.raises(ValueError, match="'test/top2', which no .* one of test/top1, test/top3"):
        retention.BestCheckpoints("test/top2", count=1).note(
            1, {"test/top3": 0.1, "test/top1": 0.1}
        )


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"best_metric": "top1"}, "best_metric is 'top1'.*test/mean_per_class.*test/top1"),
        ({"checkpoints_kept": 0}, "checkpoints_kept is 0; expected an integer, at least 1"),
        ({"checkpoints_best": -1}, "checkpoints_best is -1; expected an integer, at least 0"),
        ({"checkpoints_best": 1, "data__test_split": ""}, "without config.data.test_split"),
    ],
)
def test_invalid_retention_fields_are_rejected(fields, message):
    with pytest.raises(ValueError, match=message):
        validation.validate(tiny_config(**fields))


def test_metric_names_are_those_of_an_evaluation():
    names = evaluator.metric_names()
    assert {TOP1, RANK, "test/retrieval/unseen/image_to_points/recall@10"} < set(names)
