# SPDX-License-Identifier: Apache-2.0
"""Several positives per sample equal slow loops in both forms, on any number of devices."""

import functools

import jax
import loss_inputs
import numpy as np
import pytest
import reference_losses as reference
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from test_blockwise import COMPILER_OPTIONS, largest_intermediate
from test_mrd_loss import numeric_gradients

from mrd_jax import losses
from mrd_jax.losses import batch_axis, blockwise, contrastive, modalities

BATCH, POSITIVES, DIM, SCALE = 16, 3, 4, 9.0
# Features at a time: blocks of three samples, which do not divide 16, of two, of one, and of all.
BLOCKS = {1: 9, 2: 6, 4: 2, 8: 100}


@functools.cache
def inputs():
    """Returns points, features and mask; one of eight devices has no feature at all."""
    draw = np.random.default_rng(0).normal
    common = draw(size=(BATCH, 1, DIM))
    filled = np.arange(BATCH) % (POSITIVES + 1)
    filled[2:4] = 0
    return (
        reference.unit_rows((common + draw(size=(BATCH, 1, DIM)))[:, 0]),
        np.stack([reference.unit_rows(x) for x in common + draw(size=(BATCH, POSITIVES, DIM))]),
        np.arange(POSITIVES) < filled[:, None],
    )


WEIGHTS = np.random.default_rng(1).normal(size=BATCH)


@functools.cache
def expected():
    """Returns values, and gradients by points and scale of their weighted sum, from loops."""
    points, teacher, mask = inputs()

    def rows(points=points, scale=SCALE):
        return reference.multi_positive_loss(points, teacher, scale=float(scale), mask=mask)

    return (
        rows(),
        reference.numeric_gradient(lambda x: WEIGHTS @ rows(points=x), points),
        reference.numeric_gradient(lambda s: WEIGHTS @ rows(scale=s), SCALE),
    )


def rows_of(form, points, teacher, mask, scale, *, block, axis_name=None):
    if form == "plain":
        keywords = {"mask": mask, "axis_name": axis_name}
        loss = contrastive.contrastive_loss(points, teacher, scale=scale, **keywords)
        return loss, contrastive.retrieval_accuracy(points, teacher, **keywords)
    return blockwise.multi_positive.row_values(
        modalities.Modality(points, mask.any(axis=-1)),
        modalities.Modality(teacher, mask),
        scale=scale,
        block=block,
        axis_name=axis_name,
    )


@functools.cache
def run(form, devices=1):
    """Compiles values, accuracies and gradients of a form."""
    axis_name = None if devices == 1 else "data"
    compute = functools.partial(rows_of, form, block=BLOCKS[devices], axis_name=axis_name)

    def step(points, teacher, mask, weights, scale):
        def contribution(points, scale):
            loss, correct = compute(points, teacher, mask, scale)
            return weights @ loss, (loss, correct)

        gradients, rows = jax.grad(contribution, (0, 1), has_aux=True)(points, scale)
        return rows, gradients[0], batch_axis.psum(gradients[1], axis_name)

    if devices > 1:
        step = jax.shard_map(
            step,
            mesh=Mesh(np.array(jax.devices()[:devices]), ("data",)),
            in_specs=(P("data"),) * 4 + (P(),),
            out_specs=(P("data"), P("data"), P()),
            check_vma=False,
        )
    return jax.jit(step, compiler_options=COMPILER_OPTIONS)


def assert_equals_the_loops(form, devices=1):
    points, teacher, mask = inputs()
    arrays = loss_inputs.float32((points, teacher, mask, WEIGHTS, SCALE))
    (loss, correct), by_points, by_scale = run(form, devices)(*arrays)
    for actual, wanted in zip((loss, by_points, by_scale), expected(), strict=True):
        reference.assert_close(actual, wanted)
    slots = np.argwhere(mask)
    nearest = [slots[np.argmax(teacher[tuple(slots.T)] @ point)][0] for point in points]
    np.testing.assert_array_equal(
        correct, (np.array(nearest) == np.arange(BATCH)) & mask.any(axis=1)
    )
    assert 0 < correct.sum() < mask.any(axis=1).sum()


@pytest.mark.parametrize("form, devices", [("plain", 1), ("blockwise", 1), ("blockwise", 8)])
def test_rows_and_gradients_equal_the_loops(form, devices):
    assert_equals_the_loops(form, devices)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4, 8])
@pytest.mark.parametrize("form", ["plain", "blockwise"])
def test_no_number_of_devices_changes_rows_and_gradients(form, devices):
    assert_equals_the_loops(form, devices)


def run_once(form, points, teacher, mask, *, scale=SCALE):
    arrays = loss_inputs.float32((points, teacher, mask, np.ones(BATCH), scale))
    return run(form)(*arrays)


def test_loss_of_two_samples_by_hand():
    """Both positives of a sample equal its point: each competes with the other sample's alone."""
    points = np.eye(DIM)[np.arange(BATCH) % DIM]
    teacher = np.repeat(points[:, None], POSITIVES, axis=1)
    mask = (np.arange(BATCH) < 2)[:, None] & (np.arange(POSITIVES) < 2)
    # Against a positive at s are two negatives at 0, and one other point cloud at 0.
    expected = (np.log1p(2 * np.exp(-3)) + np.log1p(np.exp(-3))) / 2
    for form in ("plain", "blockwise"):
        (loss, _), *_ = run_once(form, points, teacher, mask, scale=3.0)
        np.testing.assert_allclose(loss[:2], expected, rtol=1e-5)
        np.testing.assert_array_equal(loss[2:], 0)


