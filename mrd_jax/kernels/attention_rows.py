# SPDX-License-Identifier: Apache-2.0
"""Pallas TPU kernels for self-attention of short sequences: whole rows of scores in vector memory.

One program computes as many heads of one sample as fit. It reads their columns of the packed
queries, keys and values in the layout of the projection's output; scores never reach main memory,
and the backward pass recomputes them. Heads are 64 wide, so two share the 128 lanes of a register:
the lanes of the other head are masked rather than moved, which costs a matrix unit nothing. In the
product of weights and values the masked half holds ones, and so returns the sums of the weights.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

# Width of a head, and lanes of a register, which hold a pair of heads.
WIDTH, LANES = 64, 128
# Bytes of vector memory that a program may use; the smallest TPU generations have 16 MiB.
VECTOR_MEMORY = 15 * 2**20


def supports(*, dim: int, heads: int, tokens: int, itemsize: int) -> bool:
    """Returns whether the kernels support these sizes; `itemsize` is in bytes."""
    return dim == heads * WIDTH and _columns(dim, tokens=tokens, itemsize=itemsize) > 0


def forward(
    packed: jax.Array, *, heads: int, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Computes attention and the normaliser of each softmax.

    Args:
      packed: [batch, tokens, 3 * dim], queries, keys and values.
      heads: number of heads.
      interpret: run as ordinary JAX, on any device.

    Returns:
      [batch, tokens, dim] in the dtype of `packed`, and float32 [batch, heads, tokens], the
      log-sum-exp of each row of scores.
    """
    batch, tokens, width = packed.shape
    blocks = _blocks(packed)
    results = (
        jax.ShapeDtypeStruct((batch, tokens, width // 3), packed.dtype),
        jax.ShapeDtypeStruct(blocks.shape, jnp.float32),
    )
    mixed, normaliser = _call(
        _forward_kernel,
        [packed] * 3,
        results,
        grid=blocks.shape[:2],
        in_specs=blocks.parts,
        out_specs=(blocks.parts[0], blocks.normaliser),
        products=2,
        interpret=interpret,
    )
    return mixed, normaliser.reshape(batch, heads, tokens)


def backward(
    packed: jax.Array,
    mixed: jax.Array,
    normaliser: jax.Array,
    gradient: jax.Array,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Computes the gradient with respect to `packed`.

    Args:
      packed: input of `forward`.
      mixed: first output of `forward`.
      normaliser: second output of `forward`.
      gradient: [batch, tokens, dim], gradient with respect to `mixed`.
      interpret: run as ordinary JAX, on any device.

    Returns:
      [batch, tokens, 3 * dim], in the dtype of `packed`.
    """
    blocks = _blocks(packed)
    own = blocks.parts[0]
    (to_packed,) = _call(
        _backward_kernel,
        [*[packed] * 3, mixed, normaliser.reshape(blocks.shape), gradient],
        [jax.ShapeDtypeStruct(packed.shape, packed.dtype)],
        grid=blocks.shape[:2],
        in_specs=(*blocks.parts, own, blocks.normaliser, own),
        out_specs=(blocks.rows,),
        products=5,
        interpret=interpret,
    )
    return to_packed


def _columns(dim: int, *, tokens: int, itemsize: int) -> int:
    """Returns the number of query columns per program; 0 if not even a pair of heads fits."""
    for programs in range(1, dim // LANES + 1):
        columns = dim // programs
        # Memory of the backward pass: columns of five arrays and whole rows of a sixth, twice,
        # since the next program's are prefetched; and four float32 matrices of scores.
        memory = 2 * tokens * (5 * columns + 3 * dim) * itemsize + 4 * 4 * tokens * tokens
        if dim % (programs * LANES) == 0 and memory <= VECTOR_MEMORY:
            return columns
    return 0


class _Blocks(NamedTuple):
    """Block specifications: the division of the arrays among the programs of a sample.

    Attributes:
      shape: (batch, programs per sample, heads per program, tokens), the shape of the normalisers.
      parts: columns of queries, of keys and of values in packed rows; the first also fits rows
        that are not packed.
      normaliser: normalisers of the program's heads.
      rows: whole packed rows, to which the programs of a sample add their columns in turn.
    """

    shape: tuple[int, int, int, int]
    parts: Sequence[pl.BlockSpec]
    normaliser: pl.BlockSpec
    rows: pl.BlockSpec


def _blocks(packed: jax.Array) -> _Blocks:
    batch, tokens, width = packed.shape
    columns = _columns(width // 3, tokens=tokens, itemsize=packed.dtype.itemsize)
    programs, heads = width // 3 // columns, columns // WIDTH

    def part(number):
        def index_map(sample, program):
            return sample, 0, number * programs + program

        return pl.BlockSpec((1, tokens, columns), index_map)

    return _Blocks(
        (batch, programs, heads, tokens),
        [part(number) for number in range(3)],
        pl.BlockSpec((1, 1, heads, tokens), lambda sample, program: (sample, program, 0, 0)),
        pl.BlockSpec((1, tokens, width), lambda sample, program: (sample, 0, 0)),
    )


def _forward_kernel(query, key, value, mixed, normaliser):
    for pair in range(mixed.shape[2] // LANES):
        at = slice(pair * LANES, (pair + 1) * LANES)
        halves = []
        for half in range(2):
            own = _own_lanes(half)
            scaled = _keep(query[0, :, at], own, scale=WIDTH**-0.5)
            scores = _product(scaled, key[0, :, at], (1, 1))
            maximum = jnp.max(scores, axis=1, keepdims=True)
            weights = jnp.exp(scores - maximum).astype(value.dtype)
            sums = _product(weights, _keep(value[0, :, at], own, fill=1.0), (1, 0))
            total = sums[:, WIDTH : WIDTH + 1] if half == 0 else sums[:, :1]
            halves.append(sums / total)
            log_sum = jnp.broadcast_to(maximum + jnp.log(total), (total.shape[0], 8))
            normaliser[0, 0, pl.ds(2 * pair + half, 1), :] = log_sum.T[:1]
        mixed[0, :, at] = _merge(halves).astype(mixed.dtype)


def _backward_kernel(query, key, value, mixed, normaliser, gradient, to_packed):
    """Computes the gradient with scores as [keys, queries], so that normalisers are rows."""
    columns, dim, dtype = mixed.shape[2], to_packed.shape[2] // 3, to_packed.dtype
    first = pl.program_id(1) * columns if columns < dim else 0
    for pair in range(columns // LANES):
        at = slice(pair * LANES, (pair + 1) * LANES)
        to_mixed = gradient[0, :, at]
        # The gradient of the softmax subtracts the same number from a whole row of weights.
        common = to_mixed.astype(jnp.float32) * mixed[0, :, at].astype(jnp.float32)
        gradients = []
        for half in range(2):
            own = _own_lanes(half)
            scaled = _keep(query[0, :, at], own, scale=WIDTH**-0.5)
            scores = _product(key[0, :, at], scaled, (1, 1))
            weights = jnp.exp(scores - normaliser[0, 0, pl.ds(2 * pair + half, 1), :])
            to_weights = _product(value[0, :, at], _keep(to_mixed, own), (1, 1))
            shared = _product(jnp.broadcast_to(own, (8, LANES)), common, (1, 1))[:1]
            to_scores = (weights * (to_weights - shared)).astype(dtype)
            to_query = _product(to_scores, key[0, :, at], (0, 0)) * WIDTH**-0.5
            to_key = _product(to_scores, scaled, (1, 0))
            to_value = _product(weights.astype(dtype), to_mixed, (1, 0))
            gradients.append((to_query, to_key, to_value))
        for part, halves in enumerate(zip(*gradients, strict=True)):
            start = pl.multiple_of(first + part * dim + pair * LANES, LANES)
            to_packed[0, :, pl.ds(start, LANES)] = _merge(halves).astype(dtype)


def _call(
    kernel: Callable[..., None],
    arrays: Sequence[jax.Array],
    results: Sequence[jax.ShapeDtypeStruct],
    *,
    products: int,
    interpret: bool,
    **blocks: Any,
) -> Sequence[jax.Array]:
    """Runs a kernel and declares its cost.

    Args:
      kernel: kernel function.
      arrays: inputs; the first three are the same packed array.
      results: shapes and dtypes of the outputs.
      products: products per head of the size of its matrix of scores.
      interpret: run as ordinary JAX, on any device.
      **blocks: grid and block specifications for `pl.pallas_call`.
    """
    batch, tokens, width = arrays[0].shape
    # Operations of the matrix unit: rows are padded to full registers, and each head's product
    # takes the lanes of two.
    padded, heads = -(-tokens // LANES) * LANES, width // (3 * WIDTH)
    transferred: list[Any] = [arrays[0], *arrays[3:], *results]
    cost = pl.CostEstimate(
        flops=products * batch * heads * 2 * padded * padded * LANES,
        transcendentals=batch * heads * padded * padded,
        bytes_accessed=sum(x.size * jnp.dtype(x.dtype).itemsize for x in transferred),
    )
    return pl.pallas_call(
        kernel,
        out_shape=list(results),
        # Programs of one sample write to the same rows, one after another.
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        cost_estimate=cost,
        interpret=interpret,
        **blocks,
    )(*arrays)


def _own_lanes(half: int) -> jax.Array:
    """Returns float32 [1, lanes]: 1 in the lanes of one head of a pair, else 0."""
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1)
    own = lane < WIDTH if half == 0 else lane >= WIDTH
    return own.astype(jnp.float32)


def _keep(x: jax.Array, own: jax.Array, *, scale: float = 1.0, fill: float = 0.0) -> jax.Array:
    """Scales one head of a pair and writes `fill` into the lanes of the other."""
    kept = x.astype(jnp.float32) * (own * scale)
    return (kept + fill * (1.0 - own) if fill else kept).astype(x.dtype)


def _merge(halves: Sequence[jax.Array]) -> jax.Array:
    """Takes the first head's lanes from one array and the second's from another."""
    first, second = halves
    return jnp.where(_own_lanes(0) > 0, first, second)


def _product(left: jax.Array, right: jax.Array, contracted: tuple[int, int]) -> jax.Array:
    axes = ((contracted[:1], contracted[1:]), ((), ()))
    return jax.lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)
