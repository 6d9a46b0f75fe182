# SPDX-License-Identifier: Apache-2.0
"""The whole training loop on records of a fake source: curves, interruption, errors."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from fake_data import DIM, FakeTeacher, run_build
from tiny import assert_trees_equal, tiny_config

from mrd_jax.checkpoints import paths as saved
from mrd_jax.checkpoints import run_identity
from mrd_jax.data import loader, source
from mrd_jax.data.hard_negatives import neighbour_index
from mrd_jax.report import figures, final
from mrd_jax.tools import neighbours as tool
from mrd_jax.training import calibration, train
from mrd_jax.training import run as run_lib

pytestmark = pytest.mark.usefixtures("fast_compile")

TIMINGS = ("train/samples_per_second", "train/data_wait_fraction")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """40 shapes of 96 points, built by data_prep, with the nearest five of each."""
    with pytest.MonkeyPatch.context() as patch:
        folder, _ = run_build(tmp_path_factory.mktemp("built"), patch, points=96)
    assert tool.main(["--data", str(folder), "--count", "5"]) == 0
    return folder


def config_for(dataset, **fields):
    """Returns a config with hard negatives, best checkpoints, calibration and several positives."""
    hard = {"data__hard_negatives": 6, "data__neighbours": 5}
    best = {"checkpoints_best": 1, "checkpoint_every": 6}
    soft = {"loss__neighbours_within": 6.0, "loss__neighbours_across": 7.0}
    several = {"data__image_positives": 3, "data__text_positives": 2}
    several["loss__relation_features"] = "mean"
    fields = {"teacher__dim": DIM, "model__out_dim": DIM} | hard | best | soft | several | fields
    return tiny_config(data__directory=str(dataset), **fields)


def lines(workdir, *, prefix):
    """Returns the logged metrics by step, without timings."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {
        row["step"]: {k: v for k, v in row.items() if k.startswith(prefix) and k not in TIMINGS}
        for row in rows
        if any(name.startswith(prefix) for name in row)
    }


def final_state(config, workdir):
    run = run_lib.build_run(config, devices=jax.devices()[:1])
    checkpoints = run_lib.open_checkpoints(
        config, str(workdir), run_lib.open_data(config), read_only=True
    )
    state = jax.device_get(checkpoints.restore(run.initial_state()))
    checkpoints.close()
    return state


@pytest.fixture(scope="module")
def straight(dataset, tmp_path_factory):
    """Workdir of an uninterrupted run of six steps on one device."""
    workdir = tmp_path_factory.mktemp("straight")
    train.train_and_evaluate(config_for(dataset), str(workdir), devices=jax.devices()[:1])
    return workdir


def test_points_of_the_data_set_continue_a_run_that_states_them(dataset, straight):
    left_open, stated = config_for(dataset, data__points=0), config_for(dataset)
    resolved = run_lib.resolve(left_open)
    assert resolved.to_dict() == stated.to_dict() and left_open.data.points == 0
    run_lib.open_checkpoints(
        resolved, str(straight), run_lib.open_data(resolved), read_only=True
    ).close()
    with pytest.raises(ValueError, match="with points = 96, but config.data.points expects 97"):
        run_lib.open_data(config_for(dataset, data__points=97))
    with pytest.raises(ValueError, match="model.points is 97, but records have 96 points"):
        run_lib.resolve(config_for(dataset, data__points=0, model__points=97))


@pytest.mark.usefixtures("without_curves")
def test_interrupted_run_continues_bit_for_bit(dataset, straight, tmp_path, monkeypatch):
    config = config_for(dataset)
    stream = loader.train_stream

    def interrupted_stream(*args, **kwargs):
        batches = stream(*args, **kwargs)
        if "start_step" not in kwargs:
            yield from batches  # the calibration before the run
        # Step 4 is computed but not saved: the newest checkpoint is that of step 3.
        for _ in range(4):
            yield next(batches)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loader, "train_stream", interrupted_stream)
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(config, str(tmp_path), devices=jax.devices()[:1])
    assert set(lines(tmp_path, prefix="train/")) == {1, 2, 3, 4}

    train.train_and_evaluate(config, str(tmp_path), devices=jax.devices()[:1])
    assert lines(tmp_path, prefix="train/") == lines(straight, prefix="train/")
    assert lines(tmp_path, prefix="test/") == lines(straight, prefix="test/")
    state = final_state(config, tmp_path)
    assert int(state.step) == 6
    assert_trees_equal(state, final_state(config, straight))


