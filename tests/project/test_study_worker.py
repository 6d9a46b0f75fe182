# SPDX-License-Identifier: Apache-2.0
"""One run of the study, trained for real: what it stores, what it starts from, what it averages."""

import dataclasses
import json

import numpy as np
import PIL.Image
import pytest
from fake_data import DIM, POINTS

from benchmarks.study import measure, pictures, worker
from mrd_jax.evaluation import held_out_split
from mrd_jax.training import train

CONFIG = f"""
from configs import quickstart


def get_config():
    config = quickstart.get_config()
    config.batch_size = 8
    config.total_steps = 4
    config.eval_windows = 1
    config.teacher.dim = {DIM}
    config.model.update(
        points={POINTS}, dim=64, depth=1, heads=1, mlp_dim=32, sa_dim=16, groups=4, group_size=4,
        radius=0.5, out_dim={DIM},
    )
    config.optimizer.warmup_steps = 1
    config.loss.form = "plain"
    return config
"""


@pytest.fixture
def execute(made, tmp_path):
    """Function of a name and fields of `worker.Spec` that runs a worker; returns its result."""
    (tmp_path / "tiny.py").write_text(CONFIG)

    def execute(name, **fields):
        spec = {
            "config": str(tmp_path / "tiny.py"), "overrides": {"seed": 3}, "data": str(made),
            "split": "test", "probes": False, **fields,
        }  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / "spec.json").write_text(json.dumps(spec))
        assert worker.main([str(tmp_path / name / "spec.json")]) == 0
        return json.loads((tmp_path / name / "study.json").read_text())

    return execute


@pytest.mark.slow
def test_a_run_stores_what_the_evaluation_of_its_last_checkpoint_reports(execute, tmp_path, made):
    overrides = {"seed": 3, "loss.candidates.intra": ["TT"]}
    result = execute("run", overrides=overrides, probes=True)
    layout = measure.Layout(**result["layout"])
    spec = worker.Spec(**json.loads((tmp_path / "run" / "spec.json").read_text()))
    config = worker.read_config(spec, split="test")
    assert config.loss.candidates.intra == ("TT",)
    assert json.loads((tmp_path / "run" / "run.json").read_text())  # a workdir like any other
    assert np.load(tmp_path / "run" / worker.EMBEDDINGS_FILE)["rows"].shape[1] == DIM
    train.evaluate(config, str(tmp_path / "run"))
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    row = next(row for row in rows if row["name"] == "student")
    expected = {
        "top-1": row["metrics"]["top1"],
        "mAP, shape to its class": row["retrieval"]["points_to_points/map"],
        "shape to picture R@5": row["retrieval"]["points_to_image/recall@5"],
    }
    metrics = {metric.title: metric for metric in measure.METRICS}
    got = {title: metrics[title].mean(result["values"], layout) for title in expected}
    assert got == pytest.approx(expected, abs=1 / measure.SCALE)
    assert set(result["values"]) >= {"probe", "few_shot/1"}
    # Averaging a run with itself changes nothing; averaging another does.
    own = [str(tmp_path / "run"), overrides]
    same = execute("same", overrides=overrides, average_of=[own, own])
    assert same["values"] == {kind: result["values"][kind] for kind in same["values"]}


def test_relations_of_runs_are_drawn_and_compared_with_the_teacher(execute, tmp_path, made, capsys):
    """Embeddings as a worker leaves them: the pictures themselves, and random ones."""
    shapes = held_out_split.load_held_out(made, "test")
    rng = np.random.default_rng(0)
    rows = {"pictures": shapes.image_features, "random": rng.normal(size=(len(shapes.ids), DIM))}
    for name, found in rows.items():
        unit = found / np.linalg.norm(found, axis=1, keepdims=True)
        folder = tmp_path / name
        folder.mkdir()
        spec = {"config": "", "overrides": {}, "data": str(made), "split": "test", "probes": False}
        (folder / "spec.json").write_text(json.dumps(spec))
        np.savez(folder / worker.EMBEDDINGS_FILE, rows=unit.astype(np.float16), ids=shapes.ids)
    picture = tmp_path / "relations.png"
    folders = [str(tmp_path / name) for name in rows]
    arguments = ["--runs", *folders, "--titles", *rows, "--output", str(picture)]
    assert pictures.main(arguments) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    distances = {line["run"]: line["total_variation"] for line in lines}
    assert distances["pictures"] < 0.01 < 0.1 < distances["random"]
    with PIL.Image.open(picture) as drawn:
        assert drawn.width > 3 * drawn.height / 2

    np.savez(tmp_path / "random" / worker.EMBEDDINGS_FILE, rows=rows["random"], ids=["other"])
    assert pictures.main(arguments) == 2
    assert "random was measured on other shapes" in capsys.readouterr().err


@pytest.mark.slow
def test_a_branch_starts_from_the_weights_of_its_trunk(execute, tmp_path):
    trunk = execute("trunk")
    started = {
        "seed": 4, "initial_weights": str(tmp_path / "trunk"), "optimizer.learning_rate": 1e-9,
        "augment.dropout_max": 0.0, "optimizer.ema_decay": 0.0,
    }  # fmt: skip
    branch = execute("branch", overrides=started)
    # With next to no learning rate, only the batch-norm statistics change.
    different = sum(
        a != b
        for kind in trunk["values"]
        for a, b in zip(trunk["values"][kind], branch["values"][kind], strict=True)
    )
    fresh = execute("fresh", overrides={**started, "initial_weights": ""})
    from_scratch = sum(
        a != b
        for kind in trunk["values"]
        for a, b in zip(trunk["values"][kind], fresh["values"][kind], strict=True)
    )
    assert different < from_scratch
    # A workdir is read with the overrides that it was trained with.
    average = execute("average", average_of=[[str(tmp_path / "branch"), started]] * 2)
    assert average["values"] == branch["values"]


def test_baselines_are_stored_with_their_values(execute):
    result = execute("baselines", config="", overrides={})
    assert "majority" in result["baselines"] and "chance" not in result["baselines"]
    teacher, metrics = result["baselines"]["teacher"], result["metrics"]["teacher"]
    assert np.mean(teacher["map"]) / measure.SCALE == pytest.approx(
        metrics["points_to_points/map"], abs=1 / measure.SCALE
    )
    assert np.mean(np.array(teacher["top1"]) == 1) == metrics["top1"]
    assert result["metrics"]["chance"]["top1"] == pytest.approx(1 / 2)


def test_a_field_that_does_not_exist_is_named(execute, tmp_path, capsys):
    with pytest.raises(AssertionError):
        execute("run", overrides={"loss.no_such_field": 1})
    assert "config.loss.no_such_field" in capsys.readouterr().err


def test_a_run_may_be_trained_on_another_data_set_than_it_is_measured_on(tmp_path):
    (tmp_path / "tiny.py").write_text(CONFIG)
    spec = worker.Spec(str(tmp_path / "tiny.py"), {}, "furniture", "test", probes=True)
    joint = dataclasses.replace(spec, trained_on="both")
    folders = {
        (each.trained_on, split): worker.read_config(each, split=split).data.directory
        for each in (spec, joint)
        for split in ("", "test")
    }
    assert folders == {
        ("", ""): "furniture", ("", "test"): "furniture", ("both", ""): "both",
        ("both", "test"): "furniture",
    }  # fmt: skip
