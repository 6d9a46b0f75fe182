# SPDX-License-Identifier: Apache-2.0
"""Every implementation of attention equals a plain loop in value and gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_loop import inputs, pack, plain

from mrd_jax.kernels import attention, attention_rows
from mrd_jax.models import uni3d

FUNCTIONS = {"attention": attention.attention, "head_by_head": attention.head_by_head}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("queries", [7, 1])
def test_values_and_gradients_equal_the_loop(name, queries):
    query, key, value, gradient = inputs(queries)
    mixed, vjp = jax.vjp(jax.jit(FUNCTIONS[name]), query, key, value)
    for got, want in zip((mixed, *vjp(gradient)), plain(*inputs(queries)), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


@pytest.mark.parametrize("platform", ["cpu", "default"])
def test_packed_values_and_gradients_equal_the_loop(monkeypatch, platform):
    def platform_dependent(*operands, **branches):
        return branches[platform](*operands)

    monkeypatch.setattr(jax.lax, "platform_dependent", platform_dependent)
    *parts, gradient = inputs()
    mixed, vjp = jax.vjp(lambda packed: attention.self_attention(packed, 3), pack(*parts))
    want, *to_parts = plain(*inputs())
    np.testing.assert_allclose(mixed, pack(want), rtol=0, atol=2e-6)
    np.testing.assert_allclose(*vjp(pack(gradient)), pack(*to_parts), rtol=0, atol=2e-6)


# Bytes of vector memory in which all heads of a sample, half of them, or one pair fits.
@pytest.mark.parametrize(("memory", "programs"), [(15 * 2**20, 1), (210_000, 2), (160_000, 4)])
def test_kernels_equal_the_loop(monkeypatch, memory, programs):
    monkeypatch.setattr(attention_rows, "VECTOR_MEMORY", memory)
    sizes = dict(queries=9, tokens=9, heads=8, width=64)
    *parts, gradient = inputs(**sizes)
    packed, gradient = pack(*parts), pack(gradient)
    want, *to_parts = plain(*inputs(**sizes))
    mixed, normaliser = attention_rows.forward(packed, heads=8, interpret=True)
    np.testing.assert_allclose(mixed, pack(want), rtol=0, atol=4e-6)
    got = attention_rows.backward(packed, mixed, normaliser, gradient, interpret=True)
    np.testing.assert_allclose(got, pack(*to_parts), rtol=0, atol=1e-5)
    jaxpr = jax.make_jaxpr(functools.partial(attention_rows.forward, heads=8))(packed)
    assert jaxpr.eqns[0].params["grid_mapping"].grid == (2, programs)


@pytest.mark.parametrize(
    ("size", "supported"), [("ti", False), ("s", True), ("b", True), ("l", True), ("g", False)]
)
def test_kernels_support_encoders_with_an_even_number_of_heads_of_width_64(size, supported):
    shape = {name: uni3d.SIZES[size][name] for name in ("dim", "heads")}
    assert attention_rows.supports(**shape, tokens=513, itemsize=2) == supported


def lowered_for_tpu(implementation, *, heads=2, width=64, tokens=9):
    packed = jax.ShapeDtypeStruct((2, tokens, 3 * heads * width), jnp.float32)

    def total(packed):
        return jnp.sum(attention.self_attention(packed, heads, implementation))

    gradient = jax.grad(total)
    return jax.jit(gradient).trace(packed).lower(lowering_platforms=("tpu",)).as_text()


@pytest.mark.parametrize(
    ("implementation", "heads", "kernels"),
    [("auto", 2, 2), ("pallas", 2, 2), ("xla", 2, 0), ("auto", 3, 0)],
)
def test_kernels_run_on_a_tpu_if_they_support_the_sizes(implementation, heads, kernels):
    assert lowered_for_tpu(implementation, heads=heads).count("@tpu_custom_call") == kernels


def test_kernels_with_few_heads_per_program_are_lowered_for_a_tpu(monkeypatch):
    monkeypatch.setattr(attention_rows, "VECTOR_MEMORY", 110_000)
    assert lowered_for_tpu("pallas", heads=4).count("@tpu_custom_call") == 2


@pytest.mark.parametrize("sizes", [{"heads": 3}, {"width": 32}, {"tokens": 2000}], ids=str)
def test_pallas_is_an_error_if_the_kernels_do_not_support_the_sizes(sizes):
    with pytest.raises(ValueError, match="'pallas'.*'heads': .*Use 'auto'"):
        lowered_for_tpu("pallas", **sizes)


def test_large_scores_do_not_overflow():
    query, key, value, gradient = inputs()
    mixed, vjp = jax.vjp(attention.head_by_head, 300 * query, 300 * key, value)
    assert all(np.isfinite(x).all() for x in (mixed, *vjp(gradient)))


def test_bfloat16_inputs_give_bfloat16_results_that_are_close():
    query, key, value, gradient = (jnp.asarray(x, jnp.bfloat16) for x in inputs())
    mixed, vjp = jax.vjp(attention.head_by_head, query, key, value)
    for got, want in zip((mixed, *vjp(gradient)), plain(*inputs()), strict=True):
        assert got.dtype == jnp.bfloat16
        assert np.linalg.norm(got.astype(np.float32) - want) < 0.02 * np.linalg.norm(want)


def test_scores_of_all_heads_are_never_stored():
    query = jax.ShapeDtypeStruct((4, 64, 8, 16), jnp.float32)

    def total(query, key, value):
        return jnp.sum(attention.head_by_head(query, key, value) ** 2)

    compiled = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(query, query, query).compile()
    scores = 4 * 8 * 64 * 64 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < 2.5 * scores
    library = jax.jit(
        jax.grad(lambda *x: jnp.sum(jax.nn.dot_product_attention(*x) ** 2), argnums=(0, 1, 2))
    )
    plain_bytes = library.lower(query, query, query).compile().memory_analysis()
    assert plain_bytes.temp_size_in_bytes > compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(("platform", "loops"), [("cpu", True), ("tpu", False)])
def test_implementation_depends_on_the_target_platform(platform, loops):
    """The compiling machine does not matter: a CPU compiles for TPUs."""
    query = jax.ShapeDtypeStruct((2, 7, 3, 5), jnp.float32)
    gradient = jax.grad(lambda *x: jnp.sum(attention.attention(*x)), argnums=(0, 1, 2))
    lowered = jax.jit(gradient).trace(query, query, query).lower(lowering_platforms=(platform,))
    assert ("stablehlo.while" in lowered.as_text()) == loops
