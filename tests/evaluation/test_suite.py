# SPDX-License-Identifier: Apache-2.0
"""One encoder on every prepared set: the figures, what is kept, what is left out."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
import tiny_encoder
from made_up import DIM, POINTS

from configs import benchmarks
from mrd_jax import encoder as encoders
from mrd_jax import models
from mrd_jax.checkpoints import hashes, model_card
from mrd_jax.data import source
from mrd_jax.evaluation import benchmark, few_shot, held_out_split, linear_probe, results
from mrd_jax.evaluation.benchmark import measure, test_sets

pytestmark = pytest.mark.usefixtures("fast_compile")

FIELDS = tiny_encoder.FIELDS | dict(groups=4, group_size=4, depth=1, out_dim=DIM)
WINDOWS, SEEN = 2, POINTS // 2
DEVICES = tuple(jax.devices()[:1])
# Loading compiles anew, and nothing that a suite does changes an encoder.
LOAD = functools.cache(encoders.load)
# Float rounding of sums that XLA orders by shape; rows have unit norm.
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def variables():
    cloud = np.zeros((1, SEEN, 3), np.float32)
    return jax.device_get(jax.jit(models.build_model(FIELDS).init)(jax.random.key(0), cloud, cloud))


@pytest.fixture(scope="module")
def saved(variables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "encoder"
    card = tiny_encoder.tiny_card(
        student=model_card.student_of(models.build_model(FIELDS)),
        parameters=model_card.count_parameters(variables),
        teacher_dim=DIM,
        points=SEEN,
    )
    encoders.save(folder, variables=variables, card=card)
    return folder


@pytest.fixture
def loaded(saved):
    return LOAD(str(saved), devices=DEVICES)


def config_for(made, *, checkpoint="", **fields):
    config = benchmarks.get_config()
    own = {"checkpoint": str(checkpoint), "data": str(made.parents[1]), "windows": WINDOWS}
    config.update(own | fields)
    return config


def quick(made, saved, **fields):
    """Without the probes, unless asked for."""
    probes = {"linear_probe": False, "few_shot": False}
    return config_for(made, checkpoint=saved, **(probes | fields))


def run(config, workdir):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "load", LOAD)
        benchmark.evaluate(config, str(workdir), devices=DEVICES)
    return json.loads((workdir / "results.json").read_text())


@pytest.fixture(scope="module")
def workdir(saved, made, tmp_path_factory):
    """Of a whole suite on the one set that there is."""
    folder = tmp_path_factory.mktemp("suite")
    run(config_for(made, checkpoint=saved, seed=3), folder)
    return folder


@pytest.fixture
def folder(copied):
    """A data set of one's own, alone in the output of its build."""
    return copied / "made_up" / "1.0.0"


def edit(folder, **fields):
    """Changes what a data set says of itself."""
    path = folder / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


def add_copy(folder, name, **fields):
    """Another data set beside one."""
    copy = shutil.copytree(folder, folder.parents[1] / name / "1.0.0")
    return edit(copy, source=name, **fields)


def embed(folder, split, *, encoder, **fields):
    one = test_sets.TestSet("made_up", folder, source.read_metadata(folder))
    return measure.embed(one, split, encoder=encoder, config=config_for(folder, **fields))


def line(found, name="student", *, of="made_up"):
    lines = [results.from_dict(each) for each in found["sets"][of]["results"]]
    return next(each for each in lines if each.name == name)


