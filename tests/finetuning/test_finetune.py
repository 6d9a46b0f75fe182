# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning on records of a fake source: errors before the run, results, and continued runs."""

import json

import jax
import numpy as np
import pytest
from fake_data import DIM, POINTS, run_build
from tiny import assert_trees_equal
from tiny_encoder import FIELDS, tiny_card

from configs import benchmarks, finetune_modelnet40, finetune_scanobjectnn
from configs import finetune as finetune_config
from mrd_jax import encoder, main, models
from mrd_jax.checkpoints import model_card, paths
from mrd_jax.data import source, subset
from mrd_jax.evaluation import benchmark, held_out_split, linear_probe
from mrd_jax.finetuning import finetune, labelled, settings, votes
from mrd_jax.finetuning import run as runs
from mrd_jax.training import run as run_lib
from mrd_jax.training import train, validation

pytestmark = pytest.mark.usefixtures("fast_compile")

SIZES = FIELDS | dict(groups=4, group_size=4, depth=2, out_dim=DIM)
ONE, EIGHT = tuple(jax.devices()[:1]), tuple(jax.devices())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """40 shapes of 24 points in three classes, of which a quarter has no class."""
    with pytest.MonkeyPatch.context() as patch:
        folder, _ = run_build(tmp_path_factory.mktemp("built"), patch)
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Random encoder."""
    model = models.build_model(SIZES)
    cloud = np.zeros((1, POINTS, 3), np.float32)
    variables = jax.device_get(jax.jit(model.init)(jax.random.key(1), cloud, cloud))
    card = tiny_card(
        student=model_card.student_of(model),
        parameters=model_card.count_parameters(variables),
        teacher_dim=DIM,
        points=POINTS,
    )
    folder = tmp_path_factory.mktemp("start") / "encoder"
    encoder.save(folder, variables=variables, card=card)
    return folder


@pytest.fixture
def config(dataset, start):
    config = finetune_config.get_config()
    config.update(dict(batch_size=8, total_steps=6, eval_every=3, checkpoint_every=3, log_every=1))
    config.eval_windows = 1
    config.initial_weights, config.data.directory = str(start), str(dataset)
    config.optimizer.update(dict(warmup_steps=1, learning_rate=1e-2))
    return config


def test_architecture_and_conventions_are_those_on_the_model_card(config):
    config.model.patch_dropout = 0.25
    resolved = settings.resolve(config)
    assert resolved.model.to_dict() == (
        models_fields() | {"patch_dropout": 0.25, "points": POINTS, "patch_choice": "fewer"}
    )
    assert (resolved.teacher.name, resolved.teacher.dim) == ("fake/teacher", DIM)
    assert config.model.dim == 512  # the argument is not changed


def models_fields():
    return model_card.student_of(models.build_model(SIZES))


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("initial_weights", "", "config.initial_weights is ''"),
        ("initial_weights", "nowhere", "nowhere holds no encoder"),
        ("data.directory", "nowhere", "no data set in 'nowhere'"),
        ("data.hard_negatives", 2, "config.data.hard_negatives is 2; expected 0"),
        ("data.test_directory", "other", "config.data.test_directory is 'other'"),
        ("optimizer.ema_decay", 0.9, "config.optimizer.ema_decay is 0.9"),
        ("eval_windows", 2, "config.eval_windows is 2"),
        ("finetune.trainable_blocks", 3, "the encoder has 2 blocks"),
        ("finetune.label_smoothing", 1.0, "config.finetune.label_smoothing is 1.0"),
        ("finetune.head", "random", "config.finetune.head is 'random'"),
        ("finetune.votes", 0, "config.finetune.votes is 0"),
    ],
)
def test_mistake_is_named_before_anything_is_computed(config, field, value, message):
    config.update_from_flattened_dict({field: value})
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        settings.resolve(config)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"teacher": "another"}, "its teacher is 'fake/teacher' and the encoder's 'another'"),
        ({"points": POINTS + 1}, "config.model.points is 25, but records have 24"),
    ],
)
def test_encoder_of_other_conventions_is_refused(config, start, tmp_path, changes, message):
    loaded = encoder.load(start, devices=ONE)
    card = model_card.from_dict(loaded.card.as_dict() | changes)
    encoder.save(tmp_path / "other", variables=jax.device_get(loaded.variables), card=card)
    config.initial_weights = str(tmp_path / "other")
    with pytest.raises(ValueError, match=message):
        settings.resolve(config)


@pytest.mark.parametrize(
    "train_labels, test_labels, message",
    [
        ([-1, -1], [0, 1], "all 2 labels of the training split are -1"),
        ([0, 1], [-1], "all 1 labels of the test split are -1"),
        ([-1, 2, 2], [2], "are of one class; expected two or more"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(train_labels, test_labels, message):
    with pytest.raises(ValueError, match=message):
        labelled.check_labels(np.array(train_labels), np.array(test_labels), where="data")


def test_rare_and_unknown_classes_are_logged(caplog):
    with caplog.at_level("INFO"):
        labelled.check_labels(np.array([0, 1, 1, -1]), np.array([0, 2, -1]), where="data")
    assert "2, with 3 labelled of 4" in caplog.text
    assert "1 classes have one training shape" in caplog.text
    assert "1 test shapes are of a class without training shapes" in caplog.text


def test_batches_hold_labelled_shapes_only(config, dataset):
    resolved = settings.resolve(config)
    test = held_out_split.load_held_out(str(dataset))
    data, labels = labelled.open_labelled(resolved, test=test)
    whole = source.open_split(str(dataset), "train")
    wanted = [record["id"] for record in whole if record["label"] >= 0]
    assert 0 < len(wanted) < len(whole)
    assert [record["id"] for record in data.records] == wanted
    assert data.sample_ids([0, len(wanted) - 1]) == [wanted[0], wanted[-1]]
    batches, _ = data.open_stream(resolved, workdir=config.initial_weights, start_step=0)
    for _ in range(3):
        batch = next(batches)
        np.testing.assert_array_equal(batch["label"], labels[batch["index"]])
        assert np.all(batch["label"] >= 0)


def test_corrupt_record_of_a_subset_is_named_by_its_place_in_the_split(dataset):
    whole = source.open_split(str(dataset), "train")
    part = subset.Subset(whole, np.array([5, 2]))
    assert str(part.corrupt_record_error(1, "x")) == str(whole.corrupt_record_error(2, "x"))
    with pytest.raises(IndexError, match="subset of 2"):
        part.read(2, ("id",))


def test_votes_scale_the_coordinates_alone(dataset):
    whole = source.open_split(str(dataset), "test")
    scaled = votes.Scaled(whole, np.full(len(whole), 0.5))
    np.testing.assert_array_equal(scaled[1]["xyz"], whole[1]["xyz"] * np.float16(0.5))
    np.testing.assert_array_equal(scaled[1]["rgb"], whole[1]["rgb"])
    assert scaled[1]["xyz"].dtype == whole[1]["xyz"].dtype


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_other_modes_refuse_a_config_of_fine_tuning(mode):
    with pytest.raises(ValueError, match="--mode finetune"):
        main.choose(finetune_config.get_config(), mode, "newest")


def test_mode_refuses_other_configs():
    with pytest.raises(ValueError, match="config.finetune"):
        main.choose(benchmarks.get_config(), "finetune", "newest")


@pytest.mark.parametrize("recipe", [finetune_config, finetune_modelnet40, finetune_scanobjectnn])
def test_configs_are_valid(recipe):
    validation.validate(recipe.get_config())


def interrupt(monkeypatch, *, step):
    """Ends the loop before the checkpoint of a step, like a killed process."""
    due = train._due

    def fail(config, current):
        if current == step:
            raise KeyboardInterrupt
        return due(config, current)

    monkeypatch.setattr(train, "_due", fail)


def last_state(config, workdir):
    resolved = settings.resolve(config)
    run, tested = runs.build(resolved, devices=ONE)
    data, _ = labelled.open_labelled(resolved, test=tested.held_out)
    checkpoints = run_lib.open_checkpoints(resolved, str(workdir), data, read_only=True)
    state = jax.device_get(checkpoints.restore(run.initial_state()))
    checkpoints.close()
    return state


@pytest.mark.slow
def test_interrupted_run_ends_bit_equal_with_the_same_files(config, tmp_path, monkeypatch):
    config.finetune.votes = 2
    assert finetune.finetune(config, str(tmp_path / "straight"), devices=ONE)
    with monkeypatch.context() as patch:
        interrupt(patch, step=5)
        with pytest.raises(KeyboardInterrupt):
            finetune.finetune(config, str(tmp_path / "broken"), devices=ONE)
    assert paths.newest(tmp_path / "broken").name == "3"
    assert finetune.finetune(config, str(tmp_path / "broken"), devices=ONE)
    assert_trees_equal(
        last_state(config, tmp_path / "broken"), last_state(config, tmp_path / "straight")
    )
    for name in ("finetune.json", "encoder/model.safetensors", "encoder/class_head.safetensors"):
        assert (tmp_path / "broken" / name).read_bytes() == (
            tmp_path / "straight" / name
        ).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_result_does_not_depend_on_the_devices(config, tmp_path, sharded):
    config.total_steps = 2
    finetune.finetune(config, str(tmp_path / "one"), devices=ONE)
    if sharded:
        config.spmd, config.shard_state = "shard_map", True
    finetune.finetune(config, str(tmp_path / "eight"), devices=EIGHT)
    states = [last_state(config, tmp_path / name) for name in ("one", "eight")]
    for one, eight in zip(*(jax.tree.leaves(state.params) for state in states), strict=True):
        np.testing.assert_allclose(eight, one, rtol=0, atol=2e-4)


@pytest.mark.slow
def test_results_are_those_of_the_saved_encoder(config, dataset, tmp_path):
    """The benchmark and a linear probe on embeddings of `Encoder.embed` agree with the run."""
    config.finetune.trainable_blocks = 1
    finetune.finetune(config, str(tmp_path / "run"), devices=ONE)
    found = json.loads((tmp_path / "run" / "finetune.json").read_text())
    tuned = encoder.load(tmp_path / "run" / "encoder", devices=ONE)
    begun = encoder.load(config.initial_weights, devices=ONE)
    clouds, labels = {}, {}
    for split in ("train", "test"):
        records = source.open_split(str(dataset), split)
        clouds[split] = [(r["xyz"].astype(np.float32), r["rgb"] / np.float32(255)) for r in records]
        labels[split] = np.array([record["label"] for record in records])
    known = labels["test"] >= 0
    resolved = settings.resolve(config)
    run, tested = runs.build(resolved, devices=ONE)
    state = last_state(config, tmp_path / "run")
    data, _ = labelled.open_labelled(resolved, test=tested.held_out)
    logits = run.class_head(run.backend.place_state(state)).logits(
        tested.embed(run.backend.place_state(state).variables(), data.records)
    )
    of_saved = tuned.classes.logits(tuned.embed(clouds["train"])[labels["train"] >= 0])
    np.testing.assert_allclose(of_saved, logits, rtol=1e-4, atol=1e-4)
    assert np.ptp(logits, axis=0).min() > 0.1  # so that the comparison can fail
    names = [name for name, _ in tuned.classes.classify(tuned.embed(clouds["test"]))]
    right = np.array(names)[known] == np.array(tuned.classes.names)[labels["test"][known]]
    assert found["last"]["top1"] == pytest.approx(right.mean())
    probe = linear_probe.linear_probe(
        begun.embed(clouds["train"]),
        labels=labels["train"],
        test_features=begun.embed(clouds["test"]),
        test_labels=labels["test"],
        seed=config.seed,
    )
    assert found["linear_probe"]["top1"] == pytest.approx(probe["top1"])
    # The tokenizer is frozen, the last block is not.
    before, after = (jax.device_get(e.variables)["params"] for e in (begun, tuned))
    assert_trees_equal(after["tokenizer"], before["tokenizer"])
    assert_trees_equal(after["transformer"]["blocks"], before["transformer"]["blocks"])
    assert np.any(after["projection"]["kernel"] != before["projection"]["kernel"])

    settings_ = benchmarks.get_config()
    settings_.update({"checkpoint": str(tmp_path / "run" / "encoder"), "few_shot": False})
    settings_.data = str(dataset.parents[1])
    benchmark.evaluate(settings_, str(tmp_path / "benchmark"), devices=ONE)
    (measured,) = json.loads((tmp_path / "benchmark/results.json").read_text())["sets"].values()
    assert measured["fine_tuned"]["top1"] == found["last"]["top1"]
    page = (tmp_path / "benchmark/benchmarks.md").read_text()
    assert "| fine-tuned top-1 |" in page and "| linear probe top-1 |" in page
