# SPDX-License-Identifier: Apache-2.0
"""Both forms of the losses have the values and gradients of the plain one, on any devices.

One function, compiled once per number of devices, computes all options: its plan has the
comparisons of all variants. A variant is then a choice of weights: the test compares the gradient
of a weighted sum of the variant's own values, which does not depend on the others.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import loss_inputs
import numpy as np
import pytest
import reference_losses as reference
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from mrd_jax.losses import batch_axis, blockwise, loss_plan, modalities, plain

# 24 samples: 3 on each of eight devices. Most blocks do not divide the batch; one contains it.
BATCH = 24
BLOCKS = {1: 7, 2: 5, 4: 100, 8: 9}
# These halve the compile time; the arithmetic is the same.
COMPILER_OPTIONS = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
PLANS = {
    name: loss_plan.make(loss_inputs.loss_config(**overrides))
    for name, overrides in loss_inputs.VARIANTS.items()
}


def with_unique_name(comparison):
    """Renames a comparison so that no other comparison has its name."""
    return comparison._replace(part=str(comparison))


def reduced(plan):
    """Keeps one comparison inside P and one across modalities, which still have every option."""
    intra, *_ = (*plan.comparisons_of("intra"), None)
    *_, across = (None, *plan.comparisons_of("image"), *plan.comparisons_of("text"))
    return plan._replace(comparisons=tuple(c for c in (intra, across) if c))


def merged(plans):
    comparisons = {with_unique_name(c) for plan in plans for c in plan.comparisons}
    return loss_plan.Plan(PLANS["default"].contrasts, tuple(sorted(comparisons)))


EVERYTHING = merged(PLANS.values())
EVERY_OPTION = merged(map(reduced, PLANS.values()))


def parts_of(plan):
    """Returns the names that the values of a variant have in the merged plans."""
    contrasts = [f"{kind}_{c.name}" for kind in ("contrastive", "accuracy") for c in plan.contrasts]
    return contrasts + [with_unique_name(c).part for c in plan.comparisons]


ALL_PARTS = sorted({part for plan in PLANS.values() for part in parts_of(plan)})


def partial_embeddings():
    """Returns embeddings without any image on two of eight devices, and with some missing."""
    embeddings = loss_inputs.float32(loss_inputs.embeddings_of(batch=BATCH, seed=4))
    embeddings.pop("log_scale")
    embeddings["has_image"] = embeddings["has_image"].at[3:6].set(False).at[9:12].set(False)
    embeddings["has_text"] = embeddings["has_text"].at[9:12].set(False)
    return embeddings


SCALARS = loss_inputs.float32(
    loss_plan.Scalars(
        temperatures={
            "contrast": np.exp(-2.0),
            "student": 0.4,
            "student_cross": 0.3,
            "teacher": 0.25,
            **{
                f"teacher/{term}/{target}": 0.15 + 0.05 * k
                for k, (term, target) in enumerate(
                    itertools.product(("intra", "image", "text"), ("VV", "TT", "VT", "TV"))
                )
            },
        },
        log_weights={
            term: np.log([0.3 + 0.1 * k, 0.7 - 0.1 * k])
            for k, term in enumerate(("intra", "image", "text"))
        },
    )
)


def values_and_gradients(plan, row_values, axis_name=None):
    def run(embeddings, weights, scalars):
        def rows(points, scalars):
            batch = modalities.from_embeddings(embeddings | {"points": points}, dtype="float32")
            return row_values(plan, batch, scalars, axis_name=axis_name)

        values, vjp = jax.vjp(rows, embeddings["points"], scalars)
        by_points, by_scalar = vjp({part: weights[part] for part in values})
        # The teacher's temperature is not learnable; only the plain form computes its gradient.
        slopes = {
            key: jnp.zeros_like(slope) if key.startswith("teacher") else slope
            for key, slope in by_scalar.temperatures.items()
        }
        by_scalar = batch_axis.psum(by_scalar._replace(temperatures=slopes), axis_name)
        return values, by_points, by_scalar

    return run


@functools.cache
def compiled(form, devices=1):
    """Compiles the plan of all variants on one device, the reduced plan on several."""
    plan = EVERYTHING if devices == 1 else EVERY_OPTION
    row_values = {
        "plain": plain.row_values,
        "blockwise": functools.partial(blockwise.row_values, block=BLOCKS[devices]),
    }[form]
    run = values_and_gradients(plan, row_values, None if devices == 1 else "data")
    if devices > 1:
        run = jax.shard_map(
            run,
            mesh=Mesh(np.array(jax.devices()[:devices]), ("data",)),
            in_specs=(P("data"), P("data"), P()),
            out_specs=(P("data"), P("data"), P()),
            check_vma=False,
        )
    return jax.jit(run, compiler_options=COMPILER_OPTIONS)


def assert_equals_plain_on_one_device(
    parts, *, form="blockwise", devices=1, embeddings=None, scalars=SCALARS
):
    """Compares the values of these parts, and the gradients of their weighted sum."""
    embeddings = partial_embeddings() if embeddings is None else embeddings
    draw = np.random.default_rng(5).normal
    weights = dict.fromkeys(ALL_PARTS, np.zeros(BATCH))
    weights |= {part: draw(size=BATCH) for part in parts}
    arguments = embeddings, loss_inputs.float32(weights), scalars
    expected = compiled("plain")(*arguments)
    actual = compiled(form, devices)(*arguments)
    for part in parts:
        reference.assert_close(actual[0][part], expected[0][part])
    jax.tree.map(reference.assert_close, actual[1:], expected[1:])
    return actual


@pytest.mark.parametrize("name", loss_inputs.VARIANTS)
def test_every_variant_has_the_values_and_gradients_of_the_plain_form(name):
    values, by_points, _ = assert_equals_plain_on_one_device(parts_of(PLANS[name]))
    assert np.abs(by_points).max() > 1e-2
    assert all(np.abs(values[part]).max() > 1e-2 for part in parts_of(PLANS[name]))


@pytest.mark.parametrize("form, devices", [
    *(("blockwise", devices) for devices in (2, 4, 8)),
    *(pytest.param("plain", devices, marks=pytest.mark.slow) for devices in (2, 4)),
    ("plain", 8),
])  # fmt: skip
@pytest.mark.parametrize("name", loss_inputs.VARIANTS)
def test_no_option_depends_on_the_number_of_devices(name, form, devices):
    parts = parts_of(reduced(PLANS[name]))
    assert_equals_plain_on_one_device(parts, form=form, devices=devices)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("images", [0, 1])
def test_a_batch_with_too_few_images_has_finite_gradients_and_no_image_terms(images, devices):
    plans = PLANS.values() if devices == 1 else map(reduced, PLANS.values())
    parts = {part for plan in plans for part in parts_of(plan)}
    embeddings = partial_embeddings() | {"has_image": np.arange(BATCH) < images}
    values, *gradients = assert_equals_plain_on_one_device(
        parts, devices=devices, embeddings=embeddings
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    np.testing.assert_allclose(values["contrastive_image"], 0, atol=1e-6)
    assert np.abs(values["contrastive_text"]).max() > 1


def test_sharp_softmaxes_keep_their_precision():
    """At the largest scale, most exponentials of a row underflow relative to the largest."""
    temperatures = {"contrast": jnp.float32(0.01), "student": jnp.float32(0.02)}
    sharp = SCALARS._replace(temperatures=SCALARS.temperatures | temperatures)
    values, *_ = assert_equals_plain_on_one_device(
        ["contrastive_image", "contrastive_text", *parts_of(PLANS["kl"])], scalars=sharp
    )
    assert np.max(values["contrastive_image"]) > 20


def test_first_of_equal_neighbours_is_the_nearest_also_across_blocks():
    embeddings = partial_embeddings()
    embeddings["has_image"] = np.ones(BATCH, bool)
    # Points equal their own images; 1 and 2 share one within a block, 3 and 20 across blocks.
    embeddings["image"] = embeddings["image"].at[2].set(embeddings["image"][1])
    embeddings["image"] = embeddings["image"].at[20].set(embeddings["image"][3])
    embeddings["points"] = embeddings["image"]
    values, *_ = assert_equals_plain_on_one_device(["accuracy_image"], embeddings=embeddings)
    np.testing.assert_array_equal(np.flatnonzero(values["accuracy_image"] == 0), [2, 20])


def largest_intermediate(jaxpr):
    """Returns the size of the largest output of any equation, including loops and calls."""
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += [output.aval.size for output in equation.outvars]
        for parameter in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                sizes.append(largest_intermediate(inner))
    return max(sizes)


@pytest.mark.parametrize("overrides", [{}, loss_inputs.SMOOTH | {"mix": "targets"}])
def test_no_array_is_as_large_as_a_relation_matrix(overrides):
    def size_of(form, batch):
        config = loss_inputs.loss_config(form=form, block=8, **overrides)
        embeddings = loss_inputs.float32(loss_inputs.embeddings_of(batch=batch, dim=4))
        learnt = {name: embeddings[name] for name in ("points", "log_scale")}
        learnt["weights"] = loss_inputs.float32(loss_inputs.weights_of(config))
        run = jax.value_and_grad(
            functools.partial(loss_inputs.objective, config=config), has_aux=True
        )
        return largest_intermediate(jax.make_jaxpr(run)(learnt, embeddings).jaxpr)

    assert size_of("plain", 96) == 4 * size_of("plain", 48) >= 96 * 96
    assert size_of("blockwise", 96) == 2 * size_of("blockwise", 48) < 96 * 96 / 4


def objective_of(form, *, batch=11, relation_head=False, lambda_factor=1.0, **overrides):
    config = loss_inputs.loss_config(form=form, block=4, **overrides)
    embeddings = loss_inputs.embeddings_of(batch=batch, seed=6, relation_head=relation_head)
    embeddings = loss_inputs.float32(embeddings)
    learnt = loss_inputs.learnt_of(embeddings, config)
    objective = functools.partial(loss_inputs.objective, config=config, lambda_factor=lambda_factor)
    run = jax.value_and_grad(objective, has_aux=True)
    return jax.jit(run, compiler_options=COMPILER_OPTIONS)(learnt, embeddings)


def test_objective_of_an_odd_batch_has_the_same_parts_and_gradients():
    options = {"learn_student_temperature": True, "term_weights": "dynamic"}
    options |= {"relation_head": True, "lambda_factor": 0.4}
    expected, actual = (objective_of(form, **options) for form in ("plain", "blockwise"))
    jax.tree.map(reference.assert_close, actual, expected)
    assert np.abs(expected[1]["relation_points"]).max() > 1e-2
    assert {"accuracy_text", "intra/TT", "image/TV"} < actual[0][1].keys()


def test_bfloat16_embeddings_are_rounded_alike_in_both_forms():
    exact, rounded, blocks = (
        objective_of(form, dtype=dtype, lambda_text=0.0)
        for form, dtype in (("plain", "float32"), ("plain", "bfloat16"), ("blockwise", "bfloat16"))
    )
    assert 1e-4 < abs(float(rounded[0][0] - exact[0][0])) < 0.02
    reference.assert_close(blocks[0][0], rounded[0][0])
    # Gradients pass through bfloat16, which has 8 bits.
    for actual in (rounded, blocks):
        error = np.abs(actual[1]["points"] - exact[1]["points"]).max()
        assert 0 < error < 2**-6 * np.abs(exact[1]["points"]).max()
