# SPDX-License-Identifier: Apache-2.0
"""The objective does not depend on the number of devices, nor on the backend."""

import jax
import loss_inputs
import numpy as np
import pytest
import reference_losses as reference
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

pytestmark = pytest.mark.usefixtures("fast_compile")

# Options by name: numbers of images and texts per sample, and fields of the config.
OPTIONS = loss_inputs.SEVERAL | {
    name: ((1, 1), overrides) for name, overrides in loss_inputs.VARIANTS.items()
}
# Backend, number of devices, name of the options, and form of the losses on the devices.
SHARDED = [
    ("pmap", 8, "learnt student temperature", "plain"),
    # The terms of an objective and the backend are independent of each other.
    pytest.param("pmap", 8, "mixed targets", "plain", marks=pytest.mark.slow),
    pytest.param("pmap", 8, "euclidean, smooth l1", "plain", marks=pytest.mark.slow),
    pytest.param("shard_map", 8, "learnt student temperature", "plain", marks=pytest.mark.slow),
    ("shard_map", 8, "mixed targets", "plain"),
    ("shard_map", 8, "euclidean, smooth l1", "plain"),
    ("shard_map", 2, "learnt student temperature", "plain"),
    ("pmap", 8, "learnt student temperature", "blockwise"),
    ("shard_map", 2, "learnt student temperature", "blockwise"),
    *(
        pytest.param(
            "shard_map", devices, name, form, marks=[] if devices == 8 else pytest.mark.slow
        )
        for name in loss_inputs.SEVERAL
        for devices in (1, 2, 4, 8)
        for form in ("plain", "blockwise")
    ),
]


def sharded_step(config, axis_name, *, factor=1.0):
    """Differentiates the contribution of a device and sums over devices, as a training step does.

    The student is a replicated matrix, so that its gradient depends on the rows of every device.
    """

    def step(learnt, embeddings):
        def contribution(learnt):
            rows = {"points": embeddings["points"] @ learnt["student"]}
            if "relation_head" in learnt:
                rows["relation_points"] = embeddings["points"] @ learnt["relation_head"]
            return loss_inputs.objective(
                learnt | rows, embeddings, config, axis_name, lambda_factor=factor
            )

        (value, parts), gradients = jax.value_and_grad(contribution, has_aux=True)(learnt)
        result = value, parts, gradients
        return result if axis_name is None else jax.lax.psum(result, axis_name)

    return step


def run_sharded(backend, devices, config, learnt, embeddings, *, factor=1.0):
    step = sharded_step(config, "data", factor=factor)
    if backend == "pmap":
        split = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), embeddings)
        mapped = jax.pmap(
            step,
            axis_name="data",
            in_axes=(None, 0),
            out_axes=None,
            devices=jax.devices()[:devices],
        )
        return mapped(learnt, split)
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    specs = {"mesh": mesh, "in_specs": (P(), P("data")), "out_specs": P(), "check_vma": False}
    return jax.jit(jax.shard_map(step, **specs))(learnt, embeddings)


@pytest.mark.parametrize("backend, devices, name, form", SHARDED)
def test_contributions_and_gradients_sum_to_those_of_one_device(backend, devices, name, form):
    positives, overrides = OPTIONS[name]
    config = loss_inputs.loss_config(**overrides)
    assert_sum_is_that_of_one_device(backend, devices, form, config, positives=positives)


@pytest.mark.slow
@pytest.mark.parametrize("backend, devices, form", [
    (backend, devices, form)
    for backend in ("pmap", "shard_map")
    for devices in (1, 2, 4, 8)
    for form in ("plain", "blockwise")
])  # fmt: skip
def test_relation_head_dynamic_terms_and_schedule_do_not_depend_on_devices(backend, devices, form):
    config = loss_inputs.loss_config(term_weights="dynamic", learn_student_temperature=True)
    head = np.eye(4)[::-1] + 0.3 * np.random.default_rng(5).normal(size=(4, 4))
    gradients = assert_sum_is_that_of_one_device(
        backend, devices, form, config, factor=0.4, relation_head=head
    )
    weights = gradients["weights"]["term_mixing"]
    assert min(np.abs(weights)) > 1e-3 < np.abs(gradients["relation_head"]).max()


def assert_sum_is_that_of_one_device(
    backend, devices, form, config, *, factor=1.0, positives=(1, 1), **heads
):
    """Compares values with the loops, and values and gradients with those of one device."""
    embeddings = loss_inputs.several_embeddings_of(positives, batch=16, seed=1)
    embeddings = loss_inputs.float32(embeddings)
    # The first of eight devices has no text and the second no image at all.
    embeddings["has_text"] = embeddings["has_text"].at[:2].set(False)
    embeddings["has_image"] = embeddings["has_image"].at[2:4].set(False)
    student = np.eye(4) + 0.3 * np.random.default_rng(2).normal(size=(4, 4))
    learnt = loss_inputs.float32(
        {
            "student": student,
            "log_scale": embeddings.pop("log_scale"),
            "weights": loss_inputs.weights_of(config),
        }
        | heads
    )
    loops = embeddings | {"log_scale": learnt["log_scale"]}
    loops["points"] = embeddings["points"] @ student
    if heads:
        loops["relation_points"] = embeddings["points"] @ heads["relation_head"]
    loops = reference.mrd_loss(loops, learnt["weights"], config, lambda_factor=factor)
    expected = jax.jit(sharded_step(config, None, factor=factor))(learnt, embeddings)
    config.update(form=form, block=5)
    actual = run_sharded(backend, devices, config, learnt, embeddings, factor=factor)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected[2])) > 0.1
    jax.tree.map(reference.assert_close, actual, expected)
    jax.tree.map(reference.assert_close, actual[1], loops)
    return expected[2]
