# SPDX-License-Identifier: Apache-2.0
"""The commands behind the README's figures add up what the runs wrote, and nothing else."""

import json
import sys

import pytest

from benchmarks import ablation, furniture, sweep


class Command(sweep.Job):
    """A job that runs a line of Python instead of a training."""

    def command(self):
        return [sys.executable, "-c", self.config]


def writing(folder, text="{}"):
    return f"open({str(folder / 'results.json')!r}, 'w').write({text!r}); print('ran')"


def line(name, correct=None, **metrics):
    return {"name": name, "metrics": metrics, "correct": correct, "retrieval": {}}


def test_a_job_is_the_command_a_person_would_type(tmp_path):
    job = sweep.Job("x", "configs/a.py", tmp_path, {"seed": 1, "loss.weights": "static"})
    assert job.command()[1:] == [
        "-m", "mrd_jax.main", "--config", "configs/a.py", "--workdir", str(tmp_path),
        "--config.seed=1", "--config.loss.weights=static",
    ]  # fmt: skip


def test_runs_go_side_by_side_in_order_and_finished_ones_are_not_run_again(tmp_path):
    folders = [tmp_path / name for name in "abc"]
    jobs = [Command(f.name, writing(f, f'{{"at": "{f.name}"}}'), f, {}) for f in folders]
    assert sweep.run_jobs(jobs, parallel=2) == [{"at": name} for name in "abc"]
    assert sweep.run_jobs(jobs, parallel=2) == [{"at": name} for name in "abc"]
    assert [(f / "log.txt").read_text() for f in folders] == ["ran\n"] * 3


def test_a_failed_run_names_its_log(tmp_path):
    job = Command("a", "raise SystemExit('no data')", tmp_path / "a", {})
    with pytest.raises(RuntimeError, match=f"status 1; see {tmp_path / 'a' / 'log.txt'}"):
        sweep.run_jobs([job], parallel=1)
    assert (tmp_path / "a" / "log.txt").read_text() == "no data\n"


def test_folds_are_pooled_shape_by_shape():
    first = {"results": [line("chance"), line("floor", [True, False]), line("student", [1, 1])]}
    second = {"results": [line("chance"), line("floor", [False, True]), line("student", [1, 0])]}
    summary = furniture.pooled([first, second])
    assert summary["methods"]["student"]["top1"] == 0.75
    assert summary["methods"]["student"]["folds"] == [1.0, 0.5]
    assert summary["methods"]["floor"]["top1"] == 0.5
    # Student alone: shapes 2 and 3; floor alone: shape 4; 3 disagreements, 2 to 1.
    assert summary["against"]["floor"] == {
        "shapes": 4, "student_only": 2, "other_only": 1, "p_value": 1.0,
    }  # fmt: skip
    assert "chance" not in summary["methods"]
    json.dumps(summary)


def test_the_ablation_reports_mean_and_spread_over_seeds():
    def result(top1):
        retrieval = {
            f"{direction}/recall@5": 0.5
            for direction in ("points_to_text", "points_to_image", "image_to_points")
        }
        return {"metrics": {"top1": top1, "top5": 0.9}, "retrieval": retrieval}

    lines = {name: [result(0.3), result(0.5)] for name in ablation.VARIANTS}
    summary = ablation.summarise(lines)
    assert summary["contrastive"]["top-1"] == pytest.approx((0.4, 0.02**0.5))
    page = ablation.markdown(summary, seeds=2, fold="furniture", steps=150)
    assert "| contrastive | 40.0 ± 14.1 | 90.0 ± 0.0 |" in page
    assert page.count("\n| ") == len(ablation.VARIANTS) + 2  # heading and rule
    assert "2 seeds" in page and "150 steps" in page


def test_every_variant_of_the_ablation_is_another_objective():
    settings = [tuple(sorted(fields.items())) for fields in ablation.VARIANTS.values()]
    assert len(set(settings)) == len(settings)
