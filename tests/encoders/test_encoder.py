# SPDX-License-Identifier: Apache-2.0
"""Saving and loading encoders, and embedding with any batch size and number of devices."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from fake_data import DIM as TEACHER_DIM
from fake_data import run_build
from tiny import assert_trees_equal, tiny_config
from tiny_encoder import DIM, FIELDS, POINTS, random_clouds, tiny_card, tiny_variables

from mrd_jax import encoder, models
from mrd_jax.checkpoints import initial_weights, manager, model_card, paths
from mrd_jax.data import augment, dataset_metadata, source
from mrd_jax.models import axes
from mrd_jax.report import final
from mrd_jax.training import run as run_lib
from mrd_jax.training import train

pytestmark = pytest.mark.usefixtures("fast_compile")

# XLA orders sums by shape, so results differ by rounding; rows have unit norm.
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "encoder"
    encoder.save(folder, variables=tiny_variables(), card=tiny_card())
    return folder


@pytest.fixture(scope="module")
def loaded(saved):
    return encoder.load(saved)


def embed_separately(clouds):
    """Embeds one cloud at a time with the plain model, as a reference."""
    model = models.build_model(FIELDS)
    apply = jax.jit(lambda xyz, rgb: model.apply(tiny_variables(), xyz, rgb))
    rows = np.concatenate([apply(xyz[None], rgb[None]) for xyz, rgb in clouds])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_saved_encoder_loads_bit_for_bit(loaded):
    assert_trees_equal(loaded.variables, tiny_variables())
    assert loaded.card == tiny_card()
    assert loaded.model == models.build_model(FIELDS)


def test_a_head_that_the_encoder_lacks_is_refused(saved):
    with pytest.raises(ValueError, match="head is 'mean', but .* has a contrastive head alone"):
        encoder.load(saved, head="mean")
    with pytest.raises(ValueError, match="head is 'both'; expected one of"):
        encoder.load(saved, head="both")


def test_embeddings_have_unit_norm_and_match_the_model_in_order(loaded):
    clouds = random_clouds(19)  # three batches, the last one short
    found = loaded.embed(iter(clouds), batch_size=4)
    assert found.dtype == np.float32 and found.shape == (19, DIM)
    want = embed_separately(clouds)
    np.testing.assert_allclose(found, want, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    # The clouds embed differently enough to tell their order.
    apart = np.linalg.norm(want[:, None] - want[None], axis=-1)
    assert apart[~np.eye(19, dtype=bool)].min() > 20 * ROUNDING


# 19 clouds: a short last batch on one device, a single short batch on eight.
@pytest.mark.parametrize("batch_size, devices", [(8, 1), (32, 8)])
def test_embeddings_do_not_depend_on_batch_size_and_device_count(saved, devices, batch_size):
    clouds = random_clouds(19)
    found = encoder.load(saved, devices=jax.devices()[:devices])
    np.testing.assert_allclose(
        found.embed(clouds, batch_size=batch_size), embed_separately(clouds), rtol=0, atol=ROUNDING
    )


def test_a_batch_is_split_over_all_devices(saved):
    found = encoder.load(saved)
    assert len(found.devices) == 8
    for leaf in jax.tree.leaves(found.variables):
        assert leaf.sharding.device_set == set(jax.local_devices())
    batch = {name: np.zeros((16, POINTS, 3), np.float32) for name in ("xyz", "rgb")}
    rows = found._body(found.variables, found._backend.place_batch(batch))
    assert [shard.data.shape for shard in rows.addressable_shards] == [(2, DIM)] * 8


def test_no_clouds_give_an_empty_array(loaded):
    assert loaded.embed([]).shape == (0, DIM)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda xyz, rgb: (xyz[:-1], rgb), r"xyz is \[127, 3\] and rgb \[128, 3\]; expected"),
        (lambda xyz, rgb: (xyz, rgb[:, :2]), r".*rgb \[128, 2\]"),
        (lambda xyz, rgb: (xyz * np.nan, rgb), "it has non-finite values"),
        (lambda xyz, rgb: (xyz, rgb * 255), "rgb spans .* expected 0 to 1"),
        (lambda xyz, rgb: (xyz * 2, rgb), "its largest norm is 2; expected at most 1"),
    ],
    ids=["points", "channels", "finite", "bytes", "scale"],
)
def test_a_cloud_that_does_not_follow_the_card_is_an_error(loaded, change, message):
    clouds = random_clouds(3)
    clouds[2] = change(*clouds[2])
    with pytest.raises(ValueError, match=f"cloud 2 does not follow the model card: {message}"):
        loaded.embed(clouds)


def test_a_non_finite_embedding_is_an_error(loaded):
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
def test_another_teacher_or_convention_is_an_error_with_both_values(saved, expected, lines):
    with pytest.raises(model_card.CardMismatchError) as error:
        encoder.load(saved, **expected)
    for line in lines:
        assert line in str(error.value)
    encoder.load(saved, teacher="fake/teacher", teacher_dim=DIM, up_axis="z")


def test_saving_into_a_folder_with_content_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="choose another folder"):
        encoder.save(tmp_path, variables=tiny_variables(), card=tiny_card())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_saving_into_an_empty_folder_works(tmp_path):
    (tmp_path / "new").mkdir()
    encoder.save(tmp_path / "new", variables=tiny_variables(), card=tiny_card())
    assert encoder.load(tmp_path / "new").card == tiny_card()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_failed_save_leaves_no_files(tmp_path, monkeypatch):
    def fail(self):
        raise OSError("disk full")

    monkeypatch.setattr(model_card.ModelCard, "as_dict", fail)
    with pytest.raises(OSError, match="disk full"):
        encoder.save(tmp_path / "new", variables=tiny_variables(), card=tiny_card())
    assert list(tmp_path.iterdir()) == []


def test_variables_that_do_not_match_the_card_are_not_saved(tmp_path):
    wider = model_card.student_of(models.build_model(FIELDS | {"mlp_dim": 128}))
    with pytest.raises(ValueError, match=r"mlp.*96.* there, .*128.* on the card"):
        encoder.save(tmp_path / "new", variables=tiny_variables(), card=tiny_card(student=wider))
    with pytest.raises(ValueError, match=r"parameter count \d+, 7 on the card"):
        encoder.save(tmp_path / "new", variables=tiny_variables(), card=tiny_card(parameters=7))
    assert list(tmp_path.iterdir()) == []


def test_an_edited_card_does_not_load(saved, tmp_path):
    folder = tmp_path / "copy"
    encoder.save(folder, variables=tiny_variables(), card=tiny_card())
    fields = json.loads((folder / paths.CARD_FILE).read_text())
    fields["student"]["depth"] = 3
    (folder / paths.CARD_FILE).write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"blocks.*\[1, 64\] there, .*\[2, 64\] on"):
        encoder.load(folder)


def test_a_folder_without_an_encoder_is_an_error_with_the_expected_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected config.json .*, run.json .*checkpoints/"):
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


@pytest.mark.usefixtures("without_curves")
def test_a_trained_checkpoint_embeds_like_the_evaluator(dataset, tmp_path, monkeypatch):
    config, evaluated = run_config(dataset), {}

    def record(evaluator, variables, *, workdir):
        evaluated["variables"] = jax.device_get(variables)
        evaluated["embeddings"] = evaluator.embed(variables, evaluator.records)

    monkeypatch.setattr(final, "write_results", record)
    train.train_and_evaluate(config, str(tmp_path), devices=jax.devices()[:1])
    found = encoder.load(tmp_path, teacher="fake/teacher", devices=jax.devices()[:1])
    assert_trees_equal(found.variables, evaluated["variables"])
    assert found.card == model_card.from_run(config, metadata=dataset_metadata.read(dataset))

    clouds = []
    for record in source.open_split(dataset, "test"):
        batch = {name: record[name][None] for name in ("xyz", "rgb")}
        clouds.append([np.asarray(part[0]) for part in augment.plain(batch, num_points=64)])
    np.testing.assert_allclose(found.embed(clouds), evaluated["embeddings"], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("decay", [0.9, 0.0])
def test_the_moving_average_of_a_run_is_loaded_if_it_has_one(dataset, tmp_path, decay, caplog):
    config = run_config(dataset, optimizer__ema_decay=decay)
    state = run_lib.build_run(config, devices=jax.devices()[:1]).initial_state()
    last = jax.tree.map(lambda leaf: leaf + 1, state.params["student"])
    state = state.replace(params=state.params | {"student": last})
    checkpoints = run_lib.open_checkpoints(config, str(tmp_path), run_lib.open_data(config))
    for step in (9, 10):  # 10 is the newest: steps are sorted as numbers
        checkpoints.save(state, step=step)
        state = state.replace(batch_stats=jax.tree.map(lambda leaf: leaf + 1, state.batch_stats))
    checkpoints.close()
    caplog.clear()
    found = encoder.load(tmp_path).variables
    assert not caplog.messages  # no warnings
    assert_trees_equal(found["params"], state.ema if decay else last)
    before = jax.tree.map(lambda leaf: leaf - 1, state.batch_stats)
    assert_trees_equal(found["batch_stats"], before)
    earlier = encoder.load(tmp_path / "checkpoints" / "9").variables["batch_stats"]
    assert_trees_equal(earlier, jax.tree.map(lambda leaf: leaf - 1, before))


def test_a_run_without_a_checkpoint_is_an_error(dataset, tmp_path):
    checkpoints = run_lib.open_checkpoints(
        run_config(dataset), str(tmp_path), run_lib.open_data(run_config(dataset))
    )
    checkpoints.close()
    with pytest.raises(FileNotFoundError, match="no checkpoint.*--mode train"):
        encoder.load(tmp_path)


def test_a_checkpoint_without_a_card_does_not_load(tmp_path):
    checkpoints = manager.CheckpointManager(
        str(tmp_path), config=tiny_config(), fingerprint="data-1"
    )
    checkpoints.save({"w": np.zeros(3)}, step=1)
    checkpoints.close()
    with pytest.raises(model_card.CardError, match="no model card"):
        encoder.load(tmp_path)


@pytest.mark.parametrize("convention", ["rotate", "swap"])
def test_a_module_that_takes_y_up_gets_the_clouds_as_they_were_before(tmp_path, convention):
    """The weights of an encoder of clouds with z up, for y up, behind a card that says so."""
    turned = axes.weights_for_y_up(
        tiny_variables(), architecture="point_bert", convention=convention
    )
    card = tiny_card(module_up_axis="y", from_y_up=convention)
    encoder.save(tmp_path / "y", variables=turned, card=card)
    loaded = encoder.load(tmp_path / "y", devices=jax.devices()[:1])
    clouds = random_clouds(3)
    np.testing.assert_allclose(
        loaded.embed(clouds), embed_separately(clouds), rtol=0, atol=ROUNDING
    )
    # A run that starts from it sees z up.
    start = initial_weights.load(tmp_path / "y")
    assert_trees_equal(start, tiny_variables())


def test_a_card_of_version_0_1_says_which_axis_the_module_takes():
    fields = tiny_card().as_dict()
    del fields["module_up_axis"]
    assert model_card.from_dict(fields).module_up_axis == "z"
    assert model_card.from_dict(fields | {"source": "uni3d"}).module_up_axis == "y"
    assert model_card.from_dict(fields | {"source": "openshape"}).module_up_axis == "z"