def test_every_metric_of_the_run_is_logged(straight):
    (last,) = [row for step, row in lines(straight, prefix="train/").items() if step == 6]
    for name in ("loss", "contrastive", "intra", "image", "text", "grad_norm", "learning_rate"):
        assert np.isfinite(last[f"train/{name}"])
    assert last["train/weight/intra/VV"] + last["train/weight/intra/TT"] == pytest.approx(1)
    assert last["train/scale"] > 1 and last["train/student_temperature"] > 0
    assert 0 <= last["train/accuracy_image"] <= 1
    assert last["train/corrupt_records"] == 0
    assert set(lines(straight, prefix="test/")) == {3, 6}
    assert list((straight / "tensorboard").iterdir())


def test_softness_of_every_relation_is_logged_at_evaluations(straight):
    logged = lines(straight, prefix="relation/")
    assert set(logged) == {3, 6}
    targets = ("intra/VV", "intra/TT", "image/VV", "image/TV", "text/TT", "text/VT")
    sides = ("teacher_neighbours", "teacher_diagonal", "student_neighbours", "student_diagonal")
    assert set(logged[6]) == {f"relation/{name}/{side}" for name in targets for side in sides}
    for name, value in logged[6].items():
        low, high = (1, 16) if name.endswith("neighbours") else (0, 1)
        assert low <= value <= high
    assert logged[6]["relation/intra/VV/student_diagonal"] == 0
    # The teacher's relations do not change while the student learns; the student's do.
    same = {name for name in logged[6] if logged[3][name] == logged[6][name]}
    assert same == {name for name in logged[6] if "teacher" in name or name.endswith("l/V")} | {
        name for name in logged[6] if name.startswith("relation/intra") and "diagonal" in name
    }


def test_calibration_gives_every_target_its_number_of_neighbours(dataset):
    config = config_for(dataset)
    data = run_lib.open_data(config)
    measured = calibration.measure(config, data.records, neighbours=data.neighbours)
    for target, soft in measured.softness.items():
        wanted = 6 if target.name in ("VV", "TT") else 7
        assert soft.neighbours == pytest.approx(wanted, rel=1e-3)
        assert (soft.diagonal == 0) == (target.term == "intra")
    # Fixed at these temperatures, the config asks for no further calibration.
    fixed = config.copy_and_resolve_references()
    fixed.loss = calibration.with_temperatures(config.loss, measured)
    assert calibration.calibrate(fixed, data.records) is fixed
    again = calibration.measure(fixed, data.records, neighbours=data.neighbours)
    assert again == measured
    assert config.loss.neighbours_within == 6 and not config.loss.teacher_temperatures.intra


def test_finished_run_has_results_and_a_report(straight):
    results = json.loads((straight / "results.json").read_text())
    names = [line["name"] for line in results["results"]]
    assert names == [
        "chance",
        "majority",
        "nearest neighbour",
        "hand-crafted",
        "student",
        "teacher",
    ]
    assert results["config"]["total_steps"] == 6
    assert (straight / "finished").read_text() == "6 steps\n"
    page = (straight / "report.html").read_text()
    assert "<img" in page
    # Every figure of the report finds its numbers under the names that a run gives them.
    missing = [panel.title for panel in figures.PANELS if f"<b>{panel.title}</b>" not in page]
    assert missing == ["Schedule of the distillation terms"]  # this run has none
    assert "Relations over time" in page and 'class="dot' in page


