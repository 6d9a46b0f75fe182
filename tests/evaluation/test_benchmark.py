# SPDX-License-Identifier: Apache-2.0
"""Benchmark of one encoder: metrics, files, cached test sets and skipped test sets."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
import tiny_encoder
from fake_data import DIM, POINTS

from configs import benchmarks
from mrd_jax import encoder, models
from mrd_jax.checkpoints import fingerprinting, model_card
from mrd_jax.data import dataset_metadata, source
from mrd_jax.evaluation import benchmark, few_shot, held_out_split, linear_probe, results
from mrd_jax.evaluation.benchmark import measure, test_sets

pytestmark = pytest.mark.usefixtures("fast_compile")

FIELDS = tiny_encoder.FIELDS | dict(groups=4, group_size=4, depth=1, out_dim=DIM)
# Windows per point cloud, and points per window.
WINDOWS, WINDOW_POINTS = 2, POINTS // 2
DEVICES = tuple(jax.devices()[:1])
# A loaded encoder compiles its step; a benchmark does not change it, so that tests can share it.
LOAD = functools.cache(encoder.load)
# Tolerance for float32 sums whose order depends on the batch shape; rows have unit norm.
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def variables():
    cloud = np.zeros((1, WINDOW_POINTS, 3), np.float32)
    return jax.device_get(jax.jit(models.build_model(FIELDS).init)(jax.random.key(0), cloud, cloud))


@pytest.fixture(scope="module")
def saved(variables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "encoder"
    card = tiny_encoder.tiny_card(
        student=model_card.student_of(models.build_model(FIELDS)),
        parameters=model_card.count_parameters(variables),
        teacher_dim=DIM,
        points=WINDOW_POINTS,
    )
    encoder.save(folder, variables=variables, card=card)
    return folder


@pytest.fixture
def loaded(saved):
    return LOAD(str(saved), devices=DEVICES)


def config_for(made, *, checkpoint="", **fields):
    config = benchmarks.get_config()
    own = {"checkpoint": str(checkpoint), "data": str(made.parents[1]), "windows": WINDOWS}
    config.update(own | fields)
    return config


def config_without_probes(made, saved, **fields):
    """Returns a config whose probes are off unless `fields` turn them on."""
    probes = {"linear_probe": False, "few_shot": False}
    return config_for(made, checkpoint=saved, **(probes | fields))


def run(config, workdir):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "load", LOAD)
        benchmark.evaluate(config, str(workdir), devices=DEVICES)
    return json.loads((workdir / "results.json").read_text())


@pytest.fixture(scope="module")
def workdir(saved, made, tmp_path_factory):
    """Returns the workdir of a complete benchmark on one test set."""
    folder = tmp_path_factory.mktemp("benchmark")
    run(config_for(made, checkpoint=saved, seed=3), folder)
    return folder


@pytest.fixture
def folder(copied):
    """Returns a copy of the data set, the only one in its output folder."""
    return copied / "fake" / "1.0.0"


def edit(folder, **fields):
    """Changes the metadata of a data set."""
    path = folder / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


def add_copy(folder, name, **fields):
    """Adds a copy of a data set beside it, with another name and metadata."""
    copy = shutil.copytree(folder, folder.parents[1] / name / "1.0.0")
    return edit(copy, source=name, **fields)


def embed(folder, split, *, encoder, **fields):
    test_set = test_sets.TestSet("fake", folder, dataset_metadata.read(folder))
    return measure.embed(test_set, split, encoder=encoder, config=config_for(folder, **fields))


def row_of(content, name="student", *, test_set="fake"):
    rows = [results.from_dict(row) for row in content["sets"][test_set]["results"]]
    return next(row for row in rows if row.name == name)


def test_embeddings_average_the_windows_of_each_record_in_order(variables, loaded, made):
    model = models.build_model(FIELDS)
    apply = jax.jit(lambda xyz, rgb: model.apply(variables, xyz, rgb))
    records = source.open_split(made, "test")
    want = []
    for record in (records[i] for i in range(len(records))):
        xyz, rgb = np.float32(record["xyz"]), np.float32(record["rgb"]) / 255
        rows = [
            apply(xyz[None, s], rgb[None, s])[0]
            for s in (slice(0, WINDOW_POINTS), slice(WINDOW_POINTS, None))
        ]
        mean = sum(row / np.linalg.norm(row) for row in rows)
        want.append(mean / np.linalg.norm(mean))
    got = embed(made, "test", encoder=loaded, batch_size=3)
    np.testing.assert_allclose(got, want, rtol=0, atol=ROUNDING)
    # The comparison is only meaningful if the embeddings differ between shapes and windows.
    distances = np.linalg.norm(got[:, None] - got[None], axis=-1) + np.eye(len(got))
    assert distances.min() > 20 * ROUNDING
    assert np.abs(got - embed(made, "test", encoder=loaded, windows=1)).max() > 20 * ROUNDING


def test_clouds_of_the_other_up_axis_conversion_are_mirrored(loaded, folder):
    """A set converted by "swap" and an encoder trained on "rotate" differ in the sign of y."""
    own = embed(folder, "test", encoder=loaded, windows=1)
    records = source.open_split(folder, "test")
    mirrored = []
    for record in (records[i] for i in range(len(records))):
        xyz, rgb = np.float32(record["xyz"]), np.float32(record["rgb"]) / 255
        mirrored.append((xyz[:WINDOW_POINTS] * [1, -1, 1], rgb[:WINDOW_POINTS]))
    got = embed(edit(folder, from_y_up="swap"), "test", encoder=loaded, windows=1)
    np.testing.assert_allclose(got, loaded.embed(mirrored), rtol=0, atol=ROUNDING)
    assert np.abs(got - own).max() > 20 * ROUNDING


def test_metrics_match_those_of_the_evaluation_functions(workdir, loaded, made):
    found = json.loads((workdir / "results.json").read_text())
    train, test = (embed(made, split, encoder=loaded) for split in ("train", "test"))
    shapes = held_out_split.without_unseen(held_out_split.load_held_out(made))
    want = results.from_embeddings(test, name="student", held_out=shapes)
    assert row_of(found).metrics == want.metrics
    assert row_of(found).retrieval == want.retrieval and "points_to_points/map" in want.retrieval
    np.testing.assert_array_equal(row_of(found).correct, want.correct)
    figures = found["sets"]["fake"]
    names = [row["name"] for row in figures["results"]]
    assert names == [
        "chance",
        "majority",
        "nearest neighbour",
        "hand-crafted",
        "student",
        "teacher",
    ]
    given = {
        "labels": held_out_split.load_held_out(made, "train").labels,
        "test_features": test,
        "test_labels": shapes.labels,
    }
    assert figures["linear_probe"] == linear_probe.linear_probe(train, seed=3, **given)
    assert figures["few_shot"] == few_shot.few_shot(train, **given)
    assert not figures["mirrored"]


def test_config_seed_is_the_seed_of_the_linear_probe(made, loaded, monkeypatch):
    seeds = []
    monkeypatch.setattr(
        linear_probe, "linear_probe", lambda *features, seed, **given: seeds.append(seed)
    )
    test_set = test_sets.TestSet("fake", made, dataset_metadata.read(made))
    measure.measure(test_set, encoder=loaded, config=config_for(made, few_shot=False, seed=5))
    assert seeds == [5]


def test_results_record_fingerprints_versions_and_counts(workdir, saved, loaded, made):
    found = json.loads((workdir / "results.json").read_text())
    config = config_for(made, checkpoint=saved, seed=3)
    assert found["config"] == json.loads(config.to_json()) and found["seed"] == 3
    assert found["hashes"] == fingerprinting.benchmark_fingerprints(config)["hashes"]
    assert found["versions"]["jax"] == jax.__version__
    assert found["encoder"] == loaded.card.as_dict()
    figures, labels = found["sets"]["fake"], held_out_split.load_held_out(made).labels
    assert figures["data"] == dataset_metadata.fingerprint(dataset_metadata.read(made))
    counts = {"train": 29, "test": 10, "classes": 2, "labelled": np.sum(labels >= 0)}
    assert figures["counts"] == counts


def test_repeated_benchmark_gives_the_same_bytes_and_measures_only_changed_sets(
    workdir, saved, made, tmp_path, monkeypatch
):
    before = {name: (workdir / name).read_bytes() for name in ("results.json", "benchmarks.md")}
    copy, config = tmp_path / "copy", config_for(made, checkpoint=saved, seed=3)
    shutil.copytree(workdir, copy)
    with monkeypatch.context() as patch:
        patch.setattr(measure, "measure", None)
        run(config, copy)
        assert before == {name: (copy / name).read_bytes() for name in before}
        config.map_up_to = 0
        with pytest.raises(TypeError):
            run(config, copy)
    assert not any((copy / name).exists() for name in before)
    config.map_up_to = benchmarks.get_config().map_up_to
    run(config, tmp_path / "new")
    assert before == {name: (tmp_path / "new" / name).read_bytes() for name in before}


def test_failing_test_set_is_named_and_earlier_sets_are_kept(saved, folder, tmp_path, monkeypatch):
    classes = add_copy(folder, "second") / "evaluation" / "classes.json"
    text = classes.read_text()
    classes.unlink()
    config = config_without_probes(folder, saved, linear_probe=True)
    workdir = tmp_path / "benchmark"
    with pytest.raises(RuntimeError, match="set 'second' .*classes.json is missing"):
        run(config, workdir)
    assert [path.name for path in workdir.rglob("*.*")] == ["fake.json"]

    classes.write_text(text)
    names, original = [], measure.measure
    monkeypatch.setattr(
        measure,
        "measure",
        lambda test_set, **rest: names.append(test_set.name) or original(test_set, **rest),
    )
    found = run(config, workdir)
    assert names == ["second"] and list(found["sets"]) == ["fake", "second"]
    assert row_of(found).metrics == row_of(found, test_set="second").metrics
    assert "linear_probe" in found["sets"]["second"] and "few_shot" not in found["sets"]["second"]


def test_sets_that_do_not_fit_are_skipped_with_the_reason_or_raise_if_named(
    saved, folder, tmp_path
):
    other = dataset_metadata.read(folder)["teacher"] | {"name": "openai/clip"}
    add_copy(folder, "strange", teacher=other)
    reason = "its teacher is 'openai/clip' and the encoder's 'fake/teacher'"
    found = run(config_without_probes(folder, saved), tmp_path / "benchmark")
    assert set(found["sets"]) == {"fake"} and reason in found["skipped"]["strange"]
    assert f"- strange: {reason}" in (tmp_path / "benchmark" / "benchmarks.md").read_text()
    with pytest.raises(ValueError, match=f"config.sets names 'strange', .*: {reason}"):
        run(config_without_probes(folder, saved, sets=("strange",)), tmp_path / "named")
    shutil.rmtree(folder)
    with pytest.raises(
        ValueError, match=f"no data set in .* fits the encoder:\n  strange: {reason}"
    ):
        run(config_without_probes(folder, saved), tmp_path / "none")
    assert not (tmp_path / "named").exists() and not (tmp_path / "none").exists()


def test_set_without_a_training_split_has_no_probes(saved, folder, tmp_path):
    edit(folder, counts={"test": 10, "classes": 2})
    first = source.open_split(folder, "test")[0]["id"]
    (folder / "evaluation" / "unseen_names.json").write_text(json.dumps([first]))
    found = run(config_for(folder, checkpoint=saved, map_up_to=9), tmp_path)
    names = [row["name"] for row in found["sets"]["fake"]["results"]]
    assert names == ["chance", "student", "teacher"]
    assert not {"linear_probe", "few_shot"} & found["sets"]["fake"].keys()
    # The ten shapes exceed map_up_to. Names are unseen by the set's own training split only, which
    # is not that of the encoder.
    for name in ("student", "teacher"):
        keys = row_of(found, name).retrieval
        assert not [key for key in keys if "map" in key or "unseen" in key]
        assert row_of(found, name).retrieval["points_to_text/queries"] == 10


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"checkpoint": ""}, "config.checkpoint is empty: pass --config.checkpoint=DIR"),
        ({"batch_size": 0}, "config.batch_size is 0; expected 1 or more"),
        ({"windows": 0}, "config.windows is 0; expected 1 or more"),
        ({"map_up_to": -1}, "config.map_up_to is -1; expected 0 or more"),
        ({"sets": ("made", "fake")}, r"no data sets \['made'\]; found \['fake'\]"),
        ({"data": "nowhere"}, r"'nowhere', has no data sets at all; found \[\]"),
        ({"checkpoint": "nowhere"}, "holds no encoder"),
    ],
)
def test_invalid_config_raises_before_anything_is_written(saved, made, tmp_path, fields, message):
    config = config_without_probes(made, saved)
    config.update(fields)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(config, tmp_path / "benchmark")
    assert not (tmp_path / "benchmark").exists()


def test_workdir_of_a_run_is_refused_and_unchanged(saved, made, tmp_path):
    for name in ("run.json", "results.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match="results.json of its own: choose another --workdir"):
        run(config_without_probes(made, saved), tmp_path)
    assert (tmp_path / "results.json").read_text() == "{}"