def test_one_filled_slot_per_sample_is_the_loss_of_single_features():
    points, teacher, mask = inputs()
    single = loss_inputs.float32((points, teacher[:, 0]))
    wanted = contrastive.contrastive_loss(*single, scale=SCALE, mask=mask[:, 0])
    nearest = contrastive.retrieval_accuracy(*single, mask=mask[:, 0])
    for form in ("plain", "blockwise"):
        (loss, correct), *_ = run_once(form, points, teacher, mask & (np.arange(POSITIVES) == 0))
        reference.assert_close(loss, wanted)
        np.testing.assert_array_equal(correct, nearest)


@pytest.mark.parametrize("form", ["plain", "blockwise"])
@pytest.mark.parametrize("samples", [0, 1])
def test_a_sample_without_negatives_costs_nothing_and_has_no_gradient(form, samples):
    points, teacher, _ = inputs()
    mask = np.repeat(np.arange(BATCH)[:, None] < samples, POSITIVES, axis=1)
    (loss, correct), *gradients = run_once(form, points, teacher, mask)
    for leaf in (loss, *gradients):
        np.testing.assert_allclose(leaf, 0, atol=1e-5)
    assert correct.sum() == samples


def assert_objective_equals_the_loops(name, form):
    positives, overrides = loss_inputs.SEVERAL[name]
    config = loss_inputs.loss_config(form=form, block=5, **overrides)
    embeddings = loss_inputs.several_embeddings_of(positives)
    parts, gradients = loss_inputs.evaluate(config, embeddings)
    wanted = reference.mrd_loss(embeddings, loss_inputs.weights_of(config), config)
    assert parts.keys() == wanted.keys()
    for part, value in parts.items():
        reference.assert_close(value, wanted[part])
    jax.tree.map(reference.assert_close, gradients, numeric_gradients(config, embeddings))


def test_parts_and_gradients_of_the_objective_equal_the_loops():
    assert_objective_equals_the_loops("several images, one text, and means", "plain")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["plain", "blockwise"])
@pytest.mark.parametrize("name", loss_inputs.SEVERAL)
def test_every_option_has_the_parts_and_gradients_of_the_loops(name, form):
    assert_objective_equals_the_loops(name, form)


def test_every_option_has_another_value():
    totals = []
    for positives, overrides in (*loss_inputs.SEVERAL.values(), ((1, 1), {})):
        config = loss_inputs.loss_config(**overrides)
        embeddings = loss_inputs.several_embeddings_of(positives)
        weights = loss_inputs.weights_of(config)
        totals.append(reference.mrd_loss(embeddings, weights, config)["total"])
    assert np.diff(sorted(totals)).min() > 1e-2


def test_contrastive_terms_keep_the_drawn_features_and_relations_use_the_means():
    embeddings = loss_inputs.several_embeddings_of((1, 1))
    means, drawn = (
        loss_inputs.evaluate(loss_inputs.loss_config(relation_features=kind), embeddings)[0]
        for kind in ("mean", "drawn")
    )
    replaced = embeddings | {name: embeddings[f"{name}_mean"] for name in ("image", "text")}
    of_means, _ = loss_inputs.evaluate(loss_inputs.loss_config(), replaced)
    for part in ("contrastive_image", "contrastive_text", "accuracy_text"):
        assert float(means[part]) == float(drawn[part])
    for part in ("intra/VV", "image/VV", "image/TV", "text/VT", "text"):
        assert float(means[part]) == float(of_means[part]) != float(drawn[part])


def test_a_student_at_the_means_has_no_divergence_from_its_image_relations():
    """With other columns in the student's cross relation, the mean would be no minimum."""
    image_alone = {"lambda_intra": 0.0, "lambda_text": 0.0, "text_weight": 0.0}
    config = loss_inputs.loss_config(
        relation_features="mean", student_temperature=0.25, **image_alone
    )
    embeddings = loss_inputs.float32(loss_inputs.several_embeddings_of((1, 1)))
    embeddings["points"] = embeddings["image_mean"]
    _, parts = losses.mrd_loss(embeddings, loss_inputs.weights_of(config), config)
    np.testing.assert_allclose(parts["image/VV"], 0, atol=1e-6)
    assert float(parts["contrastive_image"]) > 0.01


def test_missing_means_and_masks_of_another_shape_raise():
    config = loss_inputs.loss_config(relation_features="mean")
    weights = loss_inputs.float32(loss_inputs.weights_of(config))
    with pytest.raises(ValueError, match="relation_features is 'mean', but there is no image_mean"):
        losses.mrd_loss(loss_inputs.float32(loss_inputs.embeddings_of()), weights, config)
    embeddings = loss_inputs.float32(loss_inputs.several_embeddings_of((3, 2)))
    embeddings["has_text"] = embeddings["has_text"][:, 0]
    with pytest.raises(ValueError, match=r"has_text'\] has shape \(6,\); expected \(6, 2\)"):
        losses.mrd_loss(embeddings, weights, config)


def test_no_array_of_the_blockwise_form_is_as_large_as_the_matrix_of_all_pairs():
    def size_of(form, batch):
        alone = {f"lambda_{term}": 0.0 for term in losses.options.TERMS}
        config = loss_inputs.loss_config(form=form, block=8, **alone)
        embeddings = loss_inputs.float32(loss_inputs.several_embeddings_of((3, 2), batch=batch))
        learnt = {name: embeddings[name] for name in ("points", "log_scale")}
        learnt["weights"] = loss_inputs.float32(loss_inputs.weights_of(config))
        objective = functools.partial(loss_inputs.objective, config=config)
        jaxpr = jax.make_jaxpr(jax.value_and_grad(objective, has_aux=True))(learnt, embeddings)
        return largest_intermediate(jaxpr.jaxpr)

    assert size_of("plain", 96) >= 3 * 96 * 96
    assert size_of("blockwise", 96) <= 2 * size_of("blockwise", 48) < 96 * 96 / 4