@pytest.mark.usefixtures("without_curves")
def test_evaluating_a_checkpoint_repeats_its_results(dataset, straight, capsys):
    before = json.loads((straight / "results.json").read_text())
    for which, step in (("3", 3), ("newest", 6)):
        train.evaluate(config_for(dataset), str(straight), which=which, devices=jax.devices()[:1])
        found = json.loads((straight / "results.json").read_text())
        (student,) = (line for line in found["results"] if line["name"] == "student")
        logged = lines(straight, prefix="test/")[step]
        assert student["metrics"]["top1"] == logged["test/top1"]
        assert student["metrics"]["mean_per_class"] == logged["test/mean_per_class"]
    assert found == before
    assert "student" in capsys.readouterr().out


def test_every_evaluated_step_is_saved_if_best_checkpoints_are_kept(straight):
    assert [step.name for step in saved.steps(straight)] == ["3", "6"]


@pytest.mark.usefixtures("without_curves")
def test_one_and_eight_devices_give_the_same_loss_curve(dataset, tmp_path):
    """Augmentation and patch dropout are on; 20 steps, 1e-4 relative."""
    config = config_for(dataset, total_steps=20, eval_every=20, checkpoint_every=20)
    curves = []
    for count in (1, 8):
        workdir = tmp_path / str(count)
        train.train_and_evaluate(config, str(workdir), devices=jax.devices()[:count])
        logged = lines(workdir, prefix="train/")
        curves.append([logged[step]["train/loss"] for step in range(1, 21)])
    assert len(set(curves[0])) == 20
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-4)


def test_workdir_of_another_run_is_rejected(dataset, straight):
    with pytest.raises(run_identity.WorkdirMismatchError, match="loss.lambda_intra: 1.0 there"):
        train.train_and_evaluate(config_for(dataset, loss__lambda_intra=0.5), str(straight))


def test_run_continues_only_with_the_neighbours_it_began_with(dataset, straight, tmp_path):
    """The path of their file may change."""
    path = tmp_path / "moved.npz"
    config = config_for(dataset, data__neighbours_file=str(path))
    there = neighbour_index.read(neighbour_index.default_path(dataset, "train"))
    neighbour_index.write(path, there)
    checkpoints = run_lib.open_checkpoints(config, str(straight), run_lib.open_data(config))
    checkpoints.close()

    other = dataclasses.replace(there, indices=there.indices[:, ::-1])
    neighbour_index.write(path, other)
    with pytest.raises(
        run_identity.WorkdirMismatchError, match=f"neighbours {other.content_fingerprint()}"
    ):
        run_lib.open_checkpoints(config, str(straight), run_lib.open_data(config))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"model__out_dim": 12}, "model.out_dim is 12 and config.teacher.dim is 6"),
        ({"teacher__dim": 12, "model__out_dim": 12}, "teacher.dim.*6.*12"),
        ({"teacher__name": "openai/clip"}, "fake/teacher.*openai/clip"),
        ({"model__points": 97}, "model.points is 97, but records have 96 points"),
        ({"eval_windows": 2}, "eval_windows is 2.*must be 1 to 1"),
        ({"batch_size": 12}, "batch_size is 12.*8 devices"),
        (
            {"data__hard_negatives": 16},
            "hard_negatives is 16; with config.batch_size 16 .* 0 to 15",
        ),
        ({"data__hard_negatives": -1}, "hard_negatives is -1"),
        ({"data__neighbours": 0}, "neighbours is 0; expected an integer, at least 1"),
        ({"data__hard_negatives": 14}, "neighbours is 5, but each of the 2 seeds .* needs 7"),
        ({"data__neighbours": 6}, "has 5 neighbours per record.*--count 6"),
        ({"batch_size": 32}, "batch_size is 32, but split .train. of .* has 29 records"),
    ],
)
def test_config_that_does_not_fit_is_rejected_before_anything_is_written(
    dataset, tmp_path, fields, message
):
    workdir = tmp_path / "run"
    with pytest.raises(ValueError, match=message):
        train.train_and_evaluate(config_for(dataset, **fields), str(workdir))
    assert not workdir.exists()