def test_embeddings_average_the_windows_of_each_record_in_order(variables, loaded, made):
    model = models.build_model(FIELDS)
    apply = jax.jit(lambda xyz, rgb: model.apply(variables, xyz, rgb))
    records = source.open_split(made, "test")
    want = []
    for record in (records[i] for i in range(len(records))):
        xyz, rgb = np.float32(record["xyz"]), np.float32(record["rgb"]) / 255
        rows = [apply(xyz[None, s], rgb[None, s])[0] for s in (slice(0, SEEN), slice(SEEN, None))]
        mean = sum(row / np.linalg.norm(row) for row in rows)
        want.append(mean / np.linalg.norm(mean))
    got = embed(made, "test", encoder=loaded, batch_size=3)
    np.testing.assert_allclose(got, want, rtol=0, atol=ROUNDING)
    # Neither order nor windows could be seen if all clouds embedded alike.
    apart = np.linalg.norm(got[:, None] - got[None], axis=-1) + np.eye(len(got))
    assert apart.min() > 20 * ROUNDING
    assert np.abs(got - embed(made, "test", encoder=loaded, windows=1)).max() > 20 * ROUNDING


def test_clouds_of_the_mirror_world_are_mirrored(loaded, folder):
    """A set by "swap" and an encoder by "rotate" differ in the sign of y."""
    own = embed(folder, "test", encoder=loaded, windows=1)
    records = source.open_split(folder, "test")
    turned = []
    for record in (records[i] for i in range(len(records))):
        xyz, rgb = np.float32(record["xyz"]), np.float32(record["rgb"]) / 255
        turned.append((xyz[:SEEN] * [1, -1, 1], rgb[:SEEN]))
    got = embed(edit(folder, from_y_up="swap"), "test", encoder=loaded, windows=1)
    np.testing.assert_allclose(got, loaded.embed(turned), rtol=0, atol=ROUNDING)
    assert np.abs(got - own).max() > 20 * ROUNDING


def test_the_figures_are_those_of_the_evaluators(workdir, loaded, made):
    found = json.loads((workdir / "results.json").read_text())
    train, test = (embed(made, split, encoder=loaded) for split in ("train", "test"))
    shapes = held_out_split.without_unseen(held_out_split.load_held_out(made))
    want = results.from_embeddings(test, name="student", held_out=shapes)
    assert line(found).metrics == want.metrics
    assert line(found).retrieval == want.retrieval and "points_to_points/map" in want.retrieval
    np.testing.assert_array_equal(line(found).correct, want.correct)
    figures = found["sets"]["made_up"]
    names = [each["name"] for each in figures["results"]]
    assert names == ["chance", "majority", "floor", "student", "ceiling"]
    given = {
        "labels": held_out_split.load_held_out(made, "train").labels,
        "test_features": test,
        "test_labels": shapes.labels,
    }
    assert figures["linear_probe"] == linear_probe.linear_probe(train, seed=3, **given)
    assert figures["few_shot"] == few_shot.few_shot(train, **given)
    assert not figures["mirrored"]


def test_the_seed_draws_the_part_that_chooses_the_penalty(made, loaded, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        linear_probe, "linear_probe", lambda *features, seed, **given: drawn.append(seed)
    )
    one = test_sets.TestSet("made_up", made, source.read_metadata(made))
    measure.measure(one, encoder=loaded, config=config_for(made, few_shot=False, seed=5))
    assert drawn == [5]


def test_the_results_say_what_they_depend_on(workdir, saved, loaded, made):
    found = json.loads((workdir / "results.json").read_text())
    config = config_for(made, checkpoint=saved, seed=3)
    assert found["config"] == json.loads(config.to_json()) and found["seed"] == 3
    assert found["hashes"] == hashes.marks(config)["hashes"]
    assert found["versions"]["jax"] == jax.__version__
    assert found["encoder"] == loaded.card.as_dict()
    figures, labels = found["sets"]["made_up"], held_out_split.load_held_out(made).labels
    assert figures["data"] == source.fingerprint(source.read_metadata(made))
    counts = {"train": 29, "test": 10, "classes": 2, "labelled": np.sum(labels >= 0)}
    assert figures["counts"] == counts


