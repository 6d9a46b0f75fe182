# SPDX-License-Identifier: Apache-2.0
"""The examples of the documentation work as described."""

import held_out_example
import jax
import numpy as np
import optax
import pytest
from loss_inputs import embeddings_of, float32, loss_config, weights_of
from tiny import assert_trees_close, tiny_config
from tiny_encoder import tiny_card

from docs.examples import divergence, evaluator, student
from mrd_jax import encoder, losses, models
from mrd_jax.checkpoints import model_card
from mrd_jax.data import batch_spec
from mrd_jax.distributed import backends
from mrd_jax.encoder import embedding
from mrd_jax.losses import relation
from mrd_jax.training import initial_state, step

SIZES = {"dim": 8, "depth": 1, "out_dim": 24, "dtype": "float32", "micro_batch": 0}


@pytest.fixture
def registered_student(monkeypatch):
    monkeypatch.setattr(models, "MODELS", dict(models.MODELS))
    student.register()
    return models.build_model({"name": "deep_sets", "points": 64, **SIZES})


def test_example_student_has_the_same_update_on_one_and_on_eight_devices(
    registered_student, fast_compile
):
    config = tiny_config()
    config.model = {"name": "deep_sets", "points": 64, **SIZES}
    # The contrastive term couples the samples; the others would only take time.
    config.loss.update(lambda_intra=0.0, lambda_image=0.0, lambda_text=0.0)
    optimizer = optax.sgd(0.1)
    start = initial_state.create_state(config, model=registered_student, optimizer=optimizer)
    batch, updates = batch_spec.fake_batch(config), {}
    for devices in (1, 8):
        backend = backends.make_backend("pmap", devices=jax.devices()[:devices])

        def body(state, batch):
            return step.train_step(
                state, batch, model=registered_student, optimizer=optimizer, config=config,
                axis_name=backends.AXIS,
            )  # fmt: skip

        placed = backend.place_state(jax.device_get(start))
        after, metrics = backend.train(body)(placed, backend.place_batch(batch))
        updates[devices] = jax.device_get((after.params, metrics["loss"]))
    assert_trees_close(updates[8], updates[1], rtol=1e-5)
    before = jax.tree.leaves(jax.device_get(start.params["student"]))
    after = jax.tree.leaves(updates[1][0]["student"])
    assert all(np.any(old != new) for old, new in zip(before, after, strict=True))


def test_example_student_is_saved_and_loaded(registered_student, tmp_path):
    rng = np.random.default_rng(0)
    xyz = rng.uniform(-0.5, 0.5, (3, 128, 3)).astype(np.float32)
    rgb = rng.random((3, 128, 3), np.float32)
    variables = jax.device_get(registered_student.init(jax.random.key(0), xyz, rgb))
    card = tiny_card(
        student=model_card.student_of(registered_student),
        parameters=model_card.count_parameters(variables),
    )
    encoder.save(tmp_path / "e", variables=variables, card=card)
    loaded = encoder.load(tmp_path / "e", devices=jax.devices()[:1])
    found = loaded.embed(zip(xyz, rgb, strict=True))
    order = rng.permutation(128)
    want = registered_student.apply(variables, xyz[:, order], rgb[:, order])
    np.testing.assert_allclose(found, embedding.normalise(want), rtol=1e-5, atol=1e-5)


def test_example_config_builds_the_example_student(registered_student):
    config = student.get_config()
    assert config.model.out_dim == config.teacher.dim
    assert isinstance(models.build_model(config.model), student.DeepSets)


@pytest.fixture
def registered_divergence(monkeypatch):
    monkeypatch.setattr(relation, "DIVERGENCES", dict(relation.DIVERGENCES))
    monkeypatch.setattr(relation, "FAMILIES", dict(relation.FAMILIES))
    divergence.register()


def test_example_divergence_equals_the_formula(registered_divergence):
    q = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    r = np.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5]])
    with np.errstate(divide="ignore"):
        found = relation.divergence(np.log(q), np.log(r), kind="hellinger")
    np.testing.assert_allclose(found, 1 - np.sqrt(q * r).sum(axis=1), atol=1e-6)


def test_example_divergence_is_equal_in_both_forms_of_the_losses(
    registered_divergence, fast_compile
):
    embeddings = float32(embeddings_of(batch=7))
    # One pair of teacher and student relations is enough.
    alone = {"lambda_image": 0.0, "lambda_text": 0.0, "image_weight": 0.0, "text_weight": 0.0}
    alone["candidates"] = {"intra": ("VV",), "image": ("VV",), "text": ("TT",)}

    def loss_and_gradient(form):
        config = loss_config(divergence="hellinger", form=form, block=3, **alone)
        weights = float32(weights_of(config))

        def loss(points):
            return losses.mrd_loss(embeddings | {"points": points}, weights, config)[0]

        return jax.jit(jax.value_and_grad(loss))(embeddings["points"])

    plain = loss_and_gradient("plain")
    assert plain[0] > 0
    assert_trees_close(loss_and_gradient("blockwise"), plain, rtol=1e-5, atol=1e-6)


def test_divergence_is_rejected_if_the_example_is_not_registered():
    with pytest.raises(ValueError, match="loss.divergence is 'hellinger'"):
        losses.init_loss_params(loss_config(divergence="hellinger"))


def test_example_metric_equals_a_slow_implementation(tmp_path):
    held_out = held_out_example.held_out()
    # Nearest by pictures: the two stools. Nearest by these embeddings: stool 1 and desk.
    pairs = np.array([[1, 0, 0], [0, 1, 0.1], [1, 0.1, 0], [0, 0, 1], [0.3, 0.5, 0.6]])
    found = evaluator.shared_neighbours(pairs, held_out, count=1)
    share = pytest.approx(slow_share(pairs, held_out))
    assert found == {"share": share, "chance": 0.25, "shapes": 5}
    own = evaluator.shared_neighbours(held_out.image_features, held_out, count=1)
    assert own["share"] == 1


def slow_share(embeddings, held_out):
    """One nearest neighbour per shape, in loops."""

    def nearest(rows, query):
        units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        scores = units @ units[query]
        scores[query] = -np.inf
        return int(np.argmax(scores))

    equal = [
        nearest(embeddings, query) == nearest(held_out.image_features, query)
        for query in range(len(embeddings))
    ]
    return np.mean(equal)