def test_missing_data_set_names_the_command_that_builds_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="data_prep.build"):
        train.train_and_evaluate(config_for(tmp_path / "nothing"), str(tmp_path / "run"))


def test_evaluating_an_empty_workdir_tells_to_train_first(dataset, tmp_path):
    with pytest.raises(FileNotFoundError, match="not the workdir of a run.*--mode train"):
        train.evaluate(config_for(dataset), str(tmp_path / "mistyped"))
    assert not (tmp_path / "mistyped").exists()


def test_evaluating_before_the_first_checkpoint_is_an_error(dataset, tmp_path):
    checkpoints = run_lib.open_checkpoints(
        config_for(dataset), str(tmp_path), run_lib.open_data(config_for(dataset))
    )
    checkpoints.close()
    with pytest.raises(FileNotFoundError, match="no checkpoint.*--mode train"):
        train.evaluate(config_for(dataset), str(tmp_path))


@pytest.mark.slow
def test_batch_divides_over_the_devices_of_the_run_only(dataset, tmp_path):
    """A batch of 12 on 4 of the 8 devices; without hard negatives."""
    config = config_for(dataset, batch_size=12, total_steps=3, data__hard_negatives=0)
    train.train_and_evaluate(config, str(tmp_path), devices=jax.devices()[:4])
    assert set(lines(tmp_path, prefix="train/")) == {1, 2, 3}


def test_run_without_a_test_split_trains_alike_and_evaluates_nothing(dataset, straight, tmp_path):
    config = config_for(dataset, data__test_split="", checkpoints_best=0)
    train.train_and_evaluate(config, str(tmp_path / "run"), devices=jax.devices()[:1])
    want = final_state(config_for(dataset), straight)
    assert_trees_equal(final_state(config, tmp_path / "run"), want)
    assert not lines(tmp_path / "run", prefix="test/")
    assert not (tmp_path / "run" / "results.json").exists()
    assert (tmp_path / "run" / "finished").exists()
    with pytest.raises(ValueError, match="config.data.test_split is empty"):
        train.evaluate(config, str(tmp_path / "run"))


@pytest.fixture
def another(tmp_path, monkeypatch):
    """The same source with other points and colours; one name is not in its training split."""
    folder = run_build(tmp_path / "another", monkeypatch, points=96, seed=1)[0]
    first = source.open_split(folder, "test")[0]["id"]
    (folder / "evaluation" / "unseen_names.json").write_text(json.dumps([first]))
    return folder


def test_run_is_tested_on_another_data_set(dataset, another, straight, tmp_path):
    """Baselines that are fitted to the training split of the test set are not computed."""
    run = shutil.copytree(straight, tmp_path / "run")
    config = config_for(dataset, data__test_directory=str(another))
    train.evaluate(config, str(run), devices=jax.devices()[:1])
    lines = json.loads((run / "results.json").read_text())["results"]
    assert [line["name"] for line in lines] == ["chance", "student", "teacher"]
    assert not [key for line in lines for key in line["retrieval"] if "unseen" in key]
    saved = final.load_embeddings(run)
    assert set(saved) == {"test", "test_ids"}
    # The same ids of other clouds.
    own = final.load_embeddings(straight)
    np.testing.assert_array_equal(saved["test_ids"], own["test_ids"])
    assert np.abs(saved["test"] - own["test"]).max() > 0.01
    assert "<img" in (run / "report.html").read_text()


def test_test_set_of_another_teacher_is_rejected_before_anything_is_written(
    dataset, tmp_path, monkeypatch
):
    other, _ = run_build(
        tmp_path / "another", monkeypatch, points=96, teacher=FakeTeacher(revision="2")
    )
    config = config_for(dataset, data__test_directory=str(other))
    with pytest.raises(ValueError, match="'revision': '2'.*'revision': '1'") as error:
        train.train_and_evaluate(config, str(tmp_path / "run"))
    assert str(other) in str(error.value) and str(dataset) in str(error.value)
    assert not (tmp_path / "run").exists()
