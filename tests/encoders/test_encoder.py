# SPDX-License-Identifier: Apache-2.0
"""Saving, loading and embedding: whatever the batch size, the devices and the place."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from made_up import DIM as TEACHER_DIM
from made_up import run_build
from tiny import assert_trees_equal, tiny_config
from tiny_encoder import DIM, FIELDS, POINTS, random_clouds, tiny_card, tiny_variables

from mrd_jax import encoder, models
from mrd_jax.checkpoints import manager, model_card, paths
from mrd_jax.data import augment, source
from mrd_jax.report import final
from mrd_jax.training import run as run_lib
from mrd_jax.training import train

pytestmark = pytest.mark.usefixtures("fast_compile")

# Float rounding of sums that XLA orders by shape; rows have unit norm.
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "encoder"
    encoder.save(folder, variables=tiny_variables(), card=tiny_card())
    return folder


@pytest.fixture(scope="module")
def loaded(saved):
    return encoder.load(saved)


def one_by_one(clouds):
    """Reference: the plain model on one cloud at a time."""
    model = models.build_model(FIELDS)
    apply = jax.jit(lambda xyz, rgb: model.apply(tiny_variables(), xyz, rgb))
    rows = np.concatenate([apply(xyz[None], rgb[None]) for xyz, rgb in clouds])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_what_was_saved_comes_back_bit_for_bit(loaded):
    assert_trees_equal(loaded.variables, tiny_variables())
    assert loaded.card == tiny_card()
    assert loaded.model == models.build_model(FIELDS)


def test_embeddings_are_those_of_the_model_in_order_and_of_unit_norm(loaded):
    clouds = random_clouds(19)  # three batches, the last one short
    found = loaded.embed(iter(clouds), batch_size=4)
    assert found.dtype == np.float32 and found.shape == (19, DIM)
    want = one_by_one(clouds)
    np.testing.assert_allclose(found, want, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    # The order could not be seen if all clouds embedded alike.
    apart = np.linalg.norm(want[:, None] - want[None], axis=-1)
    assert apart[~np.eye(19, dtype=bool)].min() > 20 * ROUNDING


# 19 clouds: a short last batch on one device, a single short batch on eight.
@pytest.mark.parametrize("batch_size, devices", [(8, 1), (32, 8)])
def test_batch_size_and_devices_do_not_show(saved, devices, batch_size):
    clouds = random_clouds(19)
    found = encoder.load(saved, devices=jax.devices()[:devices])
    np.testing.assert_allclose(
        found.embed(clouds, batch_size=batch_size), one_by_one(clouds), rtol=0, atol=ROUNDING
    )


def test_every_device_works_on_its_share(saved):
    found = encoder.load(saved)
    assert len(found.devices) == 8
    for leaf in jax.tree.leaves(found.variables):
        assert leaf.sharding.device_set == set(jax.local_devices())
    batch = {name: np.zeros((16, POINTS, 3), np.float32) for name in ("xyz", "rgb")}
    rows = found._body(found.variables, found._backend.place_batch(batch))
    assert [shard.data.shape for shard in rows.addressable_shards] == [(2, DIM)] * 8


def test_no_clouds_give_no_rows(loaded):
    assert loaded.embed([]).shape == (0, DIM)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda xyz, rgb: (xyz[:-1], rgb), r"xyz is \[127, 3\] and rgb \[128, 3\]; expected"),
        (lambda xyz, rgb: (xyz, rgb[:, :2]), r".*rgb \[128, 2\]"),
        (lambda xyz, rgb: (xyz * np.nan, rgb), "not every number is finite"),
        (lambda xyz, rgb: (xyz, rgb * 255), "rgb spans .* expected 0 to 1"),
        (lambda xyz, rgb: (xyz * 2, rgb), "its largest norm is 2; expected at most 1"),
    ],
    ids=["points", "channels", "finite", "bytes", "scale"],
)
def test_a_cloud_that_does_not_obey_the_card_is_named(loaded, change, message):
    clouds = random_clouds(3)
    clouds[2] = change(*clouds[2])
    with pytest.raises(ValueError, match=f"cloud 2 does not obey the card: {message}"):
        loaded.embed(clouds)


def test_an_embedding_that_is_not_finite_is_never_returned(loaded):
    broken = jax.tree.map(lambda leaf: leaf * np.nan, loaded.variables)
    with pytest.raises(ValueError, match="cloud 0 is not finite"):
        dataclasses.replace(loaded, variables=broken).embed(random_clouds(1))


@pytest.mark.parametrize(
    "expected, lines",
    [
        ({"teacher": "openai/clip"}, ["teacher: 'fake/teacher' on the card, 'openai/clip'"]),
        ({"up_axis": "y"}, ["up_axis: 'z' on the card, 'y'"]),
        (
            {"teacher_dim": 512, "normalisation": "cube", "from_y_up": "swap", "points": 10_000},
            ["24 on the card, 512", "'unit_sphere'", "'cube'", "'rotate'", "'swap'", "10000"],
        ),
    ],
)
def test_another_teacher_or_convention_is_refused_with_both_values(saved, expected, lines):
    with pytest.raises(model_card.CardMismatchError) as error:
        encoder.load(saved, **expected)
    for line in lines:
        assert line in str(error.value)
    encoder.load(saved, teacher="fake/teacher", teacher_dim=DIM, up_axis="z")


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="choose another folder"):
        encoder.save(tmp_path, variables=tiny_variables(), card=tiny_card())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "new").mkdir()
    encoder.save(tmp_path / "new", variables=tiny_variables(), card=tiny_card())
    assert encoder.load(tmp_path / "new").card == tiny_card()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_saving_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(self):
        raise OSError("disk full")

    monkeypatch.setattr(model_card.ModelCard, "to_json", full)
    with pytest.raises(OSError, match="disk full"):
        encoder.save(tmp_path / "new", variables=tiny_variables(), card=tiny_card())
    assert list(tmp_path.iterdir()) == []


def test_variables_of_another_student_are_not_saved(tmp_path):
    wider = model_card.student_of(models.build_model(FIELDS | {"mlp_dim": 128}))
    with pytest.raises(ValueError, match=r"mlp.*96.* there, .*128.* on the card"):
        encoder.save(tmp_path / "new", variables=tiny_variables(), card=tiny_card(student=wider))
    with pytest.raises(ValueError, match="the card says 7"):
        encoder.save(tmp_path / "new", variables=tiny_variables(), card=tiny_card(parameters=7))
    assert list(tmp_path.iterdir()) == []


def test_a_card_that_was_edited_does_not_load_another_student(saved, tmp_path):
    folder = tmp_path / "copy"
    encoder.save(folder, variables=tiny_variables(), card=tiny_card())
    fields = json.loads((folder / paths.CARD_FILE).read_text())
    fields["student"]["depth"] = 3
    (folder / paths.CARD_FILE).write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"blocks.*\[1, 64\] there, .*\[2, 64\] on"):
        encoder.load(folder)


def test_a_folder_without_an_encoder_says_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected card.json .*, run.json .*checkpoints/"):
        encoder.load(tmp_path)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return run_build(tmp_path_factory.mktemp("built"), patch, points=64)[0]


def run_config(dataset, **fields):
    return tiny_config(
        data__directory=str(dataset), data__points=64, total_steps=3, batch_size=8,
        checkpoint_every=1, eval_every=9, teacher__dim=TEACHER_DIM, model__out_dim=TEACHER_DIM,
        **fields,
    )  # fmt: skip


def test_a_trained_checkpoint_embeds_as_the_evaluator_does(dataset, tmp_path, monkeypatch):
    config, seen = run_config(dataset), {}

    def look(evaluator, variables, *, workdir):
        seen["variables"] = jax.device_get(variables)
        seen["embeddings"] = evaluator.embed(variables, evaluator.records)

    monkeypatch.setattr(final, "write_results", look)
    train.train_and_evaluate(config, str(tmp_path), devices=jax.devices()[:1])
    found = encoder.load(tmp_path, teacher="fake/teacher", devices=jax.devices()[:1])
    assert_trees_equal(found.variables, seen["variables"])
    assert found.card == model_card.from_run(config, metadata=source.read_metadata(dataset))

    clouds = []
    for record in source.open_split(dataset, "test"):
        batch = {name: record[name][None] for name in ("xyz", "rgb")}
        clouds.append([np.asarray(part[0]) for part in augment.plain(batch, num_points=64)])
    np.testing.assert_allclose(found.embed(clouds), seen["embeddings"], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("decay", [0.9, 0.0])
def test_of_a_run_the_moving_average_is_loaded_where_there_is_one(dataset, tmp_path, decay, caplog):
    config = run_config(dataset, optimizer__ema_decay=decay)
    state = run_lib.build_run(config, devices=jax.devices()[:1]).initial_state()
    last = jax.tree.map(lambda leaf: leaf + 1, state.params["student"])
    state = state.replace(params=state.params | {"student": last})
    checkpoints = run_lib.open_checkpoints(config, str(tmp_path), run_lib.open_data(config))
    for step in (9, 10):  # as numbers, 10 is the newest
        checkpoints.save(state, step=step)
        state = state.replace(batch_stats=jax.tree.map(lambda leaf: leaf + 1, state.batch_stats))
    checkpoints.close()
    caplog.clear()
    found = encoder.load(tmp_path).variables
    assert not caplog.messages  # nothing is amiss
    assert_trees_equal(found["params"], state.ema if decay else last)
    before = jax.tree.map(lambda leaf: leaf - 1, state.batch_stats)
    assert_trees_equal(found["batch_stats"], before)
    earlier = encoder.load(tmp_path / "checkpoints" / "9").variables["batch_stats"]
    assert_trees_equal(earlier, jax.tree.map(lambda leaf: leaf - 1, before))


def test_a_run_without_a_checkpoint_says_to_train_first(dataset, tmp_path):
    checkpoints = run_lib.open_checkpoints(
        run_config(dataset), str(tmp_path), run_lib.open_data(run_config(dataset))
    )
    checkpoints.close()
    with pytest.raises(FileNotFoundError, match="no checkpoint.*--mode train"):
        encoder.load(tmp_path)


def test_a_checkpoint_without_a_card_is_refused(tmp_path):
    checkpoints = manager.CheckpointManager(
        str(tmp_path), config=tiny_config(), fingerprint="data-1"
    )
    checkpoints.save({"w": np.zeros(3)}, step=1)
    checkpoints.close()
    with pytest.raises(model_card.CardError, match="no model card"):
        encoder.load(tmp_path)