def test_the_same_suite_gives_the_same_bytes_and_measures_only_what_has_changed(
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


def test_a_set_that_fails_is_named_and_what_was_done_before_it_is_kept(
    saved, folder, tmp_path, monkeypatch
):
    classes = add_copy(folder, "second") / "evaluation" / "classes.json"
    text = classes.read_text()
    classes.unlink()
    config, workdir = quick(folder, saved, linear_probe=True), tmp_path / "suite"
    with pytest.raises(RuntimeError, match="set 'second' .*classes.json is missing"):
        run(config, workdir)
    assert [path.name for path in workdir.rglob("*.*")] == ["made_up.json"]

    classes.write_text(text)
    measured, whole = [], measure.measure
    monkeypatch.setattr(
        measure, "measure", lambda one, **rest: measured.append(one.name) or whole(one, **rest)
    )
    found = run(config, workdir)
    assert measured == ["second"] and list(found["sets"]) == ["made_up", "second"]
    assert line(found).metrics == line(found, of="second").metrics
    assert "linear_probe" in found["sets"]["second"] and "few_shot" not in found["sets"]["second"]


def test_sets_that_do_not_fit_are_left_out_with_the_reason_unless_they_are_named(
    saved, folder, tmp_path
):
    other = source.read_metadata(folder)["teacher"] | {"name": "openai/clip"}
    add_copy(folder, "strange", teacher=other)
    reason = "its teacher is 'openai/clip' and the encoder's 'fake/teacher'"
    found = run(quick(folder, saved), tmp_path / "suite")
    assert set(found["sets"]) == {"made_up"} and reason in found["skipped"]["strange"]
    assert f"- strange: {reason}" in (tmp_path / "suite" / "benchmarks.md").read_text()
    with pytest.raises(ValueError, match=f"config.sets names 'strange', .*: {reason}"):
        run(quick(folder, saved, sets=("strange",)), tmp_path / "named")
    shutil.rmtree(folder)
    with pytest.raises(
        ValueError, match=f"no data set in .* fits the encoder:\n  strange: {reason}"
    ):
        run(quick(folder, saved), tmp_path / "none")
    assert not (tmp_path / "named").exists() and not (tmp_path / "none").exists()


def test_a_set_without_a_training_split_teaches_nothing(saved, folder, tmp_path):
    edit(folder, counts={"test": 10, "classes": 2})
    first = source.open_split(folder, "test")[0]["id"]
    (folder / "evaluation" / "unseen_names.json").write_text(json.dumps([first]))
    found = run(config_for(folder, checkpoint=saved, map_up_to=9), tmp_path)
    names = [each["name"] for each in found["sets"]["made_up"]["results"]]
    assert names == ["chance", "student", "ceiling"]
    assert not {"linear_probe", "few_shot"} & found["sets"]["made_up"].keys()
    # Ten shapes are more than map_up_to.
    for name in ("student", "ceiling"):
        # Whose training split the names are new to, the encoder's or the set's, is not known.
        assert not [key for key in line(found, name).retrieval if "map" in key or "unseen" in key]
        assert line(found, name).retrieval["points_to_text/queries"] == 10


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"checkpoint": ""}, "config.checkpoint is empty: pass --config.checkpoint=DIR"),
        ({"batch_size": 0}, "config.batch_size is 0; expected 1 or more"),
        ({"windows": 0}, "config.windows is 0; expected 1 or more"),
        ({"map_up_to": -1}, "config.map_up_to is -1; expected 0 or more"),
        ({"sets": ("made", "made_up")}, r"no data sets \['made'\]; found \['made_up'\]"),
        ({"data": "nowhere"}, r"'nowhere', has no data sets at all; found \[\]"),
        ({"checkpoint": "nowhere"}, "holds no encoder"),
    ],
)
def test_a_first_mistake_is_named_and_writes_nothing(saved, made, tmp_path, fields, message):
    config = quick(made, saved)
    config.update(fields)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(config, tmp_path / "suite")
    assert not (tmp_path / "suite").exists()


def test_the_workdir_of_a_run_is_left_alone(saved, made, tmp_path):
    for name in ("run.json", "results.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match="results.json of its own: choose another --workdir"):
        run(quick(made, saved), tmp_path)
    assert (tmp_path / "results.json").read_text() == "{}"
